"""What a layer is sent, against every choice there is."""

from __future__ import annotations

import itertools

import numpy as np
import torch

from adapters.covariance import LayerLoss
from adapters.sends import choose_inputs, choose_partials, losses_by_sources


def _layer(seed: int, num_neurons: int = 5, num_inputs: int = 7) -> tuple[LayerLoss, np.ndarray, np.ndarray]:
    """A loss, and where neurons and inputs sit on three workers."""
    rng = np.random.default_rng(seed)
    data = torch.from_numpy(rng.normal(size=(40, num_inputs)) @ rng.normal(size=(num_inputs, num_inputs)))
    gram = data.T @ data / len(data)
    loss = LayerLoss(torch.from_numpy(rng.normal(size=(num_neurons, num_inputs))), gram)
    return loss, rng.integers(0, 3, num_neurons), rng.integers(0, 3, num_inputs)


def _loss_of(loss: LayerLoss, owner: np.ndarray, sources: tuple[int, ...], neuron: int) -> float:
    at_hand = np.isin(owner, sources)[:, None]
    return float(loss.of_rows(at_hand)[neuron, 0])


def test_partial_sums_are_the_best_of_all_sets() -> None:
    """No set of workers costs a neuron less, loss and sends added up, and `place` says what the best costs."""
    price = np.array([[0.0, 0.3, 2.0], [0.5, 0.0, 0.1], [1.0, 0.2, 0.0]])
    for seed in range(6):
        loss, at, owner = _layer(seed)
        found = choose_partials(losses_by_sources(loss, owner, 3), at, owner, price)
        total = 0.0
        for i in range(at.size):
            for p in range(3):
                others = [q for q in range(3) if q != p]
                best = min(
                    _loss_of(loss, owner, (p, *chosen), i) + sum(price[q, p] for q in chosen)
                    for size in range(3)
                    for chosen in itertools.combinations(others, size)
                )
                np.testing.assert_allclose(found.place[i, p], best, rtol=1e-9)
            sources = tuple(int(q) for q in np.flatnonzero(found.sent[i]))
            own = _loss_of(loss, owner, (int(at[i]), *sources), i)
            np.testing.assert_allclose(
                own + sum(price[q, at[i]] for q in sources), found.place[i, at[i]], rtol=1e-9, atol=1e-12
            )
            total += own
        np.testing.assert_allclose(found.loss, total, rtol=1e-9)
        assert not found.sent[np.arange(at.size), at].any()


def test_worth_of_partial_sums_gives_the_same_choice() -> None:
    """Added up over a worker's channels, costs exceed the price of the partial sums that are sent and of no others."""
    price = np.full((3, 3), 0.4)
    for seed in range(6):
        loss, at, owner = _layer(seed)
        found = choose_partials(losses_by_sources(loss, owner, 3), at, owner, price)
        for q in range(3):
            if (owner == q).any():
                elsewhere = at != q
                worth = found.cost[:, owner == q].sum(axis=1)
                np.testing.assert_array_equal(worth[elsewhere] > 0.4, found.sent[elsewhere, q])


def test_what_is_sent_for_others_is_free() -> None:
    """At a price that lets nothing cross, channels sent for other layers are used all the same, and lower the loss."""
    loss, at, owner = _layer(1)
    price, nothing = np.full((7, 3), 1e6), np.zeros((7, 3), dtype=bool)
    price[np.arange(7), owner] = 0.0
    everything = owner[:, None] != np.arange(3)
    alone, helped = (choose_inputs(loss, at, owner, price, free) for free in (nothing, everything))
    assert not alone.sent.any()
    assert helped.loss < 1e-6 < alone.loss
