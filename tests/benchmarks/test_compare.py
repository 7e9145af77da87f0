"""The main command from the outside: the rows and tables it ends with, and who takes part."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from benchmarks import compare
from benchmarks.comparison import Comparison, progress_text
from benchmarks.synthetic import sparse_layer
from formulations import Assignment, LayerProblem, evaluate
from solvers import registry
from solvers.base import MissingPackageError, Progress, SolveLimits

ROOT = Path(__file__).resolve().parents[2]

needs_partitioner = pytest.mark.skipif(
    registry.SOLVERS["mt-kahypar"].why_unavailable() is not None, reason="mtkahypar is not installed"
)


def test_problem_rows_hold_what_the_contract_says(
    compared: Callable[..., Any], problem_file: str, tmp_path: Path
) -> None:
    """Every method has a row with all fields; its saved assignment evaluates to the row's objective."""
    arguments = ["--problem", problem_file, "--solver", "highs", "--solver", "brute-force"]
    status, content = compared(*arguments, "--out", str(tmp_path / "out"), "--seed", "3")
    assert status == 0
    assert content["schema"] == "compare/1"
    assert content["seed"] == 3
    assert content["versions"]["highspy"] is not None
    assert content["hardware"]["cores"] >= 1
    assert [row["method"] for row in content["rows"]] == [*compare.BASELINES, "highs", "brute-force"]
    for row in content["rows"]:
        problem, assignment = LayerProblem.read(row["problem"]), Assignment.read(row["assignment"])
        found = evaluate(problem, assignment)
        assert (found.objective, found.bytes_sent, found.num_kept_weights) == (
            row["objective"], row["bytes_sent"], row["kept_weights"],
        )  # fmt: skip
        assert row["problem_digest"] == problem.digest == assignment.problem_digest
        assert row["feasible"] is True
        assert row["violations"] == []
        bound = row["dual_bound"]
        assert row["gap"] == (None if bound is None else (row["objective"] - bound) / max(1, abs(row["objective"])))
    proved = {row["method"]: row["bound_proved_by"] for row in content["rows"]}
    assert proved == {**dict.fromkeys(compare.BASELINES), "highs": "solver", "brute-force": "exhaustive"}
    best = content["best"]["small"]
    assert best["gap"] == 0
    assert best["objective"] == min(row["objective"] for row in content["rows"])
    assert content["models"] == []


def test_json_to_standard_output_is_json_alone(problem_file: str, capsys: pytest.CaptureFixture[str]) -> None:
    """`--json -` prints nothing else."""
    assert compare.main(["--problem", problem_file, "--json", "-"]) == 0
    assert json.loads(capsys.readouterr().out)["schema"] == "compare/1"


def test_table_names_every_method(problem_file: str, capsys: pytest.CaptureFixture[str]) -> None:
    """The table on standard output has a line per method with its gap."""
    assert compare.main(["--problem", problem_file]) == 0
    out = capsys.readouterr().out
    assert all(name in out for name in (*compare.BASELINES, "highs", "0.00%"))


def test_infeasible_problem_is_a_result(
    compared: Callable[..., Any],
    small_problem: Callable[..., LayerProblem],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Exit 0, INFEASIBLE from every method, and the shortage named."""
    small_problem("full", capacity=[[2], [3]]).write(tmp_path / "full.npz")
    status, content = compared("--problem", str(tmp_path / "full.npz"))
    rows = content["rows"]
    assert status == 0
    assert {row["termination"] for row in rows} == {"INFEASIBLE"}
    assert {row["objective"] for row in rows} == {row["dual_bound"] for row in rows} == {None}
    assert all("1 short" in row["messages"][0] for row in rows)
    assert "the neurons need 6: 1 short" in capsys.readouterr().out


def test_budgets_that_contradict_are_a_result(
    compared: Callable[..., Any], small_problem: Callable[..., LayerProblem], tmp_path: Path
) -> None:
    """Exit 0, INFEASIBLE, and the two budgets are named as what cannot hold together."""
    small_problem("tight", error_budget=0, traffic_budget=0).write(tmp_path / "tight.npz")
    status, content = compared("--problem", str(tmp_path / "tight.npz"))
    row = content["rows"][-1]
    assert status == 0
    assert (row["method"], row["termination"]) == ("highs", "INFEASIBLE")
    assert "at most 0 of error lost" in row["messages"][0]
    assert "at most 0 bytes in all messages" in row["messages"][0]


def test_model_rows_say_accuracy_and_bytes(compared: Callable[..., Any], tiny_model: list[str]) -> None:
    """A user's own model gets layer rows on shared problems, a whole-network row per method, and one with sweeps."""
    status, content = compared(*tiny_model)
    assert status == 0
    assert [row["instance"] for row in content["rows"]] == ["0"] * 4 + ["2"] * 4
    for name in ("0", "2"):
        assert len({row["problem_digest"] for row in content["rows"] if row["instance"] == name}) == 1
    assert [row["method"] for row in content["models"]] == [*compare.BASELINES, "highs", "highs + sweeps"]
    assert [row["costs"] for row in content["models"]] == ["activation"] * 4 + ["covariance"]
    for row in content["models"]:
        assert row["bytes_direct"] == 4 * (6 + 8)
        assert 0 <= row["bytes_sent"] <= row["bytes_direct"]
        assert 0 <= row["accuracy"] <= row["accuracy_original"] == 1
        assert row["output_error"] >= 0


def test_costs_that_are_asked_for_hold_for_all_rows(compared: Callable[..., Any], tiny_model: list[str]) -> None:
    """Other costs make other layer problems, and the rows with sweeps are by them too."""
    problems = {}
    for costs in ("activation", "magnitude"):
        status, content = compared(*tiny_model, "--solver", "contiguous", "--costs", costs)
        assert status == 0
        assert {row["costs"] for row in content["models"]} == {costs}
        problems[costs] = {row["problem_digest"] for row in content["rows"]}
    assert problems["activation"].isdisjoint(problems["magnitude"])


def test_sweeps_are_compared_at_equal_bytes(compared: Callable[..., Any], tiny_model: list[str]) -> None:
    """No more is sent than by the same method layer by layer, whatever that sent, all or nothing included."""
    for price in ("0", "0.002", "0.02", "1e9"):
        status, content = compared(*tiny_model, "--price", price, "--solver", "local-search")
        assert (status, content["notes"]) == (0, [])
        greedy, swept = content["models"][-2:]
        assert (greedy["method"], swept["method"]) == ("local-search", "local-search + sweeps")
        assert swept["bytes_sent"] <= greedy["bytes_sent"]


def _hard(folder: Path) -> list[str]:
    """A problem all of whose gains are hard edges, with room on the workers."""
    sparse_layer(12, 0.3, num_workers=2).write(folder / "hard.npz")
    return ["--problem", str(folder / "hard.npz"), "--solver", "local-search"]


@needs_partitioner
def test_the_partitioner_joins_where_edges_are_hard(
    compared: Callable[..., Any], problem_file: str, tmp_path: Path
) -> None:
    """Nobody asked: it has a row on the layer of hard edges, before the method that was asked for, and no other."""
    status, content = compared(*_hard(tmp_path), "--problem", problem_file)
    assert status == 0
    assert [(row["instance"], row["method"]) for row in content["rows"]] == [
        *(("synthetic-12-p2", method) for method in (*compare.BASELINES, "mt-kahypar", "local-search")),
        *(("small", method) for method in (*compare.BASELINES, "local-search")),
    ]


@needs_partitioner
def test_the_partitioner_that_was_asked_for_says_why_not(
    compared: Callable[..., Any], problem_file: str, tmp_path: Path
) -> None:
    """Asked for: it has a row with the reason where it cannot take the layer, and one row only where it can."""
    status, content = compared(*_hard(tmp_path), "--problem", problem_file, "--solver", "mt-kahypar")
    rows = {row["instance"]: row for row in content["rows"] if row["method"] == "mt-kahypar"}
    assert status == 0
    assert rows["synthetic-12-p2"]["objective"] is not None
    assert rows["small"]["termination"] == "UNSUPPORTED"
    assert len(content["rows"]) == 2 * 5


def test_the_partitioner_is_not_missed(
    compared: Callable[..., Any],
    refused: Callable[[], str],
    replace_solver: Callable[..., None],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Not installed: no row and no word of it, unless it was asked for, which is bad input with the install line."""

    def missing() -> None:
        raise MissingPackageError("mtkahypar is not installed; run: pip install mtkahypar")

    replace_solver("mt-kahypar", check=missing)
    arguments = _hard(tmp_path)
    status, content = compared(*arguments)
    assert status == 0
    assert [row["method"] for row in content["rows"]] == [*compare.BASELINES, "local-search"]
    assert "kahypar" not in "".join(capsys.readouterr())
    assert compare.main([*arguments, "--solver", "mt-kahypar"]) == 2
    assert refused() == "mtkahypar is not installed; run: pip install mtkahypar"


@pytest.mark.parametrize("name", ["[/x]", "[red]x", "a :bug: b", "[link=x]"])
def test_names_are_printed_as_they_are(
    name: str,
    small_problem: Callable[..., LayerProblem],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """What rich takes for markup is a name like any other, in the table, in messages and in the status line."""
    monkeypatch.setenv("FORCE_COLOR", "1")  # rich then takes standard error for a terminal, and shows the status
    small_problem(name, worker_names=[name, "b"]).write(tmp_path / "fits.npz")
    small_problem(name + "2", worker_names=[name, "b"], capacity=[[2], [3]]).write(tmp_path / "full.npz")
    problems = ["--problem", str(tmp_path / "fits.npz"), "--problem", str(tmp_path / "full.npz")]
    assert compare.main(problems) == 0
    out, err = capsys.readouterr()
    assert out.count(name) >= 2 + 4  # in the table, and in the four messages about the problem that does not fit
    assert f"{name}2: highs" in err


def test_solver_list_says_why_one_is_not_available(
    replace_solver: Callable[..., None], capsys: pytest.CaptureFixture[str]
) -> None:
    """Every solver has a line; an unusable package is named with its install line."""

    def missing() -> None:
        raise MissingPackageError("highspy is not installed; run: pip install 'highspy>=1.12,<1.14'")

    replace_solver("highs", check=missing)
    assert compare.main(["--solver", "list"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == list(registry.SOLVERS)
    assert "not available: highspy is not installed; run: pip install" in lines[list(registry.SOLVERS).index("highs")]
    assert compare.main(["--solver", "highs"]) == 2


def test_problems_do_not_pay_for_torch(problem_file: str) -> None:
    """Comparing problem files imports no torch."""
    code = (
        "import sys; from benchmarks.compare import main\n"
        f"assert main(['--problem', {problem_file!r}, '--json', '-']) == 0\n"
        "assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True, capture_output=True)


def test_the_largest_seed_is_taken(problem_file: str) -> None:
    """2^31 − 1 is what every solver takes."""
    assert compare.main(["--problem", problem_file, "--seed", str(2**31 - 1)]) == 0


def test_progress_is_heard(small_problem: Callable[..., LayerProblem], problem_file: str) -> None:
    """What a solver reports reaches the status line, in the caller's unit."""
    shown: list[str] = []
    comparison = Comparison(["highs"], SolveLimits(seconds=5), 0, None, shown.append)
    comparison.compare(LayerProblem.read(problem_file))
    assert any("small: highs" in line and "start by local-search" in line for line in shown)
    assert progress_text(small_problem(), Progress(1.0, 5, -math.inf, "x")) == "objective 5, lower bound -, x"
