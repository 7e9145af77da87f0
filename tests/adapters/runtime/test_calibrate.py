"""Measured workers and links: the arithmetic by hand, and a run of two processes."""

from __future__ import annotations

import math
import tomllib
from pathlib import Path

import numpy as np
import pytest

from adapters.latency import calibrate
from adapters.runtime.calibrate import main
from adapters.runtime.rates import (
    Beside,
    Computing,
    Message,
    bytes_for_all,
    card_limit,
    cluster,
    rounded,
    with_all_at_once,
    with_short_to_all,
)
from formulations import Cluster


def _message(num_bytes: int, seconds: float, short: float = 0.5) -> Message:
    return Message(num_bytes, (seconds,), (short,))


def test_a_message_by_hand() -> None:
    """Medians, so that one slow repetition changes nothing; the short round trip is no part of the rate."""
    found = Message(40, (4.5, 99.0, 4.5), (0.5, 0.25, 77.0))
    assert found.bytes_per_second == 40 / (4.5 - 0.5)
    assert found.seconds == 0.25


def test_noise_gives_no_negative_rate() -> None:
    """Where long messages took no longer than short ones, their own time counts."""
    assert _message(40, 0.5).bytes_per_second == 80
    assert _message(40, 0.4).bytes_per_second == 100


@pytest.mark.parametrize(
    ("carried", "expected"), [(100.0, math.inf), (90.0, math.inf), (89.0, 89.0), (25.0, 25.0), (200.0, math.inf)]
)
def test_cards_within_a_tenth_set_no_limit(carried: float, expected: float) -> None:
    """Links of 75 and 25 bytes a second, alone, carry 100 where they share nothing."""
    assert card_limit(carried, [75.0, 25.0]) == expected


def test_a_cluster_by_hand() -> None:
    """Three workers: a's card is half of its two links one way, c's the other way, and the rest is as it was."""
    links = {(p, q): _message(40, 4.5) for p in range(3) for q in range(3) if p != q}  # 10 bytes a second
    links[0, 1] = _message(40, 8.5, 4.5)
    sent = [_message(20, 2.5), _message(20, 1.5), _message(20, 1.6)]
    received = [_message(20, 1.5), _message(20, 1.5), _message(20, 4.5)]
    found = cluster("abc", [Computing(1.0, 0.0), Computing(2.0, 0.5), Computing(3.0, 0.25)], links, sent, received)
    assert found.worker_names == ("a", "b", "c")
    assert found.macs_per_second.tolist() == [1, 2, 3]
    assert found.layer_seconds.tolist() == [0, 0.5, 0.25]
    assert found.bytes_per_second.tolist() == [[0, 10, 10], [10, 0, 10], [10, 10, 0]]
    assert found.seconds.tolist() == [[0, 2.25, 0.25], [0.25, 0, 0.25], [0.25, 0.25, 0]]
    assert found.egress_bytes_per_second.tolist() == [10, np.inf, np.inf]  # 20 / 1.1 is within a tenth of 20
    assert found.ingress_bytes_per_second.tolist() == [np.inf, np.inf, 5]
    assert found.memory_bytes.tolist() == [-1, -1, -1]


def test_clusters_of_one_and_two() -> None:
    """Nobody to send to, and nothing that two links could share."""
    one = cluster("a", [Computing(1.0, 0.0)], {}, [], [])
    assert one.num_workers == 1
    assert one.egress_bytes_per_second.tolist() == [np.inf]
    links = {(0, 1): _message(40, 4.5), (1, 0): _message(80, 4.5)}
    two = cluster("ab", [Computing(1.0, 0.0)] * 2, links, [], [])
    assert two.bytes_per_second.tolist() == [[0, 10], [20, 0]]
    assert two.ingress_bytes_per_second.tolist() == [np.inf, np.inf]


def _three(**cards: list[float]) -> Cluster:
    """Links of 10 bytes a second and half a second."""
    arrays = {key: np.array(limits) for key, limits in cards.items()}
    square = (3, 3)
    return Cluster(("a", "b", "c"), np.ones(3), np.full(3, -1), np.full(square, 10.0), np.full(square, 0.5), **arrays)


def test_what_all_can_send_at_once_by_hand() -> None:
    """In 2 seconds 20 bytes by each link; half of it where a card carries half of its two links, each way."""
    assert bytes_for_all(_three(), 2.0).tolist() == [[0, 20, 20], [20, 0, 20], [20, 20, 0]]
    cards = {"egress_bytes_per_second": [10.0, 20.0, np.inf], "ingress_bytes_per_second": [np.inf, np.inf, 5.0]}
    assert bytes_for_all(_three(**cards), 2.0).tolist() == [[0, 10, 5], [20, 0, 5], [20, 20, 0]]


def test_what_workers_share_beside_cards_by_hand() -> None:
    """All at once took as long as expected, or less; or twice as long, and every card carries what it then did."""
    num_bytes = bytes_for_all(_three(), 2.0)
    for seconds in (2.5, 2.4):
        assert with_all_at_once(_three(), num_bytes, seconds).egress_bytes_per_second.tolist() == [np.inf] * 3
    num_bytes[0, 1] = 10
    found = with_all_at_once(_three(), num_bytes, 4.5)
    assert found.egress_bytes_per_second.tolist() == [30 / 4, 40 / 4, 40 / 4]
    assert found.ingress_bytes_per_second.tolist() == [40 / 4, 30 / 4, 40 / 4]
    assert found.bytes_per_second.tolist() == _three().bytes_per_second.tolist()


def test_short_messages_to_all_by_hand() -> None:
    """Half a second one by one, two when all send; where that is no slower, what one by one took stays."""
    assert with_short_to_all(_three(), 2.0).seconds.tolist() == [[0, 2, 2], [2, 0, 2], [2, 2, 0]]
    assert with_short_to_all(_three(), 0.25).seconds.tolist() == _three().seconds.tolist()


@pytest.mark.parametrize(
    ("alone", "beside", "both", "expected"),
    [
        (2.0, 3.0, 3.0, 0.1),  # ten bytes cost one second
        (2.0, 3.0, 6.0, 0.2),  # half of them were on their way meanwhile
        (2.0, 2.0, 4.0, 0.0),
        (2.0, 1.75, 4.0, 0.0),  # noise
    ],
)
def test_what_messages_take_of_a_processor_by_hand(alone: float, beside: float, both: float, expected: float) -> None:
    """What multiplications take longer while ten bytes cross; medians."""
    found = Beside(10, (alone, 99.0, alone), (beside, 77.0, beside), (both, 88.0, both))
    assert found.overhead_seconds_per_byte == pytest.approx(expected)


def test_four_digits_and_no_more() -> None:
    """Of every number; no limit stays none, and prices follow the rates that are written."""
    odd = Cluster(("a", "b"), [12345.6, 1.0], [-1, -1], [[0, 98765.4], [1 / 3, 0]], [[0, 1e-9], [0, 0]],
                  egress_bytes_per_second=[np.inf, 1.23456])  # fmt: skip
    found = rounded(odd)
    assert found.macs_per_second.tolist() == [12350, 1]
    assert found.bytes_per_second.tolist() == [[0, 98770], [0.3333, 0]]
    assert found.seconds.tolist() == odd.seconds.tolist()
    assert found.egress_bytes_per_second.tolist() == [np.inf, 1.235]
    assert found.price.tolist() == Cluster.from_table(found.to_table()).price.tolist()
    assert found.price.tolist() != odd.price.tolist()


# On real processes


def test_two_processes_are_measured(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The file has both workers and both links, and says what was measured; nothing else is printed."""
    out = tmp_path / "cluster.toml"
    assert (
        main(
            [
                "--local",
                "2",
                "--names",
                "anna,bert",
                "--batch",
                "8",
                "--width",
                "64",
                "--timeout",
                "60",
                "--out",
                str(out),
            ]
        )
        == 0
    )
    found, text = Cluster.read(out), out.read_text()
    assert capsys.readouterr() == ("", "")
    assert text.startswith("# Measured by adapters.runtime.calibrate with torch ")
    assert "layers 64 wide, batch 8, float32\n# on cpu, threads per worker 1;" in text
    assert found.worker_names == ("anna", "bert")
    off_diagonal = ~np.eye(2, dtype=bool)
    for measured in (found.macs_per_second, found.layer_seconds, found.bytes_per_second, found.seconds):
        values = measured[off_diagonal] if measured.ndim == 2 else measured
        assert np.isfinite(values).all()
        assert (values > 0).all()
    assert np.isfinite(found.overhead_seconds_per_byte).all()
    assert (found.egress_bytes_per_second > 0).all()
    assert (found.ingress_bytes_per_second > 0).all()
    workers = tomllib.loads(text)["worker"]
    assert all("memory_bytes" not in worker for worker in workers)


def test_from_python() -> None:
    """One process has no links, and its speed is not that of a worker of `--workers`."""
    found = calibrate(1, batch=2, timeout_seconds=60)
    assert found.worker_names == ("w0",)
    assert found.macs_per_second[0] != Cluster.equal(1).macs_per_second[0]


@pytest.mark.parametrize(
    ("options", "mentioned"),
    [
        ([], "start it with torchrun, or give --local P"),
        (["--local", "0"], "0 workers"),
        (["--local", "2", "--batch", "0"], "batch has 0"),
        (["--local", "2", "--timeout", "nan"], "timeout is nan"),
        (["--local", "2", "--width", "0"], "0 wide"),
        (["--local", "2", "--names", "a"], "'a' are not 2"),
        (["--local", "2", "--names", "a,a"], "'a,a' are not 2"),
        (["--local", "2", "--names", "a,"], "'a,' are not 2"),
        (["--local", "2", "--threads", "3"], "--threads"),
    ],
)
def test_what_cannot_be_measured_is_bad_input(
    options: list[str],
    mentioned: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """One line, and no process is started."""
    monkeypatch.delenv("RANK", raising=False)
    assert main([*options, "--out", str(tmp_path / "c.toml")]) == 2
    error = capsys.readouterr().err
    assert mentioned in error
    assert len(error.splitlines()) == 1
    assert not (tmp_path / "c.toml").exists()


def test_a_worker_that_fails_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """No time to start in: one line, exit 1, no file."""
    assert main(["--local", "2", "--timeout", "0.01", "--out", str(tmp_path / "c.toml")]) == 1
    error = capsys.readouterr().err
    assert error.startswith("failed: worker ")
    assert len(error.splitlines()) == 1
    assert list(tmp_path.iterdir()) == []
