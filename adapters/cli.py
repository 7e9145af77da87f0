"""Plan a trained model from the command line, and look at plans.

    python -m adapters.partition package.module:factory --workers 4 --bytes-share 0.1 --out plan
    python -m adapters.partition explain plan LAYER
    python -m adapters.partition diff plan other

docs/plans.md has an example of each.
"""

from __future__ import annotations

import argparse
import contextlib
import signal
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from adapters.command import Parser, check_run, exit_status, say_interrupted
from adapters.output import STANDARD_OUTPUT, check_file, write_json
from formulations.cluster import Cluster
from formulations.constraints import Constraint
from formulations.errors import InputError
from formulations.problem import LayerProblem
from solvers.base import Limit, Progress, Report, SolveLimits, Solver, SolverError, SolveResult, silent
from solvers.registry import get
from solvers.threads import exit_now

if TYPE_CHECKING:
    from torch import nn

    from adapters.figures import OutputError, Times
    from adapters.plan import PartitionPlan
    from adapters.resume import Answers

SCHEMA = "partition/1"
_PROG = "python -m adapters.partition"

Show = Callable[[str], None]


# The command line


def _parser() -> Parser:
    parser = Parser(
        prog=_PROG,
        description="Plan which worker holds each neuron of a trained model, what is sent and what is dropped.",
        epilog=f"Plans can be looked at: '{_PROG} explain DIR LAYER [--neuron I]', '{_PROG} diff DIR DIR'. Ctrl-C ends "
        "the search with the best found so far. With --out, answered layer problems are kept in DIR.partial until the "
        "plan is whole; the same command goes on from them. Exit status: 0 done, 1 no plan can be made, 2 bad input, "
        "130 interrupted before that.",
    )
    parser.add_argument(
        "model",
        metavar="MODEL",
        help="package.module:factory, which returns a model or something with .model and .calibration (batches); or a "
        "folder with a Hugging Face model",
    )
    where = parser.add_mutually_exclusive_group(required=True)
    where.add_argument("--cluster", metavar="FILE", help="workers and links from a TOML file")
    where.add_argument("--workers", type=int, metavar="P", help="this many equal workers")
    how_much = parser.add_mutually_exclusive_group()
    how_much.add_argument("--price", type=float, metavar="X", help="cost of a byte, in shares of output energy")
    how_much.add_argument(
        "--bytes-share", type=float, metavar="S", help="at most this share of direct parallel's bytes"
    )
    how_much.add_argument(
        "--error-budget", type=float, metavar="E", help="at most this error of the outputs, in shares of their variance"
    )
    how_much.add_argument("--no-prune", action="store_true", help="keep all weights; only the placement is decided")
    parser.add_argument(
        "--costs",
        choices=("covariance", "activation", "magnitude"),
        default="covariance",
        help="what a weight is worth (default: covariance)",
    )
    parser.add_argument(
        "--calibration", metavar="FILE", help="inputs like those the model will see, examples first: .npy, .safetensors"
    )
    parser.add_argument("--solver", default="portfolio", metavar="NAME", help="of layer problems (default: portfolio)")
    parser.add_argument(
        "--time-limit", type=float, default=30.0, metavar="SECONDS", help="per layer problem (default: 30)"
    )
    parser.add_argument(
        "--seed", type=int, default=0, metavar="N", help="of every random choice, 0 or more (default: 0)"
    )
    parser.add_argument(
        "--recover",
        type=int,
        metavar="EPOCHS",
        help="train the weights that stay towards the model's own outputs, this often through the calibration data; "
        "the plan is then no longer one without retraining, and says so",
    )
    parser.add_argument(
        "--leave-out",
        action="store_true",
        help="first find out by quick plans whether some workers, or one alone, are predicted to be faster than all; "
        "the plan then leaves the others out",
    )
    parser.add_argument(
        "--guarantee",
        action="store_true",
        help="measure the error of the outputs on the calibration data, and bound it",
    )
    parser.add_argument("--out", metavar="DIR", help="write the plan here, with pictures; see docs/plans.md")
    parser.add_argument("--json", metavar="FILE", help="write what the table says as JSON; '-' prints JSON alone")
    return parser


def _explain_parser() -> Parser:
    parser = Parser(prog=f"{_PROG} explain", description="What each worker holds, receives and drops of a layer.")
    parser.add_argument("folder", metavar="DIR", help="of the plan")
    parser.add_argument("layer", metavar="LAYER", help="by the name of its module")
    parser.add_argument("--neuron", type=int, metavar="I", help="why this neuron sits where it does")
    return parser


def _diff_parser() -> Parser:
    parser = Parser(prog=f"{_PROG} diff", description="What moved from one plan to another, and what that changed.")
    parser.add_argument("folder", metavar="DIR", help="of the first plan")
    parser.add_argument("other", metavar="DIR", help="of the second")
    return parser


def _check(arguments: argparse.Namespace) -> None:
    """What argparse does not see. Raises InputError."""
    check_run(arguments)
    if arguments.recover is not None and arguments.recover < 1:
        raise InputError(f"--recover is {arguments.recover}; give epochs, at least 1, or leave it out")
    if arguments.recover is not None and arguments.no_prune:
        raise InputError("--recover has nothing to do with --no-prune, which drops no weights; leave one of them out")
    if arguments.guarantee and arguments.no_prune:
        raise InputError("--guarantee has nothing to do with --no-prune, which changes no output; leave one out")
    for option in ("price", "bytes_share", "error_budget"):
        value = getattr(arguments, option)
        if value is not None and not 0 <= value < float("inf"):
            raise InputError(f"--{option.replace('_', '-')} is {value}; give a finite number >= 0")
    for option in ("out", "calibration"):
        if getattr(arguments, option) == "":
            raise InputError(f"--{option} is empty; leave it out, or give a path")


# Planning


def _plan(argv: Sequence[str]) -> int:
    arguments = _parser().parse_args(argv)
    _check(arguments)
    solver = get(arguments.solver, arguments.seed)
    cluster = Cluster.equal(arguments.workers) if arguments.cluster is None else Cluster.read(arguments.cluster)
    given = [path for path in (arguments.cluster, arguments.calibration) if path is not None]
    check_file("--json", arguments.json, given)
    from adapters.plan import PlanError
    from adapters.resume import Answers, ResumableSolver

    answers = None if arguments.out is None else Answers.beside(arguments.out)
    stoppable = StoppableSolver(solver if answers is None else ResumableSolver(solver, answers, arguments.seed, _say))
    try:
        with _status() as show, stoppable.until_interrupted():
            plan, model, calibration = _written(arguments, cluster, stoppable, show)
            figures = _figures(arguments, plan, model, calibration, stoppable, show)
    except (PlanError, SolverError) as error:
        print(f"failed: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print(f"interrupted before the plan was whole; {_kept(answers)}", file=sys.stderr)
        return 130
    if answers is not None and not stoppable.interrupted:
        answers.clear()
    _report(plan, figures, arguments, interrupted=stoppable.interrupted)
    if stoppable.interrupted and answers:
        _say(_kept(answers))
    return 0


def _say(text: str) -> None:
    print(f"note: {text}", file=sys.stderr)


def _kept(answers: Answers | None) -> str:
    """What an interrupted run leaves behind, and how to go on."""
    if answers is None:
        return "nothing is kept; with --out DIR, answered layer problems are"
    if not answers:
        return "no layer problem was answered, so the same command begins anew"
    number = "1 answered layer problem is" if len(answers) == 1 else f"{len(answers)} answered layer problems are"
    return f"{number} kept in {answers.folder}; the same command goes on from there"


def _written(
    arguments: argparse.Namespace, cluster: Cluster, solver: Solver, show: Show
) -> tuple[PartitionPlan, nn.Module, Sequence[Any]]:
    """The plan, written where it is asked for, the model and its calibration data."""
    from adapters.models import load_model
    from adapters.pictures import draw_plan
    from adapters.plan_files import check_folder

    if arguments.out is not None:
        check_folder(arguments.out)
    show(f"model {arguments.model}")
    model, calibration = load_model(arguments.model, arguments.calibration)
    plan = _made(arguments, model, calibration, cluster, solver, show)
    if arguments.recover is not None:
        from adapters.recover import recover

        plan = recover(model, plan, calibration, epochs=arguments.recover, seed=arguments.seed, show=show)
    if arguments.out is not None:
        show("writing")
        plan.save(arguments.out)
        draw_plan(plan, model, arguments.out)
    return plan, model, calibration


def _figures(
    arguments: argparse.Namespace,
    plan: PartitionPlan,
    model: nn.Module,
    calibration: Sequence[Any],
    stoppable: StoppableSolver,
    show: Show,
) -> dict[str, Times | OutputError]:
    """What is said beside the table, by its name in JSON; less where Ctrl-C came."""
    from adapters.figures import output_error, times

    found: dict[str, Times | OutputError] = {}
    if stoppable.interrupted:
        return found
    try:
        show("predicted times")
        found["seconds"] = times(plan, model, calibration[0])
        if arguments.guarantee:
            show("guarantee")
            found["output_error"] = output_error(plan, model, calibration)
    except KeyboardInterrupt:
        stoppable.interrupted = True  # the plan is whole
    return found


def _made(
    arguments: argparse.Namespace,
    model: nn.Module,
    calibration: Sequence[Any],
    cluster: Cluster,
    solver: Solver,
    show: Show,
) -> PartitionPlan:
    from adapters.partition import DEFAULT_PRICES, partition_model

    def report(layer: str, step: Progress) -> None:
        show(f"{layer}: {step.seconds:.0f} s, {step.message}")

    options: dict[str, Any] = {
        "calibration": calibration,
        "prices": DEFAULT_PRICES if arguments.price is None else replace(DEFAULT_PRICES, per_byte=arguments.price),
        "costs": arguments.costs,
        "prune": not arguments.no_prune,
        "bytes_share": arguments.bytes_share,
        "error_budget": arguments.error_budget,
        "seed": arguments.seed,
        "show": show,
    }
    limits = SolveLimits(seconds=arguments.time_limit)

    def planned(on: Cluster) -> PartitionPlan:
        return partition_model(model, calibration[0], on, solver=solver, limits=limits, report=report, **options)

    if not arguments.leave_out:
        return planned(cluster)
    from adapters.latency import only
    from adapters.leave_out import choose_workers, without

    choice = choose_workers(model, calibration[0], cluster, **options)
    if not choice.left_out:  # otherwise the plan says so
        _say(f"by quick plans, {choice}")
    return without(planned(only(cluster, choice.workers)), cluster, choice)


@dataclass
class StoppableSolver:
    """A solver that Ctrl-C stops for all problems to come: they are answered as fast as can be.

    Attributes:
        solver: who answers until then.
        interrupted: Ctrl-C came.
    """

    solver: Solver
    interrupted: bool = False

    @property
    def name(self) -> str:
        return self.solver.name

    def why_not(self, problem: LayerProblem, constraints: Sequence[Constraint] = ()) -> str | None:
        return self.solver.why_not(problem, constraints)

    def solve(
        self,
        problem: LayerProblem,
        constraints: Sequence[Constraint] = (),
        limits: SolveLimits = SolveLimits(),
        report: Report = silent,
    ) -> SolveResult:
        """As `Solver.solve`."""
        if self.interrupted:
            from solvers.contiguous import Contiguous

            return Contiguous().solve(problem, constraints, limits, report)
        result = self.solver.solve(problem, constraints, limits, report)
        self.interrupted |= result.limit is Limit.INTERRUPT
        return result

    @contextlib.contextmanager
    def until_interrupted(self) -> Iterator[None]:
        """Hear of Ctrl-C in between solves too; it still raises KeyboardInterrupt there."""
        before = signal.getsignal(signal.SIGINT)

        def note(number: int, frame: Any) -> NoReturn:
            self.interrupted = True
            raise KeyboardInterrupt

        if before is not signal.default_int_handler:
            yield  # a background job ignores it
            return
        signal.signal(signal.SIGINT, note)
        try:
            yield
        finally:
            signal.signal(signal.SIGINT, before)


def _report(
    plan: PartitionPlan,
    figures: Mapping[str, Times | OutputError],
    arguments: argparse.Namespace,
    *,
    interrupted: bool,
) -> None:
    shards = {} if arguments.out is None else _shard_bytes(Path(arguments.out), plan.cluster.worker_names)
    if arguments.json != STANDARD_OUTPUT:
        print(plan, *figures.values(), sep="\n")
        if shards:
            listed = ", ".join(f"{name} {size / 1e6:.2f} MB" for name, size in shards.items())
            print(f"shards: {listed}; python -m adapters.runtime.serve {arguments.out} --local --bench 100 runs them")
    if arguments.json is not None:
        content = {"model": arguments.model, "out": arguments.out, "interrupted": interrupted, **_summary(plan)}
        content |= {"shard_bytes": shards}
        content |= {name: figure.as_json() for name, figure in figures.items()}
        write_json(arguments.json, SCHEMA, content)
    for warning in plan.warnings:
        _say(warning)
    if interrupted:
        say_interrupted()


def _shard_bytes(folder: Path, names: Sequence[str]) -> dict[str, int]:
    """By worker, of the tensors in its shard; none where workers cannot run the plan."""
    from adapters.runtime.shard import SHARDS, files

    paths = {name: files(folder / SHARDS, name)[1] for name in names}
    return {name: path.stat().st_size for name, path in paths.items() if path.exists()}


def _summary(plan: PartitionPlan) -> dict[str, Any]:
    """What the table says, for `--json`."""
    return {
        "bytes_sent": plan.bytes_sent,
        "bytes_direct": plan.bytes_direct,
        "objective": plan.objective,
        "settings": dict(plan.settings),
        "warnings": list(plan.warnings),
        "layers": [
            {
                "layer": layer.name,
                "group": layer.group,
                "reads": layer.reads,
                "partials": layer.partials,
                "kept": float(layer.kept.mean()),
                "relative_error": layer.relative_error,
            }
            for layer in plan.layers
        ],
        "groups": [
            {
                "group": group.name,
                "objective": group.evaluation.objective,
                "dual_bound": None if group.result.gap is None else int(group.result.dual_bound),
                "gap": group.result.gap,
                "scale": group.problem.scale,
                "bound_proved_by": group.result.bound_proved_by,
                "termination": group.result.termination.value,
                "limit": None if group.result.limit is None else group.result.limit.value,
                "seconds": group.result.seconds,
            }
            for group in plan.groups
        ],
        "messages": [
            {"message": name, "bytes": sent, "bytes_direct": direct} for name, (sent, direct) in plan.crossing().items()
        ],
    }


@contextlib.contextmanager
def _status() -> Iterator[Show]:
    """A line that says what is going on; on a terminal only."""
    if not sys.stderr.isatty():
        yield lambda text: None
        return
    from rich.console import Console
    from rich.text import Text

    with Console(stderr=True).status("starting") as status:
        # As Text: names are data, and may hold what rich takes for markup.
        yield lambda text: status.update(Text(text))


# Looking at plans


def _explain(argv: Sequence[str]) -> int:
    arguments = _explain_parser().parse_args(argv)
    from adapters.explain import explain
    from adapters.plan import PartitionPlan

    print(explain(PartitionPlan.load(arguments.folder), arguments.layer, arguments.neuron))
    return 0


def _diff(argv: Sequence[str]) -> int:
    arguments = _diff_parser().parse_args(argv)
    from adapters.explain import diff
    from adapters.plan import PartitionPlan

    print(diff(PartitionPlan.load(arguments.folder), PartitionPlan.load(arguments.other)))
    return 0


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; the exit status."""
    given = sys.argv[1:] if argv is None else list(argv)
    commands = {"explain": _explain, "diff": _diff}
    name, rest = (given[0], given[1:]) if given and given[0] in commands else ("", given)
    return exit_status(lambda: commands.get(name, _plan)(rest))


def run() -> NoReturn:
    """Run the command and end the process."""
    exit_now(main())
