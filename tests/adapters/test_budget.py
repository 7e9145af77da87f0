"""Searching the price for a budget."""

from __future__ import annotations

import pytest

from adapters.budget import lowest_price
from formulations import InputError


@pytest.mark.parametrize("start", [1e-6, 1.0, 3e4])
def test_price_found_is_within_ten_per_cent(start: float) -> None:
    """With value 1 / price the lowest price for a value of 0.02 is 50, from wherever the search begins."""
    price, draft = lowest_price(lambda price: (1 / price, f"at {price}"), 0.02, start)
    assert 50 <= price <= 55
    assert draft == f"at {price}"


def test_values_that_jump_back_are_taken_as_they_are() -> None:
    """Of what was tried, the largest value within the budget wins, though values do not fall evenly."""
    values = {1.0: 0.9, 8.0: 0.05}
    price, _ = lowest_price(lambda price: (values.get(price, 0.3 if price < 5 else 0.09), None), 0.1, 1.0)
    assert price not in values
    assert 5 <= price < 8


def test_budget_that_cannot_be_met_says_the_nearest_that_can() -> None:
    """A value that never falls below 0.25 is named."""
    with pytest.raises(InputError, match=r"budget of 0\.1 cannot be met; the least is 0\.25"):
        lowest_price(lambda price: (max(0.25, 1 / price), None), 0.1, 1.0)


def test_budget_that_anything_meets_ends() -> None:
    """Where every price is low enough, the search stops at one."""
    price, _ = lowest_price(lambda price: (0.0, None), 0.5, 1.0)
    assert price <= 1.0
