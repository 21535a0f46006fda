"""How much memory a training and a generation need at their peak, from the model's shape and the settings. Pure.

Counted is what stays resident: anonymous memory of the process on a CPU, allocated memory on a GPU. The terms follow
what autograd keeps for the backward pass of each layer; docs/memory.md compares them with measurements.

Letters: N tokens of a micro-batch, n loss tokens of it, P parameters, V vocabulary, s bytes of a number.
"""

from dataclasses import dataclass, replace

from selftaught.machine.devices import Device, NumberType
from selftaught.models.shape import Shape

BYTES: dict[NumberType, int] = {"float32": 4, "bfloat16": 2}
LIBRARIES = {"training": 330 << 20, "sampling": 310 << 20}
"""Python, torch and the other libraries with what they allocate for themselves, measured on a CPU."""
TOKENIZER_BYTES = 600
"""Of the tokenizer for each token of the vocabulary."""
SCATTERED = 0.55
"""What glibc cannot use again among activations, as a share of them: holes between blocks that stay. An aligned block
does not fit into the hole that one of the same size has left."""
SCATTERED_BESIDE_ADAPTERS = 0.43
"""The same for a training with adapters; of five measured ones, between 0.19 and 0.82."""
GPU_WORKSPACE = 64 << 20
"""What the matrix products of a GPU allocate for themselves."""
LONGEST_SQUARE = 1024
"""Tokens of a row up to which attention keeps its weights on a CPU (training/packed_attention.py)."""
PIECE_BYTES = 256 << 20
"""Of the logits of one piece, and of their gradient, where they are computed in pieces."""
BYTES_4BIT = 0.52
"""Of a weight in 4 bits (NF4), with its share of the scales of each block of 64, which have 8 bits."""
MERGED_COPIES = 3
"""Of a linear layer in float32, while adapters are merged into it (models/merging.py)."""
SCORED_ROWS = 8
"""Of the probe that proves the weights (stages/train.py)."""
SCORED_LOGITS = 1 << 26
"""Logits of one batch when log-probabilities are measured (models/scoring.py)."""


@dataclass(frozen=True, slots=True)
class Part:
    name: str
    bytes: int
    is_mapped: bool = False
    """Whether it is read from files in place: it should be resident, but is not anonymous memory."""


@dataclass(frozen=True, slots=True)
class Forecast:
    """Of one phase at its peak."""

    what: str
    """`training` or `sampling`."""
    parts: tuple[Part, ...]

    @property
    def bytes(self) -> int:
        """Anonymous memory, or memory of the GPU."""
        return sum(part.bytes for part in self.parts if not part.is_mapped)

    @property
    def needed(self) -> int:
        """The same with what is mapped: without room for it, everything is read from disk again and again."""
        return sum(part.bytes for part in self.parts)


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingWork:
    """What decides the memory of a training, beside the model's shape."""

    dtype: NumberType
    device: Device
    tokens: int
    """N, padding included: of the largest micro-batch."""
    loss_tokens: int
    longest: int
    """Tokens of the longest row."""
    accumulates: bool
    """Whether a step has several micro-batches."""
    lora_rank: int | None = None
    frozen_4bit: bool = False
    """Whether the linear layers beside adapters are in 4 bits."""
    recomputes: bool = False
    """Activation checkpointing: a layer keeps its input, and is run again in the backward pass."""
    in_pieces: bool = False
    """Whether logits are computed for a few loss tokens at a time."""
    workers: int = 1
    """Processes, this one among them."""
    ranks: int = 1
    """Processes with all that one has, in the same memory; those on several GPUs are one each."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SamplingWork:
    """What decides the memory of a generation with the engine `local`, beside the model's shape."""

    dtype: NumberType
    device: Device
    slots: int
    shared: int
    """Tokens that all prompts begin with."""
    length: int
    """Tokens of the longest prompt after these, and of its completion."""
    cache_bytes: int
    prefill_tokens: int
    is_greedy: bool
    packs: bool
    """Whether weights are copied into the layout of the CPU's products."""
    scored: int = 0
    """Tokens whose log-probabilities are measured at a time, before a training."""
    workers: int = 1


def forecast_training(shape: Shape, work: TrainingWork) -> Forecast:
    """The peak of fine-tuning with AdamW, in all processes of the run together."""
    s, exact = BYTES[work.dtype], 4
    trained = shape.parameters if work.lora_rank is None else work.lora_rank * shape.linear_widths
    is_mapped = work.device == "cpu" and work.lora_rank is not None and is_stored_as(shape, work.dtype)
    masters = exact * trained if work.lora_rank is None and s != exact else 0
    gradients = exact * trained
    activations, logits = activation_bytes(shape, work), logit_bytes(shape, work)
    passes = _passes(shape, work, gradients, activations, logits)
    parts = [
        Part("weights", s * shape.parameters - (_saved_by_4bit(shape, s) if work.frozen_4bit else 0), is_mapped),
        Part("adapters", exact * trained if work.lora_rank else 0),
        Part("float32 masters", masters),
        Part("AdamW moments", 2 * exact * trained),
        *passes,
        _libraries(shape, "training", work.device),
    ]
    if work.workers > 1:
        # Trained weights and gradients are in shared memory, which is not anonymous; each has a gradient of its own.
        of_one = s * trained + activations + logits + (s * shape.parameters if work.lora_rank else 0)
        of_one += int(_scattered(work) * activations) + _libraries(shape, "training", work.device).bytes
        parts.append(Part("workers", (work.workers - 1) * of_one))
    training = Forecast("training", tuple(part for part in parts if part.bytes))
    if work.ranks > 1:
        training = replace(training, parts=(*training.parts, Part("other ranks", (work.ranks - 1) * training.bytes)))
    return max(training, _merging(shape, work), key=lambda forecast: forecast.needed)


def is_stored_as(shape: Shape, dtype: NumberType) -> bool:
    """Whether the files have this number type, so that weights are used where the files are mapped."""
    return round(shape.file_bytes / shape.parameters) == BYTES[dtype]


def _libraries(shape: Shape, what: str, device: Device) -> Part:
    number = LIBRARIES[what] + TOKENIZER_BYTES * shape.vocabulary
    return Part("libraries", GPU_WORKSPACE if device == "cuda" else number)


def _scattered(work: TrainingWork) -> float:
    """As a share of the activations."""
    if work.device != "cpu":
        return 0.0
    return SCATTERED if work.lora_rank is None else SCATTERED_BESIDE_ADAPTERS


def _passes(shape: Shape, work: TrainingWork, gradients: int, activations: int, logits: int) -> list[Part]:
    """Gradients, activations and logits at the moment of a step when they take most."""
    s = BYTES[work.dtype]
    table = 0 if work.lora_rank else s * shape.vocabulary * shape.hidden
    # A tied table gets a gradient as output layer, at the start of the backward pass, and one as embedding, at its end;
    # then there is their sum, too.
    at_last = table * (3 if shape.tied else 1)
    has_buffers = work.accumulates or (s != 4 and work.lora_rank is None)  # masters keep theirs from step to step
    at_start = [
        Part("gradients", gradients if has_buffers else 0),
        Part("activations", activations),
        Part("logits", max(logits, logits // 2 + table)),
        Part("scattered by the allocator", int(_scattered(work) * activations)),
    ]
    at_end = [Part("gradients", gradients + (at_last if has_buffers else at_last - table))]
    return max(at_start, at_end, key=lambda parts: sum(part.bytes for part in parts))


def _saved_by_4bit(shape: Shape, s: int) -> int:
    """Embedding and output layer stay as they are."""
    return int((s - BYTES_4BIT) * (shape.parameters - _tables(shape)))


def _tables(shape: Shape) -> int:
    """Numbers of the embedding and of the output layer, which get no adapters."""
    return shape.vocabulary * shape.hidden * (1 if shape.tied else 2)


def _merging(shape: Shape, work: TrainingWork) -> Forecast:
    """The end of a training with adapters: the model is loaded again, its linear layers get new memory one by one as
    they are merged, and it is measured in float32, for which one layer after the other is converted."""
    if work.lora_rank is None:
        return Forecast("training", ())
    s, exact = BYTES[work.dtype], 4
    tables = _tables(shape)
    layer = shape.hidden * max(shape.inner, shape.queries)
    merging = MERGED_COPIES * exact * layer if work.device == "cpu" else 0
    scored = min(SCORED_LOGITS, SCORED_ROWS * work.longest * shape.vocabulary)
    converting = (exact * shape.vocabulary * shape.hidden if s != exact else 0) + exact * scored
    return Forecast(
        "training",
        (
            Part("weights with adapters merged", s * (shape.parameters - tables)),
            Part("other weights", s * tables, work.device == "cpu" and is_stored_as(shape, work.dtype)),
            Part("merging and measuring", max(merging, converting)),
            _libraries(shape, "training", work.device),
        ),
    )


def activation_bytes(shape: Shape, work: TrainingWork) -> int:
    """What the backward pass of one micro-batch needs of its forward pass, without the logits."""
    s = BYTES[work.dtype]
    layer = layer_bytes_per_token(shape, work) * work.tokens
    around = work.tokens * (s * shape.hidden + _norm_bytes(shape, work, is_kept=True))
    # Gradients of a feed-forward layer while they are computed; with adapters those of float32 copies besides.
    passing = work.tokens * 3 * shape.inner * (s + (4 if work.lora_rank is not None and s != 4 else 0))
    if not work.recomputes:
        return shape.layers * layer + around + passing
    return shape.layers * work.tokens * s * shape.hidden + layer + around + passing


def layer_bytes_per_token(shape: Shape, work: TrainingWork) -> int:
    """What one layer keeps of one token for its backward pass."""
    s, h, q, k = BYTES[work.dtype], shape.hidden, shape.queries, shape.keys
    copies = work.lora_rank is not None and s != 4  # adapters compute in float32, on copies of their inputs
    number = 2 * _norm_bytes(shape, work, is_kept=not copies)
    number += shape.norms_after * _norm_bytes(shape, work, is_kept=False)
    if shape.head_norms:
        number += _norm_bytes(shape, work, is_kept=False) * (q + k) // h
    packed = is_packed(shape, work.longest)
    if packed and work.device == "cpu" and work.longest <= LONGEST_SQUARE:
        number += s * (q + 2 * k) + s * shape.heads * work.longest
    elif packed:
        number += s * (2 * q + 2 * k)
    else:
        # Keys and values are repeated for every query head, a single one by a stride of 0; each layer has a mask.
        repeated = k if k * shape.heads == q else q
        number += s * (q + 2 * repeated + work.longest) + (s * q if copies else 0)
    number += (4 if copies else s) * q
    if copies:
        number += 4 * h * (5 if shape.gated else 4)
    if work.lora_rank:
        number += 4 * work.lora_rank * (7 if shape.gated else 6)
    number += s * shape.inner * (3 if shape.gated else 1) + (4 if copies else s) * shape.inner
    return number


def is_packed(shape: Shape, longest: int) -> bool:
    """Whether rows of at most `longest` tokens are packed and not padded, as far as the config says."""
    return shape.exchangeable and (shape.window is None or shape.window >= longest)


def _norm_bytes(shape: Shape, work: TrainingWork, *, is_kept: bool) -> int:
    """What a norm over the hidden width keeps of one token; with its result, if a linear layer needs that as input."""
    s, trains = BYTES[work.dtype], work.lora_rank is None
    kept = s if is_kept else 0
    if shape.norm == "layer":
        return shape.hidden * (s + kept)
    scaled = (4 if shape.norm == "rms-in-float32" else s) if trains else 0
    return shape.hidden * (4 + scaled + kept)


def logit_bytes(shape: Shape, work: TrainingWork) -> int:
    """Logits of the loss tokens and their gradient."""
    whole = 2 * BYTES[work.dtype] * work.loss_tokens * shape.vocabulary
    return min(whole, 2 * PIECE_BYTES) if work.in_pieces else whole


def forecast_sampling(shape: Shape, work: SamplingWork) -> Forecast:
    """The peak of generating completions with the engine `local`, in all processes of the run together."""
    s = BYTES[work.dtype]
    of_token = 2 * shape.layers * shape.keys * s
    slots = max(1, min(work.slots, work.cache_bytes // max(1, of_token * work.length)))
    table = s * shape.vocabulary * shape.hidden
    packed = shape.parameters - shape.vocabulary * shape.hidden if work.packs else 0
    loaded = s * (shape.parameters - packed)
    prefill = max(work.shared, min(work.prefill_tokens, slots * work.length))
    passing = prefill * (s * (3 * shape.hidden + 2 * shape.queries + 3 * shape.inner) + 4 * 2 * shape.hidden)
    logits = slots * shape.vocabulary * (s + (4 if work.is_greedy else 12))
    scored = min(SCORED_LOGITS, work.scored * shape.vocabulary) * (s + 4)
    parts: tuple[Part, ...] = (
        Part("weights", loaded, work.device == "cpu" and is_stored_as(shape, work.dtype)),
        Part("weights as the products take them", s * packed + (table if work.packs and shape.tied else 0)),
        Part("keys and values", of_token * (slots * work.length + work.shared)),
        Part("activations", passing),
        Part("logits", max(logits, scored)),
        _libraries(shape, "sampling", work.device),
    )
    if work.workers > 1:
        of_one = sum(part.bytes for part in parts)
        parts = (*parts, Part("workers", (work.workers - 1) * of_one))
    return Forecast("sampling", parts)


def affordable_tokens(shape: Shape, work: TrainingWork, *, activations: int) -> int:
    """Tokens of a micro-batch whose activations and logits, if all tokens carried loss, take about so many bytes."""
    one = replace(work, tokens=1, loss_tokens=1, in_pieces=False)
    return activations // max(1, activation_bytes(shape, one) + logit_bytes(shape, one))
