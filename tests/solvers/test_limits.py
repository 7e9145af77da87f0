"""Tiny problems of every communication, limit, budget and objective, on which the MIPs must agree with enumeration."""

import dataclasses
import itertools

import numpy as np
import pytest

from formulations import LayerProblem, evaluate
from solvers import Termination, registry

MIPS = ("highs", "highs-textbook", "cp-sat", "cp-sat-textbook")
SIZES = {"num_neurons": 4, "num_inputs": 3, "num_workers": 3}
#: Problems of a seed's block; the blocks keep one failure from hiding the rest.
BLOCK = 100
NUM_BLOCKS, NUM_SLOW_BLOCKS = 6, 20


def numbered(draw_limited_problem, seed, block):
    """The block's problems with a text that finds each of them again."""
    for number in range(block * BLOCK, (block + 1) * BLOCK):
        yield f"seed [{seed}, {number}]", draw_limited_problem(np.random.default_rng([seed, number]), sizes=SIZES)


def assert_agreement(problem, where, started=False):
    """All MIPs prove the optimum over all assignments, messages included, or that there is none."""
    truth = registry.get("brute-force").solve(problem)
    for name in MIPS:
        mip = registry.get(name)
        result = (mip if started else dataclasses.replace(mip, starter=None)).solve(problem)
        context = f"{where}: {problem.communication}, {problem.message_rules}: {result}; truth {truth}"
        assert result.termination is truth.termination, context
        assert result.messages == truth.messages, context
        if truth.evaluation is None:
            continue
        assert result.primal_bound == result.dual_bound == truth.primal_bound, context
        again = evaluate(problem, result.assignment)
        assert again.feasible, context
        assert again.objective == result.primal_bound, context


@pytest.mark.parametrize("block", range(NUM_BLOCKS))
def test_mips_agree_with_enumeration(block, draw_limited_problem):
    """On 600 problems the four MIPs return the optimum, or say what is short, in the words of the enumeration."""
    for where, problem in numbered(draw_limited_problem, 20, block):
        assert_agreement(problem, where)


def test_mips_agree_with_enumeration_from_a_start(draw_limited_problem):
    """The same on 20 problems, from what the registry's starter finds where it takes them."""
    for where, problem in itertools.islice(numbered(draw_limited_problem, 23, 0), 20):
        assert_agreement(problem, where, started=True)


@pytest.mark.slow
@pytest.mark.parametrize("block", range(NUM_SLOW_BLOCKS))
def test_mips_agree_with_enumeration_on_two_thousand_more(block, draw_limited_problem):
    """The same on 2,000 problems that the default run does not see."""
    for where, problem in numbered(draw_limited_problem, 21, block):
        assert_agreement(problem, where)


@pytest.mark.parametrize("block", range(2))
def test_losing_on_purpose_is_not_allowed(block):
    """What is at hand is kept, most valuable first, also where losing it would save a send or fit a budget."""
    for number in range(block * BLOCK, (block + 1) * BLOCK):
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
        assert_agreement(problem, f"seed [22, {number}]")


def test_a_budget_does_not_change_what_is_most_valuable():
    """Room for one weight: the local one of value 5 is kept, not the remote one of 10 − 8, whose loss is too much."""
    costs = {"prune_cost": [[5, 10]], "input_worker": [0, 1], "send_cost": [[0, 0], [8, 0]], "capacity": [[1], [0]]}
    problem = LayerProblem(**costs, communication="per_weight", kept_weight_capacity=[1, -1], error_budget=6)
    assert_agreement(problem, "by hand")
    assert registry.get("highs").solve(problem).termination is Termination.INFEASIBLE


@pytest.mark.parametrize("name", ["highs", "highs-textbook"])
@pytest.mark.parametrize(
    "rules", [{"input_bytes": [2**40 + 1, 2**40], "traffic_budget": 2**40}, {"error_budget": 2**40}], ids=str
)
def test_what_highs_cannot_count_is_refused(name, rules):
    """Bytes and losses beyond what 1e-9 of a variable can tell apart: refused with cp-sat as the way out."""
    problem = LayerProblem([[2**40 + 1, 3], [5, 2**40]], [0, 1], [[0, 4], [3, 0]], **rules)
    assert "use cp-sat" in registry.get(name).why_not(problem)
    truth = registry.get("brute-force").solve(problem)
    assert registry.get("cp-sat").solve(problem).primal_bound == truth.primal_bound
