"""What a solver claims of a layer problem, with all that is needed to check it: JSON beside an `.npz`.

docs/certificates.md says what is in it and how it is checked.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from numpy.typing import NDArray

from formulations.errors import InputError
from formulations.files import read_arrays, write_arrays, write_file

SCHEMA, ARRAYS_SCHEMA = "certificate/1", "certificate-arrays/1"
#: Arrays of the assignment, and of the proofs of lower bounds by kind (solvers/proofs.py).
ARRAYS: Mapping[str, tuple[str, ...]] = {
    "assignment of the neurons": ("worker", "sent", "partial"),
    "lagrangian, tree": (
        "leaf_worker",
        "leaf_factor",
        "leaf_ends",
        "block_worker",
        "block_ends",
        "block_inputs",
        "mu",
        "least",
        "slopes",
    ),
    "assignment": ("factor", "beta"),
}
TERMINATIONS = ("OPTIMAL", "FEASIBLE", "INFEASIBLE", "NO_SOLUTION_FOUND")
PROVED_BY = ("lagrangian", "tree", "assignment", "exhaustive", "solver")


@dataclass(frozen=True)
class Claims:
    """What is claimed; None where nothing is known.

    Attributes:
        termination: one of `TERMINATIONS`.
        objective, bytes_sent, kept_weights: of the assignment.
        dual_bound: no feasible assignment costs less; proved by one of `PROVED_BY`.
        gap: (objective − dual_bound) / max(1, |objective|).
    """

    termination: str
    objective: int | None = None
    bytes_sent: int | None = None
    kept_weights: int | None = None
    dual_bound: int | None = None
    bound_proved_by: str | None = None
    gap: float | None = None

    def __post_init__(self) -> None:
        for key in ("objective", "bytes_sent", "kept_weights", "dual_bound"):
            value = getattr(self, key)
            if value is not None and (not isinstance(value, int) or isinstance(value, bool) or abs(value) >= 2**63):
                raise InputError(f"claim {key} is {_shown(value)}; it must be a whole number within int64, or null")
        gap = self.gap
        if gap is not None and (isinstance(gap, bool) or not isinstance(gap, (int, float)) or not abs(gap) < 2**63):
            raise InputError(f"claim gap is {_shown(gap)}; it must be a finite number or null")
        for key, known in (("termination", TERMINATIONS), ("bound_proved_by", (None, *PROVED_BY))):
            if getattr(self, key) not in known:
                raise InputError(
                    f"claim {key} is {getattr(self, key)!r}; it must be one of {', '.join(map(str, known))}"
                )
        if (self.dual_bound is None) != (self.bound_proved_by is None):
            raise InputError("claims dual_bound and bound_proved_by come together or not at all")


def _shown(value: object) -> str:
    """A value from a file, of reasonable length."""
    return "a number of many digits" if isinstance(value, int) and abs(value) >= 2**63 else repr(value)[:80]


@dataclass(frozen=True, eq=False)
class Certificate:
    """Claims, what they are about, and what proves them.

    Attributes:
        problem_name, problem_digest, scale: of the problem.
        claims: see `Claims`.
        constraints: names of the custom constraints that the assignment keeps.
        arrays: assignment and proof, see `ARRAYS`.
        made: by what and where; for people.
    """

    problem_name: str
    problem_digest: str
    scale: float
    claims: Claims
    constraints: tuple[str, ...]
    arrays: Mapping[str, NDArray[Any]]
    made: Mapping[str, Any]

    def write(self, path: str | Path) -> None:
        """Write `path`, which ends in `.cert.json`, and beside it a `.cert.npz` with the arrays.

        Raises:
            InputError: another ending, or the folder cannot be written.
        """
        path = Path(path)
        if not path.name.endswith(".cert.json"):
            # Anything shorter could replace the problem that the certificate is about.
            raise InputError(
                f"{path}: a certificate's name ends in .cert.json; its arrays go into a .cert.npz beside it"
            )
        arrays = path.with_name(arrays_of(path.name))
        write_arrays(arrays, ARRAYS_SCHEMA, self.arrays)
        content = {
            "schema": SCHEMA,
            "problem": {"name": self.problem_name, "digest": self.problem_digest, "scale": self.scale},
            "claims": dict(vars(self.claims)),
            "constraints": list(self.constraints),
            "arrays": {"file": arrays.name, "sha256": _sha256(arrays)},
            "made": dict(self.made),
        }
        text = json.dumps(content, indent=1, allow_nan=False) + "\n"

        def save(file: IO[bytes]) -> None:
            file.write(text.encode())

        write_file(path, save)

    @classmethod
    def read(cls, path: str | Path) -> Certificate:
        """Read a certificate and its arrays.

        Raises:
            InputError: no certificate, or damaged.
            DamagedArraysError: the claims can be read, what proves them cannot.
        """
        path = Path(path)
        content = _read_json(path)
        try:
            problem, listed = content["problem"], content["arrays"]
            claims = Claims(**content["claims"])
            found = (str(problem["name"]), str(problem["digest"]), float(problem["scale"]))
            names = tuple(str(name) for name in content["constraints"])
            file, sha256, made = str(listed["file"]), str(listed["sha256"]), dict(content["made"])
        except InputError as error:
            raise InputError(f"{path}: {error}") from None
        except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
            raise InputError(
                f"{path}: not a whole {SCHEMA} file ({type(error).__name__}: {error}); make the certificate again"
            ) from None
        if Path(file).name != file or not file:
            raise InputError(
                f"{path}: its arrays are said to be in {file!r}; they lie beside it, so give a bare file name"
            )
        return cls(*found, claims, names, _read_beside(path.with_name(file), sha256, claims), made)


def arrays_of(name: str) -> str:
    """The name of the file with the arrays of a certificate of this name."""
    return name.removesuffix(".json") + ".npz"


class DamagedArraysError(InputError):
    """The arrays of a certificate cannot be read, or are not those it was made with."""


def _read_json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_bytes())
    except FileNotFoundError:
        raise InputError(f"{path}: no such file; check the path") from None
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror or error}); check the file") from None
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path}: not JSON ({error}); is this a certificate, and whole?") from None
    if not isinstance(content, dict) or content.get("schema") != SCHEMA:
        said = content.get("schema") if isinstance(content, dict) else None
        raise InputError(f"{path}: says schema {said!r}, needs {SCHEMA!r}; is this a certificate?")
    return content


def _read_beside(path: Path, sha256: str, claims: Claims) -> dict[str, NDArray[Any]]:
    about = "objective" if claims.bound_proved_by is None else "objective and dual_bound"
    try:
        # Before anything is unpacked: another file may unpack to any size.
        if path.exists() and _sha256(path) != sha256:
            raise InputError(f"{path}: not the file that the certificate was written with (SHA-256 differs)")
        return read_arrays(path, ARRAYS_SCHEMA, [name for names in ARRAYS.values() for name in names])
    except (InputError, OSError) as error:
        raise DamagedArraysError(f"{about} cannot be checked: {error}") from None


def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()
