"""The command `serve`: how it is started and interrupted, and what it refuses before any worker is."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
import safetensors.torch
import torch
from torch import nn

from adapters.local_workers import run_distributed
from adapters.runtime import launch as launching
from adapters.runtime.launch import launch
from adapters.runtime.overlap import Timeline, overlapped
from adapters.runtime.report import Measured, Report
from adapters.runtime.serve import main
from adapters.shards import wired
from tests.adapters.lockstep import placed_on, program_and_model
from tests.adapters.networks import network
from tests.adapters.runtime.serving import ROOT, placed, processes_of, wait_for

_SERVE = [sys.executable, "-m", "adapters.runtime.serve"]
_FUNCTIONS = "tests.adapters.runtime.serve_inputs:"


@pytest.fixture(scope="module")
def plan(tmp_path_factory):
    """A small network on two workers, in a folder with inputs."""
    folder = tmp_path_factory.mktemp("serve")
    model, inputs = network("mlp")
    program = program_and_model(model, [inputs])
    made = placed(model, program, torch.randn(72, 6, generator=torch.Generator().manual_seed(0)), 2, seed=1)
    made.save(folder)
    return folder, made


def _environment(folder):
    return {**os.environ, "SERVE_FOLDER": str(folder), "OMP_NUM_THREADS": "1"}


def test_torchrun_starts_workers(plan, tmp_path):
    """Two processes by torch.distributed.run, each of which finds its shard by its rank."""
    folder, made = plan
    out = tmp_path / "out.safetensors"
    command = [
        sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2",
        "-m", "adapters.runtime.serve", str(folder), "--inputs", _FUNCTIONS + "whole", "--out", str(out),
    ]  # fmt: skip
    subprocess.run(command, env=_environment(folder), cwd=ROOT, check=True, capture_output=True, timeout=120)
    (found,) = safetensors.torch.load_file(out).values()
    torch.testing.assert_close(found, made.outputs, rtol=0, atol=1e-5 * float(made.outputs.abs().max()))


@pytest.mark.parametrize("input_mode", ["whole", pytest.param("own", marks=pytest.mark.slow)])
def test_run_distributed(plan, input_mode):
    """From Python: the outputs of one module, of 72 examples, 50 and then 22 at a time."""
    _, made = plan
    found = run_distributed(made.shards, made.inputs, batch=50, input_mode=input_mode, timeout_seconds=100)
    torch.testing.assert_close(found, made.outputs, rtol=0, atol=1e-5 * float(made.outputs.abs().max()))


def test_a_worker_with_inputs_only():
    """A sensor, which has no part in what crosses for later layers: seven examples, four at a time."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 4)).eval()
    inputs = torch.randn(7, 6)
    program = program_and_model(model, [inputs])
    graph = program.graph
    worker = np.arange(graph.num_units) % 2
    worker[graph.inputs[0]] = [0, 0, 1, 1, 2, 2]
    kept = (np.ones((8, 6), dtype=bool), np.ones((4, 8), dtype=bool))
    shards = wired(placed_on(worker, 3, program, kept, (False, False), model.state_dict()))
    assert [bool(transfer.sends or transfer.receives) for transfer in shards[2].transfers] == [True, False]
    found = run_distributed(shards, inputs, batch=4, timeout_seconds=100)
    torch.testing.assert_close(found, model(inputs))


def test_a_worker_that_hangs(plan, tmp_path, monkeypatch):
    """w1 is stopped before its fifth batch; w0 names it after its timeout, and then w1 is ended."""
    monkeypatch.setattr(launching, "_GRACE_SECONDS", 0.2)
    monkeypatch.setattr(launching, "_TERMINATE_SECONDS", 0.2)
    folder, _ = plan
    command = [
        *_SERVE, str(folder), "--inputs", _FUNCTIONS + "stopped", "--input-mode", "own", "--timeout", "3",
        "--out", str(tmp_path / "out.npy"),
    ]  # fmt: skip
    first, second = launch(command, 2, 120, cwd=ROOT, env=_environment(folder))
    assert first.returncode == 1
    # For the outputs of the batch before, where these had not left yet.
    assert re.fullmatch(
        "failed: worker 'w0': waited 3 s for ('number of examples'|\"output '.*'\"); worker 'w1' hangs or is too slow: "
        "look there, or raise the timeout\n",
        first.stderr,
    )
    assert str(second) == "worker 1 was ended because worker 0 failed"
    assert os.listdir(tmp_path) == []


def test_an_interrupt_ends_all(plan, tmp_path):
    """Ctrl-C at the command that started the workers, in the middle of inputs without end."""
    folder, _ = plan
    out = tmp_path / "out.npy"
    command = [*_SERVE, str(folder), "--local", "--inputs", _FUNCTIONS + "forever", "--out", str(out)]
    process = subprocess.Popen(
        command, env=_environment(folder), cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    try:
        wait_for(folder / "running")
        assert len(processes_of(folder)) == 3
        process.send_signal(signal.SIGINT)
        assert process.communicate(timeout=30) == ("", "interrupted\n")
        assert process.returncode == 130
    finally:
        process.terminate()  # its workers with it
        process.wait(timeout=30)
    assert processes_of(folder) == []
    assert os.listdir(tmp_path) == []


def test_all_workers_on_this_machine(plan, capfd):
    """`--local` starts both and passes on what they say: JSON alone on standard output."""
    folder, made = plan
    assert main([str(folder), "--local", "--bench", "2", "--batch", "3", "--json", "-"]) == 0
    out, err = capfd.readouterr()
    assert json.loads(out)["bytes"] == (6 * made.wiring.bytes_by_link()).tolist()
    assert err.startswith("2 batches of 3: median ")


def test_help_is_cheap():
    """It does not import torch or numpy."""
    code = (
        "import sys\nfrom adapters.runtime.serve import main\n"
        "try:\n    main(['--help'])\nexcept SystemExit:\n    pass\n"
        "print('torch' in sys.modules, 'pyomo' in sys.modules)"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert "--input-mode" in found.stdout
    assert found.stdout.endswith("False False\n")


@pytest.mark.parametrize(
    ("options", "line"),
    [
        ([], "nothing to do; give --inputs FILE, or --bench N"),
        (["--bench", "0"], "--bench is 0; give at least 1"),
        (["--bench", "1", "--batch", "0"], "--batch is 0; give at least 1"),
        (["--bench", "1", "--timeout", "nan"], "--timeout is nan; give seconds, a number > 0"),
        (["--bench", "1", "--out", "x.npy"], "--bench keeps no outputs; leave out --out"),
        (["--inputs", "x.npy", "--leave"], "--leave makes a file for each worker; give --out with {worker} in its "
         "name"),
        (["--inputs", "x.npy", "--leave", "--out", "y.npy"], "--leave makes a file for each worker; give --out with "
         "{worker} in its name"),
        (["--inp", "x.npy"], "unrecognized arguments: --inp x.npy; see python -m adapters.runtime.serve --help"),
        (["--local", "--worker", "w0"], "argument --worker: not allowed with argument --local; see python -m "
         "adapters.runtime.serve --help"),
        (["--inputs", "x.npy", "--out", "y.txt"], "--out y.txt: outputs end in .npy or .safetensors; choose one"),
        (["--bench", "1", "--worker", "w5"], "{shards}/w5.json: no such file; copy the shard there"),
    ],
)  # fmt: skip
def test_bad_options_are_one_line(plan, options, line, monkeypatch, capsys):
    """Exit status 2, before anything is started."""
    monkeypatch.setenv("RANK", "0")
    folder, _ = plan
    assert main([str(folder), *options]) == 2
    assert capsys.readouterr().err == f"error: {line.replace('{shards}', f'{folder}/shards')}\n"


def test_there_must_be_ranks_or_one_machine(plan, monkeypatch, capsys, tmp_path):
    """Started by hand, and a folder that is no plan."""
    monkeypatch.delenv("RANK", raising=False)
    assert main([str(plan[0]), "--bench", "1"]) == 2
    assert "start one process for each worker with torchrun, or give --local" in capsys.readouterr().err
    assert main([str(tmp_path), "--bench", "1", "--local"]) == 2
    assert f"{tmp_path}/shards: holds no shard" in capsys.readouterr().err


def test_perfect_overlap():
    """w0 computes 3 s and sends, which takes 2 s; w1 sends nothing, computes 1 s, waits until 3 + 2, then computes 4 s
    and sends; w0, idle from 3 to 9 + 1, computes 2 s more: 12 s."""
    first = Timeline([("compute", -1, 3.0), ("send", 0, 0.0), ("receive", 1, 0.0), ("compute", -1, 2.0)],
                     [9.0, 1.0], [[], [1]])  # fmt: skip
    second = Timeline([("compute", -1, 1.0), ("receive", 0, 0.0), ("compute", -1, 4.0), ("send", 1, 0.0)],
                      [2.0, 9.0], [[0], []])  # fmt: skip
    assert overlapped([first, second]) == 12.0


def test_workers_that_wait_for_each_other_have_no_overlap():
    """Each receives before it sends."""
    waits = [("receive", 0, 0.0), ("send", 0, 0.0)]
    with pytest.raises(RuntimeError, match="wait for each other"):
        overlapped([Timeline(waits, [1.0], [[1]]), Timeline(waits, [1.0], [[0]])])


def _measured(name, machine, cores, processor):
    return Measured(
        name=name, seconds=[2.0, 4.0], computing=1.0, waiting=1.0, without_messages=1.0, processor=processor,
        machine=machine, cores=cores, shard_bytes=1, peak_bytes=1, messages=[0.0] * 3,
    )  # fmt: skip


def test_how_busy_cores_are_by_hand():
    """Batches take 3 s on average. Of one machine a has core 0, b has 0 and 1; together they use 3 of its 6 s. c has
    another machine, and a single core of it, to itself."""
    workers = (_measured("a", "m", [0], 1.0), _measured("b", "m", [0, 1], 2.0), _measured("c", "n", [0], 0.75))
    rest = dict.fromkeys(("batch", "wire", "way", "traffic", "predicted", "overlapped", "wire_error"))
    assert Report(workers=workers, **rest).busy == 0.5
    assert Report(workers=(*workers[:2], replace(workers[2], processor=2.25)), **rest).busy == 0.75
