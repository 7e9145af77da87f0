"""A plan: where every neuron sits, what is sent, and the weights that stay.

Shapes: N neurons and M channels of a layer, P workers.
"""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from formulations.cluster import Cluster
from formulations.evaluation import Evaluation
from formulations.problem import LayerProblem
from solvers.base import SolveResult

IntArray = NDArray[np.int64]


class PlanError(RuntimeError):
    """No plan can be made. The message names the layer and what is short."""


@dataclass(frozen=True, eq=False)
class Message:
    """What crosses under one name: an activation's channels, a layer's partial sums, a norm's sums.

    Attributes:
        name: of the operation that makes it.
        bytes_by_link: P×P (from, to), per example.
        bytes_direct: of direct parallel execution.
    """

    name: str
    bytes_by_link: IntArray
    bytes_direct: int

    @property
    def bytes(self) -> int:
        return int(self.bytes_by_link.sum())


@dataclass(frozen=True, eq=False)
class LayerPlan:
    """One weight layer.

    Attributes:
        name: of its module.
        group: of the layer problem that placed it.
        message: the name under which its inputs, or partial sums, cross.
        worker: N.
        input_worker: M; where its inputs live.
        unit: N; which of its group's units each neuron is, by row of the group's problem.
        message_bytes: of each of its messages, per example: M, or N where partial sums cross.
        kept: N×M; the kernels that stay.
        partials: whether partial sums cross instead of inputs.
        relative_error: squared error of its outputs that is left, in shares of their variance, on the
            calibration examples, with its inputs as the changed network gives them.
    """

    name: str
    group: str
    message: str
    worker: IntArray
    input_worker: IntArray
    unit: IntArray
    message_bytes: IntArray
    kept: NDArray[np.bool_]
    partials: bool
    relative_error: float


@dataclass(frozen=True, eq=False)
class GroupPlan:
    """One layer problem and its answer, which has an assignment; named after the first layer that it places."""

    problem: LayerProblem
    result: SolveResult

    @property
    def name(self) -> str:
        return self.problem.name

    @property
    def evaluation(self) -> Evaluation:
        assert self.result.evaluation is not None  # partition_model makes no plan without
        return self.result.evaluation


@dataclass(frozen=True, eq=False)
class PartitionPlan:
    """A placed network.

    Attributes:
        cluster: the workers.
        layers: in the order they run.
        groups: the layer problems, in the order of their first layers.
        messages: all that crosses.
        weights: the changed network's `state_dict`: adjusted, and 0 where dropped.
        model_digest: of the network as it was.
        objective: of the whole network, losses and sends, in shares of output energy.
        settings: what the plan was made with.
        warnings: a line each.
    """

    cluster: Cluster
    layers: tuple[LayerPlan, ...]
    groups: tuple[GroupPlan, ...]
    messages: tuple[Message, ...]
    weights: Mapping[str, Tensor] = field(repr=False)
    model_digest: str
    objective: float
    settings: Mapping[str, Any]
    warnings: tuple[str, ...] = ()

    @functools.cached_property
    def traffic(self) -> IntArray:
        """P×P (from, to): bytes per example."""
        total: IntArray = np.sum([message.bytes_by_link for message in self.messages], axis=0, dtype=np.int64)
        return total

    @property
    def bytes_sent(self) -> int:
        """Bytes on the wire per example, each message once."""
        return int(self.traffic.sum())

    @property
    def bytes_direct(self) -> int:
        """What direct parallel execution sends: every channel that a layer reads to every other worker."""
        return sum(message.bytes_direct for message in self.messages)

    def __str__(self) -> str:
        titles = ("layer", "bytes", "of", "kept", "rel. error", "objective", "lower bound", "gap")
        width = max(len(layer.name) for layer in self.layers) + 1
        row = f"{{:<{width}}} {{:>10}} {{:>10}} {{:>7}} {{:>10}} {{:>12}} {{:>12}} {{:>7}}"
        messages = {message.name: message for message in self.messages}
        groups = {group.name: group for group in self.groups}
        lines = [row.format(*titles)]
        for layer in self.layers:
            # Said once, with the first layer that they belong to.
            message, group = messages.pop(layer.message, None), groups.pop(layer.group, None)
            crosses = ("", "") if message is None else (message.bytes, message.bytes_direct)
            solved = ("", "", "") if group is None else _solved(group)
            share, error = f"{layer.kept.mean():.1%}", f"{layer.relative_error:.3%}"
            lines.append(row.format(layer.name, *crosses, share, error, *solved))
        for message in messages.values():
            lines.append(row.format(message.name, message.bytes, message.bytes_direct, "", "", "", "", "").rstrip())
        of_direct = self.bytes_sent / max(1, self.bytes_direct)
        lines.append(
            f"{'total':<{width}} {self.bytes_sent:>10} {self.bytes_direct:>10}   {of_direct:.1%} of direct parallel"
        )
        return "\n".join(lines)


def _solved(group: GroupPlan) -> tuple[str, str, str]:
    """Objective, lower bound and gap, as printed."""
    scale, gap = group.problem.scale, group.result.gap
    objective = f"{group.evaluation.objective / scale:.6f}"
    if gap is None:
        return objective, "-", "-"
    return objective, f"{group.result.dual_bound / scale:.6f}", f"{gap:.1%}"


def model_digest(model: nn.Module) -> str:
    """SHA-256 over names, types, shapes and values of all that the model's `state_dict` holds."""
    found = hashlib.sha256()
    for key, value in sorted(model.state_dict().items()):
        tensor = value.detach().cpu().contiguous()
        found.update(f"{key} {tensor.dtype} {tuple(tensor.shape)};".encode())
        found.update(tensor.reshape(-1).view(torch.uint8).numpy().tobytes() if tensor.numel() else b"")
    return found.hexdigest()
