"""Every solver by name, whether it can be used here, and the call that runs one."""

from __future__ import annotations

import dataclasses
import importlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from formulations.constraints import Constraint
from formulations.errors import InputError, nearest
from formulations.problem import LayerProblem
from solvers.base import MissingPackageError, Report, SolveLimits, Solver, SolveResult, silent


@dataclass(frozen=True)
class Entry:
    """A solver that can be asked for.

    Attributes:
        summary: one line for `--solver list`.
        make: the solver with a given seed.
        check: raises MissingPackageError where a package it needs is not usable.
    """

    summary: str
    make: Callable[[int], Solver]
    check: Callable[[], object] = lambda: None

    def why_unavailable(self) -> str | None:
        """Why this solver cannot be used here; None where it can."""
        try:
            self.check()
        except MissingPackageError as error:
            return str(error)
        return None


def _load(where: str) -> Any:
    """`module:name`, imported when a solver is made and not before."""
    module, _, name = where.partition(":")
    return getattr(importlib.import_module(module), name)


def _solver(where: str, **settings: Any) -> Callable[[int], Solver]:
    """Makes the solver class found there, with these settings; one that draws at random gets the seed."""

    def make(seed: int) -> Solver:
        kind = _load(where)
        seeded = {"seed": seed} if "seed" in {field.name for field in dataclasses.fields(kind)} else {}
        solver: Solver = kind(**settings, **seeded)
        return solver

    return make


def _mip(name: str, formulation: str, backend: str) -> Callable[[int], Solver]:
    """Makes a MIP solver of a formulation and a backend, started from local search."""

    def make(seed: int) -> Solver:
        starter = SOLVERS["local-search"].make(seed)
        solver: Solver = _load("solvers.mip:MipSolver")(name, _load(formulation), _load(backend)(seed=seed), starter)
        return solver

    return make


def _version(module: str) -> Callable[[], object]:
    """Looks at the package a module needs, when asked."""

    def check() -> object:
        return _load(f"{module}:check_version")()

    return check


_TEXTBOOK, _STRENGTHENED = "formulations.textbook:TEXTBOOK", "formulations.strengthened:STRENGTHENED"

SOLVERS: dict[str, Entry] = {
    "contiguous": Entry(
        "neurons in order, one stretch per worker (baseline)", _solver("solvers.contiguous:Contiguous")
    ),
    "l0-munkres": Entry(
        "RePurpose's single pass: price weights one by one, place once", _solver("solvers.l0_munkres:L0Munkres")
    ),
    "alternation": Entry("place, choose the sends, repeat; several starts", _solver("solvers.l0_munkres:Alternation")),
    "local-search": Entry("annealing by moves and swaps, limits priced", _solver("solvers.local_search:LocalSearch")),
    "mt-kahypar": Entry(
        "the hypergraph partitioner's highest quality, for layers of hard edges",
        _solver("solvers.mt_kahypar:MtKaHyPar"),
        _version("solvers.mt_kahypar"),
    ),
    "mt-kahypar-default": Entry(
        "the hypergraph partitioner's default, for layers of hard edges",
        _solver("solvers.mt_kahypar:MtKaHyPar", preset="DEFAULT", name="mt-kahypar-default"),
        _version("solvers.mt_kahypar"),
    ),
    **{
        name: Entry(
            f"{title} on the {kind} MIP, started from local search",
            _mip(name, formulation, f"{module}:{backend}"),
            _version(module),
        )
        for short, title, module, backend in (
            ("highs", "HiGHS", "solvers.highs", "Highs"),
            ("cp-sat", "CP-SAT", "solvers.cp_sat", "CpSat"),
            ("scip", "SCIP", "solvers.scip", "Scip"),
        )
        for name, kind, formulation in (
            (short, "strengthened", _STRENGTHENED),
            (f"{short}-textbook", "textbook", _TEXTBOOK),
        )
    },
    "portfolio": Entry(
        "local search, then a lower bound by block decomposition (default)", _solver("solvers.portfolio:Portfolio")
    ),
    "assignment": Entry(
        "Munkres with its duals as proof, for partials and per_weight", _solver("solvers.separable:AssignmentSolver")
    ),
    "lagrangian": Entry("a lower bound by block decomposition; no placement", _solver("solvers.lagrangian:Lagrangian")),
    "brute-force": Entry("every assignment; tiny problems only", _solver("solvers.brute_force:BruteForce")),
}


def require(name: str) -> None:
    """Nothing, where the solver called `name` can be used.

    Raises:
        InputError: no such solver.
        MissingPackageError: a package it needs is absent or unusable.
    """
    if name not in SOLVERS:
        raise InputError(f"solver {name!r} is unknown; {nearest(name, SOLVERS)}")
    SOLVERS[name].check()


def get(name: str, seed: int = 0) -> Solver:
    """The solver called `name`. Raises as `require` does."""
    require(name)
    return SOLVERS[name].make(seed)


def solve(
    problem: LayerProblem,
    solver: str | Solver = "portfolio",
    *,
    constraints: Sequence[Constraint] = (),
    limits: SolveLimits = SolveLimits(),
    seed: int = 0,
    report: Report = silent,
) -> SolveResult:
    """Place the neurons of one layer.

    Args:
        problem: the layer.
        solver: a name from `SOLVERS`, or a solver object.
        constraints: custom rules; a solver that cannot honour one refuses.
        limits: when to stop.
        seed: of a solver asked for by name.
        report: hears progress.

    Raises:
        InputError: unknown solver, missing package, or a problem the solver cannot take.
        SolverError: the solver failed or contradicted itself.
    """
    chosen = get(solver, seed) if isinstance(solver, str) else solver
    if not hasattr(chosen, "solve"):
        raise InputError(f"solver is a {type(solver).__name__}; give a name such as 'portfolio', or a solver")
    return chosen.solve(problem, constraints, limits, report)
