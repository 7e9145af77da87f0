"""Every number of docs/certificates.md, computed anew: tables by the specification, programs by running them."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from dataclasses import replace
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from formulations import Assignment, LayerProblem, evaluate
from formulations.strengthened import STRENGTHENED
from solvers import certify, solve
from solvers.check import check
from solvers.highs import Highs

ROOT = Path(__file__).resolve().parents[1]
TEXT = (ROOT / "docs" / "certificates.md").read_text(encoding="utf-8").replace("−", "-")
PYTHON = r"```python\n(.*?)```"
SETS = list(combinations(range(4), 2))


def tables(head: str) -> list[list[list[str]]]:
    """The cells of all tables whose head begins like this, row by row, the head left out."""
    parts = TEXT.split(f"\n| {head} |")[1:]
    return [
        [[cell.strip() for cell in row.strip("|").split("|")] for row in part.partition("\n\n")[0].splitlines()[2:]]
        for part in parts
    ]


@pytest.fixture
def problem() -> LayerProblem:
    """The layer of the page, its weights from the table."""
    (rows,) = tables("loss of a weight")
    weights = [[int(cell) for cell in row[1:]] for row in rows]
    return LayerProblem(weights, [0, 0, 0], [[0, 4], [0, 4], [0, 4]], name="four")


def cost(problem: LayerProblem, inputs: tuple[int, ...], held: tuple[int, ...]) -> int:
    """What worker 1 pays for these inputs if it holds these neurons."""
    lost = problem.gain[list(held)].sum(axis=0)
    return int(np.minimum(problem.send_cost[:, 1], lost)[list(inputs)].sum())


def test_what_each_set_costs(problem: LayerProblem) -> None:
    """The six placements cost what the table says, input by input and together; 8 is the least."""
    (rows,) = tables("worker 1 holds")
    for row, held in zip(rows, SETS, strict=True):
        assert row[0] == f"{held[0]}, {held[1]}"
        evaluation = evaluate(problem, Assignment([int(i in held) for i in range(4)]))
        assert row[1:4] == [str(cost(problem, (j,), held)) for j in range(3)]
        assert int(row[4]) == evaluation.objective
    assert min(int(row[4]) for row in rows) == 8


def test_the_prices_prove_what_the_page_says(problem: LayerProblem) -> None:
    """Sums of prices are 0; every "cost - prices = rest" is right, and so is the least of each block."""
    for prices, paid, total in zip(tables("price of"), tables("set"), (6, 8), strict=True):
        *rows, sums = prices
        mu = np.array([row[1:] for row in rows], dtype=int)
        assert [int(cell) for cell in sums[1:]] == mu.sum(axis=0).tolist() == [0] * 4
        blocks = [tuple(map(int, re.findall(r"\d", row[0]))) for row in rows]
        *sets, least = paid
        for row, held in zip(sets, SETS, strict=True):
            for cell, block, price in zip(row[1:], blocks, mu, strict=True):
                left, sign, right, rest = re.fullmatch(r"(\d+) ([+-]) (\d+) = (\d+)", cell).groups()  # type: ignore[union-attr]
                assert int(left) == cost(problem, block, held)
                assert int(sign + right) == -price[list(held)].sum()
                assert int(left) + int(sign + right) == int(rest)
        found = [
            min(cost(problem, b, held) - m[list(held)].sum() for held in SETS) for b, m in zip(blocks, mu, strict=True)
        ]
        assert [int(cell) for cell in least[1:]] == found
        assert sum(found) == total


def test_no_prices_make_blocks_of_one_better(problem: LayerProblem) -> None:
    """The mixtures of the page hold every neuron half of the time and pay 2 each; the LP proves 6 as well."""
    for block, mixture in enumerate([((0, 1), (2, 3)), ((0, 2), (1, 3)), ((0, 3), (1, 2))]):
        assert sorted(mixture[0] + mixture[1]) == [0, 1, 2, 3]
        assert sum(cost(problem, (block,), held) for held in mixture) / 2 == 2
    data = STRENGTHENED.compile(problem)
    assert Highs().lp_bound(data) + data.offset == pytest.approx(6)


def test_a_wrong_price_is_found_out(problem: LayerProblem, capsys: pytest.CaptureFixture[str]) -> None:
    """In a certificate with the prices of the page 8 is verified; with the altered one it is wrong, as quoted."""
    page: dict[str, Any] = {}
    exec(re.findall(PYTHON, TEXT, flags=re.DOTALL)[0], page)
    assert page["problem"].digest == problem.digest
    certificate = certify(problem, solve(problem))
    assert certificate.claims.bound_proved_by == "lagrangian"
    said = []
    for name in ("good", "poor"):
        arrays = {"worker": certificate.arrays["worker"], **page[name]}
        found = check(problem, replace(certificate, arrays=arrays))
        said.append(next(finding for finding in found if finding.claim == "dual_bound"))
    assert [finding.verdict for finding in said] == ["verified", "wrong"]
    assert f"`{said[1].text}`" in TEXT


def test_the_programs_print_what_the_page_says(tmp_path: Path) -> None:
    """The Python and the command of the page, as they stand, in an empty folder."""
    prices, made = re.findall(PYTHON, TEXT, flags=re.DOTALL)
    bounds, verdicts = re.findall(r"```text\n(.*?)```", TEXT, flags=re.DOTALL)
    (command,) = re.findall(r"```sh\npython (.*?)\n```", TEXT, flags=re.DOTALL)
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}

    def output(*arguments: str) -> str:
        run = [sys.executable, *arguments]
        done = subprocess.run(run, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        return done.stdout

    assert output("-c", prices) == bounds
    assert output("-c", made) == ""
    assert output(*command.split()) == verdicts
