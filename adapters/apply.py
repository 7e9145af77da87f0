"""A plan applied to a model: an ordinary module that computes what the workers would."""

from __future__ import annotations

import copy

import torch
from torch import nn

from adapters.masked import mask
from adapters.plan import PartitionPlan, model_digest
from formulations.errors import InputError


def apply_plan(model: nn.Module, plan: PartitionPlan, *, adjusted: bool = True) -> nn.Module:
    """A copy of `model` with the plan's pruning, and its adjusted weights unless `adjusted` is False.

    The original is untouched; the copy has the same forward signature and `state_dict` keys, and what the plan
    drops stays dropped when the copy is trained further.

    Raises:
        InputError: the plan is not for this model.
    """
    if model_digest(model) != plan.model_digest:
        raise InputError(
            "the plan was made for another model, or for other weights of this one; apply it to the model it is for"
        )
    smaller = copy.deepcopy(model)
    for layer in plan.layers:
        mask(smaller.get_submodule(layer.name), layer.kept)  # type: ignore[arg-type]
    if adjusted:
        with torch.no_grad():
            state = smaller.state_dict()
            for key, value in plan.weights.items():
                state[key].copy_(value)
    return smaller
