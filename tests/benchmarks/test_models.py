"""Finding a user's model by name: whatever their code does, one line says what and where."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from benchmarks import compare
from benchmarks.models import base
from benchmarks.models.base import BenchmarkModel, load_model
from benchmarks.models.digits import digits_mlp
from benchmarks.models.training import Recipe
from benchmarks.models.wide import wide_cnn
from formulations import InputError

_MODULE = """
import sys
import torch
from torch import nn
from benchmarks.models.base import BenchmarkModel

def deep_in_torch():
    return torch.zeros(2, 3) @ torch.zeros(2, 3)  # line 8

def without_message():
    raise KeyError  # line 11

def several_lines():
    raise ValueError("one\\ntwo")  # line 14

def ends_the_process():
    sys.exit(3)  # line 17

def has_parameters(size):
    return size

def interrupted():
    raise KeyboardInterrupt

def make(inputs, labels):
    return BenchmarkModel("mine", nn.Sequential(nn.Linear(3, 2)), [torch.randn(9, 3)], inputs, labels)

def other_inputs():
    return make(torch.randn(9, 4), torch.zeros(9).long())

def other_labels():
    return make(torch.randn(9, 3), torch.zeros(9, 1).long())

def labels_in_a_list():
    return make(torch.randn(9, 3), [0] * 9)
"""


@pytest.fixture
def mine(tmp_path: Path, user_module: Callable[[str, str], None]) -> Path:
    """A folder with a user's modules, from which they can be imported."""
    user_module("mine", _MODULE)
    user_module("misspelt", "x = 1\ndef make(:\n")
    user_module("imports_misspelt", "import misspelt\n")
    user_module("incomplete", "import os\nimport not_installed_at_all\n")
    user_module("divides", "x = 1\ny = x / 0\n")
    return tmp_path


@pytest.mark.parametrize(
    ("model", "said", "where"),
    [
        ("mine:deep_in_torch", "RuntimeError: ", "mine.py:8"),
        ("mine:without_message", "KeyError: no message", "mine.py:11"),
        ("mine:several_lines", "ValueError: one two", "mine.py:14"),
        ("mine:ends_the_process", "SystemExit: 3", "mine.py:17"),
        ("misspelt:make", "SyntaxError: ", "misspelt.py:2"),
        ("imports_misspelt:make", "SyntaxError: ", "misspelt.py:2"),
        ("incomplete:make", "ModuleNotFoundError: No module named 'not_installed_at_all'", "incomplete.py:2"),
        ("divides:make", "ZeroDivisionError: division by zero", "divides.py:2"),
    ],
)
def test_errors_in_the_users_code_are_one_line(
    model: str, said: str, where: str, mine: Path, refused: Callable[[], str]
) -> None:
    """An exception while the module is imported or the factory runs is named with its message, file and line."""
    assert compare.main(["--model", model]) == 2
    line = refused()
    assert line.startswith(f"model {model!r}: {said}")
    assert line.endswith(f"at {mine}/{where}")


@pytest.mark.parametrize(
    ("model", "said"),
    [
        ("mine:has_parameters", "the factory takes no arguments"),
        ("not_there_at_all:make", "can be imported from here"),
        (".mine:make", "give package.module:factory"),
        ("mine", "give package.module:factory"),
        ("mine:", "give package.module:factory"),
        ("mine:torch.nn", "no function 'torch.nn'"),
    ],
)
def test_names_that_lead_nowhere_say_what_to_give(model: str, said: str, mine: Path) -> None:
    """A name that cannot be followed is refused with what a name looks like."""
    with pytest.raises(InputError, match=said):
        load_model(model)


def test_interrupt_in_the_users_code_passes(mine: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Ctrl-C while a factory trains is no error of the factory."""
    assert compare.main(["--model", "mine:interrupted"]) == 130
    assert capsys.readouterr() == ("", "interrupted\n")


@pytest.mark.parametrize(
    ("model", "said"),
    [
        ("other_inputs", "cannot be judged by its test_inputs"),
        ("other_labels", "test_labels has shape (9, 1); 9 test_inputs need as many"),
        ("labels_in_a_list", "cannot be judged by its test_inputs and test_labels"),
    ],
)
def test_data_that_do_not_fit_are_refused_before_the_work(
    model: str, said: str, mine: Path, refused: Callable[[], str]
) -> None:
    """The held-back split is only used at the end; that it fits is found out at the start."""
    assert compare.main(["--model", f"mine:{model}", "--workers", "2"]) == 2
    assert said in refused()


def test_held_back_splits_run_in_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    """No forward pass sees more examples than a batch, and all logits come back in order."""
    seen: list[int] = []

    class Double(nn.Module):
        def forward(self, inputs: Tensor) -> Tensor:
            seen.append(len(inputs))
            return 2 * inputs

    monkeypatch.setattr(base, "_BATCH", 4)
    inputs = torch.arange(20.0).reshape(10, 2)
    bench = BenchmarkModel("double", Double(), [inputs], inputs, torch.ones(10).long())
    assert torch.equal(bench.logits(bench.model), 2 * inputs)
    assert seen == [4, 4, 2]
    assert bench.accuracy(2 * inputs) == 1.0
    assert bench.output_error(2 * inputs.mean(dim=0).expand(10, 2)) == pytest.approx(1.0)


@pytest.mark.parametrize(("width", "num_parameters"), [(6, 99_616), (16, 701_466), (32, 2_797_610)])
def test_wide_cnns_have_the_stated_size(width: int, num_parameters: int) -> None:
    """The sizes that the factory's documentation promises, and logits for every held-back image."""
    bench = wide_cnn(width, image_size=8, num_examples=40)
    assert sum(parameter.numel() for parameter in bench.model.parameters()) == num_parameters
    assert sum(map(len, bench.calibration)) == 40
    bench.check()


def test_wide_cnns_activations_neither_vanish_nor_explode() -> None:
    """After BatchNorm's statistics are set, twenty layers of random weights still tell the images apart."""
    bench = wide_cnn(6)
    spread = bench.logits(bench.model).std(dim=0)
    assert spread.min() > 0.03
    assert spread.max() < 1.0


def test_wide_cnns_are_made_from_their_seed_alone() -> None:
    """The same seed gives the same weights, statistics and images whatever was drawn before; another one others."""
    first = wide_cnn(6, image_size=8, num_examples=40)
    torch.rand(3)
    again = wide_cnn(6, image_size=8, num_examples=40)
    other = wide_cnn(6, image_size=8, num_examples=40, seed=1)
    weights = first.model.state_dict()
    assert all(torch.equal(value, weights[key]) for key, value in again.model.state_dict().items())
    assert torch.equal(first.test_inputs, again.test_inputs)
    assert not torch.equal(first.test_inputs, other.test_inputs)
    assert not torch.equal(first.model.head.weight, other.model.head.weight)


def test_the_wide_mlp_has_the_stated_size_and_the_digits_split(monkeypatch: pytest.MonkeyPatch) -> None:
    """17 million weights by the built-in name, judged by the digits that the small network is judged by."""
    monkeypatch.setattr(Recipe, "trained", lambda recipe, inputs, labels, seed: recipe.untrained())
    wide, small = load_model("digits-wide-mlp"), digits_mlp()
    sizes = [tuple(p.shape) for p in wide.model.parameters() if p.dim() == 2]
    assert sizes == [(4096, 64), (4096, 4096), (10, 4096)]
    assert torch.equal(wide.test_inputs, small.test_inputs)
    assert torch.equal(wide.example, small.example)
    wide.check()


@pytest.mark.slow
def test_the_wide_mlp_is_good() -> None:
    """It knows digits it never saw at least as well as the small network has to."""
    bench = load_model("digits-wide-mlp")
    assert bench.accuracy(bench.logits(bench.model)) >= 0.97
