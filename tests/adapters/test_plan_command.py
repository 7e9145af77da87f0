"""`python -m adapters.partition` from the outside: plans that are made, looked at and refused."""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch

from adapters import PartitionPlan, cli
from formulations import Cluster, LayerProblem
from solvers import SolveLimits, solve
from solvers.base import Limit, SolveResult
from solvers.local_search import LocalSearch
from solvers.registry import get

#: A user's module with a model, one with its data, and functions that are of no use.
_MODULE = """
from types import SimpleNamespace
import torch
from torch import nn

def network():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 4))

def data():
    torch.manual_seed(1)
    return torch.randn(96, 6)

def with_data():
    return SimpleNamespace(model=network(), calibration=data().split(64))

def number():
    return 7

def broken():
    raise RuntimeError("no weights")

def interrupted():
    raise KeyboardInterrupt
"""
_QUICK = [
    "--workers",
    "2",
    "--costs",
    "activation",
    "--solver",
    "local-search",
    "--time-limit",
    "0.5",
    "--price",
    "1e-3",
]


@pytest.fixture(autouse=True)
def _user_module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "planned_nets.py").write_text(_MODULE)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.chdir(tmp_path)
    sys.modules.pop("planned_nets", None)


def _error(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    """The one line that bad input ends in."""
    assert cli.main(arguments) == 2
    said = capsys.readouterr()
    assert said.out == ""
    (line,) = said.err.splitlines()
    return line


def _without_shards(printed: str) -> str:
    """What is printed but for the shards of a plan that was written."""
    return "".join(line for line in printed.splitlines(keepends=True) if not line.startswith("shards: "))


def test_plan_is_printed_written_drawn_and_can_be_looked_at(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The whole way: table, JSON, folder, pictures; then `explain` and `diff` on the folder."""
    files = ["--out", "plan", "--json", "plan.json"]
    assert cli.main(["planned_nets:with_data", *_QUICK, *files]) == 0
    said = capsys.readouterr()
    plan = PartitionPlan.load("plan")
    *table, predicted, shards = said.out.splitlines()
    assert table == str(plan).splitlines()
    sizes = {name: (Path("plan/shards") / f"{name}.safetensors").stat().st_size for name in plan.cluster.worker_names}
    assert shards.startswith("shards: w0 0.00 MB, w1 0.00 MB; ")
    assert json.loads(Path("plan.json").read_text())["shard_bytes"] == sizes
    assert said.err == ""  # no terminal, no progress
    content = json.loads(Path("plan.json").read_text())
    assert content["schema"] == "partition/1"
    assert content["bytes_sent"] == plan.bytes_sent == sum(entry["bytes"] for entry in content["messages"])
    assert [entry["layer"] for entry in content["layers"]] == ["0", "2"]
    assert content["groups"][0]["objective"] == plan.groups[0].evaluation.objective
    assert content["interrupted"] is False
    seconds = content["seconds"]
    assert predicted.startswith(f"predicted per example: {1000 * seconds['plan']:.3f} ms, direct parallel ")
    assert seconds["alone"]["seconds"] < seconds["plan"]  # two messages of a millisecond each for so little
    # 1 ms, 12 bytes at 12.5 MB/s and 80 multiplications at 1e9 a second.
    assert predicted.endswith("w0 alone 1.001 ms, which is fastest")
    assert "output_error" not in content
    pictures = sorted(path.name for path in Path("plan/pictures").rglob("*.svg"))
    assert pictures == ["0.svg", "2.svg", "traffic.svg"]

    assert cli.main(["explain", "plan", "2"]) == 0
    assert capsys.readouterr().out.startswith("2: 4 neurons, 8 channels of relu;")
    assert cli.main(["explain", "plan", "2", "--neuron", "3"]) == 0
    assert capsys.readouterr().out.startswith("2, neuron 3, sits on w")
    assert cli.main(["diff", "plan", "plan"]) == 0
    assert "as before" in capsys.readouterr().out


def test_calibration_may_come_in_files_of_both_kinds(capsys: pytest.CaptureFixture[str]) -> None:
    """A bare model with inputs from a file, in another float type, is planned as with its own batches of as many."""
    import planned_nets

    data = planned_nets.data()
    np.save("inputs.npy", data.double().numpy())
    safetensors.torch.save_file({"inputs": data}, "inputs.safetensors")
    said = []
    for arguments in (
        ["planned_nets:with_data"],
        ["planned_nets:network", "--calibration", "inputs.npy"],
        ["planned_nets:network", "--calibration", "inputs.safetensors"],
    ):
        assert cli.main([*arguments, *_QUICK, "--json", "-"]) == 0
        content = json.loads(capsys.readouterr().out)
        said.append([content[key] for key in ("layers", "messages", "objective")])
    assert said[0] == said[1] == said[2]


def test_nothing_is_dropped_unless_asked_for(capsys: pytest.CaptureFixture[str]) -> None:
    """`--no-prune` keeps every weight."""
    arguments = ["planned_nets:with_data", "--workers", "2", "--no-prune", "--solver", "local-search"]
    assert cli.main([*arguments, "--time-limit", "0.5", "--json", "-"]) == 0
    content = json.loads(capsys.readouterr().out)
    assert [layer["kept"] for layer in content["layers"]] == [1.0, 1.0]
    assert content["settings"]["prune"] is False


@pytest.mark.parametrize(("option", "value"), [("--bytes-share", "0.4"), ("--error-budget", "0.05")])
def test_budgets_reach_the_planner(option: str, value: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each option is handed on under its own name, the others as if not given."""
    from adapters import partition

    asked: dict[str, Any] = {}

    def planner(*arguments: Any, **options: Any) -> None:
        asked.update(options)
        raise KeyboardInterrupt

    monkeypatch.setattr(partition, "partition_model", planner)
    assert cli.main(["planned_nets:with_data", "--workers", "2", option, value, "--seed", "3"]) == 130
    name = option[2:].replace("-", "_")
    other = {"bytes_share": "error_budget", "error_budget": "bytes_share"}[name]
    assert (asked[name], asked[other], asked["seed"]) == (float(value), None, 3)
    assert asked["prices"] == partition.DEFAULT_PRICES


def test_a_hugging_face_folder_is_planned(capsys: pytest.CaptureFixture[str]) -> None:
    """A tiny ResNet, saved as such models are, with inputs from a file."""
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    config = transformers.ResNetConfig(
        embedding_size=4, hidden_sizes=[4, 6], depths=[1, 1], layer_type="basic", num_labels=3
    )
    transformers.ResNetForImageClassification(config).eval().save_pretrained("resnet")
    np.save("images.npy", torch.randn(6, 3, 16, 16).numpy())
    capsys.readouterr()
    assert "give --calibration FILE" in _error(capsys, "resnet", "--workers", "2")
    assert cli.main(["resnet", "--calibration", "images.npy", *_QUICK, "--out", "plan"]) == 0
    assert "classifier.1" in capsys.readouterr().out
    assert PartitionPlan.load("plan").layers[-1].worker.size == 3


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([], "required: MODEL"),
        (["m:f"], "--cluster --workers is required"),
        (["m:f", "--workers", "2", "--cluster", "c.toml"], "not allowed with"),
        (["m:f", "--workers", "0"], "--workers is 0"),
        (["m:f", "--workers", "2", "--price", "nan"], "--price is nan"),
        (["m:f", "--workers", "2", "--price", "1", "--bytes-share", "1"], "not allowed with"),
        (["m:f", "--workers", "2", "--time-limit", "0"], "--time-limit is 0.0"),
        (["m:f", "--workers", "2", "--seed", "-1"], "--seed is -1"),
        (["m:f", "--workers", "2", "--recover", "0"], "--recover is 0"),
        (["m:f", "--workers", "2", "--recover", "1", "--no-prune"], "--recover has nothing to do with --no-prune"),
        (["m:f", "--workers", "2", "--guarantee", "--no-prune"], "--guarantee has nothing to do with --no-prune"),
        (["m:f", "--workers", "2", "--costs", "fisher"], "invalid choice: 'fisher'"),
        (["m:f", "--workers", "2", "--solver", "local-serch"], "did you mean 'local-search'?"),
        (["m:f", "--cluster", "no.toml"], "no.toml: cannot be read"),
        (["m:f", "--workers", "2", "--out", ""], "--out is empty"),
        (["m:f", "--workers", "2", "--json", "."], "is a folder"),
        (["m:f", "--workers", "2"], "model 'm:f': ModuleNotFoundError"),
        (["digits", "--workers", "2"], "model 'digits' is unknown; give package.module:factory, or a folder"),
        ([".", "--workers", "2"], "holds no config.json"),
        (["planned_nets:netwrk", "--workers", "2"], "did you mean 'network'?"),
        (["planned_nets:network", "--workers", "2"], "give --calibration FILE"),
        (["planned_nets:number", "--workers", "2"], "the factory returns a int"),
        (["planned_nets:broken", "--workers", "2"], "RuntimeError: no weights; at "),
        (["planned_nets:network", "--workers", "2", "--calibration", "no.npy"], "no.npy: cannot be read"),
        (
            ["planned_nets:network", "--workers", "2", "--calibration", "planned_nets.py"],
            "ends in .npy or .safetensors",
        ),
        (["planned_nets:with_data", "--workers", "2", "--out", "."], "holds something that is no plan"),
        (["planned_nets:with_data", "--workers", "2", "--out", "planned_nets.py"], "is a file"),
        (["explain", "plan"], "required: LAYER"),
        (["explain", "plan", "fc"], "plan/plan.json: no such file"),
        (["explain", "plan", "fc", "--neuron", "x"], "invalid int value"),
        (["diff", "plan"], "required: DIR"),
        (["diff", "plan", "other"], "plan/plan.json: no such file"),
    ],
)
def test_bad_input_is_one_line(arguments: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    """What, where and what to do, with exit status 2 and nothing on standard output."""
    assert said in _error(capsys, *arguments)


@pytest.mark.parametrize("content", [b"", b"\x93NUMPY", b"\x80\x04K\x01.", np.float32(3).tobytes()])
@pytest.mark.parametrize("ending", ["npy", "safetensors"])
def test_calibration_files_that_are_none_are_refused(
    content: bytes, ending: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """Empty, truncated, pickled and foreign files of either ending."""
    Path(f"inputs.{ending}").write_bytes(content)
    arguments = ["planned_nets:network", "--workers", "2", "--calibration", f"inputs.{ending}"]
    assert f"inputs.{ending}: holds no inputs" in _error(capsys, *arguments)


def test_a_network_that_does_not_fit_is_a_failure_that_says_what_is_short(capsys: pytest.CaptureFixture[str]) -> None:
    """Memory for nothing: no plan can be made, exit status 1."""
    worker = '[[worker]]\nname = "{}"\nmacs_per_second = 1.0\nmemory_bytes = 8\n'
    links = "[links]\nbytes_per_second = 1.0\n"
    Path("small.toml").write_text(worker.format("a") + worker.format("b") + links)
    assert cli.main(["planned_nets:with_data", "--cluster", "small.toml", "--out", "plan"]) == 1
    said = capsys.readouterr()
    assert said.err.startswith("failed: layer '0': INFEASIBLE")
    assert not Path("plan").exists()


def test_ctrl_c_before_there_is_anything_ends_with_130(capsys: pytest.CaptureFixture[str]) -> None:
    """One line: what is kept, and how to go on."""
    assert cli.main(["planned_nets:interrupted", "--workers", "2"]) == 130
    line = "interrupted before the plan was whole; {}\n"
    nothing = "nothing is kept; with --out DIR, answered layer problems are"
    assert capsys.readouterr().err == line.format(nothing)
    assert cli.main(["planned_nets:interrupted", "--workers", "2", "--out", "plan"]) == 130
    anew = "no layer problem was answered, so the same command begins anew"
    assert capsys.readouterr().err == line.format(anew)
    assert not Path("plan.partial").exists()


@pytest.mark.parametrize("step", ["calibration", "adjustment"])
def test_ctrl_c_in_calibration_or_adjustment_says_how_to_go_on(
    step: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before the layer problems nothing is kept; after them all answers are, the next run takes them and clears up."""
    from adapters.draft import Drafts
    from adapters.partition import Partitioner

    steps = {"calibration": (Partitioner, "_pruning_costs"), "adjustment": (Drafts, "draft")}

    def interrupted(*arguments: Any, **options: Any) -> None:
        raise KeyboardInterrupt

    command = ["planned_nets:with_data", *_QUICK, "--out", "plan"]
    partial = Path.cwd() / "plan.partial"
    with monkeypatch.context() as patch:
        patch.setattr(*steps[step], interrupted)
        assert cli.main(command) == 130
    kept = {
        "calibration": "no layer problem was answered, so the same command begins anew",
        "adjustment": f"2 answered layer problems are kept in {partial}; the same command goes on from there",
    }
    said = capsys.readouterr()
    assert (said.out, said.err) == ("", f"interrupted before the plan was whole; {kept[step]}\n")
    assert not Path("plan").exists()
    assert cli.main(["planned_nets:with_data", *_QUICK]) == 0
    whole = capsys.readouterr().out

    asked = []
    monkeypatch.setattr(LocalSearch, "solve", _noting(LocalSearch.solve, asked))
    assert cli.main(command) == 0
    assert _without_shards(capsys.readouterr().out) == whole
    assert len([limits for limits in asked if limits.seconds == 0.5]) == {"calibration": 2, "adjustment": 0}[step]
    assert not partial.exists()


def _noting(solve_layer: Callable[..., SolveResult], asked: list[SolveLimits]) -> Callable[..., SolveResult]:
    """The method, which notes the limits that it is called with."""

    def noted(
        self: Any, problem: LayerProblem, constraints: Any = (), limits: SolveLimits = SolveLimits(), *rest: Any
    ) -> SolveResult:
        asked.append(limits)
        return solve_layer(self, problem, constraints, limits, *rest)

    return noted


def test_an_interrupted_plan_is_saved_and_finished_by_the_next_run(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The second answer is cut short: the first is kept beside the plan, and only the second is asked for again."""
    asked: list[str] = []
    search = get("local-search", 0)

    class Interrupted:
        name = "local-search"

        def why_not(self, problem: LayerProblem, constraints: Any = ()) -> None:
            return None

        def solve(self, problem: LayerProblem, *arguments: Any) -> SolveResult:
            asked.append(problem.name)
            result = search.solve(problem, *arguments)
            return dataclasses.replace(result, limit=Limit.INTERRUPT) if len(asked) == 2 else result

    monkeypatch.setattr(cli, "get", lambda name, seed: Interrupted())
    command = ["planned_nets:with_data", *_QUICK, "--out", "plan"]
    assert cli.main(command) == 0
    assert asked == ["0", "2"]
    first, second = capsys.readouterr().err.splitlines()
    assert first == "interrupted; what was found so far is above"
    partial = Path.cwd() / "plan.partial"
    assert second == f"note: 1 answered layer problem is kept in {partial}; the same command goes on from there"
    PartitionPlan.load("plan")
    assert cli.main(command) == 0
    assert asked == ["0", "2", "2"]
    assert capsys.readouterr().err == ""
    assert not partial.exists()


def test_recovery_changes_weights_alone_and_says_so(capsys: pytest.CaptureFixture[str]) -> None:
    """`--recover`: bytes and placement stay, errors fall, a note and a setting tell."""
    found = []
    for options in ([], ["--recover", "30"]):
        assert cli.main(["planned_nets:with_data", *_QUICK, *options, "--json", "-", "--seed", "2"]) == 0
        said = capsys.readouterr()
        found.append(json.loads(said.out))
        assert ("weights were trained after pruning" in said.err) == bool(options)
    before, after = found
    assert (after["messages"], after["objective"]) == (before["messages"], before["objective"])
    recovered = after["settings"].pop("recovered")
    assert after["settings"] == before["settings"]
    assert (recovered["epochs"], recovered["seed"]) == (30, 2)
    assert recovered["output_error"] < recovered["output_error_before"]
    assert after["layers"][-1]["relative_error"] < before["layers"][-1]["relative_error"]


def test_workers_that_slow_the_plan_down_are_left_out(capsys: pytest.CaptureFixture[str]) -> None:
    """One alone needs one message: it has all neurons, and table, note and folder say who has none."""
    assert cli.main(["planned_nets:with_data", *_QUICK, "--leave-out", "--out", "plan"]) == 0
    said = capsys.readouterr()
    plan = PartitionPlan.load("plan")
    (idle,) = plan.settings["left_out"]
    assert f"left out, without a neuron: {idle}" in said.out.splitlines()
    (alone,) = {"w0", "w1"} - {idle}
    assert said.err.startswith(f"note: by quick plans, {alone} alone is fastest: ")
    assert {plan.cluster.worker_names[p] for layer in plan.layers for p in layer.worker} == {alone}
    assert plan.cluster.to_table() == Cluster.equal(2).to_table()


def test_all_workers_are_used_where_that_is_fastest(capsys: pytest.CaptureFixture[str]) -> None:
    """With messages that take no time both compute; it is said that the question was asked."""
    worker = '[[worker]]\nname = "{}"\nmacs_per_second = 1e3\nmemory_bytes = 10000\n'
    Path("near.toml").write_text(worker.format("a") + worker.format("b") + "[links]\nbytes_per_second = 1e12\n")
    arguments = ["planned_nets:with_data", *_QUICK[2:], "--cluster", "near.toml", "--leave-out", "--json", "-"]
    assert cli.main(arguments) == 0
    said = capsys.readouterr()
    assert said.err.startswith("note: by quick plans, all workers are worth using: ")
    assert json.loads(said.out)["settings"]["left_out"] == []


def test_guarantee_is_printed_and_in_the_json(capsys: pytest.CaptureFixture[str]) -> None:
    """Measured and guaranteed error of the outputs, on all examples."""
    assert cli.main(["planned_nets:with_data", *_QUICK, "--guarantee", "--json", "found.json"]) == 0
    said = capsys.readouterr().out.splitlines()[-3:]
    found = json.loads(Path("found.json").read_text())["output_error"]
    assert said[0] == "output error, in shares of their norm, 96 examples"
    assert said[1].startswith(f"  measured: mean {found['measured']['mean']:.3g}, largest ")
    assert said[2].startswith(f"  guaranteed: mean {found['guaranteed']['mean']:.3g}, largest ")
    assert 0 < found["measured"]["largest"] <= found["guaranteed"]["largest"]
    assert found["not_available"] == ""


def test_ctrl_c_in_the_figures_keeps_the_plan(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The plan is whole, printed and saved, and no answers stay behind it but for the next run."""
    from adapters import figures

    def interrupted(*arguments: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(figures, "output_error", interrupted)
    assert cli.main(["planned_nets:with_data", *_QUICK, "--guarantee", "--out", "plan"]) == 0
    said = capsys.readouterr()
    assert said.out.startswith(f"{PartitionPlan.load('plan')}\npredicted per example: ")
    assert said.err.startswith("interrupted; what was found so far is above\n")


def test_ctrl_c_in_a_solver_keeps_the_plan(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """The first answer is the last that the solver is asked for; the plan is finished, printed and saved."""
    asked = []

    class Interrupted:
        name = "interrupted"

        def why_not(self, problem: LayerProblem, constraints: Any = ()) -> None:
            return None

        def solve(self, problem: LayerProblem, *arguments: Any) -> SolveResult:
            asked.append(problem.name)
            result = solve(problem, "contiguous")
            return dataclasses.replace(result, limit=Limit.INTERRUPT)

    monkeypatch.setattr(cli, "get", lambda name, seed: Interrupted())
    files = ["--out", "plan", "--json", "plan.json"]
    assert cli.main(["planned_nets:with_data", *_QUICK, *files]) == 0
    assert asked == ["0"]
    said = capsys.readouterr()
    assert _without_shards(said.out) == f"{PartitionPlan.load('plan')}\n"
    assert said.err == "interrupted; what was found so far is above\n"
    assert json.loads(Path("plan.json").read_text())["interrupted"] is True


def test_help_and_bad_input_need_no_torch() -> None:
    """Seconds saved: the command, and all that the benchmarks share with it, load without torch."""
    code = (
        "import sys, adapters.output, adapters.user_code\nfrom adapters import cli\n"
        "assert cli.main(['m:f', '--workers', '0']) == 2\nassert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)
    root = Path(cli.__file__).parents[1]
    command = [sys.executable, "-X", "importtime", "-m", "adapters.partition", "--help"]
    done = subprocess.run(command, check=True, capture_output=True, text=True, cwd=root)
    assert "explain DIR LAYER" in done.stdout
    assert "adapters.cli" in done.stderr
    assert "torch" not in {line.rpartition("|")[2].strip() for line in done.stderr.splitlines()}
