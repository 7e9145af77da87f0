"""Each row family of the formulations alone, on a model that has its variables and nothing else."""

import dataclasses

import pyomo.environ as pyo
import pytest

from formulations import LayerProblem, strengthened, textbook
from formulations.loads import load_ranges
from formulations.mip_model import add_variables
from formulations.presolve import unreduced
from formulations.strengthened import STRENGTHENED
from formulations.textbook import TEXTBOOK

#: Neuron 2 gains nothing from input 0, neuron 0 nothing from input 1. Both workers must hold a load of 2 to 4:
#: worker 0 by its own minimum, worker 1 since worker 0 cannot hold more than 4 of 6.
PROBLEM = LayerProblem(
    prune_cost=[[5, 0], [3, 4], [0, 6]],
    input_worker=[0, 1],
    send_cost=[[0, 7], [9, 0]],
    place_cost=[[1, 0], [0, 2], [4, 8]],
    objective_constant=100,
    load=[[2], [3], [1]],
    capacity=[[4], [4]],
    min_load=[[2], [0]],
)
REMOTE = [(0, 1), (1, 0)]
ONLY = 0  # the one resource


def state(worker, sent=()):
    """What all variables are for a placement and the pairs (j, p) that are sent: y = x (1 − u)."""
    load, gain = PROBLEM.load[:, ONLY].tolist(), PROBLEM.gain
    x = {("x", (i, p)): int(worker[i] == p) for i in range(3) for p in range(2)}
    values = x | {("u", pair): int(pair in sent) for pair in REMOTE}
    for j, p in REMOTE:
        lost = {i: x["x", (i, p)] * (1 - values["u", (j, p)]) for i in range(3)}
        values |= {("y", (i, j, p)): lost[i] for i in range(3) if gain[i, j] > 0}
        values["y_rest", (j, p, ONLY)] = sum(load[i] * lost[i] for i in range(3) if gain[i, j] == 0)
    for p in range(2):
        values["held", (p, ONLY)] = sum(load[i] * x["x", (i, p)] for i in range(3))
    return values


def bare_model(family, formulation=STRENGTHENED, problem=PROBLEM):
    """The variables, the objective and one row family."""
    model, reduction = pyo.ConcreteModel(), unreduced(problem)
    if formulation is STRENGTHENED:
        least, most = load_ranges(problem)  # no load is a multiple of anything but 1
        reduction = dataclasses.replace(reduction, least=least, most=most)
    add_variables(model, [columns(reduction) for columns in formulation.columns])
    family(model, reduction)
    return model


@pytest.fixture(scope="module")
def broken(broken_rows):
    """(name, index) of the rows of a family that values break."""
    return lambda family, values, formulation=STRENGTHENED: broken_rows(bare_model(family, formulation), values)


FAMILIES = [
    textbook.one_worker,
    textbook.load_rows,
    textbook.lost_unless_sent,
    strengthened.held_rows,
    textbook.lost_only_if_placed,
    textbook.lost_only_if_unsent,
    strengthened.rest_rows,
    strengthened.load_times_unsent,
    strengthened.load_times_sent,
]


@pytest.mark.parametrize("family", FAMILIES, ids=lambda family: family.__name__)
@pytest.mark.parametrize("worker", [(0, 1, 1), (1, 0, 1), (0, 1, 0), (1, 0, 0)])
@pytest.mark.parametrize("sent", [(), REMOTE[:1], REMOTE[1:], REMOTE])
def test_what_is_consistent_breaks_nothing(family, worker, sent, broken):
    """Every placement that fits, with any sends, keeps every row family."""
    assert broken(family, state(worker, sent)) == set()


def test_variables():
    """x for all, u for remote pairs, y where a gain can be lost, y_rest where the others weigh something."""
    model = bare_model(lambda model, reduction: None)
    assert list(model.u) == REMOTE
    assert sorted(model.y) == [(0, 0, 1), (1, 0, 1), (1, 1, 0), (2, 1, 0)]
    assert sorted(model.y_rest) == [(0, 1, ONLY), (1, 0, ONLY)]
    assert len(model.x) == 6
    assert [model.held[p, ONLY].bounds for p in range(2)] == [(2, 4), (2, 4)]
    assert model.y_rest[0, 1, ONLY].bounds == (0, 1)
    assert model.y[0, 0, 1].bounds == (0, 1)
    assert all(variable.is_binary() for variable in [*model.x.values(), *model.u.values()])


def test_objective_counts_the_terms():
    """The objective is placement beyond each neuron's cheapest place, sends and lost gains; the constant is apart."""
    model = bare_model(lambda model, reduction: None)
    for variable in model.component_data_objects(pyo.Var):
        variable.set_value(state((1, 0, 1), [(1, 0)])[variable.parent_component().name, variable.index()])
    # Neuron 0 on 1 and without input 0: 5 lost. Neuron 1 on 0 gets input 1 for 9. Neuron 2 on 1 has all it needs.
    # 100 + (0 + 0 + 8) + 9 + 5, of which 100 + (0 + 0 + 4) wherever they sit.
    assert unreduced(PROBLEM).constant == 104
    assert pyo.value(model.objective) == 122 - 104
    assert model.objective.sense == pyo.minimize


def test_one_worker(broken):
    """(1): no worker, or two, break the row of that neuron alone."""
    values = state((0, 1, 1))
    assert broken(textbook.one_worker, values | {("x", (0, 1)): 1}) == {("one_worker", 0)}
    assert broken(textbook.one_worker, values | {("x", (2, 1)): 0}) == {("one_worker", 2)}
    # Half here and half there is what the row allows.
    assert broken(textbook.one_worker, values | {("x", (0, 0)): 0.5, ("x", (0, 1)): 0.5}) == set()


def test_load_rows(broken):
    """(3): both ends of a worker's own range."""
    # Worker 0 holds 2 + 3 = 5 > 4; worker 1 holds 1, which its own minimum of 0 allows.
    assert broken(textbook.load_rows, state((0, 0, 1)), TEXTBOOK) == {("load_rows", (0, ONLY))}
    # Worker 0 holds 1 < 2, worker 1 5 > 4.
    both = {("load_rows", (0, ONLY)), ("load_rows", (1, ONLY))}
    assert broken(textbook.load_rows, state((1, 1, 0)), TEXTBOOK) == both


def test_textbook_families_need_only_its_variables(broken):
    """The textbook's rows can be built on the textbook's variables."""
    for family in (textbook.one_worker, textbook.load_rows, textbook.lost_unless_sent):
        assert broken(family, state((0, 1, 1)), TEXTBOOK) == set()


def test_lost_unless_sent(broken):
    """(2): a neuron on p without its input must say so; saying so without need is another row's business."""
    unsent = state((1, 0, 1))
    assert broken(textbook.lost_unless_sent, unsent | {("y", (0, 0, 1)): 0}) == {("lost_unless_sent", (0, 0, 1))}
    # Half of it does not do; sending half and losing half does.
    assert broken(textbook.lost_unless_sent, unsent | {("y", (0, 0, 1)): 0.5}) == {("lost_unless_sent", (0, 0, 1))}
    assert broken(textbook.lost_unless_sent, unsent | {("y", (0, 0, 1)): 0.5, ("u", (0, 1)): 0.5}) == set()
    assert broken(textbook.lost_unless_sent, unsent | {("y", (2, 1, 0)): 1}) == set()


def test_held_rows(broken):
    """held is the load on the worker, no more and no less."""
    values = state((0, 1, 1))
    assert broken(strengthened.held_rows, values | {("held", (0, ONLY)): 3}) == {("held_rows", (0, ONLY))}
    assert broken(strengthened.held_rows, values | {("held", (1, ONLY)): 2}) == {("held_rows", (1, ONLY))}
    # Neuron 2 counted nowhere: worker 1 holds 3, not the 4 that held says.
    assert broken(strengthened.held_rows, values | {("x", (2, 1)): 0}) == {("held_rows", (1, ONLY))}


def test_lost_only_if_placed(broken):
    """(2a): a neuron elsewhere loses nothing here."""
    values = state((0, 1, 1))
    assert broken(textbook.lost_only_if_placed, values | {("y", (0, 0, 1)): 1}) == {("lost_only_if_placed", (0, 0, 1))}


def test_lost_only_if_unsent(broken):
    """(2b): nothing is lost of an input that is sent."""
    values = state((1, 0, 1), [(0, 1)])
    assert broken(textbook.lost_only_if_unsent, values | {("y", (0, 0, 1)): 1}) == {("lost_only_if_unsent", (0, 0, 1))}


def test_rest_rows(broken):
    """(2), (2a), (2b) summed over those that gain nothing: at most what is placed, none if sent, all if not."""
    # Neuron 2, of load 1, on worker 1, does not need input 0.
    unsent, sent = state((1, 0, 1)), state((1, 0, 1), [(0, 1)])
    rest = ("y_rest", (0, 1, ONLY))
    assert (unsent[rest], sent[rest]) == (1, 0)
    assert broken(strengthened.rest_rows, unsent | {rest: 0}) == {("rest_lost_unless_sent", (0, 1, ONLY))}
    assert broken(strengthened.rest_rows, unsent | {rest: 2}) == {
        ("rest_only_if_placed", (0, 1, ONLY)),
        ("rest_only_if_unsent", (0, 1, ONLY)),
    }
    assert broken(strengthened.rest_rows, sent | {rest: 1}) == {("rest_only_if_unsent", (0, 1, ONLY))}
    # Neuron 2 on worker 0: worker 1 holds nothing of the rest.
    elsewhere = state((1, 0, 0))
    assert broken(strengthened.rest_rows, elsewhere | {rest: 1}) == {("rest_only_if_placed", (0, 1, ONLY))}


def test_rest_rows_know_the_capacity():
    """Where the rest weighs more than a worker can hold, its rows are as tight as the capacity allows."""
    # Nobody gains from input 0; all three weigh 6, worker 1 holds 4 at most.
    problem = LayerProblem([[0], [0], [0]], [0], [[0, 7]], load=[[2], [2], [3]], capacity=[[4], [4]])
    model = bare_model(strengthened.rest_rows, problem=problem)
    # Worker 1 holds 4 and the input is sent by half: between 4 − 4/2 and 4/2 may be without it.
    for i in range(3):
        model.x[i, 1].set_value(int(i < 2))
    model.held[1, ONLY].set_value(4)
    model.u[0, 1].set_value(0.5, skip_validation=True)
    model.y_rest[0, 1, ONLY].set_value(2)
    for row in (model.rest_only_if_unsent, model.rest_lost_unless_sent):
        assert pyo.value(row[0, 1, ONLY].body) == pytest.approx(pyo.value(row[0, 1, ONLY].upper))


def test_load_times_unsent(broken):
    """(3a): what misses the input weighs lo..hi where it is not sent, and nothing where it is."""
    unsent, sent = state((1, 0, 1)), state((1, 0, 1), [(0, 1)])
    nothing = {("y", (0, 0, 1)): 0, ("y", (1, 0, 1)): 0, ("y_rest", (0, 1, ONLY)): 0}
    everything = {("y", (0, 0, 1)): 1, ("y", (1, 0, 1)): 1, ("y_rest", (0, 1, ONLY)): 1}
    least, most = ("load_unsent_at_least", (0, 1, ONLY)), ("load_unsent_at_most", (0, 1, ONLY))
    assert broken(strengthened.load_times_unsent, unsent | nothing) == {least}  # 0 < 2
    assert broken(strengthened.load_times_unsent, unsent | everything) == {most}  # 2 + 3 + 1 > 4
    assert broken(strengthened.load_times_unsent, sent | {("y", (0, 0, 1)): 1}) == {most}  # 2 > 0
    # Sent by half: between 1 and 2 may be missing. y = 0.5 is a load of 1, y = 0.25 one of 0.5.
    half = sent | {("u", (0, 1)): 0.5}
    assert broken(strengthened.load_times_unsent, half | {("y", (0, 0, 1)): 0.5}) == set()
    assert broken(strengthened.load_times_unsent, half | {("y", (0, 0, 1)): 0.25}) == {least}
    assert broken(strengthened.load_times_unsent, half | {("y", (1, 0, 1)): 0.75}) == {most}


def test_load_times_sent(broken):
    """(3b): what has the input weighs lo..hi where it is sent, and nothing where it is not."""
    unsent, sent = state((1, 0, 1)), state((1, 0, 1), [(0, 1)])
    least, most = ("load_sent_at_least", (0, 1, ONLY)), ("load_sent_at_most", (0, 1, ONLY))
    # Worker 1 holds 2 + 1. Sent, yet all of it is said to be without the input: 0 < 2.
    all_lost = {("y", (0, 0, 1)): 1, ("y_rest", (0, 1, ONLY)): 1}
    assert broken(strengthened.load_times_sent, sent | all_lost) == {least}
    # Not sent, yet neuron 0 is said to have it: 2 > 0.
    assert broken(strengthened.load_times_sent, unsent | {("y", (0, 0, 1)): 0}) == {most}
    # Sent, and five held: 5 > 4.
    assert broken(strengthened.load_times_sent, sent | {("held", (1, ONLY)): 5}) == {most}


def test_resources_have_rows_of_their_own():
    """Two resources: every load row is there for each, with its own loads."""
    problem = LayerProblem(
        [[5], [3]], [0], [[0, 7]], load=[[1, 10], [2, 1]], capacity=[[3, 11], [3, 11]], min_load=[[1, 0], [1, 0]]
    )
    model = bare_model(strengthened.load_times_unsent, problem=problem)
    assert sorted(model.load_unsent_at_most) == [(0, 1, 0), (0, 1, 1)]
    for variable in model.component_data_objects(pyo.Var):
        variable.set_value(1, skip_validation=True)
    model.u[0, 1].set_value(0)
    # Both neurons miss input 0: 1 + 2 of the first resource, 10 + 1 of the second.
    assert [pyo.value(model.load_unsent_at_most[0, 1, k].body) for k in range(2)] == [3, 11]
