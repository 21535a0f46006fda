"""Keep float32 weights for the optimizer behind the bfloat16 weights of the model, and measure gradient norms."""

from collections.abc import Iterable
from typing import Any

import torch
from torch.nn import Parameter

from selftaught.training.ranks import Ranks


class Masters:
    """The float32 weights behind a model's trained parameters.

    With `compute` bfloat16 the model's own float32 weights become the masters and the model gets bfloat16 copies,
    whose gradients are summed in float32 as each backward pass gives them. A parameter that already has the number type
    `compute` is its own master: all of them where it is float32, and the float32 adapters over a frozen model.
    """

    def __init__(self, model: Any, *, compute: torch.dtype) -> None:
        self._of: dict[torch.Tensor, Parameter] = {}
        self._with_gradient: set[torch.Tensor] = set()
        """Parameters that have a gradient in this step. A master keeps its gradient buffer from step to step."""
        self._norms: list[torch.Tensor] = []
        self.measuring = False
        """Whether the norm of every micro-batch's gradient is measured; may change from step to step."""
        for parameter in model.parameters():
            if not parameter.requires_grad:
                continue
            self._of[parameter] = parameter
            if compute != parameter.dtype:
                self._of[parameter] = Parameter(parameter.data)
                parameter.data = parameter.data.to(compute)
                parameter.register_post_accumulate_grad_hook(self._move_gradient)
            else:
                parameter.register_hook(self._measure_norm)
        self._copied: list[torch.Tensor] = [p for p, master in self._of.items() if p is not master]

    def use_in(self, optimizer: torch.optim.Optimizer) -> None:
        """Let a new optimizer change the masters of its parameters; after each step the model gets their values."""
        for group in optimizer.param_groups:
            group["params"] = [self._of[p] for p in group["params"]]
        if self._copied:
            optimizer.register_step_post_hook(lambda *_: self._copy_to_model())

    @property
    def trained(self) -> list[torch.Tensor]:
        """The parameters that the model computes with and the optimizer changes, directly or through their masters."""
        return list(self._of)

    def add(self, gradients: Iterable[tuple[torch.Tensor, torch.Tensor]]) -> None:
        """Add a worker's gradients of a micro-batch, as if its backward pass had run here."""
        for parameter, gradient in gradients:
            if self._of[parameter] is not parameter:
                parameter.grad = gradient
                self._move_gradient(parameter)
                continue
            self._measure_norm(gradient)
            if parameter.grad is None:
                parameter.grad = gradient.clone()  # the worker writes its next gradient there
            else:
                parameter.grad.add_(gradient)

    def sum_over(self, ranks: Ranks) -> None:
        """Replace the gradients of a step by their sums over all ranks, in float32, before they are clipped."""
        own = [float(self._has_gradient(parameter)) for parameter in self._of]
        anywhere = [any(of_parameter) for of_parameter in zip(*ranks.gather(own), strict=True)]
        ranks.sum([self._gradient(p) for p, has in zip(self._of, anywhere, strict=True) if has])

    def _has_gradient(self, parameter: torch.Tensor) -> bool:
        return parameter in self._with_gradient or (self._of[parameter] is parameter and parameter.grad is not None)

    def _gradient(self, parameter: torch.Tensor) -> torch.Tensor:
        """What this step's backward passes have given, contiguous; zeros if they have given nothing."""
        master = self._of[parameter]
        if master.grad is None:
            master.grad = torch.zeros_like(master)
        elif not self._has_gradient(parameter):
            master.grad.zero_()  # the buffer holds an earlier step's
        if master is not parameter:
            self._with_gradient.add(parameter)
        if not master.grad.is_contiguous():
            master.grad = master.grad.contiguous()
        return master.grad

    def clip(self, max_norm: float) -> torch.Tensor:
        """Scale the gradients down to `max_norm` if they are above it; their norm before that, in float32."""
        for parameter in self._copied:
            if parameter not in self._with_gradient:
                self._of[parameter].grad = None
        masters = list(self._of.values())
        norm = torch.nn.utils.get_total_norm([m.grad for m in masters if m.grad is not None])
        if not norm <= max_norm:
            torch.nn.utils.clip_grads_with_norm_(masters, max_norm, norm)
        return norm

    def pop_squared_norm(self) -> float:
        """|g|^2 of what the backward passes since the last call added to the gradient; the next call starts at zero."""
        squared = torch.stack(self._norms).double().square().sum().item()
        self._norms.clear()
        return float(squared)

    def restore_float32(self) -> None:
        """Give the model the float32 weights of the masters."""
        for parameter in self._copied:
            parameter.data = self._of[parameter].data

    def _measure_norm(self, gradient: torch.Tensor) -> None:
        if not self.measuring:
            return
        self._norms.append(torch.linalg.vector_norm(gradient, dtype=torch.promote_types(gradient.dtype, torch.float32)))

    def _move_gradient(self, parameter: torch.Tensor) -> None:
        gradient, parameter.grad = parameter.grad, None
        assert gradient is not None
        self._measure_norm(gradient)
        master = self._of[parameter]
        if master.grad is None:
            master.grad = gradient.float()
        elif parameter in self._with_gradient:
            master.grad.add_(gradient)
        else:
            master.grad.copy_(gradient)
        self._with_gradient.add(parameter)

    @torch.no_grad()
    def _copy_to_model(self) -> None:
        torch._foreach_copy_(list(self._copied), [self._of[p].data for p in self._copied])
        self._with_gradient.clear()
