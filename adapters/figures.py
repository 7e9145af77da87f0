"""What is said of a plan beside its table: predicted times, and how far its outputs can be off."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from adapters.aligned import ms
from adapters.graph import LayerGraph, layer_graph
from adapters.guarantee import Guarantee, guarantee
from adapters.latency import alone, direct_parallel, predicted
from adapters.plan import PartitionPlan
from formulations.errors import InputError


@dataclass(frozen=True)
class Times:
    """Predicted seconds per example (`adapters.latency`).

    Attributes:
        plan: of the plan.
        direct: with its placement, where every channel is sent to all.
        alone: of the fastest worker that holds the whole network, with its name; None where nobody's memory does.
    """

    plan: float
    direct: float
    alone: tuple[str, float] | None

    def __str__(self) -> str:
        one = "nobody holds it alone" if self.alone is None else f"{self.alone[0]} alone {ms(self.alone[1])} ms"
        said = f"predicted per example: {ms(self.plan)} ms, direct parallel {ms(self.direct)} ms, {one}"
        return f"{said}, which is fastest" if self.alone is not None and self.alone[1] < self.plan else said

    def as_json(self) -> dict[str, Any]:
        one = None if self.alone is None else {"worker": self.alone[0], "seconds": self.alone[1]}
        return {"plan": self.plan, "direct_parallel": self.direct, "alone": one}


def times(plan: PartitionPlan, model: nn.Module, example: Tensor) -> Times:
    """Of a plan of `model`.

    Args:
        example: one batch, to trace the model with.
    """
    graph, cluster = layer_graph(model, example), plan.cluster
    names = cluster.worker_names
    found = [(names[worker], alone(graph, cluster, worker).total) for worker in _roomy(graph, plan)]
    return Times(
        predicted(plan).total, direct_parallel(plan, graph).total, min(found, key=lambda one: one[1], default=None)
    )


def _roomy(graph: LayerGraph, plan: PartitionPlan) -> Iterator[int]:
    """The workers whose memory holds the whole network."""
    need = int(graph.unit_bytes.sum())
    for worker, memory in enumerate(plan.cluster.memory_bytes):
        if memory < 0 or memory >= need:
            yield worker


@dataclass(frozen=True, eq=False)
class OutputError:
    """The error of the outputs on calibration examples.

    Attributes:
        found: measured, and bounded where that is possible; None where not even measuring is.
        reason: why there is no bound; empty where there is one.
    """

    found: Guarantee | None
    reason: str

    @property
    def shares(self) -> dict[str, np.ndarray[Any, np.dtype[np.float64]]]:
        """In shares of the outputs' norm, by what they are; examples with outputs 0 count as they are."""
        if self.found is None:
            return {}
        norm = np.where(self.found.output > 0, self.found.output, 1.0)
        errors = {"measured": self.found.measured, "guaranteed": self.found.bound}
        return {name: error / norm for name, error in errors.items() if error is not None}

    def __str__(self) -> str:
        shares = self.shares
        lines = [] if self.found is None else [f"output error, in shares of their norm, {self.num_examples} examples"]
        lines += [f"  {name}: mean {share.mean():.3g}, largest {share.max():.3g}" for name, share in shares.items()]
        if self.reason:
            lines.append(f"{'' if self.found is None else '  '}guaranteed: not available, because {self.reason}")
        elif self.num_vacuous:
            lines[-1] += f"; vacuous, above the outputs' own size, for {self.num_vacuous} of {self.num_examples}"
        return "\n".join(lines)

    @property
    def num_examples(self) -> int:
        return 0 if self.found is None else len(self.found.output)

    @property
    def num_vacuous(self) -> int:
        """The examples for which the bound is above the norm of the outputs."""
        return int((self.shares.get("guaranteed", np.zeros(0)) > 1).sum())

    def as_json(self) -> dict[str, Any]:
        said = {
            name: {"mean": float(share.mean()), "largest": float(share.max())} for name, share in self.shares.items()
        }
        empty = {"measured": None, "guaranteed": None}
        return {
            "examples": self.num_examples, **empty, **said, "vacuous": self.num_vacuous, "not_available": self.reason
        }  # fmt: skip


def output_error(plan: PartitionPlan, model: nn.Module, calibration: Sequence[Tensor]) -> OutputError:
    """Measured and bounded on all calibration examples (`adapters.guarantee`)."""
    try:
        found = guarantee(model, plan.weights, torch.cat(list(calibration)))
    except InputError as error:
        return OutputError(None, str(error))
    return OutputError(found, found.reason)
