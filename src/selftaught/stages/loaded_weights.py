"""Prove that an engine which loads weights by itself has loaded those of a checkpoint (docs/design.md, section 6)."""

from pathlib import Path

from selftaught.engines.engine import Engine
from selftaught.models.weights import weights_sha256
from selftaught.records.errors import RefusedError
from selftaught.records.samples import Request
from selftaught.records.training import Checkpoint
from selftaught.stages.weight_proof import NOISE, CannotTell, serves_old_weights


def refuse_other_weights(engine: Engine, checkpoint: Checkpoint, folder: Path, *, noise: float) -> None:
    """Raise RefusedError unless the engine, opened on `folder`, is nearer to a checkpoint than to the model before it.

    Where the two cannot be told apart, the files in the folder are compared.
    """
    try:
        reason = why_not(engine, checkpoint, noise=noise)
    except CannotTell:
        on_disk = weights_sha256(folder)
        same = on_disk == checkpoint.sha256
        reason = None if same else f"the weight files hash to {on_disk[:12]}, not {checkpoint.sha256[:12]}"
    if reason is None:
        return
    what = f"iteration {checkpoint.iteration}: the engine does not serve the new weights: {reason}"
    if noise > NOISE:
        raise RefusedError(
            f"{what}; bfloat16 may have rounded a small update away: start a new run with model.dtype=float32"
        )
    raise RefusedError(f"{what}; restart the engine")


def why_not(engine: Engine, checkpoint: Checkpoint, *, noise: float, wanted_is_new: bool = True) -> str | None:
    """The reason if the engine is not nearer to the wanted one of the two models of a checkpoint's probe, else None.

    The wanted one is the checkpoint, or with `wanted_is_new` False the model before it. Raises CannotTell.
    """
    requests = [Request(prompt=row.prompt, seed=0) for row in checkpoint.probe]
    scores = engine.score(requests, [row.completion for row in checkpoint.probe])
    new, old = checkpoint.new_logprobs, [row.old_logprobs for row in checkpoint.probe]
    wanted, other = (new, old) if wanted_is_new else (old, new)
    return serves_old_weights([s.logprobs for s in scores], new=wanted, old=other, noise=noise)
