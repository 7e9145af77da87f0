"""What numbers look like on the wire: as they are, as float16, or as int8 with a scale for every example and message.

A message holds the numbers of a batch of examples, one example after the other. As int8 the scales come first.
"""

from __future__ import annotations

import torch

from adapters.runtime import WIRES
from formulations.errors import InputError

_SCALE_BYTES = 4


def wire_of(dtype: torch.dtype, wire: str) -> str:
    """The wire that is used for the dtype: what is no floating point number, or is as small already, crosses as it is.

    Raises:
        InputError: no such wire.
    """
    if wire not in WIRES:
        raise InputError(f"wire {wire!r} is unknown; choose from {', '.join(WIRES)}")
    smaller = dtype.itemsize > (2 if wire == "float16" else 1)
    return wire if dtype.is_floating_point and smaller else "native"


def wire_bytes(numbers: int, dtype: torch.dtype, wire: str) -> int:
    """The bytes of one message per example that holds so many numbers.

    Raises:
        InputError: no such wire.
    """
    used = wire_of(dtype, wire)
    if numbers == 0:
        return 0
    return {"native": dtype.itemsize * numbers, "float16": 2 * numbers, "int8": numbers + _SCALE_BYTES}[used]


def pack(values: torch.Tensor, batch: int, wire: str, message: torch.Tensor) -> None:
    """Write the numbers of a batch into a message.

    As float16 what is beyond ±65504 becomes infinite. As int8 the error is at most half a step, which is the largest
    magnitude in the example's part / 127; where a number is not finite, or too large for a float32 scale, the whole
    part arrives as NaN.

    Args:
        values: batch × numbers, flat.
        message: bytes.
    """
    if wire == "float16":
        message.view(torch.float16).copy_(values)
        return
    rows = values.view(batch, -1)
    scale = (rows.abs().amax(dim=1) / 127).to(torch.float32)
    scale = torch.where(scale.isfinite(), scale, torch.nan)
    step = torch.where(scale > 0, scale, 1).to(rows.dtype)  # 1 where all are 0, or NaN
    # Infinities are clamped and NaN made 0: the scale says it.
    steps = (rows / step[:, None]).round_().clamp_(-127, 127).nan_to_num_(0)
    head = _SCALE_BYTES * batch
    message[:head].copy_(scale.view(torch.uint8))
    message[head:].view(torch.int8).view(batch, -1).copy_(steps)


def unpack(message: torch.Tensor, batch: int, wire: str, values: torch.Tensor) -> None:
    """Read a message that `pack` wrote, into batch × numbers, flat."""
    if wire == "float16":
        values.copy_(message.view(torch.float16))
        return
    head = _SCALE_BYTES * batch
    scale = message[:head].clone().view(torch.float32)  # where it lies it may not be aligned
    rows = values.view(batch, -1)
    rows.copy_(message[head:].view(torch.int8).view(batch, -1))
    rows.mul_(scale.to(rows.dtype)[:, None])
