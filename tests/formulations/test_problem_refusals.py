"""Bad input to a layer problem: one line that names what is wrong with which array or entry."""

import numpy as np
import pytest

from formulations import LayerProblem

#: Three neurons, two inputs, two workers.
GOOD = {"prune_cost": [[5, 3], [2, 8], [4, 1]], "input_worker": [0, 1], "send_cost": [[0, 4], [6, 0]]}
PARTIALS = {"prune_cost": [[5, 3]], "input_worker": [0, 1], "communication": "partials"}
NAN, INF = float("nan"), float("inf")

#: (what is changed, what the message must mention)
CASES = [
    # not finite
    ({"prune_cost": [[5, 3], [2, NAN], [4, 1]]}, ["prune_cost[1,1]", "nan"]),
    ({"send_cost": [[0, INF], [6, 0]]}, ["send_cost[0,1]", "inf"]),
    ({"place_cost": [[0, 0], [0, -INF], [0, 0]]}, ["place_cost[1,1]", "-inf"]),
    ({"keep_cost": NAN}, ["keep_cost", "nan"]),
    ({"objective_constant": INF}, ["objective_constant", "inf"]),
    ({"error_budget": NAN}, ["error_budget", "nan"]),
    # negative
    ({"prune_cost": [[5, 3], [2, 8], [4, -1]]}, ["prune_cost[2,1]", "-1"]),
    ({"send_cost": [[0, -4], [6, 0]]}, ["send_cost[0,1]", "-4"]),
    ({"keep_cost": -0.5}, ["keep_cost", "-0.5"]),
    ({"error_budget": -1}, ["error_budget", "-1"]),
    ({"traffic_budget": -1}, ["traffic_budget", "-1"]),
    ({"input_bytes": [4, -4]}, ["input_bytes[1]", "-4"]),
    ({"partial_bytes": [4, 4, -4]}, ["partial_bytes[2]", "-4"]),
    ({"capacity": [[2], [-1]]}, ["capacity[1,0]", "-1"]),
    ({"capacity": [[2], [2]], "min_load": [[-1], [0]]}, ["min_load[0,0]", "-1"]),
    ({"capacity": [[2], [2]], "load": [[1], [-1], [1]]}, ["load[1,0]", "-1"]),
    ({"ingress_capacity": [-2, 0]}, ["ingress_capacity[0]", "-2"]),
    ({"egress_capacity": [0, -2]}, ["egress_capacity[1]", "-2"]),
    ({"link_capacity": [[0, -2], [0, 0]]}, ["link_capacity[0,1]", "-2"]),
    ({"kept_weight_capacity": [0, -3]}, ["kept_weight_capacity[1]", "-3"]),
    # shapes
    ({"prune_cost": [5, 3]}, ["prune_cost", "(2,)"]),
    ({"prune_cost": 5}, ["prune_cost", "()"]),
    ({"prune_cost": np.zeros((0, 2), int)}, ["prune_cost", "(0, 2)"]),
    ({"prune_cost": [[5, 3], [2]]}, ["prune_cost"]),
    ({"input_worker": [0, 1, 0]}, ["input_worker", "(3,)"]),
    ({"input_worker": [[0, 1]]}, ["input_worker", "(1, 2)"]),
    ({"send_cost": [[0, 4]]}, ["send_cost", "(1, 2)"]),
    ({"send_cost": [0, 4]}, ["send_cost", "(2,)"]),
    ({"send_cost": np.zeros((2, 0), int)}, ["send_cost", "(2, 0)"]),
    ({"place_cost": [[0, 0]]}, ["place_cost", "(1, 2)"]),
    ({"keep_cost": [1, 2]}, ["keep_cost", "(2,)"]),
    ({"objective_constant": [[1]]}, ["objective_constant", "(1, 1)"]),
    ({"error_budget": [3]}, ["error_budget", "(1,)"]),
    ({"traffic_budget": [3]}, ["traffic_budget", "(1,)"]),
    ({"capacity": [2, 2]}, ["capacity", "(2,)"]),
    ({"capacity": [[2], [2], [2]]}, ["capacity", "(3, 1)"]),
    ({"capacity": [[2], [2]], "load": [[1, 1]] * 3}, ["load", "(3, 2)"]),
    ({"capacity": [[2], [2]], "load": [1, 1, 1]}, ["load", "(3,)"]),
    ({"capacity": [[2], [2]], "min_load": [[1, 1]] * 2}, ["min_load", "(2, 2)"]),
    ({"input_bytes": [4]}, ["input_bytes", "(1,)"]),
    ({"input_bytes": 4}, ["input_bytes", "()"]),
    ({"partial_bytes": [4]}, ["partial_bytes", "(1,)"]),
    ({"ingress_capacity": [9]}, ["ingress_capacity", "(1,)"]),
    ({"egress_capacity": 9}, ["egress_capacity", "()"]),
    ({"link_capacity": [9, 9]}, ["link_capacity", "(2,)"]),
    ({"kept_weight_capacity": [[9, 9]]}, ["kept_weight_capacity", "(1, 2)"]),
    ({"partial_cost": [[1, 1]]}, ["partial_cost", "(1, 2)"]),
    ({"partial_cost": np.zeros((3, 2, 1), int)}, ["partial_cost", "(3, 2, 1)"]),
    # owners
    ({"input_worker": [0, 2]}, ["input_worker[1]", "2"]),
    ({"input_worker": [-1, 1]}, ["input_worker[0]", "-1"]),
    ({"input_worker": [0.0, 1.0]}, ["input_worker", "float64"]),
    ({"send_cost": [[0, 4], [6, 3]]}, ["send_cost[1,1]", "3"]),
    # loads
    ({"load": [[1], [1], [1]]}, ["load", "capacity"]),
    ({"min_load": [[1], [1]]}, ["min_load", "capacity"]),
    ({"capacity": [[2.0], [2.0]]}, ["capacity", "float64"]),
    ({"capacity": [[2], [2]], "load": [[1.5], [1], [1]]}, ["load", "float64"]),
    ({"capacity": [[2], [2]], "min_load": [[0.0], [1]]}, ["min_load", "float64"]),
    ({"input_bytes": [4.0, 4]}, ["input_bytes", "float64"]),
    ({"link_capacity": [[0, 1.5], [0, 0]]}, ["link_capacity", "float64"]),
    ({"traffic_budget": 3.0}, ["traffic_budget", "float64"]),
    # modes
    ({"communication": "input"}, ["communication", "'input'", "inputs, partials, per_weight"]),
    ({"communication": np.array(["inputs", "partials"])}, ["communication"]),
    ({"objective": "speed"}, ["objective", "'speed'", "weighted, traffic, error"]),
    ({"objective": "traffic"}, ["traffic", "error_budget"]),
    ({"objective": "error"}, ["error", "traffic_budget"]),
    ({"communication": "partials"}, ["partial_cost"]),
    # names
    ({"worker_names": ["a", "a"]}, ["worker_names", "'a'"]),
    ({"worker_names": ["a"]}, ["worker_names", "1 names"]),
    ({"worker_names": [1, 2]}, ["worker_names", "string"]),
    ({"worker_names": [["a"], ["b", "c"]]}, ["worker_names"]),
    ({"worker_names": [b"\xff", b"b"]}, ["worker_names"]),
    ({"resource_names": ["a", "b"]}, ["resource_names", "2 names"]),
    ({"capacity": [[2, 2], [2, 2]], "resource_names": ["a", "a"]}, ["resource_names", "'a'"]),
    ({"name": ""}, ["name", "''"]),
    ({"name": 7}, ["name", "7"]),
    # too large
    ({"prune_cost": np.full((3, 2), 2**62)}, ["cost", "int64"]),
    ({"prune_cost": np.full((3, 2), 2**63, dtype=np.uint64)}, ["prune_cost", str(2**63)]),
    ({"send_cost": [[0, 2**70], [6, 0]]}, ["send_cost"]),
    ({"place_cost": np.full((3, 2), -(2**63))}, ["cost", "int64"]),
    ({"keep_cost": 2**60}, ["cost", "int64"]),
    ({"objective_constant": -(2**62)}, ["cost", "int64"]),
    ({"input_bytes": [2**61, 0]}, ["input_bytes"]),
    ({"partial_bytes": [2**61, 0, 0]}, ["partial_bytes"]),
    ({"capacity": [[2**61], [2]]}, ["capacity"]),
    ({"capacity": [[2], [2]], "load": [[2**61], [1], [1]]}, ["load"]),
    ({"traffic_budget": 2**64}, ["traffic_budget"]),
    # not numbers
    ({"prune_cost": [["5", "3"]] * 3}, ["prune_cost"]),
    ({"prune_cost": [[5, None], [2, 8], [4, 1]]}, ["prune_cost", "object"]),
    ({"prune_cost": np.full((3, 2), 1j)}, ["prune_cost", "complex"]),
    ({"send_cost": [[0, object()], [6, 0]]}, ["send_cost", "object"]),
    ({"input_worker": ["w0", "w1"]}, ["input_worker"]),
    ({"keep_cost": "1"}, ["keep_cost"]),
    ({"capacity": "all"}, ["capacity"]),
    ({"prune_cost": np.zeros((3, 2), "datetime64[s]")}, ["prune_cost", "datetime64"]),
]


@pytest.mark.parametrize(("change", "mentioned"), CASES, ids=[f"{n}-{'+'.join(c[0])}" for n, c in enumerate(CASES)])
def test_bad_input(refused, change, mentioned):
    """Each mistake is refused on one line that names the problem and the array or entry at fault."""
    with refused("'fc1'" if "name" not in change else "problem", *mentioned):
        LayerProblem(**{"name": "fc1", **GOOD, **change})


@pytest.mark.parametrize(
    "key", ["prune_cost", "input_worker", "keep_cost", "objective_constant", "communication", "objective", "name"]
)
def test_none_is_refused(refused, key):
    """None where a value is required is bad input, not a crash."""
    with refused(key):
        LayerProblem(**{**GOOD, key: None})


@pytest.mark.parametrize("communication", ["inputs", "per_weight"])
def test_send_cost_is_required(refused, communication):
    """Only `partials` can do without send_cost."""
    with refused("send_cost"):
        LayerProblem([[1]], [0], communication=communication)
    with refused("send_cost"):
        LayerProblem([[1]], [0], communication=communication, partial_cost=[[1, 1]])


@pytest.mark.parametrize(
    ("partial_cost", "mentioned"),
    [
        (None, "partial_cost"),
        ([[-1, 2]], "partial_cost[0,0,"),
        ([[[0, 2], [NAN, 0]]], "partial_cost[0,1,0]"),
        ([1, 2], "partial_cost"),
        (3, "partial_cost"),
        ([[[0, 2, 1], [2, 0, 1]]], "partial_cost"),
    ],
)
def test_bad_partial_cost(refused, partial_cost, mentioned):
    """`partials` needs N×P×P or N×P costs, finite and not negative."""
    with refused(mentioned):
        LayerProblem(**PARTIALS, partial_cost=partial_cost)
