"""TRL's SFTTrainer on ready micro-batches: packed rows, loss where labels are, float32 masters, noise."""

from typing import Any

import torch
from trl import SFTTrainer

from selftaught.training.batches import Batches
from selftaught.training.masters import Masters
from selftaught.training.micro_batches import Collate, Features, loss_of
from selftaught.training.noise import NoiseEstimate, estimate_noise
from selftaught.training.worker_gradients import RemoteMicroBatch, WorkerGradients


def collate_first(collate: Collate) -> Collate:
    """Collate the first of several micro-batches; the others are for the workers, which collate them there."""

    def collate_first(features: Features) -> dict[str, Any]:
        return {**collate(features[:1]), "parts": [RemoteMicroBatch(feature) for feature in features[1:]]}

    return collate_first


NOISE_EVERY = 4
"""Steps from one estimate of the gradient noise to the next: the norms of the parts' gradients cost 7 % of a step."""


class MicroBatchTrainer(SFTTrainer):
    """One micro-batch is one element of the data set. An input is one of them, or with workers one for every process;
    `gradient_accumulation_steps` inputs are one step.

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
        workers: WorkerGradients | None = None,
        **arguments: Any,
    ) -> None:
        self.batches, self.notes, self.plain_attention = batches, notes, plain_attention
        self._compute, self._workers = compute, workers
        self._asked_at = -1
        self._squared_norms: list[float] = []
        self._weights: list[int] = []
        self.noise: NoiseEstimate | None = None
        """Of the last step; None where it was not estimated: a step of one micro-batch, or not every fourth."""
        super().__init__(**arguments)

    def create_optimizer(self, model: Any = None) -> torch.optim.Optimizer:
        optimizer: torch.optim.Optimizer = super().create_optimizer(model)
        self.masters = Masters(self.model, compute=self._compute)
        self.masters.use_in(optimizer)
        return optimizer

    def _get_num_items_in_batch(self, batch_samples: list[Any], device: torch.device) -> torch.Tensor:
        here = sum(len(batch["targets"]) for batch in batch_samples)
        elsewhere = sum(part.num_targets for batch in batch_samples for part in batch.get("parts", ()))
        return torch.tensor(float(here + elsewhere), device=device)

    def compute_loss(
        self, model: Any, inputs: dict[str, Any], return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> torch.Tensor:
        self._weights.append(len(inputs["targets"]))
        share = 1.0 / float(num_items_in_batch)
        return loss_of(model, inputs, share, router_weight=self._router_weight())

    def _router_weight(self) -> float:
        return self.router_aux_loss_coef / self.batches.per_step if self.aux_loss_enabled else 0.0

    def training_step(self, model: Any, inputs: dict[str, Any], num_items_in_batch: Any = None) -> torch.Tensor:
        step = self.state.global_step
        self.masters.measuring = self.batches.per_step > 1 and step % NOISE_EVERY == 0
        parts = inputs.pop("parts", ())
        if self._workers is not None:
            share = 1.0 / float(num_items_in_batch)
            self._workers.ask(
                self.masters.trained, parts, share, router_weight=self._router_weight(), is_new=step != self._asked_at
            )
            self._asked_at = step
        loss: torch.Tensor = super().training_step(model, inputs, num_items_in_batch)
        self._measure()
        for part in self._workers.answers(self.masters.trained) if self._workers is not None else ():
            self.masters.add(part.gradients)
            self._weights.append(part.num_targets)
            self._measure()
            loss = loss + part.loss
        return loss

    def _measure(self) -> None:
        if self.masters.measuring:
            self._squared_norms.append(self.masters.take_squared_norm())

    def _clip_grad_norm(self, model: Any) -> torch.Tensor:
        norm = self.masters.clip(self.args.max_grad_norm)
        measured = self.masters.measuring
        self.noise = estimate_noise(self._squared_norms, self._weights, float(norm) ** 2) if measured else None
        self._squared_norms, self._weights = [], []
        return norm

    def floating_point_ops(self, inputs: dict[str, Any]) -> int:
        return 0  # TRL's count is not used, and it would count without knowing of the packing
