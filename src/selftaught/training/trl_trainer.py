"""TRL's SFTTrainer on ready micro-batches: packed rows, loss where labels are, float32 masters, noise."""

from collections.abc import Sequence
from typing import Any

import torch
from torch.nn.utils.rnn import pad_sequence
from trl import SFTTrainer

from selftaught.tokens import IGNORED
from selftaught.training.batches import Batches
from selftaught.training.loss import weighted_loss
from selftaught.training.masters import Masters
from selftaught.training.noise import NoiseEstimate, estimate_noise
from selftaught.training.packed_attention import layout_of


def packed(features: Sequence[dict[str, list[int]]]) -> dict[str, Any]:
    """Collate one micro-batch as one line of N tokens: rows end to end, position ids from 0 in each, no mask."""
    (feature,) = features
    lengths, labels = feature["seq_lengths"], torch.tensor(feature["labels"])
    learned = (labels != IGNORED).nonzero()[:, 0]
    return {
        "input_ids": torch.tensor([feature["input_ids"]]),  # [1, N]
        "position_ids": torch.cat([torch.arange(n) for n in lengths])[None],  # [1, N]
        "packed_layout": layout_of(lengths),
        # The token at t is predicted at t - 1; a row's first token is never learned, so t - 1 is in the same row.
        "logits_to_keep": learned - 1,
        "targets": labels[learned],
    }


def padded(features: Sequence[dict[str, list[int]]]) -> dict[str, Any]:
    """Collate one micro-batch as rows padded on the right: [B, T] ids, position ids and mask."""
    (feature,) = features
    lengths = feature["seq_lengths"]
    ids, labels = (
        pad_sequence(list(torch.split(torch.tensor(feature[name]), lengths)), batch_first=True, padding_value=filler)
        for name, filler in (("input_ids", 0), ("labels", IGNORED))
    )
    mask = torch.arange(ids.shape[1]) < torch.tensor(lengths)[:, None]
    learned = labels != IGNORED
    return {
        "input_ids": ids,
        "attention_mask": mask.long(),
        "logits_to_keep": learned.roll(-1, 1),  # bool [B, T]: the model gives logits [n, V] in this order
        "targets": labels[learned],
    }


NOISE_EVERY = 4
"""Steps from one estimate of the gradient noise to the next: the norms of the parts' gradients cost 7 % of a step."""


class MicroBatchTrainer(SFTTrainer):
    """One micro-batch is one element of the data set; `gradient_accumulation_steps` of them are one step.

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
        **arguments: Any,
    ) -> None:
        self.batches, self.notes, self.plain_attention = batches, notes, plain_attention
        self._compute = compute
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
        return torch.tensor(float(sum(len(batch["targets"]) for batch in batch_samples)), device=device)

    def compute_loss(
        self, model: Any, inputs: dict[str, Any], return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> torch.Tensor:
        targets = inputs.pop("targets")
        if self.aux_loss_enabled:
            inputs["output_router_logits"] = True
        found = model(**inputs, use_cache=False)
        loss = weighted_loss(found.logits.reshape(len(targets), -1), targets, 1.0 / num_items_in_batch)
        if self.aux_loss_enabled:
            loss = loss + self.router_aux_loss_coef * found.aux_loss / self.current_gradient_accumulation_steps
        self._weights.append(len(targets))
        return loss

    def training_step(self, *arguments: Any, **named: Any) -> torch.Tensor:
        self.masters.measuring = self.batches.per_step > 1 and self.state.global_step % NOISE_EVERY == 0
        loss: torch.Tensor = super().training_step(*arguments, **named)
        if self.masters.measuring:
            self._squared_norms.append(self.masters.take_squared_norm())
        return loss

    def _clip_grad_norm(self, model: Any) -> torch.Tensor:
        norm = self.masters.clip(self.args.max_grad_norm)
        measured = self.masters.measuring
        self.noise = estimate_noise(self._squared_norms, self._weights, float(norm) ** 2) if measured else None
        self._squared_norms, self._weights = [], []
        return norm

    def floating_point_ops(self, inputs: dict[str, Any]) -> int:
        return 0  # TRL's count is not used, and it would count without knowing of the packing
