"""From measured times to a cluster: medians, rates, and which network cards set a limit.

Shapes: P workers. Times are in seconds; those of messages are of round trips, one way of which is short.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from adapters.stages import Stage, timed
from formulations.cluster import Cluster

FloatArray = NDArray[np.float64]

#: Cards that reach this share of what is expected set no limit.
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
        "egress_bytes_per_second": [card_limit(m.bytes_per_second, rates[p].tolist()) for p, m in enumerate(sent)],
        "ingress_bytes_per_second": [
            card_limit(m.bytes_per_second, rates[:, p].tolist()) for p, m in enumerate(received)
        ],
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


def rounded(measured: Cluster) -> Cluster:
    """To four digits, more than any of them is good for."""

    def four(values: FloatArray) -> FloatArray:
        return np.vectorize(lambda value: float(f"{value:.4g}"), otypes=[float])(values)

    names = ("macs_per_second", "bytes_per_second", "seconds", "layer_seconds", "overhead_seconds_per_byte")
    cards = ("egress_bytes_per_second", "ingress_bytes_per_second")
    arrays = {name: four(getattr(measured, name)) for name in (*names, *cards)}
    return replace(measured, price=np.zeros((0, 0)), **arrays)  # prices follow


# Everyone sends at once


def bytes_for_all(measured: Cluster, seconds: float) -> FloatArray:
    """P×P (from, to): what all can send to all at once in about this time, as far as links and cards alone say.

    Args:
        measured: of at least two workers.
    """
    off_diagonal = ~np.eye(measured.num_workers, dtype=bool)
    rates = np.where(off_diagonal, measured.bytes_per_second, 0.0)
    out, into = (
        measured.egress_bytes_per_second / rates.sum(axis=1),
        measured.ingress_bytes_per_second / rates.sum(axis=0),
    )
    share = np.minimum(out[:, None], into)
    return np.ceil(seconds * rates * np.minimum(share, 1.0))


def with_short_to_all(measured: Cluster, seconds: float) -> Cluster:
    """The cluster whose messages need at least as long as next to nothing from all to all did.

    A worker has several messages in hand then, and may share its cores with others who have too; layers send from
    most workers to most, so that this is what a layer's messages need, not what one needs alone.

    Args:
        seconds: until the last worker had everything.
    """
    return replace(measured, seconds=np.maximum(measured.seconds, seconds))


def with_all_at_once(measured: Cluster, num_bytes: FloatArray, seconds: float) -> Cluster:
    """The cluster whose cards carry no more than they did when all workers sent to all.

    Workers may share more than a card, such as a machine or a switch. What that costs when all send falls to every
    card alike, since layers send from most workers to most.

    Args:
        num_bytes: P×P (from, to); what was sent.
        seconds: until the last of it was there.
    """
    nothing = np.zeros(measured.num_workers)
    expected = timed([Stage("all", np.zeros_like(num_bytes), num_bytes, nothing)], measured).total
    if expected >= seconds:
        return measured
    card_seconds = seconds - measured.seconds.max()
    return replace(
        measured,
        egress_bytes_per_second=num_bytes.sum(axis=1) / card_seconds,
        ingress_bytes_per_second=num_bytes.sum(axis=0) / card_seconds,
    )


# Computing while messages cross


@dataclass(frozen=True)
class Beside:
    """The same multiplications without and with messages on their way.

    Attributes:
        num_bytes: that the worker sends and receives meanwhile.
        alone: seconds of the multiplications, of each repeat.
        beside: while messages cross.
        both: until multiplications and messages are done.
    """

    num_bytes: int
    alone: tuple[float, ...]
    beside: tuple[float, ...]
    both: tuple[float, ...]

    @property
    def overhead_seconds_per_byte(self) -> float:
        """What a byte takes of the processor; messages that take longer than the multiplications count in part."""
        alone, beside, both = (statistics.median(times) for times in (self.alone, self.beside, self.both))
        return max(0.0, beside - alone) / (self.num_bytes * beside / both)
