"""Workers run trained networks as one process does, send what was predicted, and fail in one line each.

Three processes run all scenarios one after the other (`serving.run_all`); w1 is killed in the last one.
"""

from __future__ import annotations

import json
import os
import shutil
import socket
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch
from torch import nn

from adapters.runtime.shard import SHARDS, files, write_shards
from tests.adapters.lockstep import program_and_model
from tests.adapters.networks import Calls
from tests.adapters.runtime.serving import Scenario, placed, run_all, served

NAMES = ("w0", "w1", "w2")
_FUNCTIONS = "tests.adapters.runtime.serve_inputs:"
_LAST = "killed"


@pytest.fixture(scope="module")
def cnn():
    return served("digits-cnn", 3)


@pytest.fixture(scope="module")
def mlp():
    return served("digits-mlp", 3)


@pytest.fixture(scope="module")
def fixed():
    """A network that takes three examples at once, no more and no fewer."""
    torch.manual_seed(0)
    model = Calls(lambda m, x: m.b(m.a(x).view(3, 6).relu()), a=nn.Linear(4, 6), b=nn.Linear(6, 5)).eval()
    return placed(model, program_and_model(model, [torch.randn(3, 4)]), torch.randn(9, 4), 3, seed=0)


@pytest.fixture(scope="module")
def folder(tmp_path_factory, cnn, mlp, fixed):
    """Plans of the networks, damaged ones, and inputs."""
    made = tmp_path_factory.mktemp("serve")
    for name, network in (("cnn", cnn), ("mlp", mlp), ("fixed", fixed)):
        network.save(made / name)
    for rank in range(3):
        _only_shard(made / "cnn", made / f"alone-{rank}", NAMES[rank])
    shutil.copytree(made / "mlp", made / "damaged")
    files(made / "damaged" / SHARDS, "w1")[1].unlink()
    cut = files(made / "damaged" / SHARDS, "w2")[1]
    cut.write_bytes(cut.read_bytes()[:-1])
    shutil.copytree(made / "mlp", made / "digest")
    (made / "digest" / "plan.json").write_text('{"shards": "0123"}')
    other = placed(mlp.model, mlp.wiring.program, mlp.inputs, 3, seed=1)
    write_shards(other.shards, made / "other" / SHARDS)
    for rank, plan in enumerate(("mlp", "other", "other")):
        (made / f"plan-{rank}").symlink_to(made / plan)
    (made / "nan").mkdir()
    holding = mlp.inputs.clone()
    holding[5, :] = torch.nan
    mlp.save_inputs(made / "nan", whole=holding, w1=holding)
    (made / "out").mkdir()
    return made


def _only_shard(plan: Path, target: Path, name: str) -> None:
    """A folder in which all but one worker's shard is damaged, and the weights of the whole are."""
    shutil.copytree(plan, target)
    (target / "weights.safetensors").write_text("damaged")
    for path in (target / SHARDS).iterdir():
        if path.stem != name:
            path.write_text("damaged")


@pytest.fixture(scope="module")
def ran(folder):
    """By scenario: how the three runs of `serve` ended. The last of them is for the exit codes of the processes."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        scenarios = _right(folder) | _wrong(folder, str(taken.getsockname()[1])) | {_LAST: _at(folder, "mlp", "killed")}
        found, codes = run_all(folder, 3, scenarios)
    assert codes[1] == -9
    return found


def _at(folder, plan, function, *options, mode="own", inputs=None, env=None, extra=None, timeout="20"):
    """A scenario with inputs from a function."""
    variables = {
        rank: {"SERVE_FOLDER": str(folder / (inputs or plan)), **(env or {}).get(rank, {})} for rank in range(3)
    }
    given = ["--inputs", _FUNCTIONS + function, "--input-mode", mode, "--timeout", timeout]
    if not options:  # what fails must leave nothing there
        options = ("--out", str(folder / "out" / "{worker}.npy"))
    return Scenario([str(folder / plan), *given, *options], variables, extra)


def _right(folder):
    def to(name, *more):
        return ("--out", str(folder / name), "--json", str(folder / f"{name}.json"), *more)

    return {
        "whole": _at(folder, "alone-{rank}", "whole", *to("whole.npy"), mode="whole", inputs="cnn"),
        "own": _at(folder, "cnn", "own", *to("own.safetensors", "--at", "w1")),
        "int8": _at(folder, "mlp", "whole", *to("int8.npy", "--wire", "int8", "--at", "w2"), mode="whole"),
        "left": Scenario(
            [str(folder / "mlp"), "--inputs", str(folder / "mlp" / "own-{worker}.npy"), "--input-mode", "own",
             "--batch", "5", *to("left-{worker}.npy", "--leave")]
        ),
        "fixed": Scenario([str(folder / "fixed"), "--inputs", str(folder / "fixed" / "whole.npy"), *to("fixed.npy")]),
        "bench": _at(folder, "cnn", "whole", "--bench", "4", "--wire", "float16", "--json", "-", mode="whole"),
        "random": Scenario([str(folder / "mlp"), "--bench", "3", "--batch", "7", "--json", str(folder / "bench.json")]),
    }  # fmt: skip


def _wrong(folder, port):
    whole = {"mode": "whole"}
    address = {"PLACEMENT_INIT_METHOD": "env://", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    two = {1: ["--worker", "w1"], 2: ["--worker", "w1"]}
    return {
        "nan whole": _at(folder, "mlp", "whole", inputs="nan", **whole),
        "nan own": _at(folder, "mlp", "own", inputs="nan"),
        "raising": _at(folder, "mlp", "raising"),
        "uneven": _at(folder, "mlp", "uneven"),
        "shorter": _at(folder, "mlp", "shorter"),
        "nothing": _at(folder, "mlp", "nothing", **whole),
        "empty": _at(folder, "mlp", "empty", **whole),
        "texts": _at(folder, "mlp", "texts", **whole),
        "digest": _at(folder, "digest", "own", inputs="mlp"),
        "other": _at(folder, "plan-{rank}", "own", inputs="mlp"),
        "twice": _at(folder, "mlp", "own", extra=two),
        "processes": _at(folder, "mlp", "own", env={0: {"WORLD_SIZE": "4"}, 1: {"WORLD_SIZE": "2"}, 2: {"RANK": "3"}}),
        "unknown": _at(folder, "mlp", "own", extra={rank: ["--at", "w3"] for rank in range(3)}),
        "options": _at(folder, "mlp", "own", extra={1: ["--wire", "int8"]}),
        "folder": _at(folder, "mlp", "own", extra={0: ["--out", "/proc/none/x.npy"]}),
        "port": _at(folder, "mlp", "own", env=dict.fromkeys(range(3), address), timeout="1.5"),
        "damaged": _at(folder, "damaged", "own", inputs="mlp", timeout="1.5"),
        "slow": _at(folder, "mlp", "slowly", timeout="1.5", **whole),
    }


def _lines(runs):
    """What each worker said, where all failed with one line each."""
    found = []
    for run in runs:
        assert run.status != 0
        assert run.stdout == ""
        assert run.stderr.endswith("\n")
        found.append(f"{run.status} {run.stderr.removesuffix(chr(10))}")
        assert "\n" not in found[-1]
    return found


def _apart(made, right):
    """The largest difference, in shares of the largest output."""
    return float((torch.as_tensor(made) - right).abs().max() / right.abs().max())


def _content(folder, name):
    return json.loads((folder / f"{name}.json").read_text())


def _status(runs):
    return [(run.status, run.stdout, run.stderr) for run in runs]


# What is right


def test_whole_inputs_come_in_at_one_worker(ran, folder, cnn):
    """The residual CNN on w0, w1 and w2, of which each finds its own shard only, for batches of 1, 7 and 64: outputs
    are those of one process, and every link carried what was predicted, to the byte."""
    assert _status(ran["whole"]) == [(0, "", "")] * 3
    assert _apart(np.load(folder / "whole.npy"), cnn.outputs) <= 1e-5
    content = _content(folder, "whole.npy")
    assert content["bytes"] == content["predicted_bytes"] == cnn.bytes_by_link
    assert (content["bytes_as_predicted"], content["batches"], content["examples"]) == (True, 3, 72)
    assert content["schema"] == "serve/1"


def test_every_worker_has_its_own_inputs(ran, folder, cnn):
    """The same, of the workers' own parts, with the outputs put together at w1."""
    assert _status(ran["own"]) == [(0, "", "")] * 3
    made = safetensors.torch.load_file(folder / "own.safetensors")
    assert [_apart(output, cnn.outputs) for output in made.values()] <= [1e-5]
    assert _content(folder, "own.safetensors")["bytes"] == cnn.bytes_by_link


def test_outputs_stay_where_they_are(ran, folder, mlp):
    """`--leave` writes each worker's part; put together they are the outputs. A file of 72 examples is 15 batches of
    at most 5."""
    assert _status(ran["left"]) == [(0, "", "")] * 3
    (port,) = mlp.shards[0].outputs
    parts = {rank: np.load(folder / f"left-{name}.npy") for rank, name in enumerate(NAMES) if port.has[rank]}
    assert len(parts) > 1
    joined = port.joined({rank: torch.from_numpy(part) for rank, part in parts.items()}, 72)
    assert _apart(joined, mlp.outputs) <= 1e-5
    content = _content(folder, "left-w0.npy")
    assert (content["batches"], content["examples"], content["bytes"]) == (15, 72, mlp.bytes_by_link)


def test_a_network_of_three_examples_takes_three_at_a_time(ran, folder, fixed):
    """Nine are three batches, of which each sends what three examples do."""
    assert _status(ran["fixed"]) == [(0, "", "")] * 3
    with torch.no_grad():
        expected = torch.cat([fixed.model(part) for part in fixed.inputs.split(3)])
    assert _apart(np.load(folder / "fixed.npy"), expected) <= 1e-5
    content = _content(folder, "fixed.npy")
    assert (content["batches"], content["examples"], content["bytes"]) == (3, 9, fixed.bytes_by_link)


def test_smaller_numbers_on_the_wire(ran, folder, mlp):
    """As int8 a message of n numbers is n + 4 bytes, for each of the 72 examples; outputs are near."""
    assert _status(ran["int8"]) == [(0, "", "")] * 3
    expected = np.zeros((3, 3), dtype=int)
    for shard in mlp.shards:
        for transfer in shard.transfers:
            for peer, count in transfer.sends.items():
                expected[shard.rank, peer] += 72 * (count + 4)
    assert _content(folder, "int8.npy")["bytes"] == expected.tolist()
    assert 1e-5 < _apart(np.load(folder / "int8.npy"), mlp.outputs) < 0.05


def test_the_report(ran, folder, cnn, mlp):
    """JSON alone on standard output of the worker where inputs come in, beside the report for people; the first batch
    of the inputs has one example, four times. As float16 every message is half as long."""
    assert [run.status for run in ran["bench"]] == [0, 0, 0]
    assert [(run.stdout, run.stderr) for run in ran["bench"][1:]] == [("", "")] * 2
    content = json.loads(ran["bench"][0].stdout)
    assert content["bytes"] == (4 * cnn.wiring.bytes_by_link() // 2).tolist() == content["predicted_bytes"]
    assert (content["batch"], content["batches"], content["examples"], content["wire"]) == (1, 4, 4, "float16")
    assert 0 < content["wire_error"] < 0.01
    assert content["overlap"] == content["median_seconds"] / content["overlapped_seconds"]
    assert [len(worker["seconds"]) for worker in content["workers"]] == [4, 4, 4]
    for worker, shard in zip(content["workers"], cnn.shards, strict=True):
        assert worker["shard_bytes"] == shard.num_bytes
        assert worker["processor"] > 0
        assert worker["messages"] == [sum(rank in transfer.sends for transfer in shard.transfers) for rank in range(3)]
    used = sum(worker["processor"] for worker in content["workers"])  # all on this machine
    slowest = np.max([worker["seconds"] for worker in content["workers"]], axis=0)
    assert content["busy"] == pytest.approx(used / len(content["workers"][0]["cores"]) / slowest.mean())
    assert "bytes as predicted" in ran["bench"][0].stderr
    assert "because of the wire" in ran["bench"][0].stderr
    assert ran["random"][0].stdout.startswith("3 batches of 7: median ")
    assert _content(folder, "bench")["bytes"] == (21 * mlp.wiring.bytes_by_link()).tolist()


# What is wrong


def _followers(cause, runs):
    """Those who say that they stopped because of it."""
    lines = _lines(runs)
    return [rank for rank, line in enumerate(lines) if line == f"1 failed: worker 'w{rank}': stopped because {cause}"]


def _all_say(cause, runs):
    """All found it at once, or were told before."""
    for rank, line in enumerate(_lines(runs)):
        assert line in (f"1 failed: {cause}", f"1 failed: worker 'w{rank}': stopped because {cause}")


def test_inputs_that_are_no_numbers(ran, folder):
    """NaN is found where inputs come in, by its batch and example; the others end with that cause."""
    what = f"inputs '{_FUNCTIONS}whole': batch 2 holds NaN or infinite numbers in example 4; give finite ones"
    assert _lines(ran["nan whole"])[0] == f"2 error: {what}"
    assert _followers(f"worker 'w0': {what}", ran["nan whole"]) == [1, 2]
    what = what.replace("whole", "own")
    assert _lines(ran["nan own"])[1] == f"2 error: {what}"
    assert _followers(f"worker 'w1': {what}", ran["nan own"]) == [0, 2]


@pytest.mark.parametrize(
    ("name", "source", "line"),
    [
        ("raising", 1, "ZeroDivisionError: no such quotient; at "),
        ("nothing", 0, "there are no batches; give at least one"),
        ("empty", 0, "batch 1: of 0 examples; give all arrays the same number of them, at least 1"),
        ("texts", 0, "batch 1: a str is no array of numbers; yield arrays or tensors"),
    ],
)
def test_functions_that_yield_no_batches(ran, name, source, line):
    """They raise, yield none, empty ones, or no numbers: the worker that has them says so, the others follow."""
    said = _lines(ran[name])[source]
    assert said.startswith(f"2 error: inputs '{_FUNCTIONS}{name}': {line}")
    cause = said.removeprefix("2 error: ")
    assert _followers(f"worker 'w{source}': {cause}", ran[name]) == [rank for rank in range(3) if rank != source]


@pytest.mark.parametrize(("name", "batch", "counts"), [("uneven", 2, (7, 6, 7)), ("shorter", 3, (64, "none", 64))])
def test_own_inputs_of_different_numbers_of_examples(ran, name, batch, counts):
    """Nobody computes with parts that do not belong together, in the middle or at the end."""
    each = ", ".join(f"worker 'w{rank}' {count}" for rank, count in enumerate(counts))
    _all_say(f"inputs of batch {batch} are of different numbers of examples: {each}; give all the same", ran[name])


def test_shards_that_are_missing_or_damaged(ran, folder):
    """w1's tensors are missing and w2's lack a byte; w0 waits for them in vain."""
    waits, missing, cut = _lines(ran["damaged"])
    shards = folder / "damaged" / "shards"
    assert missing == f"2 error: {shards}/w1.safetensors: no such file; copy the whole shard there"
    assert cut.startswith(f"2 error: {shards}/w2.safetensors: not the file that belongs to the .json beside it")
    assert waits.startswith("1 failed: worker 'w0': worker 'w1' and worker 'w2' did not come to 'start' within 1.5 s")


def test_shards_of_different_plans(ran, folder):
    """Than plan.json beside them, or than other workers have."""
    for rank, line in enumerate(_lines(ran["digest"])):
        shard, plan = f"{folder}/digest/shards/w{rank}.json", f"{folder}/digest/plan.json"
        assert line == f"2 error: {shard}: is of another plan than {plan}; copy that plan's"
    _all_say("worker 'w1' has a shard of another plan than worker 'w0'; copy all anew", ran["other"])


def test_two_processes_with_one_shard(ran):
    """All three are told which worker it is."""
    for line in _lines(ran["twice"]):
        assert "worker 'w1': claimed by two processes" in line


def test_a_wrong_number_of_processes(ran):
    """Too many, too few, or a rank that there is not."""
    assert _lines(ran["processes"]) == [
        "1 failed: worker 'w0': WORLD_SIZE is 4, but there are 3 workers; start 3 processes",
        "1 failed: worker 'w1': WORLD_SIZE is 2, but there are 3 workers; start 3 processes",
        "2 error: RANK is 3; the plan is for 3 workers: start one process for each",
    ]


def test_no_such_worker(ran):
    """To `--at`."""
    line = "2 error: --at 'w3' is no worker of the plan; choose from w0, w1, w2"
    assert _lines(ran["unknown"]) == [line] * 3


def test_options_that_differ(ran):
    """Messages of different sizes would cross."""
    _all_say("--wire is int8 for worker 'w1' and native for worker 'w0'; give all the same", ran["options"])


def test_outputs_that_cannot_be_written(ran):
    """Is found out before the work, and told to all."""
    said = _lines(ran["folder"])[0]
    assert said.startswith("2 error: /proc/none: cannot be written (")
    assert _followers(f"worker 'w0': {said.removeprefix('2 error: ')}", ran["folder"]) == [1, 2]


def test_a_port_that_is_taken(ran):
    """w0 cannot listen there; the others find something else there."""
    first, *others = _lines(ran["port"])
    assert first.endswith(" on 127.0.0.1 is taken; choose another MASTER_PORT")
    for rank, line in enumerate(others, start=1):
        assert line.startswith(f"1 failed: worker 'w{rank}': worker 'w0' does not answer at 127.0.0.1:")


def test_inputs_that_come_too_late(ran):
    """Whoever waits longest names w0, which is told when it goes on."""
    for line in _lines(ran["slow"]):
        assert "waited 1.5 s for 'number of examples'; worker 'w0' hangs or is too slow" in line


def test_a_worker_that_is_killed(ran):
    """w1, before its fifth batch: the other two name it."""
    lines = _lines(ran[_LAST])
    assert len(lines) == 2
    for line in lines:
        assert "the connection to worker 'w1' broke" in line


def test_who_fails_leaves_no_file(ran, folder):
    """Neither outputs nor a temporary file of them, whatever went wrong."""
    assert os.listdir(folder / "out") == []
