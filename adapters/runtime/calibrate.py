"""Measure workers and their links, and write the cluster file.

    torchrun --nproc-per-node 4 -m adapters.runtime.calibrate --out cluster.toml
    python -m adapters.runtime.calibrate --local 4 --out cluster.toml

`adapters.runtime.measure` measures, `adapters.runtime.rates` makes a cluster of it, docs/files.md has the file.
"""

from __future__ import annotations

import math
import os
import sys
import tempfile
from argparse import Namespace
from collections.abc import Sequence
from pathlib import Path

from adapters.command import Parser, exit_status
from adapters.output import check_file
from adapters.runtime.failures import WorkerError
from adapters.runtime.launch import run_workers
from formulations import environment
from formulations.cluster import Cluster
from formulations.errors import InputError

DEFAULT_BATCH, DEFAULT_WIDTH = 64, 512
DEFAULT_TIMEOUT = 300.0
#: Its weights take 1 GiB.
_WIDEST = 16384
_MODULE = "adapters.runtime.calibrate"


def local(
    num_workers: int,
    *,
    names: Sequence[str] = (),
    batch: int = DEFAULT_BATCH,
    width: int = DEFAULT_WIDTH,
    timeout_seconds: float = DEFAULT_TIMEOUT,
    out: str | None = None,
) -> Cluster:
    """The cluster of so many processes on this machine, as each of them is while all others run.

    Args:
        names: of the workers; `w0`… by default.
        batch: examples at a time of the layer whose speed is measured.
        width: its inputs and neurons.
        timeout_seconds: for all of it.
        out: the cluster's file, to be kept.

    Raises:
        InputError: no number of workers, examples or seconds, or names that do not fit.
        WorkerError: a process failed.
    """
    names = _checked(num_workers, names, batch, width, timeout_seconds)
    with tempfile.TemporaryDirectory() as folder:
        path = out or str(Path(folder) / "cluster.toml")
        given = {"--out": path, "--names": ",".join(names), "--batch": str(batch), "--width": str(width),
                 "--timeout": str(timeout_seconds)}  # fmt: skip
        command = [sys.executable, "-m", _MODULE, *(f"{option}={value}" for option, value in given.items())]
        run_workers(command, num_workers, timeout_seconds)
        return Cluster.read(path)


def _checked(num_workers: int, names: Sequence[str], batch: int, width: int, timeout_seconds: float) -> Sequence[str]:
    """The names. Raises InputError for anything that cannot be measured with."""
    if num_workers < 1:
        raise InputError(f"{num_workers} workers asked for; give at least 1")
    if batch < 1:
        raise InputError(f"the batch has {batch} examples; give at least 1")
    if not 1 <= width <= _WIDEST:
        raise InputError(f"the layer is {width} wide; give 1 to {_WIDEST}")
    if not (math.isfinite(timeout_seconds) and timeout_seconds > 0):
        raise InputError(f"the timeout is {timeout_seconds} seconds; give a number > 0")
    names = names or [f"w{rank}" for rank in range(num_workers)]
    if len(names) != num_workers or len(set(names)) != num_workers or not all(names):
        raise InputError(f"names {','.join(names)!r} are not {num_workers} different ones; name every worker once")
    return names


def _parser() -> Parser:
    parser = Parser(
        prog=f"python -m {_MODULE}",
        description="Measure workers and their links, and write the cluster file. Start it as one process per worker "
        "with torchrun, or with --local on this machine.",
    )
    parser.add_argument("--out", required=True, metavar="FILE", help="the cluster file (TOML)")
    parser.add_argument("--local", type=int, metavar="P", help="start P processes on this machine")
    parser.add_argument(
        "--names", default="", metavar="A,B,...", help="the workers' names, by rank (default: w0,w1,...)"
    )
    parser.add_argument(
        "--batch", type=int, default=DEFAULT_BATCH, metavar="N", help="examples at a time (default: %(default)s)"
    )
    parser.add_argument(
        "--width", type=int, default=DEFAULT_WIDTH, metavar="N",
        help="inputs and neurons of the layer whose speed is measured; where the layers to be run are too large for a "
        "cache, give one that is, too (default: %(default)s)",
    )  # fmt: skip
    parser.add_argument(
        "--timeout", type=float, default=DEFAULT_TIMEOUT, metavar="SECONDS",
        help="for each wait for another worker; with --local for all of it (default: %(default)s)",
    )  # fmt: skip
    return parser


def _worker(arguments: Namespace, names: Sequence[str]) -> None:
    """This process's part, as one of several."""
    from adapters.runtime.exchange import Group  # torch, for which --help does not wait
    from adapters.runtime.measure import measured

    rank = int(os.environ["RANK"])
    tells = rank == 0 and sys.stderr.isatty()
    with Group.connect(rank, names, timeout_seconds=arguments.timeout) as group:
        found = measured(group, arguments.batch, arguments.width, _say if tells else lambda text: None)
        if rank == 0:
            found.write(arguments.out, _comment(group.device.type, arguments.batch, arguments.width))


def _comment(device: str, batch: int, width: int) -> str:
    """What was measured, and where."""
    import torch

    machine = environment.hardware()
    return (
        f"Measured by {_MODULE} with torch {torch.__version__}: layers {width} wide, batch {batch}, float32\n"
        f"on {device}, threads per worker {torch.get_num_threads()}; the first worker has {machine['cores']} cores of "
        f"{machine['processor']}"
    )


def _say(text: str) -> None:
    print(f"measuring {text}", file=sys.stderr, flush=True)


def _run(argv: Sequence[str] | None) -> int:
    arguments = _parser().parse_args(argv)
    names = arguments.names.split(",") if arguments.names else []
    if os.environ.get("RANK", "0") == "0":  # who writes it
        check_file("--out", arguments.out)
    try:
        if arguments.local is not None:
            if sys.stderr.isatty():
                _say(f"{arguments.local} workers on this machine")
            local(
                arguments.local, names=names, batch=arguments.batch, width=arguments.width,
                timeout_seconds=arguments.timeout, out=arguments.out,
            )  # fmt: skip
        elif "RANK" not in os.environ or "WORLD_SIZE" not in os.environ:
            raise InputError("no RANK and WORLD_SIZE; start it with torchrun, or give --local P")
        else:
            num_workers = int(os.environ["WORLD_SIZE"])
            _worker(arguments, _checked(num_workers, names, arguments.batch, arguments.width, arguments.timeout))
    except WorkerError as error:
        print(f"failed: {error}", file=sys.stderr)
        return 1
    return 0


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; the exit status: 0 done, 1 a worker failed, 2 bad input."""
    return exit_status(lambda: _run(argv))


if __name__ == "__main__":
    sys.exit(main())
