"""Examples from files."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import Tensor

from formulations.errors import InputError


def read_inputs(path: str, dtype: torch.dtype) -> Tensor:
    """The examples in a `.npy`, or a `.safetensors` with one tensor; fractions as `dtype`.

    Raises:
        InputError: no such file, or it holds something else.
    """
    if not path.endswith((".npy", ".safetensors")):
        raise InputError(f"{path}: a file of examples ends in .npy or .safetensors; save it as one of them")
    try:
        inputs = _read_npy(path) if path.endswith(".npy") else _read_safetensors(path)
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror or error}); check the file") from None
    except (ValueError, TypeError, EOFError, SafetensorError) as error:
        raise InputError(f"{path}: holds no inputs ({error}); save one array of examples") from None
    if inputs.ndim == 0 or inputs.numel() == 0:
        raise InputError(f"{path}: has shape {tuple(inputs.shape)}; give examples along the first dimension")
    return inputs.to(dtype) if inputs.is_floating_point() else inputs


def _read_npy(path: str) -> Tensor:
    found = np.load(path, allow_pickle=False)
    return torch.from_numpy(np.ascontiguousarray(found))


def _read_safetensors(path: str) -> Tensor:
    tensors = safetensors.torch.load(Path(path).read_bytes())
    if len(tensors) != 1:
        raise ValueError(f"{len(tensors)} tensors: {', '.join(sorted(tensors))}")
    return next(iter(tensors.values()))
