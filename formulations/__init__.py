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
    from formulations.constraints import Colocate as Colocate
    from formulations.constraints import Constraint as Constraint
    from formulations.constraints import Forbid as Forbid
    from formulations.constraints import KeepInput as KeepInput
    from formulations.constraints import MaxLinks as MaxLinks
    from formulations.constraints import MaxReceivers as MaxReceivers
    from formulations.constraints import Pin as Pin
    from formulations.constraints import Separate as Separate
    from formulations.constraints import SpareCapacity as SpareCapacity
    from formulations.errors import InputError as InputError
    from formulations.evaluation import Evaluation as Evaluation
    from formulations.evaluation import Violation as Violation
    from formulations.evaluation import evaluate as evaluate
    from formulations.problem import LayerProblem as LayerProblem

_HOME = {
    "Assignment": "formulations.assignment",
    "Cluster": "formulations.cluster",
    "Colocate": "formulations.constraints",
    "Constraint": "formulations.constraints",
    "Evaluation": "formulations.evaluation",
    "Forbid": "formulations.constraints",
    "InputError": "formulations.errors",
    "KeepInput": "formulations.constraints",
    "LayerProblem": "formulations.problem",
    "MaxLinks": "formulations.constraints",
    "MaxReceivers": "formulations.constraints",
    "Pin": "formulations.constraints",
    "Separate": "formulations.constraints",
    "SpareCapacity": "formulations.constraints",
    "Violation": "formulations.evaluation",
    "evaluate": "formulations.evaluation",
}

__all__ = list(_HOME)


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_HOME[name]), name)
