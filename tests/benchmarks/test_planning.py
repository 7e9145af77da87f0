"""Time and memory of planning: measured in a process per network, and fitted."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmarks import planning
from benchmarks.planning import Planning, exponent
from formulations import InputError


def _planning(model: str, num_weights: int, seconds: float) -> Planning:
    return Planning(model, num_weights, 3, seconds / 4, 3 * seconds / 4, 2**30, 10, 100)


def test_a_network_measures_itself(tiny_model: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    """What the process of one network prints is what the other side takes for its measurement."""
    assert planning.main(["--only", tiny_model[1], "--costs", "activation"]) == 0
    found = Planning(**json.loads(capsys.readouterr().out))
    assert (found.num_weights, found.num_layers) == (6 * 8 + 8 * 3, 2)
    assert found.bytes_direct == 3 * 4 * (6 + 8)
    assert 0 <= found.bytes_sent <= found.bytes_direct
    assert min(found.calibration_seconds, found.planning_seconds) > 0
    assert found.peak_bytes > 50 * 2**20  # PyTorch alone is more


def test_a_network_that_fails_is_named() -> None:
    """Its process says why; ours says which it was."""
    with pytest.raises(InputError, match="planning nobody ended with exit status 2"):
        planning.measure("nobody", "activation")


def test_the_exponent_is_of_the_cnns() -> None:
    """Exact on a power law; the digits models are other networks; one size has none."""
    found = [_planning(f"wide-cnn-{width}", width**2, 0.1 * width**3) for width in (6, 16, 32)]
    assert exponent([_planning("digits-mlp", 99, 1e6), *found]) == pytest.approx(1.5)
    assert exponent(found[:1]) is None


def test_networks_up_to_the_largest_are_measured(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Table and JSON hold all sizes and the exponent; after Ctrl-C those before."""
    sizes = {"digits-mlp": 10, "digits-cnn": 20, "wide-cnn-6": 100, "wide-cnn-16": 1000}
    monkeypatch.setattr(planning, "measure", lambda name, costs: _planning(name, sizes[name], sizes[name]))
    file = tmp_path / "planning.json"
    assert planning.main(["--largest", "20", "--json", str(file)]) == 0
    content = json.loads(file.read_text(encoding="utf-8"))
    assert [found["model"] for found in content["plannings"]] == list(sizes)
    assert content["exponent"] == pytest.approx(1.0)
    assert "1.00th power" in capsys.readouterr().out

    def interrupted(name: str, costs: str) -> Planning:
        if name != "digits-mlp":
            raise KeyboardInterrupt
        return _planning(name, 10, 10)

    monkeypatch.setattr(planning, "measure", interrupted)
    assert planning.main(["--json", str(file)]) == 0
    content = json.loads(file.read_text(encoding="utf-8"))
    assert [found["model"] for found in content["plannings"]] == ["digits-mlp"]
    assert content["exponent"] is None
