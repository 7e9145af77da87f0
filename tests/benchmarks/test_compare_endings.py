"""How a comparison ends where a method is interrupted, fails, contradicts another or refuses."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from adapters.partition import Partitioner
from adapters.plan import PartitionPlan
from benchmarks import compare
from formulations import Assignment, InputError, LayerProblem, evaluate
from solvers import registry
from solvers.base import Limit, MissingPackageError, SolverError, SolveResult, Termination, UnsupportedError
from solvers.contiguous import Contiguous


class _Interrupted:
    """A solver stopped by Ctrl-C after its first assignment."""

    name = "alternation"

    def solve(self, problem: LayerProblem, **_: object) -> SolveResult:
        """The contiguous answer, marked as interrupted."""
        found = registry.get("contiguous").solve(problem)
        assert found.evaluation is not None
        return SolveResult(
            "alternation", problem.name, found.evaluation, -math.inf, None, Termination.FEASIBLE, 0.1,
            limit=Limit.INTERRUPT,
        )  # fmt: skip


def test_interrupt_keeps_what_was_found(
    compared: Callable[..., Any], problem_file: str, replace_solver: Callable[..., None], tmp_path: Path
) -> None:
    """The interrupted method's row is there and saved, later methods are not begun, and the exit status is 0."""
    replace_solver("alternation", _Interrupted())
    status, content = compared("--problem", problem_file, "--out", str(tmp_path / "out"))
    assert status == 0
    assert content["interrupted"] is True
    assert [row["method"] for row in content["rows"]] == list(compare.BASELINES)
    assert content["rows"][-1]["limit"] == "INTERRUPT"
    assert Path(content["rows"][-1]["assignment"]).exists()


class _Unheeding:
    """A solver that lets Ctrl-C pass."""

    def __init__(self, name: str) -> None:
        self.name = name

    def solve(self, problem: LayerProblem, **_: object) -> SolveResult:
        """Never answers."""
        raise KeyboardInterrupt


def test_interrupt_keeps_the_rows_of_the_methods_before(
    compared: Callable[..., Any],
    problem_file: str,
    replace_solver: Callable[..., None],
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Where Ctrl-C passes a solver, its row is missing, the others are there, and the exit status is 0."""
    replace_solver("alternation", _Unheeding("alternation"))
    status, content = compared("--problem", problem_file)
    assert status == 0
    assert content["interrupted"] is True
    assert [row["method"] for row in content["rows"]] == ["contiguous", "l0-munkres"]
    assert "interrupted" in capsys.readouterr().err


@pytest.mark.parametrize("where", ["reading", "first method"])
def test_interrupt_before_there_is_anything_to_keep(
    where: str,
    compared: Callable[..., Any],
    small_problem: Callable[..., LayerProblem],
    problem_file: str,
    replace_solver: Callable[..., None],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Ctrl-C at the start is one word and exit status 130; no file is written."""
    if where == "reading":
        monkeypatch.setattr(LayerProblem, "read", lambda path: _Unheeding("").solve(small_problem()))
    else:
        replace_solver("contiguous", _Unheeding("contiguous"))
    assert compared("--problem", problem_file) == (130, {})
    assert capsys.readouterr() == ("", "interrupted\n")


class _Liar:
    """A solver whose bound lies above what others find."""

    name = "highs"

    def solve(self, problem: LayerProblem, **_: object) -> SolveResult:
        """No assignment, and an impossible bound."""
        return SolveResult("highs", problem.name, None, 10**6, "solver", Termination.NO_SOLUTION_FOUND, 0.1)


def test_contradicting_rows_fail(
    problem_file: str, replace_solver: Callable[..., None], capsys: pytest.CaptureFixture[str]
) -> None:
    """A bound above another method's solution is exit status 1, and both are named."""
    replace_solver("highs", _Liar())
    assert compare.main(["--problem", problem_file]) == 1
    assert "highs claims the lower bound 1000000" in capsys.readouterr().err


class _Broken:
    name = "highs"

    def solve(self, problem: LayerProblem, **_: object) -> SolveResult:
        """Fails as a native solver might."""
        raise SolverError("it broke")


def test_a_failing_method_has_an_error_row(
    compared: Callable[..., Any], problem_file: str, replace_solver: Callable[..., None]
) -> None:
    """The other methods still run; the row says ERROR and why; exit status 1."""
    replace_solver("highs", _Broken())
    status, content = compared("--problem", problem_file)
    row = content["rows"][-1]
    assert status == 1
    assert (row["termination"], row["messages"], row["objective"]) == ("ERROR", ["it broke"], None)


@pytest.mark.parametrize(
    ("fields", "refusing"),
    [
        ({"communication": "partials", "partial_cost": np.full((6, 2), 5)}, {"alternation"}),
        ({"communication": "per_weight"}, {"alternation"}),
        ({"ingress_capacity": [8, 4]}, {"alternation"}),
        ({"objective": "error", "traffic_budget": 12}, {"alternation"}),
    ],
    ids=["partials", "per_weight", "limits", "budget"],
)
def test_a_method_that_refuses_has_a_row(
    fields: dict[str, Any],
    refusing: set[str],
    compared: Callable[..., Any],
    small_problem: Callable[..., LayerProblem],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """The row says UNSUPPORTED and why; the other methods, and the problems after it, are answered; exit status 0."""
    small_problem("odd", **fields).write(tmp_path / "odd.npz")
    small_problem("plain").write(tmp_path / "plain.npz")
    problems = ["--problem", str(tmp_path / "odd.npz"), "--problem", str(tmp_path / "plain.npz")]
    status, content = compared(*problems, "--solver", "brute-force", "--out", str(tmp_path / "out"))
    rows = content["rows"]
    assert status == 0
    assert {row["method"] for row in rows if row["termination"] == "UNSUPPORTED"} == refusing
    for row in rows:
        assert (row["objective"] is None) == (row["assignment"] is None) == (row["termination"] == "UNSUPPORTED")
        if row["termination"] == "UNSUPPORTED":
            assert f"solver {row['method']!r} cannot take it" in row["messages"][0]
        else:
            found = evaluate(LayerProblem.read(row["problem"]), Assignment.read(row["assignment"]))
            assert found.objective == row["objective"]
    printed, err = capsys.readouterr()
    assert printed.count("cannot take it") == len(refusing)
    assert err == ""


def test_a_problem_that_every_method_refuses_is_a_failure(
    compared: Callable[..., Any],
    user_module: Callable[[str, str], None],
    problem_file: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Exit status 1 and one line; every method still has its row, and so has the next problem."""
    rng = np.random.default_rng(0)
    large = LayerProblem(rng.integers(0, 9, (40, 1)), [0], [[0, 6]], name="large")
    large.write(tmp_path / "large.npz")
    user_module(
        "choosy",
        """
from formulations import Pin

def make(problem):
    return Pin(0, 0) if problem.name == "large" else None
""",
    )
    problems = ["--problem", str(tmp_path / "large.npz"), "--problem", problem_file]
    status, content = compared(*problems, "--solver", "brute-force", "--constraint", "choosy:make")
    assert status == 1
    assert capsys.readouterr().err == "failed: problem 'large': no method can take it; its rows say why\n"
    endings = [row["termination"] for row in content["rows"]]
    assert endings[:4] == ["UNSUPPORTED"] * 4
    assert "UNSUPPORTED" not in endings[4:]


class _Choosy:
    """A solver that refuses the problem of one name, and leaves the others to the contiguous one."""

    def __init__(self, name: str, refused: str, error: type[Exception] = UnsupportedError) -> None:
        self.name, self._refused, self._error = name, refused, error

    def solve(self, problem: LayerProblem, **_: object) -> SolveResult:
        """The contiguous answer under this name."""
        if problem.name == self._refused:
            raise self._error(f"problem {problem.name!r}: not for {self.name}")
        return replace(Contiguous().solve(problem), solver=self.name)


def test_a_package_that_turns_out_to_be_missing_is_a_refusal(
    compared: Callable[..., Any], problem_file: str, replace_solver: Callable[..., None]
) -> None:
    """Some methods need a package for some problems only: that loses one row, not the run."""
    replace_solver("alternation", _Choosy("alternation", "small", MissingPackageError))
    status, content = compared("--problem", problem_file)
    endings = {row["method"]: row["termination"] for row in content["rows"]}
    assert status == 0
    assert (endings["alternation"], endings["highs"]) == ("UNSUPPORTED", "OPTIMAL")


def test_a_method_that_refuses_a_layer_has_no_whole_network_row(
    compared: Callable[..., Any],
    tiny_model: list[str],
    replace_solver: Callable[..., None],
    capsys: pytest.CaptureFixture[str],
) -> None:
    """A note says so on the console and in the JSON; the other methods have theirs; exit status 0."""
    replace_solver("alternation", _Choosy("alternation", "2"))
    status, content = compared(*tiny_model)
    assert status == 0
    assert [row["method"] for row in content["models"]] == ["contiguous", "l0-munkres", "highs", "highs + sweeps"]
    note = "alternation has no whole-network row: problem '2': not for alternation"
    assert content["notes"] == [note]
    assert note in capsys.readouterr().out.splitlines()


class _OutOfTime:
    """A guest that joins, and finds nothing in time."""

    name = "mt-kahypar"

    def why_not(self, problem: LayerProblem, constraints: object) -> None:
        """Takes everything."""

    def solve(self, problem: LayerProblem, **_: object) -> SolveResult:
        """No assignment."""
        return SolveResult(
            self.name, problem.name, None, -math.inf, None, Termination.NO_SOLUTION_FOUND, 0.1, limit=Limit.TIME
        )


def test_a_guest_that_finds_nothing_fails_no_run(
    compared: Callable[..., Any], tiny_model: list[str], replace_solver: Callable[..., None]
) -> None:
    """Nobody asked for it: a note in place of its whole-network row, and exit status 0; asked for, it is 1."""
    replace_solver("mt-kahypar", _OutOfTime())
    status, content = compared(*tiny_model, "--solver", "contiguous")
    assert (status, content["notes"]) == (
        0,
        ["mt-kahypar: layer '0': NO_SOLUTION_FOUND (TIME): no assignment; give more time"],
    )
    assert compared(*tiny_model, "--solver", "mt-kahypar")[0] == 1


def test_a_model_that_no_method_can_take_is_a_failure(
    compared: Callable[..., Any],
    tiny_model: list[str],
    replace_solver: Callable[..., None],
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Every layer has an answer, but no method answers all: exit status 1 and one line, with all rows kept."""
    for method in (*compare.BASELINES, "highs"):
        replace_solver(method, _Choosy(method, "0" if method == "highs" else "2"))
    status, content = compared(*tiny_model)
    assert status == 1
    err = capsys.readouterr().err
    assert err.startswith("failed: model 'tinymodel:make': no method can take all of its layers")
    assert err.count("\n") == 1
    assert len(content["rows"]) == 8
    assert len(content["notes"]) == 4  # with sweeps there are no bytes to keep to


def test_sweeps_that_would_break_a_constraint_are_left_out(
    compared: Callable[..., Any], tiny_model: list[str], user_module: Callable[[str, str], None]
) -> None:
    """Custom constraints hold in every row there is: no row with sweeps, which know none, and a note says so."""
    user_module("pinned", "from formulations import Pin\n\ndef make(problem):\n    return Pin(0, 1)\n")
    status, content = compared(*tiny_model, "--solver", "brute-force", "--constraint", "pinned:make")
    assert status == 0
    assert [row["method"] for row in content["models"]] == ["brute-force"]
    assert "no rows with sweeps: they know no custom constraints" in content["notes"]


def test_interrupted_sweeps_keep_the_rows_before(
    compared: Callable[..., Any], tiny_model: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ctrl-C while the whole network is gone through again: the networks from layer to layer stay; exit status 0."""
    genuine = Partitioner.plan

    def plan(self: Partitioner, answer: Any, **options: Any) -> PartitionPlan:
        if options:
            raise KeyboardInterrupt
        return genuine(self, answer)

    monkeypatch.setattr(Partitioner, "plan", plan)
    status, content = compared(*tiny_model)
    assert status == 0
    assert content["interrupted"] is True
    assert [row["method"] for row in content["models"]] == [*compare.BASELINES, "highs"]


def test_bytes_that_sweeps_do_not_get_down_to_are_a_note(
    compared: Callable[..., Any], tiny_model: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The run is whole without the row, which says why it is missing; exit status 0."""
    genuine = Partitioner.plan

    def plan(self: Partitioner, answer: Any, **options: Any) -> PartitionPlan:
        if options:
            raise InputError("the budget of 0.1 cannot be met; the least is 0.2")
        return genuine(self, answer)

    monkeypatch.setattr(Partitioner, "plan", plan)
    status, content = compared(*tiny_model)
    assert status == 0
    assert [row["method"] for row in content["models"]] == [*compare.BASELINES, "highs"]
    assert content["notes"] == ["highs + sweeps: the budget of 0.1 cannot be met; the least is 0.2"]
