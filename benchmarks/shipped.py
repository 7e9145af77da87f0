"""The layer problems that come with the project, and the best objectives on record for them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from formulations.problem import LayerProblem

INSTANCES = Path(__file__).parent / "instances"


def read_problems(files: Sequence[str], otherwise: Sequence[str]) -> list[LayerProblem]:
    """The problems in the files; the shipped ones of these names where there are none.

    All at once: a file that cannot be read is found out before the work.

    Raises:
        InputError: a file cannot be read.
    """
    paths: Sequence[str | Path] = files or [_file(name) for name in otherwise]
    return [LayerProblem.read(path) for path in paths]


def best_known(problem: LayerProblem) -> int | None:
    """The best objective on record; None for a problem that is none of the shipped ones, whatever its name."""
    record = json.loads((INSTANCES / "reference.json").read_text(encoding="utf-8"))
    known = problem.name in record and _file(problem.name).exists()
    if not known or LayerProblem.read(_file(problem.name)).digest != problem.digest:
        return None
    return int(record[problem.name]["best_known"])


def _file(name: str) -> Path:
    return INSTANCES / f"{name}.npz"
