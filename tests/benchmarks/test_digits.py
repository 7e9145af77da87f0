"""The digits models: trained the same everywhere, and cached."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from benchmarks.models import digits, training
from benchmarks.models.base import BenchmarkModel, load_model
from benchmarks.models.digits import digits_cnn, digits_mlp
from benchmarks.models.digits_cnn import DigitsCNN
from benchmarks.models.training import Recipe


@pytest.fixture
def short(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of the cache, in which everything is trained for one epoch only."""
    monkeypatch.setattr(digits, "_MLP", replace(digits._MLP, epochs=1))
    monkeypatch.setattr(digits, "_CNN", replace(digits._CNN, epochs=1))
    monkeypatch.setattr(training, "_CACHE", tmp_path)
    return tmp_path


def same_weights(one: BenchmarkModel, other: BenchmarkModel) -> bool:
    first, second = one.model.state_dict(), other.model.state_dict()
    return first.keys() == second.keys() and all(torch.equal(first[key], second[key]) for key in first)


@pytest.mark.parametrize("name", ["digits-mlp", "digits-cnn"])
def test_training_is_deterministic_and_cached(name: str, short: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Trainings give the same weights to the bit; loads come from the cache; a damaged cache is replaced."""
    first = load_model(name)
    (cached,) = short.glob("*.safetensors")
    trainings: list[int] = []
    train = Recipe._train
    monkeypatch.setattr(Recipe, "_train", lambda *data: trainings.append(1) or train(*data))
    for damage in (None, b"", b"not a model"):
        if damage is not None:
            cached.write_bytes(damage)
        assert same_weights(first, load_model(name))
        torch.rand(3)  # whatever was drawn in between
    assert len(trainings) == 2


@pytest.mark.parametrize("make", [digits_mlp, digits_cnn])
def test_seeds_differ_in_training_alone(make: Callable[[int], BenchmarkModel], short: Path) -> None:
    """Another seed trains other weights on the same split, and neither takes the other's from the cache."""
    zero, one = make(0), make(1)
    assert not same_weights(zero, one)
    assert torch.equal(zero.test_inputs, one.test_inputs)
    assert torch.equal(zero.calibration[0], one.calibration[0])
    assert same_weights(zero, make(0))
    assert same_weights(one, make(1))
    assert len(list(short.iterdir())) == 2
    assert zero.name != one.name


@pytest.mark.parametrize(("name", "accuracy"), [("digits-mlp", 0.955), ("digits-cnn", 0.985)])
def test_trained_models_are_good(name: str, accuracy: float) -> None:
    """The models that everything is measured on know digits they never saw."""
    bench = load_model(name)
    assert not bench.model.training
    logits = bench.logits(bench.model)
    assert bench.accuracy(logits) >= accuracy
    assert bench.output_error(logits) == 0


def test_the_cnn_is_its_weights_and_statistics() -> None:
    """A state dict brings all that training gave, batch statistics included, to a fresh network."""
    bench = load_model("digits-cnn")
    copy = DigitsCNN().eval()
    assert bench.output_error(bench.logits(copy)) > 0.1
    copy.load_state_dict(bench.model.state_dict())
    assert torch.equal(bench.logits(copy), bench.logits(bench.model))
    assert sum(parameter.numel() for parameter in copy.parameters()) == 152_714


def test_shifts_move_images_by_a_pixel() -> None:
    """Augmentation moves the images of a batch by one pixel at most each way, and changes nothing else."""
    centre = torch.zeros(5, 1, 8, 8)
    centre[:, :, 4, 4] = 1
    moved = [digits._shifted(centre) for _ in range(60)]
    places = {tuple(image[0, 0].nonzero()[0].tolist()) for image in moved}
    assert all(image.shape == centre.shape and image.sum() == 5 for image in moved)
    assert places <= {(row, column) for row in (3, 4, 5) for column in (3, 4, 5)}
    assert len(places) > 1


def test_splits_are_disjoint_and_whole() -> None:
    """1,797 digits, every one in exactly one split; calibration is the training split."""
    train_inputs, _, test_inputs, test_labels = digits._split()
    assert len(train_inputs) + len(test_inputs) == 1797
    assert len(test_inputs) == 360
    assert torch.bincount(test_labels).tolist() == [36, 36, 35, 37, 36, 37, 36, 36, 35, 36]


def test_an_unwritable_cache_is_said_and_survived(
    short: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The model is trained anyway."""
    (short / "file").write_text("in the way")
    monkeypatch.setattr(training, "_CACHE", short / "file")
    assert load_model("digits-mlp").model.training is False
    assert "not cached" in capsys.readouterr().err
