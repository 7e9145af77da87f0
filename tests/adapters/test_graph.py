"""The graph of a network, with numbers counted by hand, and what stands in the way of a graph."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn
from torch.nn.utils import parametrize, prune

from adapters.graph import Activation, Layer, LayerGraph, layer_graph
from formulations import InputError
from tests.adapters.networks import Calls, network


def _graph(name: str) -> LayerGraph:
    return layer_graph(*network(name))


def _layer(graph: LayerGraph, name: str) -> Layer:
    return next(layer for layer in graph.layers if layer.name == name)


def _read(graph: LayerGraph, name: str) -> Activation:
    return graph.activations[_layer(graph, name).activation]


def _units(graph: LayerGraph, name: str) -> list[int]:
    return _layer(graph, name).unit.tolist()


def _groups(graph: LayerGraph) -> dict[str, list[str]]:
    return {group.name: [graph.layers[index].name for index in group.layers] for group in graph.groups}


# Chains


def test_a_chain_by_hand() -> None:
    """Six inputs, then 7, 5 and 3 neurons, each a unit; what is dropped out in training is the same tensor."""
    graph = _graph("mlp")
    assert [units.tolist() for units in graph.inputs] == [[0, 1, 2, 3, 4, 5]]
    assert [layer.unit.tolist() for layer in graph.layers] == [[*range(6, 13)], [*range(13, 18)], [18, 19, 20]]
    assert _groups(graph) == {"0": ["0"], "3": ["3"], "5": ["5"]}
    assert [activation.name for activation in graph.activations] == ["input", "gelu", "tanh"]
    assert [activation.made_by for activation in graph.activations] == [{"input 0"}, {"0"}, {"3"}]
    assert graph.unit_macs.tolist() == [0] * 6 + [6] * 7 + [7] * 5 + [5] * 3
    assert graph.unit_bytes.tolist() == [0] * 6 + [28] * 7 + [32] * 5 + [24] * 3  # weights and a bias of 4 bytes
    assert (graph.reads, graph.spans, graph.barriers, graph.warnings) == ((), (), {}, ())


@pytest.mark.parametrize(("dtype", "size"), [(torch.float64, 8), (torch.float32, 4), (torch.bfloat16, 2)])
def test_bytes_are_those_of_the_models_numbers(dtype: torch.dtype, size: int) -> None:
    """Of messages, partial sums and memory."""
    graph = layer_graph(nn.Sequential(nn.Linear(3, 2, bias=False)).to(dtype), torch.zeros(4, 3, dtype=dtype))
    assert graph.activations[0].bytes.tolist() == [size] * 3
    assert graph.layers[0].partial_bytes == size
    assert graph.unit_bytes[graph.layers[0].unit].tolist() == [3 * size] * 2


def test_tokens_count_in_bytes_and_multiplications() -> None:
    """Four tokens of 3 numbers: 4 positions, also where batch and tokens are one dimension for a while."""
    both = Calls(lambda m, x: m.b(m.a(x).relu().reshape(-1, 5)).reshape(-1, 4, 2), a=nn.Linear(3, 5), b=nn.Linear(5, 2))
    graph = layer_graph(both, torch.zeros(7, 4, 3))
    assert [layer.positions for layer in graph.layers] == [4, 4]
    assert _read(graph, "a").values.tolist() == [4] * 3
    assert _read(graph, "b").values.tolist() == [4] * 5
    assert graph.unit_macs[_units(graph, "b")].tolist() == [20] * 2


def test_features_of_an_image_are_single_inputs_and_pixels_of_a_channel_one() -> None:
    """Flattened first, 3×2×2 numbers are 12 messages; before a convolution they are 3 of 64 numbers."""
    flat, image = _graph("flat_first"), _graph("residual")
    assert flat.inputs[0].size == 12
    assert _read(flat, "1").values.tolist() == [1] * 12
    assert image.inputs[0].size == 3
    assert _read(image, "stem").values.tolist() == [64] * 3


def test_flatten_after_a_convolution() -> None:
    """One channel of 8×8 in; 5 channels of 4×4 are 80 features, 16 of each unit; one pooled value is one message."""
    graph = _graph("flatten")
    assert _read(graph, "0").values.tolist() == [64]
    assert (_layer(graph, "0").kernel, _layer(graph, "0").positions) == (9, 64)
    assert _read(graph, "4").unit.tolist() == np.repeat(_units(graph, "0"), 16).tolist()
    assert _read(graph, "4").values.tolist() == [1] * 80
    assert graph.unit_macs[_units(graph, "0")].tolist() == [9 * 64] * 5


def test_conv1d_by_hand() -> None:
    """12 places, kernel 3: 12 positions with padding, 8 with dilation 2, 4 after pooling."""
    graph = _graph("conv1d")
    assert [layer.positions for layer in graph.layers] == [12, 8, 4]
    assert [layer.kernel for layer in graph.layers] == [3, 3, 1]
    assert [layer.norm for layer in graph.layers] == ["1", None, None]
    assert [graph.activations[layer.activation].values[0] for layer in graph.layers] == [12, 12, 4]


# What joins


def test_an_addition_joins() -> None:
    """The stem and the block's second convolution are one group of 7 units; the norms belong to their layers."""
    graph = _graph("residual")
    assert _groups(graph) == {"stem": ["stem", "conv2"], "conv1": ["conv1"], "head": ["head"]}
    assert _units(graph, "stem") == _units(graph, "conv2")
    assert {layer.name: layer.norm for layer in graph.layers} == {
        "stem": None, "conv1": "bn1", "conv2": "bn2", "head": None,
    }  # fmt: skip
    assert _read(graph, "head").made_by == {"stem", "conv2"}
    # 3·9 weights and a bias; 5·9 weights and a norm of four numbers.
    assert graph.unit_bytes[_units(graph, "stem")].tolist() == [4 * (28 + 45 + 4)] * 7
    assert graph.unit_macs[_units(graph, "stem")].tolist() == [64 * (27 + 45)] * 7


def test_a_preactivation_block_reads_one_tensor_in_two_forms() -> None:
    """The norm before the block is no layer's own, since its input goes on as it is."""
    graph = _graph("preactivation")
    assert all(layer.norm is None for layer in graph.layers)
    assert _units(graph, "stem") == _units(graph, "conv2")
    assert _read(graph, "conv1").unit.tolist() == _units(graph, "stem") == _read(graph, "head").unit.tolist()
    assert _layer(graph, "conv1").activation != _layer(graph, "head").activation


def test_concatenation_and_splits_keep_channels_apart() -> None:
    """Columns side by side, the network's input among them; a split's parts are read by layers of their own."""
    graph = _graph("concat")
    assert _read(graph, "c").unit.tolist() == [*_units(graph, "a"), *_units(graph, "b"), *graph.inputs[0]]
    assert _read(graph, "c").made_by == {"a", "b", "input 0"}
    split = _graph("chunk")
    both = _units(split, "both")
    assert both[:4] == both[4:]  # gate and value
    assert _read(split, "head").unit.tolist() == _units(split, "split")[:2]
    assert _read(split, "tail").unit.tolist() == _units(split, "split")[2:]


def test_a_depthwise_convolution_goes_with_its_input() -> None:
    """No layer of its own: 9 weights and a bias more per unit, twice where there are two outputs per channel."""
    graph = _graph("separable")
    assert [layer.name for layer in graph.layers] == ["stem", "point", "head"]
    stem = _units(graph, "stem")
    # stem 27 + 1 and a norm; depthwise 9 + 1 and a norm; pointwise 5 + 1 and a norm; two depthwise 9 + 1.
    assert graph.unit_bytes[stem].tolist() == [4 * (28 + 4 + 10 + 4 + 6 + 4 + 20)] * 5
    assert graph.unit_macs[stem].tolist() == [64 * (27 + 9 + 5 + 18)] * 5
    assert _read(graph, "head").unit.tolist() == np.repeat(stem, 2).tolist()


def test_a_grouped_convolution_is_a_layer_with_kernels_missing() -> None:
    """It reads all six channels; a neuron takes the multiplications of three."""
    graph = _graph("grouped")
    assert _read(graph, "2").num_channels == 6
    assert len(set(_units(graph, "2"))) == 8
    assert graph.unit_macs[_units(graph, "2")].tolist() == [64 * 3 * 9] * 8


def test_norms_over_groups_join_and_norms_over_all_exchange_sums() -> None:
    """Four groups of two channels are four units; over all six channels, or a LayerNorm's seven, it is a span."""
    graph = _graph("group_norm")
    assert len(set(_units(graph, "0"))) == 4
    assert _units(graph, "0")[0::2] == _units(graph, "0")[1::2]
    (span,) = graph.spans
    assert (span.name, span.units.tolist(), span.bytes) == ("4", _units(graph, "3"), 8)
    layer_norm = _graph("layer_norm")
    assert [span.name for span in layer_norm.spans] == ["norm", "final"]
    assert [span.units.tolist() for span in layer_norm.spans] == [_units(layer_norm, "embed")] * 2
    # Four tokens have four sums each.
    tokens = nn.Sequential(nn.Linear(3, 5), nn.LayerNorm(5), nn.Linear(5, 2))
    assert layer_graph(tokens, torch.zeros(2, 4, 3)).spans[0].bytes == 2 * 4 * 4


def test_squeeze_and_excite_joins_a_channel_with_its_factor() -> None:
    """A factor of one number per channel sits with the channel; what makes it reads one number of each."""
    graph = _graph("squeeze_excite")
    assert _groups(graph) == {"stem": ["stem", "up"], "down": ["down"], "head": ["head"]}
    assert _read(graph, "down").values.tolist() == [1] * 6
    assert _layer(graph, "up").positions == 1


# Reads


def test_an_input_that_is_added_is_read_by_the_neurons_it_is_added_to() -> None:
    """Inputs lie where they lie: neuron i's worker needs input i, whatever it costs."""
    graph = _graph("input_added")
    (read,) = graph.reads
    activation = graph.activations[read.activation]
    assert activation.unit[read.channel].tolist() == graph.inputs[0].tolist()
    assert read.unit.tolist() == _units(graph, "body")
    assert _layer(graph, "body").activation == read.activation  # one message serves both


def test_a_mask_over_all_channels_is_read_and_joins_nothing() -> None:
    """One channel times five: every unit's worker needs the one, and they may sit apart."""
    graph = _graph("spatial_attention")
    (read,) = graph.reads
    assert len(_groups(graph)) == 4
    assert graph.activations[read.activation].unit[read.channel].tolist() == _units(graph, "mask") * 5
    assert read.unit.tolist() == _units(graph, "stem2")
    assert graph.activations[read.activation].values.tolist() == [64]


def test_constants_in_what_is_read_are_no_channels() -> None:
    """Two inputs and a zero are added to three neurons: two reads."""
    model = Calls(lambda m, x: m.b(m.a(x) + F.pad(x, (0, 1))), a=nn.Linear(2, 3), b=nn.Linear(3, 2))
    graph = layer_graph(model, torch.zeros(2, 2))
    (read,) = graph.reads
    assert graph.activations[read.activation].unit[read.channel].tolist() == graph.inputs[0].tolist()
    assert read.unit.tolist() == _units(graph, "a")[:2]


def test_layers_that_read_the_same_tensor_share_one_activation() -> None:
    """Three readers, one of them through a dropout: each channel is sent once."""
    graph = _graph("shared_input")
    stem = _layer(graph, "q").activation
    assert [graph.layers[index].name for index in graph.readers[stem]] == ["q", "k", "v"]
    assert graph.digraph().nodes["q"] == {"kind": "layer", "group": "q"}
    assert graph.digraph().edges["stem", "k"]["bytes"] == 24


def test_what_can_be_made_from_less_is_sent_as_less() -> None:
    """The image before the padding and before the upsampling, not after it."""
    graph = _graph("padded")
    assert _read(graph, "3").values.tolist() == [64] * 4
    assert _read(graph, "5").values.tolist() == [10 * 10] * 5


def test_functions_on_a_modules_weights_are_one_workers() -> None:
    """F.conv2d(x, m.b.weight) does not run m.b, so that nothing could be measured there; a and c are placed."""
    graph = _graph("functional")
    assert [layer.name for layer in graph.layers] == ["a", "c"]
    assert graph.warnings[0].startswith("the model: conv2d mixes")
    (read,) = graph.reads
    assert graph.activations[read.activation].unit[read.channel].tolist() == _units(graph, "a")


def test_writes_in_place_count_from_there_on() -> None:
    """relu_ and add_ join what they add; the copy that was kept is another tensor, and a copied part is joined."""
    graph = _graph("in_place")
    a = _units(graph, "a")
    assert _units(graph, "b") == a
    assert _read(graph, "b").unit.tolist() == a
    assert _read(graph, "c").unit.tolist() == [a[2], a[3], *a[2:]]


def test_norms_that_do_not_serve_one_layer_alone_are_not_its_norm() -> None:
    """Over tokens, by the batch's own statistics, or shared by two layers: nothing could be shifted there."""
    over_tokens = nn.Sequential(nn.Linear(3, 5), nn.BatchNorm1d(4), nn.Linear(5, 2)).eval()
    by_batch = nn.Sequential(nn.Linear(3, 5), nn.BatchNorm1d(5, track_running_stats=False), nn.Linear(5, 2)).eval()
    plain = nn.Sequential(nn.Linear(3, 5), nn.BatchNorm1d(5, affine=False), nn.Linear(5, 2)).eval()
    shared = Calls(
        lambda m, x: m.c(m.n(m.a(x)) * m.n(m.b(x))), a=nn.Linear(3, 5), b=nn.Linear(3, 5), n=nn.BatchNorm1d(5),
        c=nn.Linear(5, 2),
    ).eval()  # fmt: skip
    assert layer_graph(over_tokens, torch.zeros(2, 4, 3)).layers[0].norm is None
    assert layer_graph(by_batch, torch.zeros(2, 3)).layers[0].norm is None
    assert layer_graph(plain, torch.zeros(2, 3)).layers[0].norm == "1"
    assert [layer.norm for layer in layer_graph(shared, torch.zeros(2, 3)).layers] == [None] * 3


def test_a_norm_is_found_behind_a_layer_where_others_write_in_place() -> None:
    """The functional graph has other names for a BatchNorm."""
    model = nn.Sequential(nn.Conv2d(3, 5, 3), nn.BatchNorm2d(5), nn.ReLU(inplace=True), nn.Conv2d(5, 2, 3)).eval()
    graph = layer_graph(model, torch.zeros(2, 3, 8, 8))
    assert [layer.norm for layer in graph.layers] == ["1", None]
    assert graph.unit_bytes[_units(graph, "0")].tolist() == [4 * (28 + 4)] * 5


# Barriers


def test_what_is_not_understood_is_run_by_one_worker_and_named() -> None:
    """A softmax between layers reads all six channels, and its outputs are its own."""
    graph = _graph("softmax")
    assert graph.warnings == (
        "the model: softmax mixes channels in a way that is not understood; one worker gathers the inputs and runs it",
    )
    (read,) = graph.reads
    assert graph.activations[read.activation].unit[read.channel].tolist() == _units(graph, "a")
    assert set(_read(graph, "b").unit) <= set(graph.barriers["softmax"])
    assert graph.digraph().has_edge("a", "softmax")
    assert graph.digraph().has_edge("softmax", "b")


def test_attention_is_barriers_between_layers() -> None:
    """Its products and its projections, which it runs as functions, are one worker's; the layers around are placed."""
    graph = _graph("attention")
    assert [layer.name for layer in graph.layers] == ["embed", "head"]
    assert all(warning.startswith("module 'attend': linear, bmm, softmax mix") for warning in graph.warnings)
    assert [span.name for span in graph.spans] == ["norm"]


def test_a_linear_over_tokens_is_a_barrier() -> None:
    """Each of its inputs is a token of all channels."""
    graph = _graph("mixer")
    assert [layer.name for layer in graph.layers] == ["embed", "head"]
    assert "module 'tokens': linear mixes" in graph.warnings[0]


# Hugging Face


def test_resnet_by_hand() -> None:
    """Embedder and first stage share their residual stream; the second stage has one of its own."""
    graph = _graph("resnet")
    names = [
        [name.removeprefix("resnet.").removesuffix(".convolution") for name in layers]
        for layers in _groups(graph).values()
    ]
    second = "encoder.stages.1.layers"
    assert names == [
        ["embedder.embedder", "encoder.stages.0.layers.0.layer.1"],
        ["encoder.stages.0.layers.0.layer.0"],
        [f"{second}.0.layer.0"],
        [f"{second}.0.layer.1", f"{second}.0.shortcut", f"{second}.1.layer.1"],
        [f"{second}.1.layer.0"],
        ["classifier.1"],
    ]
    assert [group.units.size for group in graph.groups] == [6, 6, 9, 9, 9, 5]
    assert all(layer.norm == layer.name.replace("convolution", "normalization") for layer in graph.layers[:-1])
    assert (graph.reads, graph.warnings) == ((), ())


@pytest.mark.slow
def test_mobilenet_has_no_layer_for_its_depthwise_convolutions() -> None:
    """Each of them goes with the channels it reads, the head's classifier comes last, and nothing is a barrier."""
    graph = _graph("mobilenet")
    depthwise = [name for name, module in network("mobilenet")[0].named_modules() if getattr(module, "groups", 1) > 1]
    assert len(depthwise) == 17
    assert not {layer.name for layer in graph.layers} & set(depthwise)
    assert graph.layers[-1].name == "classifier"
    assert (graph.reads, graph.warnings) == ((), ())


# Bad input


def _chain() -> nn.Sequential:
    return nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 4))


_SHARED = nn.Linear(3, 3)
_ROWS = torch.zeros(2, 3)


@pytest.mark.parametrize(
    ("model", "said"),
    [
        (7, "the model is a int, not a torch.nn.Module"),
        (nn.Linear(3, 2), "the model is a Linear alone; put it into an nn.Sequential"),
        (nn.Sequential(nn.ReLU()), "no Linear or convolution layer that can be placed"),
        (nn.Sequential(_SHARED, nn.ReLU(), _SHARED), "'0' and '2' share their weight"),
        (Calls(lambda m, x: m.a(m.a(x)), a=nn.Linear(3, 3)), "'a' runs more than once"),
        (nn.Sequential(nn.LazyLinear(2)), "'0' is a LazyLinear that has no weights yet"),
        (nn.Sequential(nn.Linear(3, 2), nn.LazyBatchNorm1d()), "'1' is a LazyBatchNorm1d that has no weights yet"),
        (
            nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(3, 5)),
            "'2' cannot be traced on example_inputs: .*shapes",
        ),
        (nn.Sequential(nn.Linear(3, 2), nn.Linear(2, 2).double()), "parameters are torch.float32 on cpu and torch.flo"),
        (nn.Sequential(nn.Linear(3, 2, device="meta")), "'0' is on the meta device"),
        (nn.Sequential(nn.Linear(3, 2, dtype=torch.complex64)), "'0' has torch.complex64 weights"),
    ],
)
def test_models_that_cannot_be_placed_are_refused_by_name(model: Any, said: str) -> None:
    """One line that names the module in the way."""
    with pytest.raises(InputError, match=said) as caught:
        layer_graph(model, _ROWS)
    assert "\n" not in str(caught.value)


def test_layers_without_weights_are_refused() -> None:
    """No neurons cannot be shared out."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = nn.Sequential(nn.Linear(3, 0), nn.Linear(0, 2))
    with pytest.raises(InputError, match=r"'0' has weights of shape \(0, 3\)"):
        layer_graph(model, _ROWS)


@pytest.mark.parametrize(
    ("inputs", "said"),
    [
        (None, "example_inputs is a NoneType"),
        ({"x": _ROWS}, "example_inputs is a dict"),
        ((), "example_inputs is a tuple"),
        ((_ROWS, 3), r"example_inputs\[1\] is a int"),
        (torch.zeros(0, 3), "example_inputs is empty"),
        (torch.zeros(3), "'0' reads numbers without examples"),
        (torch.zeros(2, 4), "'0' cannot be traced on example_inputs"),
        (torch.zeros(2, 3, device="meta"), "cannot be traced on example_inputs"),
        (torch.zeros(2, 3, dtype=torch.float64), "cannot be traced on example_inputs"),
        ((_ROWS, _ROWS), "the model cannot be traced on example_inputs"),
    ],
)
def test_example_inputs_that_are_none_are_refused(inputs: Any, said: str) -> None:
    """Whatever is given, one line says what is wrong with it."""
    with pytest.raises(InputError, match=said) as caught:
        layer_graph(_chain(), inputs)
    assert "\n" not in str(caught.value)


def test_any_number_of_examples_gives_the_same_graph() -> None:
    """One, three, or the only number that a model takes; its shape may ask how many there are."""
    model = Calls(lambda m, x: m.b(m.a(x).view(x.size(0), -1)), a=nn.Conv2d(1, 2, 1), b=nn.Linear(8, 3))
    one, three = layer_graph(model, torch.zeros(1, 1, 2, 2)), layer_graph(model, torch.zeros(3, 1, 2, 2))
    model = Calls(lambda m, x: m.b(m.a(x).view(3, 8)), a=nn.Conv2d(1, 2, 1), b=nn.Linear(8, 3))
    only = layer_graph(model, torch.zeros(3, 1, 2, 2))
    for graph in (one, three, only):
        assert graph.unit_macs.tolist() == [0] + [4] * 2 + [8] * 3
        assert _read(graph, "b").bytes.tolist() == [4] * 8


def test_several_inputs_are_units_of_their_own() -> None:
    """Two tensors, 2 and 3 numbers."""
    model = Calls(lambda m, x, y: m.c(torch.cat([m.a(x), y], 1)), a=nn.Linear(2, 2), c=nn.Linear(5, 2))
    graph = layer_graph(model, (torch.zeros(4, 2), torch.zeros(4, 3)))
    assert [units.tolist() for units in graph.inputs] == [[0, 1], [2, 3, 4]]
    assert _read(graph, "c").made_by == {"a", "input 1"}


def test_the_model_is_left_as_it_was() -> None:
    """Modes of each module, weights and running statistics; dropout in training mode is no part of the graph."""
    model = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Dropout(), nn.ReLU(inplace=True), nn.Linear(4, 2))
    model[1].eval()
    before = {key: value.clone() for key, value in model.state_dict().items()}
    inputs = torch.randn(2, 3)
    graph = layer_graph(model, inputs)
    assert [module.training for module in model.modules()] == [True, True, False, True, True, True]
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    assert graph.layers[0].norm == "1"


def _tie_weight(model: nn.Sequential) -> None:
    model[4].weight = model[2].weight


def _tie_bias(model: nn.Sequential) -> None:
    model[4].bias = model[2].bias


def _tie_memory(model: nn.Sequential) -> None:
    model[4].weight = nn.Parameter(model[2].weight.data.T)


def _tie_view(model: nn.Sequential) -> None:
    model[4].bias = nn.Parameter(model[2].weight.data[1])


@pytest.mark.parametrize(
    ("tie", "said"), [(_tie_weight, "weight"), (_tie_bias, "bias"), (_tie_memory, "weight"), (_tie_view, "bias")]
)
def test_layers_that_share_memory_are_refused(tie: Callable[[nn.Sequential], None], said: str) -> None:
    """A plan would prune and adjust the one tensor twice. Views of one memory, as tied autoencoders have, too."""
    model = _chain()
    layer_graph(model, _ROWS)
    tie(model)
    with pytest.raises(InputError, match=f"'2' and '4' share their {said}"):
        layer_graph(model, _ROWS)


class _Doubled(nn.Linear):
    def forward(self, inputs: Tensor) -> Tensor:
        return 2 * super().forward(inputs)


class _Named(nn.Linear):
    """Says nothing about what it computes."""


def test_a_forward_of_its_own_is_no_layer() -> None:
    """A subclass that computes something else, or a forward put on the object, is one worker's; others are layers."""
    patched = nn.Linear(4, 4)
    plain = patched.forward
    patched.forward = lambda x: plain(x).cumsum(1)
    model = nn.Sequential(_Named(3, 4), _Doubled(4, 4), patched, nn.Linear(4, 2))
    graph = layer_graph(model, _ROWS)
    assert [layer.name for layer in graph.layers] == ["0", "3"]
    assert [warning.split(":")[0] for warning in graph.warnings] == ["module '1'", "module '2'"]


class _Twice(nn.Module):
    def forward(self, weight: Tensor) -> Tensor:
        return 2 * weight


def _weight_norm(module: nn.Module) -> None:
    torch.nn.utils.parametrizations.weight_norm(module)


def _parametrized_bias(module: nn.Module) -> None:
    parametrize.register_parametrization(module, "bias", _Twice())


def _same_but_parametrized(module: nn.Module) -> None:
    parametrize.register_parametrization(module, "weight", nn.Identity())


def _old_weight_norm(module: nn.Module) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        torch.nn.utils.weight_norm(module)


def _pruned(module: nn.Module) -> None:
    prune.l1_unstructured(module, "weight", amount=2)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (_weight_norm, "the weight of module '2' .*remove_parametrizations"),
        (_parametrized_bias, "the bias of module '2' .*remove_parametrizations"),
        (_same_but_parametrized, "the weight of module '2' .*remove_parametrizations"),
        (_old_weight_norm, "the weight of module '2' .*remove_weight_norm"),
        (_pruned, "the weight of module '2' .*prune.remove"),
    ],
)
def test_weights_computed_from_others_are_refused(change: Callable[[nn.Module], None], said: str) -> None:
    """They cannot be set; the message says how to make them plain."""
    model = _chain()
    change(model[2])
    with pytest.raises(InputError, match=said):
        layer_graph(model, _ROWS)


@pytest.mark.parametrize("name", ["", "1", "2"])
@pytest.mark.parametrize("kind", ["register_forward_hook", "register_forward_pre_hook"])
def test_forward_hooks_are_refused(name: str, kind: str) -> None:
    """A hook may replace inputs and outputs, on any module; without it the model is taken."""
    model = _chain()
    handle = getattr(model.get_submodule(name), kind)(lambda *_: None)
    with pytest.raises(InputError, match="has forward hooks"):
        layer_graph(model, _ROWS)
    handle.remove()
    assert len(layer_graph(model, _ROWS).layers) == 3


def test_tracing_says_nothing(capfd: pytest.CaptureFixture[str]) -> None:
    """Neither torch's warnings nor its prints on what it cannot trace; the one line is ours."""
    model = Calls(lambda m, x: m.a(x) if x.sum() > 0 else -m.a(x), a=nn.Linear(3, 2))
    with pytest.raises(InputError, match="decides by the values of its data"):
        layer_graph(nn.Sequential(model), _ROWS)
    assert capfd.readouterr() == ("", "")


def test_a_branch_by_data_names_its_module() -> None:
    """The innermost one that runs."""
    model = nn.Sequential(nn.Linear(3, 3), Calls(lambda m, x: x if x.sum() > 0 else -x))
    with pytest.raises(InputError, match=r"^module '1' decides by the values of its data"):
        layer_graph(model, _ROWS)
