"""Why a plan is as it is, and how it differs from another, in words.

Shapes: N neurons and M channels of a layer, U units of its group, P workers.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from adapters.plan import GroupPlan, LayerPlan, PartitionPlan
from formulations.assignment import Assignment
from formulations.errors import InputError, nearest
from formulations.evaluation import Evaluation, evaluate

IntArray = NDArray[np.int64]


def explain(plan: PartitionPlan, layer: str, neuron: int | None = None) -> str:
    """What each worker holds, receives and drops of a layer; or why one of its neurons sits where it does.

    Raises:
        InputError: no such layer or neuron.
    """
    found = _layer(plan, layer)
    if neuron is None:
        return "\n".join(_layer_lines(plan, found))
    if not 0 <= neuron < found.worker.size:
        raise InputError(f"layer {layer!r} has no neuron {neuron}; give one from 0 to {found.worker.size - 1}")
    return "\n".join(_neuron_lines(plan, found, neuron))


def diff(plan: PartitionPlan, other: PartitionPlan) -> str:
    """What moved from one plan to the other, and what became of bytes, errors and the objective.

    Workers are the same where their names are.
    """
    return "\n".join(_diff_lines(plan, other))


def _layer(plan: PartitionPlan, name: str) -> LayerPlan:
    layers = {layer.name: layer for layer in plan.layers}
    if name not in layers:
        raise InputError(f"the plan has no layer {name!r}; {nearest(name, layers)}")
    return layers[name]


# A layer


def _layer_lines(plan: PartitionPlan, layer: LayerPlan) -> Iterator[str]:
    names, what = plan.cluster.worker_names, "partial sums" if layer.partials else "channels"
    count, num_bytes = layer.sends(len(names))
    yield (
        f"{layer.name}: {_of(layer.worker.size, 'neuron')}, {_of(layer.input_worker.size, 'channel')} of "
        f"{layer.reads}; {layer.kept.mean():.1%} of the kernels kept, relative error {layer.relative_error:.3%}"
    )
    for p, name in enumerate(names):
        here, remote = layer.worker == p, layer.input_worker != p
        yield f"{name}: {_of(here.sum(), 'neuron')}, {_of((~remote).sum(), 'channel')} of its own"
        senders = [f"{count[q, p]} from {names[q]} ({num_bytes[q, p]} bytes)" for q in range(len(names)) if count[q, p]]
        if senders:
            yield f"  receives {what}: {', '.join(senders)}"
        lost = ~layer.kept[here].any(axis=0) & remote
        if here.any() and remote.any():
            dropped = 1 - layer.kept[here].mean()
            yield (
                f"  does without {lost.sum()} of {_of(remote.sum(), 'remote channel')}; "
                f"drops {dropped:.1%} of its kernels"
            )
    shared = [entry.name for entry in plan.layers if entry.message == layer.message and entry is not layer]
    if shared:
        yield f"{layer.message} is also read by {', '.join(shared)}; what several need crosses once"


def _of(number: int, what: str) -> str:
    return f"{number} {what}{'' if number == 1 else 's'}"


# A neuron


def _neuron_lines(plan: PartitionPlan, layer: LayerPlan, neuron: int) -> Iterator[str]:
    group = next(group for group in plan.groups if group.name == layer.group)
    unit, names, scale = int(layer.unit[neuron]), plan.cluster.worker_names, group.problem.scale
    worker = _placement(plan, group)
    found = [_evaluated(group, worker, unit, p) for p in range(len(names))]
    here = found[layer.worker[neuron]]
    yield f"{layer.name}, neuron {neuron}, sits on {names[layer.worker[neuron]]}"
    tied = _neurons_of(plan, layer.group, unit, but=(layer.name, neuron))
    if tied:
        yield f"with it, because they are added or go through it channel by channel: {tied}"
    yield "elsewhere, all else equal, the problem of its group would cost more by (shares of output energy):"
    rows = [("", "in all", "losses", "sends", "later layers", "would it fit?")]
    for p, name in enumerate(names):
        if p == layer.worker[neuron]:
            rows.append((name, *["-"] * 4, "is here"))
        else:
            rows.append((name, *_dearer(found[p], here, scale), _fits(found[p])))
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for first, *numbers, last in rows:
        cells = [number.rjust(width) for number, width in zip(numbers, widths[1:-1], strict=True)]
        yield "  ".join([first.ljust(widths[0]), *cells, last])


def _placement(plan: PartitionPlan, group: GroupPlan) -> IntArray:
    """U: the worker of each unit of a group."""
    worker = group.evaluation.assignment.worker.copy()
    for layer in plan.layers:
        if layer.group == group.name:
            worker[layer.unit] = layer.worker
    return worker


def _evaluated(group: GroupPlan, worker: IntArray, unit: int, target: int) -> Evaluation:
    """The group's problem with one unit on another worker; messages that do not follow from that stay."""
    worker, problem = worker.copy(), group.problem
    worker[unit] = target
    if problem.messages_follow_placement:
        return evaluate(problem, Assignment(worker))
    given = group.evaluation.assignment
    partial = None if given.partial is None else given.partial.copy()
    if partial is not None:
        partial[unit, target] = False  # its own worker needs to send it nothing
    return evaluate(problem, Assignment(worker, sent=given.sent, partial=partial))


def _dearer(there: Evaluation, here: Evaluation, scale: float) -> Iterator[str]:
    """By how much: in all, losses, sends, and what sending to later layers adds."""
    for parts in (("pruned_cost", "kept_cost", "traffic_cost", "place_cost"), ("pruned_cost", "kept_cost")):
        yield _signed(there, here, parts, scale)
    for part in ("traffic_cost", "place_cost"):
        yield _signed(there, here, (part,), scale)


def _signed(there: Evaluation, here: Evaluation, parts: Sequence[str], scale: float) -> str:
    return f"{sum(getattr(there, part) - getattr(here, part) for part in parts) / scale:+.3g}"


def _fits(evaluation: Evaluation) -> str:
    said = {"capacity": "too many", "min_load": "too few"}
    broken = [
        f"{violation.where}: {violation.amount:g} {said[violation.rule]}" if violation.rule in said else str(violation)
        for violation in evaluation.violations
    ]
    return f"no: {'; '.join(broken)}" if broken else "yes"


def _neurons_of(plan: PartitionPlan, group: str, unit: int, but: tuple[str, int]) -> str:
    """All other neurons of a unit."""
    found = [
        f"{layer.name} {neuron}"
        for layer in plan.layers
        if layer.group == group
        for neuron in np.flatnonzero(layer.unit == unit)
        if (layer.name, neuron) != but
    ]
    return ", ".join(found)


# Two plans


def _diff_lines(plan: PartitionPlan, other: PartitionPlan) -> Iterator[str]:
    if plan.model_digest != other.model_digest:
        yield "the plans are for different models, or other weights of one"
    if plan.cluster.to_table() != other.cluster.to_table():
        yield f"the clusters differ: {', '.join(plan.cluster.worker_names)} -> {', '.join(other.cluster.worker_names)}"
    for key in sorted({*plan.settings, *other.settings}):
        if plan.settings.get(key) != other.settings.get(key):
            yield f"{key}: {plan.settings.get(key)} -> {other.settings.get(key)}"
    for before, after in _pairs(plan.layers, other.layers):
        yield from _layer_change(plan, other, before, after)
    old, new = ({name: sent for name, (sent, _) in part.crossing().items()} for part in (plan, other))
    for name in dict.fromkeys([*old, *new]):
        if old.get(name, 0) != new.get(name, 0):
            yield f"bytes of {name}: {_changed(old.get(name, 0), new.get(name, 0))}"
    yield f"bytes: {_changed(plan.bytes_sent, other.bytes_sent)}"
    yield f"objective: {plan.objective:.6g} -> {other.objective:.6g}"


def _pairs(
    layers: Sequence[LayerPlan], others: Sequence[LayerPlan]
) -> Iterator[tuple[LayerPlan | None, LayerPlan | None]]:
    """Layers of one name, None where one plan has none."""
    before, after = ({layer.name: layer for layer in part} for part in (layers, others))
    for name in dict.fromkeys([*before, *after]):
        yield before.get(name), after.get(name)


def _layer_change(
    plan: PartitionPlan, other: PartitionPlan, before: LayerPlan | None, after: LayerPlan | None
) -> Iterator[str]:
    if before is None or after is None:
        layer, which = (after, "second") if before is None else (before, "first")
        assert layer is not None
        yield f"{layer.name}: in the {which} plan only"
        return
    if before.kept.shape != after.kept.shape:
        yield f"{before.name}: {before.kept.shape} -> {after.kept.shape} neurons and channels"
        return
    old, new = (
        np.array(names)[layer.worker]
        for names, layer in ((plan.cluster.worker_names, before), (other.cluster.worker_names, after))
    )
    changes = [f"{_of((old != new).sum(), 'neuron')} of {old.size} moved"] if (old != new).any() else []
    ends, counts = np.unique(np.stack([old, new])[:, old != new], axis=1, return_counts=True)
    changes += [f"{count} from {start} to {end}" for start, end, count in zip(*ends, counts, strict=True)]
    if before.partials != after.partials:
        changes.append("partial sums cross instead of inputs" if after.partials else "inputs cross instead of sums")
    if (before.kept != after.kept).any():
        changes.append(f"kept {before.kept.mean():.1%} -> {after.kept.mean():.1%}")
    if before.relative_error != after.relative_error:
        changes.append(f"relative error {before.relative_error:.3%} -> {after.relative_error:.3%}")
    if changes:
        yield f"{before.name}: {', '.join(changes)}"


def _changed(before: int, after: int) -> str:
    return f"{before} -> {after} ({after - before:+d})" if before != after else f"{before}, as before"
