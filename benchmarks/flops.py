"""How many floating-point operations a workload needs, by formula.

Only what the result needs is counted, whoever computes it: the shared prefix once, logits only where a token is
generated or learned, attention only to what a token may see. So FLOP/s compares rivals on one scale; a rival that also
computes what is not needed has a lower rate. A multiply and an add are two operations. Norms, rotary
embeddings, activations and softmax are not counted (below one percent for the models used here).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

GENERATION_FORMULA = (
    "2*W*(P + sum(p_i - P + n_i - 1)) + 2*E*sum(n_i) + 4*L*D*(contexts), where W: weights of the layers' matrices, "
    "E: weights of the output matrix, L: layers, D: query heads * head size, P: shared prefix tokens (once per group), "
    "p_i: prompt tokens, n_i: generated tokens of request i; contexts: for every token computed, the tokens it sees"
)
TRAINING_FORMULA = (
    "3*(2*W*sum(t_i) + 2*E*sum(l_i) + 4*L*D*sum(t_i*(t_i+1)/2)), where W, E, L, D as for generation, t_i: tokens of "
    "row i, l_i: its tokens with loss; 3: forward once, backward twice"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelShape:
    """The sizes of a dense decoder model that the formulas need."""

    layers: int
    attention_width: int
    """Query heads times head size."""
    layer_weights: int
    """Numbers in the weight matrices of all layers; without embeddings, norms and biases."""
    head_weights: int
    """Numbers in the output matrix: vocabulary times width."""


def shape_of(model_dir: str) -> ModelShape:
    """The shape of the dense model in a folder, from its configuration alone; no weights are read."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM
    from transformers.pytorch_utils import Conv1D

    config = AutoConfig.from_pretrained(model_dir)
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config)
    head = model.get_output_embeddings()
    matrices: list[Any] = [m for m in model.modules() if isinstance(m, torch.nn.Linear | Conv1D) and m is not head]
    text = config.get_text_config()
    head_dim = getattr(text, "head_dim", None) or text.hidden_size // text.num_attention_heads
    return ModelShape(
        layers=text.num_hidden_layers,
        attention_width=text.num_attention_heads * head_dim,
        layer_weights=sum(m.weight.numel() for m in matrices),
        head_weights=head.weight.numel(),
    )


def contexts(first: int, last: int) -> int:
    """Sum of the numbers of tokens seen by the tokens at positions first..last-1 (from 0), each seeing itself."""
    return (last * (last + 1) - first * (first + 1)) // 2


def generation_flops(
    shape: ModelShape, *, shared_prefix: int, prompt_tokens: Sequence[int], generated_tokens: Sequence[int]
) -> int:
    """Operations for one group of requests that share their first tokens. GENERATION_FORMULA says how.

    `shared_prefix` is a number of tokens, at most the shortest prompt; no pass is run for the last generated token.
    """
    run, seen, generated = shared_prefix, contexts(0, shared_prefix), 0
    for prompt, new in zip(prompt_tokens, generated_tokens, strict=True):
        if new:
            run += prompt - shared_prefix + new - 1
            seen += contexts(shared_prefix, prompt + new - 1)
            generated += new
    return 2 * shape.layer_weights * run + 2 * shape.head_weights * generated + _attention(shape, seen)


def training_flops(shape: ModelShape, *, row_tokens: Sequence[int], loss_tokens: Sequence[int]) -> int:
    """Operations for one pass over rows, forward and backward, without recomputation. TRAINING_FORMULA says how."""
    seen = sum(contexts(0, tokens) for tokens in row_tokens)
    forward = 2 * shape.layer_weights * sum(row_tokens) + 2 * shape.head_weights * sum(loss_tokens)
    return 3 * (forward + _attention(shape, seen))


def shared_prefix(prompts: Sequence[Sequence[int]]) -> int:
    """Number of tokens that all prompts begin with; at least one token of each prompt does not count."""
    if len(prompts) < 2:
        return 0
    first = prompts[0]
    limit = min(len(prompt) for prompt in prompts) - 1
    return next((i for i in range(limit) if any(prompt[i] != first[i] for prompt in prompts)), limit)


def _attention(shape: ModelShape, seen: int) -> int:
    """Scores and weighted values: two products of 2 * attention_width operations per token seen, in every layer."""
    return 4 * shape.layers * shape.attention_width * seen
