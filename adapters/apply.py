"""A plan applied to a model: an ordinary module that computes what the workers would."""

from __future__ import annotations

import copy

import torch
from torch import nn

from adapters.plan import PartitionPlan
from formulations.errors import InputError


def apply_plan(model: nn.Module, plan: PartitionPlan, *, adjusted: bool = True) -> nn.Module:
    """A copy of `model` with the plan's pruning, and its adjusted weights unless `adjusted` is False.

    The original is untouched; the copy has the same forward signature and `state_dict` keys.

    Raises:
        InputError: the plan is not for this model.
    """
    smaller = copy.deepcopy(model)
    for layer in plan.layers:
        try:
            module = smaller.get_submodule(layer.name)
        except AttributeError:
            raise InputError(f"the model has no layer {layer.name!r}; apply the plan to the model it is for") from None
        kept = torch.from_numpy(layer.evaluation.kept)
        weight = module.weight
        if not isinstance(weight, nn.Parameter) or tuple(weight.shape) != tuple(kept.shape):
            raise InputError(f"layer {layer.name!r} has weight {tuple(weight.shape)}, the plan {tuple(kept.shape)}")
        own = set(module.state_dict(prefix=f"{layer.name}."))
        planned = {key for key in plan.weights if key.startswith(f"{layer.name}.")}
        if own != planned:
            raise InputError(f"layer {layer.name!r} has tensors {sorted(own)}, the plan {sorted(planned)}")
        with torch.no_grad():
            if adjusted:
                for key, parameter in module.named_parameters(recurse=False):
                    parameter.copy_(plan.weights[f"{layer.name}.{key}"])
            weight.mul_(kept.to(weight))
    return smaller
