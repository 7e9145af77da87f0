"""Losses with correlations, and the sends chosen by them, against numbers by hand and plain least squares."""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from adapters.covariance import LayerLoss
from formulations import InputError

#: Inputs 0 and 1 have energy 1 and correlation 0.6, so each leaves 1 − 0.36 = 0.64 of the other unexplained.
PAIR = torch.tensor([[1.0, 0.6], [0.6, 1.0]], dtype=torch.float64)


@dataclass(frozen=True, eq=False)
class _Layer:
    """A small random layer, its data, and its placement on two workers."""

    inputs: NDArray[np.float64]
    matrix: NDArray[np.float64]
    kernel: int
    worker: NDArray[np.int64]
    input_worker: NDArray[np.int64]
    send_cost: NDArray[np.float64]
    present: NDArray[np.bool_] | None = None

    @property
    def own(self) -> NDArray[np.bool_]:
        return self.input_worker[:, None] == np.arange(2)

    def loss(self) -> LayerLoss:
        return LayerLoss(
            torch.from_numpy(self.matrix), _gram(self.inputs), kernel=self.kernel, present=self.present, ridge=1e-11
        )

    def choose(self, start: NDArray[np.bool_] | None = None) -> NDArray[np.bool_]:
        return self.loss().choose(self.worker, self.input_worker, self.send_cost, start)

    def costs(self, sent: NDArray[np.bool_]) -> NDArray[np.float64]:
        return self.loss().costs(self.worker, self.own | sent)

    def by_least_squares(self, neuron: int, at_hand: NDArray[np.bool_]) -> float:
        """½ E|ŵ·x + b − w·x|² of the best ŵ on the inputs at hand that the neuron has, from the data itself."""
        there = at_hand if self.present is None else at_hand & self.present[neuron]
        columns = [*np.flatnonzero(np.repeat(there, self.kernel)), -1]
        extended = np.hstack([self.inputs, np.ones((len(self.inputs), 1))])
        wanted = self.inputs @ self.matrix[neuron]
        solution = np.linalg.lstsq(extended[:, columns], wanted, rcond=None)[0]
        return float(np.square(extended[:, columns] @ solution - wanted).mean() / 2)

    def total(self, p: int, sent: NDArray[np.bool_]) -> float:
        """Loss and prices of one worker with these sends (M)."""
        rows = np.flatnonzero(self.worker == p)
        return float(self.send_cost[sent, p].sum()) + sum(self.by_least_squares(i, self.own[:, p] | sent) for i in rows)


def _gram(inputs: NDArray[np.float64]) -> torch.Tensor:
    extended = np.hstack([inputs, np.ones((len(inputs), 1))])
    return torch.from_numpy(extended.T @ extended / len(inputs))


def _layer(seed: int, kernel: int = 1, num_inputs: int = 5, grouped: bool = False) -> _Layer:
    """Correlated inputs with means; prices such that some pay and some do not."""
    rng = np.random.default_rng(seed)
    width = num_inputs * kernel
    inputs = rng.normal(size=(60, width)) @ rng.normal(size=(width, width)) + rng.normal(size=width)
    matrix, present = rng.normal(size=(6, width)), None
    if grouped:
        present = np.arange(6)[:, None] % 2 == np.arange(num_inputs) % 2
        matrix *= np.repeat(present, kernel, axis=1)
    worker, input_worker = rng.permutation(6) % 2, rng.permutation(num_inputs) % 2
    send_cost = rng.uniform(0, width, size=(num_inputs, 2))
    return _Layer(inputs, matrix, kernel, worker, input_worker, send_cost, present)


KINDS = pytest.mark.parametrize(("kernel", "grouped"), [(1, False), (4, False), (1, True), (4, True)])


@pytest.mark.parametrize(("price", "sends"), [(1.3, False), (1.2, True)])
def test_one_send_by_hand(price: float, sends: bool) -> None:
    """Row 0 lacks 2 x1, of which x0 explains 36 %: ½ · 4 · 0.64 = 1.28 decides about the send."""
    layer = LayerLoss(torch.tensor([[0.0, 2.0], [1.0, 1.0]]), PAIR)
    worker, owner = np.array([0, 1]), np.array([0, 1])
    sent = layer.choose(worker, owner, np.array([[0, 9.0], [price, 0]]))
    np.testing.assert_array_equal(sent, [[False, False], [sends, False]])
    at_hand = np.eye(2, dtype=bool) | sent
    # Row 1 on worker 1 lacks x0: ½ · 1 · 0.64. On worker 0 with x1 sent, no row lacks anything.
    np.testing.assert_allclose(
        layer.of_rows(at_hand), [[0 if sends else 1.28, 0], [0 if sends else 0.32, 0.32]], atol=1e-5
    )
    # Without the send row 0 is refitted to 1.2 x0, and to lose that costs ½ · 1.44; with it, x0 is not needed.
    # Row 1 is refitted to 1.6 x1, worth ½ · 2.56.
    np.testing.assert_allclose(layer.costs(worker, at_hand), [[0 if sends else 0.72, 1.28], [0.32, 1.28]], atol=1e-5)


def test_of_two_inputs_alike_one_is_sent() -> None:
    """A copy says nothing new: energies would send both, and least squares sends one for both weights."""
    gram = torch.ones(2, 2, dtype=torch.float64)
    layer = LayerLoss(torch.tensor([[1.0, 1.0]]), gram)
    sent = layer.choose(np.array([0]), np.array([1, 1]), np.array([[0.3, 0], [0.3, 0]]))
    assert sent.sum() == 1
    assert layer.of_rows(sent)[0, 0] == pytest.approx(0, abs=1e-5)
    # What is sent carries the sum of both, 2 x, worth ½ · 4; the other would add nothing.
    np.testing.assert_allclose(layer.costs(np.array([0]), sent)[0], np.where(sent[:, 0], 2, 0), atol=1e-5)


def test_scale_of_rows_and_unit_of_losses() -> None:
    """Losses and costs go with s² and come in units."""
    matrix, scale = torch.tensor([[0.0, 2.0], [1.0, 1.0]]), torch.tensor([3.0, 1.0])
    own = np.eye(2, dtype=bool)
    plain = LayerLoss(matrix, PAIR).of_rows(own)
    np.testing.assert_allclose(
        LayerLoss(matrix, PAIR, row_scale=scale, unit=4.0).of_rows(own), plain * [[9 / 4], [1 / 4]]
    )


def test_without_a_constant_the_bias_stays() -> None:
    """An input that is always 3 costs nothing if the bias can take its place, and ½ · 3² if there is no bias."""
    gram = torch.tensor([[9.0, 3.0], [3.0, 1.0]], dtype=torch.float64)
    nothing = np.zeros((1, 1), dtype=bool)
    assert LayerLoss(torch.ones(1, 1), gram).of_rows(nothing)[0, 0] == 0
    assert LayerLoss(torch.ones(1, 1), gram[:1, :1]).of_rows(nothing)[0, 0] == pytest.approx(4.5, rel=1e-5)


@KINDS
def test_losses_are_those_of_least_squares(kernel: int, grouped: bool) -> None:
    """Of every row on every worker, with what was chosen at hand."""
    layer = _layer(1, kernel, grouped=grouped)
    at_hand = layer.own | layer.choose()
    expected = [[layer.by_least_squares(i, at_hand[:, p]) for p in range(2)] for i in range(6)]
    np.testing.assert_allclose(layer.loss().of_rows(at_hand), expected, rtol=1e-6, atol=1e-8)


@KINDS
def test_losses_of_a_changed_network_follow_the_original_outputs(kernel: int, grouped: bool) -> None:
    """Inputs are not what they were: against least squares to the old outputs, but for what no inputs can say."""
    layer = _layer(4, kernel, grouped=grouped)
    rng = np.random.default_rng(0)
    original = layer.inputs @ rng.normal(size=(layer.inputs.shape[1],) * 2) + rng.normal(size=layer.inputs.shape)
    targets = original @ layer.matrix.T + 3
    extended = np.hstack([layer.inputs, np.ones((len(targets), 1))])
    cross = torch.from_numpy(extended.T @ targets / len(targets))
    loss = LayerLoss(
        torch.from_numpy(layer.matrix),
        _gram(layer.inputs),
        cross=cross,
        kernel=kernel,
        present=layer.present,
        ridge=1e-11,
    )

    def left(neuron: int, at_hand: NDArray[np.bool_]) -> float:
        there = at_hand if layer.present is None else at_hand & layer.present[neuron]
        used = extended[:, [*np.flatnonzero(np.repeat(there, kernel)), -1]]
        fitted = used @ np.linalg.lstsq(used, targets[:, neuron], rcond=None)[0]
        return float(np.square(fitted - targets[:, neuron]).mean() / 2)

    expected = [[left(i, layer.own[:, p]) - left(i, np.ones(5, dtype=bool)) for p in range(2)] for i in range(6)]
    np.testing.assert_allclose(loss.of_rows(layer.own), expected, rtol=1e-6, atol=1e-8)


@KINDS
def test_costs_are_differences_of_losses(kernel: int, grouped: bool) -> None:
    """Each input alone enters or leaves, the row is refitted; kernels that a row does not have cost nothing."""
    layer = _layer(2, kernel, grouped=grouped)
    sent = layer.choose()
    cost = layer.costs(sent)
    for i, j in np.ndindex(cost.shape):
        at_hand = (layer.own | sent)[:, layer.worker[i]]
        other = at_hand.copy()
        other[j] ^= True
        expected = abs(layer.by_least_squares(i, other) - layer.by_least_squares(i, at_hand))
        assert cost[i, j] == pytest.approx(expected, rel=1e-6, abs=1e-8)


@KINDS
def test_no_single_step_improves_and_thresholds_say_the_same(kernel: int, grouped: bool) -> None:
    """Sent is what its rows' costs add up to more than its price for, whatever the start."""
    for seed in range(8):
        layer = _layer(seed, kernel, grouped=grouped)
        for start in (None, np.ones((5, 2), dtype=bool)):
            sent = layer.choose(start)
            cost = layer.costs(sent)
            assert not (sent & layer.own).any()
            for p in range(2):
                pays = cost[layer.worker == p].sum(axis=0) > layer.send_cost[:, p]
                np.testing.assert_array_equal(pays & ~layer.own[:, p], sent[:, p])
                reached = layer.total(p, sent[:, p])
                for j in np.flatnonzero(~layer.own[:, p]):
                    other = sent[:, p].copy()
                    other[j] ^= True
                    assert layer.total(p, other) >= reached * (1 - 1e-9)


def test_steps_end_near_the_best_of_all_sets() -> None:
    """Against all sets of sends of 60 workers: most are optimal, and the mean is within 2 %."""
    ratios = []
    for seed in range(30):
        layer = _layer(seed, num_inputs=8)
        found = layer.choose()
        for p in range(2):
            remote = np.flatnonzero(~layer.own[:, p])
            best = np.inf
            for bits in itertools.product([False, True], repeat=len(remote)):
                sent = np.zeros(8, dtype=bool)
                sent[remote] = bits
                best = min(best, layer.total(p, sent))
            ratios.append(layer.total(p, found[:, p]) / best)
    assert min(ratios) >= 1 - 1e-9
    assert np.mean(ratios) < 1.02
    assert np.mean(np.array(ratios) < 1 + 1e-9) > 0.9


def _sent_losses_costs(layer: LayerLoss, num_neurons: int, num_inputs: int) -> tuple[NDArray[Any], ...]:
    """All neurons on worker 0, all inputs on worker 1, sends at 0.001."""
    worker, owner = np.zeros(num_neurons, dtype=int), np.ones(num_inputs, dtype=int)
    sent = layer.choose(worker, owner, np.array([[1e-3, 0]] * num_inputs))
    loss, cost = layer.of_rows(sent), layer.costs(worker, sent)
    assert np.isfinite(loss).all()
    assert np.isfinite(cost).all()
    return sent[:, 0], loss[:, 0], cost


def test_inputs_that_say_nothing_are_never_sent() -> None:
    """Always 0, constant, and the sum of two others: everything stays finite, and what is sent says something."""
    rng = np.random.default_rng(0)
    inputs = rng.normal(size=(40, 6))
    inputs[:, 0], inputs[:, 1], inputs[:, 2] = 0, 1e4, inputs[:, 3] + inputs[:, 4]
    layer = LayerLoss(torch.from_numpy(rng.normal(size=(4, 6))), _gram(inputs))
    sent, loss, cost = _sent_losses_costs(layer, 4, 6)
    np.testing.assert_array_equal(cost[:, :2], 0)
    assert not sent[:2].any()
    assert sent[2:5].sum() == 2
    assert loss.sum() < 1e-3


def test_means_that_swallow_the_deviations() -> None:
    """Around means of 5·10⁵, moments keep four digits of the variances: too few for the usual ridge, so it grows."""
    rng = np.random.default_rng(1)
    inputs = 5e5 + rng.normal(size=(40, 4)) @ rng.normal(size=(4, 8))
    sent, loss, _ = _sent_losses_costs(LayerLoss(torch.from_numpy(rng.normal(size=(3, 8))), _gram(inputs)), 3, 8)
    assert sent.sum() >= 4
    assert loss.sum() < 0.1


def test_a_layer_without_variance_loses_nothing() -> None:
    """Inputs that are all 0 give losses and costs of 0, not a failed factorisation."""
    layer = LayerLoss(torch.ones(2, 3), torch.zeros(3, 3, dtype=torch.float64))
    for found in _sent_losses_costs(layer, 2, 3):
        assert not found.any()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"gram": torch.eye(5)}, r"3 columns in kernels of 1 does not fit second moments \(5, 5\)"),
        ({"kernel": 2}, "kernels of 2"),
        ({"cross": torch.ones(2, 3)}, r"\(2, 3\); give \(3, 2\)"),
        ({"unit": 0.0}, "unit of losses is 0.0"),
        ({"gram": torch.full((3, 3), torch.nan)}, "NaN"),
    ],
)
def test_misfits_are_refused(arguments: dict[str, Any], said: str) -> None:
    """Moments of another layer, kernels that do not divide the columns, a unit that is none, NaN."""
    with pytest.raises(InputError, match=said):
        LayerLoss(torch.ones(2, 3), **{"gram": torch.eye(3), **arguments})
