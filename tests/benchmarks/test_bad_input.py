"""What the main command says to bad input: one line with what was given, what it broke, and what to do."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks import compare

ROOT = Path(__file__).resolve().parents[2]


def _cluster(text: str, tmp_path: Path) -> list[str]:
    (tmp_path / "cluster.toml").write_text(text)
    return ["--cluster", str(tmp_path / "cluster.toml")]


def _truncated(folder: Path) -> str:
    whole = Path(_fields(folder)[1]).read_bytes()
    (folder / "cut.npz").write_bytes(whole[: len(whole) // 2])
    return str(folder / "cut.npz")


def _foreign(folder: Path) -> str:
    np.savez(folder / "foreign.npz", weights=np.zeros(3))
    return str(folder / "foreign.npz")


def _blocked(folder: Path) -> str:
    (folder / "file").write_text("in the way")
    return str(folder / "file" / "out")


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
    "costs with a problem": (lambda d: ["--problem", "x.npz", "--costs", "magnitude"], "--costs"),
    "unknown costs": (lambda d: ["--costs", "activations"], "did you mean 'activation'?"),
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
    "two problems of one name": (lambda d: _fields(d) * 2, "name of its own"),
}


@pytest.mark.parametrize("case", _BAD)
def test_bad_input_is_one_line_and_status_2(case: str, refused: Callable[[], str], tmp_path: Path) -> None:
    """What was given is named on one line of standard error, nothing is printed or written."""
    arguments, said = _BAD[case]
    made = arguments(tmp_path)
    before = sorted(tmp_path.rglob("*"))
    assert compare.main(made) == 2
    assert said in refused()
    assert sorted(tmp_path.rglob("*")) == before


def test_wrong_highspy_is_one_line_at_the_start(
    refused: Callable[[], str], problem_file: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """highspy 1.14 is refused before any work, with the install line."""
    monkeypatch.setattr("importlib.metadata.version", lambda name: "1.14.0")
    assert compare.main(["--problem", problem_file, "--solver", "highs"]) == 2
    assert re.match("highspy 1.14.0 returns wrong optima.* pip install", refused())


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
