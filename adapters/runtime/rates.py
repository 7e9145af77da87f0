"""From measured times to a cluster: medians, rates, and which network cards set a limit.

Shapes: P workers. Times are in seconds; those of messages are of round trips, one way of which is short.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from formulations.cluster import Cluster

#: A card that reaches this share of what its links carry one by one sets no limit.
CARD_SHARE = 0.9


@dataclass(frozen=True)
class Computing:
    """What one worker needs for layers.

    Attributes:
        macs_per_second: of dense products.
        layer_seconds: for a layer with hardly any.
    """

    macs_per_second: float
    layer_seconds: float


@dataclass(frozen=True)
class Message:
    """What was sent from one worker to others, or to one worker by others, at once.

    Attributes:
        num_bytes: of all of it together.
        times: of round trips with it.
        short_times: of round trips with next to nothing.
    """

    num_bytes: int
    times: tuple[float, ...]
    short_times: tuple[float, ...]

    @property
    def bytes_per_second(self) -> float:
        """Of medians."""
        return rate(self.num_bytes, statistics.median(self.times), statistics.median(self.short_times))

    @property
    def seconds(self) -> float:
        """One way of a short round trip."""
        return statistics.median(self.short_times) / 2


def rate(amount: float, seconds: float, fixed_seconds: float) -> float:
    """So much a second, where the time holds a fixed part; that is not taken off where noise hides the rest."""
    return amount / (seconds - fixed_seconds if seconds > fixed_seconds else seconds)


def card_limit(bytes_per_second: float, link_rates: Sequence[float]) -> float:
    """What a card carries, given what its links carry one by one; +inf where the card is not what limits them."""
    return math.inf if bytes_per_second >= CARD_SHARE * sum(link_rates) else bytes_per_second


def cluster(
    names: Sequence[str],
    computing: Sequence[Computing],
    links: Mapping[tuple[int, int], Message],
    sent: Sequence[Message],
    received: Sequence[Message],
) -> Cluster:
    """The cluster that was measured.

    Args:
        links: by (from, to), one at a time.
        sent, received: P, by one worker to and from all others at once; none where every worker has one link only.
    """
    num_workers = len(names)
    rates, seconds = np.zeros((num_workers, num_workers)), np.zeros((num_workers, num_workers))
    for ends, message in links.items():
        rates[ends], seconds[ends] = message.bytes_per_second, message.seconds
    cards = {
        "egress_bytes_per_second": [card_limit(m.bytes_per_second, rates[p]) for p, m in enumerate(sent)],
        "ingress_bytes_per_second": [card_limit(m.bytes_per_second, rates[:, p]) for p, m in enumerate(received)],
    }
    return Cluster(
        tuple(names),
        np.array([found.macs_per_second for found in computing]),
        np.full(num_workers, -1),
        rates,
        seconds,
        layer_seconds=np.array([found.layer_seconds for found in computing]),
        **{key: np.array(limits) for key, limits in cards.items()},
    )
