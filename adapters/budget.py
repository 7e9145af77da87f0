"""The price of a byte at which a plan keeps to a budget."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from formulations.errors import InputError

Draft = TypeVar("Draft")

#: Prices are looked for in growing steps until one is too low and one high enough, but no further than this.
_MOST_STEPS = 14
#: The price is known well enough within this factor.
_CLOSE = 1.1


def lowest_price(
    draft_at: Callable[[float], tuple[float, Draft]], most: float, start: float, step: float = 8.0
) -> tuple[float, Draft]:
    """The lowest price whose draft has a value of at most `most`, to within 10 %; values fall as prices rise.

    Args:
        draft_at: the value at a price, and what has it.
        start: a price to begin with, > 0.
        step: the factor by which the price to look for may be off.

    Raises:
        InputError: the value stays above `most` at any price; the message says how far it falls.
    """
    tried = {start: draft_at(start)}
    price = start
    while tried[price][0] > most:
        if len(tried) > _MOST_STEPS:
            nearest = min(value for value, _ in tried.values())
            raise InputError(f"the budget of {most:.4g} cannot be met; the least is {nearest:.4g}")
        price *= step
        tried[price] = draft_at(price)
    enough, too_low = price, price / step
    while too_low not in tried and len(tried) <= _MOST_STEPS:
        tried[too_low] = draft_at(too_low)
        if tried[too_low][0] <= most:
            enough, too_low = too_low, too_low / step
    while too_low in tried and enough / too_low > _CLOSE:
        price = (enough * too_low) ** 0.5
        tried[price] = draft_at(price)
        # Searches end where they end: a value may rise again. What counts is what was found.
        enough, too_low = (price, too_low) if tried[price][0] <= most else (enough, price)
    best = max((price for price, (value, _) in tried.items() if value <= most), key=lambda price: tried[price][0])
    return best, tried[best][1]
