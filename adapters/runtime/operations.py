"""The tensor operations that a network may be made of, by what they do with channels.

Names are those of PyTorch's `aten`, without their overload and without the `_` of a write in place. A worker runs
nothing else, whatever a file says.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

import torch

from formulations.errors import InputError

#: The same numbers again; names are those of torch.export, of its functional graph as well.
SAME = frozenset(["alias", "clone", "contiguous", "detach", "to", "_to_copy"])
#: Numbers that do not depend on those of the tensor.
CONSTANTS = frozenset(
    """
    empty_like fill full_like new_empty new_full new_ones new_zeros ones_like zeros_like
    """.split()
)
#: One number in, one number out, or several of the same place.
ELEMENTWISE = frozenset(
    """
    abs add addcdiv addcmul alpha_dropout atan ceil celu clamp clamp_max clamp_min cos div dropout elu eq
    erf exp expm1 feature_dropout floor ge gelu gt hardsigmoid hardswish hardtanh le leaky_relu lerp log log1p
    log_sigmoid logical_and logical_not logical_or lt masked_fill maximum minimum mish mul nan_to_num ne neg pow
    reciprocal relu relu6 round rrelu rsqrt rsub selu sigmoid sign silu sin sinh softplus softsign sqrt square sub
    tan tanh tanhshrink threshold where
    """.split()
)
#: Data is moved, not computed with.
MOVES = frozenset(
    """
    cat channel_shuffle chunk expand expand_as flatten flip movedim narrow numpy_T permute pixel_shuffle
    pixel_unshuffle repeat repeat_interleave reshape roll select select_scatter slice slice_scatter split
    split_with_sizes squeeze stack swapaxes t tile transpose unbind unflatten _unsafe_view unsqueeze view
    """.split()
)
#: Each channel by itself, whatever becomes of the dimensions after it; how many these are where a digit says so.
SPATIAL = frozenset(
    """
    adaptive_avg_pool1d adaptive_avg_pool2d adaptive_max_pool1d adaptive_max_pool2d avg_pool1d avg_pool2d
    instance_norm max_pool1d max_pool2d upsample_bicubic2d upsample_bilinear2d upsample_linear1d upsample_nearest1d
    upsample_nearest2d
    """.split()
)
#: Over dimensions named in the call; fine where they hold one channel.
REDUCTIONS = frozenset(["amax", "amin", "log_softmax", "mean", "softmax", "sum"])
LAYERS = frozenset(["conv1d", "conv2d", "linear"])
NORMS = frozenset(
    """
    batch_norm cudnn_batch_norm group_norm layer_norm native_batch_norm _native_batch_norm_legit
    _native_batch_norm_legit_no_training
    """.split()
)
#: They mix channels, and one worker runs them; others that do are not served.
MIXING = frozenset(
    """
    acos addmm all any argmax argmin argsort asin atan2 baddbmm bitwise_and bitwise_not bitwise_or bmm cdist col2im
    conv3d conv_transpose1d conv_transpose2d conv_transpose3d cosh cosine_similarity cummax cumprod cumsum diagonal
    einsum embedding erfc exp2 floor_divide fmod gather glu gru hypot im2col index isfinite isinf isnan kthvalue
    linalg_vector_norm log10 log2 logaddexp logical_xor logsumexp lstm matmul max max_pool1d_with_indices
    max_pool2d_with_indices median min mm mv native_group_norm native_layer_norm norm one_hot prod remainder rms_norm
    scaled_dot_product_attention scatter scatter_add sort std std_mean tensordot topk tril triu trunc unfold var
    var_mean
    """.split()
)
#: Of no tensor at all.
MADE = frozenset(["arange", "empty", "full", "linspace", "ones", "scalar_tensor", "zeros"])
_OTHERS = frozenset(["copy", "index_add", "index_select", "lift_fresh_copy", "pad", "prelu"])
_ALL = SAME | CONSTANTS | ELEMENTWISE | MOVES | SPATIAL | REDUCTIONS | LAYERS | NORMS | MIXING | MADE | _OTHERS


def operation(target: str) -> Callable[..., Any]:
    """The function called `name.overload` in `torch.ops.aten`.

    Raises:
        InputError: it is none of those that may be run, or this PyTorch has none such.
    """
    name, _, overload = target.partition(".")
    if name.removesuffix("_") not in _ALL and name not in _ALL:
        raise InputError(f"operation {target!r} cannot be run by workers; take it out of the part to be placed")
    found = getattr(getattr(torch.ops.aten, name, None), overload or "default", None)
    if not isinstance(found, torch._ops.OpOverload):  # and no other attribute
        raise InputError(f"PyTorch {torch.__version__} has no operation {target!r}; use the one that made the plan")
    return cast(Callable[..., Any], found)
