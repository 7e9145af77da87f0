"""The default model: trained the same everywhere, and cached."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from benchmarks.models import digits
from benchmarks.models.base import load_model


def test_training_is_deterministic_and_cached(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Trainings give the same weights to the bit; loads come from the cache; a damaged cache is replaced."""
    monkeypatch.setattr(digits, "_EPOCHS", 2)
    monkeypatch.setattr(digits, "_CACHE", tmp_path)
    first = load_model("digits-mlp").model.state_dict()
    (cached,) = tmp_path.glob("*.safetensors")
    trainings: list[int] = []
    train = digits._train
    monkeypatch.setattr(digits, "_train", lambda *data: trainings.append(1) or train(*data))
    for damage in (None, b"", b"not a model"):
        if damage is not None:
            cached.write_bytes(damage)
        again = load_model("digits-mlp").model.state_dict()
        assert all(torch.equal(first[key], again[key]) for key in first)
    assert len(trainings) == 2


def test_splits_are_disjoint_and_whole() -> None:
    """1,797 digits, every one in exactly one split; calibration is the training split."""
    train_inputs, _, test_inputs, test_labels = digits._split()
    assert len(train_inputs) + len(test_inputs) == 1797
    assert len(test_inputs) == 360
    assert torch.bincount(test_labels).tolist() == [36, 36, 35, 37, 36, 37, 36, 36, 35, 36]


def test_an_unwritable_cache_is_said_and_survived(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The model is trained anyway."""
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setattr(digits, "_EPOCHS", 1)
    monkeypatch.setattr(digits, "_CACHE", tmp_path / "file")
    assert load_model("digits-mlp").model.training is False
    assert "not cached" in capsys.readouterr().err
