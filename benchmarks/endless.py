"""A copy of a model that cannot end, for benchmarks that draw a fixed number of tokens.

Every rival has its own way to ignore an end token, and the engine under test has none, as no run needs one. A model
whose end token has an id beyond its vocabulary treats all of them alike: it can never be drawn.
"""

import json
import shutil
from pathlib import Path

END = "<|never drawn|>"


def without_end_token(model_dir: str, out_dir: Path) -> str:
    """A folder with links to the same weights, whose tokenizer and settings name an end token that has no logit."""
    from transformers import AutoConfig, AutoTokenizer

    out_dir.mkdir()
    for path in Path(model_dir).iterdir():
        if path.suffix == ".safetensors":
            (out_dir / path.name).symlink_to(path.resolve())
        elif path.is_file():
            shutil.copyfile(path, out_dir / path.name)
    tokenizer = AutoTokenizer.from_pretrained(model_dir)
    vocabulary = AutoConfig.from_pretrained(model_dir).get_text_config().vocab_size
    padding = tokenizer.pad_token or tokenizer.eos_token
    tokenizer.add_tokens([f"<|unused {i}|>" for i in range(max(0, vocabulary - len(tokenizer)))])
    tokenizer.add_special_tokens({"eos_token": END, "pad_token": padding})
    assert tokenizer.eos_token_id >= vocabulary
    tokenizer.save_pretrained(out_dir)
    for name in ("config.json", "generation_config.json"):
        path = out_dir / name
        if path.exists():
            values = json.loads(path.read_text(encoding="utf-8"))
            path.write_text(json.dumps({**values, "eos_token_id": tokenizer.eos_token_id}), encoding="utf-8")
    return str(out_dir)
