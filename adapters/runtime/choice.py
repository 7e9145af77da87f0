"""Which way of sending is faster: measured once, on the real links, and agreed on."""

from __future__ import annotations

import json
import statistics
from collections.abc import Sequence
from typing import TYPE_CHECKING

from adapters.runtime.point import ALL_TO_ALL, POINT_TO_POINT, seconds_of

if TYPE_CHECKING:
    from adapters.runtime.exchange import Group
    from adapters.runtime.point import Exchange

#: Repeats: small messages scatter, and large ones take long.
_WARM_UP, _LEAST, _MOST, _SECONDS = 2, 3, 25, 0.5

#: Of one exchange on one worker: its name, and P bytes sent and P received per example.
_Described = tuple[str, list[int], list[int]]


def faster_way(group: Group, exchanges: Sequence[Exchange], batch: int) -> str:
    """Set the way of all exchanges that can be all-to-all; see `Group.choose`."""
    described = json.dumps([(exchange.transfer.name, *exchange.bytes_per_example()) for exchange in exchanges])
    everyone: list[list[_Described]] = [json.loads(text) for text in group.agree("exchanges", described)]
    _check(group, everyone)
    complete = [e for k, e in enumerate(exchanges) if all(_to_all(of[k], rank) for rank, of in enumerate(everyone))]
    if not complete or len(everyone) == 1:
        return POINT_TO_POINT
    seconds = {way: _measured(group, complete, way, batch) for way in (POINT_TO_POINT, ALL_TO_ALL)}
    best = min(seconds, key=seconds.__getitem__)
    for exchange in complete:
        exchange.way = best
    return best


def _check(group: Group, everyone: Sequence[Sequence[_Described]]) -> None:
    """Refuse workers whose exchanges do not fit together. Raises WorkerError."""
    names, same = group.worker_names, "give all the same plan and wire"
    for rank, theirs in enumerate(everyone):
        if [name for name, *_ in theirs] != [name for name, *_ in everyone[0]]:
            raise group.stop(f"worker {names[rank]!r} has other exchanges than worker {names[0]!r}; {same}")
    for rank, theirs in enumerate(everyone):
        for at, (name, sends, _) in enumerate(theirs):
            for peer, count in enumerate(sends):
                expected = everyone[peer][at][2][rank]
                if count != expected:
                    line = f"worker {names[rank]!r} sends worker {names[peer]!r} {count} bytes of {name!r}"
                    raise group.stop(f"{line}, which expects {expected}; {same}")


def _to_all(described: _Described, rank: int) -> bool:
    """Whether a worker sends to and receives from every other."""
    return all(sent and got for p, (sent, got) in enumerate(zip(*described[1:], strict=True)) if p != rank)


def _measured(group: Group, exchanges: Sequence[Exchange], way: str, batch: int) -> float:
    """Seconds that the slowest worker takes for all of them, one after the other."""
    for exchange in exchanges:
        exchange.way = way
        for values in exchange.outgoing(batch).values():
            values.zero_()
    first = _of_the_slowest(group, [_once(group, exchanges, batch) for _ in range(_WARM_UP)])
    repeats = min(_MOST, max(_LEAST, int(_SECONDS / first)))
    return _of_the_slowest(group, [_once(group, exchanges, batch) for _ in range(repeats)])


def _once(group: Group, exchanges: Sequence[Exchange], batch: int) -> float:
    group.barrier()
    return seconds_of(exchanges, batch)


def _of_the_slowest(group: Group, seconds: Sequence[float]) -> float:
    """The median of the worker whose median is the longest."""
    return max(float(text) for text in group.agree("seconds", repr(statistics.median(seconds))))
