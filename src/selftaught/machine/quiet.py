"""What the libraries would print beside a run's own lines: progress bars and notes. What matters is an error."""

import os
import warnings


def quieten_libraries() -> None:
    """Call before the libraries are imported, which is when they look; what the user's environment says stays."""
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    os.environ.setdefault("HF_DATASETS_DISABLE_PROGRESS_BARS", "1")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    # torch warns when it looks for a GPU on a machine without a driver; a run says by itself what it uses.
    warnings.filterwarnings("ignore", message=".*CUDA initialization.*")
