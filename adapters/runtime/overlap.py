"""What a batch would take if messages crossed while computing, at no cost to it.

Shapes: P workers. Times are in seconds.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from adapters.runtime.shard import Shard
from adapters.runtime.steps import Receive, Send


@dataclass(frozen=True)
class Timeline:
    """One worker's steps and messages, as they are apart from each other.

    Attributes:
        steps: kind, transfer or −1, and seconds, of each.
        crossing: by transfer: the seconds until all is there that the worker receives, when nothing else is done.
        senders: by transfer: the ranks from which it does.
    """

    steps: list[tuple[str, int, float]]
    crossing: list[float]
    senders: list[list[int]]

    @classmethod
    def of(cls, shard: Shard, steps: Sequence[float], crossing: Sequence[float]) -> Timeline:
        """A worker's, with what was measured of its steps and transfers."""
        kinds = [
            (step.kind, getattr(step, "transfer", -1), took) for step, took in zip(shard.steps, steps, strict=True)
        ]
        return cls(kinds, list(crossing), [sorted(transfer.receives) for transfer in shard.transfers])


def overlapped(timelines: Sequence[Timeline]) -> float:
    """The time of the slowest worker, where each message is there as long after it was sent as it takes alone.

    Args:
        timelines: P; they receive only what is sent at some time, or this raises RuntimeError.
    """
    now, done = [0.0] * len(timelines), [0] * len(timelines)
    sent: dict[tuple[int, int], float] = {}  # by rank and transfer: when

    def run(rank: int) -> bool:
        """The worker's next step, where all is there that it needs."""
        if done[rank] == len(timelines[rank].steps):
            return False
        kind, transfer, seconds = timelines[rank].steps[done[rank]]
        if kind == Receive.kind:
            senders = [(sender, transfer) for sender in timelines[rank].senders[transfer]]
            if not all(sender in sent for sender in senders):
                return False
            there = max((sent[sender] for sender in senders), default=0.0) + timelines[rank].crossing[transfer]
            now[rank] = max(now[rank], there)
        now[rank] += seconds
        if kind == Send.kind:
            sent[rank, transfer] = now[rank]
        done[rank] += 1
        return True

    while any(run(rank) for rank in range(len(timelines))):
        pass
    if any(count < len(timeline.steps) for count, timeline in zip(done, timelines, strict=True)):
        raise RuntimeError("the workers wait for each other")
    return max(now)
