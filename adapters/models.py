"""Models and their calibration data, as the command line names them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from adapters.inputs import read_inputs
from adapters.user_code import UserFunction, guarded
from formulations.errors import InputError

#: Examples of a calibration file at a time.
_BATCH = 64


def load_model(name: str, calibration: str | None) -> tuple[nn.Module, Sequence[Tensor]]:
    """A model and batches of inputs.

    Args:
        name: `package.module:factory`, or a folder with a Hugging Face model.
        calibration: a file of inputs; None where the factory returns them with the model.

    Raises:
        InputError: there is no such model or data, or it cannot be used.
    """
    if Path(name).is_dir():
        model, batches = _hugging_face(Path(name)), None
    elif ":" in name:
        model, batches = _from_factory(name)
    else:
        raise InputError(f"model {name!r} is unknown; give package.module:factory, or a folder with config.json")
    if calibration is not None:
        batches = read_inputs(calibration, next(model.parameters(), torch.zeros(0)).dtype).split(_BATCH)
    if not batches:
        raise InputError(f"model {name!r} comes without calibration data; give --calibration FILE")
    return model, batches


def _from_factory(name: str) -> tuple[nn.Module, Sequence[Tensor] | None]:
    made = UserFunction.find("model", name, "no arguments")()
    if isinstance(made, nn.Module):
        return made, None
    model, batches = getattr(made, "model", None), getattr(made, "calibration", None)
    if not isinstance(model, nn.Module):
        raise InputError(
            f"model {name!r}: the factory returns a {type(made).__name__}; return an nn.Module, or something with "
            ".model and .calibration"
        )
    if batches is None or isinstance(batches, Tensor):
        return model, None if batches is None else batches.split(_BATCH)
    return model, guarded(f"model {name!r}", "check that .calibration is a list of batches", list, batches)


def _hugging_face(folder: Path) -> nn.Module:
    if not (folder / "config.json").is_file():
        raise InputError(f"{folder}: holds no config.json; give the folder of a Hugging Face model")
    try:
        from transformers import AutoModel, AutoModelForImageClassification
        from transformers.utils import logging
    except ImportError as error:
        raise InputError(f"{folder}: a Hugging Face model needs transformers ({error}); pip install it") from None
    logging.disable_progress_bar()  # it would be drawn into files, too

    def read(kind: type) -> nn.Module:
        # Weights as data: a pickle could run anything.
        found: nn.Module = kind.from_pretrained(folder, local_files_only=True, use_safetensors=True)  # type: ignore[attr-defined]
        return found.eval()

    try:
        return read(AutoModelForImageClassification)
    except ValueError:  # of another kind
        return guarded(str(folder), "check its files", read, AutoModel)  # type: ignore[no-any-return]
    except Exception as error:
        raise InputError(f"{folder}: cannot be read ({type(error).__name__}: {error}); check its files") from None
