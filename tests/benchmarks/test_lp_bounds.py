"""The side-by-side table of LP bounds."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from benchmarks import lp_bounds
from formulations import LayerProblem


def test_bounds_are_ordered_and_valid_on_a_shipped_instance(read_instance: Callable[[str], LayerProblem]) -> None:
    """textbook < strengthened ≤ best known on d24-p3, as the documentation says (58.8 % and 26.3 %)."""
    problem = read_instance("d24-p3")
    best, source = lp_bounds.yardstick(problem)
    bounds = {name: bound for name, (bound, _) in lp_bounds.lp_bounds(problem).items()}
    assert source == "record"
    assert 1 - bounds["textbook"] / best == pytest.approx(0.588, abs=0.001)
    assert 1 - bounds["strengthened"] / best == pytest.approx(0.263, abs=0.001)


def test_a_record_only_counts_for_the_very_problem() -> None:
    """Another problem under a shipped name is measured against what the alternation finds."""
    problem = LayerProblem([[1, 2], [3, 4]], [0, 1], [[0, 1], [1, 0]], name="d24-p3")
    assert lp_bounds.yardstick(problem)[1] == "alternation"


def test_bad_file_is_one_line(tmp_path: Path, refused: Callable[[], str]) -> None:
    """A file that does not exist is exit status 2."""
    assert lp_bounds.main([str(tmp_path / "none.npz")]) == 2
    assert "none.npz: no such file" in refused()


@pytest.fixture
def three_files(tmp_path: Path) -> list[str]:
    """Three small problems on disk, whose names are full of markup."""
    paths = [tmp_path / f"{number}.npz" for number in range(3)]
    for number, path in enumerate(paths):
        LayerProblem([[1, 2], [3, 4]], [0, 1], [[0, 1], [1, 0]], name=f"[/x]{number}").write(path)
    return [str(path) for path in paths]


def test_interrupt_prints_what_was_computed(
    three_files: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Ctrl-C in the second problem is one line; the first is in the table, by its very name; exit status 0."""
    computed: list[str] = []

    def compute(problem: LayerProblem) -> dict[str, tuple[float, float]]:
        if computed:
            raise KeyboardInterrupt
        computed.append(problem.name)
        return {"textbook": (1.0, 0.1), "strengthened": (2.0, 0.1)}

    monkeypatch.setattr(lp_bounds, "lp_bounds", compute)
    assert lp_bounds.main(three_files) == 0
    out, err = capsys.readouterr()
    assert err == "interrupted; what was found so far is above\n"
    assert "[/x]0" in out
    assert "[/x]1" not in out


def test_all_files_are_read_before_anything_is_computed(
    three_files: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, refused: Callable[[], str]
) -> None:
    """A missing last file is found out at the start, not after minutes."""
    monkeypatch.setattr(lp_bounds, "lp_bounds", lambda problem: pytest.fail("computed"))
    assert lp_bounds.main([*three_files, str(tmp_path / "none.npz")]) == 2
    assert "none.npz: no such file" in refused()


def test_a_problem_without_a_bound_does_not_lose_the_others(
    three_files: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """An infeasible problem is bad input for a table of gaps, said in one line beside the rows before it."""
    LayerProblem([[1], [2]], [0], [[0, 1]], capacity=[[1], [0]], name="full").write(tmp_path / "full.npz")
    assert lp_bounds.main([three_files[0], str(tmp_path / "full.npz")]) == 2
    out, err = capsys.readouterr()
    assert "[/x]0" in out
    assert "'full' has no feasible placement" in err
    assert err.count("\n") == 1
