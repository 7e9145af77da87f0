"""Where each neuron of a layer sits, and which messages are sent for it.

Shapes: N neurons, M inputs, P workers.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from formulations import validation
from formulations.errors import InputError
from formulations.files import read_arrays, write_arrays
from formulations.problem import LayerProblem

SCHEMA = "assignment/1"


@dataclass(frozen=True, init=False, eq=False, repr=False)
class Assignment:
    """One worker per neuron, and optionally the messages.

    Attributes:
        worker: N; the worker of each neuron.
        sent: M×P; input j is sent to worker p, or None: derived from the placement.
        partial: N×P; worker q sends its partial sum of neuron i, or None: derived.
        problem_digest: the problem this was made for, or None.
    """

    worker: NDArray[np.int64]
    sent: NDArray[np.bool_] | None
    partial: NDArray[np.bool_] | None
    problem_digest: str | None

    def __init__(
        self,
        worker: ArrayLike,
        *,
        sent: ArrayLike | None = None,
        partial: ArrayLike | None = None,
        problem_digest: str | None = None,
    ) -> None:
        """Raises InputError for wrong kinds or dimensions; `check_against` compares with a problem."""
        array = validation.integer_array("worker", worker)
        if array.ndim != 1:
            raise InputError(f"worker has shape {array.shape}; needs one worker per neuron")
        object.__setattr__(self, "worker", array)
        object.__setattr__(self, "sent", _messages("sent", sent))
        object.__setattr__(self, "partial", _messages("partial", partial))
        object.__setattr__(self, "problem_digest", problem_digest)
        for value in (self.worker, self.sent, self.partial):
            if value is not None:
                value.flags.writeable = False

    def __repr__(self) -> str:
        given = [key for key in ("sent", "partial") if getattr(self, key) is not None]
        return f"Assignment({self.worker.size} neurons{''.join(f', {key}' for key in given)})"

    def check_against(self, problem: LayerProblem) -> None:
        """Raises InputError where this cannot be an assignment of `problem`."""
        num_neurons, num_workers = problem.num_neurons, problem.num_workers
        validation.check_shape("worker", self.worker, (num_neurons,), f"problem {problem.name!r}")
        bad = (self.worker < 0) | (self.worker >= num_workers)
        if bad.any():
            i = int(np.flatnonzero(bad)[0])
            raise InputError(
                f"worker[{i}] is {self.worker[i]}; problem {problem.name!r} has workers 0..{num_workers - 1}"
            )
        if self.problem_digest is not None and self.problem_digest != problem.digest:
            raise InputError(
                f"the assignment was made for problem {self.problem_digest[:12]}, "
                f"problem {problem.name!r} is {problem.digest[:12]}; give the problem it belongs to"
            )
        used, unused = ("partial", "sent") if problem.communication == "partials" else ("sent", "partial")
        if getattr(self, unused) is not None:
            raise InputError(f"the assignment holds {unused!r}; communication {problem.communication!r} has {used!r}")
        if self.sent is not None:
            validation.check_shape("sent", self.sent, (problem.num_inputs, num_workers), f"problem {problem.name!r}")
            if (self.sent & ~problem.remote).any():
                j, p = (int(k) for k in np.argwhere(self.sent & ~problem.remote)[0])
                raise InputError(f"sent[{j},{p}] is true; input {j} lives on worker {p} and needs no sending")
        if self.partial is not None:
            validation.check_shape("partial", self.partial, (num_neurons, num_workers), f"problem {problem.name!r}")
            own = self.partial[np.arange(num_neurons), self.worker]
            if own.any():
                i = int(np.flatnonzero(own)[0])
                raise InputError(f"partial[{i},{self.worker[i]}] is true; neuron {i} sits on that worker itself")

    @classmethod
    def read(cls, path: str | Path) -> Assignment:
        """Read an `assignment/1` file.

        Raises:
            InputError: the file cannot be read or holds no assignment.
        """
        arrays: dict[str, Any] = read_arrays(path, SCHEMA, ("worker", "sent", "partial", "problem_digest"))
        if "worker" not in arrays:
            raise InputError(f"{path}: array 'worker' is missing")
        digest = arrays.pop("problem_digest", None)
        try:
            return cls(**arrays, problem_digest=None if digest is None else str(digest))
        except InputError as error:
            raise InputError(f"{path}: {error}") from None

    def write(self, path: str | Path) -> None:
        """Write what is given; absent messages stay absent.

        Raises:
            InputError: the folder cannot be written.
        """
        arrays = {key: getattr(self, key) for key in ("worker", "sent", "partial", "problem_digest")}
        write_arrays(path, SCHEMA, {key: np.asarray(value) for key, value in arrays.items() if value is not None})


def _messages(name: str, value: ArrayLike | None) -> NDArray[np.bool_] | None:
    if value is None:
        return None
    array = np.array(value)
    if array.dtype != np.bool_ or array.ndim != 2:
        raise InputError(f"{name} has dtype {array.dtype} and shape {array.shape}; needs a 2-d bool array")
    return array
