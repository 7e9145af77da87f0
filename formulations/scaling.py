"""Costs as integers: one power of two for all of them, chosen from their totals (docs/design.md, Integers)."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from formulations.errors import InputError

IntArray = NDArray[np.int64]

#: Float costs are scaled so that every total stays below this.
TOTAL_LIMIT_LOG2 = 50
#: Integer costs are taken as they are, up to a sum of all totals that int64 sums cannot overflow.
INTEGER_TOTAL_LIMIT = 2**61


@dataclass(frozen=True)
class Scaling:
    """How a problem's integer costs relate to the caller's unit.

    Attributes:
        scale: integer cost = rint(caller's cost × scale); a power of two.
        rounding_bound: |F_integer / scale − F_caller| is at most this, for every assignment.
        num_zeroed: positive cost entries that became 0.
    """

    scale: float = 1.0
    rounding_bound: float = 0.0
    num_zeroed: int = 0

    def __post_init__(self) -> None:
        if not (math.isfinite(self.scale) and self.scale > 0 and math.frexp(self.scale)[0] == 0.5):
            raise InputError(f"scale is {self.scale!r}; it must be a power of two")
        if not (math.isfinite(self.rounding_bound) and self.rounding_bound >= 0):
            raise InputError(f"rounding_bound is {self.rounding_bound!r}; it must be finite and not negative")


def choose_scale(totals: Iterable[float]) -> float:
    """The largest power of two that keeps every total below 2^50; 1 where all totals are 0."""
    largest = max(totals, default=0.0)
    if not math.isfinite(largest):
        raise InputError(f"costs add up to {largest}; give finite costs that a float64 sum can hold")
    if largest == 0.0:
        return 1.0
    # largest = m · 2^e with 1/2 <= m < 1, so largest · 2^(50 − e) < 2^50. A float64 power of two
    # ends at 2^1023.
    return math.ldexp(1.0, min(TOTAL_LIMIT_LOG2 - math.frexp(largest)[1], 1000))


def round_costs(name: str, cost: NDArray[Any], scale: float) -> tuple[IntArray, NDArray[np.float64], int]:
    """Integers, a bound on each entry's rounding error in the caller's unit, and how many entries became 0.

    Raises:
        InputError: a whole array that was not 0 became 0.
    """
    scaled = cost.astype(np.float64) * scale
    rounded = np.rint(scaled)
    error = np.abs(rounded - scaled) / scale
    if cost.dtype.kind == "i":
        # Beyond 2^53 an integer was rounded on its way to float64 already.
        error += np.where(np.abs(scaled) / scale >= 2.0**53, np.abs(scaled) / scale * 2.0**-53, 0.0)
    zeroed = int(np.count_nonzero((rounded == 0) & (cost != 0)))
    if zeroed and not rounded.any():
        raise InputError(
            f"{name}: all {zeroed} positive entries round to 0 at scale {scale:g} (largest {np.abs(cost).max():g}); "
            "the costs span too wide a range, bring the large ones down"
        )
    return rounded.astype(np.int64), error, zeroed


def rounding_bound(errors: Mapping[str, NDArray[np.float64]], communication: str) -> float:
    """A bound on |F_integer / scale − F_caller| over all assignments, from the entries' errors.

    An assignment pays a_ij or κ per weight, every other cost at most once per entry it can choose;
    a minimum of terms is off by no more than its worst term.
    """
    weight_NM = np.maximum(errors["prune_cost"], errors["keep_cost"])
    total = float(weight_NM.sum()) + float(errors["place_cost"].max(axis=1).sum())
    total += float(np.abs(errors["objective_constant"]).sum())
    if communication == "partials":
        total += float(errors["partial_cost"].max(axis=2).sum())
    elif communication == "per_weight":
        total += float(errors["send_cost"].max(axis=1).sum()) * weight_NM.shape[0]
    else:
        total += float(errors["send_cost"].sum())
    # The sums above are themselves rounded; a relative 1e-9 more than covers that.
    return total * (1 + 1e-9)
