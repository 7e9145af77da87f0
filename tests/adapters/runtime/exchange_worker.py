"""What the processes of test_exchange.py run: `exchange_worker.py FOLDER SCENARIO …`, one after the other."""

import json
import os
import signal
import sys
import time

import torch

from adapters.runtime.exchange import Group
from adapters.runtime.failures import WorkerError
from adapters.runtime.messages import Transfer
from adapters.runtime.point import ALL_TO_ALL, POINT_TO_POINT

NAMES = ("anna", "bert", "cleo")
RANK = int(os.environ["RANK"])
SECONDS = 2.0
F32 = torch.float32

#: (from, to): numbers per example.
UNEVEN = {(0, 1): 2, (0, 2): 3, (1, 0): 1, (2, 1): 4}
FULL = {(0, 1): 1, (0, 2): 2, (1, 0): 3, (1, 2): 4, (2, 0): 5, (2, 1): 6}


def transfer(name, links, dtype=F32):
    sends = {to: count for (at, to), count in links.items() if at == RANK}
    receives = {at: count for (at, to), count in links.items() if to == RANK}
    return Transfer(name, sends, receives, dtype)


def request(exchange, batch, start=0):
    """Send the numbers `start` + 100 · from + 10 · to + 0, 1, …; what came, by rank."""
    fill(exchange, batch, start)
    exchange.start()
    return plain(exchange.finish())


def fill(exchange, batch, start=0):
    for to, values in exchange.outgoing(batch).items():
        values.copy_(start + 100 * RANK + 10 * to + torch.arange(values.numel()))


def plain(received):
    return {str(at): values.tolist() for at, values in received.items()}


def counted(counters):
    return {name: array.tolist() for name, array in vars(counters).items() if name != "seconds_waited"}


def sent_right(_):
    found = {}
    with Group.connect(RANK, NAMES, timeout_seconds=20) as group:
        uneven, full = group.exchange(transfer("uneven", UNEVEN)), group.exchange(transfer("full", FULL))
        found["uneven"] = [request(uneven, batch) for batch in (1, 3, 2)]
        found["uneven counters"] = counted(uneven.counters)
        for way in (POINT_TO_POINT, ALL_TO_ALL):
            full.way = way
            full.counters.reset()
            found[way] = [request(full, batch) for batch in (2, 1, 2, 0)]
            found[way + " counters"] = counted(full.counters)
        found["total"] = counted(group.counters)
        fill(uneven, 1, 1000)
        fill(full, 1, 2000)
        uneven.start()
        full.start()
        found["in flight"] = [plain(full.finish()), plain(uneven.finish())]
        found["ahead"], found["ahead waited"] = ahead(group)
        found["order"] = order(full, group)
        found["expected"] = expected(group)
        found["wires"] = wires(group)
        found["chosen"] = group.choose([uneven, full], 4)
        found["ways"] = [uneven.way, full.way]
        found["after choosing"] = counted(group.counters)
        found["agreed"] = [group.agree("name", NAMES[RANK]), group.agree("name", f"{RANK}")]
    report(found)


def misfit(folder):
    """anna sends bert two numbers, and bert expects three."""
    with group_at(folder, "misfit", 20) as group:
        sends, receives = ({1: 2}, {0: 3}) if RANK < 2 else ({}, {})
        exchange = group.exchange(Transfer("fc1", sends if RANK == 0 else {}, receives if RANK == 1 else {}, F32))
        group.choose([exchange], 1)


def ahead(group):
    """anna sends bert 1000 numbers twenty times; bert is slow; anna takes part in nothing else."""
    exchange = group.exchange(transfer("ahead", {(0, 1): 1000}))
    came = []
    for number in range(20):
        if RANK == 1:
            time.sleep(0.005)
        came.append({at: (min(values), max(values)) for at, values in request(exchange, 1, 5000 * number).items()})
    return came, exchange.counters.seconds_waited.tolist()


def order(exchange, group):
    """From whom and to whom, in the order in which messages are begun."""
    exchange.expect(1)
    operations = group.operations(exchange._in, exchange._out, 9)
    request(exchange, 1)
    return [[operation.peer for operation in each] for each in operations]


def expected(group):
    """bert takes what anna sends before he comes to that exchange: only then does she tell him to."""
    exchange = group.exchange(transfer("expected", {(0, 1): 100_000}))
    refusals = []
    exchange.expect(2)
    try:
        exchange.outgoing(3)
    except RuntimeError as error:
        refusals.append(str(error))
    if RANK == 0:
        fill(exchange, 2, 7000)
        exchange.start()
        exchange.drain()
    group.agree("taken", "")
    if RANK != 0:
        exchange.outgoing(2)
        exchange.start()
    try:
        exchange.expect(2)
    except RuntimeError as error:
        refusals.append(str(error))
    return refusals, {at: (len(values), values[0], values[-1]) for at, values in plain(exchange.finish()).items()}


def wires(group):
    """What arrives of two examples of two numbers, then of one, sent to the next worker by every wire."""
    ring = {(0, 1): 2, (1, 2): 2, (2, 0): 2}
    found = {}
    for wire, dtype in (("float16", F32), ("int8", F32), ("int8", torch.int64)):
        exchange = group.exchange(transfer(f"{wire} {dtype}", ring, dtype), wire)
        came = []
        for batch, numbers in ((2, (127.0, 0.7, 0.0, 0.0)), (1, (1e30, 1.0)), (1, (float("inf"), 1.0))):
            if dtype is F32 or batch == 2:
                for values in exchange.outgoing(batch).values():
                    values.copy_(torch.tensor(numbers))
                exchange.start()
                came.append([repr(value) for value in exchange.finish()[(RANK + 2) % 3].tolist()])
        found[f"{wire} {dtype}"] = came
        found[f"{wire} {dtype} bytes"] = int(exchange.counters.bytes_sent.sum())
    return found


def refused(folder):
    """Starts that cannot work, each with a file of its own, and one by a port that can."""
    found = {}

    def attempt(name, rank=RANK, names=NAMES, method=None, seconds=1.5, **environment):
        before = dict(os.environ)
        os.environ.update(environment)
        try:
            method = method or f"file://{folder}/{name.replace(' ', '-')}"
            with Group.connect(rank, names, init_method=method, timeout_seconds=seconds):
                found[name] = "connected"
        except WorkerError as error:
            found[name] = str(error)
        os.environ.clear()
        os.environ.update(before)

    address = {"method": "env://", "MASTER_ADDR": "127.0.0.1"}
    attempt("free port", seconds=20, **address, MASTER_PORT=os.environ["FREE_PORT"])
    attempt("world size", WORLD_SIZE="4")
    attempt("twice", rank=min(RANK, 1))
    attempt("other names", names=("anna", "bert", "zoe") if RANK == 1 else NAMES)
    if RANK < 2:
        attempt("missing")
    attempt("taken port", **address, MASTER_PORT=os.environ["TAKEN_PORT"])
    report(found)


def killed(_):
    """cleo is killed while anna waits for her, and bert for anna."""
    with Group.connect(RANK, NAMES, timeout_seconds=10) as group:
        exchange = group.exchange(transfer("conv1", {(2, 0): 5, (0, 1): 1}))
        request(exchange, 1)
        if RANK == 2:
            exchange.drain()
            os.kill(os.getpid(), signal.SIGKILL)
        if RANK == 0:
            exchange.outgoing(1)
            waiting = group.exchange(transfer("conv2", {(2, 0): 5}))
            request(waiting, 1)
        request(exchange, 1)


def hanging(_):
    """cleo stops; bert began to wait for anna before anna waits for her."""
    with Group.connect(RANK, NAMES, timeout_seconds=SECONDS) as group:
        group.barrier()
        if RANK == 2:
            os.kill(os.getpid(), signal.SIGSTOP)
        exchange = group.exchange(transfer("conv1", {(2, 0): 5}))
        later = group.exchange(transfer("conv2", {(0, 1): 1}))
        if RANK == 0:
            time.sleep(0.2)
            request(exchange, 1)
        request(later, 1)


def raises(folder):
    """cleo's own code fails while the others wait for her."""
    with group_at(folder, "raises", 20) as group:
        exchange = group.exchange(transfer("conv1", {(2, 0): 5, (2, 1): 5}))
        if RANK == 2:
            raise ZeroDivisionError("no\nsuch quotient")
        request(exchange, 1)


def group_at(folder, name, seconds):
    """The group that meets at a file of its own."""
    return Group.connect(RANK, NAMES, init_method=f"file://{folder}/{name}", timeout_seconds=seconds)


def report(found):
    print(json.dumps(found))


SCENARIOS = {
    "right": sent_right,
    "refused": refused,
    "misfit": misfit,
    "raises": raises,
    "killed": killed,
    "hanging": hanging,
}

if __name__ == "__main__":
    status = 0
    for name in sys.argv[2:]:
        try:
            SCENARIOS[name](sys.argv[1])
        except WorkerError as error:
            sys.stderr.write(f"{error}\n")
            status = 1
        except ZeroDivisionError:
            sys.stderr.write("divided\n")
            status = 1
    raise SystemExit(status)
