"""Floats become integers: by which power of two, how far off, and when that is refused."""

import contextlib
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from formulations import Assignment, InputError, LayerProblem, evaluate
from formulations.scaling import Scaling, choose_scale

COSTS = ("prune_cost", "keep_cost", "send_cost", "place_cost", "objective_constant", "partial_cost")
LIMIT = 2**50


def exact_totals(problem, given_costs):
    """The sum of the absolute values of each cost array as given, N·M·κ included, without rounding."""
    num_weights = problem.num_neurons * problem.num_inputs
    totals = []
    for key in COSTS:
        values = np.asarray(given_costs.get(key, 0), dtype=float)
        if key == "partial_cost" and values.ndim == 3:
            values = values * (1 - np.eye(problem.num_workers))
        factor = num_weights if key == "keep_cost" else 1
        totals.append(factor * sum(abs(Fraction(value)) for value in values.ravel().tolist()))
    return totals


def real_objective(given_costs, owner, communication, worker, num_workers):
    """F(x) of the costs as given, in fractions."""
    a, t, e = (np.asarray(given_costs[key]).tolist() for key in ("prune_cost", "send_cost", "place_cost"))
    keep, constant = (Fraction(float(given_costs[key])) for key in ("keep_cost", "objective_constant"))
    neurons, inputs = range(len(a)), range(len(owner))
    gain = [[max(Fraction(0), Fraction(a[i][j]) - keep) for j in inputs] for i in neurons]
    total = constant + sum(min(Fraction(a[i][j]), keep) for i in neurons for j in inputs)
    total += sum(Fraction(e[i][worker[i]]) for i in neurons)
    zero = Fraction(0)
    if communication == "inputs":
        for p in range(num_workers):
            for j in inputs:
                if owner[j] != p:
                    total += min(Fraction(t[j][p]), sum((gain[i][j] for i in neurons if worker[i] == p), zero))
    elif communication == "partials":
        s = np.asarray(given_costs["partial_cost"]).tolist()
        for i in neurons:
            for q in range(num_workers):
                if q != worker[i]:
                    there = sum((gain[i][j] for j in inputs if owner[j] == q), zero)
                    total += min(Fraction(s[i][q][worker[i]]), there)
    else:
        for i in neurons:
            for j in inputs:
                if owner[j] != worker[i]:
                    total += min(Fraction(t[j][worker[i]]), gain[i][j])
    return total


@settings(max_examples=200)
@given(data=st.data(), coarse=st.sampled_from([None, 1.0, 2.0, 8.0]))
def test_rounding_bound_holds(placed_problems, data, coarse):
    """|F_integer / scale − F_real| is within the bound, at the chosen scale and at coarse ones."""
    placed = data.draw(placed_problems(floats=True))
    scaling = None if coarse is None else Scaling(coarse)
    problem = LayerProblem(**placed.given, scaling=scaling)
    found = Fraction(evaluate(problem, Assignment(placed.worker)).objective) / Fraction(problem.scale)
    owner = placed.given["input_worker"].tolist()
    real = real_objective(placed.given, owner, problem.communication, placed.worker, problem.num_workers)
    assert abs(found - real) <= Fraction(problem.scaling.rounding_bound)


INPUTS = {"prune_cost": [[9.0, 9.0], [9.0, 9.0], [9.0, 9.0]], "input_worker": [0, 0], "send_cost": np.zeros((2, 3))}
LOADS = {"capacity": [[9]] * 3}


@pytest.mark.parametrize(
    ("costs", "worker", "off_by"),
    [
        # Everything below is 0.4 more than an integer, and is paid as often as can be.
        pytest.param(INPUTS | {"prune_cost": np.full((3, 2), 1.4), "keep_cost": 2.0}, [0, 0, 0], 6 * 0.4, id="lost"),
        pytest.param(INPUTS | {"keep_cost": 1.4}, [0, 0, 0], 6 * 0.4, id="kept"),
        pytest.param(INPUTS | {"place_cost": np.full((3, 3), -1.4)}, [0, 1, 2], 3 * 0.4, id="placed"),
        pytest.param(INPUTS | {"objective_constant": 1.4}, [0, 0, 0], 0.4, id="constant"),
        pytest.param(INPUTS | {"send_cost": [[0, 1.4, 1.4]] * 2}, [1, 1, 2], 4 * 0.4, id="sent"),
        pytest.param(
            INPUTS | {"send_cost": [[0, 1.4, 1.4]] * 2, "communication": "per_weight"},
            [1, 1, 2],
            6 * 0.4,
            id="sent per weight",
        ),
        pytest.param(
            INPUTS | {"input_worker": [0, 1], "communication": "partials", "partial_cost": [[[0, 1, 1.4]] * 3] * 3},
            [2, 2, 2],
            6 * 0.4,
            id="partials",
        ),
    ],
)
def test_rounding_bound_by_hand(costs, worker, off_by):
    """Each kind of cost can be off by as much as the bound says, and no more."""
    problem = LayerProblem(**costs, **LOADS, scaling=Scaling(1.0))
    found = evaluate(problem, Assignment(worker)).objective
    owner = costs["input_worker"]
    given_costs = {"keep_cost": 0.0, "objective_constant": 0.0, "place_cost": np.zeros((3, 3)), **costs}
    real = float(real_objective(given_costs, owner, problem.communication, worker, 3))
    assert abs(found - real) == pytest.approx(off_by)
    assert problem.scaling.rounding_bound == pytest.approx(off_by)


@settings(max_examples=200)
@given(data=st.data())
def test_scale_is_the_largest_power_of_two_that_fits(placed_problems, data):
    """Every total stays below 2^50, and at twice the scale one would not."""
    placed = data.draw(placed_problems(floats=True))
    scale = Fraction(placed.problem.scale)
    largest = max(exact_totals(placed.problem, placed.given))
    if largest == 0:
        assert scale == 1
        return
    assert largest * scale < LIMIT
    assert largest * scale * 2 >= LIMIT
    assert scale.numerator == 1 or scale.denominator == 1
    assert (scale.numerator * scale.denominator).bit_count() == 1


@settings(max_examples=100)
@given(data=st.data())
def test_entries_are_rounded_to_the_nearest_integer(placed_problems, data):
    """integer = rint(cost × scale), entry by entry."""
    placed = data.draw(placed_problems(floats=True))
    for key in ("prune_cost", "send_cost", "place_cost"):
        expected = np.rint(placed.given[key] * placed.problem.scale).astype(int)
        assert np.array_equal(getattr(placed.problem, key), expected)


def test_scale_by_hand():
    """A total of exactly 2^k needs the next smaller scale: totals stay strictly below 2^50."""
    assert choose_scale([3.0, 1.5]) == 2.0**48  # 3·2^48 < 2^50 <= 3·2^49
    assert choose_scale([4.0]) == 2.0**47
    assert choose_scale([3.99]) == 2.0**48
    assert choose_scale([2.0**60]) == 2.0**-11
    assert choose_scale([0.0]) == 1.0


def test_keep_cost_counts_once_per_weight():
    """κ enters the totals as N·M·κ."""
    # 2·2·1.5 = 6 is the largest total: 6·2^47 < 2^50 <= 6·2^48.
    problem = LayerProblem([[1.0, 1.0], [1.0, 1.0]], [0, 0], [[0], [0]], keep_cost=1.5)
    assert problem.scale == 2.0**47
    assert problem.keep_cost == 3 * 2**46


def test_integers_are_taken_as_they_are():
    """All-integer costs, of any integer dtype and size, keep scale 1."""
    problem = LayerProblem(np.array([[2**40, 7]], np.uint64), [0, 0], [[0, 3], [0, 2**58]], place_cost=[[-5, 1]])
    assert problem.scaling == Scaling(1.0, 0.0, 0)
    assert problem.prune_cost.tolist() == [[2**40, 7]]
    assert problem.send_cost.tolist() == [[0, 3], [0, 2**58]]


@pytest.mark.parametrize("key", ["keep_cost", "objective_constant", "place_cost", "send_cost"])
def test_one_float_scales_all(key):
    """One float array is enough for all costs to be scaled, by the same power of two."""
    given_costs = {"send_cost": [[0, 4], [4, 0]], key: 1.0}
    if key == "place_cost":
        given_costs[key] = [[1.0, 1.0]]
    if key == "send_cost":
        given_costs[key] = [[0.0, 4.0], [4.0, 0.0]]
    problem = LayerProblem([[3, 2]], [0, 1], **given_costs)
    assert problem.scale > 1
    assert problem.prune_cost.tolist() == [[3 * problem.scale, 2 * problem.scale]]
    assert problem.send_cost.tolist() == [[0, 4 * problem.scale], [4 * problem.scale, 0]]


def test_whole_floats_are_exact():
    """Floats that are integers times a power of two lose nothing."""
    problem = LayerProblem([[0.5, 0.75]], [0, 1], [[0, 4.0], [0.125, 0]], keep_cost=0.25)
    assert problem.scaling.rounding_bound == 0
    assert problem.scaling.num_zeroed == 0


def test_number_of_zeroed_entries():
    """Positive entries that round to 0 are counted."""
    # The total is about 1, so the scale is 2^49 and 2^-50 becomes one half, which rounds to 0, as does 2^-60.
    problem = LayerProblem([[1.0, 2.0**-50, 2.0**-60, 2.0**-49, 0.0]], [0] * 5, [[0]] * 5)
    assert problem.scale == 2.0**49
    assert problem.prune_cost.tolist() == [[2**49, 0, 0, 1, 0]]
    assert problem.scaling.num_zeroed == 2
    assert problem.scaling.rounding_bound >= 2.0**-50 + 2.0**-60


def test_a_send_cost_that_becomes_zero_is_refused(refused):
    """A positive send cost of 0 would make a message free."""
    with refused("send_cost[1,0]", "rounds to 0"):
        LayerProblem([[1.0, 1.0]], [0, 1], [[0, 1.0], [1e-20, 0]])


def test_a_partial_cost_that_becomes_zero_is_refused(refused):
    """The same for partial sums."""
    with refused("partial_cost[0,1,0]", "rounds to 0"):
        LayerProblem([[1.0]], [0], communication="partials", partial_cost=[[[0, 1.0], [1e-20, 0]]])


@pytest.mark.parametrize(
    ("key", "value"),
    [("place_cost", [[1e-20, -1e-20]]), ("keep_cost", 1e-20), ("objective_constant", -1e-20)],
)
def test_an_array_that_becomes_zero_is_refused(refused, key, value):
    """A whole array that vanishes at the scale the others need is refused by name."""
    with refused(key, "round to 0"):
        LayerProblem([[1.0]], [0], [[0, 1.0]], **{key: value})


def test_explicit_scale():
    """A given scale is used in place of the largest that fits."""
    problem = LayerProblem([[0.3, 1.0]], [0, 1], [[0, 2.0], [2.0, 0]], scaling=Scaling(2.0**4))
    assert problem.scale == 16
    # 0.3·16 = 4.8.
    assert problem.prune_cost.tolist() == [[5, 16]]
    assert problem.scaling.rounding_bound == pytest.approx(0.2 / 16)


def test_explicit_scale_too_large(refused):
    """A given scale at which int64 sums would overflow is refused."""
    with refused("scale"):
        LayerProblem([[1.5]], [0], [[0]], scaling=Scaling(2.0**62))


def test_error_budget_is_scaled_with_the_costs():
    """The error budget is in the unit of prune_cost, and one beyond all that can be lost never binds."""
    costs = {"prune_cost": [[1.5, 0.5]], "input_worker": [0, 0], "send_cost": [[0], [0]]}
    problem = LayerProblem(**costs, error_budget=1.5)
    assert problem.error_budget == 1.5 * problem.scale
    for huge in (1e9, 1e300):
        assert LayerProblem(**costs, error_budget=huge).error_budget >= 2 * problem.scale


def test_a_fraction_of_a_budget_is_no_float_cost():
    """Integer costs stay as they are beside a float budget, of which the whole part is what they can use."""
    problem = LayerProblem([[3, 2]], [0, 1], [[0, 4], [4, 0]], error_budget=2.9)
    assert (problem.scale, problem.error_budget) == (1.0, 2)
    assert LayerProblem([[3, 2]], [0, 1], [[0, 4], [4, 0]], error_budget=2**60).error_budget == 2**60


def test_an_empty_float_array_is_no_float_cost():
    """A layer without inputs has an empty prune_cost of floats; its integer place costs stay as they are."""
    problem = LayerProblem(np.zeros((2, 0)), [], np.zeros((0, 2)), place_cost=[[3, 4], [5, 6]])
    assert problem.scale == 1.0
    assert problem.place_cost.tolist() == [[3, 4], [5, 6]]


def test_totals_stay_below_the_limit_after_rounding():
    """Many entries just below an integer round up, all of them; the total they make is still below 2^50."""
    entry = 1 - 2.0**-53
    for count in (1, 2, 4, 1024):
        problem = LayerProblem(np.full((1, count), entry), np.zeros(count, int), np.zeros((count, 1)))
        assert 2**48 <= problem.prune_cost.sum() < 2**50


def test_integers_beyond_float64_count_in_the_rounding_bound():
    """2^53 + 1 beside a float cost loses its 1 on the way to float64, and the bound knows."""
    problem = LayerProblem([[2**53 + 1]], [0], [[0]], place_cost=[[64.5]])
    real = 2**53 + 1
    assert abs(int(problem.prune_cost[0, 0]) / problem.scale - real) <= problem.scaling.rounding_bound
    assert problem.scaling.rounding_bound >= 1


def test_wide_per_weight_layers_of_floats():
    """Float costs of a layer as wide as a transformer's are no overflow in `per_weight`: the scale sees to that."""
    num_neurons = 8192
    problem = LayerProblem(
        np.full((num_neurons, 1), 0.5), [0], [[0.0, 4000.0]], communication="per_weight", capacity=[[0], [num_neurons]]
    )
    # Nothing is worth 4000, so all is lost.
    assert evaluate(problem, Assignment([1] * num_neurons)).objective == num_neurons * 0.5 * problem.scale


def test_costs_beyond_float64_sums_are_refused(refused):
    """Finite costs whose sum is not finite are refused without a warning on the way."""
    with refused("costs"):
        LayerProblem([[1e308, 1e308]], [0, 0], [[0], [0]])


def test_float_keep_cost_without_inputs():
    """M = 0 is legal with any κ: there is no weight to keep."""
    problem = LayerProblem(np.zeros((2, 0)), [], np.zeros((0, 2)), keep_cost=0.5)
    assert evaluate(problem, Assignment([0, 1])).objective == 0


def test_huge_keep_cost_without_inputs():
    """M = 0 with a κ beyond int64 is either refused or harmless, and never cast to nonsense."""
    with contextlib.suppress(InputError):
        problem = LayerProblem(np.zeros((2, 0)), [], np.zeros((0, 2)), keep_cost=1e30, objective_constant=1.0)
        assert evaluate(problem, Assignment([0, 1])).objective == problem.scale
        assert problem.keep_cost >= 0


@pytest.mark.parametrize("scale", [3.0, 0.0, -2.0, float("inf"), float("nan")])
def test_scales_are_powers_of_two(refused, scale):
    """Only a power of two is a scale."""
    with refused("scale", "power of two"):
        Scaling(scale)


@pytest.mark.parametrize("bound", [-1.0, float("inf"), float("nan")])
def test_rounding_bounds_are_finite(bound):
    """A rounding bound that says nothing is refused."""
    with pytest.raises(InputError, match="rounding_bound"):
        Scaling(1.0, bound)
