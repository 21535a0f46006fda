"""TRL, imported without wandb: TRL imports it wherever it is installed, and a run's trackers have their own processes.

TRL asks whether wandb is there. While TRL is imported the answer is no, and its modules keep it; whoever asks
transformers later, such as a program that trains something of its own, hears the truth.
"""

import transformers

is_there, transformers.is_wandb_available = transformers.is_wandb_available, lambda: False
try:
    from trl import SFTConfig, SFTTrainer
finally:
    transformers.is_wandb_available = is_there

__all__ = ["SFTConfig", "SFTTrainer"]
