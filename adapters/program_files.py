"""A network's operations on disk: `program.json`, and its arrays in `program.safetensors` beside it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from adapters.graph import Activation, Group, IntArray, Layer, LayerGraph, Read, Span
from adapters.program import Operation, Program, Value
from adapters.runtime.arguments import dtype_name, dtype_named, from_json, to_json

SCHEMA = "program/1"
_CONSTANT = "constant."


class _Arrays:
    """Arrays by number, each once."""

    def __init__(self) -> None:
        self.tensors: dict[str, Tensor] = {}
        self._known: dict[tuple[int, bytes], str] = {}

    def note(self, array: IntArray) -> str:
        key = (array.size, np.ascontiguousarray(array, dtype=np.int64).tobytes())
        if key not in self._known:
            self._known[key] = str(len(self._known))
            self.tensors[self._known[key]] = torch.from_numpy(np.array(array, dtype=np.int64))
        return self._known[key]


def written(program: Program) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """What the two files hold."""
    arrays = _Arrays()
    note, graph = arrays.note, program.graph
    content = {
        "schema": SCHEMA,
        "examples": program.examples,
        "inputs": list(program.inputs),
        "outputs": list(program.outputs),
        "operations": [
            {
                "name": op.name,
                "target": op.target,
                "rule": op.rule,
                "outputs": list(op.outputs),
                "args": to_json(op.args),
                "kwargs": {key: to_json(arg) for key, arg in op.kwargs.items()},
                "layer": op.layer,
            }
            for op in program.operations
        ],
        "values": [
            {
                "name": value.name,
                "sizes": to_json(value.sizes),
                "dtype": dtype_name(value.dtype),
                "dim": value.dim,
                "units": note(value.units),
            }
            for value in program.values.values()
        ],
        "sent": {name: sent for name, sent in program.sent.items() if sent != name},
        "channels": {str(index): note(channels) for index, channels in program.channels.items()},
        "graph": {
            "layers": [
                {
                    "name": layer.name,
                    "activation": layer.activation,
                    "unit": note(layer.unit),
                    "kernel": layer.kernel,
                    "positions": layer.positions,
                    "norm": layer.norm,
                    "value_bytes": layer.value_bytes,
                }
                for layer in graph.layers
            ],
            "activations": [
                {
                    "name": activation.name,
                    "unit": note(activation.unit),
                    "values": note(activation.values),
                    "value_bytes": activation.value_bytes,
                    "made_by": sorted(activation.made_by),
                }
                for activation in graph.activations
            ],
            "reads": [
                {
                    "name": read.name,
                    "activation": read.activation,
                    "channel": note(read.channel),
                    "unit": note(read.unit),
                }
                for read in graph.reads
            ],
            "spans": [{"name": span.name, "units": note(span.units), "bytes": span.bytes} for span in graph.spans],
            "groups": [
                {"name": group.name, "units": note(group.units), "layers": list(group.layers)} for group in graph.groups
            ],
            "inputs": [note(units) for units in graph.inputs],
            "barriers": {name: note(units) for name, units in graph.barriers.items()},
            "unit_macs": note(graph.unit_macs),
            "unit_bytes": note(graph.unit_bytes),
            "warnings": list(graph.warnings),
        },
    }
    constants = {f"{_CONSTANT}{key}": tensor.contiguous() for key, tensor in program.constants.items()}
    return content, arrays.tensors | constants


def read(content: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> Program:
    """What `written` was given. Raises KeyError, TypeError or ValueError where nothing was."""

    def array(key: str) -> IntArray:
        found: IntArray = tensors[key].numpy()
        if found.dtype != np.int64 or found.ndim != 1:
            raise ValueError(f"array {key} of the program is no list of whole numbers")
        return found

    values = {
        entry["name"]: Value(
            entry["name"],
            tuple(from_json(entry["sizes"])),
            dtype_named(entry["dtype"]),
            entry["dim"],
            array(entry["units"]),
        )
        for entry in content["values"]
    }
    return Program(
        graph=_graph(content["graph"], array),
        operations=tuple(
            Operation(
                entry["name"],
                entry["target"],
                entry["rule"],
                tuple(entry["outputs"]),
                tuple(from_json(entry["args"])),
                {key: from_json(arg) for key, arg in entry["kwargs"].items()},
                entry["layer"],
            )
            for entry in content["operations"]
        ),
        values=values,
        inputs=tuple(content["inputs"]),
        outputs=tuple(content["outputs"]),
        sent={name: name for name in values} | content["sent"],
        channels={int(index): array(key) for index, key in content["channels"].items()},
        constants={key.removeprefix(_CONSTANT): tensor for key, tensor in tensors.items() if key.startswith(_CONSTANT)},
        examples=content["examples"],
    )


def _graph(content: Mapping[str, Any], array: Callable[[str], IntArray]) -> LayerGraph:
    return LayerGraph(
        layers=tuple(Layer(**{**entry, "unit": array(entry["unit"])}) for entry in content["layers"]),
        activations=tuple(
            Activation(
                entry["name"],
                array(entry["unit"]),
                array(entry["values"]),
                entry["value_bytes"],
                frozenset(entry["made_by"]),
            )
            for entry in content["activations"]
        ),
        reads=tuple(
            Read(entry["name"], entry["activation"], array(entry["channel"]), array(entry["unit"]))
            for entry in content["reads"]
        ),
        spans=tuple(Span(entry["name"], array(entry["units"]), entry["bytes"]) for entry in content["spans"]),
        groups=tuple(
            Group(entry["name"], array(entry["units"]), tuple(entry["layers"])) for entry in content["groups"]
        ),
        inputs=tuple(map(array, content["inputs"])),
        barriers={name: array(key) for name, key in content["barriers"].items()},
        unit_macs=array(content["unit_macs"]),
        unit_bytes=array(content["unit_bytes"]),
        warnings=tuple(content["warnings"]),
    )
