"""The main command from the outside: what it prints and writes, and what it says to bad input."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks import compare
from benchmarks.comparison import Comparison, file_name, progress_text
from formulations import Assignment, LayerProblem, evaluate
from solvers import registry
from solvers.base import Limit, MissingPackageError, Progress, SolveLimits, SolverError, SolveResult, Termination

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
    "workers that are no number": (lambda d: ["--workers", "four"], "--workers"),
    "negative time": (lambda d: ["--time-limit", "-1"], "seconds is -1"),
    "NaN price": (lambda d: ["--price", "nan"], "--price is nan"),
    "unwritable out": (lambda d: ["--out", _blocked(d)], "cannot be written"),
    "unwritable json": (lambda d: ["--json", _blocked(d) + "/rows.json"], "cannot be written"),
    "json is a folder": (lambda d: ["--json", str(d)], "is a folder"),
    "cluster with a problem": (lambda d: ["--problem", "x.npz", "--workers", "2"], "--workers"),
    "model and problem": (lambda d: ["--problem", "x.npz", "--model", "digits-mlp"], "--model"),
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


def test_progress_is_heard(problem_file: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a solver reports reaches the status line, in the caller's unit."""
    shown: list[str] = []
    comparison = Comparison(["highs"], SolveLimits(seconds=5), 0, None, shown.append)
    comparison.compare(LayerProblem.read(problem_file))
    assert any("small: highs" in line and "start by alternation" in line for line in shown)
    assert progress_text(_problem(), Progress(1.0, 5, -math.inf, "x")) == "objective 5, lower bound -, x"


def test_names_cannot_lead_out_of_the_folder() -> None:
    """A problem's name is data; separators and leading dots are taken out."""
    assert file_name("../../etc/passwd") == "_.._etc_passwd"
    assert file_name("..") == "layer"
