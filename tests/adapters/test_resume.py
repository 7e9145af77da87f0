"""Planning that was interrupted and is taken up again."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from adapters import PartitionPlan, partition_model
from adapters.resume import Answers, ResumableSolver
from formulations import Cluster, LayerProblem
from solvers import SolveLimits, solve
from solvers.base import Limit, Solver, SolveResult
from solvers.certificate import certify
from solvers.check import VERIFIED, check
from solvers.registry import get


def _problem(price: int = 4) -> LayerProblem:
    """Four neurons, four inputs, two workers; the optimum at price 4 is 9, neurons 0 1 0 1."""
    return LayerProblem(
        prune_cost=[[9, 0, 0, 8], [0, 6, 5, 0], [7, 1, 0, 9], [1, 8, 6, 0]],
        input_worker=[0, 0, 1, 1],
        send_cost=[[0, price], [0, price], [price, 0], [price, 0]],
        name="demo",
    )


@dataclasses.dataclass
class _Counting:
    """A solver that notes what it is asked, and after `most` answers does as Ctrl-C makes it do."""

    solver: Solver
    most: int | None = None
    cut: Callable[[SolveResult], SolveResult] | None = None
    asked: list[str] = dataclasses.field(default_factory=list)

    @property
    def name(self) -> str:
        return self.solver.name

    def why_not(self, *arguments: Any) -> str | None:
        return self.solver.why_not(*arguments)

    def solve(self, problem: LayerProblem, *arguments: Any) -> SolveResult:
        self.asked.append(problem.name)
        if self.most is not None and len(self.asked) > self.most:
            if self.cut is None:
                raise KeyboardInterrupt
            return self.cut(self.solver.solve(problem, *arguments))
        return self.solver.solve(problem, *arguments)


def _network() -> tuple[nn.Module, tuple[torch.Tensor, ...]]:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 6), nn.ReLU(), nn.Linear(6, 4))
    return model, torch.randn(96, 6).split(48)


def _planned(solver: Solver) -> PartitionPlan:
    model, batches = _network()
    return partition_model(
        model, batches[0], Cluster.equal(2), solver=solver, calibration=batches, limits=SolveLimits(seconds=5)
    )


def _said(plan: PartitionPlan) -> dict[str, Any]:
    """All of a plan but how long things took."""
    return {
        "table": str(plan),
        "settings": plan.settings,
        "workers": [layer.worker.tolist() for layer in plan.layers],
        "weights": {key: value.tolist() for key, value in plan.weights.items()},
        "digests": [group.problem.digest for group in plan.groups],
        "bounds": [(group.result.primal_bound, group.result.dual_bound) for group in plan.groups],
    }


def test_an_answer_comes_back_whole(tmp_path: Path) -> None:
    """Objective 9, proved: read back, the answer is the same, and its proof still convinces the checker."""
    problem, answers = _problem(), Answers(tmp_path / "kept")
    result = solve(problem, "portfolio", limits=SolveLimits(seconds=10))
    assert (result.primal_bound, result.dual_bound) == (9, 9)
    assert len(answers) == 0
    assert answers.find(problem, "portfolio") is None
    answers.keep(problem, "portfolio", result)
    assert len(answers) == 1
    found = answers.find(problem, "portfolio")
    assert found is not None
    assert found.assignment is not None
    assert found.assignment.worker.tolist() == [0, 1, 0, 1]
    for key in ("solver", "problem_name", "dual_bound", "bound_proved_by", "termination", "seconds", "limit"):
        assert getattr(found, key) == getattr(result, key)
    findings = check(problem, certify(problem, found))
    assert findings == check(problem, certify(problem, result))
    assert {finding.verdict for finding in findings} == {VERIFIED}
    answers.clear()
    assert not (tmp_path / "kept").exists()


def test_clearing_leaves_what_is_not_ours(tmp_path: Path) -> None:
    """A certificate under a name of its own and a text stay, with the folder."""
    problem, answers = _problem(), Answers(tmp_path)
    result = solve(problem, "contiguous")
    answers.keep(problem, "contiguous", result)
    certify(problem, result).write(tmp_path / "mine.cert.json")
    (tmp_path / "notes.txt").write_text("mine")
    assert len(answers) == 1
    answers.clear()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["mine.cert.json", "mine.cert.npz", "notes.txt"]


def test_answers_are_taken_for_the_same_question_only(tmp_path: Path) -> None:
    """Another problem, solver, seed or time limit is asked anew; the same again is not."""
    seconds = SolveLimits(seconds=5)
    questions = [
        (_problem(), "contiguous", 0, seconds),
        (_problem(price=3), "contiguous", 0, seconds),
        (_problem(), "alternation", 0, seconds),
        (_problem(), "contiguous", 1, seconds),
        (_problem(), "contiguous", 0, SolveLimits(seconds=6)),
    ]
    for turn in range(2):
        for problem, name, seed, limits in questions:
            inner = _Counting(get(name))
            solver = ResumableSolver(inner, Answers(tmp_path), seed)
            result = solver.solve(problem, (), limits)
            assert (result.solver, len(inner.asked)) == (name, 1 - turn)


@pytest.mark.parametrize("limit", [Limit.INTERRUPT, Limit.TIME])
def test_what_was_cut_short_is_not_kept(limit: Limit, tmp_path: Path) -> None:
    """An answer that Ctrl-C ended is returned but not kept; one that ran out of its time is."""
    inner = _Counting(get("contiguous"), 0, lambda result: dataclasses.replace(result, limit=limit))
    solver = ResumableSolver(inner, Answers(tmp_path))
    assert solver.solve(_problem()).limit is limit
    assert len(solver.answers) == (limit is Limit.TIME)


def _truncated(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-20])


def _swapped(path: Path) -> None:
    """The answer to another problem under this one's name."""
    problem = _problem(price=3)
    certify(problem, solve(problem, "contiguous")).write(path)


def _claiming(old: str, new: str) -> Callable[[Path], None]:
    def change(path: Path) -> None:
        text = path.read_text()
        assert text.count(old) == 1
        path.write_text(text.replace(old, new))

    return change


@pytest.mark.parametrize(
    ("damage", "ending", "said"),
    [
        (_truncated, ".cert.json", "not JSON"),
        (_truncated, ".cert.npz", "SHA-256 differs"),
        (Path.unlink, ".cert.npz", "no such file"),
        (_swapped, ".cert.json", "it is about"),
        (_claiming('"objective": 16', '"objective": 15'), ".cert.json", "claims 15, the assignment costs 16"),
        (_claiming('"termination": "FEASIBLE"', '"termination": "OPTIMAL"'), ".cert.json", "OPTIMAL"),
        (_claiming('"seconds": ', '"second": '), ".cert.json", "seconds"),
    ],
)
def test_a_damaged_answer_is_solved_again_with_a_word(
    damage: Callable[[Path], None], ending: str, said: str, tmp_path: Path
) -> None:
    """What does not fit is not believed; the new answer takes its place."""
    heard: list[str] = []
    inner = _Counting(get("contiguous"))
    solver = ResumableSolver(inner, Answers(tmp_path), say=heard.append)
    solver.solve(_problem())
    (path,) = tmp_path.glob(f"*{ending}")
    damage(path)
    assert solver.solve(_problem()).primal_bound == 16
    assert len(inner.asked) == 2
    (word,) = heard
    assert word.startswith("layer 'demo' is solved again: ")
    assert said in word
    solver.solve(_problem())
    assert len(inner.asked) == 2


def test_a_folder_that_cannot_be_written_costs_only_a_word(tmp_path: Path) -> None:
    """A file lies where the folder should: the answer comes all the same."""
    (tmp_path / "plan.partial").write_text("")
    heard: list[str] = []
    solver = ResumableSolver(get("contiguous"), Answers.beside(tmp_path / "plan"), say=heard.append)
    assert solver.solve(_problem()).primal_bound == 16
    assert "the answer of layer 'demo' is not kept" in heard[0]


@pytest.mark.parametrize("raises", [True, False])
def test_planning_goes_on_where_it_was_interrupted(raises: bool, tmp_path: Path) -> None:
    """Interrupted after the first group, the second run solves the rest alone; its plan is the uninterrupted one."""
    whole = _Counting(get("portfolio"))
    expected = _planned(whole)
    assert len(set(whole.asked)) == 3
    answers = Answers.beside(tmp_path / "plan")
    cut = None if raises else lambda result: dataclasses.replace(_feasible(result), limit=Limit.INTERRUPT)
    first = ResumableSolver(_Counting(get("portfolio"), 1, cut), answers)
    if raises:
        with pytest.raises(KeyboardInterrupt):
            _planned(first)
    else:
        _planned(first)
    assert len(answers) == 1
    inner = _Counting(get("portfolio"))
    assert _said(_planned(ResumableSolver(inner, answers))) == _said(expected)
    assert inner.asked == whole.asked[1:]
    again = _Counting(get("portfolio"))
    plan = _planned(ResumableSolver(again, answers))
    assert again.asked == []
    for group in plan.groups:
        findings = check(group.problem, certify(group.problem, group.result))
        assert {finding.verdict for finding in findings} == {VERIFIED}


def _feasible(result: SolveResult) -> SolveResult:
    """The answer as if nothing had been proved of it."""
    from solvers.base import Termination

    return dataclasses.replace(
        result, termination=Termination.FEASIBLE, dual_bound=-np.inf, bound_proved_by=None, proof=None
    )
