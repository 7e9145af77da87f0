"""Run a plan as one of its workers.

    torchrun --nproc-per-node 4 -m adapters.runtime.serve plan --inputs digits.npy --out scores.npy
    python -m adapters.runtime.serve plan --local --bench 200 --batch 64

Every process loads its own shard and nothing else. docs/serving.md says more.
"""

from __future__ import annotations

import os
import sys

# Read when torch is imported: one line for each worker, and no traces of C++.
os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "FATAL")

from argparse import Namespace
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from adapters.command import Parser, exit_status
from adapters.output import STANDARD_OUTPUT, check_file, write_json
from adapters.runtime.failures import WorkerError
from formulations.errors import InputError, nearest

if TYPE_CHECKING:
    from torch import Tensor

    from adapters.runtime.exchange import Group
    from adapters.runtime.shard import Shard
    from adapters.runtime.worker import Entrance, Worker

#: What `adapters.runtime.wire` has, which needs torch.
WIRES = ("native", "float16", "int8")
_MODULE = "adapters.runtime.serve"
_PROG = f"python -m {_MODULE}"
#: Seconds; every wait has its own limit.
_LONGEST = 30 * 24 * 3600.0
SCHEMA = "serve/1"


def _parser() -> Parser:
    parser = Parser(
        prog=_PROG,
        description="Run a plan as one of its workers: a process for each, started by torchrun on one host or several.",
        epilog="In file names, {worker} stands for the worker's name. Exit status: 0 done, 1 a worker failed or the "
        "bytes that crossed are not those of the plan, 2 bad input.",
    )
    parser.add_argument("plan", metavar="PLAN", help="a plan's folder; of its shards, this worker's is enough")
    who = parser.add_mutually_exclusive_group()
    who.add_argument("--worker", metavar="NAME", help="which worker this process is (default: by RANK)")
    who.add_argument("--local", action="store_true", help="start all workers on this machine, without torchrun")
    parser.add_argument(
        "--inputs", metavar="FILE",
        help="examples first: .npy or .safetensors, or package.module:function, which yields batches",
    )  # fmt: skip
    parser.add_argument(
        "--input-mode", choices=("whole", "own"), default="whole",
        help="whole: the worker --at has whole examples, and sends the others their parts; own: every worker has its "
        "own part, such as a sensor's (default: whole)",
    )  # fmt: skip
    parser.add_argument(
        "--at", metavar="NAME", help="the worker where inputs come in and outputs go out (default: first)"
    )
    parser.add_argument("--out", metavar="FILE", help="write the outputs: .npy or .safetensors")
    parser.add_argument(
        "--leave", action="store_true", help="leave outputs where they are; --out is each worker's part"
    )
    parser.add_argument("--batch", type=int, default=64, metavar="N", help="examples at a time (default: %(default)s)")
    parser.add_argument("--wire", choices=WIRES, default="native", help="numbers on the wire (default: native)")
    parser.add_argument("--bench", type=int, metavar="N", help="measure N batches, of --inputs or of random numbers")
    parser.add_argument("--json", metavar="FILE", help="write what --bench measured; '-' prints JSON alone")
    parser.add_argument(
        "--timeout", type=float, default=60.0, metavar="SECONDS", help="for any wait (default: %(default)s)"
    )
    return parser


def _run(argv: Sequence[str] | None) -> int:
    arguments = _parser().parse_args(argv)
    _check(arguments)
    if arguments.local:
        return _local(arguments, sys.argv[1:] if argv is None else argv)
    from adapters.runtime.files import check_out
    from adapters.runtime.shard import find_shard

    shard = find_shard(Path(arguments.plan), arguments.worker, int(os.environ["RANK"]))
    if arguments.out is not None:
        check_out(arguments.out, shard.name)
    if arguments.json is not None:
        check_file("--json", arguments.json)
    try:
        from adapters.runtime.exchange import Group

        with Group.connect(shard.rank, shard.worker_names, timeout_seconds=arguments.timeout) as group:
            _check_same_plan(group, shard)
            return _serve(arguments, shard, group)
    except WorkerError as error:
        print(f"failed: {error}", file=sys.stderr)
        return 1


def _local(arguments: Namespace, argv: Sequence[str]) -> int:
    """All workers on this machine."""
    from adapters.runtime.launch import run_workers
    from adapters.runtime.shard import worker_names

    names = worker_names(Path(arguments.plan))
    command = [sys.executable, "-m", _MODULE, *(argument for argument in argv if argument != "--local")]
    try:
        ended = run_workers(command, len(names), _LONGEST)
    except WorkerError as error:
        print(f"failed: {error}", file=sys.stderr)
        return 1
    for worker in ended:
        sys.stdout.write(worker.stdout)
        sys.stderr.write(worker.stderr)
    return 0


def _check(arguments: Namespace) -> None:
    """What argparse does not see. Raises InputError."""
    if not arguments.local and ("RANK" not in os.environ or "WORLD_SIZE" not in os.environ):
        raise InputError("no RANK and WORLD_SIZE; start one process for each worker with torchrun, or give --local")
    if arguments.batch < 1:
        raise InputError(f"--batch is {arguments.batch}; give at least 1")
    if arguments.bench is not None and arguments.bench < 1:
        raise InputError(f"--bench is {arguments.bench}; give at least 1")
    if not 0 < arguments.timeout < float("inf"):
        raise InputError(f"--timeout is {arguments.timeout}; give seconds, a number > 0")
    if arguments.bench is None and arguments.inputs is None:
        raise InputError("nothing to do; give --inputs FILE, or --bench N")
    if arguments.bench is None and arguments.json is not None:
        raise InputError("--json is what --bench measured; give --bench N")


def _check_same_plan(group: Group, shard: Shard) -> None:
    """Raises WorkerError where workers have shards of different plans."""
    digests = group.agree("plan", shard.digest)
    for name, digest in zip(shard.worker_names, digests, strict=True):
        if digest != digests[0]:
            raise group.stop(
                f"worker {name!r} has a shard of another plan than worker {shard.worker_names[0]!r}; copy all anew"
            )


def _serve(arguments: Namespace, shard: Shard, group: Group) -> int:
    from adapters.runtime.worker import Worker

    at = 0 if arguments.at is None else _named(arguments.at, shard)
    worker = Worker(shard, group, arguments.wire)
    return (_answer if arguments.bench is None else _bench)(arguments, worker, at)


def _named(name: str, shard: Shard) -> int:
    if name not in shard.worker_names:
        raise InputError(f"--at {name!r} is no worker of the plan; {nearest(name, shard.worker_names)}")
    return shard.worker_names.index(name)


def _answer(arguments: Namespace, worker: Worker, at: int) -> int:
    """Run all inputs."""
    from adapters.runtime.files import Results
    from adapters.runtime.worker import Entrance, Exit

    shard, group = worker.shard, worker.group
    here, own = group.rank == at, arguments.input_mode == "own"
    entrance = None if own else Entrance(shard, group, at)
    leaving = None if arguments.leave else Exit(shard, group, at)
    results = Results(shard.outputs, group.rank if arguments.leave else None)
    progress = _progress(here)
    for parts, batch in _admitted(arguments, worker, entrance, here):
        with group.watchdog.armed(f"batch {results.count + 1}"):
            made = worker.run(parts, batch)
            results.add(made if leaving is None else leaving.collect(made, batch))
        progress(results.count)
    if arguments.out is not None and (here or arguments.leave):
        group.barrier()  # nothing is written where somebody failed
        results.write(_own_file(arguments.out, shard.name))
    elif arguments.out is not None:
        group.barrier()
    return 0


def _admitted(
    arguments: Namespace, worker: Worker, entrance: Entrance | None, here: bool
) -> Iterator[tuple[list[Tensor | None], int]]:
    """This worker's parts of each batch, and how many examples they are of."""
    from adapters.runtime.files import batches

    shard = worker.shard
    path = _own_file(arguments.inputs, shard.name)
    if entrance is None:
        yield from _own_parts(batches(path, shard.inputs, arguments.batch, shard.rank), worker)
        return
    source = batches(path, shard.inputs, arguments.batch, None) if here else None
    while True:
        parts, batch = entrance.admit(None if source is None else next(source, None))
        if batch == 0:
            return
        yield parts, batch


def _own_parts(source: Iterator[list[Tensor | None]], worker: Worker) -> Iterator[tuple[list[Tensor | None], int]]:
    """Everybody's own, which must be of the same examples: each tells the others how many."""
    ports = worker.shard.inputs
    has_any = any(port.has[worker.shard.rank] for port in ports)
    while True:
        parts = next(source, None) if has_any else None
        counts = [
            port.check(f"input {port.name!r}", part, worker.shard.rank)
            for port, part in zip(ports, parts or (), strict=False)
            if part is not None
        ]
        told = worker.group.agree("examples", str(counts[0] if counts else 0 if has_any else -1))
        batch = _same(worker, [int(count) for count in told])
        if batch == 0:
            return
        yield parts or [None] * len(ports), batch


def _same(worker: Worker, counts: Sequence[int]) -> int:
    """What all who have inputs say. Raises WorkerError."""
    said = {count for count in counts if count >= 0}
    if len(said) > 1:
        each = ", ".join(f"{name} {count}" for name, count in zip(worker.shard.worker_names, counts, strict=True))
        raise worker.group.stop(f"the workers have inputs of different numbers of examples: {each}")
    return said.pop()


def _bench(arguments: Namespace, worker: Worker, at: int) -> int:
    from adapters.runtime.bench import bench, random_inputs
    from adapters.runtime.worker import Entrance

    shard, group = worker.shard, worker.group
    inputs, batch = random_inputs(shard, arguments.batch), arguments.batch
    if arguments.inputs is not None:
        entrance = None if arguments.input_mode == "own" else Entrance(shard, group, at)
        first = next(_admitted(arguments, worker, entrance, group.rank == at), None)
        if first is None:
            raise InputError(f"{arguments.inputs}: holds no examples; give some")
        inputs, batch = [None if part is None else part.clone() for part in first[0]], first[1]
    report = bench(shard, group, worker, arguments.bench, inputs, batch, arguments.wire)
    if group.rank == at:
        print(report, file=sys.stderr if arguments.json == STANDARD_OUTPUT else sys.stdout)
        if arguments.json is not None:
            write_json(arguments.json, SCHEMA, report.content())
    return 0 if report.as_predicted else 1


def _own_file(path: str, worker_name: str) -> str:
    from adapters.runtime.files import own_file

    return own_file(path, worker_name)


def _progress(here: bool) -> Callable[[int], None]:
    """Says how many batches are done, on a terminal."""
    if not here or not sys.stderr.isatty():
        return lambda done: None
    return lambda done: print(f"\r{done} batches", end="", file=sys.stderr, flush=True)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; the exit status: 0 done, 1 a worker failed or bytes are not as predicted, 2 bad input."""
    return exit_status(lambda: _run(argv))


if __name__ == "__main__":
    sys.exit(main())
