"""Does a certificate prove what it claims? All is computed anew, by code that no solver uses.

The assignment is evaluated by the specification; solvers/check_bound.py computes lower bounds.

    python -m solvers.check PROBLEM.npz CERTIFICATE.json

One line per claim: verified, not checkable, or wrong. Exit status: 0 nothing is wrong, 1 something is, 2 bad input.
"""

from __future__ import annotations

import argparse
import io
import sys
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from formulations.assignment import Assignment
from formulations.certificate import Certificate, DamagedArraysError
from formulations.constraints import Constraint
from formulations.errors import InputError
from formulations.evaluation import Evaluation, evaluate
from formulations.problem import LayerProblem
from solvers.check_bound import RefutedError, UncheckableError, recomputed_bound

VERIFIED, NOT_CHECKABLE, WRONG = "verified", "not checkable", "wrong"


@dataclass(frozen=True)
class Finding:
    """What came of one claim."""

    claim: str
    verdict: str
    text: str

    def __str__(self) -> str:
        return f"{self.verdict}: {self.claim}: {self.text}"


def check(problem: LayerProblem, certificate: Certificate, constraints: Sequence[Constraint] = ()) -> list[Finding]:
    """Go through all claims.

    Args:
        problem: what the certificate is about.
        certificate: see `Certificate`.
        constraints: the custom ones it was made with; those not given are not checked, and that is said.
    """
    differs = _about_another(problem, certificate)
    if differs:
        return [Finding("problem", WRONG, differs)]
    found = [Finding("problem", VERIFIED, f"{problem.name!r}, digest {problem.digest[:12]}")]
    claims = certificate.claims
    found += _check_names(certificate.constraints, constraints)
    constraints = [constraint for constraint in constraints if constraint.name in certificate.constraints]
    evaluation = None
    for claim in ("bytes_sent", "kept_weights"):
        if claims.objective is None and getattr(claims, claim) is not None:
            found.append(Finding(claim, WRONG, f"{getattr(claims, claim)} is claimed of no assignment"))
    if claims.objective is not None:
        evaluation, findings = _check_assignment(problem, certificate, constraints)
        found += findings
    bound = None
    if claims.dual_bound is not None:
        bound, finding = _check_bound(problem, certificate, constraints)
        found.append(finding)
    return [*found, *_check_gap(certificate), _check_termination(problem, certificate, constraints, evaluation, bound)]


def _about_another(problem: LayerProblem, certificate: Certificate) -> str | None:
    if certificate.problem_digest != problem.digest:
        return (
            f"the certificate is about {certificate.problem_digest[:12]!r}, {problem.name!r} is {problem.digest[:12]!r}"
        )
    if certificate.scale != problem.scale:
        return f"its costs are scaled by {certificate.scale!r}, those of problem {problem.name!r} by {problem.scale!r}"
    return None


def _check_assignment(
    problem: LayerProblem, certificate: Certificate, constraints: Sequence[Constraint]
) -> tuple[Evaluation | None, list[Finding]]:
    claims, arrays = certificate.claims, certificate.arrays
    try:
        if "worker" not in arrays:
            raise InputError("the assignment is missing")
        assignment = Assignment(arrays["worker"], sent=arrays.get("sent"), partial=arrays.get("partial"))
        evaluation = evaluate(problem, assignment, constraints)
    except InputError as error:
        return None, [Finding("objective", WRONG, f"{claims.objective} is claimed, but {error}")]
    findings = []
    if evaluation.violations:
        broken = "; ".join(str(violation) for violation in evaluation.violations)
        findings.append(Finding("assignment", WRONG, f"it is not feasible: {broken}"))
    else:
        findings.append(Finding("assignment", VERIFIED, "every neuron has a worker, and all limits are kept"))
    for claim, claimed, actual in (
        ("objective", claims.objective, evaluation.objective),
        ("bytes_sent", claims.bytes_sent, evaluation.bytes_sent),
        ("kept_weights", claims.kept_weights, evaluation.num_kept_weights),
    ):
        verdict = VERIFIED if claimed == actual else WRONG
        text = f"{claimed}" if claimed == actual else f"{claimed} is claimed, the assignment has {actual}"
        findings.append(Finding(claim, verdict, text))
    holds = evaluation.feasible and evaluation.objective == claims.objective
    return evaluation if holds else None, findings


def _check_names(names: Sequence[str], constraints: Sequence[Constraint]) -> list[Finding]:
    """Which constraints are looked at: those that the certificate names and the checker was given."""
    given = [constraint.name for constraint in constraints]
    findings = []
    for verdict, text, chosen in (
        (VERIFIED, "looked at", [name for name in names if name in given]),
        (NOT_CHECKABLE, "not given to the checker", [name for name in names if name not in given]),
        (NOT_CHECKABLE, "given, but nothing is claimed of", [name for name in given if name not in names]),
    ):
        if chosen:
            # Names are anybody's text, line breaks and all.
            findings.append(Finding("constraints", verdict, f"{text}: {', '.join(map(repr, chosen))}"))
    return findings


def _need_all(names: Sequence[str], constraints: Sequence[Constraint]) -> None:
    """Raises UncheckableError where constraints that decide what is feasible were not given."""
    missing = set(names) - {constraint.name for constraint in constraints}
    if missing:
        raise UncheckableError(
            f"it depends on constraints that were not given: {', '.join(map(repr, sorted(missing)))}"
        )


def _check_bound(
    problem: LayerProblem, certificate: Certificate, constraints: Sequence[Constraint]
) -> tuple[int | None, Finding]:
    """The bound as far as it is verified."""
    claimed, kind = certificate.claims.dual_bound, str(certificate.claims.bound_proved_by)
    try:
        if kind == "exhaustive":
            _need_all(certificate.constraints, constraints)
        bound = recomputed_bound(problem, kind, certificate.arrays, constraints)
    except RefutedError as error:
        return None, Finding("dual_bound", WRONG, f"{claimed} by {kind} is claimed, but {error}")
    except UncheckableError as error:
        return None, Finding("dual_bound", NOT_CHECKABLE, f"{claimed} by {kind}: {error}{_by_whom(certificate)}")
    if bound is None:
        return None, Finding("dual_bound", WRONG, f"{claimed} is claimed, but no assignment is feasible")
    if claimed is not None and bound < claimed:
        return None, Finding("dual_bound", WRONG, f"{claimed} by {kind} is claimed, what is stored proves {bound}")
    more = "" if bound == claimed else f"; even {bound} is proved"
    return claimed, Finding("dual_bound", VERIFIED, f"{claimed} by {kind}, computed anew{more}")


def _by_whom(certificate: Certificate) -> str:
    return f" (said by {certificate.made.get('solver', 'nobody')!r})"


def _check_gap(certificate: Certificate) -> list[Finding]:
    claims = certificate.claims
    if claims.objective is None or claims.dual_bound is None:
        return [] if claims.gap is None else [Finding("gap", WRONG, f"{claims.gap} is claimed of unknown bounds")]
    gap = (claims.objective - claims.dual_bound) / max(1, abs(claims.objective))
    if gap < 0:
        return [Finding("gap", WRONG, f"the lower bound {claims.dual_bound} is above the objective {claims.objective}")]
    if claims.gap is None or not np.isclose(claims.gap, gap, rtol=1e-12, atol=0):
        return [Finding("gap", WRONG, f"{claims.gap} is claimed; the two bounds make it {gap}")]
    return [Finding("gap", VERIFIED, f"{gap:.4%} between the two bounds as claimed")]


def _check_termination(
    problem: LayerProblem,
    certificate: Certificate,
    constraints: Sequence[Constraint],
    evaluation: Evaluation | None,
    bound: int | None,
) -> Finding:
    claims = certificate.claims
    said = claims.termination
    if (said in ("OPTIMAL", "FEASIBLE")) != (claims.objective is not None):
        return Finding("termination", WRONG, f"{said} does not go with objective {claims.objective}")
    if said == "OPTIMAL" and claims.objective != claims.dual_bound:
        return Finding("termination", WRONG, f"OPTIMAL, yet {claims.objective} and {claims.dual_bound} are not equal")
    if said in ("OPTIMAL", "FEASIBLE"):
        if evaluation is None:
            return Finding("termination", WRONG, f"{said}, but its assignment is not what it claims")
        if said == "OPTIMAL" and bound is None:
            return Finding("termination", NOT_CHECKABLE, "OPTIMAL as far as the bound can be believed")
        if {constraint.name for constraint in constraints} != set(certificate.constraints):
            return Finding("termination", NOT_CHECKABLE, f"{said} as far as the constraints that were not given hold")
    if said == "INFEASIBLE":
        return _check_infeasible(problem, certificate, constraints)
    return Finding("termination", VERIFIED, said)


def _check_infeasible(problem: LayerProblem, certificate: Certificate, constraints: Sequence[Constraint]) -> Finding:
    """By counting, or by looking at everything where that is little."""
    total = problem.load.sum(axis=0)
    homeless = ~np.any(np.all(problem.load[:, None, :] <= problem.capacity[None], axis=2), axis=1)
    if (
        np.any(np.minimum(problem.capacity, total).sum(axis=0) < total)
        or np.any(problem.min_load.sum(axis=0) > total)
        or np.any(problem.min_load > problem.capacity)
        or homeless.any()
    ):
        return Finding("termination", VERIFIED, "INFEASIBLE: the loads do not fit the workers")
    try:
        _need_all(certificate.constraints, constraints)
        least = recomputed_bound(problem, "exhaustive", {}, constraints)
    except UncheckableError as error:
        return Finding("termination", NOT_CHECKABLE, f"INFEASIBLE: {error}")
    if least is None:
        return Finding("termination", VERIFIED, "INFEASIBLE: no assignment is feasible")
    return Finding("termination", WRONG, f"INFEASIBLE is claimed, but an assignment costs {least}")


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; the exit status."""
    description, *_, details = (__doc__ or "").split("\n\n")
    parser = argparse.ArgumentParser(
        prog="python -m solvers.check", description=description, epilog=details.strip(),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    parser.add_argument("problem", metavar="PROBLEM", help="layer problem (.npz)")
    parser.add_argument("certificate", metavar="CERTIFICATE", help="its certificate (.json, with its .npz beside it)")
    arguments = parser.parse_args(argv)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # names in files may be no text at all
    try:
        problem = LayerProblem.read(arguments.problem)
        findings = check(problem, Certificate.read(arguments.certificate))
    except DamagedArraysError as error:
        findings = [Finding("arrays", WRONG, str(error))]
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    for finding in findings:
        print(finding)
    return int(any(finding.verdict == WRONG for finding in findings))


if __name__ == "__main__":
    sys.exit(main())
