"""How inputs of a file or a function become batches, and how outputs are kept, in one process."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from adapters.runtime.arguments import PerExample
from adapters.runtime.files import Results, batches, check_out
from adapters.runtime.ports import ROWS, Port
from formulations import InputError

_F32 = torch.float32


def _port(name, *sizes, dim=None, positions=(None,)):
    return Port(name, sizes, _F32, dim, (True,) * len(positions), positions)


def _shard(*ports):
    return SimpleNamespace(inputs=ports, outputs=ports, name="anna")


def two_inputs():
    """Arrays that may not be written to, integers where fractions are taken, and tensors with gradients."""
    first = np.ones((2, 3))
    first.flags.writeable = False
    yield first, torch.ones(2, 1, requires_grad=True)
    yield [torch.zeros(1, 3), np.zeros((1, 1), dtype=np.float16)]


def different_counts():
    yield np.ones((2, 3)), np.ones((3, 1))


def one_of_two():
    yield np.ones((2, 3))


def no_batches():
    return 7


def raises_later():
    yield np.ones((2, 3)), np.ones((2, 1))
    raise RuntimeError("the sensor is gone")


def test_a_file_is_cut_along_the_examples(tmp_path):
    """Which may lie along any dimension: seven examples along the second, three at a time."""
    array = np.arange(2 * 7, dtype=np.float32).reshape(2, 7)
    np.save(tmp_path / "x.npy", array)
    found = list(batches(str(tmp_path / "x.npy"), _shard(_port("x", 2, PerExample(1))), 3, None))
    assert [count for _, count in found] == [3, 3, 1]
    assert np.array_equal(torch.cat([part for (part,), _ in found], dim=1), array)


def test_a_part_that_is_rows_is_cut_along_its_rows(tmp_path):
    """A worker has elements 0 and 3 of each example, which lies along the second dimension of the whole."""
    array = np.arange(14, dtype=np.float32).reshape(7, 2)
    np.save(tmp_path / "x.npy", array)
    port = _port("x", 2, PerExample(1), 2, dim=ROWS, positions=(torch.tensor([0, 3]),))
    found = list(batches(str(tmp_path / "x.npy"), _shard(port), 5, 0))
    assert [(part.tolist(), count) for (part,), count in found] == [(array[:5].tolist(), 5), (array[5:].tolist(), 2)]


def test_a_network_of_four_examples_takes_four_at_a_time(tmp_path):
    """Whose sizes are fixed; what is left over is refused."""
    np.save(tmp_path / "x.npy", np.ones((9, 3), dtype=np.float32))
    found = batches(str(tmp_path / "x.npy"), _shard(_port("x", 4, 3)), 1, None)
    assert [next(found)[1], next(found)[1]] == [1, 1]
    with pytest.raises(InputError, match=r"x.npy: batch 3 has shape \(1, 3\); it must have 4 × 3"):
        next(found)


@pytest.mark.filterwarnings("error")
def test_a_function_yields_all_inputs():
    """As arrays or tensors of any fractions, which become the network's; without warnings or gradients."""
    shard = _shard(_port("x", PerExample(1), 3), _port("y", PerExample(1), 1))
    (first, count), (second, _) = batches(f"{__name__}:two_inputs", shard, 64, None)
    assert count == 2
    assert [(part.dtype, part.requires_grad) for part in (*first, *second)] == [(_F32, False)] * 4
    assert [part.tolist() for part in second] == [[[0, 0, 0]], [[0]]]


@pytest.mark.parametrize(
    ("name", "line"),
    [
        ("different_counts", "batch 1: of 2 and 3 examples; give all arrays the same number of them, at least 1"),
        ("one_of_two", "batch 1: 1 arrays; the network takes 2 here"),
        ("no_batches", "the function returns a int; it must yield batches"),
        ("raises_later", "RuntimeError: the sensor is gone; at "),
        ("missing", "has no function 'missing'"),
    ],
)
def test_what_functions_yield_is_checked(name, line):
    """Before any worker sees it."""
    shard = _shard(_port("x", PerExample(1), 3), _port("y", PerExample(1), 1))
    with pytest.raises(InputError) as error:
        list(batches(f"{__name__}:{name}", shard, 64, None))
    assert line in str(error.value)


def test_a_file_holds_one_input(tmp_path):
    """Two inputs come from a function."""
    shard = _shard(_port("x", PerExample(1), 3), _port("y", PerExample(1), 1))
    with pytest.raises(InputError, match="the network has 2 inputs"):
        next(batches(str(tmp_path / "x.npy"), shard, 64, None))


def test_outputs_are_copied_and_put_together(tmp_path):
    """The memory of a batch may be used again for the next; nothing is kept that is not written."""
    ports = (_port("x", 2, PerExample(1)),)
    kept, counted = Results(ports, None, keep=True), Results(ports, None, keep=False)
    memory = torch.tensor([[1.0, 2.0], [3.0, 4.0]])
    for results in (kept, counted):
        results.add([memory], 2)
    memory.zero_()
    kept.add([memory[:, :1]], 1)
    assert kept.whole()["x"].tolist() == [[1, 2, 0], [3, 4, 0]]
    assert (kept.count, kept.batch, counted.batch, counted._parts) == (2, 3, 2, [])
    kept.write(str(tmp_path / "x.npy"))
    assert np.load(tmp_path / "x.npy").tolist() == [[1, 2, 0], [3, 4, 0]]


def test_one_file_of_numpy_holds_one_output(tmp_path):
    """Two of them are refused before the work."""
    shard = _shard(_port("x", PerExample(1), 3), _port("y", PerExample(1), 1))
    with pytest.raises(InputError, match=r"there are 2 outputs, x, y; write a \.safetensors"):
        check_out(str(tmp_path / "x.npy"), shard, None)
