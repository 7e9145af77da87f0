"""The files that the main command writes: where they go, and what they never replace."""

from __future__ import annotations

import json
import os
import stat
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from benchmarks import compare
from benchmarks.output import file_name
from formulations import Assignment, InputError, LayerProblem
from solvers import check

METHODS = (*compare.BASELINES, "brute-force")


def _write(path: Path, name: str) -> str:
    """A tiny problem at `path`, its costs as fractions so that a file written by the command differs from it."""
    LayerProblem([[0.5, 2], [3, 4]], [0, 1], [[0, 1], [1, 0]], name=name).write(path)
    return str(path)


def _run(*arguments: str) -> int:
    return compare.main([*arguments, "--solver", "brute-force"])


def test_files_are_named_after_problem_and_method(tmp_path: Path) -> None:
    """--out gets the problem as NAME.npz, assignments as NAME.METHOD.npz, certificates with `cert`, nothing else."""
    assert _run("--problem", _write(tmp_path / "in.npz", "fc1"), "--out", str(tmp_path / "out")) == 0
    names = {path.name for path in (tmp_path / "out").iterdir()}
    endings = ("npz", "cert.json", "cert.npz")
    assert names == {"fc1.npz", *(f"fc1.{method}.{ending}" for method in METHODS for ending in endings)}


def test_the_checker_accepts_every_certificate(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """What --out holds, by the row that names it: problem and certificate belong together, and nothing is wrong."""
    report = tmp_path / "rows.json"
    problem = _write(tmp_path / "in.npz", "fc1")
    assert _run("--problem", problem, "--out", str(tmp_path / "out"), "--json", str(report)) == 0
    for row in json.loads(report.read_text(encoding="utf-8"))["rows"]:
        assert check.main([row["problem"], row["certificate"]]) == 0
    assert "verified: dual_bound: " in capsys.readouterr().out


def _two_results_in_one_file(folder: Path) -> list[str]:
    problems = [_write(folder / "1.npz", "demo"), _write(folder / "2.npz", "demo.brute-force")]
    return ["--problem", problems[0], "--problem", problems[1], "--out", str(folder / "out")]


def _two_names_for_one_file(folder: Path) -> list[str]:
    problems = [_write(folder / "1.npz", "a/b"), _write(folder / "2.npz", "a_b")]
    return ["--problem", problems[0], "--problem", problems[1], "--out", str(folder / "out")]


def _problem_over_its_own_file(folder: Path) -> list[str]:
    return ["--problem", _write(folder / "demo.npz", "demo"), "--out", str(folder)]


def _problem_over_its_own_file_by_a_link(folder: Path) -> list[str]:
    (folder / "link").symlink_to(folder)
    return ["--problem", _write(folder / "demo.npz", "demo"), "--out", str(folder / "link")]


def _assignment_over_an_input(folder: Path) -> list[str]:
    problems = [_write(folder / "1.npz", "demo"), _write(folder / "demo.l0-munkres.npz", "other")]
    return ["--problem", problems[0], "--problem", problems[1], "--out", str(folder)]


def _json_over_an_input(folder: Path) -> list[str]:
    return ["--problem", _write(folder / "demo.npz", "demo"), "--json", str(folder / "demo.npz")]


def _json_over_a_result(folder: Path) -> list[str]:
    return ["--problem", _write(folder / "1.npz", "demo"), "--out", str(folder), "--json", str(folder / "demo.npz")]


def _json_over_a_cluster(folder: Path) -> list[str]:
    path = str(folder / "cluster.toml")
    Path(path).write_text("[[worker]]\nname = 'a'\nmacs_per_second = 1.0\n")
    return ["--cluster", path, "--json", path]


_COLLISIONS: dict[Callable[[Path], list[str]], str] = {
    _two_results_in_one_file: "would hold problem 'demo.brute-force', but is meant for brute-force on problem 'demo'",
    _two_names_for_one_file: "a_b.npz would hold problem 'a_b', but is meant for problem 'a/b'",
    _problem_over_its_own_file: "demo.npz would hold problem 'demo', but is given as --problem",
    _problem_over_its_own_file_by_a_link: "is given as --problem",
    _assignment_over_an_input: "would hold l0-munkres on problem 'demo', but is given as --problem",
    _json_over_an_input: "is given as --problem",
    _json_over_a_result: "is given as --json",
    _json_over_a_cluster: "is given as --cluster",
}


@pytest.mark.parametrize("case", _COLLISIONS)
def test_files_that_would_be_replaced_are_refused(
    case: Callable[[Path], list[str]], tmp_path: Path, refused: Callable[[], str]
) -> None:
    """Two results for one path, or a result for an input's path, are one line at the start; nothing changes on disk."""
    arguments = case(tmp_path)
    before = {path: path.read_bytes() for path in tmp_path.iterdir() if path.is_file()}
    assert _run(*arguments) == 2
    assert _COLLISIONS[case] in refused()
    assert {path: path.read_bytes() for path in tmp_path.iterdir() if path.is_file()} == before
    assert not (tmp_path / "out").exists()


def test_names_that_share_a_file_are_fine_without_files(tmp_path: Path) -> None:
    """Where nothing is written, names need only differ."""
    assert _run(*_two_names_for_one_file(tmp_path)[:-2]) == 0


def test_layers_that_would_share_a_file_are_refused(
    tmp_path: Path, user_module: Callable[[str, str], None], refused: Callable[[], str]
) -> None:
    """The layers of a model are problems like any other."""
    user_module(
        "alike",
        """
import torch
from collections import OrderedDict
from torch import nn
from benchmarks.models.base import BenchmarkModel

def make():
    model = nn.Sequential(OrderedDict([("a b", nn.Linear(2, 2)), ("relu", nn.ReLU()), ("a_b", nn.Linear(2, 2))]))
    return BenchmarkModel("alike", model, [torch.randn(9, 2)], torch.randn(9, 2), torch.zeros(9).long())
""",
    )
    assert _run("--model", "alike:make", "--workers", "2", "--out", str(tmp_path / "out")) == 2
    assert "a_b.npz would hold problem 'a_b', but is meant for problem 'a b'" in refused()
    assert list((tmp_path / "out").iterdir()) == []


@pytest.mark.parametrize("letter", ["x", "é", "漢"])
def test_long_names_are_shortened(letter: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Names of 300 letters have files, and different ones where only the last differs; the table keeps its figures."""
    names = [letter * 300 + end for end in "ab"]
    problems = [_write(tmp_path / f"{end}.npz", name) for end, name in zip("ab", names, strict=True)]
    file = tmp_path / "rows.json"
    out = ["--out", str(tmp_path / "out"), "--json", str(file)]
    assert _run("--problem", problems[0], "--problem", problems[1], *out) == 0
    assert len(list((tmp_path / "out").iterdir())) == 2 * (1 + 3 * len(METHODS))
    for row in json.loads(file.read_text())["rows"]:
        assert LayerProblem.read(row["problem"]).name == row["instance"]
        assert Path(row["problem"]).name.startswith(letter * 60)
        assert Path(row["assignment"]).exists()
    table = capsys.readouterr().out
    assert letter * 10 in table
    assert table.count("exhaustive") == 2


def test_names_cannot_lead_out_of_the_folder() -> None:
    """A problem's name is data; separators and leading dots are taken out."""
    assert file_name("../../etc/passwd") == "_.._etc_passwd"
    assert file_name("..") == "layer"


def test_a_file_that_cannot_be_written_loses_no_rows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A full disk is a failure for every file that is missing, and all rows are there; exit status 1."""

    def full(self: Assignment, path: Path) -> None:
        raise InputError(f"{path}: cannot be written (No space left on device)")

    monkeypatch.setattr(Assignment, "write", full)
    file = tmp_path / "rows.json"
    problem = _write(tmp_path / "in.npz", "fc1")
    assert _run("--problem", problem, "--out", str(tmp_path / "out"), "--json", str(file)) == 1
    assert capsys.readouterr().err.count("No space left") == len(METHODS)
    rows = json.loads(file.read_text())["rows"]
    assert [row["method"] for row in rows] == list(METHODS)
    assert {row["assignment"] for row in rows} == {None}
    assert all(row["objective"] is not None for row in rows)


def test_json_through_a_fifo(tmp_path: Path) -> None:
    """--json writes to a FIFO (or a device) instead of replacing it."""
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    read: list[str] = []
    reader = threading.Thread(target=lambda: read.append(fifo.read_text()), daemon=True)
    reader.start()
    assert _run("--problem", _write(tmp_path / "in.npz", "fc1"), "--json", str(fifo)) == 0
    reader.join(10)
    assert stat.S_ISFIFO(fifo.stat().st_mode)
    assert json.loads(read[0])["schema"] == "compare/1"


def test_json_through_a_link(tmp_path: Path) -> None:
    """--json to a symbolic link writes what it points to, in a folder of its own."""
    (tmp_path / "there").mkdir()
    link = tmp_path / "rows.json"
    link.symlink_to(tmp_path / "there" / "rows.json")
    assert _run("--problem", _write(tmp_path / "in.npz", "fc1"), "--json", str(link)) == 0
    assert link.is_symlink()
    assert json.loads((tmp_path / "there" / "rows.json").read_text())["schema"] == "compare/1"


def test_json_and_out_of_one_name(tmp_path: Path, refused: Callable[[], str]) -> None:
    """A folder that --out makes is no file for --json: found out before the work."""
    both = str(tmp_path / "results")
    assert _run("--problem", _write(tmp_path / "in.npz", "fc1"), "--out", both, "--json", both) == 2
    assert "is a folder" in refused()


def test_json_to_a_device_without_permission(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, refused: Callable[[], str]
) -> None:
    """It is found out before the work."""
    os.mkfifo(tmp_path / "fifo")
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    assert _run("--problem", _write(tmp_path / "in.npz", "fc1"), "--json", str(tmp_path / "fifo")) == 2
    assert "fifo: may not be written to" in refused()
