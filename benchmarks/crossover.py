"""The rate of the network at which one system overtakes another."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

#: Of one system: by rate, the predicted and the measured time.
Times = Mapping[float, tuple[float, float]]


@dataclass(frozen=True)
class Crossing:
    """A plan against another system.

    Attributes:
        lowest_rate, highest_rate: between which they were compared, in Mbit/s.
        predicted, measured: where the faster of the two changes, in Mbit/s.
        faster_at: the rates at which the plan was measured to be faster.
    """

    plan: str
    other: str
    lowest_rate: float
    highest_rate: float
    predicted: list[float]
    measured: list[float]
    faster_at: list[float]

    def __str__(self) -> str:
        between = f"{self.lowest_rate:g} to {self.highest_rate:g} Mbit/s"
        where = ", ".join(f"{rate:g}" for rate in self.faster_at) or "no rate"
        lines = {"predicted": _where(self.predicted, between), "measured": _where(self.measured, between)}
        told = "; ".join(f"{kind} to cross {text}" for kind, text in lines.items())
        return f"{self.plan} against {self.other}: faster at {where}; {told}"


def crossings(plan: str, other: str, ours: Times, theirs: Times) -> Crossing:
    """Where one overtakes the other, between rates at which both were measured; there is at least one."""
    rates = sorted(set(ours) & set(theirs))
    predicted, measured = (crossed(rates, [ours[r][k] for r in rates], [theirs[r][k] for r in rates]) for k in (0, 1))
    faster_at = [rate for rate in rates if ours[rate][1] < theirs[rate][1]]
    return Crossing(plan, other, rates[0], rates[-1], predicted, measured, faster_at)


def crossed(rates: Sequence[float], ours: Sequence[float], theirs: Sequence[float]) -> list[float]:
    """The rates at which the faster of the two changes, with times that are powers of the rate in between."""
    lead = [math.log(our / their) for our, their in zip(ours, theirs, strict=True)]
    found = []
    for (low, before), (high, after) in itertools.pairwise(zip(rates, lead, strict=True)):
        if before * after < 0:
            share = before / (before - after)
            found.append(low ** (1 - share) * high**share)
    return found


def _where(rates: Sequence[float], between: str) -> str:
    return f"at {', '.join(f'{rate:.3g}' for rate in rates)} Mbit/s" if rates else f"nowhere from {between}"
