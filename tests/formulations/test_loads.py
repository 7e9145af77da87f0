"""What load rows alone imply: ranges no placement leaves, and shortages no placement escapes."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from formulations import LayerProblem
from formulations.loads import load_ranges, shortages


def problem_with(load, capacity, min_load=None, **names):
    """A problem of which only the loads matter."""
    num_neurons, num_workers = len(load), len(capacity)
    costs = np.zeros((num_neurons, 0), int), [], np.zeros((0, num_workers), int)
    return LayerProblem(*costs, load=load, capacity=capacity, min_load=min_load, **names)


@st.composite
def load_problems(draw):
    """Up to five neurons on up to three workers, one or two resources; about half of them fit."""
    num_neurons, num_workers, num_resources = (draw(st.integers(1, most)) for most in (5, 3, 2))
    load = draw(arrays(np.int64, (num_neurons, num_resources), elements=st.integers(0, 4)))
    capacity = draw(arrays(np.int64, (num_workers, num_resources), elements=st.integers(0, 9)))
    min_load = draw(arrays(np.int64, capacity.shape, elements=st.integers(0, 2)))
    return problem_with(load, capacity, min_load)


def loads_of_all_placements(problem):
    """The load (P×K) of every placement that keeps all ranges."""
    for worker in itertools.product(range(problem.num_workers), repeat=problem.num_neurons):
        held = np.zeros_like(problem.capacity)
        for i, p in enumerate(worker):
            held[p] += problem.load[i]
        if (held <= problem.capacity).all() and (held >= problem.min_load).all():
            yield held


@settings(max_examples=200)
@given(problem=load_problems())
def test_no_placement_leaves_the_load_ranges(problem):
    """Every placement that fits has all its loads within lo..hi, which are no wider than what was given."""
    lo, hi = load_ranges(problem)
    assert (lo >= problem.min_load).all()
    assert (hi <= problem.capacity).all()
    for held in loads_of_all_placements(problem):
        assert (lo <= held).all()
        assert (held <= hi).all()


@settings(max_examples=200)
@given(problem=load_problems())
def test_shortages_are_true(problem):
    """Where counting finds a shortage there is no placement, nor where a range is empty."""
    lo, hi = load_ranges(problem)
    if shortages(problem) or (lo > hi).any():
        assert not list(loads_of_all_placements(problem))


@settings(max_examples=150)
@given(data=st.data())
def test_counting_is_complete_for_one_unit_load(data):
    """With one load of 1 for all neurons, no shortage and no empty range means that a placement fits."""
    num_neurons, num_workers = data.draw(st.integers(1, 5)), data.draw(st.integers(1, 3))
    capacity = data.draw(arrays(np.int64, (num_workers, 1), elements=st.integers(0, 5)))
    min_load = data.draw(arrays(np.int64, (num_workers, 1), elements=st.integers(0, 3)))
    problem = problem_with([[1]] * num_neurons, capacity, min_load)
    assert bool(shortages(problem)) == (next(loads_of_all_placements(problem), None) is None)


def test_ranges_by_hand():
    """What the others cannot hold a worker must, and what they must hold it cannot."""
    # Ten in all. Worker 0 must take 10 − (4 + 3) = 3; worker 1 10 − (6 + 3) = 1; worker 2 at least its 2.
    # Then worker 0 can have at most 10 − (1 + 2) = 7, but its capacity is 6.
    lo, hi = load_ranges(problem_with([[1]] * 10, [[6], [4], [3]], [[0], [0], [2]]))
    assert lo.tolist() == [[3], [1], [2]]
    assert hi.tolist() == [[6], [4], [3]]
    # Worker 1 must hold 8 of 10, so nobody else more than 2.
    lo, hi = load_ranges(problem_with([[1]] * 10, [[9], [9], [9]], [[0], [8], [0]]))
    assert lo.tolist() == [[0], [8], [0]]
    assert hi.tolist() == [[2], [9], [2]]


def test_ranges_of_equal_shares_are_kept():
    """Exact counts cannot be tightened."""
    lo, hi = load_ranges(problem_with([[1]] * 4, [[2], [2]], [[2], [2]]))
    assert lo.tolist() == hi.tolist() == [[2], [2]]


def test_ranges_resource_by_resource():
    """Each resource is counted by itself."""
    lo, hi = load_ranges(problem_with([[1, 10], [1, 30]], [[2, 15], [1, 99]]))
    # neurons: 0 must take 2 − 1; bytes, which come in tens: worker 0 can hold 10, so worker 1 must take 40 − 10.
    assert lo.tolist() == [[1, 0], [0, 30]]
    assert hi.tolist() == [[2, 10], [1, 40]]


NAMES = {"worker_names": ["anna", "bert"], "resource_names": ["macs", "bytes"]}


@pytest.mark.parametrize(
    ("load", "capacity", "min_load", "text"),
    [
        pytest.param(
            [[1, 1], [1, 1]],
            [[9, 3], [9, 9]],
            [[0, 5], [0, 0]],
            "worker anna must hold at least 5 of 'bytes' but can hold only 3: 2 short",
            id="min above capacity",
        ),
        pytest.param(
            [[2, 1], [2, 1], [3, 1]],
            [[4, 9], [1, 9]],
            None,
            "all workers together can hold 5 of 'macs', the neurons need 7: 2 short",
            id="too little capacity",
        ),
        pytest.param(
            [[1, 2], [1, 2]],
            [[9, 9], [9, 9]],
            [[0, 3], [0, 4]],
            "the workers must hold at least 7 of 'bytes' together, the neurons bring only 4: 3 short",
            id="too much required",
        ),
        pytest.param(
            [[1, 1], [1, 8]],
            [[9, 6], [0, 9]],
            None,
            "neuron 1 needs 1 of 'macs', 8 of 'bytes' and no single worker can hold it: at least 1 short",
            id="a neuron that fits nowhere",
        ),
    ],
)
def test_each_shortage_by_hand(load, capacity, min_load, text):
    """Every kind of shortage names the worker or neuron, the resource and the amount."""
    problem = problem_with(load, capacity, min_load, **NAMES)
    assert text in shortages(problem)
    assert not list(loads_of_all_placements(problem))


def test_no_shortage_where_it_fits():
    """A problem that fits exactly is short of nothing."""
    assert shortages(problem_with([[1]] * 4, [[2], [2]], [[2], [2]])) == []
    assert shortages(LayerProblem([[1], [1]], [0], [[0, 1, 1]])) == []


def test_counting_does_not_pack():
    """Unequal loads whose sums fit may still not pack: counting says nothing, and claims nothing."""
    problem = problem_with([[2], [2], [2]], [[3], [3]])
    assert shortages(problem) == []
    assert not list(loads_of_all_placements(problem))


def test_many_homeless_neurons_are_not_all_listed():
    """A layer whose every neuron is too big does not fill the screen."""
    assert len(shortages(problem_with([[5]] * 1000, [[4], [4]]))) < 10
