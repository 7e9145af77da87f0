"""What the tests of the commands share: small inputs, a user's own modules, and how a run is looked at."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks import compare
from formulations import LayerProblem
from solvers import registry

#: Exit status, and the content of the JSON file; empty where none was written.
Compared = Callable[..., tuple[int, dict[str, Any]]]

_TINY_MODEL = """
import torch
from torch import nn
from benchmarks.models.base import BenchmarkModel

def make():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 3))
    data = torch.randn(90, 6)
    with torch.no_grad():
        labels = model(data).argmax(dim=1)
    return BenchmarkModel("tiny", model, data[:60].split(20), data[60:], labels[60:])
"""


@pytest.fixture
def compared(tmp_path: Path) -> Compared:
    """Runs the comparison with `--json`; see `Compared`."""

    def run(*arguments: str) -> tuple[int, dict[str, Any]]:
        file = tmp_path / "rows.json"
        status = compare.main([*arguments, "--json", str(file)])
        return status, json.loads(file.read_text(encoding="utf-8")) if file.exists() else {}

    return run


@pytest.fixture
def refused(capsys: pytest.CaptureFixture[str]) -> Callable[[], str]:
    """What was said of bad input: one line of standard error, and nothing on standard output."""

    def read() -> str:
        out, err = capsys.readouterr()
        assert out == ""
        assert err.startswith("error: ")
        assert err.endswith("\n")
        assert err.count("\n") == 1
        return err.removeprefix("error: ").rstrip("\n")

    return read


@pytest.fixture
def small_problem() -> Callable[..., LayerProblem]:
    """Makes a problem of 6 neurons, 4 inputs and 2 workers that no hypergraph is, with further fields as given."""

    def make(name: str = "small", **fields: Any) -> LayerProblem:
        owner = np.array([0, 0, 1, 1])
        prune_cost = np.random.default_rng(0).integers(0, 9, size=(6, 4))
        send_cost = np.where(owner[:, None] == np.arange(2), 0, 6)
        return LayerProblem(prune_cost, owner, send_cost, name=name, **fields)

    return make


@pytest.fixture
def problem_file(tmp_path: Path, small_problem: Callable[..., LayerProblem]) -> str:
    """The small problem on disk."""
    small_problem().write(tmp_path / "small.npz")
    return str(tmp_path / "small.npz")


@pytest.fixture
def user_module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str, str], None]]:
    """Writes a module of the user's own into the temporary folder, from where this test alone can import it."""
    written: list[str] = []
    monkeypatch.syspath_prepend(tmp_path)

    def write(name: str, text: str) -> None:
        (tmp_path / f"{name}.py").write_text(text, encoding="utf-8")
        written.append(name)

    yield write
    for name in written:
        sys.modules.pop(name, None)


@pytest.fixture
def tiny_model(user_module: Callable[[str, str], None]) -> list[str]:
    """Arguments for a user's own model with layers `0` and `2`, on two workers."""
    user_module("tinymodel", _TINY_MODEL)
    return ["--model", "tinymodel:make", "--workers", "2", "--price", "0.002"]


@pytest.fixture
def replace_solver(monkeypatch: pytest.MonkeyPatch) -> Callable[[str, object], None]:
    """Puts another solver, or another check of its package, in the place of a registered one."""

    def replace(name: str, solver: object = None, check: Callable[[], object] = lambda: None) -> None:
        entry = registry.SOLVERS[name]
        make = entry.make if solver is None else lambda seed: solver
        monkeypatch.setitem(registry.SOLVERS, name, registry.Entry(entry.summary, make, check))  # type: ignore[arg-type]

    return replace
