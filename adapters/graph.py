"""The layers of a network, in the order they run.

Covered so far: `nn.Sequential` of `nn.Linear` and modules that act on each neuron by itself.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import nn

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


@dataclass(frozen=True)
class Layer:
    """One weight layer, by the qualified name of its module."""

    name: str
    num_inputs: int
    num_neurons: int


def layers_of(model: nn.Module) -> tuple[Layer, ...]:
    """The weight layers of `model`.

    Raises:
        InputError: a module that is not understood, a module used twice, or no layer at all.
    """
    if not isinstance(model, nn.Sequential):
        raise InputError(
            f"the model is a {type(model).__name__}; only nn.Sequential of Linear and activations is covered"
        )
    found: list[Layer] = []
    seen: set[int] = set()
    for name, module in _flat(model):
        if isinstance(module, nn.Linear):
            if id(module) in seen:
                raise InputError(f"module {name!r} is used twice; shared weights cannot be placed, copy the module")
            seen.add(id(module))
            found.append(Layer(name, module.in_features, module.out_features))
        elif not isinstance(module, ELEMENTWISE):
            raise InputError(
                f"module {name!r} is a {type(module).__name__}; only Linear and activations are covered, "
                "take it out of the part to be placed"
            )
    if not found:
        raise InputError("the model has no Linear layer; there is nothing to place")
    return tuple(found)


def _flat(model: nn.Sequential, prefix: str = "") -> list[tuple[str, nn.Module]]:
    modules: list[tuple[str, nn.Module]] = []
    # `named_children` would drop the second use of a shared module.
    for name, module in model._modules.items():
        if module is None:
            continue
        if isinstance(module, nn.Sequential):
            modules.extend(_flat(module, f"{prefix}{name}."))
        else:
            modules.append((prefix + name, module))
    return modules
