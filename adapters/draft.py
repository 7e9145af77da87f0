"""A placement with the network adjusted to it, layer by layer."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from adapters.adjust import refit, relative_error, shift_norm
from adapters.calibrate import Moments, evaluating, measure
from adapters.costs import LayerCosts, layer_loss, row_scale, takes_bias
from adapters.graph import LayerGraph
from adapters.importance import first_tensor
from adapters.kernels import matrix, set_matrix
from adapters.masked import mask
from adapters.placing import Placement, sent_anyway


@dataclass(frozen=True, eq=False)
class Draft:
    """A placement with the network adjusted to it.

    Attributes:
        placed: with the sends that were chosen on the way.
        model: adjusted, and masked where kernels are dropped.
        kept: per layer, N×M.
        relative_error: per layer, what is left.
    """

    placed: Placement
    model: nn.Module
    kept: tuple[NDArray[np.bool_], ...]
    relative_error: tuple[float, ...]


class Drafts:
    """Adjusts a model to placements."""

    def __init__(
        self,
        model: nn.Module,
        graph: LayerGraph,
        costs: Sequence[LayerCosts],
        calibration: Sequence[Tensor],
        example: Tensor,
        show: Callable[[str], None],
    ) -> None:
        """Adjust `model`, which is left as it was, on `calibration`; without any, nothing is adjusted, only masked."""
        self._model, self._graph, self._costs = model, graph, costs
        self._calibration, self._example, self._show = calibration, example, show

    def draft(self, placed: Placement, *, follow: bool = True) -> Draft:
        """The network adjusted layer by layer, on the activations of the network changed so far.

        Args:
            follow: choose anew what is sent, where costs know how channels stand in for each other.
        """
        model = copy.deepcopy(self._model)
        kept: list[NDArray[np.bool_]] = []
        errors: list[float] = []
        for index in range(len(self._graph.layers)):
            placed, layer_kept, error = self._adjusted(placed, model, index, kept, follow)
            kept.append(layer_kept)
            errors.append(error)
        return Draft(placed, model, tuple(kept), tuple(errors))

    def output_error(self, draft: Draft) -> float:
        """Squared error of the outputs on the calibration examples, in shares of their variance."""
        error, total, origin, count = 0.0, 0.0, 0.0, 0
        with evaluating(self._model), evaluating(draft.model):
            for batch in self._calibration:
                wanted = first_tensor(self._model(batch.clone())).double()
                found = first_tensor(draft.model(batch.clone())).double()
                error += float((found - wanted).square().sum())
                total, origin, count = (
                    total + wanted.square().sum(dim=0),
                    origin + wanted.sum(dim=0),
                    count + (len(wanted) if wanted.ndim else 1),
                )
        spread = float((total - origin**2 / count).sum())
        return error / spread if spread > 0 else error

    def _adjusted(
        self, placed: Placement, model: nn.Module, index: int, kept_before: Sequence[NDArray[np.bool_]], follow: bool
    ) -> tuple[Placement, NDArray[np.bool_], float]:
        """Prune and refit one layer of `model`, the layers before it done.

        Where channels stand in for each other, what is sent is chosen anew, for inputs as the changed network has
        them: it then makes up for the errors of earlier layers.

        Returns:
            The placement with these sends, the kernels kept, and the relative error that is left.
        """
        layer = self._graph.layers[index]
        if not self._calibration:
            kept = placed.network.available(index, placed.worker) & (placed.network.gains[index] > 0)
            mask(model.get_submodule(layer.name), kept)
            return placed, kept, 0.0
        self._show(f"{layer.name}: adjustment")
        moments = measure(model, self._model, [layer.name], self._calibration, self._example)[layer.name]
        partials = placed.network.partials
        if follow and self._costs[index].follows and (not partials[index] or index in placed.losses):
            readers = [reader for reader in self._graph.readers[layer.activation] if not partials[reader]]
            done = {reader: kept_before[reader] for reader in readers if reader < index}
            choosing = [reader for reader in readers if self._costs[reader].follows]
            free = sent_anyway(placed.network, layer.activation, placed.worker, choosing, done)
            loss = layer_loss(self._model, layer, moments, self._costs[index].importance)
            placed = placed.following(index, loss, free)
        kept = self._kept(placed, index)
        return placed, kept, self._refit(model, index, kept, moments)

    def _kept(self, placed: Placement, index: int) -> NDArray[np.bool_]:
        """N×M: of the kernels at hand, those worth more than keeping them costs.

        By the costs as they are: what gains less than rounding is kept where it costs nothing. Otherwise the neurons
        of a wide layer would each keep another set of inputs, and each would need a factorisation of its own.
        """
        network = placed.network
        if index in placed.losses:
            worth = network.gains[index] > 0
        else:
            worth = self._costs[index].prune_cost > network.prices.per_weight
        return network.available(index, placed.worker) & worth

    def _refit(self, model: nn.Module, index: int, kept: NDArray[np.bool_], moments: Moments) -> float:
        """Set one layer of `model` to what fits best with the kernels kept; the relative error that is left."""
        layer = self._graph.layers[index]
        module = model.get_submodule(layer.name)
        norm = None if layer.norm is None else model.get_submodule(layer.norm)
        has_bias = module.bias is not None
        fit_bias = takes_bias(self._model, layer)
        weights, bias = refit(matrix(module), module.bias, kept, layer.kernel, moments, fit_bias=fit_bias)
        mask(module, kept)
        set_matrix(module, weights)
        with torch.no_grad():
            if has_bias:
                module.bias.copy_(bias)
            elif norm is not None and bias is not None:
                shift_norm(norm, bias)
        return relative_error(weights, bias, moments, row_scale(self._model, layer))
