"""The specification against a second writing of it, in plain loops, on random problems."""

from hypothesis import given, settings
from hypothesis import strategies as st

from formulations import Assignment, LayerProblem, evaluate

RANDOM = settings(max_examples=250)
SIZES = ("num_neurons", "num_inputs", "num_workers")


def reduced_objective(problem, worker):
    """F(x) of docs/design.md, Reduced forms, term by term."""
    neurons, inputs, workers = (range(getattr(problem, size)) for size in SIZES)
    a, t, s = problem.prune_cost.tolist(), problem.send_cost.tolist(), problem.partial_cost.tolist()
    owner, keep = problem.input_worker.tolist(), problem.keep_cost
    gain = [[max(0, a[i][j] - keep) for j in inputs] for i in neurons]
    total = problem.objective_constant + sum(min(a[i][j], keep) for i in neurons for j in inputs)
    total += sum(int(problem.place_cost[i, worker[i]]) for i in neurons)
    if problem.communication == "inputs":
        for p in workers:
            for j in inputs:
                if owner[j] != p:
                    total += min(t[j][p], sum(gain[i][j] for i in neurons if worker[i] == p))
    elif problem.communication == "partials":
        for i in neurons:
            for q in workers:
                if q != worker[i]:
                    total += min(s[i][q][worker[i]], sum(gain[i][j] for j in inputs if owner[j] == q))
    else:
        total += sum(min(t[j][worker[i]], gain[i][j]) for i in neurons for j in inputs if owner[j] != worker[i])
    return total


def random_messages(data, problem, worker):
    """An assignment of the placement with any messages it may legally have."""
    neurons, inputs, workers = (range(getattr(problem, size)) for size in SIZES)
    if problem.communication == "partials":
        partial = [[p != worker[i] and data.draw(st.booleans()) for p in workers] for i in neurons]
        return Assignment(worker, partial=partial)
    owner = problem.input_worker
    sent = [[bool(p != owner[j]) and data.draw(st.booleans()) for p in workers] for j in inputs]
    # An empty list has no second dimension.
    return Assignment(worker, sent=sent if sent else problem.remote)


@RANDOM
@given(data=st.data())
def test_derived_messages_cost_the_reduced_objective(placed_problems, data):
    """In all three modes evaluate() without messages is F(x), and its terms add up to it."""
    placed = data.draw(placed_problems())
    found = evaluate(placed.problem, Assignment(placed.worker))
    assert found.objective == reduced_objective(placed.problem, placed.worker)
    terms = (found.pruned_cost, found.kept_cost, found.traffic_cost, found.place_cost)
    assert found.objective == placed.problem.objective_constant + sum(terms)
    assert found.feasible


@RANDOM
@given(data=st.data())
def test_no_messages_are_better_than_the_derived_ones(placed_problems, data):
    """Where only rows (1)–(3) bind, the derived messages are the cheapest for the placement."""
    placed = data.draw(placed_problems())
    other = random_messages(data, placed.problem, placed.worker)
    derived = evaluate(placed.problem, Assignment(placed.worker))
    assert derived.objective <= evaluate(placed.problem, other).objective


@RANDOM
@given(data=st.data())
def test_giving_the_derived_messages_changes_nothing(placed_problems, data):
    """The assignment that evaluate() returns names its problem and evaluates to the same."""
    placed = data.draw(placed_problems())
    once = evaluate(placed.problem, Assignment(placed.worker))
    again = evaluate(placed.problem, once.assignment)
    assert once.assignment.problem_digest == placed.problem.digest
    assert (once.objective, once.bytes_sent) == (again.objective, again.bytes_sent)
    assert (once.kept == again.kept).all()


@RANDOM
@given(data=st.data())
def test_loads_and_kept_weights_recounted(placed_problems, data):
    """Loads, and kept weights by the worker that holds them, equal a recount neuron by neuron."""
    problem, worker = (placed := data.draw(placed_problems())).problem, placed.worker
    found = evaluate(problem, random_messages(data, problem, worker))
    load = [[0] * problem.num_resources for _ in range(problem.num_workers)]
    kept = [0] * problem.num_workers
    for i in range(problem.num_neurons):
        for k in range(problem.num_resources):
            load[worker[i]][k] += int(problem.load[i, k])
        for j in range(problem.num_inputs):
            if found.kept[i, j]:
                kept[problem.input_worker[j] if problem.communication == "partials" else worker[i]] += 1
    assert found.load.tolist() == load
    assert found.kept_weights.tolist() == kept
    assert found.num_kept_weights == sum(kept)


@RANDOM
@given(data=st.data())
def test_kept_weights_are_those_at_hand_that_pay(placed_problems, data):
    """z_ij = 1 iff a_ij > κ and the input (or its owner's partial sum) is there; `per_weight`: and it pays its send."""
    problem, worker = (placed := data.draw(placed_problems())).problem, placed.worker
    assignment = random_messages(data, problem, worker)
    found = evaluate(problem, assignment)
    for i in range(problem.num_neurons):
        for j in range(problem.num_inputs):
            here, owner = worker[i], problem.input_worker[j]
            worth = problem.prune_cost[i, j] - problem.keep_cost
            if here == owner:
                expected = worth > 0
            elif problem.communication == "partials":
                expected = worth > 0 and assignment.partial[i, owner]
            elif problem.communication == "inputs":
                expected = worth > 0 and assignment.sent[j, here]
            else:
                expected = worth > problem.send_cost[j, here] and assignment.sent[j, here]
            assert found.kept[i, j] == expected


@RANDOM
@given(data=st.data())
def test_bytes_recounted(placed_problems, data):
    """Every message is on its link once: inputs sent, partial sums sent, or inputs some kept remote weight needs."""
    problem, worker = (placed := data.draw(placed_problems())).problem, placed.worker
    neurons, inputs, workers = (range(getattr(problem, size)) for size in SIZES)
    assignment = random_messages(data, problem, worker)
    found = evaluate(problem, assignment)
    link = [[0] * problem.num_workers for _ in workers]
    if problem.communication == "partials":
        for i in neurons:
            for q in workers:
                if assignment.partial[i, q]:
                    link[q][worker[i]] += int(problem.partial_bytes[i])
    else:
        for j in inputs:
            for p in workers:
                crosses = assignment.sent[j, p]
                if problem.communication == "per_weight":
                    crosses = p != problem.input_worker[j] and any(found.kept[i, j] for i in neurons if worker[i] == p)
                if crosses:
                    link[problem.input_worker[j]][p] += int(problem.input_bytes[j])
    assert found.link_bytes.tolist() == link
    assert found.bytes_sent == sum(map(sum, link))
    assert found.ingress_bytes.tolist() == [sum(row[p] for row in link) for p in workers]
    assert found.egress_bytes.tolist() == [sum(row) for row in link]


@RANDOM
@given(data=st.data())
def test_kept_weight_capacity_is_the_best_choice(placed_problems, data):
    """Under (5) no worker exceeds its places, none is left empty, and no lost weight is worth more than a kept one."""
    placed = data.draw(placed_problems(modes=("inputs", "partials")))
    places = [data.draw(st.integers(-1, 3)) for _ in range(placed.problem.num_workers)]
    problem = LayerProblem(**placed.given, kept_weight_capacity=places)
    assignment = random_messages(data, problem, placed.worker)
    free, found = evaluate(placed.problem, assignment), evaluate(problem, assignment)
    partials = problem.communication == "partials"
    for p, most in enumerate(places):
        held = [
            (i, j)
            for i in range(problem.num_neurons)
            for j in range(problem.num_inputs)
            if free.kept[i, j] and (problem.input_worker[j] if partials else placed.worker[i]) == p
        ]
        # Largest a − κ first, ties by (i, j).
        held.sort(key=lambda weight: (-int(problem.prune_cost[weight]), weight))
        kept = [weight for weight in held if found.kept[weight]]
        assert sorted(kept) == sorted(held if most < 0 else held[:most])
    assert found.feasible
