"""A module as the list of tensor operations it runs, from `torch.export`."""

from __future__ import annotations

import contextlib
import io
import logging
import traceback
import warnings
from collections.abc import Iterator

import torch
from torch import Tensor, nn
from torch.export import ExportedProgram
from torch.nn.parameter import is_lazy
from torch.nn.utils import parametrize

from adapters.calibrate import evaluating
from formulations.errors import InputError

_DTYPES = (torch.float64, torch.float32, torch.float16, torch.bfloat16)
#: torch.export takes a dimension of 1 for a constant, and one example says as much as a thousand.
EXAMPLES = 2


def trace(model: nn.Module, inputs: tuple[Tensor, ...], examples: int = EXAMPLES) -> ExportedProgram:
    """The exported program of `model` in eval mode.

    Args:
        examples: how many it is traced with, made from those given; as many as are given where it takes no other.

    Raises:
        InputError: the model's parameters are not plain, or it cannot be exported or run on `inputs`.
    """
    check_model(model)
    with evaluating(model), _quiet():
        try:
            return _exported(model, _few_examples(inputs, examples))
        except Exception as error:  # whatever the model's own code or torch says
            with contextlib.suppress(Exception):
                return _exported(model, inputs)  # it may take so many examples and no other number
            raise InputError(_why(model, error)) from error


def _exported(model: nn.Module, inputs: tuple[Tensor, ...]) -> ExportedProgram:
    """Without writes in place: what is written to is another tensor from there on."""
    model(*(tensor.clone() for tensor in inputs))  # which knows more about numbers and devices than a trace
    program = torch.export.export(model, inputs)
    targets = [node.target for node in program.graph.nodes if node.op == "call_function"]
    # Where there are none, the other form of the graph would only take twice the time.
    writes = any(getattr(getattr(target, "_schema", None), "is_mutable", False) for target in targets)
    return program.run_decompositions({}) if writes else program


def check_model(model: nn.Module) -> None:
    """Raises InputError where weights are missing, shared, or not what the layers compute with."""
    if not isinstance(model, nn.Module):
        raise InputError(f"the model is a {type(model).__name__}, not a torch.nn.Module")
    for name, module in model.named_modules(remove_duplicate=False):
        where = f"module {name!r}" if name else "the model"
        if any(is_lazy(parameter) for parameter in module.parameters(recurse=False)):
            raise InputError(f"{where} is a {type(module).__name__} that has no weights yet; run the model once")
        if isinstance(module, nn.Linear | nn.Conv1d | nn.Conv2d):
            _check_weights(where, module)
        if module._forward_hooks or module._forward_pre_hooks:
            raise InputError(f"{where} has forward hooks, which may change what it computes; remove them first")
    _check_memory(model)
    places = {(parameter.dtype, parameter.device) for parameter in model.parameters()}
    if len(places) > 1:
        listed = " and ".join(sorted(f"{dtype} on {device}" for dtype, device in places))
        raise InputError(f"the model's parameters are {listed}; bring the model to one dtype and device")


def _check_weights(where: str, module: nn.Linear | nn.Conv1d | nn.Conv2d) -> None:
    own = dict(module.named_parameters(recurse=False))
    for key in ("weight", "bias"):
        if key in own or (key == "bias" and module.bias is None):
            continue
        if parametrize.is_parametrized(module, key):
            remedy = f"torch.nn.utils.parametrize.remove_parametrizations(module, {key!r})"
        else:
            remedy = "torch.nn.utils.remove_weight_norm, remove_spectral_norm or prune.remove"
        raise InputError(f"the {key} of {where} is computed from other parameters; make it plain with {remedy}")
    if module.weight.dtype not in _DTYPES:
        raise InputError(f"{where} has {module.weight.dtype} weights; convert the model to float32")
    if module.weight.numel() == 0:
        raise InputError(f"{where} has weights of shape {tuple(module.weight.shape)}, which are none; take it out")
    if module.weight.is_meta:
        raise InputError(f"{where} is on the meta device and has no values; load the model's weights")


def _check_memory(model: nn.Module) -> None:
    """Raises InputError where parameters of two modules are one, or views of one memory, as they stay in a copy."""
    held: list[tuple[str, int, int, int, str, str]] = []
    for name, module in model.named_modules(remove_duplicate=False):
        for key, parameter in module.named_parameters(recurse=False, remove_duplicate=False):
            if parameter.numel() and not parameter.is_meta:
                strides = zip(parameter.shape, parameter.stride(), strict=True)
                size = parameter.element_size() * (1 + sum((length - 1) * stride for length, stride in strides))
                start = parameter.data_ptr()
                held.append((str(parameter.device), start, start + size, len(held), name, key))
    held.sort()
    last, shared = held[:1], []
    for entry in held[1:]:
        (device, _, end, *one), (other_device, start, _, *other) = last[0], entry
        if device == other_device and start < end and one[1] != other[1]:
            shared.append(sorted((one, other)))
        if device != other_device or entry[2] > end:
            last = [entry]
    if shared:
        (_, first, _), (_, second, key) = min(shared)
        raise InputError(
            f"modules {first!r} and {second!r} share their {key}, and shared weights cannot be placed; "
            "copy the module or the weights"
        )


def _few_examples(inputs: tuple[Tensor, ...], examples: int) -> tuple[Tensor, ...]:
    """So many examples each, but for several inputs of unlike length, which may be no examples."""
    lengths = {len(tensor) if tensor.ndim else 0 for tensor in inputs}
    if len(lengths) != 1 or 0 in lengths:
        return inputs
    return tuple(tensor.repeat(-(-examples // len(tensor)), *[1] * (tensor.ndim - 1))[:examples] for tensor in inputs)


def _why(model: nn.Module, error: Exception) -> str:
    """One line: the innermost module that was running, and what it or torch said."""
    names = {id(module): name for name, module in model.named_modules()}
    running = ""
    for frame, _ in traceback.walk_tb(error.__traceback__):
        running = names.get(id(frame.f_locals.get("self")), "") or running
    where = f"module {running!r}" if running else "the model"
    said = next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
    if "data-dependent" in str(error):
        return (
            f"{where} decides by the values of its data which way to go, so it has no fixed layer graph; "
            f"take the branch out of the part to be placed ({said})"
        )
    return f"{where} cannot be traced on example_inputs: {said}"


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Without torch's own log lines, warnings and prints: what goes wrong is said in one line of ours."""
    logger = logging.getLogger("torch")
    level = logger.level
    logger.setLevel(logging.CRITICAL)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stderr(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)
