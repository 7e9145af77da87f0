"""What importing the package costs, and that its names are what they are said to be."""

import subprocess
import sys
import textwrap

import pytest

HEAVY = ("pyomo", "torch", "highspy", "ortools", "scipy", "networkx", "hypothesis")


def in_a_fresh_process(code):
    """What Python prints when it runs `code` by itself."""
    found = subprocess.run([sys.executable, "-c", textwrap.dedent(code)], capture_output=True, text=True, check=False)
    assert found.returncode == 0, found.stderr
    return found.stdout.strip()


def loaded_after(code):
    """Which of the heavy packages, and numpy, are in sys.modules after `code`."""
    report = f"import sys\nprint(*(name for name in {('numpy', *HEAVY)!r} if name in sys.modules))"
    return in_a_fresh_process(f"{code}\n{report}").split()


def test_importing_the_package_loads_nothing():
    """`import formulations` alone does not even load numpy."""
    assert loaded_after("import formulations") == []


def test_the_public_names_need_numpy_only():
    """Problems, evaluation and clusters can be had without Pyomo, SciPy, torch or a solver."""
    names = "Assignment, Cluster, Constraint, Evaluation, InputError, LayerProblem, Violation, evaluate"
    assert loaded_after(f"import formulations\nfrom formulations import {names}") == ["numpy"]


def test_evaluating_and_files_need_numpy_only(tmp_path):
    """Reading, writing and evaluating a problem loads nothing heavy either."""
    code = f"""
from formulations import Assignment, Cluster, LayerProblem, evaluate
LayerProblem([[1.5]], [0], [[0, 1]]).write({str(tmp_path / "p.npz")!r})
evaluate(LayerProblem.read({str(tmp_path / "p.npz")!r}), Assignment([1]))
Cluster.equal(2).to_table()
"""
    assert loaded_after(code) == ["numpy"]


@pytest.mark.parametrize("module", ["evaluation", "problem", "assignment", "cluster"])
def test_names_and_submodules_do_not_hide_each_other(module):
    """`formulations.evaluate` is the function, in whatever order submodules are imported."""
    code = f"""
    import formulations.{module}
    import formulations
    print(callable(formulations.evaluate), formulations.evaluate.__name__, formulations.LayerProblem.__name__)
    """
    assert in_a_fresh_process(code) == "True evaluate LayerProblem"


def test_every_public_name_exists():
    """All names that the package lists can be imported, and no others."""
    import formulations

    for name in formulations.__all__:
        assert getattr(formulations, name).__name__ == name
    with pytest.raises(AttributeError, match="nonsense"):
        _ = formulations.nonsense
