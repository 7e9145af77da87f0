"""The benchmark of certified gaps: what its tables, curves and choices of problems and solvers say."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks import bounds
from benchmarks.bounds import Proof, SizeProof, Step
from benchmarks.synthetic import on_half_the_workers, sparse_layer
from formulations import Assignment, LayerProblem, evaluate
from solvers.registry import SOLVERS


@pytest.fixture
def make_proof() -> Callable[..., Proof]:
    """Makes a proof about problem `q` that took 9 s, with figures as given."""

    def make(solver: str, objective: int | None, bound: int | None, *curve: Step, known: int | None = None) -> Proof:
        return Proof("q", 8, 8, 2, solver, known, objective, bound, None, 9.0, "TIME", curve)

    return make


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch, make_proof: Callable[..., Proof]) -> list[tuple[LayerProblem, str]]:
    """What would have been solved, and by whom; nothing is."""
    calls: list[tuple[LayerProblem, str]] = []

    def prove(problem: LayerProblem, solver: str, seconds: float) -> Proof:
        calls.append((problem, solver))
        return make_proof(solver, 10, 9)

    monkeypatch.setattr(bounds, "prove", prove)
    return calls


def test_who_proved_what(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """One row per solver, unknown figures null; a bound alone has a gap to the best of the run."""
    layer, out = tmp_path / "layer.npz", tmp_path / "proofs.json"
    sparse_layer(32, 0.1).write(layer)
    solvers = ["--solver", "portfolio", "--solver", "alternation", "--solver", "lagrangian"]
    assert bounds.main([str(layer), "--seconds", "2", *solvers, "--json", str(out)]) == 0
    content = json.loads(out.read_text(encoding="utf-8"))
    proofs = {proof["solver"]: proof for proof in content["proofs"]}
    assert proofs["portfolio"]["dual_bound"] <= proofs["portfolio"]["objective"] <= proofs["alternation"]["objective"]
    assert proofs["alternation"]["dual_bound"] is proofs["alternation"]["to_best"] is None
    assert proofs["lagrangian"]["objective"] is proofs["lagrangian"]["gap"] is None
    best, bound = proofs["portfolio"]["objective"], proofs["lagrangian"]["dual_bound"]
    assert proofs["lagrangian"]["to_best"] == pytest.approx((best - bound) / best)
    sizes = [row["block_size"] for row in content["block_sizes"] if row["solver"] == "lagrangian"]
    assert sizes == sorted(sizes)
    assert 1 in sizes
    printed = capsys.readouterr().out
    assert "portfolio" in printed
    assert "Gap by block size" in printed


def test_the_yardstick_is_the_best_of_run_and_record(make_proof: Callable[..., Proof]) -> None:
    """The smaller of what any solver found and what is on record; unknown where there is neither."""
    assert bounds.best_objectives([make_proof("a", 12, None), make_proof("b", 10, 5)]) == {"q": 10}
    assert bounds.best_objectives([make_proof("a", 12, None, known=9)]) == {"q": 9}
    assert bounds.best_objectives([make_proof("a", None, 5)]) == {"q": float("inf")}


def test_best_bound_of_each_block_size(make_proof: Callable[..., Proof]) -> None:
    """Per size the last step that raised the bound; other steps and other words do not count."""
    curve = (
        Step(0.1, 10, None, "placed once"),
        Step(1.0, 10, 4, "blocks of 1, round 1"),
        Step(2.0, 10, 6, "blocks of 1, round 2"),
        Step(3.0, 10, 5, "blocks of 12, round 1"),
        Step(4.0, 10, 8, "blocks of 12, proof 1"),
    )
    assert bounds.by_block_size([make_proof("lagrangian", 10, 9, *curve)]) == [
        SizeProof("q", "lagrangian", 1, 6, 0.4, 2.0),
        SizeProof("q", "lagrangian", 12, 8, 0.2, 4.0),
    ]


def test_a_curve_ends_with_the_bound(make_proof: Callable[..., Proof]) -> None:
    """What a solver claims in the end is on its curve, also where it was not reported on the way."""
    proof = make_proof("highs", 10, 9, Step(1.0, 10, None, ""), Step(2.0, 10, 7, ""))
    assert [(step.seconds, step.dual_bound) for step in proof.bounds] == [(2.0, 7), (9.0, 9)]
    assert make_proof("alternation", 10, None, Step(1.0, 10, None, "")).bounds == []


def test_plot_has_a_panel_per_problem(problem_file: str, tmp_path: Path) -> None:
    """An SVG with the curves of solvers that prove something; one without any bound is drawn empty."""
    plot = tmp_path / "gaps.svg"
    solvers = ["--solver", "alternation", "--solver", "brute-force"]
    assert bounds.main([problem_file, "--seconds", "5", *solvers, "--plot", str(plot)]) == 0
    assert "brute-force" in (drawn := plot.read_text(encoding="utf-8"))
    assert "alternation" not in drawn
    assert bounds.main([problem_file, "--solver", "contiguous", "--plot", str(plot)]) == 0
    assert "<svg" in plot.read_text(encoding="utf-8")


def test_all_leaves_out_who_refuses(
    small_problem: Callable[..., LayerProblem], asked: list[tuple[Any, str]], tmp_path: Path, capsys: Any
) -> None:
    """`--all` asks those that are there and take the problem, and says why not of the others."""
    small_problem(communication="per_weight").write(tmp_path / "p.npz")
    assert bounds.main([str(tmp_path / "p.npz"), "--all"]) == 0
    usable = [name for name in bounds._ALL if SOLVERS[name].why_unavailable() is None]
    assert [solver for _, solver in asked] == [name for name in usable if name != "lagrangian"]
    assert "lagrangian is left out" in capsys.readouterr().err


def test_all_and_solver_exclude_each_other(refused: Callable[[], str]) -> None:
    """Which solvers were meant? One line, exit status 2."""
    assert bounds.main(["--all", "--solver", "highs"]) == 2
    assert "--solver" in refused()


def test_scaling_changes_one_dimension_at_a_time(asked: list[tuple[LayerProblem, str]]) -> None:
    """Every made-up layer differs from the first in N, M or P alone, and each of them grows."""
    assert bounds.main(["--scaling"]) == 0
    shapes = [(problem.num_neurons, problem.num_inputs, problem.num_workers) for problem, _ in asked]
    changed = [[k for k in range(3) if shape[k] != shapes[0][k]] for shape in shapes[1:]]
    assert all(len(dimensions) == 1 for dimensions in changed)
    assert {dimension for dimensions in changed for dimension in dimensions} == {0, 1, 2}


def test_scaling_takes_no_files(problem_file: str, refused: Callable[[], str]) -> None:
    """Made-up layers or one's own, not both: one line, exit status 2."""
    assert bounds.main(["--scaling", problem_file]) == 2
    assert problem_file in refused()


def test_default_problems(asked: list[tuple[LayerProblem, str]]) -> None:
    """The shipped layers and two of them on half the workers, by the portfolio."""
    assert bounds.main([]) == 0
    workers = {problem.name: problem.num_workers for problem, _ in asked}
    assert {"d24-p3", "d64-first-p4", "d128-mid-p8", "d64-first-p2", "d64-mid-p2-c15"} <= set(workers)
    assert workers["d64-first-p2"] == 2
    assert {solver for _, solver in asked} == {"portfolio"}


def test_half_the_workers_never_cost_more(read_instance: Callable[[str], LayerProblem]) -> None:
    """A placement costs no more where every two workers are one: what one of a pair holds, both have."""
    whole = read_instance("d64-first-p4")
    half = on_half_the_workers(whole)
    assert half.num_workers == 2
    assert half.capacity.tolist() == half.min_load.tolist() == [[32], [32]]
    rng = np.random.default_rng(0)
    for _ in range(20):
        worker = rng.permutation(np.arange(64) % 4)
        joined = evaluate(half, Assignment(worker // 2)).objective
        assert joined < evaluate(whole, Assignment(worker)).objective
