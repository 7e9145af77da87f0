"""Every solver by name, whether it can be used here, and the call that runs one."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

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


def _contiguous(seed: int) -> Solver:
    from solvers.contiguous import Contiguous

    return Contiguous()


def _l0_munkres(seed: int) -> Solver:
    from solvers.l0_munkres import L0Munkres

    return L0Munkres()


def _alternation(seed: int) -> Solver:
    from solvers.l0_munkres import Alternation

    return Alternation(seed=seed)


def _brute_force(seed: int) -> Solver:
    from solvers.brute_force import BruteForce

    return BruteForce()


def _highs(seed: int) -> Solver:
    from formulations.strengthened import STRENGTHENED
    from solvers.highs import Highs
    from solvers.mip import MipSolver

    return MipSolver("highs", STRENGTHENED, Highs(seed=seed), starter=_alternation(seed))


def _highs_textbook(seed: int) -> Solver:
    from formulations.textbook import TEXTBOOK
    from solvers.highs import Highs
    from solvers.mip import MipSolver

    return MipSolver("highs-textbook", TEXTBOOK, Highs(seed=seed), starter=_alternation(seed))


def _cp_sat(seed: int) -> Solver:
    from formulations.strengthened import STRENGTHENED
    from solvers.cp_sat import CpSat
    from solvers.mip import MipSolver

    return MipSolver("cp-sat", STRENGTHENED, CpSat(seed=seed), starter=_alternation(seed))


def _cp_sat_textbook(seed: int) -> Solver:
    from formulations.textbook import TEXTBOOK
    from solvers.cp_sat import CpSat
    from solvers.mip import MipSolver

    return MipSolver("cp-sat-textbook", TEXTBOOK, CpSat(seed=seed), starter=_alternation(seed))


def _scip(seed: int) -> Solver:
    from formulations.strengthened import STRENGTHENED
    from solvers.mip import MipSolver
    from solvers.scip import Scip

    return MipSolver("scip", STRENGTHENED, Scip(seed=seed), starter=_alternation(seed))


def _scip_textbook(seed: int) -> Solver:
    from formulations.textbook import TEXTBOOK
    from solvers.mip import MipSolver
    from solvers.scip import Scip

    return MipSolver("scip-textbook", TEXTBOOK, Scip(seed=seed), starter=_alternation(seed))


def _check_highs() -> object:
    from solvers.highs import check_version

    return check_version()


def _check_ortools() -> object:
    from solvers.cp_sat import check_version

    return check_version()


SOLVERS: dict[str, Entry] = {
    "contiguous": Entry("neurons in order, one stretch per worker (baseline)", _contiguous),
    "l0-munkres": Entry("RePurpose's single pass: price weights one by one, place once", _l0_munkres),
    "alternation": Entry("place, choose the sends, repeat; several starts", _alternation),
    "highs": Entry("HiGHS on the strengthened MIP, started from alternation", _highs, _check_highs),
    "highs-textbook": Entry("HiGHS on the textbook MIP, started from alternation", _highs_textbook, _check_highs),
    "cp-sat": Entry("CP-SAT on the strengthened MIP, started from alternation", _cp_sat, _check_ortools),
    "cp-sat-textbook": Entry("CP-SAT on the textbook MIP, started from alternation", _cp_sat_textbook, _check_ortools),
    "scip": Entry("SCIP on the strengthened MIP, started from alternation", _scip, _check_ortools),
    "scip-textbook": Entry("SCIP on the textbook MIP, started from alternation", _scip_textbook, _check_ortools),
    "brute-force": Entry("every assignment; tiny problems only", _brute_force),
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
    solver: str | Solver = "highs",
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
    return chosen.solve(problem, constraints, limits, report)
