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


def test_packages_are_ours() -> None:
    """`adapters` is also a package on the index; the installed one must be this checkout's."""
    code = "import adapters, benchmarks, formulations, solvers; print(adapters.__file__, solvers.__file__)"
    done = subprocess.run([sys.executable, "-c", code], cwd="/", check=True, capture_output=True, text=True)
    assert done.stdout.split() == [str(ROOT / "adapters" / "__init__.py"), str(ROOT / "solvers" / "__init__.py")]
