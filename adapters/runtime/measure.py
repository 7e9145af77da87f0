"""Measure what workers compute and send, on the workers themselves.

All workers multiply at the same time, since they may share cores. Messages are sent by one worker at a time, to one
other or to all, or by all others to one, while nothing else is under way, through the exchange that plans run on.

Shapes: P workers. Times are in seconds.
"""

from __future__ import annotations

import json
import math
import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, replace
from typing import Any

import numpy as np
import torch

from adapters.runtime import rates
from adapters.runtime.exchange import Exchange, Group
from adapters.runtime.messages import Transfer
from adapters.runtime.point import seconds_of
from adapters.runtime.rates import Computing, FloatArray, Message
from formulations.cluster import Cluster

#: Inputs and neurons of a layer that is next to none.
_NO_WIDTH = 4
#: What one measurement of a rate should take, in seconds, and how many there are at least and at most.
_LONG_ENOUGH = 0.1
_REPEATS, _MOST_REPEATS = 5, 50
#: What all sending to all should take. Where messages cross, the first of their bytes go at less than the rate: at
#: 10 Mbit/s four workers took 1.4 times as long as their bytes with 40 KiB to each other, 1.1 times with 262 KiB.
_LONG_ENOUGH_FOR_ALL = 0.5
#: How long multiplications beside messages should take, how often, since next to other programs one time says little,
#: and of how many layers at least.
_BESIDE, _BESIDE_REPEATS, _BESIDE_LAYERS = 0.05, 15, 4
#: Numbers of a long message: in the first one, and in any.
_FIRST_LONG, _LONGEST = 2**16, 2**20
_NUMBER_BYTES = 4


def measured(group: Group, batch: int, width: int, show: Callable[[str], None] = lambda text: None) -> Cluster:
    """The cluster of the group's workers; all of them call this, and all get the same.

    Args:
        batch: examples at a time of the layer whose speed is measured.
        width: its inputs and neurons.
        show: is told what is measured next.
    """
    everyone = range(len(group.worker_names))
    show("multiplications")
    group.barrier()  # all at the same time
    computing = [
        Computing(**found) for found in _shared(group, "computing", asdict(_computing(batch, width, group.device)))
    ]
    links: dict[tuple[int, int], Message] = {}
    for ends in ((p, q) for p in everyone for q in everyone if p != q):
        show(f"link {' → '.join(group.worker_names[p] for p in ends)}")
        links[ends] = _link(group, *ends)
    sent, received = [], []
    if len(everyone) > 2:  # a card with one link has nothing to share
        for p in everyone:
            show(f"card of {group.worker_names[p]}")
            sent.append(_card(group, p, {q: links[p, q] for q in everyone if q != p}, inward=False))
            received.append(_card(group, p, {q: links[q, p] for q in everyone if q != p}, inward=True))
    found = rates.cluster(group.worker_names, computing, links, sent, received)
    if len(everyone) == 1:
        return rates.rounded(found)
    show("all links at once")
    short = _all_at_once(group, np.full_like(found.bytes_per_second, _NUMBER_BYTES), _MOST_REPEATS)
    found = rates.with_short_to_all(found, short)
    seconds = min(_LONG_ENOUGH_FOR_ALL, _LONGEST * _NUMBER_BYTES / found.bytes_per_second.max())
    num_bytes = rates.bytes_for_all(found, seconds)
    took = _all_at_once(group, num_bytes, _repeats(seconds))
    found = rates.with_all_at_once(found, num_bytes, took)
    show("multiplications beside messages")
    seconds = min(took, _BESIDE)
    beside = _beside(group, num_bytes * (seconds / took), seconds, computing[group.rank], batch, width)
    overhead = [rates.Beside(**one).overhead_seconds_per_byte for one in _shared(group, "beside", asdict(beside))]
    return rates.rounded(replace(found, overhead_seconds_per_byte=np.array(overhead)))


def _shared(group: Group, key: str, mine: object) -> list[Any]:
    """What each worker has found, in order."""
    group.barrier()  # asking for notes takes time from those who measure
    return [json.loads(text) for text in group.agree(key, json.dumps(mine))]


# Multiplications


class _Layer:
    """A layer of so many inputs and neurons, with the choice of its inputs among channels and a ReLU."""

    def __init__(self, batch: int, width: int, device: torch.device) -> None:
        sizes = ((batch, width), (width, width), (width,))
        self._inputs, self._weight, self._bias = (torch.randn(*size, device=device) for size in sizes)
        self._channels = torch.arange(width, device=device)

    def run(self, enough: Callable[[int], bool]) -> int:
        """Again and again; how often it was until `enough` of that number."""
        count = 0
        with torch.inference_mode():
            while not enough(count):
                chosen = self._inputs.index_select(1, self._channels)
                made = torch.nn.functional.linear(chosen, self._weight, self._bias).relu_()
                count += 1
            made[0, 0].item()  # what is done elsewhere is done
        return count


def _computing(batch: int, width: int, device: torch.device) -> Computing:
    fixed = _layer_seconds(batch, _NO_WIDTH, device)
    return Computing(rates.rate(batch * width**2, _layer_seconds(batch, width, device), fixed), fixed)


def _layer_seconds(batch: int, width: int, device: torch.device) -> float:
    layer, found = _Layer(batch, width, device), []
    for _ in range(_REPEATS + 1):
        begin = time.perf_counter()
        count = layer.run(lambda count, begin=begin: count > 0 and time.perf_counter() > begin + _LONG_ENOUGH)
        found.append((time.perf_counter() - begin) / count)
    return statistics.median(found[1:])  # the first warms up


def _beside(
    group: Group, num_bytes: FloatArray, seconds: float, speed: Computing, batch: int, width: int
) -> rates.Beside:
    """This worker's multiplications without messages, and while all send to all.

    Args:
        seconds: how long they should take; layers are made narrower until there are a few.
    """
    width = max(1, min(width, math.isqrt(int(seconds / _BESIDE_LAYERS * speed.macs_per_second / batch))))
    num_layers = max(1, round(seconds / (speed.layer_seconds + batch * width**2 / speed.macs_per_second)))
    layer, exchange = _Layer(batch, width, group.device), _to_all(group, num_bytes)
    handled = sum(sum(numbers.values()) for numbers in (exchange.transfer.sends, exchange.transfer.receives))
    alone, beside, both = [], [], []
    for _ in range(_BESIDE_REPEATS + 1):
        group.barrier()
        begin = time.perf_counter()
        layer.run(lambda count: count == num_layers)
        alone.append(time.perf_counter() - begin)
        exchange.outgoing(1)
        group.barrier()
        begin = time.perf_counter()
        exchange.start()
        layer.run(lambda count: count == num_layers)
        beside.append(time.perf_counter() - begin)
        exchange.finish()
        both.append(time.perf_counter() - begin)
    return rates.Beside(_NUMBER_BYTES * handled, *(tuple(times[1:]) for times in (alone, beside, both)))


# Messages


def _link(group: Group, source: int, target: int) -> Message:
    """One worker sends to another."""
    short = _round_trips(group, source, {target: 1}, _MOST_REPEATS)
    first = _round_trips(group, source, {target: _FIRST_LONG}, 1)
    rate = Message(_FIRST_LONG * _NUMBER_BYTES, first, short).bytes_per_second / _NUMBER_BYTES
    count = max(_FIRST_LONG, min(_LONGEST, math.ceil(_LONG_ENOUGH * rate)))
    times = _round_trips(group, source, {target: count}, _repeats(count / rate))
    return Message(count * _NUMBER_BYTES, times, short)


def _card(group: Group, center: int, links: Mapping[int, Message], *, inward: bool) -> Message:
    """One worker sends to all others, or they to it, as much to each as its link carries in the same time."""
    rate = {peer: link.bytes_per_second / _NUMBER_BYTES for peer, link in links.items()}
    seconds = min(_LONG_ENOUGH, _LONGEST / max(rate.values()))
    counts = {peer: math.ceil(seconds * rate[peer]) for peer in links}
    short = _round_trips(group, center, dict.fromkeys(links, 1), _MOST_REPEATS)
    times = _round_trips(group, center, counts, _repeats(seconds), inward=inward)
    return Message(sum(counts.values()) * _NUMBER_BYTES, times, short)


def _repeats(seconds: float) -> int:
    """How often to measure what takes so long: of what is short, one late wake-up may be most."""
    return max(_REPEATS, min(_MOST_REPEATS, int(_REPEATS * _LONG_ENOUGH / seconds)))


def _all_at_once(group: Group, num_bytes: FloatArray, repeats: int) -> float:
    """Seconds until the last worker has what all send to all."""
    exchange, times = _to_all(group, num_bytes), []
    for _ in range(repeats + 1):
        group.barrier()
        times.append(seconds_of([exchange], 1))
    last = np.array(_shared(group, "all", times)).max(axis=0)
    return float(np.median(last[1:]))  # the first warms up


def _to_all(group: Group, num_bytes: FloatArray) -> Exchange:
    """All send to all."""
    counts = np.ceil(num_bytes / _NUMBER_BYTES).astype(int)
    sends = {peer: int(counts[group.rank, peer]) for peer in range(len(counts)) if peer != group.rank}
    receives = {peer: int(counts[peer, group.rank]) for peer in range(len(counts)) if peer != group.rank}
    return group.exchange(Transfer("calibration of all", sends, receives, torch.float32))


def _round_trips(
    group: Group, center: int, counts: Mapping[int, int], repeats: int, *, inward: bool = False
) -> tuple[float, ...]:
    """Seconds from the first send of `center` until all peers have answered, as all workers get to know them.

    Args:
        counts: numbers by peer, on the way there, or back where it is `inward`; one number the other way.
    """
    ones = dict.fromkeys(counts, 1)
    there, back = (ones, counts) if inward else (counts, ones)
    name = f"calibration of {group.worker_names[center]}"
    ways = (_outward(group, name, center, there), _inward(group, name, center, back))
    times = []
    if group.rank == center or group.rank in counts:
        for _ in range(repeats + 1):
            times.append(seconds_of(ways, 1))
    return tuple(_shared(group, name, times[1:])[center])  # the first warms up


def _outward(group: Group, name: str, center: int, counts: Mapping[int, int]) -> Exchange:
    sends = counts if group.rank == center else {}
    receives = {center: counts[group.rank]} if group.rank in counts else {}
    return group.exchange(Transfer(name, sends, receives, torch.float32))


def _inward(group: Group, name: str, center: int, counts: Mapping[int, int]) -> Exchange:
    sends = {center: counts[group.rank]} if group.rank in counts else {}
    receives = counts if group.rank == center else {}
    return group.exchange(Transfer(name, sends, receives, torch.float32))
