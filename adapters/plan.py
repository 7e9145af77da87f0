"""A plan: for every layer, where its neurons sit, what is sent for them, and the weights that stay."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from formulations.cluster import Cluster
from formulations.evaluation import Evaluation
from formulations.problem import LayerProblem
from solvers.base import SolveResult


class PlanError(RuntimeError):
    """No plan can be made. The message names the layer and what is short."""


@dataclass(frozen=True, eq=False)
class LayerPlan:
    """One layer's problem and its answer, which has an assignment."""

    problem: LayerProblem
    result: SolveResult

    @property
    def name(self) -> str:
        return self.problem.name

    @property
    def evaluation(self) -> Evaluation:
        assert self.result.evaluation is not None  # partition_model makes no plan without
        return self.result.evaluation

    @property
    def worker(self) -> NDArray[np.int64]:
        """N; the worker of each neuron."""
        return self.evaluation.assignment.worker

    @property
    def bytes_direct(self) -> int:
        return self.problem.bytes_direct


@dataclass(frozen=True, eq=False)
class PartitionPlan:
    """A placed network.

    Attributes:
        cluster: the workers.
        layers: in the order they run.
        weights: adjusted weights and biases, by their name in the model's `state_dict`.
        relative_error: per layer, the squared error that is left after the adjustment, in shares of the
            layer's output variance, on the calibration examples.
    """

    cluster: Cluster
    layers: tuple[LayerPlan, ...]
    weights: Mapping[str, Tensor] = field(repr=False)
    relative_error: Mapping[str, float]

    @property
    def bytes_sent(self) -> int:
        """Bytes on the wire per example, each message once."""
        return sum(layer.evaluation.bytes_sent for layer in self.layers)

    @property
    def bytes_direct(self) -> int:
        """What direct parallel execution sends: every input of every layer to every other worker."""
        return sum(layer.bytes_direct for layer in self.layers)

    @property
    def objective(self) -> int:
        return sum(layer.evaluation.objective for layer in self.layers)

    def __str__(self) -> str:
        titles = ("bytes", "of", "weights kept", "rel. error", "objective", "lower bound", "gap")
        lines = ["{:<12} {:>9} {:>9} {:>13} {:>11} {:>12} {:>12} {:>7}".format("layer", *titles)]
        for layer in self.layers:
            found, problem, gap = layer.evaluation, layer.problem, layer.result.gap
            bound = "-" if gap is None else f"{layer.result.dual_bound / problem.scale:.6f}"
            lines.append(
                f"{layer.name:<12} {found.bytes_sent:>9} {layer.bytes_direct:>9} "
                f"{found.num_kept_weights / max(1, problem.prune_cost.size):>13.1%} "
                f"{self.relative_error[layer.name]:>11.3%} "
                f"{found.objective / problem.scale:>12.6f} {bound:>12} {'-' if gap is None else f'{gap:.1%}':>7}"
            )
        share = self.bytes_sent / max(1, self.bytes_direct)
        lines.append(f"{'total':<12} {self.bytes_sent:>9} {self.bytes_direct:>9}   {share:.1%} of direct parallel")
        return "\n".join(lines)
