"""What limits and budgets must not bring about, in every MIP."""

import numpy as np
import pytest

from formulations import LayerProblem
from solvers import Termination, registry


@pytest.mark.parametrize("block", [0, *(pytest.param(block, marks=pytest.mark.slow) for block in range(1, 8))])
def test_losing_on_purpose_is_not_allowed(block, assert_agreement):
    """What is at hand is kept, most valuable first, also where losing it would save a send or fit a budget."""
    for number in range(25 * block, 25 * block + 25):
        rng = np.random.default_rng([22, number])
        num_neurons, num_inputs = int(rng.integers(1, 4)), int(rng.integers(2, 4))
        owner = rng.integers(0, 2, num_inputs)
        prune, send = rng.integers(1, 13, (num_neurons, num_inputs)), rng.integers(0, 12, (num_inputs, 2))
        send[np.arange(num_inputs), owner] = 0
        room = {} if rng.random() < 0.3 else {"kept_weight_capacity": rng.integers(1, 3, 2)}
        problem = LayerProblem(
            prune, owner, send, communication="per_weight", capacity=[[num_neurons], [num_neurons - 1]],
            objective="traffic" if not room or rng.random() < 0.5 else "weighted",
            error_budget=int(rng.integers(0, prune.sum() + 1)), **room,
        )  # fmt: skip
        assert_agreement(problem, registry.get("brute-force").solve(problem), where=f"seed [22, {number}]")


def test_a_budget_does_not_change_what_is_most_valuable(assert_agreement):
    """Room for one weight: the local one of value 5 is kept, not the remote one of 10 − 8, whose loss is too much."""
    costs = {"prune_cost": [[5, 10]], "input_worker": [0, 1], "send_cost": [[0, 0], [8, 0]], "capacity": [[1], [0]]}
    problem = LayerProblem(**costs, communication="per_weight", kept_weight_capacity=[1, -1], error_budget=6)
    assert_agreement(problem, registry.get("brute-force").solve(problem))
    assert registry.get("highs").solve(problem).termination is Termination.INFEASIBLE
