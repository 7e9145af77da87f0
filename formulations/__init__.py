"""The layer problem, its meaning (`evaluate`) and its mathematical programs.

Importing this package costs nothing and its names cost numpy only; Pyomo is imported by the
modules that build models.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from formulations.assignment import Assignment as Assignment
    from formulations.cluster import Cluster as Cluster
    from formulations.constraints import Constraint as Constraint
    from formulations.errors import InputError as InputError
    from formulations.evaluation import Evaluation as Evaluation
    from formulations.evaluation import Violation as Violation
    from formulations.evaluation import evaluate as evaluate
    from formulations.problem import LayerProblem as LayerProblem

_HOME = {
    "Assignment": "formulations.assignment",
    "Cluster": "formulations.cluster",
    "Constraint": "formulations.constraints",
    "Evaluation": "formulations.evaluation",
    "InputError": "formulations.errors",
    "LayerProblem": "formulations.problem",
    "Violation": "formulations.evaluation",
    "evaluate": "formulations.evaluation",
}

__all__ = list(_HOME)


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_HOME[name]), name)
