"""TRL's SFTTrainer on ready micro-batches: packed rows, loss where labels are, float32 masters, noise."""

from collections.abc import Callable, Sequence
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
from selftaught.training.peer_gradients import Part, PeerGradients


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


def dealt(collate: Callable[[Sequence[dict[str, list[int]]]], dict[str, Any]]) -> Callable[..., dict[str, Any]]:
    """Collate the first of several micro-batches; the others are for the peers, which collate them there."""

    def collate_first(features: Sequence[dict[str, list[int]]]) -> dict[str, Any]:
        return {**collate(features[:1]), "parts": [Part(feature) for feature in features[1:]]}

    return collate_first


def loss_of(
    model: Any, inputs: dict[str, Any], targets: torch.Tensor, weight: torch.Tensor, *, router_weight: float = 0.0
) -> torch.Tensor:
    """`weight` times the summed loss of one collated micro-batch, and `router_weight` times that of a router."""
    if router_weight:
        inputs["output_router_logits"] = True
    found = model(**inputs, use_cache=False)
    loss = weighted_loss(found.logits.reshape(len(targets), -1), targets, weight)
    return loss + router_weight * found.aux_loss if router_weight else loss


NOISE_EVERY = 4
"""Steps from one estimate of the gradient noise to the next: the norms of the parts' gradients cost 7 % of a step."""


class MicroBatchTrainer(SFTTrainer):
    """One micro-batch is one element of the data set. An input is one of them, or with peers one for every process;
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
        peers: PeerGradients | None = None,
        **arguments: Any,
    ) -> None:
        self.batches, self.notes, self.plain_attention = batches, notes, plain_attention
        self._compute, self._peers = compute, peers
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
        targets = inputs.pop("targets")
        self._weights.append(len(targets))
        return loss_of(model, inputs, targets, 1.0 / num_items_in_batch, router_weight=self._router_weight())

    def _router_weight(self) -> float:
        return self.router_aux_loss_coef / self.batches.per_step if self.aux_loss_enabled else 0.0

    def training_step(self, model: Any, inputs: dict[str, Any], num_items_in_batch: Any = None) -> torch.Tensor:
        step = self.state.global_step
        self.masters.measuring = self.batches.per_step > 1 and step % NOISE_EVERY == 0
        parts = inputs.pop("parts", ())
        if self._peers is not None:
            share = 1.0 / float(num_items_in_batch)
            self._peers.ask(
                self.masters.trained, parts, share, router_weight=self._router_weight(), is_new=step != self._asked_at
            )
            self._asked_at = step
        loss: torch.Tensor = super().training_step(model, inputs, num_items_in_batch)
        self._measure()
        for part in self._peers.answers(self.masters.trained) if self._peers is not None else ():
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
