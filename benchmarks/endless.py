"""A copy of a model that never ends, for benchmarks that generate a fixed number of tokens.

Every rival has its own way to ignore an end token; selftaught has none, since no run needs one. If the weights of the
end token are zeros, its logit is 0, which is never the largest of thousands, so greedy generation never ends.
"""

from pathlib import Path

END = "<|never generated|>"


def without_end_token(model_dir: str, out_dir: Path) -> str:
    """Write a copy with one more token, whose weights are zeros, as the end token. Returns `out_dir`."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(model_dir)
    model = AutoModelForCausalLM.from_pretrained(model_dir, dtype="auto")
    vocabulary = model.get_input_embeddings().weight.shape[0]
    padding = tokenizer.pad_token or tokenizer.eos_token
    tokenizer.add_tokens([f"<|unused {i}|>" for i in range(max(0, vocabulary - len(tokenizer)))])
    tokenizer.add_special_tokens({"eos_token": END, "pad_token": padding})
    assert tokenizer.eos_token_id == vocabulary
    model.resize_token_embeddings(vocabulary + 1, mean_resizing=False)
    with torch.no_grad():
        for layer in (model.get_input_embeddings(), model.get_output_embeddings()):
            layer.weight[vocabulary].zero_()
    model.config.get_text_config().eos_token_id = model.config.eos_token_id = vocabulary
    model.generation_config.eos_token_id = vocabulary
    model.save_pretrained(out_dir)
    tokenizer.save_pretrained(out_dir)
    return str(out_dir)
