"""What the README shows is what happens."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


def test_the_first_program_prints_what_the_readme_says() -> None:
    """The first Python block, run as it stands, prints the text block below it."""
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    program = re.search(r"```python\n(.*?)```", text, re.DOTALL)
    printed = re.search(r"```text\n(.*?)```", text, re.DOTALL)
    assert program is not None
    assert printed is not None
    done = subprocess.run([sys.executable, "-c", program[1]], cwd=ROOT, check=True, capture_output=True, text=True)
    assert done.stdout == printed[1]


def test_the_network_of_the_readme_is_planned(tmp_path: Path) -> None:
    """The second Python block, with less time: the table has the rows and columns that are shown, within the share."""
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    program = re.findall(r"```python\n(.*?)```", text, re.DOTALL)[1].replace("seconds=2)", "seconds=0.2)")
    shown = re.findall(r"```text\n(.*?)```", text, re.DOTALL)[1].splitlines()
    done = subprocess.run([sys.executable, "-c", program], cwd=tmp_path, check=True, capture_output=True, text=True)
    printed = done.stdout.splitlines()
    assert printed[0].split() == shown[0].split()
    assert [line.split()[0] for line in printed] == [line.split()[0] for line in shown[: len(printed)]]
    sent, direct = map(int, printed[-1].split()[1:3])
    assert direct == int(shown[len(printed) - 1].split()[2])
    assert sent <= 0.1 * direct
    assert (tmp_path / "plan" / "layers" / "fc1.cert.json").exists()


def test_packages_are_ours() -> None:
    """`adapters` is also a package on the index; the installed one must be this checkout's."""
    code = "import adapters, benchmarks, formulations, solvers; print(adapters.__file__, solvers.__file__)"
    done = subprocess.run([sys.executable, "-c", code], cwd="/", check=True, capture_output=True, text=True)
    assert done.stdout.split() == [str(ROOT / "adapters" / "__init__.py"), str(ROOT / "solvers" / "__init__.py")]
