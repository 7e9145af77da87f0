"""Ways to answer a layer problem: heuristics, MIP solvers, and the enumeration that judges them.

Importing this package costs nothing; each solver imports what it needs when it is asked.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from solvers.base import Limit as Limit
    from solvers.base import SolveLimits as SolveLimits
    from solvers.base import Solver as Solver
    from solvers.base import SolveResult as SolveResult
    from solvers.base import Termination as Termination
    from solvers.certificate import certify as certify
    from solvers.constraint_check import check_constraint as check_constraint
    from solvers.registry import solve as solve

_HOME = {
    "Limit": "solvers.base",
    "SolveLimits": "solvers.base",
    "SolveResult": "solvers.base",
    "Solver": "solvers.base",
    "Termination": "solvers.base",
    "certify": "solvers.certificate",
    "check_constraint": "solvers.constraint_check",
    "solve": "solvers.registry",
}

__all__ = list(_HOME)


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_HOME[name]), name)
