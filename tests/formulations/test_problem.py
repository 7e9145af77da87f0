"""What a layer problem is after construction: defaults, digest, its files, and that nothing can change it."""

import dataclasses

import numpy as np
import pytest

from formulations import LayerProblem
from formulations.scaling import Scaling

#: Every argument given, none of them a default; three neurons, two inputs, two workers, two resources.
FULL = {
    "prune_cost": [[5, 3], [2, 8], [4, 1]],
    "input_worker": [0, 1],
    "send_cost": [[0, 0], [6, 0]],
    "keep_cost": 1,
    "objective_constant": 10,
    "place_cost": [[1, -2], [0, 3], [-1, 2]],
    "load": [[1, 10], [2, 20], [3, 30]],
    "capacity": [[4, 40], [5, 50]],
    "min_load": [[1, 2], [3, 4]],
    "input_bytes": [7, 9],
    "ingress_capacity": [90, 91],
    "egress_capacity": [92, 93],
    "link_capacity": [[-1, 94], [95, -1]],
    "kept_weight_capacity": [3, 4],
    "communication": "inputs",
    "objective": "weighted",
    "error_budget": 6,
    "traffic_budget": 77,
    "partial_cost": [[[0, 3], [4, 0]], [[0, 5], [6, 0]], [[0, 7], [8, 0]]],
    "partial_bytes": [5, 6, 7],
}
NAMES = {"resource_names": ["macs", "bytes"], "worker_names": ["cam0", "cam1"], "name": "fc1"}
#: The same for each field, changed in one place.
CHANGED = {
    "prune_cost": [[5, 3], [2, 8], [4, 2]],
    "input_worker": [1, 1],
    "send_cost": [[0, 0], [7, 0]],
    "keep_cost": 2,
    "objective_constant": -10,
    "place_cost": [[1, -2], [0, 3], [1, 2]],
    "load": [[1, 10], [2, 20], [3, 31]],
    "capacity": [[4, 40], [5, 51]],
    "min_load": [[1, 2], [3, 3]],
    "input_bytes": [7, 8],
    "ingress_capacity": [90, -1],
    "egress_capacity": [92, -1],
    "link_capacity": [[-1, 94], [-1, -1]],
    "kept_weight_capacity": [3, -1],
    "communication": "per_weight",
    "objective": "traffic",
    "error_budget": 5,
    "traffic_budget": None,
    "partial_cost": [[[0, 3], [4, 0]], [[0, 5], [6, 0]], [[0, 7], [9, 0]]],
    "partial_bytes": [5, 6, 8],
}
BARE = {"prune_cost": [[5, 3], [2, 8], [4, 1]], "input_worker": [0, 1], "send_cost": [[0, 4], [6, 0]]}
#: What CONTRACT.md says of everything that BARE leaves out.
BARE_DEFAULTS = {
    "keep_cost": 0,
    "objective_constant": 0,
    "place_cost": np.zeros((3, 2), int),
    "load": np.ones((3, 1), int),
    "capacity": [[2], [2]],
    "min_load": [[1], [1]],
    "input_bytes": [4, 4],
    "ingress_capacity": [-1, -1],
    "egress_capacity": [-1, -1],
    "link_capacity": [[-1, -1], [-1, -1]],
    "kept_weight_capacity": [-1, -1],
    "communication": "inputs",
    "objective": "weighted",
    "error_budget": None,
    "traffic_budget": None,
    "partial_cost": np.zeros((3, 2, 2), int),
    "partial_bytes": [4, 4, 4],
}


def plain(value):
    """Arrays as nested lists, for comparison."""
    return np.asarray(value).tolist()


@pytest.mark.parametrize("field", BARE_DEFAULTS)
def test_defaults(field):
    """What is absent is filled in as the table of the file format says."""
    found = getattr(LayerProblem(**BARE), field)
    assert plain(found) == plain(BARE_DEFAULTS[field])


def test_default_names():
    """Workers are w0, w1…; the one default resource is `neurons`."""
    problem = LayerProblem(**BARE)
    assert problem.worker_names == ("w0", "w1")
    assert problem.resource_names == ("neurons",)


def test_default_shares_are_equal():
    """Without loads every worker holds floor(N/P) to ceil(N/P) neurons."""
    problem = LayerProblem(np.zeros((8, 1), int), [0], [[0, 0, 0]])
    assert problem.capacity.tolist() == [[3], [3], [3]]
    assert problem.min_load.tolist() == [[2], [2], [2]]


def test_capacity_alone_counts_neurons():
    """`capacity` alone: every neuron is a load of 1 of each resource, and nothing is required."""
    problem = LayerProblem(**BARE, capacity=[[3, 5], [1, 9]])
    assert problem.load.tolist() == [[1, 1]] * 3
    assert problem.min_load.tolist() == [[0, 0], [0, 0]]
    assert len(set(problem.resource_names)) == 2


def test_load_with_capacity_requires_nothing():
    """`load` and `capacity` without `min_load`: it is 0."""
    assert LayerProblem(**BARE, load=[[2], [1], [1]], capacity=[[3], [3]]).min_load.tolist() == [[0], [0]]


def test_partials_need_no_send_cost():
    """`partials` does without send_cost; an N×P partial_cost holds for every target, 0 to oneself."""
    problem = LayerProblem([[1, 2]], [0, 1], communication="partials", partial_cost=[[3, 4]])
    assert problem.num_workers == 2
    assert problem.send_cost.tolist() == [[0, 0], [0, 0]]
    assert problem.partial_cost.tolist() == [[[0, 3], [4, 0]]]


def test_meaningless_diagonals_are_normalised():
    """A link or a partial sum from a worker to itself means nothing, so it is stored as no limit and no cost."""
    problem = LayerProblem(
        [[1]], [0], communication="partials", partial_cost=[[[9, 3], [4, 9]]], link_capacity=[[7, 1], [2, -5]]
    )
    assert problem.partial_cost.tolist() == [[[0, 3], [4, 0]]]
    assert problem.link_capacity.tolist() == [[-1, 1], [2, -1]]


def test_derived_sizes_and_gains():
    """N, M, P, K, g = max(0, a − κ), C0 and who is remote follow from the arrays."""
    problem = LayerProblem(**FULL)
    sizes = (problem.num_neurons, problem.num_inputs, problem.num_workers, problem.num_resources)
    assert sizes == (3, 2, 2, 2)
    assert problem.gain.tolist() == [[4, 2], [1, 7], [3, 0]]
    assert problem.base_cost == 10 + 6 * 1  # every a is at least κ = 1
    assert problem.remote.tolist() == [[False, True], [True, False]]


def test_messages_follow_placement_only_without_limits():
    """Any limit, budget or other objective says that messages are a decision of their own."""
    assert LayerProblem(**BARE).messages_follow_placement
    for key in ("ingress_capacity", "egress_capacity", "link_capacity", "kept_weight_capacity", "traffic_budget"):
        assert not LayerProblem(**BARE, **{key: FULL[key]}).messages_follow_placement
    assert not LayerProblem(**BARE, error_budget=0).messages_follow_placement


def test_unusual_problems_are_legal():
    """N < P, M = 0, P = 1, capacity 0, too little capacity and min_load above capacity are problems, not mistakes."""
    LayerProblem([[1]], [0], [[0, 1, 1]])
    LayerProblem(np.zeros((2, 0), int), [], np.zeros((0, 2), int))
    LayerProblem([[1]], [0], [[0]])
    LayerProblem(**BARE, capacity=[[0], [3]])
    assert LayerProblem(**BARE, capacity=[[1], [0]]).capacity.tolist() == [[1], [0]]
    assert LayerProblem(**BARE, capacity=[[1], [1]], min_load=[[2], [2]]).min_load.tolist() == [[2], [2]]


def test_digest_is_pinned():
    """Stored assignments and certificates rely on the digest of a problem staying what it is."""
    assert LayerProblem(**FULL).digest == "17725e6570f1933832b63387335f668228d3452a2615a535285da2499aff09ba"


def test_digest_ignores_how_the_problem_was_given():
    """Names, scale, defaults written out, dtypes and memory order do not change the digest."""
    digest = LayerProblem(**BARE).digest
    assert LayerProblem(**BARE, **BARE_DEFAULTS).digest == digest
    assert LayerProblem(**BARE, worker_names=["a", "b"], resource_names=["units"], name="x").digest == digest
    assert LayerProblem(**BARE, scaling=Scaling(8.0, 0.5, 1)).digest == digest
    for dtype in (np.int8, np.uint16, np.int32, np.uint64, ">i8"):
        narrow = {key: np.array(value, dtype=dtype) for key, value in BARE.items()}
        assert LayerProblem(**narrow).digest == digest
    assert LayerProblem(**{key: np.asfortranarray(value) for key, value in BARE.items()}).digest == digest
    strided = {key: np.repeat(np.array(value), 2, axis=0)[::2] for key, value in BARE.items()}
    assert LayerProblem(**strided).digest == digest
    assert LayerProblem(**BARE, link_capacity=[[5, -1], [-1, 0]]).digest == digest


def test_digest_depends_on_every_field():
    """Changing any single field, in one entry, changes the digest, and no two changes collide."""
    assert set(CHANGED) == set(FULL)
    digests = {LayerProblem(**{**FULL, key: value}).digest for key, value in CHANGED.items()}
    assert len(digests) == len(CHANGED)
    assert LayerProblem(**FULL).digest not in digests


def test_digest_depends_on_shape():
    """The same numbers in another shape are another problem."""
    wide = LayerProblem([[1, 2]], [0, 0], [[0], [0]], capacity=[[9]])
    tall = LayerProblem([[1], [2]], [0], [[0]], capacity=[[9]])
    assert wide.digest != tall.digest


def test_file_keeps_everything(tmp_path):
    """Writing and reading gives the same problem: arrays, names, digest and scale."""
    problem = LayerProblem(**FULL, **NAMES, scaling=Scaling(1024.0, 0.25, 3))
    problem.write(tmp_path / "anything.npz")
    again = LayerProblem.read(tmp_path / "anything.npz")
    for field in dataclasses.fields(LayerProblem):
        assert plain(getattr(again, field.name)) == plain(getattr(problem, field.name)), field.name
    assert again.digest == problem.digest


def test_file_of_scaled_floats_is_not_scaled_again(tmp_path):
    """A problem made from floats is stored as integers with the scale they have, and read as such."""
    problem = LayerProblem([[0.1, 0.7]], [0, 0], [[0, 0.3], [0, 0.2]])
    problem.write(tmp_path / "p.npz")
    again = LayerProblem.read(tmp_path / "p.npz")
    assert again.scaling == problem.scaling
    assert again.digest == problem.digest
    assert problem.scale > 1


def test_file_with_floats_is_scaled_on_reading(tmp_path):
    """A file that others wrote may hold floats and the required arrays alone; its name is the file's."""
    floats = {"prune_cost": np.array([[0.5, 0.25]], np.float32), "input_worker": [0, 1], "send_cost": np.eye(2)[::-1]}
    np.savez(tmp_path / "conv3.npz", schema="layer-problem/1", **floats)
    problem = LayerProblem.read(tmp_path / "conv3.npz")
    assert problem.name == "conv3"
    assert problem.digest == LayerProblem(**floats).digest
    assert (problem.prune_cost / problem.scale).tolist() == [[0.5, 0.25]]


def test_file_with_byte_strings(tmp_path):
    """Strings stored as bytes mean the same strings."""
    names = {"communication": b"per_weight", "name": b"fc1", "worker_names": [b"a", b"b"]}
    np.savez(tmp_path / "p.npz", schema="layer-problem/1", **BARE, **names)
    problem = LayerProblem.read(tmp_path / "p.npz")
    assert (problem.communication, problem.name, problem.worker_names) == ("per_weight", "fc1", ("a", "b"))


def test_fields_cannot_be_assigned():
    """A problem is frozen."""
    with pytest.raises(dataclasses.FrozenInstanceError):
        LayerProblem(**FULL).keep_cost = 0


ARRAYS = [field.name for field in dataclasses.fields(LayerProblem) if field.type == "IntArray"]


@pytest.mark.parametrize("name", [*ARRAYS, "gain", "remote"])
def test_arrays_cannot_be_changed(name):
    """Every array of a problem is read-only, those derived from others too."""
    array = getattr(LayerProblem(**FULL), name)
    with pytest.raises(ValueError, match="read-only"):
        array[(0,) * array.ndim] = 1


@pytest.mark.parametrize("dtype", [np.int64, np.float64])
def test_the_callers_arrays_are_copied(dtype):
    """The caller's arrays are neither changed nor looked at again."""
    costs = ("prune_cost", "send_cost", "place_cost", "partial_cost", "keep_cost", "objective_constant")
    kinds = {key: dtype if key in costs else np.int64 for key in FULL}
    given = {key: np.array(value, kinds[key]) for key, value in FULL.items() if not isinstance(value, str)}
    before = {key: value.copy() for key, value in given.items()}
    problem = LayerProblem(**given)
    digest, stored = problem.digest, problem.prune_cost.copy()
    for key, array in given.items():
        assert array.flags.writeable, key
        assert np.array_equal(array, before[key]), key
        array[...] = 0
    assert np.array_equal(problem.prune_cost, stored)
    problem.__dict__.pop("digest")  # cached
    assert problem.digest == digest


def test_repr_names_the_problem():
    """The short form says which problem it is."""
    problem = LayerProblem(**FULL, **NAMES)
    for text in ("'fc1'", "3×2", "2 workers", "inputs", problem.digest[:12]):
        assert text in repr(problem)
