"""How a sweep of the local search grows with the layer: as many steps as neurons, on dense N×N layers.

    python -m benchmarks.scaling [--largest 4096] [--json FILE]

A step looks at the inputs of one or two neurons, so a sweep is O(N·M), and so is the memory.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass

import numpy as np

from adapters.command import Parser, exit_status
from adapters.output import STANDARD_OUTPUT, check_file, write_json
from benchmarks.command import measured
from benchmarks.output import console
from benchmarks.synthetic import dense_layer
from formulations.errors import InputError
from solvers.threads import exit_now

SCHEMA = "scaling/1"
_SMALLEST = 64


@dataclass(frozen=True)
class Sweep:
    """One size.

    Attributes:
        seconds: of a sweep, the least of several.
        state_bytes: of what the search keeps besides the problem.
    """

    num_neurons: int
    seconds: float
    state_bytes: int

    @property
    def nanoseconds_per_weight(self) -> float:
        return self.seconds * 1e9 / self.num_neurons**2

    @property
    def bytes_per_weight(self) -> float:
        return self.state_bytes / self.num_neurons**2


def measure(num_neurons: int) -> Sweep:
    """Sweeps at a temperature where a few per cent of the steps are taken."""
    from solvers.annealing import Annealer

    problem = dense_layer(num_neurons, num_neurons)
    annealer = Annealer(problem, seed=0)
    annealer.start(np.arange(num_neurons) % problem.num_workers)
    temperature = 0.02 * float(problem.send_cost.max())
    annealer.run(num_neurons, temperature, 1.0)  # compiles, and leaves the random start
    seconds = []
    for _ in range(3):
        start = time.perf_counter()
        annealer.run(num_neurons, temperature, 1.0)
        seconds.append(time.perf_counter() - start)
    return Sweep(num_neurons, min(seconds), annealer.state_bytes)


def _sweeps(arguments: argparse.Namespace) -> Iterator[Sweep]:
    if arguments.largest < _SMALLEST:
        raise InputError(f"--largest {arguments.largest}: the smallest layer has {_SMALLEST} neurons; give more")
    check_file("--json", arguments.json)
    size = _SMALLEST
    while size <= arguments.largest:
        print(f"{size} neurons", file=sys.stderr)
        yield measure(size)
        size *= 2


def print_table(sweeps: Sequence[Sweep]) -> None:
    """One row per size."""
    from rich.table import Table

    table = Table(title="A sweep of the local search: N steps on a dense N×N layer, 4 workers")
    for name in ("neurons", "ms", "ns per weight", "state, MB", "bytes per weight"):
        table.add_column(name, justify="right")
    for sweep in sweeps:
        table.add_row(
            str(sweep.num_neurons),
            f"{sweep.seconds * 1e3:.2f}",
            f"{sweep.nanoseconds_per_weight:.2f}",
            f"{sweep.state_bytes / 1e6:.1f}",
            f"{sweep.bytes_per_weight:.1f}",
        )
    console().print(table)


def _report(sweeps: Sequence[Sweep], arguments: argparse.Namespace) -> None:
    if arguments.json != STANDARD_OUTPUT:
        print_table(sweeps)
    if arguments.json:
        write_json(arguments.json, SCHEMA, {"sweeps": [asdict(sweep) for sweep in sweeps]})


def _run(argv: Sequence[str] | None) -> int:
    parser = Parser(prog="python -m benchmarks.scaling", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--largest", type=int, default=4096, metavar="N", help="largest layer (default: 4096)")
    parser.add_argument("--json", metavar="FILE", help="write the measurements; '-' prints JSON alone")
    arguments = parser.parse_args(argv)
    return measured(_sweeps(arguments), lambda sweeps: _report(sweeps, arguments))


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; the exit status."""
    return exit_status(lambda: _run(argv))


if __name__ == "__main__":
    exit_now(main())
