"""Functions that yield batches, called inside workers: `--inputs tests.adapters.runtime.serve_inputs:whole`."""

import gc
import json
import os
import signal
import time
from pathlib import Path

import numpy as np
import psutil

BATCHES = (1, 7, 64)


def _folder():
    return Path(os.environ["SERVE_FOLDER"])


def _cut(name):
    """The array of that name, in batches."""
    array = np.load(_folder() / f"{name}.npy")
    ends = np.cumsum(BATCHES)
    for start, end in zip([0, *ends], ends, strict=False):
        yield array[start:end]


def whole():
    return _cut("whole")


def own():
    return _cut(f"own-w{os.environ['RANK']}")


def _own_until(number, act):
    """All batches of this worker's own, again and again; worker 1 acts before batch `number`."""
    count = 0
    while True:
        for part in own():
            count += 1
            if count == number and os.environ["RANK"] == "1":
                act()
            yield part


def killed():
    return _own_until(5, lambda: os.kill(os.getpid(), signal.SIGKILL))


def stopped():
    return _own_until(5, lambda: os.kill(os.getpid(), signal.SIGSTOP))


def _raise():
    raise ZeroDivisionError("no such\nquotient")


def raising():
    return _own_until(2, _raise)


def shorter():
    """Worker 1 has one batch fewer."""
    parts = list(own())
    return parts[:-1] if os.environ["RANK"] == "1" else parts


def uneven():
    """Worker 1's second batch lacks an example."""
    return [part[1:] if os.environ["RANK"] == "1" and len(part) == 7 else part for part in own()]


def forever():
    """One batch after the other; the file `running` says when ten are done."""
    count = 0
    while True:
        for part in whole():
            count += 1
            if count == 10:
                (_folder() / "running").touch()
            yield part


def thousand():
    """A thousand batches of one to 64 examples; after 100 and 1000, what memory this process and its buffers have."""
    own_file = _folder() / f"own-w{os.environ['RANK']}.npy"
    array = np.load(own_file if os.environ.get("SERVE_OWN") else _folder() / "whole.npy")
    sizes = np.random.default_rng(0).integers(1, 65, 1000)
    sizes[0] = 64
    used = {}
    for count, size in enumerate(sizes):
        if count in (100, 999):
            used[str(count)] = _memory()
        yield array[:size]
    (_folder() / f"memory-{os.environ['RANK']}.json").write_text(json.dumps(used))


def _memory():
    from adapters.runtime.messages import Buffer

    gc.collect()
    buffers = [found for found in gc.get_objects() if type(found) is Buffer]
    return {
        "process": psutil.Process().memory_info().rss,
        "buffers": sum(buffer._whole.untyped_storage().nbytes() for buffer in buffers),
        "objects": len(gc.get_objects()),
    }


def slowly():
    """The batches, with a wait before the last that is longer than a timeout of two seconds."""
    for number, part in enumerate(whole()):
        if number == len(BATCHES) - 1:
            time.sleep(4)
        yield part


def nothing():
    return []


def empty():
    """A batch of no examples."""
    return [np.load(_folder() / "whole.npy")[:0]]


def texts():
    return [["zero"]]
