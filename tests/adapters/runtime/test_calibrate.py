"""Measured workers and links: the arithmetic by hand, and a run of two processes."""

from __future__ import annotations

import math

import numpy as np
import pytest

from adapters.runtime.rates import Computing, Message, card_limit, cluster


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
