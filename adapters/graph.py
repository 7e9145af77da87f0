"""The layers of a network, in the order they run.

Covered so far: `nn.Sequential` of `nn.Linear` and modules that act on each neuron by itself.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import nn
from torch.nn.parameter import is_lazy
from torch.nn.utils import parametrize

from formulations.errors import InputError

#: Modules that keep every neuron apart from the others, so that it can run wherever the neuron sits.
ELEMENTWISE = (
    nn.CELU,
    nn.Dropout,
    nn.ELU,
    nn.GELU,
    nn.Hardsigmoid,
    nn.Hardswish,
    nn.Hardtanh,
    nn.Identity,
    nn.LeakyReLU,
    nn.Mish,
    nn.ReLU,
    nn.ReLU6,
    nn.SELU,
    nn.Sigmoid,
    nn.SiLU,
    nn.Softplus,
    nn.Tanh,
)
_COVERED = (nn.Sequential, nn.Linear, *ELEMENTWISE)
_DTYPES = (torch.float64, torch.float32, torch.float16, torch.bfloat16)


@dataclass(frozen=True)
class Layer:
    """One weight layer, by the qualified name of its module.

    Attributes:
        dtype, device: of its weights, and of all activations, since all layers agree in them.
    """

    name: str
    num_inputs: int
    num_neurons: int
    has_bias: bool
    dtype: torch.dtype
    device: torch.device

    @property
    def value_bytes(self) -> int:
        """Bytes of one activation on the wire, and of one weight in memory."""
        return self.dtype.itemsize

    @property
    def neuron_bytes(self) -> int:
        """Bytes of one neuron's weights and bias, stored densely."""
        return self.value_bytes * (self.num_inputs + self.has_bias)


def layers_of(model: nn.Module) -> tuple[Layer, ...]:
    """The weight layers of `model`.

    Raises:
        InputError: a module that is not understood or does more than its class says, layers that share
            parameters or do not fit each other, or no layer at all.
    """
    if not isinstance(model, nn.Sequential):
        raise InputError(
            f"the model is a {type(model).__name__}; only nn.Sequential of Linear and activations is covered"
        )
    found: list[Layer] = []
    owner_of: dict[int, str] = {}
    for name, module in _in_order("", model):
        if isinstance(module, nn.Linear):
            layer = _layer(name, module)
            _refuse_shared(name, module, owner_of)
            if found:
                _refuse_misfit(found[-1], layer)
            found.append(layer)
    if not found:
        raise InputError("the model has no Linear layer; there is nothing to place")
    return tuple(found)


def _in_order(name: str, module: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """The modules that do the work, as nested Sequentials run them; all of them covered."""
    _refuse_not_covered(f"module {name!r}" if name else "the model", module)
    if not isinstance(module, nn.Sequential):
        yield name, module
        return
    # `named_children` would drop the second use of a shared module.
    for key, child in module._modules.items():
        yield from _in_order(f"{name}.{key}" if name else key, child)


def _refuse_not_covered(where: str, module: nn.Module) -> None:
    """Raises InputError where a module may compute anything but what its torch class says."""
    kind = next((kind for kind in _COVERED if isinstance(module, kind)), None)
    if kind is None:
        raise InputError(
            f"{where} is a {type(module).__name__}; only Linear and activations are covered, "
            "take it out of the part to be placed"
        )
    if getattr(module.forward, "__func__", None) is not kind.forward:
        raise InputError(
            f"{where}, a {type(module).__name__}, has a forward() of its own, which may do more than "
            f"nn.{kind.__name__}; use a plain nn.{kind.__name__}, or take it out of the part to be placed"
        )
    if isinstance(module, nn.Linear):
        _refuse_computed_weights(where, module)
    if module._forward_hooks or module._forward_pre_hooks:
        raise InputError(f"{where} has forward hooks, which may change what it computes; remove them first")


def _refuse_computed_weights(where: str, module: nn.Linear) -> None:
    """Raises InputError where weight or bias is not a parameter that can be read and set."""
    if is_lazy(module.weight):
        raise InputError(f"{where} is a {type(module).__name__} that has no weights yet; run the model once")
    own = dict(module.named_parameters(recurse=False))
    for key in ("weight", "bias"):
        if key in own or (key == "bias" and module.bias is None):
            continue
        if parametrize.is_parametrized(module, key):
            remedy = f"torch.nn.utils.parametrize.remove_parametrizations(module, {key!r})"
        else:
            remedy = "torch.nn.utils.remove_weight_norm, remove_spectral_norm or prune.remove"
        raise InputError(f"the {key} of {where} is computed from other parameters; make it plain with {remedy}")


def _layer(name: str, module: nn.Linear) -> Layer:
    weight = module.weight
    if weight.dtype not in _DTYPES:
        raise InputError(f"module {name!r} has {weight.dtype} weights; convert the model to float32")
    if weight.is_meta:
        raise InputError(f"module {name!r} is on the meta device and has no values; load the model's weights")
    bias = module.bias
    if bias is not None and (bias.dtype, bias.device) != (weight.dtype, weight.device):
        raise InputError(
            f"module {name!r} has a weight of {weight.dtype} on {weight.device} and a bias of {bias.dtype} on "
            f"{bias.device}; bring the model to one dtype and device"
        )
    num_neurons, num_inputs = weight.shape
    return Layer(name, num_inputs, num_neurons, bias is not None, weight.dtype, weight.device)


def _refuse_misfit(before: Layer, layer: Layer) -> None:
    """Raises InputError where a layer cannot take what the layer before it gives."""
    if layer.num_inputs != before.num_neurons:
        raise InputError(
            f"module {layer.name!r} takes {layer.num_inputs} inputs, module {before.name!r} before it has "
            f"{before.num_neurons} neurons; give a model that runs"
        )
    if (layer.dtype, layer.device) != (before.dtype, before.device):
        raise InputError(
            f"module {layer.name!r} is {layer.dtype} on {layer.device}, module {before.name!r} {before.dtype} on "
            f"{before.device}; bring the model to one dtype and device"
        )


def _refuse_shared(name: str, module: nn.Linear, owner_of: dict[int, str]) -> None:
    """Raises InputError for a parameter of an earlier layer: both would be pruned and adjusted by themselves."""
    for key, parameter in module.named_parameters(recurse=False):
        # Parameters of their own can still be views of one memory, and stay so in a copy. Empty ones have none.
        owner = owner_of.setdefault(parameter.data_ptr() or id(parameter), name)
        if owner != name:
            raise InputError(
                f"modules {owner!r} and {name!r} share their {key}, and shared weights cannot be placed; "
                "copy the module or the weights"
            )
