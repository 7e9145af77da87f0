"""Messages for a given placement under limits: what they are worth, and a greedy choice among them."""

from random import Random

import numpy as np
import pytest

from formulations import Assignment, LayerProblem, evaluate
from solvers import registry
from solvers.local_search import LocalSearch
from solvers.messages import Wishes, choose_messages, messages_of
from solvers.pricing import Prices, typical_cost, wished

#: Two neurons on w0 and w1, three inputs on w0, w0, w1.
COSTS = {"prune_cost": [[5, 6, 7], [8, 2, 9]], "input_worker": [0, 0, 1], "keep_cost": 1}
SENDS = {"send_cost": [[0, 3], [0, 4], [2, 0]], "input_bytes": [10, 20, 30]}
WORKER = np.array([0, 1])


def table(problem):
    """index → (saving, error, bytes, origin, target) of the messages."""
    found = messages_of(problem, WORKER)
    columns = (found.saving, found.error, found.num_bytes, found.origin, found.target)
    keys = zip(*(index.tolist() for index in found.index), strict=True)
    return dict(zip(keys, zip(*(column.tolist() for column in columns), strict=True), strict=True)), found.base_error


def test_messages_of_inputs_by_hand():
    """Input 2 restores 7 of neuron 0, inputs 0 and 1 restore 8 and 2 of neuron 1; gains are one less."""
    messages, base_error = table(LayerProblem(**COSTS, **SENDS))
    assert messages == {(2, 0): (6 - 2, 7, 30, 1, 0), (0, 1): (7 - 3, 8, 10, 0, 1), (1, 1): (1 - 4, 2, 20, 0, 1)}
    assert base_error == 0


def test_messages_of_partial_sums_by_hand():
    """From w1 to neuron 0: 6 for 2. From w0 to neuron 1: 7 + 1 for 3."""
    partial = {"partial_cost": [[9, 2], [3, 9]], "partial_bytes": [5, 6], "communication": "partials"}
    messages, _ = table(LayerProblem(**COSTS, **partial))
    assert messages == {(0, 1): (6 - 2, 7, 5, 1, 0), (1, 0): (8 - 3, 10, 6, 0, 1)}


def test_messages_that_pay_by_weight_by_hand():
    """Weight (1, 1) gains 1 and would pay 4: it is lost whatever is sent, and input 1 restores nothing."""
    messages, base_error = table(LayerProblem(**COSTS, **SENDS, communication="per_weight"))
    assert messages == {(2, 0): (6 - 2, 7, 30, 1, 0), (0, 1): (7 - 3, 8, 10, 0, 1)}
    assert base_error == 2


@pytest.mark.parametrize(("objective", "savings"), [("traffic", [-2, -3, -4]), ("error", [6, 7, 1])])
def test_what_is_not_counted_is_not_saved(objective, savings):
    """`traffic` counts the sends alone, `error` the gains alone."""
    problem = LayerProblem(**COSTS, **SENDS, objective=objective, error_budget=9, traffic_budget=99)
    messages, _ = table(problem)
    assert [messages[key][0] for key in ((2, 0), (0, 1), (1, 1))] == savings


@pytest.mark.parametrize(
    ("limits", "sent"),
    [
        ({"traffic_budget": 60}, {(2, 0), (0, 1)}),  # both pay for themselves and fit
        ({"traffic_budget": 39}, {(0, 1)}),  # 4 for 10 bytes comes before 4 for 30
        ({"traffic_budget": 9}, set()),
        ({"ingress_capacity": [29, -1]}, {(0, 1)}),
        ({"egress_capacity": [9, -1]}, {(2, 0)}),
        ({"link_capacity": [[-1, 9], [30, -1]]}, {(2, 0)}),
        ({"error_budget": 1}, {(2, 0), (0, 1), (1, 1)}),  # the 2 of input 1 must not be lost either
        ({"error_budget": 2}, {(2, 0), (0, 1)}),
        ({"error_budget": 10, "objective": "traffic"}, {(2, 0)}),  # 17 are lost without; the 7 of input 2 cost 2
        ({"error_budget": 8, "objective": "traffic"}, {(2, 0), (0, 1)}),
        ({"objective": "error", "traffic_budget": 30}, {(0, 1), (1, 1)}),
    ],
)
def test_choices_by_hand(limits, sent):
    """Saving per byte within the limits; for an error budget what restores most for its cost, no more than needed."""
    problem = LayerProblem(**COSTS, **SENDS, **limits)
    chosen = choose_messages(problem, WORKER)
    assert {tuple(pair) for pair in np.argwhere(chosen.sent).tolist()} == sent
    assert evaluate(problem, chosen).feasible


def test_without_rules_the_messages_follow():
    """Where only rows (1)–(3) bind, the placement is all there is to say."""
    assert choose_messages(LayerProblem(**COSTS, **SENDS), WORKER).sent is None


@pytest.mark.parametrize(
    ("wishes", "limits", "sent"),
    [
        ({(1, 1): 1}, {}, {(2, 0), (0, 1), (1, 1)}),  # costs more than it saves, and is wished for
        ({(2, 0): -1}, {}, {(0, 1)}),
        ({(1, 1): 1}, {"traffic_budget": 35}, {(1, 1), (0, 1)}),  # takes its 20 bytes first; 30 more do not fit
        ({(0, 1): -1}, {"error_budget": 8, "objective": "traffic"}, {(2, 0), (1, 1)}),  # 8 are lost, so 2 must not be
        ({(0, 0): 1, (2, 1): -1}, {}, {(2, 0), (0, 1)}),  # nothing is sent where it is
    ],
)
def test_wishes_by_hand(wishes, limits, sent):
    """What is wished for is sent and uses its bytes, what is wished away is not had; the rest is chosen as ever."""
    problem, wish = LayerProblem(**COSTS, **SENDS, **limits), np.zeros((3, 2), int)
    for message, value in wishes.items():
        wish[message] = value
    chosen = choose_messages(problem, WORKER, wish)
    assert {tuple(pair) for pair in np.argwhere(chosen.sent).tolist()} == sent


def test_wishes_close_links_wherever_the_neurons_go():
    """A closed link from w0 to w1 is −1 for the inputs that w0 holds, and for partial sums of neurons on w1."""
    wishes = Wishes(LayerProblem(**COSTS, **SENDS))
    wishes.closed[0, 1] = -1
    assert wishes.of(WORKER).tolist() == [[0, -1], [0, -1], [0, 0]]
    partial = {"partial_cost": [[9, 2], [3, 9]], "communication": "partials"}
    wishes = Wishes(LayerProblem(**COSTS, **partial))
    wishes.closed[0, 1] = -1
    assert wishes.of(WORKER).tolist() == [[0, 0], [-1, 0]]
    assert wishes.of(WORKER[::-1]).tolist() == [[-1, 0], [0, 0]]


@pytest.mark.parametrize("communication", ["inputs", "partials"])
def test_wishes_are_taken_back_as_they_were(communication):
    """Any number of wishes added and dropped, undone in reverse, leave none."""
    costs = SENDS if communication == "inputs" else {"partial_cost": [[9, 2], [3, 9]], "communication": "partials"}
    wishes, random = Wishes(LayerProblem(**COSTS, **costs)), Random(0)
    assert wishes.drop(random) is None
    undos = [wishes.drop(random) if number % 3 == 2 else wishes.add(random) for number in range(30)]
    assert wishes.table.any()
    for undo in reversed(undos):
        if undo is not None:
            undo()
    assert not wishes.table.any()
    assert not wishes.closed.any()


def test_settled_wishes_cost_what_they_do_to_any_placement(draw_problem):
    """`wished`: on 60 problems a placement costs what `evaluate` says with the wishes, less the sends wished for."""
    num_checked = 0
    for number in range(60):
        rng, random = np.random.default_rng([43, number]), Random(number)
        problem = draw_problem(rng, communication=("inputs", "partials")[number % 2])
        if problem.num_workers == 1 or not problem.num_inputs:
            continue
        wishes = Wishes(problem)
        for _ in range(4):
            wishes.add(random)
        worker = rng.integers(0, problem.num_workers, problem.num_neurons)
        penalty = rng.integers(0, 3, problem.place_cost.shape)
        settled = evaluate(wished(problem, wishes, penalty / typical_cost(problem)), Assignment(worker)).objective
        found = evaluate(problem, choose_messages(problem, worker, wishes.of(worker)))
        if problem.communication == "inputs":
            asked = problem.send_cost[problem.remote & (wishes.of(worker) > 0)].sum()
        else:
            away = worker[:, None] != np.arange(problem.num_workers)
            asked = problem.partial_cost[np.arange(worker.size), :, worker][away & (wishes.of(worker) > 0)].sum()
        moved = penalty[np.arange(worker.size), worker].sum()
        assert settled + asked - moved == found.objective - problem.base_cost, number
        num_checked += 1
    assert num_checked >= 20


def test_limits_are_never_broken_by_the_choice(draw_limited_problem):
    """On 300 random problems of every mode the byte limits hold for any placement."""
    for number in range(300):
        rng = np.random.default_rng([41, number])
        problem = draw_limited_problem(rng)
        worker = rng.integers(0, problem.num_workers, problem.num_neurons)
        found = evaluate(problem, choose_messages(problem, worker))
        broken = {violation.rule for violation in found.violations}
        assert broken <= {"capacity", "min_load", "error_budget"}, (number, broken)


def test_prices_rise_where_limits_are_broken():
    """A byte into w1 gets dearer while its limit is broken and cheaper once it is kept; others stay free."""
    problem = LayerProblem(**COSTS, **SENDS, ingress_capacity=[-1, 9])
    prices = Prices(problem)
    assert not prices.per_byte.any()
    prices.update(WORKER)
    first = prices.per_byte.copy()
    assert (first[:, 1] > 0).all()
    assert (first[:, 0] == 0).all()
    for _ in range(20):
        prices.update(WORKER)
    high = prices.per_byte[0, 1]
    assert high > first[0, 1]
    priced = prices.priced()
    assert priced.messages_follow_placement
    # Input 0 is no longer worth sending to w1.
    assert not evaluate(priced, Assignment(WORKER)).assignment.sent[0, 1] or high * 10 < 7 - 3


def test_priced_search_against_all_assignments(draw_limited_problem):
    """On 150 problems of every mode, limit and budget: never below the optimum, at it in at least 95 % of them."""
    sizes = {"num_neurons": 4, "num_inputs": 3, "num_workers": 3}
    num_feasible = num_optimal = 0
    for number in range(150):
        problem = draw_limited_problem(np.random.default_rng([42, number]), sizes=sizes)
        brute = registry.get("brute-force")
        if brute.why_not(problem):
            continue
        truth, result = brute.solve(problem), LocalSearch(steps_per_pair=300).solve(problem)
        if truth.evaluation is None:
            assert result.evaluation is None, number
            continue
        num_feasible += 1
        assert result.primal_bound >= truth.primal_bound, number
        num_optimal += result.primal_bound == truth.primal_bound
    assert num_feasible >= 60
    assert num_optimal >= 0.95 * num_feasible
