"""TRL's SFTTrainer on prepared micro-batches, with float32 masters, workers, ranks and the gradient noise."""

from collections.abc import Sequence
from typing import Any

import torch

from selftaught.machine.memory import Peak, return_freed_memory
from selftaught.training.batches import Batches
from selftaught.training.masters import Masters
from selftaught.training.micro_batches import Collate, Features, loss_of
from selftaught.training.noise import NoiseEstimate, estimate_noise
from selftaught.training.ranks import Ranks
from selftaught.training.trl import SFTTrainer
from selftaught.training.worker_gradients import RemoteMicroBatch, WorkerGradients


def collate_first(collate: Collate) -> Collate:
    """Collate the first of several micro-batches here; the workers collate the others."""

    def collate_first(features: Features) -> dict[str, Any]:
        return {**collate(features[:1]), "remote": [RemoteMicroBatch(feature) for feature in features[1:]]}

    return collate_first


NOISE_EVERY = 4
"""Steps from one estimate of the gradient noise to the next, since measuring the norms takes 7 % of a step."""


WORTH_RETURNING = 1 << 30
"""Bytes of a training from which what a micro-batch leaves is given back. The next one's activations would not fit into
these holes, which grew to 1.4 times the activations; pages are new then, which would slow down a small model."""


class MicroBatchTrainer(SFTTrainer):
    """One micro-batch is one element of the data set. An input is one micro-batch, or one for each process if there are
    workers; `gradient_accumulation_steps` inputs are one step.

    With ranks, the data set holds the micro-batches of this one alone. The loss of a step is the mean over all its loss
    tokens, however they are split, and so are its norms.
    """

    loss_is_scaled_for_ga = True

    def __init__(
        self,
        *,
        compute: torch.dtype,
        batches: Batches,
        loss_tokens: Sequence[int],
        notes: tuple[str, ...],
        plain_attention: str,
        in_pieces: bool = False,
        workers: WorkerGradients | None = None,
        ranks: Ranks | None = None,
        **arguments: Any,
    ) -> None:
        """`loss_tokens` are those of each step, in all processes."""
        self.batches, self.notes, self.plain_attention = batches, notes, plain_attention
        self._compute, self._workers, self._in_pieces = compute, workers, in_pieces
        self._ranks, self._loss_tokens = ranks, loss_tokens
        self._started_step = -1
        self._losses: list[torch.Tensor] = []
        """Of this rank's micro-batches in a step."""
        self._peak_of_ranks: int | None = None
        self._squared_norms: list[float] = []
        self._weights: list[int] = []
        self.noise: NoiseEstimate | None = None
        """Of the last step; None where it was not estimated: in steps of one micro-batch and in three of four steps."""
        super().__init__(**arguments)
        for parameter in self.model.parameters():
            if parameter.requires_grad:  # TRL makes the adapters over 4-bit weights bfloat16
                parameter.data = parameter.data.float()
        self.peak = Peak(self.args.device.type, workers.pids if workers is not None else ())
        assert self.accelerator.num_processes == 1, "accelerate must not know of other ranks: it would wrap the model"

    @property
    def peak_bytes(self) -> int | None:
        """Most memory that was seen until now: of all processes on a CPU, of the fullest GPU."""
        return self.peak.bytes if self._ranks is None else self._peak_of_ranks

    def create_optimizer(self, model: Any = None) -> torch.optim.Optimizer:
        optimizer: torch.optim.Optimizer = super().create_optimizer(model)
        self.masters = Masters(self.model, compute=self._compute)
        self.masters.use_in(optimizer)
        return optimizer

    def _get_num_items_in_batch(self, batch_samples: list[Any], device: torch.device) -> torch.Tensor:
        return torch.tensor(float(self._loss_tokens[self.state.global_step]), device=device)

    def compute_loss(
        self, model: Any, inputs: dict[str, Any], return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> torch.Tensor:
        self._weights.append(len(inputs["targets"]))
        share = 1.0 / float(num_items_in_batch)
        loss = loss_of(model, inputs, share, router_weight=self._router_weight(), in_pieces=self._in_pieces)
        self.peak.look()  # activations are all there
        return loss

    def _router_weight(self) -> float:
        return self.router_aux_loss_coef / self.batches.per_step if self.aux_loss_enabled else 0.0

    def training_step(self, model: Any, inputs: dict[str, Any], num_items_in_batch: Any = None) -> torch.Tensor:
        step = self.state.global_step
        self.masters.measuring = self.batches.per_step > 1 and step % NOISE_EVERY == 0
        remote = inputs.pop("remote", ())
        if self._workers is not None:
            self._workers.start(
                self.masters.trained,
                remote,
                share=1.0 / float(num_items_in_batch),
                router_weight=self._router_weight(),
                weights_changed=step != self._started_step,
            )
            self._started_step = step
        loss: torch.Tensor = super().training_step(model, inputs, num_items_in_batch)
        if (self.peak.bytes or 0) > WORTH_RETURNING:
            return_freed_memory()
        self._record_norm()
        for result in self._workers.results(self.masters.trained) if self._workers is not None else ():
            self.masters.add(result.gradients)
            self._weights.append(result.num_targets)
            self._record_norm()
            loss = loss + result.loss
        return loss if self._ranks is None else self._of_all_ranks(loss, model, self._ranks)

    def _of_all_ranks(self, loss: torch.Tensor, model: Any, ranks: Ranks) -> torch.Tensor:
        """After this rank's last micro-batch of a step, sum gradients and losses over all ranks and learn what the
        others have measured; before that, nothing. What TRL adds up is then the loss of the whole step."""
        assert model is self.model, "a wrapped model (DDP) would reduce gradients that the masters have taken"
        self._losses.append(loss)
        if len(self._losses) < self.args.gradient_accumulation_steps:
            return torch.zeros_like(loss)
        self.masters.sum_over(ranks)
        self.peak.look()
        norms = self._squared_norms or [0.0] * len(self._losses)
        own = zip(torch.stack(self._losses).tolist(), self._weights, norms, strict=True)
        gathered = ranks.gather([float(self.peak.bytes or 0), *(value for values in own for value in values)])
        peaks = [int(values[0]) for values in gathered]
        self._peak_of_ranks = (max(peaks) if self.args.device.type == "cuda" else sum(peaks)) or None
        # In the order of the plan, which deals the micro-batches out to one rank after the other: as one process adds.
        of_step = [gathered[rank][i : i + 3] for i in range(1, len(gathered[0]), 3) for rank in range(ranks.size)]
        self._weights = [int(weight) for _, weight, _ in of_step]
        if self.masters.measuring:
            self._squared_norms = [squared for _, _, squared in of_step]
        self._losses = []
        total = torch.zeros_like(loss)
        for value, _, _ in of_step:
            total += value
        return total

    def _record_norm(self) -> None:
        if self.masters.measuring:
            self._squared_norms.append(self.masters.pop_squared_norm())

    def _clip_grad_norm(self, model: Any) -> torch.Tensor:
        self.peak.look()  # gradients are all there
        norm = self.masters.clip(self.args.max_grad_norm)
        measured = self.masters.measuring
        self.noise = estimate_noise(self._squared_norms, self._weights, float(norm) ** 2) if measured else None
        self._squared_norms, self._weights = [], []
        return norm

    def floating_point_ops(self, inputs: dict[str, Any]) -> int:
        return 0  # TRL would count as if rows were not packed, and nobody reads it
