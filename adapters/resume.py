"""Planning that can be taken up again: every answered layer problem is written at once, and read instead of solved.

What comes before and between the layer problems is the same every time for the same seed, so that a later run meets
the same problems.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from adapters.plan_files import claimed_result
from formulations.assignment import Assignment
from formulations.certificate import Certificate, arrays_of
from formulations.constraints import Constraint
from formulations.errors import InputError
from formulations.problem import LayerProblem
from solvers.base import Limit, Progress, Report, SolveLimits, Solver, SolverError, SolveResult, silent
from solvers.certificate import certify

_ENDING = ".cert.json"
#: Of the names of answers' files: SHA-256 in hexadecimal digits.
_STEM_LENGTH = 64


@dataclass(frozen=True, eq=False)
class StoredProof:
    """A proof as a certificate holds it; what `solvers.proofs` has, without its structure.

    Attributes:
        bound: what it proves.
        kind: which kind of proof it is.
        stored: its arrays, by name.
    """

    bound: int
    kind: str
    stored: Mapping[str, Any]

    def arrays(self) -> dict[str, Any]:
        """For a certificate's `.npz`."""
        return dict(self.stored)


@dataclass(frozen=True)
class Answers:
    """Certificates of answers in a folder, each under the digest of all that was asked.

    Attributes:
        folder: made with the first answer.
    """

    folder: Path

    @classmethod
    def beside(cls, folder: str | Path) -> Answers:
        """Those that lead to the plan which is to be written as this folder: in FOLDER.partial."""
        path = Path(os.path.realpath(folder))
        return cls(path.with_name(f"{path.name}.partial"))

    def path(self, problem: LayerProblem, asked: str) -> Path:
        """Where the answer lies, or would.

        Args:
            asked: who was asked, and within which limits; another text is another question.
        """
        stem = hashlib.sha256(f"{problem.digest} {asked}".encode()).hexdigest()
        return self.folder / f"{stem}{_ENDING}"

    def find(self, problem: LayerProblem, asked: str) -> SolveResult | None:
        """The answer with its proof, evaluated anew; None where there is none.

        Raises:
            InputError: there is one that is damaged, or about another problem.
        """
        path = self.path(problem, asked)
        if not path.exists():
            return None
        certificate = Certificate.read(path)
        try:
            return _answer(problem, certificate)
        except (InputError, SolverError, KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
            raise InputError(f"{path}: no answer of problem {problem.name!r} ({error})") from None

    def keep(self, problem: LayerProblem, asked: str, result: SolveResult) -> None:
        """Write an answer that has an assignment: there whole, or not at all.

        Raises:
            InputError: it cannot be written.
        """
        # The certificate holds the assignment, and its JSON is renamed into its place after all else is there.
        certify(problem, result).write(self.path(problem, asked))

    def __len__(self) -> int:
        return len(self._files(_ENDING))

    def clear(self) -> None:
        """Remove all answers, and the folder where it held nothing else."""
        try:
            for path in (*self._files(_ENDING), *self._files(arrays_of(_ENDING))):
                path.unlink(missing_ok=True)
            self.folder.rmdir()
        except OSError:  # not there, something else in it, or not ours to remove: it harms nobody
            pass

    def _files(self, ending: str) -> list[Path]:
        return [path for path in self.folder.glob(f"*{ending}") if len(path.name) == _STEM_LENGTH + len(ending)]


def _answer(problem: LayerProblem, certificate: Certificate) -> SolveResult:
    """Raises InputError, or what else a damaged certificate leads to, where it is no answer of `problem`."""
    if certificate.problem_digest != problem.digest:
        raise InputError(f"it is about {certificate.problem_digest[:12]}, the problem is {problem.digest[:12]}")
    arrays = dict(certificate.arrays)
    given = {key: arrays.pop(key, None) for key in ("worker", "sent", "partial")}
    result = claimed_result(problem, Assignment(**given), certificate)
    if not arrays or result.bound_proved_by is None:
        return result
    return replace(result, proof=StoredProof(int(result.dual_bound), result.bound_proved_by, arrays))


@dataclass(frozen=True, eq=False)
class ResumableSolver:
    """A solver whose final answers are kept, and taken where they are there already.

    An answer that Ctrl-C cut short is not kept, nor is one without an assignment. Answers are of a solver, a seed and
    limits; others are not taken.

    Attributes:
        solver: who answers what has not been answered.
        answers: where they are kept.
        seed: that the solver was made with.
        say: hears what is worth a word: an answer that is damaged, or cannot be kept.
    """

    solver: Solver
    answers: Answers
    seed: int = 0
    say: Callable[[str], None] = lambda text: None

    @property
    def name(self) -> str:
        return self.solver.name

    def why_not(self, problem: LayerProblem, constraints: Sequence[Constraint] = ()) -> str | None:
        """As `Solver.why_not`."""
        return self.solver.why_not(problem, constraints)

    def solve(
        self,
        problem: LayerProblem,
        constraints: Sequence[Constraint] = (),
        limits: SolveLimits = SolveLimits(),
        report: Report = silent,
    ) -> SolveResult:
        """As `Solver.solve`."""
        if constraints:  # whose rules a digest does not know
            return self.solver.solve(problem, constraints, limits, report)
        asked = f"{self.solver.name} {self.seed} {limits}"
        known = self._known(problem, asked)
        if known is not None:
            report(Progress(0.0, known.primal_bound, known.dual_bound, "answered by an earlier run"))
            return known
        result = self.solver.solve(problem, constraints, limits, report)
        if result.assignment is not None and result.limit is not Limit.INTERRUPT:
            self._keep(problem, asked, result)
        return result

    def _known(self, problem: LayerProblem, asked: str) -> SolveResult | None:
        try:
            return self.answers.find(problem, asked)
        except InputError as error:
            self.say(f"layer {problem.name!r} is solved again: {error}")
            return None

    def _keep(self, problem: LayerProblem, asked: str, result: SolveResult) -> None:
        try:
            self.answers.keep(problem, asked, result)
        except InputError as error:  # the plan can do without
            self.say(f"the answer of layer {problem.name!r} is not kept: {error}")
