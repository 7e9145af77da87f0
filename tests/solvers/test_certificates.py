"""Certificates: the checker accepts what is proved and rejects what is not, naming the claim."""

import dataclasses
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from formulations import InputError, LayerProblem, Separate
from formulations.certificate import Certificate
from solvers import SolveLimits, Termination, certify, check_bound, registry, solve
from solvers import lagrangian as lagrangian_module
from solvers.check import NOT_CHECKABLE, VERIFIED, WRONG, check, main
from solvers.check_bound import RefutedError, recomputed_bound

SMALL = {"num_neurons": 6, "num_inputs": 6, "num_workers": 3}


@pytest.fixture
def hurried(monkeypatch):
    """A decomposition of few rounds."""
    for name, value in {"_SIZES": (3,), "_ROUNDS": 3, "_PROOFS": 1, "_ROUNDS_OF_SINGLES": 3}.items():
        monkeypatch.setattr(lagrangian_module, name, value)


def verdicts(problem, certificate, constraints=()):
    """Claim → verdict."""
    return {finding.claim: finding.verdict for finding in check(problem, certificate, constraints)}


def wrong(problem, certificate, constraints=()):
    """The claims that are found wrong."""
    return {claim for claim, verdict in verdicts(problem, certificate, constraints).items() if verdict == WRONG}


def changed(certificate, arrays=None, **claims):
    """The certificate with other claims, or other arrays; None drops an array."""
    merged = {**certificate.arrays, **(arrays or {})}
    return dataclasses.replace(
        certificate,
        claims=dataclasses.replace(certificate.claims, **claims),
        arrays={name: array for name, array in merged.items() if array is not None},
    )


@pytest.mark.parametrize("name", ["portfolio", "lagrangian", "brute-force", "local-search", "highs"])
def test_what_solvers_answer_is_accepted(name, draw_problem, hurried):
    """No claim of any solver on 60 random problems is wrong, and what can be verified is."""
    told = set()
    for number in range(60):
        problem = draw_problem(np.random.default_rng([91, number]), sizes=SMALL)
        certificate = certify(problem, solve(problem, name))
        found = verdicts(problem, certificate)
        assert WRONG not in found.values(), (number, check(problem, certificate))
        if certificate.claims.bound_proved_by in ("lagrangian", "exhaustive"):
            assert found["dual_bound"] == VERIFIED
        elif certificate.claims.bound_proved_by == "solver":
            assert found["dual_bound"] == NOT_CHECKABLE
        told |= {certificate.claims.termination, certificate.claims.bound_proved_by}
    assert "INFEASIBLE" in told


@pytest.mark.parametrize("communication", ["partials", "per_weight"])
def test_duals_of_the_assignment_are_accepted(communication, draw_problem):
    """`partials` and `per_weight`: the checker's own sums of the prices make the objective, to the integer."""
    num_checked = 0
    for number in range(100):
        problem = draw_problem(np.random.default_rng([92, number]), communication=communication, unit_loads=True)
        result = solve(problem, "assignment")
        found = verdicts(problem, certify(problem, result))
        assert WRONG not in found.values()
        if result.termination is Termination.OPTIMAL:
            num_checked += 1
            assert found["dual_bound"] == found["termination"] == VERIFIED
    assert num_checked >= 40


def test_limits_budgets_and_constraints(draw_limited_problem, draw_constraints, hurried, monkeypatch):
    """Problems with rules on messages: nothing wrong; constraints are checked where given, and said where not."""
    monkeypatch.setattr(check_bound, "_MOST_ASSIGNMENTS", 2000)
    num_constrained = 0
    for number in range(30):
        rng = np.random.default_rng([93, number])
        problem = draw_limited_problem(rng)
        constraints = draw_constraints(rng, problem)
        for name in ("portfolio", "brute-force"):
            if registry.get(name).why_not(problem, constraints):
                continue
            result = solve(problem, name, constraints=constraints, limits=SolveLimits(seconds=0.5))
            certificate = certify(problem, result, constraints)
            assert not wrong(problem, certificate, constraints), (
                number,
                name,
                check(problem, certificate, constraints),
            )
            without = verdicts(problem, certificate)
            assert WRONG not in without.values(), (number, name)
            if constraints and certificate.claims.objective is not None:
                num_constrained += 1
                assert without["constraints"] == NOT_CHECKABLE
    assert num_constrained >= 10


@pytest.fixture(scope="module")
def certified(read_instance):
    """Problems with what is certified of them: two trained layers, and two without shared messages."""
    problems = [read_instance("d24-p3"), read_instance("d32-p4"), read_instance("d24-p3")]
    rng = np.random.default_rng(94)
    for communication in ("partials", "per_weight"):
        owner = rng.integers(0, 3, 8)
        send = rng.integers(1, 20, (8, 3))
        send[np.arange(8), owner] = 0
        problems.append(
            LayerProblem(
                rng.integers(0, 30, (9, 8)), owner, send, communication=communication, name=communication,
                partial_cost=rng.integers(1, 30, (9, 3, 3)) if communication == "partials" else None,
                place_cost=rng.integers(-9, 9, (9, 3)),
            )
        )  # fmt: skip
    found = []
    for number, problem in enumerate(problems):
        # Under a time limit it branches: the last of the three is a tree.
        limits = SolveLimits(seconds=60) if number == 2 else SolveLimits()
        certificate = certify(problem, solve(problem, limits=limits))
        proved = recomputed_bound(problem, certificate.claims.bound_proved_by, certificate.arrays)
        assert proved == certificate.claims.dual_bound
        assert not wrong(problem, certificate)
        found.append((problem, certificate))
    assert {certificate.claims.bound_proved_by for _, certificate in found} == {"lagrangian", "tree", "assignment"}
    return found


def tampered_claims(problem, certificate):
    """Certificates whose claims are more than what is stored makes them, and the claim each is wrong in."""
    claims = certificate.claims
    for step in (1, 1000):
        for claim in ("objective", "bytes_sent", "kept_weights"):
            yield claim, changed(certificate, **{claim: getattr(claims, claim) - step})
            yield claim, changed(certificate, **{claim: getattr(claims, claim) + step})
        yield "dual_bound", changed(certificate, dual_bound=claims.dual_bound + step)
    yield "gap", changed(certificate, gap=claims.gap + 0.1)
    yield "gap", changed(certificate, gap=None)
    for kind in ("lagrangian", "assignment"):
        if kind != claims.bound_proved_by:
            yield "dual_bound", changed(certificate, bound_proved_by=kind)
    if claims.gap > 0:
        yield "termination", changed(certificate, termination="OPTIMAL")
    yield "termination", changed(certificate, termination="INFEASIBLE")
    yield "termination", changed(certificate, objective=None, gap=None)
    yield "problem", dataclasses.replace(certificate, scale=certificate.scale * 2)
    yield "problem", dataclasses.replace(certificate, problem_digest="0" * 64)


def tampered_assignments(problem, certificate, rng):
    """Other assignments under the same claims."""
    worker = certificate.arrays["worker"]
    for _ in range(12):
        i, k = rng.choice(problem.num_neurons, 2, replace=False)
        other = worker.copy()
        other[i], other[k] = worker[k], worker[i]
        if worker[i] != worker[k]:
            yield "objective", changed(certificate, {"worker": other, "sent": None, "partial": None})
    permuted = (worker + 1) % problem.num_workers
    yield "objective", changed(certificate, {"worker": permuted, "sent": None, "partial": None})
    crowded = np.zeros_like(worker)
    yield "assignment", changed(certificate, {"worker": crowded, "sent": None, "partial": None})
    for bad in (worker - 7, worker[:-1], worker.astype(np.float64) + np.nan, worker[None], None):
        yield "objective", changed(certificate, {"worker": bad})


def tampered_blocks(certificate, rng):
    """Other blocks and multipliers under the same claims."""
    arrays = certificate.arrays
    mu, inputs, ends, worker = (arrays[name] for name in ("mu", "block_inputs", "block_ends", "block_worker"))
    for _ in range(25):
        b, i = rng.choice(np.argwhere(mu))  # those of placed neurons are 0, and do not count
        other = mu.copy()
        # Any change of one multiplier costs at least what is rounded away.
        other[b, i] += int(rng.choice([-1, 1])) * 2**40
        yield changed(certificate, {"mu": other})
    yield changed(certificate, {"mu": mu * 2})
    yield changed(certificate, {"mu": -mu})
    yield changed(certificate, {"mu": np.roll(mu, 1, axis=1)})
    yield changed(certificate, {"mu": np.zeros_like(mu)})
    yield changed(certificate, {"mu": mu.astype(np.float64)})
    yield changed(certificate, {"mu": np.full(mu.shape, np.nan)})
    yield changed(certificate, {"mu": mu[:-1]})
    yield changed(certificate, {"mu": np.full_like(mu, 2**62)})
    for factor in (arrays["leaf_factor"] * 2, arrays["leaf_factor"] * 0, -arrays["leaf_factor"]):
        yield changed(certificate, {"leaf_factor": factor})
    yield changed(certificate, {"leaf_factor": np.full_like(arrays["leaf_factor"], 2**62)})
    leaves = arrays["leaf_worker"]
    for other in (leaves[:-1], np.zeros_like(leaves), leaves + 1, leaves - 1, leaves[:, :-1], leaves * 1.0):
        yield changed(certificate, {"leaf_worker": other})
    yield changed(certificate, {"leaf_ends": arrays["leaf_ends"] - 1})
    yield changed(certificate, {"block_worker": worker[::-1].copy()})
    yield changed(certificate, {"block_worker": worker + 1})
    yield changed(certificate, {"block_worker": worker - 1})
    yield changed(certificate, {"block_inputs": np.where(np.arange(inputs.size) == 0, inputs[1], inputs)})
    yield changed(certificate, {"block_inputs": inputs + 10**6})
    yield changed(certificate, {"block_inputs": inputs[:-1]})
    yield changed(certificate, {"block_ends": ends[::-1].copy()})
    yield changed(certificate, {"block_ends": np.zeros_like(ends)})
    yield changed(certificate, {"least": arrays["least"] - 2**44})
    for name in ("mu", "block_inputs", "block_ends", "block_worker", "least", "slopes", "leaf_factor", "leaf_worker"):
        yield changed(certificate, {name: None})


def test_every_tampered_certificate_is_rejected(certified):
    """More than 200 that no longer prove what they claim: each rejected, for the claim that was touched."""
    rng = np.random.default_rng(95)
    count = 0
    for problem, certificate in certified:
        cases = [*tampered_claims(problem, certificate), *tampered_assignments(problem, certificate, rng)]
        if certificate.claims.bound_proved_by in ("lagrangian", "tree"):
            cases += [("dual_bound", case) for case in tampered_blocks(certificate, rng)]
        else:
            beta = certificate.arrays["beta"]
            far = np.zeros_like(beta)
            far[0] = 10**6
            cases += [
                ("dual_bound", changed(certificate, {"beta": other}))
                for other in (beta + far, beta - far, beta[:-1], beta * 0.5, far * 10**13, None)
            ]
        for number, (claim, case) in enumerate(cases):
            assert claim in wrong(problem, case), (problem.name, number, claim, check(problem, case))
            count += 1
    assert count >= 200


def test_a_pair_in_two_blocks_is_named(certified):
    """The one way to claim an input's send twice."""
    problem, certificate = certified[0]
    inputs = certificate.arrays["block_inputs"].copy()
    inputs[1] = inputs[0]
    text = "\n".join(map(str, check(problem, changed(certificate, {"block_inputs": inputs}))))
    assert f"wrong: dual_bound: {certificate.claims.dual_bound} by lagrangian is claimed, but input {inputs[0]}" in text


def test_a_block_less_is_weaker_and_still_valid(certified):
    """A block left out with its multipliers: a valid bound below the claim, and the checker says how much is proved."""
    problem, certificate = certified[0]
    arrays = certificate.arrays
    last = arrays["block_ends"][-1] - arrays["block_ends"][-2]
    fewer = {name: arrays[name][:-1] for name in ("block_worker", "block_ends", "mu", "least")}
    fewer |= {name: arrays[name][:-last] for name in ("block_inputs", "slopes")}
    fewer["leaf_ends"] = arrays["leaf_ends"] - 1
    bound = recomputed_bound(problem, "lagrangian", {**arrays, **fewer})
    assert bound < certificate.claims.dual_bound
    assert not wrong(problem, changed(certificate, fewer, dual_bound=bound, gap=None)) - {"gap"}
    assert wrong(problem, changed(certificate, fewer)) == {"dual_bound"}


def test_bounds_computed_anew_are_never_above_the_optimum(draw_problem, enumerate_placements):
    """Blocks, multipliers, slopes and factors drawn at random: what the checker makes of them is a bound."""
    num_checked = 0
    for number in range(400):
        rng = np.random.default_rng([96, number])
        problem = draw_problem(rng, sizes=SMALL)
        truth = enumerate_placements(problem)
        if not truth.feasible:
            continue
        pairs = rng.permutation(np.argwhere(problem.remote))
        pairs = pairs[: int(rng.integers(0, len(pairs) + 1))]
        blocks = [(p, here) for p in range(problem.num_workers) if len(here := pairs[pairs[:, 1] == p, 0])]
        size = (len(blocks), problem.num_neurons)
        total = sum(len(here) for _, here in blocks if len(here) > 1)
        factor = int(rng.integers(1, 5))
        arrays = {
            "leaf_worker": np.full((1, problem.num_neurons), -1),
            "leaf_factor": np.array([factor]),
            "leaf_ends": np.array([len(blocks)]),
            "block_worker": np.array([p for p, _ in blocks], dtype=np.int64),
            "block_ends": np.cumsum([len(here) for _, here in blocks], dtype=np.int64),
            "block_inputs": np.concatenate([here for _, here in blocks] or [np.zeros(0, np.int64)]),
            "mu": rng.integers(-20, 21, size),
            "least": np.full(len(blocks), 2**60),
            "slopes": rng.integers(-5, 20, (total, problem.num_neurons)),
        }
        num_checked += 1
        assert recomputed_bound(problem, "lagrangian", arrays) <= truth.optimum, number
    assert num_checked >= 200


@pytest.fixture
def written(certified, tmp_path):
    """A problem and its certificate as files."""
    problem, certificate = certified[0]
    problem.write(tmp_path / "problem.npz")
    certificate.write(tmp_path / "it.cert.json")
    return tmp_path / "problem.npz", tmp_path / "it.cert.json"


def test_the_command_verifies_what_was_written(written, capsys):
    """Files in, one line per claim, exit status 0."""
    assert main([str(path) for path in written]) == 0
    lines = capsys.readouterr().out.splitlines()
    claims = [line.split(": ")[1] for line in lines]
    assert all(line.startswith("verified: ") for line in lines)
    assert {"problem", "assignment", "objective", "dual_bound", "gap", "termination"} <= set(claims)


@pytest.mark.parametrize("share", [0.0, 0.1, 0.5, 0.9, 0.999])
def test_truncated_arrays_are_rejected(share, written, capsys):
    """The .npz cut off anywhere: exit status 1, naming the claims that cannot be checked."""
    arrays = written[1].with_suffix(".npz")
    content = arrays.read_bytes()
    arrays.write_bytes(content[: int(share * len(content))])
    assert main([str(path) for path in written]) == 1
    assert "objective and dual_bound cannot be checked" in capsys.readouterr().out


def test_arrays_of_another_certificate_are_rejected(written, certified, capsys):
    """Its digest is in the certificate."""
    certified[1][1].write(written[1].with_name("other.cert.json"))
    written[1].with_name("other.cert.npz").replace(written[1].with_suffix(".npz"))
    assert main([str(path) for path in written]) == 1
    assert "SHA-256 differs" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("edit", "said"),
    [
        (lambda text: text[: len(text) // 2], "not JSON"),
        (lambda text: "[1]", "certificate/1"),
        (lambda text: text.replace("certificate/1", "certificate/9"), "certificate/9"),
        (lambda text: text.replace('"objective"', '"objectiv"'), "objectiv"),
        (lambda text: text.replace('"FEASIBLE"', '"SPLENDID"'), "SPLENDID"),
        (lambda text: text.replace('"lagrangian"', '"magic"'), "magic"),
        (lambda text: text.replace('"it.cert.npz"', '"../it.cert.npz"'), "beside it"),
    ],
)
def test_a_damaged_certificate_is_bad_input(edit, said, written, capsys):
    """One line, exit status 2."""
    written[1].write_text(edit(written[1].read_text(encoding="utf-8")), encoding="utf-8")
    assert main([str(path) for path in written]) == 2
    error = capsys.readouterr().err
    assert said in error
    assert error.count("\n") == 1


def test_not_a_number_is_no_claim(written, capsys):
    """NaN as gap or objective."""
    content = json.loads(written[1].read_text(encoding="utf-8"))
    for claim in ("gap", "objective", "dual_bound"):
        bad = {**content, "claims": {**content["claims"], claim: float("nan")}}
        written[1].write_text(json.dumps(bad), encoding="utf-8")
        assert main([str(path) for path in written]) == 2
        assert claim in capsys.readouterr().err


def test_another_problem_is_rejected(written, certified, tmp_path, capsys):
    """The same certificate beside another layer."""
    certified[1][0].write(tmp_path / "other.npz")
    assert main([str(tmp_path / "other.npz"), str(written[1])]) == 1
    assert "wrong: problem" in capsys.readouterr().out


def test_the_checker_loads_no_solver(written):
    """numpy, and this project's reading and evaluation: nothing that solves anything is imported."""
    code = (
        "import sys; from solvers.check import main; status = main(sys.argv[1:]); "
        "loaded = {'numba', 'scipy', 'torch', 'pyomo', 'ortools', 'highspy', 'solvers.lagrangian', 'solvers.base', "
        "'solvers.proofs', 'solvers.certificate', 'formulations.presolve', 'formulations.loads'} & set(sys.modules); "
        "sys.exit(status if not loaded else str(loaded))"
    )
    root = Path(__file__).parents[2]
    command = [sys.executable, "-c", code, *map(str, written)]
    done = subprocess.run(command, cwd=root, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_names_and_endings(certified, tmp_path):
    """A certificate is a .cert.json file; anything else, which could replace a problem, is refused before a byte."""
    for name in ("cert.npz", "layer.json"):
        with pytest.raises(InputError, match=r"ends in \.cert\.json"):
            certified[0][1].write(tmp_path / name)
    assert not list(tmp_path.iterdir())
    with pytest.raises(InputError, match="no such file"):
        Certificate.read(tmp_path / "absent.json")


def test_constraints_given_to_the_checker_are_looked_at():
    """An assignment that breaks a constraint it was certified with is wrong, once the checker is given it."""
    problem = LayerProblem([[9, 1], [9, 2]], [0, 1], [[0, 5], [6, 0]], capacity=[[2], [2]])
    result = solve(problem, "brute-force")
    constraint = Separate([0, 1])
    certificate = certify(problem, result, [constraint])
    assert verdicts(problem, certificate)["constraints"] == NOT_CHECKABLE
    assert "assignment" in wrong(problem, certificate, [constraint])


def test_prices_that_would_wrap_around_prove_nothing_false():
    """A factor of 2^62 on negative costs: in int64 the sum would come out at 0, above the optimum of -20."""
    problem = LayerProblem(
        [[1]], [0], [[0, 0]], communication="per_weight", place_cost=[[-20, -10]], capacity=[[1], [1]]
    )
    for factor in (1, 3, 2**61, 2**62):
        arrays = {"factor": np.int64(factor), "beta": np.zeros((2, 1), dtype=np.int64)}
        assert recomputed_bound(problem, "assignment", arrays) == -20


def test_what_depends_on_a_constraint_that_was_not_given_is_not_verified():
    """OPTIMAL under a constraint, checked without it: not checkable; and one that is not claimed does not count."""
    problem = LayerProblem([[9, 1], [9, 2]], [0, 1], [[0, 5], [6, 0]], capacity=[[2], [2]])
    constraint = Separate([0, 1])
    constrained = certify(problem, solve(problem, "brute-force", constraints=[constraint]), [constraint])
    found = verdicts(problem, constrained)
    assert found["termination"] == found["dual_bound"] == found["constraints"] == NOT_CHECKABLE
    assert set(verdicts(problem, constrained, [constraint]).values()) == {VERIFIED}
    free = certify(problem, solve(problem, "brute-force"))
    assert free.claims.objective < constrained.claims.objective
    assert not wrong(problem, free, [constraint])
    lie = changed(free, dual_bound=free.claims.objective + 1, objective=free.claims.objective + 1)
    assert {"objective", "dual_bound", "termination"} <= wrong(problem, lie, [constraint])


def test_no_line_of_the_report_is_somebody_elses(capsys):
    """A constraint's name with a line break is shown as text, not as a line."""
    problem = LayerProblem([[9, 1], [9, 2]], [0, 1], [[0, 5], [6, 0]])
    forged = dataclasses.replace(certify(problem, solve(problem)), constraints=("a\nverified: dual_bound: 999",))
    assert all("\n" not in str(finding) for finding in check(problem, forged))


@pytest.mark.parametrize(
    "ends", [[2**63 - 1, -2], [-1, 0], [0, 1], [2**62, 2**62]], ids=["wraps", "negative", "short", "long"]
)
def test_ends_that_do_not_cut_are_found(ends, certified):
    """leaf_ends and block_ends of any numbers: wrong, not a traceback."""
    problem, certificate = certified[0]
    for name in ("leaf_ends", "block_ends"):
        cut = np.resize(np.array(ends, dtype=np.int64), certificate.arrays[name].shape)
        assert "dual_bound" in wrong(problem, changed(certificate, {name: cut}))


def test_a_placed_leaf_needs_no_blocks(certified):
    """Blocks where all neurons are placed: wrong, not a division by zero."""
    problem = LayerProblem([[9, 1], [9, 2]], [0, 0], [[0, 5], [0, 6]])
    arrays = {
        "leaf_worker": np.array([[p, q] for p in (0, 1) for q in (0, 1)]),
        "leaf_factor": np.ones(4, dtype=np.int64),
        "leaf_ends": np.array([1, 1, 1, 1]),
        "block_worker": np.array([1]),
        "block_ends": np.array([2]),
        "block_inputs": np.array([0, 1]),
        "mu": np.zeros((1, 2), dtype=np.int64),
        "least": np.zeros(1, dtype=np.int64),
        "slopes": np.zeros((2, 2), dtype=np.int64),
    }
    blockless = {name: array[:0] for name, array in arrays.items() if name.startswith(("block", "mu", "least", "slo"))}
    assert recomputed_bound(problem, "tree", {**arrays, **blockless, "leaf_ends": np.zeros(4, np.int64)}) is not None
    arrays["leaf_worker"][[0, 1]] = arrays["leaf_worker"][[1, 0]]  # the first leaf is one that fits
    with pytest.raises(RefutedError, match="places all neurons has blocks"):
        recomputed_bound(problem, "tree", arrays)


def test_a_search_without_end_is_given_up(certified, monkeypatch):
    """Thresholds so high that nothing is cut off: not checkable after so many nodes."""
    monkeypatch.setattr(check_bound, "_MOST_NODES", 1000)
    problem, certificate = certified[0]
    high = changed(certificate, {"least": np.full_like(certificate.arrays["least"], 2**61)})
    assert verdicts(problem, high)["dual_bound"] == NOT_CHECKABLE


def test_an_enumeration_beyond_all_numbers_is_not_checkable():
    """INFEASIBLE of a layer with more than 2^1023 choices of messages: no OverflowError."""
    rng = np.random.default_rng(97)
    owner = rng.integers(0, 4, 400)
    send = np.where(owner[:, None] == np.arange(4), 0, 5)
    problem = LayerProblem(rng.integers(1, 9, (2, 400)), owner, send, error_budget=0, ingress_capacity=[0] * 4)
    result = solve(problem, "highs")
    assert result.termination is Termination.INFEASIBLE
    assert verdicts(problem, certify(problem, result))["termination"] == NOT_CHECKABLE


@pytest.mark.parametrize("value", ["1" + "0" * 400, "true", "-1" + "0" * 30])
@pytest.mark.parametrize("claim", ["gap", "dual_bound", "objective"])
def test_numbers_beyond_all_reason_are_bad_input(claim, value, written, capsys):
    """Integers of hundreds of digits, and truth values: one line, exit status 2."""
    content = json.loads(written[1].read_text(encoding="utf-8"))
    content["claims"][claim] = "HERE"
    written[1].write_text(json.dumps(content).replace('"HERE"', value), encoding="utf-8")
    assert main([str(path) for path in written]) == 2
    assert capsys.readouterr().err.count("\n") == 1


def test_costs_beyond_exact_placing_leave_a_gap_not_a_false_claim():
    """Costs of 2^55 and more: OPTIMAL only where bound and objective are equal, against all placements."""
    for number in range(150):
        rng = np.random.default_rng([98, number])
        weighted = number % 2
        problem = LayerProblem(
            np.zeros((4, 1), dtype=np.int64), [0], [[0, 1, 1]], communication="per_weight",
            place_cost=2**55 + rng.integers(0, 2**int(rng.integers(3, 55)), (4, 3)),
            load=rng.integers(1, 4, (4, 1)) if weighted else None, capacity=[[9 if weighted else 2]] * 3,
        )  # fmt: skip
        result, truth = solve(problem, "assignment"), solve(problem, "brute-force")
        assert result.dual_bound <= truth.primal_bound <= result.primal_bound, number
        assert result.termination is not Termination.OPTIMAL or result.primal_bound == truth.primal_bound, number
        assert not wrong(problem, certify(problem, result))
