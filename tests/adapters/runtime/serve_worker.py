"""Runs `serve` as one worker, once for each scenario of SERVE_FOLDER/scenarios.json; `serving.run_all` starts it.

It writes NAME.RANK.json for each, and waits for the others before the next.
"""

import contextlib
import gc
import io
import json
import os
import sys
import time
from pathlib import Path

os.environ["TORCH_CPP_LOG_LEVEL"] = "FATAL"  # as `launch` has it

from adapters.runtime import serve

FOLDER, RANK, NUM_WORKERS = Path(os.environ["SERVE_FOLDER"]), int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])


def main() -> None:
    scenarios = json.loads((FOLDER / "scenarios.json").read_text())
    for number, (name, scenario) in enumerate(scenarios.items(), start=1):
        key = str(RANK)
        env = {"PLACEMENT_INIT_METHOD": f"file://{FOLDER}/{name}.meet", **(scenario["env"] or {}).get(key, {})}
        argv = [argument.replace("{rank}", key) for argument in scenario["argv"]]
        (FOLDER / f"{name}.{RANK}.json").write_text(json.dumps(ran(argv + (scenario["extra"] or {}).get(key, []), env)))
        if number < len(scenarios):
            together(name)


def ran(argv, env):
    """How the command ended, with these variables set."""
    before = dict(os.environ)
    os.environ.update(env)
    out, err, begin = io.StringIO(), io.StringIO(), time.monotonic()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        status = serve.main(argv)
    gc.collect()  # connections are dropped, as when a process ends
    os.environ.clear()
    os.environ.update(before)
    return {
        "status": status,
        "stdout": out.getvalue(),
        "stderr": err.getvalue(),
        "seconds": time.monotonic() - begin,
    }


def together(name):
    """Wait until all have ended the scenario."""
    (FOLDER / f"{name}.{RANK}.done").touch()
    until = time.monotonic() + 60
    while sum((FOLDER / f"{name}.{rank}.done").exists() for rank in range(NUM_WORKERS)) < NUM_WORKERS:
        if time.monotonic() > until:
            sys.exit(f"worker {RANK}: the others do not end {name}")
        time.sleep(0.01)


if __name__ == "__main__":
    main()
