"""Processes started together end together, whatever ends one of them."""

import os
import signal
import subprocess
import sys
import time

import psutil
import pytest

from adapters.runtime import launch as launching
from adapters.runtime.launch import launch
from formulations import InputError

SAY_WHO = """
import os, sys
names = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE", "OMP_NUM_THREADS", "PLACEMENT_INIT_METHOD")
print(*(os.environ.get(name) for name in names))
print("to stderr", file=sys.stderr)
"""

#: The rank given fails once two others are there; these go on for a minute, each with a child process, and cannot be
#: told to end.
ONE_FAILS = """
import os, signal, subprocess, sys, time
while os.environ["RANK"] == sys.argv[2]:
    if len(os.listdir(sys.argv[1])) == 2:
        {fail}
    time.sleep(0.01)
signal.signal(signal.SIGTERM, signal.SIG_IGN)
child = subprocess.Popen(["sleep", "61"])
open(os.path.join(sys.argv[1], str(child.pid)), "w").close()
time.sleep(61)
"""


@pytest.fixture
def impatient(monkeypatch):
    """Workers have little time to end by themselves."""
    monkeypatch.setattr(launching, "_GRACE_SECONDS", 0.2)
    monkeypatch.setattr(launching, "_TERMINATE_SECONDS", 0.2)


def children_of(folder):
    """What the workers started that still runs, some seconds after it was killed: a signal takes a moment."""
    until = time.monotonic() + 20
    while True:
        running = {process.pid for process in psutil.process_iter() if process.status() != psutil.STATUS_ZOMBIE}
        found = sorted(running & {int(name) for name in os.listdir(folder)})
        if not found or time.monotonic() > until:
            return found
        time.sleep(0.02)


def test_every_worker_knows_who_it_is():
    """The variables that torchrun sets, what was given, and one file to meet at; output is kept apart."""
    finished = launch([sys.executable, "-c", SAY_WHO], 2, 30, env={**os.environ, "OMP_NUM_THREADS": "1"})
    first, second = (worker.stdout.split() for worker in finished)
    assert first[:5] == ["0", "0", "2", "2", "1"]
    assert second[:5] == ["1", "1", "2", "2", "1"]
    assert first[5] == second[5]
    assert first[5].startswith("file:///")
    assert [worker.stderr for worker in finished] == ["to stderr\n"] * 2
    assert [str(worker) for worker in finished] == [f"worker {rank} ended with exit code 0" for rank in (0, 1)]
    assert not any(worker.failed for worker in finished)


@pytest.mark.parametrize(
    ("fail", "line"),
    [
        ("sys.exit(3)", "worker 1 ended with exit code 3"),
        ("os.kill(os.getpid(), signal.SIGKILL)", "worker 1 was killed by signal 9"),
    ],
)
def test_one_that_fails_ends_all(tmp_path, impatient, fail, line):
    """Also workers that ignore SIGTERM, and what they started."""
    finished = launch([sys.executable, "-c", ONE_FAILS.replace("{fail}", fail), str(tmp_path), "1"], 3, 50)
    assert str(finished[1]) == line
    for worker in (finished[0], finished[2]):
        assert str(worker) == f"worker {worker.rank} was ended because worker 1 failed"
        assert worker.returncode == -signal.SIGKILL
    assert len(os.listdir(tmp_path)) == 2
    assert children_of(tmp_path) == []


def test_the_timeout_ends_all(tmp_path, impatient):
    """Nobody fails; also a stopped process ends."""
    code = "import os, signal; os.kill(os.getpid(), signal.SIGSTOP)"
    finished = launch([sys.executable, "-c", code], 2, 0.5)
    assert [str(worker) for worker in finished] == [
        f"worker {rank} was ended because it was still running after 0.5 s" for rank in (0, 1)
    ]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupt_ends_all(tmp_path, number):
    """Ctrl-C, and being told to end, leave no process behind."""
    code = f"""
import sys
from adapters.runtime import launch as launching
launching._TERMINATE_SECONDS = 0.2
launching.launch([sys.executable, "-c", {ONE_FAILS.replace("{fail}", "pass")!r}, {str(tmp_path)!r}, "nobody"], 2, 50)
"""
    launcher = subprocess.Popen([sys.executable, "-c", code], stderr=subprocess.DEVNULL)
    until = time.monotonic() + 40
    while len(os.listdir(tmp_path)) < 2 and time.monotonic() < until:
        time.sleep(0.02)
    launcher.send_signal(number)
    assert launcher.wait(40) != 0
    assert len(os.listdir(tmp_path)) == 2
    assert children_of(tmp_path) == []


def test_what_cannot_be_started_is_said():
    """No such program, and no workers."""
    with pytest.raises(InputError, match=r"no-such-program cannot be started \(No such file or directory\)"):
        launch(["no-such-program"], 2, 5)
    with pytest.raises(InputError, match="0 workers asked for"):
        launch([sys.executable], 0, 5)


def test_importing_it_is_cheap():
    """A command that starts workers need not load torch itself."""
    code = "import sys, adapters.runtime.launch; print('torch' in sys.modules, 'numpy' in sys.modules)"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout == "False False\n"
