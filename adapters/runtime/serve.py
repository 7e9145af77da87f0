"""Run a plan as one of its workers.

    torchrun --nproc-per-node 4 -m adapters.runtime.serve plan --inputs digits.npy --out scores.npy
    python -m adapters.runtime.serve plan --local --bench 200 --batch 64

Every process loads its own shard and nothing else. docs/serving.md says more.
"""

from __future__ import annotations

import json
import os
import sys

# Read when torch is imported: one line for each worker, and no traces of C++.
os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "FATAL")

from argparse import Namespace
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from adapters.command import Parser, exit_status
from adapters.output import STANDARD_OUTPUT, check_file, write_json
from adapters.runtime import WIRES
from adapters.runtime.failures import WorkerError
from formulations.errors import InputError, nearest

if TYPE_CHECKING:
    from adapters.runtime.exchange import Group
    from adapters.runtime.files import Batch, Results
    from adapters.runtime.report import Traffic
    from adapters.runtime.shard import Shard
    from adapters.runtime.worker import Worker

_MODULE = "adapters.runtime.serve"
_PROG = f"python -m {_MODULE}"
#: Seconds; every wait has its own limit.
_LONGEST = 30 * 24 * 3600.0
SCHEMA = "serve/1"


def _parser() -> Parser:
    parser = Parser(
        prog=_PROG,
        allow_abbrev=False,  # what starts the workers takes --local out of their command by its name
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
        "--leave", action="store_true", help="outputs stay where they are; --out is then each worker's part"
    )
    parser.add_argument("--batch", type=int, default=64, metavar="N", help="examples at a time (default: %(default)s)")
    parser.add_argument("--wire", choices=WIRES, default="native", help="numbers on the wire (default: native)")
    parser.add_argument("--bench", type=int, metavar="N", help="measure N batches, of --inputs or of random numbers")
    parser.add_argument(
        "--json", metavar="FILE", help="write what crossed, and what --bench measured; '-' prints JSON alone"
    )
    parser.add_argument(
        "--timeout", type=float, default=60.0, metavar="SECONDS", help="for any wait (default: %(default)s)"
    )
    return parser


def _run(argv: Sequence[str] | None) -> int:
    arguments = _parser().parse_args(argv)
    _check(arguments)
    try:
        return _local(arguments, sys.argv[1:] if argv is None else argv) if arguments.local else _work(arguments)
    except WorkerError as error:
        print(f"failed: {error}", file=sys.stderr)
        return 1


def _check(arguments: Namespace) -> None:
    """What argparse does not see. Raises InputError."""
    if not arguments.local and not os.environ.get("RANK", "").isdecimal():
        raise InputError("RANK is no number; start one process for each worker with torchrun, or give --local")
    if arguments.batch < 1:
        raise InputError(f"--batch is {arguments.batch}; give at least 1")
    if arguments.bench is not None and arguments.bench < 1:
        raise InputError(f"--bench is {arguments.bench}; give at least 1")
    if not 0 < arguments.timeout < float("inf"):
        raise InputError(f"--timeout is {arguments.timeout}; give seconds, a number > 0")
    if arguments.bench is None and arguments.inputs is None:
        raise InputError("nothing to do; give --inputs FILE, or --bench N")
    if arguments.bench is not None and arguments.out is not None:
        raise InputError("--bench keeps no outputs; leave out --out")
    if arguments.out is not None and not arguments.out.endswith((".npy", ".safetensors")):
        raise InputError(f"--out {arguments.out}: outputs end in .npy or .safetensors; choose one")
    if arguments.leave and "{worker}" not in (arguments.out or ""):
        raise InputError("--leave makes a file for each worker; give --out with {worker} in its name")


def _local(arguments: Namespace, argv: Sequence[str]) -> int:
    """All workers on this machine."""
    from adapters.runtime.launch import check_ended, launch, one_thread
    from adapters.runtime.shard import worker_names

    names = worker_names(Path(arguments.plan))
    command = [sys.executable, "-m", _MODULE, *(argument for argument in argv if argument != "--local")]
    ended = launch(command, len(names), _LONGEST, env=one_thread())
    for worker in ended:
        sys.stdout.write(worker.stdout)
    check_ended(ended)
    for worker in ended:
        sys.stderr.write(worker.stderr)
    return 0


def _work(arguments: Namespace) -> int:
    """As one worker of all."""
    from adapters.runtime.shard import find_shard

    shard = find_shard(Path(arguments.plan), arguments.worker, int(os.environ["RANK"]))
    at = 0 if arguments.at is None else _named(arguments.at, shard)
    for key in ("inputs", "out", "json"):
        if (path := getattr(arguments, key)) is not None:
            setattr(arguments, key, path.replace("{worker}", shard.name))
    from adapters.runtime.exchange import Group
    from adapters.runtime.worker import Worker

    with Group.connect(shard.rank, shard.worker_names, timeout_seconds=arguments.timeout) as group:
        try:
            _check_same(group, shard, arguments, at)
            _check_files(arguments, shard, shard.rank == at)
            worker = Worker(shard, group, arguments.wire)
            return (_answer if arguments.bench is None else _bench)(arguments, worker, at)
        except (InputError, KeyboardInterrupt) as error:
            group.close(f"worker {shard.name!r}: {error if isinstance(error, InputError) else 'interrupted'}")
            raise


def _named(name: str, shard: Shard) -> int:
    if name not in shard.worker_names:
        raise InputError(f"--at {name!r} is no worker of the plan; {nearest(name, shard.worker_names)}")
    return shard.worker_names.index(name)


def _check_files(arguments: Namespace, shard: Shard, here: bool) -> None:
    """Of those that this worker writes. Raises InputError."""
    from adapters.runtime.files import check_out

    if arguments.out is not None and (here or arguments.leave):
        check_out(arguments.out, shard, shard.rank if arguments.leave else None)
    if arguments.json is not None and here:
        check_file("--json", arguments.json)


def _check_same(group: Group, shard: Shard, arguments: Namespace, at: int) -> None:
    """Raises WorkerError where workers have shards of different plans, or options by which they would not meet."""
    options = {
        "--at": shard.worker_names[at],
        "--wire": arguments.wire,
        "--input-mode": arguments.input_mode,
        "--leave": arguments.leave,
        "--bench": arguments.bench,
        "--json": arguments.json is not None,
    }
    told = [json.loads(text) for text in group.agree("plan", json.dumps([shard.digest, options]))]
    first, expected = shard.worker_names[0], told[0]
    for name, (digest, theirs) in zip(shard.worker_names, told, strict=True):
        if digest != expected[0]:
            raise group.stop(f"worker {name!r} has a shard of another plan than worker {first!r}; copy all anew")
        for key, value in theirs.items():
            if value != expected[1][key]:
                line = f"{key} is {value} for worker {name!r} and {expected[1][key]} for worker {first!r}"
                raise group.stop(f"{line}; give all the same")


def _answer(arguments: Namespace, worker: Worker, at: int) -> int:
    """Run all inputs."""
    from adapters.runtime.ends import Exit
    from adapters.runtime.files import Results

    shard, group = worker.shard, worker.group
    here, leave = group.rank == at, arguments.leave
    admitted = _admitted(arguments, worker, at)
    leaving = None if leave else Exit(shard, group, at)
    results = Results(shard.outputs, group.rank if leave else None, keep=arguments.out is not None)
    for parts, batch in admitted:
        with group.watchdog.armed(f"batch {results.count + 1}"):
            made = worker.run(parts, batch)
            results.add(made if leaving is None else leaving.collect(made, batch), batch)
        if here:
            _say(f"\r{results.count} batches")
    if here:
        _say("\n")
    group.barrier()  # nothing is written where somebody failed
    if arguments.out is not None and (here or leave):
        results.write(arguments.out)
    return 0 if arguments.json is None else _crossed(arguments, worker, results, here)


def _admitted(arguments: Namespace, worker: Worker, at: int) -> Iterator[Batch]:
    """This worker's parts of each batch."""
    from adapters.runtime.ends import Entrance, OwnEntrance
    from adapters.runtime.files import batches

    shard, group, own = worker.shard, worker.group, arguments.input_mode == "own"
    entrance = OwnEntrance(shard, group) if own else Entrance(shard, group, at)
    at_a_time = arguments.batch if shard.examples is None else 1
    given = batches(arguments.inputs, shard, at_a_time, shard.rank if own else None)
    while (admitted := entrance.admit(next(given, None) if entrance.fed else None)) is not None:
        yield admitted


def _crossed(arguments: Namespace, worker: Worker, results: Results, here: bool) -> int:
    """Write the bytes of all links beside those of the plan, in JSON."""
    from adapters.runtime.report import Traffic

    traffic = Traffic.between_all(worker, results.batch)
    if here:
        examples = results.batch * worker.shard.examples_at_once
        content = {"batches": results.count, "examples": examples, "wire": worker.wire, **traffic.content()}
        write_json(arguments.json, SCHEMA, content)
    return _judged(traffic, here)


def _bench(arguments: Namespace, worker: Worker, at: int) -> int:
    from adapters.runtime.bench import bench, random_inputs

    shard, here = worker.shard, worker.group.rank == at
    batch = arguments.batch if shard.examples is None else 1
    inputs = random_inputs(shard, batch, worker.group.device)
    if arguments.inputs is not None:
        inputs, batch = next(_admitted(arguments, worker, at))
        inputs = [None if part is None else part.clone() for part in inputs]
    report = bench(worker, arguments.bench, inputs, batch)
    if here:
        print(report, file=sys.stderr if arguments.json == STANDARD_OUTPUT else sys.stdout)
        if arguments.json is not None:
            write_json(arguments.json, SCHEMA, report.content())
    return _judged(report.traffic, here)


def _judged(traffic: Traffic, here: bool) -> int:
    """The exit status for what crossed."""
    if not traffic.as_predicted and here:
        print("failed: the bytes that crossed are not those of the plan", file=sys.stderr)
    return 0 if traffic.as_predicted else 1


def _say(text: str) -> None:
    """How far it is, on a terminal."""
    if sys.stderr.isatty():
        print(text, end="", file=sys.stderr, flush=True)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; the exit status: 0 done, 1 a worker failed or bytes are not as predicted, 2 bad input."""
    return exit_status(lambda: _run(argv))


if __name__ == "__main__":
    sys.exit(main())
