"""Accuracy against bytes: what is read off the curves, and how the command begins and ends."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from benchmarks import curves
from benchmarks.curves import METHODS, Point, Saving, readings, sweeps_saving
from benchmarks.models import digits
from benchmarks.models.base import BenchmarkModel


def _point(seed: int, share: float, accuracy: float, method: str = "contiguous") -> Point:
    return Point(method, seed, 1.0, round(1000 * share), 1000, accuracy, 0.5, 1.0, 0.1, 0.2, 0.3, 4.0, 5.0)


def _tiny(seed: int) -> BenchmarkModel:
    """Layers of 8 and 3 neurons on 6 inputs."""
    torch.manual_seed(seed)
    model = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 3)).eval()
    data = torch.randn(90, 6)
    with torch.no_grad():
        labels = model(data).argmax(dim=1)
    return BenchmarkModel(f"tiny-{seed}", model, data[:60].split(20), data[60:], labels[60:])


@pytest.fixture
def tiny(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Arguments for two plans per method of a tiny network."""
    monkeypatch.setattr(digits, "digits_mlp", _tiny)
    return ["--workers", "2", "--seeds", "1", "--prices", "2"]


def test_curves_are_read_between_their_points() -> None:
    """Half way between 2 and 8 % on the logarithmic axis is 4 %; means and deviations are over seeds."""
    points = [_point(0, 0.08, 0.9), _point(0, 0.02, 0.5), _point(1, 0.08, 0.7), _point(1, 0.02, 0.5)]
    found = {reading.share: reading for reading in readings(points)}
    assert set(found) == {0.02, 0.03, 0.04, 0.06, 0.08}
    assert found[0.02].spread["accuracy"] == 0
    assert found[0.04].mean["accuracy"] == pytest.approx((0.7 + 0.6) / 2)
    assert found[0.08].mean["accuracy"] == pytest.approx(0.8)
    assert found[0.08].spread["accuracy"] == pytest.approx(0.1)
    assert found[0.08].num_seeds == 2


def test_curves_end_where_their_points_do() -> None:
    """A seed that does not reach a share has no say there, and plans that send nothing have no place."""
    points = [_point(0, share, 0.9) for share in (0.0, 0.02, 0.10)]
    points += [_point(1, share, 0.5) for share in (0.02, 0.04)]
    found = {reading.share: reading for reading in readings(points)}
    assert min(found) == 0.02
    assert [found[share].num_seeds for share in (0.02, 0.04, 0.06, 0.10)] == [2, 2, 1, 1]
    assert found[0.06].mean["accuracy"] == pytest.approx(0.9)


def test_what_sweeps_save_is_at_the_same_prices() -> None:
    """Shares of the totals of the same network at the same price; plans without a counterpart have no say."""
    point = _point(0, 0.1, 0.9, "greedy")
    points = [replace(point, price=price, objective=4.0) for price in (1.0, 2.0, 3.0)]
    points += [replace(point, method="activation", price=price, objective=price) for price in (1.0, 2.0)]
    points += [replace(point, method="activation", seed=1), replace(point, method="covariance", objective=0.1)]
    assert sweeps_saving(points) == Saving(mean=0.625, worst=0.5, num_plans=2)
    assert sweeps_saving(points[:3]) is None


def test_every_method_is_planned_at_every_price(tiny: list[str], tmp_path: Path, capsys: Any) -> None:
    """The JSON holds a point per method and price; dearer bytes are fewer; pictures and table are there."""
    file, out = tmp_path / "curves.json", tmp_path / "out"
    assert curves.main([*tiny, "--json", str(file), "--out", str(out)]) == 0
    content = json.loads(file.read_text(encoding="utf-8"))
    assert content["schema"] == "curves/1"
    assert content["versions"]["torch"] is not None
    sent: dict[str, list[int]] = {}
    for point in content["points"]:
        assert 0 <= point["accuracy"] <= point["accuracy_original"] == 1
        sent.setdefault(point["method"], []).append(point["bytes_sent"])
    assert list(sent) == list(METHODS)
    assert all(low >= high for low, high in sent.values())
    assert len({point["price"] for point in content["points"]}) == 4  # two for each costs
    assert {path.name for path in out.iterdir()} == {"digits-mlp-accuracy.svg", "digits-mlp-output-error.svg"}
    assert all("<svg" in path.read_text(encoding="utf-8") for path in out.iterdir())
    out_text = capsys.readouterr().out
    assert "digits-mlp on 2 workers" in out_text
    assert "sweeps over all layers lower the total by" in out_text


def test_interrupted_curves_are_kept(
    tiny: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Ctrl-C: the points before are printed, drawn and saved, though no curve may have two; exit status 0."""
    points = iter([_point(0, 0.04, 0.9), replace(_point(0, 0.03, 0.8), method="l0-munkres")])

    def plan_point(*_: object) -> Point:
        for point in points:
            return point
        raise KeyboardInterrupt

    monkeypatch.setattr(curves, "plan_point", plan_point)
    file, out = tmp_path / "curves.json", tmp_path / "out"
    assert curves.main([*tiny, "--json", str(file), "--out", str(out)]) == 0
    assert [point["method"] for point in json.loads(file.read_text())["points"]] == ["contiguous", "l0-munkres"]
    assert len(list(out.iterdir())) == 2
    assert capsys.readouterr().err.endswith("interrupted; what was found so far is above\n")


def test_interrupted_searches_are_no_points(tiny: list[str], monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    """What a search that Ctrl-C ended had by then would be a point off its curve: it is left out."""

    class Interrupted:
        def solve(self, problem: Any) -> Any:
            return replace(curves.Contiguous().solve(problem), limit=curves.Limit.INTERRUPT)

    monkeypatch.setitem(METHODS, "contiguous", replace(METHODS["contiguous"], make=lambda seed: Interrupted()))
    assert curves.main(tiny) == 130
    assert capsys.readouterr().out == ""
