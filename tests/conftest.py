"""What the tests share: `--solver`, random tiny problems, and the truth about them by enumeration.

The enumeration below uses neither `evaluate` nor any solver: it is the reduced objective
F(x) of docs/design.md, written a second time, over all placements at once.

Shapes: A placements, N neurons, M inputs, P workers, K resources.
"""

import dataclasses
import functools
import itertools
import signal
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from formulations import (
    Assignment,
    Colocate,
    Forbid,
    InputError,
    KeepInput,
    LayerProblem,
    MaxLinks,
    MaxReceivers,
    Pin,
    Separate,
    SpareCapacity,
    evaluate,
)
from solvers import registry

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    # Whoever runs the suite in the background has it ignored, and so would the programs that the tests interrupt.
    signal.signal(signal.SIGINT, signal.default_int_handler)

INSTANCES = Path(__file__).parents[1] / "benchmarks" / "instances"
WORKER_NAMES = ("anna", "bert", "cleo")
RESOURCE_NAMES = ("bytes", "macs")
_SIZES = {"num_neurons": 7, "num_inputs": 6, "num_workers": 3}
#: How loads are drawn and how often. `short` does not fit by counting, `shifted` often not by packing.
_LOADS = {"equal": 3, "counts": 4, "range": 4, "weighted": 4, "multi": 5, "short": 4, "shifted": 5}
_UNIT_LOADS = ("equal", "counts", "range", "short")


def pytest_addoption(parser):
    parser.addoption(
        "--solver", action="append", metavar="NAME", help="run the suite of every solver on this one (repeatable)"
    )


def pytest_configure(config):
    for name in config.getoption("--solver") or ():
        try:
            registry.get(name)
        except InputError as error:
            raise pytest.UsageError(f"--solver: {error}") from None


def pytest_generate_tests(metafunc):
    if "solver_name" in metafunc.fixturenames:
        # Tests of their own: the partitioner takes layers of hard edges only, the assignment such without shared
        # messages, and the bound finds no placement.
        special = ("mt-kahypar", "mt-kahypar-default", "assignment", "lagrangian")
        usable = [
            name for name, entry in registry.SOLVERS.items() if entry.why_unavailable() is None and name not in special
        ]
        chosen = metafunc.config.getoption("--solver") or usable
        metafunc.parametrize("solver_name", list(dict.fromkeys(chosen)), scope="session")


@pytest.fixture(scope="session")
def solver(solver_name):
    """Each solver of the registry that can be used here, or those named by `--solver`."""
    return registry.get(solver_name)


@pytest.fixture(scope="session")
def draw_problem():
    """Draws a random tiny problem from a numpy Generator; see `_draw_problem`."""
    return _draw_problem


@pytest.fixture(scope="session")
def draw_limited_problem():
    """Draws a random tiny problem with limits, budgets and any objective; see `_draw_limited_problem`."""
    return _draw_limited_problem


@pytest.fixture(scope="session")
def draw_constraints():
    """Draws ready-made constraints that a problem is large enough for; see `_draw_constraints`."""
    return _draw_constraints


@pytest.fixture(scope="session")
def enumerate_placements():
    """The truth about a tiny problem: every placement that fits, and what it costs; see `Truth`."""
    return _enumerate


@pytest.fixture(scope="session")
def read_instance():
    """Reads a problem of benchmarks/instances by name, once a session."""
    return functools.cache(lambda name: LayerProblem.read(INSTANCES / f"{name}.npz"))


@dataclass(frozen=True)
class Truth:
    """Every placement that fits (A×N) and its cost (A), with the best messages for it."""

    worker: np.ndarray
    cost: np.ndarray

    @property
    def feasible(self):
        return len(self.cost) > 0

    @property
    def optimum(self):
        """The least cost; None where nothing fits."""
        return int(self.cost.min()) if self.feasible else None

    def cost_of(self, worker):
        """What one placement costs; fails where it does not fit."""
        row = np.flatnonzero((self.worker == worker).all(axis=1))
        assert row.size == 1, f"placement {worker} does not fit the load ranges"
        return int(self.cost[row[0]])


def _enumerate(problem):
    worker_AN = np.array(list(itertools.product(range(problem.num_workers), repeat=problem.num_neurons)))
    placed_ANP = worker_AN[:, :, None] == np.arange(problem.num_workers)
    load_APK = np.einsum("anp,nk->apk", placed_ANP, problem.load)
    fits = ((load_APK <= problem.capacity) & (load_APK >= problem.min_load)).all(axis=(1, 2))
    worker_AN, placed_ANP = worker_AN[fits], placed_ANP[fits].astype(np.int64)
    gain = np.where(problem.prune_cost > problem.keep_cost, problem.prune_cost - problem.keep_cost, 0)
    fixed = problem.objective_constant + int(np.where(gain > 0, problem.keep_cost, problem.prune_cost).sum())
    cost_A = fixed + np.einsum("anp,np->a", placed_ANP, problem.place_cost)
    for p, q in itertools.permutations(range(problem.num_workers), 2):
        held_by_q = problem.input_worker == q
        here_AN, send = placed_ANP[:, :, p], problem.send_cost[held_by_q, p]
        if problem.communication == "inputs":
            cost_A = cost_A + np.minimum(here_AN @ gain[:, held_by_q], send).sum(axis=1)
        elif problem.communication == "per_weight":
            cost_A = cost_A + here_AN @ np.minimum(gain[:, held_by_q], send).sum(axis=1)
        else:
            cost_A = cost_A + here_AN @ np.minimum(gain[:, held_by_q].sum(axis=1), problem.partial_cost[:, q, p])
    return Truth(worker_AN, cost_A)


def _draw_problem(rng, *, communication="inputs", unit_loads=False, factor=1, floats=False, sizes=_SIZES):
    """A random problem small enough to enumerate; more than a fifth have no placement at all.

    Args:
        unit_loads: one neuron counts as one, of one resource.
        factor: multiplies all costs.
        floats: costs are fractions, so that the problem is scaled.
        sizes: the largest `num_neurons`, `num_inputs` and `num_workers`.
    """
    num_neurons = int(rng.integers(1, sizes["num_neurons"] + 1))
    num_inputs = int(rng.integers(0, sizes["num_inputs"] + 1))
    num_workers = int(rng.integers(1, sizes["num_workers"] + 1))
    kinds = _UNIT_LOADS if unit_loads else tuple(_LOADS)
    weight = np.array([_LOADS[kind] for kind in kinds])
    kind = str(rng.choice(kinds, p=weight / weight.sum()))
    owner = rng.integers(0, num_workers, num_inputs)
    costs = _draw_costs(rng, num_neurons, owner, num_workers)
    if communication == "partials":
        costs["partial_cost"] = rng.integers(0, 15, (num_neurons, num_workers, num_workers))
    if floats:
        costs = {key: value * rng.uniform(0.5, 1.5, np.shape(value)) for key, value in costs.items()}
    loads = _draw_loads(rng, kind, num_neurons, num_workers, unit_loads)
    if loads and loads["capacity"].shape[1] == 2:
        loads["resource_names"] = RESOURCE_NAMES
    return LayerProblem(
        **{key: value * factor for key, value in costs.items()},
        **loads,
        input_worker=owner,
        communication=communication,
        worker_names=WORKER_NAMES[:num_workers],
        name=f"{kind}-{communication}",
    )


def _draw_limited_problem(rng, **options):
    """A random problem of any communication, with limits, budgets and an objective drawn around a hidden assignment.

    Args:
        options: of `_draw_problem`.
    """
    options = {"communication": str(rng.choice(["inputs", "partials", "per_weight"])), **options}
    problem = _draw_problem(rng, **options)
    fields = {field.name: getattr(problem, field.name) for field in dataclasses.fields(problem)}
    fields["input_bytes"] = rng.integers(0, 7, problem.num_inputs) * int(rng.choice([1, 1000]))
    fields["partial_bytes"] = rng.integers(0, 7, problem.num_neurons)
    problem = LayerProblem(**fields)
    hidden = evaluate(problem, _draw_assignment(rng, problem))
    return LayerProblem(**{**fields, **_draw_limits(rng, hidden)})


def _draw_constraints(rng, problem, numbers=(0, 0, 1, 2, 3)):
    """So many of the ready-made ones that the problem is large enough for, as many as one of `numbers`."""
    neurons, workers = rng.permutation(problem.num_neurons), rng.permutation(problem.num_workers)
    choices = [
        Pin(int(neurons[0]), int(workers[0])),
        Forbid(int(neurons[-1]), int(workers[-1])),
        SpareCapacity(int(workers[0]), 0, int(rng.integers(0, 3))),
        MaxLinks(int(rng.integers(0, 3))),
    ]
    if problem.num_neurons > 1:
        two = [int(i) for i in neurons[:2]]
        choices += [Colocate(two), Separate(two)]
    if problem.communication != "partials" and problem.num_inputs:
        j = int(rng.integers(problem.num_inputs))
        choices += [MaxReceivers(j, int(rng.integers(0, 2))), KeepInput(j)]
    return [choices[k] for k in rng.permutation(len(choices))[: int(rng.choice(numbers))]]


def _draw_assignment(rng, problem):
    """Any placement, with any messages."""
    worker = rng.integers(0, problem.num_workers, problem.num_neurons)
    if problem.communication == "partials":
        partial = rng.random((problem.num_neurons, problem.num_workers)) < 0.5
        partial[np.arange(problem.num_neurons), worker] = False
        return Assignment(worker, partial=partial)
    return Assignment(worker, sent=problem.remote & (rng.random(problem.remote.shape) < 0.5))


def _draw_limits(rng, hidden):
    """Limits near what the hidden assignment uses, mostly enough for it; each is there in a third of the draws."""

    def near(used):
        slack = rng.integers(-1, 5, np.shape(used)) * (1 + np.max(used, initial=0) // 10)
        return np.maximum(0, used + slack)

    limits = {}
    for key, used in (
        ("ingress_capacity", hidden.ingress_bytes),
        ("egress_capacity", hidden.egress_bytes),
        ("link_capacity", hidden.link_bytes),
        ("kept_weight_capacity", hidden.kept_weights),
    ):
        if rng.random() < 0.3:
            limits[key] = np.where(rng.random(used.shape) < 0.6, near(used), -1)
    objective = str(rng.choice(["weighted", "traffic", "error"], p=[0.6, 0.2, 0.2]))
    if objective == "traffic" or rng.random() < 0.3:
        limits["error_budget"] = near(hidden.pruned_cost)
    if objective == "error" or rng.random() < 0.3:
        limits["traffic_budget"] = near(hidden.bytes_sent)
    return {**limits, "objective": objective}


def _draw_costs(rng, num_neurons, owner, num_workers):
    """Prune costs with zeros, ties and hard edges; sends unequal or alike; place costs and a constant of any sign."""
    keep = int(rng.integers(0, 4))
    prune = rng.integers(0, 4 if rng.random() < 0.3 else 25, (num_neurons, owner.size))
    prune[rng.random(prune.shape) < rng.choice([0.0, 0.4, 0.8])] = 0
    prune[rng.random(prune.shape) < 0.1] = keep + 100  # hard: dearer to lose than any send
    send = np.full((owner.size, num_workers), 6)
    if rng.random() < 0.7:
        send = rng.integers(0, 20, send.shape)
    send[np.arange(owner.size), owner] = 0
    return {
        "prune_cost": prune,
        "send_cost": send,
        "keep_cost": keep,
        "place_cost": rng.integers(-12, 13, (num_neurons, num_workers)) * int(rng.integers(0, 2)),
        "objective_constant": int(rng.integers(-30, 31)),
    }


def _draw_loads(rng, kind, num_neurons, num_workers, unit_loads):
    """`load`, `capacity` and `min_load` of a kind; a hidden placement fits, except in `short` and `shifted`."""
    if kind == "equal":
        return {}
    unit = unit_loads or kind in ("counts", "range") or (kind == "short" and rng.random() < 0.5)
    num_resources = 1 if unit else {"weighted": 1, "multi": 2}.get(kind, int(rng.integers(1, 3)))
    load = np.ones((num_neurons, 1), int) if unit else rng.integers(0, 6, (num_neurons, num_resources))
    if kind == "shifted" and rng.random() < 0.5:
        load = np.full_like(load, 2)  # counting sees the sum, not that halves do not exist
    hidden = rng.integers(0, num_workers, num_neurons)
    held = np.stack([load[hidden == p].sum(axis=0) for p in range(num_workers)])
    if kind in ("range", "weighted", "multi"):
        capacity, least = held + rng.integers(0, 3, held.shape), held - rng.integers(0, 5, held.shape)
        return {"load": load, "capacity": capacity, "min_load": np.maximum(0, least)}
    if kind == "shifted" and num_workers > 1:
        p, q = rng.permutation(num_workers)[:2]
        held[p] += 1
        held[q] = np.maximum(0, held[q] - 1)
        least = held * int(rng.integers(0, 2))
        return {"load": load, "capacity": held, "min_load": least}
    if kind == "counts":
        return {"load": load, "capacity": held, "min_load": held}
    p, k = rng.integers(0, num_workers), rng.integers(0, load.shape[1])
    least, capacity = held.copy(), held.copy()
    if rng.random() < 0.5:
        least[p, k] += rng.integers(1, 3)  # above its capacity, or more than the neurons bring
        capacity[p, k] += rng.integers(0, 3)
    else:
        load[rng.integers(0, num_neurons), k] += 0 if unit else 1
        capacity[p, k] = max(0, capacity[p, k] - 1)
        least[p] = 0
    return {"load": load, "capacity": capacity, "min_load": least}
