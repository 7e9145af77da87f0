"""The main command from the outside: what it prints and writes, and what it says to bad input."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks import compare
from benchmarks.comparison import Comparison, progress_text
from benchmarks.synthetic import sparse_layer
from formulations import Assignment, LayerProblem, evaluate
from solvers import registry
from solvers.base import (
    Limit,
    MissingPackageError,
    Progress,
    SolveLimits,
    SolverError,
    SolveResult,
    Termination,
    UnsupportedError,
)
from solvers.contiguous import Contiguous

ROOT = Path(__file__).resolve().parents[2]

_FACTORY = """
import torch
from torch import nn
from benchmarks.models.base import BenchmarkModel

def tiny():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 3))
    data = torch.randn(90, 6)
    with torch.no_grad():
        labels = model(data).argmax(dim=1)
    return BenchmarkModel("tiny", model, data[:60].split(20), data[60:], labels[60:])

def wrong():
    return 7
"""


def _problem(name: str = "small", **fields: Any) -> LayerProblem:
    rng = np.random.default_rng(0)
    owner = np.array([0, 0, 1, 1])
    send = np.where(owner[:, None] == np.arange(2), 0, 6)
    return LayerProblem(rng.integers(0, 9, size=(6, 4)), owner, send, name=name, **fields)


@pytest.fixture
def problem_file(tmp_path: Path) -> str:
    """A small problem on disk."""
    _problem().write(tmp_path / "small.npz")
    return str(tmp_path / "small.npz")


def _rows(file: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads(file.read_text())
    return content


def test_problem_rows_hold_what_the_contract_says(problem_file: str, tmp_path: Path) -> None:
    """Every method has a row with all fields; its saved assignment evaluates to the row's objective."""
    status = compare.main(
        ["--problem", problem_file, "--solver", "highs", "--solver", "brute-force", "--out", str(tmp_path / "out"),
         "--json", str(tmp_path / "rows.json"), "--seed", "3"]
    )  # fmt: skip
    content = _rows(tmp_path / "rows.json")
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


def test_infeasible_problem_is_a_result(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Exit 0, INFEASIBLE from every method, and the shortage named."""
    _problem("full", capacity=[[2], [3]]).write(tmp_path / "full.npz")
    assert compare.main(["--problem", str(tmp_path / "full.npz"), "--json", str(tmp_path / "rows.json")]) == 0
    rows = _rows(tmp_path / "rows.json")["rows"]
    assert {row["termination"] for row in rows} == {"INFEASIBLE"}
    assert {row["objective"] for row in rows} == {row["dual_bound"] for row in rows} == {None}
    assert all("1 short" in row["messages"][0] for row in rows)
    assert "the neurons need 6: 1 short" in capsys.readouterr().out


def test_budgets_that_contradict_are_a_result(tmp_path: Path) -> None:
    """Exit 0, INFEASIBLE, and the two budgets are named as what cannot hold together."""
    _problem("tight", error_budget=0, traffic_budget=0).write(tmp_path / "tight.npz")
    assert compare.main(["--problem", str(tmp_path / "tight.npz"), "--json", str(tmp_path / "rows.json")]) == 0
    row = _rows(tmp_path / "rows.json")["rows"][-1]
    assert (row["method"], row["termination"]) == ("highs", "INFEASIBLE")
    assert "at most 0 of error lost" in row["messages"][0]
    assert "at most 0 bytes in all messages" in row["messages"][0]


def test_model_rows_say_accuracy_and_bytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A user's own model gets layer rows on shared problems and a whole-network row per method."""
    (tmp_path / "tinymodel.py").write_text(_FACTORY)
    monkeypatch.syspath_prepend(tmp_path)
    file = tmp_path / "rows.json"
    arguments = ["--model", "tinymodel:tiny", "--workers", "2", "--json", str(file), "--price", "0.002"]
    assert compare.main(arguments) == 0
    content = _rows(file)
    assert [row["instance"] for row in content["rows"]] == ["0"] * 4 + ["2"] * 4
    for name in ("0", "2"):
        assert len({row["problem_digest"] for row in content["rows"] if row["instance"] == name}) == 1
    assert [row["method"] for row in content["models"]] == [*compare.BASELINES, "highs"]
    for row in content["models"]:
        assert row["bytes_direct"] == 4 * (6 + 8)
        assert 0 <= row["bytes_sent"] <= row["bytes_direct"]
        assert 0 <= row["accuracy"] <= row["accuracy_original"] == 1
        assert row["output_error"] >= 0


def _hard(folder: Path) -> list[str]:
    """A problem all of whose gains are hard edges, with room on the workers."""
    sparse_layer(12, 0.3, num_workers=2).write(folder / "hard.npz")
    return ["--problem", str(folder / "hard.npz"), "--solver", "local-search", "--json", str(folder / "rows.json")]


def _missing() -> None:
    raise MissingPackageError("mtkahypar is not installed; run: pip install mtkahypar")


@pytest.mark.skipif(registry.SOLVERS["mt-kahypar"].why_unavailable() is not None, reason="not installed")
def test_the_partitioner_joins_where_edges_are_hard(tmp_path: Path, problem_file: str) -> None:
    """Nobody asked: it has a row on the layer of hard edges, before the method that was asked for, and no other."""
    assert compare.main([*_hard(tmp_path), "--problem", problem_file]) == 0
    methods = {name: [row["method"] for row in _rows(tmp_path / "rows.json")["rows"] if row["instance"] == name]
               for name in ("synthetic-12-p2", "small")}  # fmt: skip
    assert methods["synthetic-12-p2"] == [*compare.BASELINES, "mt-kahypar", "local-search"]
    assert methods["small"] == [*compare.BASELINES, "local-search"]


@pytest.mark.skipif(registry.SOLVERS["mt-kahypar"].why_unavailable() is not None, reason="not installed")
def test_the_partitioner_that_was_asked_for_says_why_not(tmp_path: Path, problem_file: str) -> None:
    """Asked for: it has a row with the reason where it cannot take the layer, and one row only where it can."""
    assert compare.main([*_hard(tmp_path), "--problem", problem_file, "--solver", "mt-kahypar"]) == 0
    rows = {row["instance"]: row for row in _rows(tmp_path / "rows.json")["rows"] if row["method"] == "mt-kahypar"}
    assert rows["synthetic-12-p2"]["objective"] is not None
    assert rows["small"]["termination"] == "UNSUPPORTED"
    assert len(_rows(tmp_path / "rows.json")["rows"]) == 2 * 5


def test_the_partitioner_is_not_missed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Not installed: no row and no word of it, unless it was asked for, which is bad input with the install line."""
    entry = registry.SOLVERS["mt-kahypar"]
    monkeypatch.setitem(registry.SOLVERS, "mt-kahypar", registry.Entry(entry.summary, entry.make, _missing))
    arguments = _hard(tmp_path)
    assert compare.main(arguments) == 0
    assert [row["method"] for row in _rows(tmp_path / "rows.json")["rows"]] == [*compare.BASELINES, "local-search"]
    assert "kahypar" not in "".join(capsys.readouterr())
    assert compare.main([*arguments, "--solver", "mt-kahypar"]) == 2
    assert capsys.readouterr() == ("", "error: mtkahypar is not installed; run: pip install mtkahypar\n")


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


def _replace(monkeypatch: pytest.MonkeyPatch, name: str, solver: object) -> None:
    monkeypatch.setitem(registry.SOLVERS, name, registry.Entry("", lambda seed: solver))  # type: ignore[arg-type, return-value]


def test_interrupt_keeps_what_was_found(problem_file: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The interrupted method's row is there and saved, later methods are not begun, and the exit status is 0."""
    _replace(monkeypatch, "alternation", _Interrupted())
    file = tmp_path / "rows.json"
    assert compare.main(["--problem", problem_file, "--json", str(file), "--out", str(tmp_path / "out")]) == 0
    content = _rows(file)
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
    problem_file: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Where Ctrl-C passes a solver, its row is missing, the others are there, and the exit status is 0."""
    _replace(monkeypatch, "alternation", _Unheeding("alternation"))
    file = tmp_path / "rows.json"
    assert compare.main(["--problem", problem_file, "--json", str(file)]) == 0
    content = _rows(file)
    assert content["interrupted"] is True
    assert [row["method"] for row in content["rows"]] == ["contiguous", "l0-munkres"]
    assert "interrupted" in capsys.readouterr().err


@pytest.mark.parametrize("where", ["reading", "first method"])
def test_interrupt_before_there_is_anything_to_keep(
    where: str, problem_file: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Ctrl-C at the start is one word and exit status 130; no file is written."""
    if where == "reading":
        monkeypatch.setattr(LayerProblem, "read", lambda path: _Unheeding("").solve(_problem()))
    else:
        _replace(monkeypatch, "contiguous", _Unheeding("contiguous"))
    file = tmp_path / "rows.json"
    assert compare.main(["--problem", problem_file, "--json", str(file)]) == 130
    assert capsys.readouterr() == ("", "interrupted\n")
    assert not file.exists()


class _Liar:
    """A solver whose bound lies above what others find."""

    name = "highs"

    def solve(self, problem: LayerProblem, **_: object) -> SolveResult:
        """No assignment, and an impossible bound."""
        return SolveResult("highs", problem.name, None, 10**6, "solver", Termination.NO_SOLUTION_FOUND, 0.1)


def test_contradicting_rows_fail(problem_file: str, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    """A bound above another method's solution is exit status 1, and both are named."""
    _replace(monkeypatch, "highs", _Liar())
    assert compare.main(["--problem", problem_file]) == 1
    assert "highs claims the lower bound 1000000" in capsys.readouterr().err


class _Broken:
    name = "highs"

    def solve(self, problem: LayerProblem, **_: object) -> SolveResult:
        """Fails as a native solver might."""
        raise SolverError("it broke")


def test_a_failing_method_has_an_error_row(problem_file: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The other methods still run; the row says ERROR and why; exit status 1."""
    _replace(monkeypatch, "highs", _Broken())
    file = tmp_path / "rows.json"
    assert compare.main(["--problem", problem_file, "--json", str(file)]) == 1
    row = _rows(file)["rows"][-1]
    assert (row["termination"], row["messages"], row["objective"]) == ("ERROR", ["it broke"], None)


def _terminations(content: dict[str, Any]) -> dict[str, str]:
    return {row["method"]: row["termination"] for row in content["rows"]}


@pytest.mark.parametrize(
    ("fields", "refusing"),
    [
        ({"communication": "partials", "partial_cost": np.full((6, 2), 5)}, {"alternation"}),
        ({"communication": "per_weight"}, {"alternation"}),
        ({"ingress_capacity": [8, 4]}, set(compare.BASELINES)),
        ({"objective": "error", "traffic_budget": 12}, set(compare.BASELINES)),
    ],
    ids=["partials", "per_weight", "limits", "budget"],
)
def test_a_method_that_refuses_has_a_row(
    fields: dict[str, Any], refusing: set[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The row says UNSUPPORTED and why; the other methods, and the problems after it, are answered; exit status 0."""
    _problem("odd", **fields).write(tmp_path / "odd.npz")
    _problem("plain").write(tmp_path / "plain.npz")
    problems = ["--problem", str(tmp_path / "odd.npz"), "--problem", str(tmp_path / "plain.npz")]
    file = tmp_path / "rows.json"
    out = ["--json", str(file), "--out", str(tmp_path / "out")]
    assert compare.main([*problems, "--solver", "brute-force", *out]) == 0
    rows = _rows(file)["rows"]
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


def test_a_problem_that_every_method_refuses_is_a_failure(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Exit status 1 and one line; every method still has its row, and so has the next problem."""
    rng = np.random.default_rng(0)
    large = LayerProblem(rng.integers(0, 9, (40, 1)), [0], [[0, 6]], egress_capacity=[4, 4], name="large")
    large.write(tmp_path / "large.npz")
    _problem().write(tmp_path / "small.npz")
    file = tmp_path / "rows.json"
    problems = ["--problem", str(tmp_path / "large.npz"), "--problem", str(tmp_path / "small.npz")]
    assert compare.main([*problems, "--solver", "brute-force", "--json", str(file)]) == 1
    assert capsys.readouterr().err == "failed: problem 'large': no method can take it; its rows say why\n"
    endings = [row["termination"] for row in _rows(file)["rows"]]
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
    problem_file: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Some methods need a package for some problems only: that loses one row, not the run."""
    _replace(monkeypatch, "alternation", _Choosy("alternation", "small", MissingPackageError))
    file = tmp_path / "rows.json"
    assert compare.main(["--problem", problem_file, "--json", str(file)]) == 0
    assert _terminations(_rows(file))["alternation"] == "UNSUPPORTED"
    assert _terminations(_rows(file))["highs"] == "OPTIMAL"


@pytest.fixture
def tiny_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Arguments for a user's own model with layers `0` and `2`, on two workers."""
    (tmp_path / "tinymodel.py").write_text(_FACTORY)
    monkeypatch.syspath_prepend(tmp_path)
    return ["--model", "tinymodel:tiny", "--workers", "2", "--price", "0.002"]


def test_a_method_that_refuses_a_layer_has_no_whole_network_row(
    tiny_model: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A note says so on the console and in the JSON; the other methods have theirs; exit status 0."""
    _replace(monkeypatch, "alternation", _Choosy("alternation", "2"))
    file = tmp_path / "rows.json"
    assert compare.main([*tiny_model, "--json", str(file)]) == 0
    content = _rows(file)
    assert [row["method"] for row in content["models"]] == ["contiguous", "l0-munkres", "highs"]
    note = "alternation has no whole-network row: problem '2': not for alternation"
    assert content["notes"] == [note]
    assert note in capsys.readouterr().out.splitlines()


def test_a_model_that_no_method_can_take_is_a_failure(
    tiny_model: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Every layer has an answer, but no method answers all: exit status 1 and one line, with all rows kept."""
    for method in (*compare.BASELINES, "highs"):
        _replace(monkeypatch, method, _Choosy(method, "0" if method == "highs" else "2"))
    file = tmp_path / "rows.json"
    assert compare.main([*tiny_model, "--json", str(file)]) == 1
    err = capsys.readouterr().err
    assert err.startswith("failed: model 'tinymodel:tiny': no method can take all of its layers")
    assert err.count("\n") == 1
    assert len(_rows(file)["rows"]) == 8
    assert len(_rows(file)["notes"]) == 4


_MARKUP = ("[/x]", "[red]x", "a :bug: b", "[link=x]")


@pytest.mark.parametrize("name", _MARKUP)
def test_names_are_printed_as_they_are(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """What rich takes for markup is a name like any other, in the table, in messages and in the status line."""
    monkeypatch.setenv("FORCE_COLOR", "1")  # rich then takes standard error for a terminal, and shows the status
    _problem(name, worker_names=[name, "b"]).write(tmp_path / "fits.npz")
    _problem(name + "2", worker_names=[name, "b"], capacity=[[2], [3]]).write(tmp_path / "full.npz")
    problems = ["--problem", str(tmp_path / "fits.npz"), "--problem", str(tmp_path / "full.npz")]
    assert compare.main(problems) == 0
    out, err = capsys.readouterr()
    assert out.count(name) >= 2 + 4  # in the table, and in the four messages about the problem that does not fit
    assert f"{name}2: highs" in err


def test_solver_list_says_why_one_is_not_available(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Every solver has a line; an unusable package is named with its install line."""

    def missing() -> None:
        raise MissingPackageError("highspy is not installed; run: pip install 'highspy>=1.12,<1.14'")

    entry = registry.SOLVERS["highs"]
    monkeypatch.setitem(registry.SOLVERS, "highs", registry.Entry(entry.summary, entry.make, missing))
    assert compare.main(["--solver", "list"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == list(registry.SOLVERS)
    assert "not available: highspy is not installed; run: pip install" in lines[list(registry.SOLVERS).index("highs")]
    assert compare.main(["--solver", "highs"]) == 2


def _cluster(text: str, tmp_path: Path) -> list[str]:
    (tmp_path / "cluster.toml").write_text(text)
    return ["--cluster", str(tmp_path / "cluster.toml")]


def _fields(folder: Path, **changes: Any) -> list[str]:
    """A problem file as a user may write it, with these arrays changed."""
    arrays = {
        "schema": "layer-problem/1",
        "prune_cost": np.arange(24).reshape(6, 4),
        "input_worker": [0, 0, 1, 1],
        "send_cost": [[0, 6], [0, 6], [6, 0], [6, 0]],
    }
    np.savez(folder / "mine.npz", **{**arrays, **changes})  # type: ignore[arg-type]
    return ["--problem", str(folder / "mine.npz")]


_BAD = {
    "unknown solver": (lambda d: ["--solver", "higs"], "did you mean 'highs'"),
    "unknown option": (lambda d: ["--sovler", "highs"], "--sovler"),
    "unknown model": (lambda d: ["--model", "digits"], "did you mean 'digits-mlp'"),
    "no such module": (lambda d: ["--model", "nowhere.at_all:make"], "nowhere"),
    "no such factory": (lambda d: ["--model", "json:nothing"], "no function 'nothing'"),
    "factory of something else": (lambda d: ["--model", "time:time"], "not a BenchmarkModel"),
    "no such problem": (lambda d: ["--problem", str(d / "none.npz")], "no such file"),
    "truncated problem": (lambda d: ["--problem", _truncated(d)], "cannot be read"),
    "foreign npz": (lambda d: ["--problem", _foreign(d)], "schema"),
    "no such cluster": (lambda d: ["--cluster", str(d / "none.toml")], "cannot be read"),
    "unknown cluster key": (lambda d: _cluster("[[worker]]\nname='a'\nmacs=1\n", d), "unknown key 'macs'"),
    "missing link end": (
        lambda d: _cluster("[[worker]]\nname='a'\nmacs_per_second=1.0\n[[link]]\nfrom='a'\n", d),
        "no 'to' end",
    ),
    "negative speed": (lambda d: _cluster("[[worker]]\nname='a'\nmacs_per_second=-1.0\n", d), "macs_per_second"),
    "no workers": (lambda d: ["--workers", "0"], "at least 1"),
    "too many workers": (lambda d: ["--workers", "300000"], "--workers is 300000; give at least 1 and at most 1000"),
    "workers that are no number": (lambda d: ["--workers", "four"], "--workers"),
    "negative time": (lambda d: ["--time-limit", "-1"], "--time-limit is -1.0; give seconds, a number > 0"),
    "empty model": (lambda d: ["--model", ""], "model '' is unknown"),
    "empty cluster": (lambda d: ["--cluster", ""], "cannot be read"),
    "empty folder": (lambda d: ["--out", ""], "--out is empty; give a folder"),
    "NaN price": (lambda d: ["--price", "nan"], "--price is nan"),
    "infinite time": (lambda d: ["--time-limit", "inf"], "--time-limit is inf"),
    "no time at all": (lambda d: ["--time-limit", "nan"], "--time-limit is nan"),
    "negative seed": (lambda d: ["--seed", "-1"], "--seed is -1; give a whole number from 0 to 2147483647"),
    "huge seed": (lambda d: ["--seed", str(2**31)], "--seed is 2147483648"),
    "relative module": (lambda d: ["--model", ".x:y"], "package.module:factory"),
    "unwritable out": (lambda d: ["--out", _blocked(d)], "cannot be written"),
    "unwritable json": (lambda d: ["--json", _blocked(d) + "/rows.json"], "cannot be written"),
    "json is a folder": (lambda d: ["--json", str(d)], "is a folder"),
    "cluster with a problem": (lambda d: ["--problem", "x.npz", "--workers", "2"], "--workers"),
    "model and problem": (lambda d: ["--problem", "x.npz", "--model", "digits-mlp"], "--model"),
    "limit of the wrong shape": (
        lambda d: _fields(d, ingress_capacity=[1, 2, 3]),
        "ingress_capacity has shape (3,); 6 neurons, 4 inputs, 2 workers needs (2,)",
    ),
    "limit in fractions": (lambda d: _fields(d, egress_capacity=[1.5, 2]), "egress_capacity has dtype float64"),
    "misspelt limit": (lambda d: _fields(d, link_capacities=[[1, 2]] * 2), "did you mean 'link_capacity'?"),
    "unknown mode": (lambda d: _fields(d, communication="partial"), "choose from inputs, partials, per_weight"),
    "mode without its costs": (lambda d: _fields(d, communication="partials"), "partial_cost is missing"),
    "objective without its budget": (lambda d: _fields(d, objective="traffic"), "give an error_budget"),
    "objective with the other's budget": (
        lambda d: _fields(d, objective="error", error_budget=3),
        "give a traffic_budget",
    ),
    "negative budget": (lambda d: _fields(d, error_budget=-1), "error_budget is -1; it must be >= 0"),
    "two problems of one name": (lambda d: ["--problem", _saved(d), "--problem", _saved(d)], "name of its own"),
}


def _saved(folder: Path) -> str:
    _problem().write(folder / "small.npz")
    return str(folder / "small.npz")


def _truncated(folder: Path) -> str:
    whole = Path(_saved(folder)).read_bytes()
    (folder / "cut.npz").write_bytes(whole[: len(whole) // 2])
    return str(folder / "cut.npz")


def _foreign(folder: Path) -> str:
    np.savez(folder / "foreign.npz", weights=np.zeros(3))
    return str(folder / "foreign.npz")


def _blocked(folder: Path) -> str:
    (folder / "file").write_text("in the way")
    return str(folder / "file" / "out")


@pytest.mark.parametrize("case", _BAD)
def test_bad_input_is_one_line_and_status_2(case: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """What was given is named on one line of standard error, nothing is printed or written."""
    arguments, said = _BAD[case]
    made = arguments(tmp_path)
    before = sorted(tmp_path.rglob("*"))
    assert compare.main(made) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("error: ")
    assert err.count("\n") == 1
    assert said in err
    assert sorted(tmp_path.rglob("*")) == before


def test_wrong_highspy_is_one_line_at_the_start(
    monkeypatch: pytest.MonkeyPatch, capsys: Any, problem_file: str
) -> None:
    """highspy 1.14 is refused before any work, with the install line."""
    monkeypatch.setattr("importlib.metadata.version", lambda name: "1.14.0")
    assert compare.main(["--problem", problem_file, "--solver", "highs"]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.count("\n") == 1
    assert "highspy 1.14.0 returns wrong optima" in err
    assert "pip install" in err


def test_help_and_bad_input_do_not_pay_for_heavy_packages() -> None:
    """`--help` and an unknown solver import neither torch, pyomo, highspy nor scipy."""
    code = (
        "import sys; from benchmarks.compare import main\n"
        "try: main(['--help'])\n"
        "except SystemExit: pass\n"
        "assert main(['--solver', 'none']) == 2\n"
        "heavy = {'torch', 'pyomo', 'highspy', 'ortools', 'scipy', 'rich'} & set(sys.modules)\n"
        "assert not heavy, heavy"
    )
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True, capture_output=True)


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


def test_progress_is_heard(problem_file: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a solver reports reaches the status line, in the caller's unit."""
    shown: list[str] = []
    comparison = Comparison(["highs"], SolveLimits(seconds=5), 0, None, shown.append)
    comparison.compare(LayerProblem.read(problem_file))
    assert any("small: highs" in line and "start by local-search" in line for line in shown)
    assert progress_text(_problem(), Progress(1.0, 5, -math.inf, "x")) == "objective 5, lower bound -, x"
