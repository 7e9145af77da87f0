"""What the tests of `formulations` share: one-line refusals, and random problems with a placement that fits."""

import contextlib
from dataclasses import dataclass

import numpy as np
import pyomo.environ as pyo
import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from formulations import InputError, LayerProblem

# A busy machine is no failure, and a run that fails fails again.
settings.register_profile(
    "unhurried", deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow], print_blob=True
)
settings.load_profile("unhurried")


@pytest.fixture(scope="session")
def refused():
    """`with refused("send_cost", "[0,1]"):` the block raises InputError, on one line that holds these texts.

    What `as` names is pytest's record of the error.
    """

    @contextlib.contextmanager
    def expect(*mentioned):
        with pytest.raises(InputError) as caught:
            yield caught
        message = str(caught.value)
        assert len(message.splitlines()) == 1, f"not one line: {message!r}"
        for text in mentioned:
            assert text in message

    return expect


@pytest.fixture(scope="session")
def broken_rows():
    """The rows of a Pyomo model that values break; see `_broken_rows`."""
    return _broken_rows


def _broken_rows(model, values):
    """(name, index) of the rows, of which there must be some, that values by (name, index) break; absent ones are 0."""
    for variable in model.component_data_objects(pyo.Var):
        name = variable.parent_component().name, variable.index()
        variable.set_value(values.get(name, 0), skip_validation=True)
    rows = list(model.component_data_objects(pyo.Constraint))
    assert rows
    found = set()
    for row in rows:
        lower = -np.inf if row.lower is None else pyo.value(row.lower)
        upper = np.inf if row.upper is None else pyo.value(row.upper)
        if not lower - 1e-9 <= pyo.value(row.body) <= upper + 1e-9:
            found.add((row.parent_component().name, row.index()))
    return found


@dataclass(frozen=True)
class Placed:
    """A problem, a placement that fits its load ranges, and the arguments the problem was made from."""

    problem: LayerProblem
    worker: list[int]
    given: dict


@pytest.fixture(scope="session")
def placed_problems():
    """The strategy `_placed_problems`."""
    return _placed_problems


@st.composite
def _placed_problems(draw, modes=("inputs", "partials", "per_weight"), floats=False, largest=(4, 4, 3)):
    """Tiny problems with ties, zeros, unequal loads of one or two resources, and costs that matter to each other.

    Args:
        modes: the kinds of communication.
        floats: float32 numbers in place of integers; few enough bits that float64 sums are exact.
        largest: the most neurons, inputs and workers.
    """
    num_neurons, num_inputs, num_workers = (
        draw(st.integers(least, most)) for least, most in zip((1, 0, 1), largest, strict=True)
    )
    communication = draw(st.sampled_from(modes))

    def cost(low, high, shape):
        if floats:
            # Fractions of at least 0.75: no positive cost may round to 0 at any scale the tests use.
            entry = st.floats(0.75, high, width=32) | st.just(0.0)
            sign = st.sampled_from([-1.0, 1.0]) if low < 0 else st.just(1.0)
            return draw(arrays(np.float64, shape, elements=entry)) * draw(sign)
        return draw(arrays(np.int64, shape, elements=st.integers(low, high)))

    owner = draw(arrays(np.int64, num_inputs, elements=st.integers(0, num_workers - 1)))
    send_cost = cost(0, 12, (num_inputs, num_workers))
    send_cost[np.arange(num_inputs), owner] = 0
    given = {
        "prune_cost": cost(0, 9, (num_neurons, num_inputs)),
        "input_worker": owner,
        "send_cost": send_cost,
        "keep_cost": cost(0, 3, ()),
        "objective_constant": cost(-20, 20, ()),
        "place_cost": cost(-5, 5, (num_neurons, num_workers)),
        "input_bytes": draw(arrays(np.int64, num_inputs, elements=st.integers(0, 9))),
        "communication": communication,
    }
    if communication == "partials":
        given["partial_cost"] = cost(0, 12, (num_neurons, num_workers, num_workers))
        given["partial_bytes"] = draw(arrays(np.int64, num_neurons, elements=st.integers(0, 9)))
    worker = draw(arrays(np.int64, num_neurons, elements=st.integers(0, num_workers - 1)))
    if draw(st.booleans()):
        given["prune_cost"] = np.asfortranarray(given["prune_cost"])
    given.update(draw(_loads_around(worker, num_workers)))
    return Placed(LayerProblem(**given), worker.tolist(), given)


@st.composite
def _loads_around(draw, worker, num_workers):
    """Loads of one or two resources, and ranges that the placement keeps with little to spare."""
    num_resources = draw(st.integers(1, 2))
    load = draw(arrays(np.int64, (worker.size, num_resources), elements=st.integers(0, 3)))
    held = np.stack([load[worker == p].sum(axis=0) for p in range(num_workers)])
    slack = draw(arrays(np.int64, (2, *held.shape), elements=st.integers(0, 2)))
    return {"load": load, "capacity": held + slack[0], "min_load": np.maximum(0, held - slack[1])}
