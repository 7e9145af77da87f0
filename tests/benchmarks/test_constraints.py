"""`--constraint`: rows that honour or refuse, mistakes in one line, and the example of docs/constraints.md."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from benchmarks import compare
from formulations import Assignment, LayerProblem

ROOT = Path(__file__).resolve().parents[2]

_MODULE = """
from formulations import Forbid, Pin

class Odd:
    name = "odd"
    def add_to(self, block, v, problem): pass
    def violation(self, problem, assignment): return self.amount

def pinned(problem): return Pin(0, 1)
def several(problem): return [Pin(0, 1), Forbid(1, 1)]
def by_name(problem): return Pin(0, 1) if problem.name == "first" else None
def nothing(problem): return None
def raises(problem): return problem.no_such_field  # line 13
def number(problem): return 7
def mixed(problem): return [Pin(0, 1), "x"]
def takes_two(problem, more): return None
def nameless(problem):
    odd = Odd(); odd.name = None
    return odd
def out_of_range(problem): return Pin(99, 0)

def odd(amount):
    made = Odd(); made.amount = amount
    return lambda problem: made

negative, text, missing = odd(-1), odd("x"), lambda problem: Odd()  # line 26

class Moody(Odd):
    def violation(self, problem, assignment):
        return 0.0 if problem.name == "first" or assignment.worker[0] == 0 else 1 / 0  # line 30

def moody(problem): return Moody()

class Rowless(Odd):
    amount = 0
    def add_to(self, block, v, problem): v.nothing
def rowless(problem): return Rowless() if problem.name == "second" else None
def unnamed(problem):
    odd = Odd(); odd.name = ""
    return odd
def kind(problem): return Odd

def on_guess(problem): return Pin(99, 0) if problem.name == "2" else None
def settled(problem):  # fails where the first layer is not placed in order
    if problem.name == "2" and sorted(problem.input_worker) != list(problem.input_worker):
        raise RuntimeError("out of order")
def settled_number(problem):
    return 7 if problem.name == "2" and sorted(problem.input_worker) != list(problem.input_worker) else None
"""


@pytest.fixture
def mine(tmp_path: Path, user_module: Callable[[str, str], None]) -> Path:
    """A folder with a module of constraints and two problem files that differ in their names only."""
    user_module("rules", _MODULE)
    for name in ("first", "second"):
        prune = np.array([[9, 0, 0], [9, 1, 2], [0, 8, 7]])
        LayerProblem(prune, [0, 1, 1], [[0, 5], [5, 0], [5, 0]], name=name).write(tmp_path / f"{name}.npz")
    return tmp_path


def run(folder: Path, *arguments: str, problems: tuple[str, ...] = ("first",)) -> tuple[int, list[dict[str, object]]]:
    """The exit status and the rows."""
    given = [part for name in problems for part in ("--problem", str(folder / f"{name}.npz"))]
    file = folder / "rows.json"
    status = compare.main(
        [*given, "--solver", "brute-force", "--json", str(file), "--out", str(folder / "out"), *arguments]
    )
    return status, json.loads(file.read_text())["rows"] if file.exists() else []


@pytest.mark.parametrize(
    ("specs", "names"),
    [
        (["rules:pinned"], ["pin neuron 0 to worker 1"]),
        (["rules:several"], ["pin neuron 0 to worker 1", "forbid neuron 1 on worker 1"]),
        (["rules:pinned", "rules:nothing"], ["pin neuron 0 to worker 1"]),
        (["rules:nothing"], []),
    ],
)
def test_rows_honour_or_refuse(specs: list[str], names: list[str], mine: Path) -> None:
    """Rows name the constraints; brute force satisfies them, and the baselines say that they cannot."""
    status, rows = run(mine, *[part for spec in specs for part in ("--constraint", spec)])
    assert status == 0
    for row in rows:
        assert row["constraints"] == names
        if row["method"] == "brute-force":
            assert row["termination"] == "OPTIMAL"
            assert not names or Assignment.read(str(row["assignment"])).worker[0] == 1
        elif names and row["termination"] == "UNSUPPORTED":
            assert names[0] in row["messages"][0]  # type: ignore[index]
    if names:
        assert {row["method"]: row["termination"] for row in rows}["contiguous"] == "UNSUPPORTED"


def test_a_factory_may_go_by_the_problems_name(mine: Path) -> None:
    """Two problems of one digest: one with the constraint and dearer, one without; no row contradicts another."""
    status, rows = run(mine, "--constraint", "rules:by_name", problems=("first", "second"))
    best = {row["instance"]: row["objective"] for row in rows if row["method"] == "brute-force"}
    assert status == 0
    assert best["first"] > best["second"]  # type: ignore[operator]
    assert {(row["instance"], len(row["constraints"])) for row in rows} == {("first", 1), ("second", 0)}  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("specs", "said"),
    [
        (["rules"], "constraint 'rules' is unknown; give package.module:factory"),
        (["nowhere_at_all:make"], "ModuleNotFoundError: No module named 'nowhere_at_all'; check the name"),
        (["rules:absent"], "module 'rules' has no function 'absent'"),
        (["rules:Odd.name"], "has no function"),
        (["rules:raises"], "'LayerProblem' object has no attribute 'no_such_field'; at {folder}/rules.py:13"),
        (["rules:number"], "an object of type int; give a constraint (name, add_to, violation), a list, or None"),
        (["rules:mixed"], "returns an object of type str; give a constraint"),
        (["rules:nameless"], "returns a constraint called None; give it a name"),
        (["rules:takes_two"], "the factory takes the layer problem"),
        (
            ["rules:pinned", "rules:several"],
            "two constraints 'pin neuron 0 to worker 1', made by 'rules:pinned' and 'rules:several'; each needs a name",
        ),
        (["rules:out_of_range"], "neuron is 99; the layer has 0..2"),
        (["rules:negative"], "constraint 'odd' says its violation is -1.0; it must be >= 0"),
        (["rules:text"], "constraint 'odd' made by 'rules:text': its violation is 'x'; give a number"),
        (["rules:unnamed"], "returns a constraint called ''; give it a name"),
        (["rules:kind"], "returns the class Odd; give an object of it"),
        (["rules:missing"], "'Odd' object has no attribute 'amount'; at {folder}/rules.py:7"),
    ],
)  # fmt: skip
def test_mistakes_are_one_line(specs: list[str], said: str, mine: Path, refused: Callable[[], str]) -> None:
    """Whatever a factory or a constraint does wrong: exit status 2, and one line that says what and where."""
    assert run(mine, *[part for spec in specs for part in ("--constraint", spec)]) == (2, [])
    assert said.format(folder=mine) in refused()


def test_what_comes_up_late_keeps_what_was_found(mine: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A constraint that fails on some assignments of the second problem: the rows before it are printed and saved,
    one line says which constraint, of which factory, failed on which problem; exit status 2.
    """
    status, rows = run(mine, "--constraint", "rules:moody", problems=("first", "second"))
    out, err = capsys.readouterr()
    assert status == 2
    assert [(row["instance"], row["method"]) for row in rows] == [
        *(("first", method) for method in (*compare.BASELINES, "brute-force")),
        *(("second", method) for method in compare.BASELINES),
    ]
    said = (
        "problem 'second': constraint 'odd' made by 'rules:moody': violation: ZeroDivisionError: division by zero; "
        f"at {mine}/rules.py:30"
    )
    assert err == f"error: {said}\n"
    assert json.loads((mine / "rows.json").read_text())["bad_input"] == said
    assert "brute-force" in out


def test_rows_of_a_mip_are_tried_before_the_work(mine: Path, refused: Callable[[], str]) -> None:
    """`add_to` that fails on the second problem is found out before the first is solved, if a MIP takes part at all."""
    problems = ("first", "second")
    assert run(mine, "--constraint", "rules:rowless", "--solver", "highs", problems=problems) == (2, [])
    assert refused().startswith("problem 'second': constraint 'odd' made by 'rules:rowless': add_to: ")
    assert run(mine, "--constraint", "rules:rowless", problems=problems)[0] == 0


def test_a_later_layer_is_tried_before_the_work(tiny_model: list[str], mine: Path, refused: Callable[[], str]) -> None:
    """A constraint that does not fit the last layer of a model ends the run before the first is solved."""
    assert run(mine, *tiny_model, "--constraint", "rules:on_guess", problems=()) == (2, [])
    line = refused()
    assert line.startswith("problem '2': constraint 'pin neuron 99 to worker 0' made by 'rules:on_guess': ")
    assert line.endswith("neuron is 99; the layer has 0..2")


@pytest.mark.parametrize(
    ("factory", "said"),
    [
        ("settled", "RuntimeError: out of order; at {folder}/rules.py:46"),
        ("settled_number", "returns an object of type int"),
    ],
)
def test_a_factory_that_fails_on_a_later_layer_keeps_the_rows(
    factory: str, said: str, tiny_model: list[str], mine: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Where it depends on how the layer before was placed, nobody can know: that layer's rows stay; exit status 2."""
    status, rows = run(mine, *tiny_model, "--constraint", f"rules:{factory}", "--solver", "local-search", problems=())
    out, err = capsys.readouterr()
    assert status == 2
    assert {row["instance"] for row in rows} == {"0"}
    assert all(Path(str(row["assignment"])).exists() for row in rows if row["objective"] is not None)
    assert err.count("\n") == 1
    assert err.startswith(f"error: problem '2': constraint 'rules:{factory}': {said.format(folder=mine)}")
    assert "local-search" in out


def test_the_documented_example_works(tmp_path: Path) -> None:
    """The file, the Python and the command of docs/constraints.md, in an empty folder."""
    text = (ROOT / "docs" / "constraints.md").read_text()
    quiet, *uses = re.findall(r"```python\n(.*?)```", text, flags=re.DOTALL)
    (tmp_path / "quiet.py").write_text(quiet)
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(tmp_path), str(ROOT)])}

    def output(*command: str) -> str:
        done = subprocess.run(
            [sys.executable, *command], cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    assert re.fullmatch(r"\d{3,} assignments agree\n", output("-c", uses[0]))
    assert output("-c", uses[1]).startswith("camera: brute-force: OPTIMAL")
    (command,) = re.findall(r"```sh\npython (.*?)\n```", text, flags=re.DOTALL)
    output(*command.split())
    rows = json.loads((tmp_path / "rows.json").read_text())["rows"]
    assert all(row["constraints"] == ["quiet-worker", "pin neuron 0 to worker 0"] for row in rows)
    assert {row["method"]: row["termination"] for row in rows}["brute-force"] == "OPTIMAL"
