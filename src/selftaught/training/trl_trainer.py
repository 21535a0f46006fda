"""TRL's SFTTrainer on prepared micro-batches, with float32 masters, workers and the gradient noise."""

from typing import Any

import torch

from selftaught.machine.memory import Peak, return_freed_memory
from selftaught.training.batches import Batches
from selftaught.training.masters import Masters
from selftaught.training.micro_batches import Collate, Features, loss_of
from selftaught.training.noise import NoiseEstimate, estimate_noise
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

    The loss of a step is the mean over all its loss tokens, however they are split.
    """

    loss_is_scaled_for_ga = True

    def __init__(
        self,
        *,
        compute: torch.dtype,
        batches: Batches,
        notes: tuple[str, ...],
        plain_attention: str,
        in_pieces: bool = False,
        workers: WorkerGradients | None = None,
        **arguments: Any,
    ) -> None:
        self.batches, self.notes, self.plain_attention = batches, notes, plain_attention
        self._compute, self._workers, self._in_pieces = compute, workers, in_pieces
        self._started_step = -1
        self._squared_norms: list[float] = []
        self._weights: list[int] = []
        self.noise: NoiseEstimate | None = None
        """Of the last step; None where it was not estimated: in steps of one micro-batch and in three of four steps."""
        super().__init__(**arguments)
        for parameter in self.model.parameters():
            if parameter.requires_grad:  # TRL makes the adapters over 4-bit weights bfloat16
                parameter.data = parameter.data.float()
        self.peak = Peak(self.args.device.type, workers.pids if workers is not None else ())

    def create_optimizer(self, model: Any = None) -> torch.optim.Optimizer:
        optimizer: torch.optim.Optimizer = super().create_optimizer(model)
        self.masters = Masters(self.model, compute=self._compute)
        self.masters.use_in(optimizer)
        return optimizer

    def _get_num_items_in_batch(self, batch_samples: list[Any], device: torch.device) -> torch.Tensor:
        here = sum(len(batch["targets"]) for batch in batch_samples)
        elsewhere = sum(remote.num_targets for batch in batch_samples for remote in batch.get("remote", ()))
        return torch.tensor(float(here + elsewhere), device=device)

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
        return loss

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
