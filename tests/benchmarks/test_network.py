"""Systems on slow networks: what predictions are made of, crossings, the report, and runs on hosts."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from adapters.stages import Stage
from benchmarks import network, network_systems
from benchmarks.crossover import crossed, crossings
from benchmarks.network_runs import Parts, Run, Workload, parts, runs, stages
from benchmarks.network_systems import systems
from formulations import Cluster


def _run(rate: float | None, system: str, milliseconds: list[float], predicted: float = 2.0) -> Run:
    return Run(
        rate_mbit=rate, system=system, share=0.5, accuracy=0.9, num_bytes=4000,
        seconds=[one / 1e3 for one in milliseconds], computing=0.001, waiting=0.002, overlap=1.25,
        busy=0.75, ways=["point to point"], predicted=Parts(0.0, 0.0005, predicted / 1e3 - 0.0005, 0.0),
        shard_bytes=10**6, peak_bytes=2 * 10**8, load=[0.5], note="",
    )  # fmt: skip


def test_what_a_prediction_is_made_of_by_hand() -> None:
    """At 10 products a second and 20 bytes a second, half a second a message, 6 examples.

    Worker a computes for 3 s. Worker b has 2 s of its own and 1 s of what it is sent: without messages 3 s, as with
    their half second, which its own 2 s hide. 60 bytes are there after 3.5 s: 4.5 s in all. But they take 2.5 s of
    b's processor beside its own 2 s, so that it gets to the rest a second later.
    """
    macs = np.array([[5.0, 0.0], [5 / 3, 10 / 3]])
    stage = Stage("fc", macs, np.array([[0.0, 10.0], [0.0, 0.0]]), np.zeros(2))
    links = {"bytes_per_second": [[0, 20.0], [20.0, 0]], "seconds": [[0, 0.5], [0.5, 0]]}
    cluster = Cluster(("a", "b"), [10.0, 10.0], [-1, -1], **links, overhead_seconds_per_byte=[0, 1 / 24])
    found = parts([stage], cluster, 6)
    assert found.computing == pytest.approx(3.0)
    assert found.latency == pytest.approx(0.0, abs=1e-6)
    assert found.network == pytest.approx(3.5 + 1 - 3)
    assert found.overhead == pytest.approx(1.0)
    assert found.total == pytest.approx(5.5)
    assert found.largest == "computing"


def test_crossings_by_hand() -> None:
    """Ahead by a factor of 2 at 10 and behind by 2 at 1000 is even at 100; by 2 and 8, a quarter of the way."""
    assert crossed([10, 1000], [1, 4], [2, 2]) == [pytest.approx(100)]
    assert crossed([1, 10**4], [1, 8], [2, 1]) == [pytest.approx(10)]
    assert crossed([10, 100, 1000], [1, 3, 1], [2, 2, 2]) == pytest.approx(
        [10 * 10 ** (np.log(2) / np.log(3)), 100 * 10 ** (np.log(1.5) / np.log(3))]
    )
    assert crossed([10, 1000], [1, 1], [2, 2]) == []
    found = crossings("plan", "naive", {10: (1, 1), 1000: (4, 1)}, {10: (2, 2), 100: (9, 9), 1000: (2, 2)})
    assert (found.lowest_rate, found.highest_rate, found.faster_at) == (10, 1000, [10, 1000])
    assert str(found) == (
        "plan against naive: faster at 10, 1000; predicted to cross at 100 Mbit/s; "
        "measured to cross nowhere from 10 to 1000 Mbit/s"
    )


@pytest.fixture
def reported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., dict[str, Any]]:
    """Runs the command with these measurements, the last of which Ctrl-C follows; its JSON."""

    def run(*found: Run, status: int = 0, interrupted: bool = False) -> dict[str, Any]:
        def measured(*_: object) -> Iterator[Run]:
            yield from found
            if interrupted:
                raise KeyboardInterrupt

        monkeypatch.setattr(network, "runs", measured)
        monkeypatch.setattr(network, "_systems", lambda arguments: [])
        file = tmp_path / "network.json"
        assert network.main(["--json", str(file), "--out", str(tmp_path)]) == status
        content: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
        return content

    return run


def test_the_report(
    reported: Callable[..., dict[str, Any]], capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    """Medians, how often faster, what bounds and how far predictions are off; JSON and picture have the same."""
    content = reported(
        _run(10, "direct", [8, 8, 80]), _run(10, "naive", [6]), _run(10, "plan 10%", [2], predicted=1.4),
        _run(100, "direct", [4]), _run(100, "naive", [1]), _run(100, "plan 10%", [2]),
    )  # fmt: skip
    assert content["schema"] == "network/1"
    first, _, plan = content["runs"][:3]
    assert first["median_seconds"] == 0.008
    assert (first["rate_mbit"], plan["bound"], plan["predicted_seconds"]) == (10, "network", pytest.approx(0.0014))
    assert [(each["plan"], each["other"], each["faster_at"]) for each in content["crossings"]] == [
        ("plan 10%", "direct", [10, 100]),
        ("plan 10%", "naive", [10]),
    ]
    out = capsys.readouterr().out
    assert "10 Mbit/s, 4 workers, batch 64" in out
    row = next(line for line in out.splitlines() if "plan 10%" in line)
    cells = [cell.strip() for cell in row.split("│")[1:-1]]
    assert cells == [
        "plan 10%", "4000", "50.0%", "90.00%", "2.0", "2.0", "1.0", "2.0", "1.4", "0.70", "1.25", "75%", "4.00",
        "3.00", "1.0", "200",
    ]  # fmt: skip
    assert (
        "plan 10%: bound by network (computing 0.0 ms, latency 0.5 ms, network 0.9 ms, "
        "overhead 0.0 ms); predicted 30% off"
    ) in out
    assert (tmp_path / "network.svg").read_text(encoding="utf-8").count("plan 10%") > 0


def test_what_was_measured_before_ctrl_c_is_reported(
    reported: Callable[..., dict[str, Any]], capsys: pytest.CaptureFixture[str]
) -> None:
    """Also where all hosts are this machine, which has no rates to draw or to cross."""
    content = reported(_run(None, "direct", [8]), interrupted=True)
    assert [(run["system"], run["rate_mbit"]) for run in content["runs"]] == [("direct", None)]
    assert content["crossings"] == []
    out, err = capsys.readouterr()
    assert "this machine, 4 workers" in out
    assert "interrupted" in err


@pytest.mark.parametrize(
    ("options", "mentioned"),
    [
        (["--workers", "1"], "--workers is 1"),
        (["--batches", "0"], "--batches is 0"),
        (["--rates", "0"], "--rates has 0"),
        (["--rates", "nan"], "--rates has nan"),
        (["--rates", "10", "10"], "a number twice"),
        (["--shares", "1.5"], "--shares has 1.5"),
        (["--delay", "-1"], "--delay is -1"),
        (["--model", "nobody"], "nobody"),
        (["--model", "json:loads", "--seed", "1"], "no training seeds"),
        (["--rate", "fast"], "--rate"),
    ],
)
def test_bad_input_is_one_line(
    options: list[str], mentioned: str, refused: Callable[[], str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And exit status 2."""
    monkeypatch.chdir(tmp_path)
    assert network.main(options) == 2
    assert mentioned in refused()


def _tiny() -> Any:
    from benchmarks.models.base import load_model

    return load_model("tinymodel:make")


def test_systems_are_made_once(tiny_model: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Bytes by hand: direct sends 6 inputs and 8 hidden to 1 other; naive inputs to both, alone to one: 3 each."""
    found = list(systems(_tiny(), 2, [0.5], tmp_path))
    assert [system.name for system in found] == ["direct", "naive", "alone", "plan 50%"]
    assert [system.bytes_sent for system in found[:3]] == [4 * (6 + 8), 4 * 6, 4 * 3]
    assert [system.share for system in found[:3]] == [1, pytest.approx(6 / 14), pytest.approx(3 / 14)]
    assert found[3].share <= 0.5
    assert found[0].accuracy == 1
    for system in found:
        assert sum(stage.num_bytes.sum() for stage in stages(system.folder)) == system.bytes_sent
    monkeypatch.setattr(network_systems, "_baseline", None)
    monkeypatch.setattr(network_systems._Planner, "system", None)
    assert list(systems(_tiny(), 2, [0.5], tmp_path)) == found
    (tmp_path / "naive.json").write_text("{", encoding="utf-8")
    with pytest.raises(TypeError):  # is made anew
        list(systems(_tiny(), 2, [0.5], tmp_path))


def test_a_system_on_hosts(tiny_model: list[str], tmp_path: Path) -> None:
    """Two processes with a network between them where there can be one: bytes are the plan's, times what they took."""
    system = next(systems(_tiny(), 2, [], tmp_path))
    (found,) = runs([system], [1000.0], Workload(2, batch=3, num_batches=1, delay_seconds=0.0))
    assert found.num_bytes == 3 * system.bytes_sent
    assert found.median == found.p95 > 0
    assert found.predicted.total > 0
    assert found.rate_mbit == 1000 or "all are this machine" in found.note
    assert found.computing + found.waiting == pytest.approx(found.median, rel=0.5)


@pytest.mark.slow
def test_the_command(tiny_model: list[str], tmp_path: Path) -> None:
    """All systems in turn, all bytes as predicted, and everything in the file."""
    file = tmp_path / "network.json"
    options = ["--rates", "1000", "--workers", "2", "--batches", "3", "--shares", "0.5", "--json", str(file)]
    assert network.main(["--model", "tinymodel:make", *options, "--out", str(tmp_path / "out")]) == 0
    found = json.loads(file.read_text(encoding="utf-8"))["runs"]
    assert [run["system"] for run in found] == ["direct", "naive", "alone", "plan 50%"]
    assert all(len(run["seconds"]) == 3 for run in found)
