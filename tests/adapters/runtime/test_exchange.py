"""Three processes that exchange numbers known by hand, and what they say when one of them fails.

anna is rank 0, bert 1, cleo 2; `exchange_worker.py` is what they run. A number that goes from p to q is
100 p + 10 q + its place.
"""

import json
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path
from unittest import mock

import psutil
import pytest
import torch

from adapters.runtime import launch as launching
from adapters.runtime.exchange import Transfer
from adapters.runtime.launch import launch
from adapters.runtime.messages import Buffer
from adapters.runtime.wire import wire_bytes
from formulations import InputError

WORKER = Path(__file__).with_name("exchange_worker.py")


def run(tmp_path, *scenarios, grace=40, **environment):
    """What the three processes wrote and how they ended; the others have so many seconds to end once one has failed."""
    env = {**os.environ, "OMP_NUM_THREADS": "1", **environment}
    with mock.patch.object(launching, "_GRACE_SECONDS", grace):
        finished = launch([sys.executable, str(WORKER), str(tmp_path), *scenarios], 3, 60, env=env)
    assert not [process for process in psutil.process_iter(["cmdline"]) if str(tmp_path) in str(process.info)]
    return finished


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """Processes that exchange, then fail to meet, then fail at work; with a port that is taken, and one that is not."""
    with socket.socket() as taken, socket.socket() as free:
        for listener in (taken, free):
            listener.bind(("127.0.0.1", 0))
        taken.listen()
        ports = {"TAKEN_PORT": str(taken.getsockname()[1]), "FREE_PORT": str(free.getsockname()[1])}
        free.close()
        return run(tmp_path_factory.mktemp("workers"), "right", "refused", "misfit", "raises", **ports)


@pytest.fixture(scope="module")
def right(finished):
    """By rank: what arrived."""
    return [json.loads(worker.stdout.splitlines()[0]) for worker in finished]


@pytest.fixture(scope="module")
def refused(finished):
    """By rank: the line of every start that cannot work."""
    return [json.loads(worker.stdout.splitlines()[1]) for worker in finished]


def test_uneven_and_absent_messages_arrive(right):
    """anna sends bert 2 numbers and cleo 3, bert sends anna 1, cleo sends bert 4, for 1, 3 and 2 examples."""
    assert right[0]["uneven"] == [{"1": [100]}, {"1": [100, 101, 102]}, {"1": [100, 101]}]
    assert right[1]["uneven"][0] == {"0": [10, 11], "2": [210, 211, 212, 213]}
    assert right[1]["uneven"][1] == {"0": list(range(10, 16)), "2": list(range(210, 222))}
    assert right[2]["uneven"] == [{"0": list(range(20, 20 + 3 * batch))} for batch in (1, 3, 2)]


def test_messages_and_bytes_by_link_are_exact(right):
    """Six examples in three requests: 3 messages on each of the four links, of 6 · 4 bytes a number, none elsewhere."""
    sent = [worker["uneven counters"]["bytes_sent"] for worker in right]
    assert sent == [[0, 6 * 4 * 2, 6 * 4 * 3], [6 * 4 * 1, 0, 0], [0, 6 * 4 * 4, 0]]
    received = [worker["uneven counters"]["bytes_received"] for worker in right]
    assert received == [list(column) for column in zip(*sent, strict=True)]
    assert [worker["uneven counters"]["messages_sent"] for worker in right] == [[0, 3, 3], [3, 0, 0], [0, 3, 0]]


def test_both_ways_of_sending_give_and_count_the_same(right):
    """Where everyone sends to everyone, also a batch of no examples, which sends nothing; cleo sends bert 6 numbers."""
    for worker in right:
        assert worker["point to point"] == worker["all to all"]
        assert worker["point to point counters"] == worker["all to all counters"]
    assert right[1]["all to all"][1]["2"] == [210, 211, 212, 213, 214, 215]
    assert right[1]["all to all"][3] == {"0": [], "2": []}
    assert right[2]["all to all counters"]["bytes_sent"] == [5 * 4 * 5, 5 * 4 * 6, 0]
    assert right[2]["all to all counters"]["messages_sent"] == [3, 3, 0]


def test_the_group_counts_all_exchanges(right):
    """anna's bytes to cleo: 6 · 4 · 3 uneven and 5 · 4 · 2 full, which was reset between the two ways."""
    assert right[0]["total"]["bytes_sent"][2] == 72 + 40
    assert right[0]["after choosing"]["bytes_sent"] == [0, 0, 0]


def test_exchanges_in_flight_finish_in_any_order(right):
    """Two are under way between the same workers; the second one is finished first, and neither takes the other's."""
    full, uneven = right[1]["in flight"]
    assert full == {"0": [2010], "2": [2210, 2211, 2212, 2213, 2214, 2215]}
    assert uneven == {"0": [1010, 1011], "2": [1210, 1211, 1212, 1213]}


def test_nothing_is_overwritten_before_it_is_taken(right):
    """anna only sends, and bert is slow: all twenty requests arrive as they were written."""
    assert right[1]["ahead"] == [{"0": [5000 * k + 10, 5000 * k + 1009]} for k in range(20)]


def test_no_two_workers_send_to_the_same_first(right):
    """Each begins with the next one, and expects the one before it first."""
    assert [worker["order"] for worker in right] == [[[2, 1], [1, 2]], [[0, 2], [2, 0]], [[1, 0], [0, 1]]]


def test_what_is_expected_arrives_before_it_is_asked_for(right):
    """anna's 200,000 numbers are taken while bert waits for her word, which she gives after that; and what is expected
    is not expected again, for another batch or under way. cleo has no part in it: any batch is as good."""
    refusals = ["exchange 'expected' expects 2 examples, not 3", "exchange 'expected' is under way; finish it first"]
    assert [worker["expected"][0] for worker in right] == [refusals, refusals, refusals[1:]]
    assert right[1]["expected"][1] == {"0": [200_000, 7010, 7010 + 199_999]}


def test_waiting_is_counted_by_worker(right):
    """bert waits for anna's messages, anna until bert has taken them; cleo has no part in it."""
    anna, bert, cleo = (worker["ahead waited"] for worker in right)
    assert anna[1] > 0
    assert bert[0] > 0
    assert [anna[0], *anna[2:], *bert[1:], *cleo] == [0] * 7


def test_memory_is_that_of_the_largest_batch():
    """Batches of 4, 2, 5 and 4 examples of 3 + 2 numbers: new memory for the fifth example only, cut by worker."""
    buffer = Buffer({1: 3, 2: 2}, torch.float32, "int8", torch.device("cpu"))
    found = []
    for batch in (4, 2, 5, 4):
        buffer.resize(batch)
        places = (buffer.whole.untyped_storage().data_ptr(), buffer.values[1].untyped_storage().data_ptr())
        found.append((*places, buffer.whole.untyped_storage().nbytes()))
        assert [len(values) for values in buffer.values.values()] == [3 * batch, 2 * batch]
        assert [len(message) for message in buffer.messages.values()] == [batch * (3 + 4), batch * (2 + 4)]
    assert found[0] == found[1]
    assert found[2] == found[3]
    assert (found[0][2], found[2][2]) == (4 * 13, 5 * 13)


@pytest.mark.parametrize("wire", ["native", "int8"])
def test_memory_made_in_inference_mode_can_be_written_to_outside(wire):
    """A worker runs in inference mode, and `choose` does not."""
    buffer = Buffer({1: 3}, torch.float32, wire, torch.device("cpu"))
    with torch.inference_mode():
        buffer.resize(2)
        buffer.values[1].copy_(torch.tensor([127.0, 1, -3, 0, 0, 0]))
        buffer.pack()
    buffer.values[1].neg_()
    buffer.unpack()
    assert buffer.values[1].tolist() == ([127, 1, -3, 0, 0, 0] if wire == "int8" else [-127, -1, 3, 0, 0, 0])


def test_smaller_numbers_on_the_wire(right):
    """float16 rounds to 11 bits; int8 to steps of the example's largest / 127, here 1; integers cross as they are."""
    wires = right[0]["wires"]
    assert wires["float16 torch.float32"][0] == ["127.0", repr(float(torch.tensor(0.7).half())), "0.0", "0.0"]
    assert wires["float16 torch.float32"][1:] == [["inf", "1.0"], ["inf", "1.0"]]
    rounded, large, infinite = wires["int8 torch.float32"]
    assert rounded == ["127.0", "1.0", "0.0", "0.0"]
    assert float(large[0]) == pytest.approx(1e30)
    assert infinite == ["nan", "nan"]
    assert wires["int8 torch.int64"] == [["127", "0", "0", "0"]]
    assert wires["float16 torch.float32 bytes"] == 4 * 2 * 2
    assert wires["int8 torch.float32 bytes"] == 4 * (2 + 4)
    assert wires["int8 torch.int64 bytes"] == 2 * 2 * 8


def test_all_choose_alike(right):
    """All workers use the same way, and the exchange in which not everyone sends to everyone stays point to point."""
    assert len({worker["chosen"] for worker in right}) == 1
    for worker in right:
        assert worker["ways"] == ["point to point", worker["chosen"]]


def test_every_worker_reads_the_strings_of_all(right):
    """The same key twice gives two answers."""
    assert [worker["agreed"] for worker in right] == [[["anna", "bert", "cleo"], ["0", "1", "2"]]] * 3


def test_wrong_number_of_processes(refused):
    """WORLD_SIZE is another number than the workers'."""
    assert refused[0]["world size"] == ("worker 'anna': WORLD_SIZE is 4, but there are 3 workers; start 3 processes")


def test_two_processes_of_one_rank(refused):
    """cleo's process calls itself bert: one of the two says so, and anna gives that as her reason."""
    lines = [worker["twice"] for worker in refused]
    assert all("worker 'bert': claimed by two processes" in line and "RANK" in line for line in lines)
    assert lines[0].startswith("worker 'anna': stopped because")


def test_workers_that_know_each_other_by_other_names(refused):
    """bert was given another plan; whoever says so, all end with it."""
    for worker in refused:
        assert "anna, bert, zoe" in worker["other names"]
        assert "give all the same plan" in worker["other names"]


def test_a_worker_that_does_not_come(refused):
    """anna and bert wait for cleo and name her."""
    for worker in refused[:2]:
        assert "worker 'cleo' did not come to 'start' within 1.5 s; start one process for each" in worker["missing"]


def test_ports(refused):
    """By a free port they meet; where another program listens, anna says so, and the others get no answer."""
    assert [worker["free port"] for worker in refused] == ["connected"] * 3
    assert "is taken; choose another MASTER_PORT" in refused[0]["taken port"]
    for worker in refused[1:]:
        assert "worker 'anna' does not answer at 127.0.0.1:" in worker["taken port"]


def test_plans_that_do_not_fit_are_refused_before_anything_is_sent(finished):
    """anna sends two float32, bert expects three: all say so."""
    for worker in finished:
        line = worker.stderr.splitlines()[0]
        assert "worker 'anna' sends worker 'bert' 8 bytes of 'fc1', which expects 12" in line


def test_the_others_give_the_reason_of_the_worker_that_fails(finished):
    """cleo's own code raises: she is one line, the others name her error instead of a broken connection."""
    assert finished[2].stderr.splitlines()[1:] == ["divided"]
    for worker in finished[:2]:
        assert worker.stderr.splitlines()[1:] == [
            f"worker {'anna' if worker.rank == 0 else 'bert'!r}: stopped because worker 'cleo': ZeroDivisionError: no"
        ]


def test_a_killed_worker(tmp_path):
    """cleo is killed; anna, who waits for her, and bert, who waits for anna, each say it in one line."""
    finished = run(tmp_path, "killed")
    assert finished[2].returncode == -signal.SIGKILL
    cause = "worker 'anna': the connection to worker 'cleo' broke while waiting for its part of 'conv2'"
    assert finished[0].stderr == f"{cause}; it has died or left\n"
    assert finished[1].stderr == f"worker 'bert': stopped because {cause}; it has died or left\n"
    assert finished[0].returncode == finished[1].returncode == 1


def test_a_hanging_worker(tmp_path, monkeypatch):
    """cleo stops; bert, who waits for anna and began before her, blames cleo all the same, and cleo is ended."""
    monkeypatch.setattr(launching, "_TERMINATE_SECONDS", 0.1)  # who is stopped does not hear it
    finished = run(tmp_path, "hanging", grace=6)
    assert finished[2].ended.endswith("failed")
    for worker in finished[:2]:
        assert len(worker.stderr.splitlines()) == 1
        assert "worker 'cleo' hangs or is too slow" in worker.stderr
        assert worker.returncode == 1


def test_a_process_that_makes_no_progress_ends_itself():
    """The watchdog prints its line and ends a process that sleeps for a minute; progress keeps it alive until then."""
    code = """
import time
from adapters.runtime.failures import Watchdog
dog = Watchdog(1, lambda what: f"stuck in {what}", lambda: None)
with dog.armed("request 6"):
    for _ in range(7):
        time.sleep(0.2)
        dog.progress()
print("done")
time.sleep(1.3)
print("idle", flush=True)
with dog.armed("request 7"):
    time.sleep(60)
"""
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=50)
    assert (found.returncode, found.stdout, found.stderr) == (1, "done\nidle\n", "stuck in request 7\n")


def test_bytes_of_a_message():
    """Of ten numbers: as they are, as float16, as int8 with a 4-byte scale; what is no larger number stays."""
    assert [wire_bytes(10, torch.float32, wire) for wire in ("native", "float16", "int8")] == [40, 20, 14]
    assert [wire_bytes(10, torch.float16, wire) for wire in ("native", "float16", "int8")] == [20, 20, 14]
    assert [wire_bytes(10, torch.int64, wire) for wire in ("native", "float16", "int8")] == [80, 80, 80]
    assert [wire_bytes(0, torch.float32, wire) for wire in ("native", "float16", "int8")] == [0, 0, 0]
    with pytest.raises(InputError, match="'int4' is unknown"):
        wire_bytes(1, torch.float32, "int4")
    with pytest.raises(InputError, match="fc1 sends 0 numbers with worker 2"):
        Transfer("fc1", {1: 3, 2: 0}, {}, torch.float32)


def test_importing_it_loads_no_solver_and_no_exporter():
    """Beyond what torch itself loads there is nothing of torch.export or torch.fx, and no solver or modelling tool."""
    code = """
import sys, torch
before = set(sys.modules)
import adapters.runtime.exchange
heavy = ("solvers", "pyomo", "highspy", "ortools", "torch.export", "torch.fx")
print([name for name in set(sys.modules) - before if name.startswith(heavy)])
"""
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout == "[]\n"
