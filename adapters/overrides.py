"""What somebody decided: which worker holds a layer, or some of its neurons."""

from __future__ import annotations

from collections.abc import Mapping
from types import UnionType

import numpy as np
from numpy.typing import NDArray

from adapters.graph import LayerGraph
from adapters.network import Network
from adapters.plan import PlanError
from formulations.cluster import Cluster
from formulations.errors import InputError, nearest

#: By layer: the name of the worker that holds it, or of the workers that hold neurons of it, by number.
Overrides = Mapping[str, str | Mapping[int, str]]


def pinned_units(graph: LayerGraph, cluster: Cluster, overrides: Overrides) -> dict[int, int]:
    """The workers of the units that the overrides are about. Neurons that share a unit with one of them go along.

    Raises:
        InputError: an unknown layer, neuron or worker, or one unit on two workers.
    """
    layers = {layer.name: layer for layer in graph.layers}
    pinned: dict[int, int] = {}
    _refuse_other("overrides are", overrides, Mapping)
    for name, wanted in overrides.items():
        if name not in layers:
            raise InputError(f"overrides: there is no layer {name!r}; {nearest(str(name), layers)}")
        _refuse_other(f"overrides: layer {name!r} has", wanted, str | Mapping)
        unit = layers[name].unit
        neurons = dict.fromkeys(range(unit.size), wanted) if isinstance(wanted, str) else wanted
        for neuron, worker in neurons.items():
            where = f"overrides: neuron {neuron} of layer {name!r}"
            if not isinstance(neuron, int | np.integer) or isinstance(neuron, bool) or not 0 <= neuron < unit.size:
                raise InputError(f"{where}: it has neurons 0 to {unit.size - 1}")
            if worker not in cluster.worker_names:
                close = nearest(str(worker), cluster.worker_names)
                raise InputError(f"{where}: there is no worker {worker!r}; {close}")
            index = cluster.worker_names.index(worker)
            if pinned.setdefault(int(unit[neuron]), index) != index:
                other = cluster.worker_names[pinned[int(unit[neuron])]]
                raise InputError(f"{where} is to be on {worker!r}, but moves with one that is to be on {other!r}")
    return pinned


def _refuse_other(what: str, given: object, kind: type | UnionType) -> None:
    """Raises InputError where `given` is of another kind."""
    if not isinstance(given, kind):
        raise InputError(f"{what} a {type(given).__name__}; give a worker's name, or names by neuron, for each layer")


def require_pins(network: Network, worker: NDArray[np.int64]) -> None:
    """Raises PlanError where a pinned unit is not on its worker, for want of room there."""
    for group in network.graph.groups:
        wrong = [unit for unit in group.units.tolist() if network.pinned.get(unit, worker[unit]) != worker[unit]]
        if wrong:
            name = network.cluster.worker_names[network.pinned[wrong[0]]]
            raise PlanError(
                f"layer {group.name!r}: the overrides want more neurons on {name!r} than it has memory for; "
                "pin fewer, or give it more"
            )
