"""A plan: where every neuron sits, what is sent, and the weights that stay.

Shapes: N neurons and M channels of a layer, P workers.
"""

from __future__ import annotations

import functools
import hashlib
import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from adapters.aligned import aligned
from adapters.program import Program
from formulations import validation
from formulations.certificate import Certificate
from formulations.cluster import Cluster
from formulations.errors import InputError
from formulations.evaluation import Evaluation
from formulations.problem import LayerProblem
from solvers.base import SolveResult

IntArray = NDArray[np.int64]

#: In the settings of a recovered plan: how it was trained, and the error of the network's outputs before and after.
RECOVERED = "recovered"
#: In the settings of a plan whose workers were chosen: the names of those that have no neurons.
LEFT_OUT = "left_out"


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
        reads: the name of the activation that it reads.
        worker: N.
        input_worker: M; where its inputs live.
        unit: N; which of its group's units each neuron is, by row of the group's problem.
        message_bytes: of each of its messages, per example: M, or N where partial sums cross.
        kept: N×M; the kernels that stay.
        partials: whether partial sums cross instead of inputs.
        macs: multiplications per example of one kernel, which is one neuron's weights over one channel.
        relative_error: squared error of its outputs that is left, in shares of their variance, on the
            calibration examples, with its inputs as the changed network gives them.
    """

    name: str
    group: str
    reads: str
    worker: IntArray
    input_worker: IntArray
    unit: IntArray
    message_bytes: IntArray
    kept: NDArray[np.bool_]
    partials: bool
    macs: int
    relative_error: float

    def __post_init__(self) -> None:
        """Raises InputError where shapes do not fit together."""
        if self.macs < 0:
            raise InputError(f"layer {self.name!r}: macs is {self.macs}; it must be at least 0")
        if self.kept.ndim != 2 or self.kept.dtype != np.bool_:
            raise InputError(f"layer {self.name!r}: kept has {self.kept.ndim} dimensions of {self.kept.dtype}")
        num_neurons, num_inputs = self.kept.shape
        num_messages = num_neurons if self.partials else num_inputs
        meaning = f"layer {self.name!r} with its {num_neurons} neurons and {num_inputs} inputs"
        sizes = {"worker": num_neurons, "unit": num_neurons, "input_worker": num_inputs, "message_bytes": num_messages}
        for key, size in sizes.items():
            validation.check_shape(key, getattr(self, key), (size,), meaning)

    @property
    def message(self) -> str:
        """The name under which its inputs, or partial sums, cross."""
        return f"{self.name} (partial sums)" if self.partials else self.reads

    @property
    def weight_key(self) -> str:
        """Of its weight in a `state_dict`."""
        return f"{self.name}.weight" if self.name else "weight"  # a model may be one layer

    def sends(self, num_workers: int) -> tuple[IntArray, IntArray]:
        """P×P and P×P (from, to): how many messages this layer uses, and their bytes per example."""
        if self.partials:
            owners = [self.kept[:, self.input_worker == p].any(axis=1) for p in range(num_workers)]
            neuron, origin = np.nonzero(np.stack(owners, axis=1))
            message, ends = neuron, (origin, self.worker[neuron])
        else:
            users = [self.kept[self.worker == p].any(axis=0) for p in range(num_workers)]
            message, target = np.nonzero(np.stack(users, axis=1))
            ends = (self.input_worker[message], target)
        count, num_bytes = (np.zeros((num_workers, num_workers), dtype=np.int64) for _ in range(2))
        np.add.at(count, ends, 1)
        np.add.at(num_bytes, ends, self.message_bytes[message])
        for table in (count, num_bytes):
            np.fill_diagonal(table, 0)  # a worker need not send to itself
        return count, num_bytes


@dataclass(frozen=True, eq=False)
class GroupPlan:
    """One layer problem and its answer, which has an assignment; named after the first layer that it places.

    Attributes:
        certificate: of a plan that was read from files, where the answer comes without its proof.
    """

    problem: LayerProblem
    result: SolveResult
    certificate: Certificate | None = field(default=None, repr=False)

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
        program: the network's operations; None where workers cannot run them.
        worker: U; of every unit of the program's graph.
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
    program: Program | None = field(default=None, repr=False)
    worker: IntArray | None = None

    def __post_init__(self) -> None:
        """Raises InputError where the parts do not fit together."""
        num_workers = self.cluster.num_workers
        groups = {group.name: group for group in self.groups}
        for what, entries in (("layers", self.layers), ("groups", self.groups)):
            _refuse_twice(what, [entry.name for entry in entries])
        if not self.layers:
            raise InputError("a plan needs at least one layer")
        for message in self.messages:
            where = f"{num_workers} workers"
            validation.check_shape(f"bytes of {message.name!r}", message.bytes_by_link, (num_workers,) * 2, where)
        for group in self.groups:
            if group.problem.num_workers != num_workers:
                raise InputError(f"group {group.name!r} has {group.problem.num_workers} workers, not {num_workers}")
        for layer in self.layers:
            where = f"layer {layer.name!r}"
            if layer.group not in groups or layer.message not in {message.name for message in self.messages}:
                raise InputError(
                    f"{where} belongs to group {layer.group!r} and message {layer.message!r}; one is missing"
                )
            _refuse_beyond(f"{where}: worker", layer.worker, num_workers)
            _refuse_beyond(f"{where}: input_worker", layer.input_worker, num_workers)
            _refuse_beyond(f"{where}: unit", layer.unit, groups[layer.group].problem.num_neurons)
            weight = self.weights.get(layer.weight_key)
            if weight is None or len(weight) != len(layer.worker):
                raise InputError(f"{where} has {len(layer.worker)} neurons; the weights hold none such")
        self._check_program()

    def _check_program(self) -> None:
        """Raises InputError where the operations are not those of the plan's layers."""
        if (self.program is None) != (self.worker is None):
            raise InputError("a plan has both a program and the workers of its units, or neither")
        if self.program is None or self.worker is None:
            return
        graph = self.program.graph
        validation.check_shape("worker", self.worker, (graph.num_units,), f"{graph.num_units} units")
        _refuse_beyond("worker", self.worker, self.cluster.num_workers)
        for layer, entry in itertools.zip_longest(self.layers, graph.layers):
            if layer is None or entry is None or layer.name != entry.name:
                raise InputError("the program has other layers than the plan")
            read = graph.activations[entry.activation].unit
            sides = {"worker": (layer.worker, entry.unit), "input_worker": (layer.input_worker, read)}
            for name, (said, units) in sides.items():
                if not np.array_equal(said, self.worker[units]):
                    raise InputError(f"layer {layer.name!r}: {name} is not where the program's units are")

    def save(self, folder: str | Path) -> None:
        """Write the plan as a folder (docs/plans.md): there whole, or not at all.

        A folder that holds a plan is replaced, with all that is in it.

        Raises:
            InputError: the folder holds something else, or cannot be written.
        """
        from adapters.plan_files import write_plan

        write_plan(self, folder)

    @classmethod
    def load(cls, folder: str | Path) -> PartitionPlan:
        """Read what `save` wrote; the groups' answers come without their proofs, which stay in the certificates.

        Raises:
            InputError: a file is missing, damaged or of another plan.
        """
        from adapters.plan_files import read_plan

        return read_plan(folder)

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

    def crossing(self) -> dict[str, tuple[int, int]]:
        """Bytes of messages by name: as planned, and of direct parallel execution."""
        found: dict[str, tuple[int, int]] = {}
        for message in self.messages:  # one operation may send several
            sent, direct = found.get(message.name, (0, 0))
            found[message.name] = (sent + message.bytes, direct + message.bytes_direct)
        return found

    def __str__(self) -> str:
        rows = [_TITLES, *self._rows(), ("total", "", str(self.bytes_sent), str(self.bytes_direct), *[""] * 5)]
        lines = aligned(rows, num_left=2)
        lines[-1] += f"  {self.bytes_sent / max(1, self.bytes_direct):.1%} of direct parallel"
        return "\n".join([*lines, *self._footnotes()])

    def _footnotes(self) -> Iterator[str]:
        """What no table of a plan may leave unsaid."""
        used = {int(p) for layer in self.layers for p in layer.worker}
        idle = [name for p, name in enumerate(self.cluster.worker_names) if p not in used]
        if idle:
            yield f"left out, without a neuron: {', '.join(idle)}"
        if RECOVERED in self.settings:
            yield "its weights were trained after pruning (recovery)"

    def _rows(self) -> list[tuple[str, ...]]:
        """The cells of every layer, then of what crosses for operations that are no layers."""
        crossing = self.crossing()
        groups = {group.name: group for group in self.groups}
        rows = []
        for layer in self.layers:
            # Said once, with the first layer that they belong to. A layer in partial sums may be the only one that
            # would need what it reads.
            group = groups.pop(layer.group, None)
            names = dict.fromkeys((layer.reads, layer.message))
            found = [crossing.pop(name) for name in names if name in crossing]
            rows.append((
                layer.name,
                layer.reads + (", summed" if layer.partials else ""),
                *(map(str, map(sum, zip(*found, strict=True))) if found else ("shared", "")),
                f"{layer.kept.mean():.1%}",
                f"{layer.relative_error:.3%}",
                *((f"with {layer.group}", "", "") if group is None else _solved(group)),
            ))  # fmt: skip
        rows += [("(no layer)", name, str(sent), str(direct), *[""] * 5) for name, (sent, direct) in crossing.items()]
        return rows


_TITLES = ("layer", "reads", "bytes", "of", "kept", "rel. error", "objective", "lower bound", "gap")


def _refuse_twice(what: str, names: Sequence[str]) -> None:
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise InputError(f"two {what} are called {twice[0]!r}; give each its own name")


def _refuse_beyond(name: str, numbers: IntArray, end: int) -> None:
    bad = numbers[(numbers < 0) | (numbers >= end)]
    if bad.size:
        raise InputError(f"{name} holds {bad[0]}; it must be from 0 to {end - 1}")


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
