"""The benchmarks of quality, scaling and certified gaps run, say what they measured, and refuse what they cannot."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from benchmarks import bounds, curves, lp_bounds, planning, quality, scaling
from benchmarks.command import measured
from benchmarks.synthetic import sparse_layer
from formulations import InputError, LayerProblem
from solvers.registry import SOLVERS

COMMANDS = (bounds, curves, lp_bounds, planning, quality, scaling)


@pytest.fixture
def layer(tmp_path: Path) -> str:
    """A layer of 32 neurons on disk."""
    path = tmp_path / "layer.npz"
    sparse_layer(32, 0.1).write(path)
    return str(path)


def test_quality_draws_and_writes_the_curves(layer: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Every method that takes the layer has a curve that falls; the plot is an SVG; the JSON is one."""
    out, plot = tmp_path / "curves.json", tmp_path / "curves.svg"
    assert quality.main([layer, "--seconds", "1", "--json", str(out), "--plot", str(plot)]) == 0
    curves = json.loads(out.read_text(encoding="utf-8"))["curves"]
    usable = [name for name in quality._METHODS if SOLVERS[name].why_unavailable() is None]
    assert [curve["method"] for curve in curves] == usable
    for curve in curves:
        values = [value for _, value in curve["points"]]
        assert values == sorted(values, reverse=True)
        assert values
    assert "<svg" in plot.read_text(encoding="utf-8")
    assert "local-search" in capsys.readouterr().out


def test_scaling_measures_a_sweep(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The smallest size: a time and a state of some bytes per weight."""
    out = tmp_path / "sweeps.json"
    assert scaling.main(["--largest", "64", "--json", str(out)]) == 0
    (sweep,) = json.loads(out.read_text(encoding="utf-8"))["sweeps"]
    assert sweep["num_neurons"] == 64
    assert 16 * 64**2 < sweep["state_bytes"] < 64 * 64**2
    assert "64" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("module", "arguments"),
    [
        (quality, ["none.npz"]),
        (bounds, ["none.npz"]),
        (bounds, ["--solver", "nobody"]),
        (bounds, ["--seconds", "-1"]),
        (quality, ["--seconds", "0"]),
        (scaling, ["--largest", "8"]),
        (scaling, ["--json", "."]),
        (curves, ["--model", "digits-mpl"]),
        (curves, ["--method", "nobody"]),
        (curves, ["--workers", "1"]),
        (curves, ["--prices", "1"]),
        (curves, ["--json", "."]),
        (planning, ["--largest", "5"]),
        (planning, ["--costs", "nothing"]),
        (quality, ["--plot", "."]),
        (quality, ["a.npz", "--plot", "a.npz"]),
        (bounds, ["a.npz", "--plot", "a.npz"]),
        (bounds, ["a.npz", "--json", "a.npz"]),
        *((module, ["--nonsense"]) for module in COMMANDS),
    ],
)
def test_bad_input_is_one_line(module: ModuleType, arguments: list[str], refused: Callable[[], str]) -> None:
    """A missing file, an unknown solver or option, an impossible time, size or result file: status 2 and one line."""
    assert module.main(arguments) == 2
    assert arguments[-1] in refused()


def test_json_to_standard_output_is_json_alone(layer: str, capsys: pytest.CaptureFixture[str]) -> None:
    """`--json -` prints no table, and says where the figures were made."""
    assert bounds.main([layer, "--seconds", "1", "--solver", "contiguous", "--json", "-"]) == 0
    content = json.loads(capsys.readouterr().out)
    assert content["schema"] == "bounds/1"
    assert {"versions", "hardware", "commit"} < set(content)


def test_interrupted_measurements_are_kept(
    layer: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Ctrl-C: the interrupted solver's figures are printed and saved, no other solver is begun; exit status 0."""
    genuine = bounds.prove

    def interrupted(problem: LayerProblem, solver: str, seconds: float) -> bounds.Proof:
        return replace(genuine(problem, solver, seconds), limit="INTERRUPT")

    monkeypatch.setattr(bounds, "prove", interrupted)
    out = tmp_path / "proofs.json"
    solvers = ["--solver", "contiguous", "--solver", "alternation"]
    assert bounds.main([layer, "--seconds", "1", *solvers, "--json", str(out)]) == 0
    assert [proof["solver"] for proof in json.loads(out.read_text())["proofs"]] == ["contiguous"]
    printed, err = capsys.readouterr()
    assert "contiguous" in printed
    assert err.endswith("interrupted; what was found so far is above\n")


@pytest.mark.parametrize("module", COMMANDS)
def test_interrupted_before_anything_was_measured(
    module: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Ctrl-C before the first figure is one word and exit status 130, for every command."""

    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    for name in ("read_problems", "measure"):
        monkeypatch.setattr(module, name, interrupted, raising=False)
    assert module.main([]) == 130
    out, err = capsys.readouterr()
    assert out == ""
    assert err.splitlines()[-1] == "interrupted"


def test_bad_input_on_the_way_keeps_what_was_measured() -> None:
    """What came before the mistake is reported, then the mistake is raised."""
    reported: list[list[int]] = []

    def steps() -> Iterator[int]:
        yield 1
        raise InputError("no")

    with pytest.raises(InputError, match="no"):
        measured(steps(), lambda found: reported.append(list(found)))
    assert reported == [[1]]
