"""Layers made up for measurements, at any size."""

from __future__ import annotations

import numpy as np

from formulations.problem import LayerProblem


def sparse_layer(num_neurons: int, density: float, num_workers: int = 4, seed: int = 0) -> LayerProblem:
    """A square layer that was pruned already: this share of hard edges anywhere, sends of 1, 3 % room on each worker.

    As the shipped `s` instances, so that a hypergraph partitioner can take it.
    """
    rng = np.random.default_rng([seed, num_neurons])
    edges = rng.random((num_neurons, num_neurons)) < density
    owner = np.arange(num_neurons) * num_workers // num_neurons
    send_cost = (owner[:, None] != np.arange(num_workers)).astype(np.int64)
    most = int(np.ceil(1.03 * num_neurons / num_workers))
    return LayerProblem(
        2 * edges.astype(np.int64),
        owner,
        send_cost,
        capacity=np.full((num_workers, 1), most),
        name=f"synthetic-{num_neurons}-p{num_workers}",
    )


def dense_layer(num_neurons: int, num_inputs: int, num_workers: int = 4, seed: int = 0) -> LayerProblem:
    """A layer like a trained one: weights of all sizes, sends worth a few of them, exact counts where they divide."""
    rng = np.random.default_rng([seed, num_neurons, num_inputs])
    owner = np.arange(num_inputs) * num_workers // max(1, num_inputs)
    prune_cost = (rng.standard_normal((num_neurons, num_inputs)) ** 2 * 1000).astype(np.int64)
    price = 1000 * num_neurons // num_workers  # what a worker's neurons gain from an input on average
    send_cost = np.where(owner[:, None] != np.arange(num_workers), price, 0)
    return LayerProblem(prune_cost, owner, send_cost, name=f"dense-{num_neurons}x{num_inputs}-p{num_workers}")


def on_half_the_workers(problem: LayerProblem) -> LayerProblem:
    """The layer with its workers joined two by two, each input at its price as before.

    Args:
        problem: with equal links, no place costs and nothing but equal shares of the neurons to keep to, as the
            shipped `d` layers are; 2 Q workers.
    """
    num_workers = problem.num_workers // 2
    owner = problem.input_worker // 2
    price = problem.send_cost.max(axis=1)
    return LayerProblem(
        problem.prune_cost,
        owner,
        np.where(owner[:, None] != np.arange(num_workers), price[:, None], 0),
        keep_cost=problem.keep_cost,
        objective_constant=problem.objective_constant,
        input_bytes=problem.input_bytes,
        name=problem.name.replace(f"-p{problem.num_workers}", f"-p{num_workers}"),
        scaling=problem.scaling,
    )
