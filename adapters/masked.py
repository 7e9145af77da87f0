"""Weight layers whose dropped kernels stay dropped, also through fine-tuning and loading of checkpoints.

Each is a subclass of the plain layer with the same parameters and `state_dict` keys.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812
from numpy.typing import NDArray
from torch import Tensor, nn

from adapters.kernels import WeightLayer, own_entries, sizes
from formulations.errors import InputError


class _Masked(nn.Module):
    """Multiplies the weight by a mask, so that dropped weights have no gradient and, 0 themselves, stay 0.

    Attributes:
        mask: N × (M / groups) × 1 …, bool; not in the `state_dict`.
    """

    weight: nn.Parameter
    mask: Tensor

    def _load_from_state_dict(self, *args: Any) -> None:
        super()._load_from_state_dict(*args)
        with torch.no_grad():
            self.weight.mul_(self.mask)  # else weight decay and magnitudes would see weights that are not there


class MaskedLinear(_Masked, nn.Linear):
    """Linear with dropped weights."""

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002 - the name that nn.Linear has
        return F.linear(input, self.weight * self.mask, self.bias)


class MaskedConv1d(_Masked, nn.Conv1d):
    """Conv1d with dropped kernels."""

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002
        return self._conv_forward(input, self.weight * self.mask, self.bias)


class MaskedConv2d(_Masked, nn.Conv2d):
    """Conv2d with dropped kernels."""

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002
        return self._conv_forward(input, self.weight * self.mask, self.bias)


_MASKED: dict[type[nn.Module], type[_Masked]] = {
    nn.Linear: MaskedLinear,
    nn.Conv1d: MaskedConv1d,
    nn.Conv2d: MaskedConv2d,
}


def mask(module: WeightLayer, kept: NDArray[np.bool_]) -> nn.Module:
    """`module` itself, turned in place into its masked class; parameters stay the same objects.

    Args:
        module: a layer, masked already or not, with the forward of its torch class.
        kept: N×M; what lies outside a neuron's group does not matter.

    Raises:
        InputError: another kind of module, or `kept` of another shape.
    """
    masked = _masked_class(module)
    if np.shape(kept) != sizes(module)[:2]:
        raise InputError(f"the mask is {np.shape(kept)}, the layer has neurons × inputs {sizes(module)[:2]}")
    own = own_entries(module, torch.as_tensor(kept, dtype=torch.bool, device=module.weight.device))
    ones = [1] * (module.weight.ndim - 2)
    # A new object would lose what else refers to this one: optimizers, hooks, other modules.
    module.__class__ = masked
    module.register_buffer("mask", own.reshape(*module.weight.shape[:2], *ones), persistent=False)
    with torch.no_grad():
        module.weight.mul_(module.mask)
    return module


def _masked_class(module: nn.Module) -> type[_Masked]:
    """Raises InputError where a module may compute anything but what its torch class does."""
    forward = getattr(module.forward, "__func__", None)
    for plain, masked in _MASKED.items():
        if isinstance(module, plain) and forward in (plain.forward, masked.forward):
            return masked
    raise InputError(f"a {type(module).__name__} cannot be masked; only plain Linear, Conv1d and Conv2d can")
