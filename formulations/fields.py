"""What a caller gave of a layer problem becomes all of its fields: checked, defaults expanded, costs as integers.

Shapes: N neurons, M inputs, P workers, K resources.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from formulations import scaling, validation
from formulations.errors import InputError
from formulations.scaling import IntArray, Scaling

COMMUNICATION = ("inputs", "partials", "per_weight")
OBJECTIVES = ("weighted", "traffic", "error")
NO_LIMIT = -1
#: The limits that count the bytes of messages.
BYTE_RULES = frozenset({"ingress_capacity", "egress_capacity", "link_capacity", "traffic_budget"})
_COSTS = ("prune_cost", "keep_cost", "send_cost", "place_cost", "objective_constant", "partial_cost")


def complete(given: dict[str, Any], scaling_given: Scaling | None) -> tuple[dict[str, Any], Scaling]:
    """All fields from those given: checked, defaults expanded, costs as integers."""
    for key, choices in (("communication", COMMUNICATION), ("objective", OBJECTIVES)):
        given[key] = validation.text(key, given[key])
        if given[key] not in choices:
            raise InputError(f"{key} is {given[key]!r}; choose from {', '.join(choices)}")
    given["name"] = validation.text("name", given["name"])
    costs = {key: validation.numeric_array(key, given[key]) for key in _COSTS if key in given}
    num_neurons, num_inputs, num_workers = _sizes(costs)
    _complete_costs(costs, num_neurons, num_inputs, num_workers, given["communication"])
    values: dict[str, Any] = dict(given)
    values["input_worker"] = _input_worker(given["input_worker"], num_inputs, num_workers)
    owner_cost = costs["send_cost"][np.arange(num_inputs), values["input_worker"]]
    if owner_cost.any():
        j = int(np.flatnonzero(owner_cost)[0])
        owner = int(values["input_worker"][j])
        raise InputError(
            f"send_cost[{j},{owner}] is {owner_cost[j]}; input {j} lives on worker {owner}, so it must be 0"
        )
    values["worker_names"] = validation.names_tuple("worker_names", given.get("worker_names"), "w", num_workers)
    values.update(_loads(given, num_neurons, num_workers))
    values.update(_limits(given, num_neurons, num_inputs, num_workers))
    budget = given.get("error_budget")
    costs["error_budget"] = validation.numeric_array("error_budget", 0 if budget is None else budget)
    validation.check_shape("error_budget", costs["error_budget"], (), "a scalar")
    validation.check_at_least("error_budget", costs["error_budget"], 0)
    if given["objective"] == "traffic" and budget is None:
        raise InputError("objective 'traffic' does not count lost weights; give an error_budget")
    if given["objective"] == "error" and values["traffic_budget"] is None:
        raise InputError("objective 'error' does not count messages; give a traffic_budget")
    integers, found_scaling = _integral(costs, given["communication"], scaling_given)
    values.update(integers)
    values["error_budget"] = None if budget is None else int(integers["error_budget"])
    for key in ("keep_cost", "objective_constant"):
        values[key] = int(integers[key])
    return values, found_scaling


def _sizes(costs: dict[str, NDArray[Any]]) -> tuple[int, int, int]:
    if costs["prune_cost"].ndim != 2 or costs["prune_cost"].shape[0] < 1:
        raise InputError(f"prune_cost has shape {costs['prune_cost'].shape}; needs neurons × inputs, at least 1 neuron")
    num_neurons, num_inputs = costs["prune_cost"].shape
    if "send_cost" in costs:
        source, array = "send_cost", costs["send_cost"]
        if array.ndim != 2 or array.shape[0] != num_inputs:
            raise InputError(f"send_cost has shape {array.shape}; {num_inputs} inputs need ({num_inputs}, workers)")
    elif "partial_cost" in costs:
        source, array = "partial_cost", costs["partial_cost"]
    else:
        raise InputError("send_cost is missing; give inputs × workers ('partials' can do with partial_cost alone)")
    num_workers = array.shape[1] if array.ndim >= 2 else 0
    if num_workers < 1:
        raise InputError(f"{source} has shape {array.shape}; at least 1 worker is needed")
    return num_neurons, num_inputs, num_workers


def _complete_costs(
    costs: dict[str, NDArray[Any]], num_neurons: int, num_inputs: int, num_workers: int, communication: str
) -> None:
    if "send_cost" not in costs and communication != "partials":
        raise InputError(f"send_cost is missing; communication {communication!r} needs it")
    if "partial_cost" not in costs and communication == "partials":
        raise InputError("partial_cost is missing; communication 'partials' needs it")
    costs.setdefault("send_cost", np.zeros((num_inputs, num_workers), dtype=np.int64))
    costs.setdefault("place_cost", np.zeros((num_neurons, num_workers), dtype=np.int64))
    partial = costs.get("partial_cost", np.zeros((num_neurons, num_workers), dtype=np.int64))
    if partial.ndim == 2:
        validation.check_shape("partial_cost", partial, (num_neurons, num_workers), "neuron × from")
        partial = np.repeat(partial[:, :, None], num_workers, axis=2)
    costs["partial_cost"] = partial.copy()
    for key, shape, meaning in (
        ("send_cost", (num_inputs, num_workers), f"{num_inputs} inputs × {num_workers} workers"),
        ("place_cost", (num_neurons, num_workers), f"{num_neurons} neurons × {num_workers} workers"),
        ("partial_cost", (num_neurons, num_workers, num_workers), "neuron × from × to"),
        ("keep_cost", (), "a scalar"),
        ("objective_constant", (), "a scalar"),
    ):
        validation.check_shape(key, costs[key], shape, meaning)
    for key in ("prune_cost", "send_cost", "keep_cost", "partial_cost"):
        validation.check_at_least(key, costs[key], 0)
    costs["partial_cost"][:, np.arange(num_workers), np.arange(num_workers)] = 0  # nobody sends to itself


def _input_worker(value: ArrayLike, num_inputs: int, num_workers: int) -> IntArray:
    owner = validation.integer_array("input_worker", value)
    validation.check_shape("input_worker", owner, (num_inputs,), f"one owner for each of {num_inputs} inputs")
    bad = (owner < 0) | (owner >= num_workers)
    if bad.any():
        j = int(np.flatnonzero(bad)[0])
        raise InputError(f"input_worker[{j}] is {owner[j]}; there are {num_workers} workers, 0..{num_workers - 1}")
    return owner


def _loads(given: dict[str, Any], num_neurons: int, num_workers: int) -> dict[str, Any]:
    if "capacity" in given:
        capacity = validation.integer_array("capacity", given["capacity"])
        if capacity.ndim != 2 or capacity.shape[0] != num_workers:
            raise InputError(f"capacity has shape {capacity.shape}; needs workers × resources, {num_workers} rows")
        min_load = validation.integer_array("min_load", given.get("min_load", np.zeros_like(capacity)))
    else:
        for key in ("load", "min_load"):
            if key in given:
                raise InputError(f"{key} is given without capacity; give both")
        capacity = np.full((num_workers, 1), -(-num_neurons // num_workers), dtype=np.int64)
        min_load = np.full((num_workers, 1), num_neurons // num_workers, dtype=np.int64)
    num_resources = capacity.shape[1]
    load = validation.integer_array("load", given.get("load", np.ones((num_neurons, num_resources), dtype=np.int64)))
    validation.check_shape("load", load, (num_neurons, num_resources), f"{num_neurons} neurons × resources")
    validation.check_shape("min_load", min_load, capacity.shape, "workers × resources, as in capacity,")
    names = given.get("resource_names")
    if names is None and num_resources == 1 and bool(np.all(load == 1)):
        names = ["neurons"]
    arrays = {"load": load, "capacity": capacity, "min_load": min_load}
    for key, array in arrays.items():
        validation.check_at_least(key, array, 0)
        _refuse_overflow(key, float(array.sum(dtype=np.float64)))
    return {**arrays, "resource_names": validation.names_tuple("resource_names", names, "resource", num_resources)}


def _limits(given: dict[str, Any], num_neurons: int, num_inputs: int, num_workers: int) -> dict[str, Any]:
    limits: dict[str, Any] = {}
    for key, shape, default, minimum in (
        ("input_bytes", (num_inputs,), 4, 0),
        ("partial_bytes", (num_neurons,), 4, 0),
        ("ingress_capacity", (num_workers,), NO_LIMIT, NO_LIMIT),
        ("egress_capacity", (num_workers,), NO_LIMIT, NO_LIMIT),
        ("link_capacity", (num_workers, num_workers), NO_LIMIT, NO_LIMIT),
        ("kept_weight_capacity", (num_workers,), NO_LIMIT, NO_LIMIT),
    ):
        array = validation.integer_array(key, given.get(key, np.full(shape, default, dtype=np.int64)))
        validation.check_shape(key, array, shape, f"{num_neurons} neurons, {num_inputs} inputs, {num_workers} workers")
        if key == "link_capacity":
            np.fill_diagonal(array, NO_LIMIT)
        validation.check_at_least(key, array, minimum, " (-1 = no limit)" if minimum == NO_LIMIT else "")
        limits[key] = array
    for key in ("input_bytes", "partial_bytes"):
        _refuse_overflow(f"{key} times workers", float(limits[key].sum(dtype=np.float64)) * num_workers)
    limits["traffic_budget"] = None
    if "traffic_budget" in given:
        budget = validation.integer_array("traffic_budget", given["traffic_budget"])
        validation.check_shape("traffic_budget", budget, (), "a scalar")
        validation.check_at_least("traffic_budget", budget, 0)
        limits["traffic_budget"] = int(budget)
    return limits


def _refuse_overflow(name: str, total: float) -> None:
    if total >= scaling.INTEGER_TOTAL_LIMIT:
        raise InputError(f"{name} adds up to {total:g}, more than int64 sums hold (2^61); use a coarser unit")


def _integral(
    costs: dict[str, NDArray[Any]], communication: str, scaling_given: Scaling | None
) -> tuple[dict[str, IntArray], Scaling]:
    """Costs as int64 and what they mean; floats scaled by one power of two (docs/design.md, Integers)."""
    num_weights = costs["prune_cost"].size
    if num_weights == 0:
        costs["keep_cost"] = np.zeros_like(costs["keep_cost"])  # there is nothing to keep
    counts = {key: num_weights if key == "keep_cost" else 1 for key in _COSTS}
    with np.errstate(over="ignore"):  # an infinite sum is refused below
        totals = {key: float(np.abs(costs[key].astype(np.float64)).sum()) * counts[key] for key in _COSTS}
    # An array without entries, or a budget, says nothing of the unit that the costs are in.
    if all(costs[key].dtype == np.int64 or costs[key].size == 0 for key in _COSTS):
        _refuse_overflow("the sum of all costs", sum(totals.values()))
        whole = {key: costs[key].astype(np.int64) for key in _COSTS}
        return _with_budget(whole, costs["error_budget"], 1.0), scaling_given or Scaling()
    scale = scaling_given.scale if scaling_given else scaling.choose_scale(totals.values())
    _refuse_overflow(f"the sum of all costs at scale {scale:g}", sum(totals.values()) * scale)
    rounded = {key: scaling.round_costs(key, costs[key], scale) for key in _COSTS}
    largest = max(int(np.abs(integers).sum()) * counts[key] for key, (integers, _, _) in rounded.items())
    if scaling_given is None and largest >= 2**scaling.TOTAL_LIMIT_LOG2:  # rounding up took it there
        scale /= 2
        rounded = {key: scaling.round_costs(key, costs[key], scale) for key in _COSTS}
    for key in ("send_cost", "partial_cost"):
        integers, _, num_zeroed = rounded[key]
        if num_zeroed:
            index = tuple(np.argwhere((integers == 0) & (costs[key] != 0))[0])
            raise InputError(
                f"{validation.entry_text(key, index)} is {costs[key][index]:g} and rounds to 0 at scale {scale:g}; "
                "the costs span too wide a range, bring the large ones down"
            )
    bound = scaling.rounding_bound({key: errors for key, (_, errors, _) in rounded.items()}, communication)
    found = Scaling(scale, bound, sum(num_zeroed for _, _, num_zeroed in rounded.values()))
    return _with_budget(
        {key: integers for key, (integers, _, _) in rounded.items()}, costs["error_budget"], scale
    ), found


def _with_budget(integers: dict[str, IntArray], budget: NDArray[Any], scale: float) -> dict[str, IntArray]:
    """The costs and the error budget in their unit. Integers stay within a fraction iff they stay within its floor."""
    if budget.dtype != np.int64 or scale != 1.0:
        # A budget beyond everything that can be lost never binds, so cutting it there keeps it in int64.
        largest, scaled = int(integers["prune_cost"].sum()), float(budget) * scale
        budget = np.array(largest if scaled >= largest else math.floor(scaled), dtype=np.int64)
    return {**integers, "error_budget": budget}
