"""The side-by-side table of LP bounds."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks import lp_bounds
from formulations import LayerProblem


def test_bounds_are_ordered_and_valid_on_a_shipped_instance() -> None:
    """textbook < strengthened ≤ best known on d24-p3, as the documentation says (58.8 % and 26.3 %)."""
    problem = LayerProblem.read(lp_bounds.INSTANCES / "d24-p3.npz")
    best, source = lp_bounds.best_known(problem)
    bounds = {name: bound for name, (bound, _) in lp_bounds.lp_bounds(problem).items()}
    assert source == "record"
    assert 1 - bounds["textbook"] / best == pytest.approx(0.588, abs=0.001)
    assert 1 - bounds["strengthened"] / best == pytest.approx(0.263, abs=0.001)


def test_a_record_only_counts_for_the_very_problem(tmp_path: Path) -> None:
    """Another problem under a shipped name is measured against what the alternation finds."""
    problem = LayerProblem([[1, 2], [3, 4]], [0, 1], [[0, 1], [1, 0]], name="d24-p3")
    assert lp_bounds.best_known(problem)[1] == "alternation"


def test_bad_file_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A file that does not exist is exit status 2."""
    assert lp_bounds.main([str(tmp_path / "none.npz")]) == 2
    assert capsys.readouterr().err.count("\n") == 1
