"""What a layer loses when inputs are missing and the rest is refitted: inputs that correlate stand in for each other.

`activation` costs count every input's energy by itself. Here the loss of a set of inputs is what remains
after least squares on the others, so the choice of what is sent knows that one of two alike is enough.

Shapes: M inputs of k matrix columns each (k = 1 for Linear, kernel area for convolutions), N neurons, P workers.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from formulations.errors import InputError

BoolArray = NDArray[np.bool_]

#: Added to every column's variance, as a share of it: inputs that follow from each other stay solvable.
RIDGE = 1e-6
#: Columns above which the choice is too slow to be worth it. With four workers and a third of the inputs sent, one
#: core takes 0.15 s for 576 columns (64 inputs, kernels of 9), 0.8 s for 1,152, 5 s for 2,304 and 15 s for 3,456.
LARGEST = 2304
#: A column whose variance is below this share of its energy is constant but for rounding: the bias replaces it.
_CONSTANT = 1e-12
#: A step counts if it gains more than this share of the rows' whole energy; less may be rounding, and go in circles.
_LEAST_STEP = 1e-10


class LayerLoss:
    """Loss of a layer's rows, ½ s² E|ŵ·x − w·x|² / unit, by the inputs at hand, with weights and bias refitted."""

    def __init__(
        self,
        matrix: Tensor,
        gram: Tensor,
        *,
        cross: Tensor | None = None,
        kernel: int = 1,
        row_scale: Tensor | None = None,
        unit: float = 1.0,
        present: BoolArray | None = None,
        ridge: float = RIDGE,
    ) -> None:
        """The loss on examples with second moments `gram`; computed in float64 where `gram` is.

        Args:
            matrix: N×(M·k), input-major: input j has the columns j·k … (j+1)·k.
            gram: E[x xᵀ] of the M·k columns, (M·k)²; one row and column more stand for a constant 1, the bias.
            cross: E[x yᵀ], as many rows as `gram` and N columns, where the outputs y to keep to are not what `matrix`
                says of x: x from the network as changed so far, y from the original. The loss is then what comes on
                top of what all inputs together cannot say. Without it, errors of earlier layers are not made up for.
            kernel: k.
            row_scale: N, s; None = 1.
            unit: what a loss of 1 is in the units of `matrix` and `gram`: the layer's output energy, say.
            present: N×M; kernels the layer has, for grouped convolutions. None = all. Rows alike in this share their
                work, so there should be few kinds.
            ridge: added to every column's variance, as a share of it; more where rounding asks for it.

        Raises:
            InputError: shapes that do not fit together, numbers that are not finite, or a unit that is not positive.
        """
        _refuse_misfit(matrix, gram, cross, kernel, unit)
        self._kernel, self._num_inputs = kernel, matrix.shape[1] // kernel
        gram, rows = gram.detach().double(), matrix.detach().to(gram.device, torch.float64)
        self._covariance, varies = _covariance(gram, rows.shape[1], ridge)
        kinds, kind_of = np.ones((1, self._num_inputs), dtype=bool), np.zeros(len(rows), dtype=np.int64)
        if present is not None:
            kinds, kind_of = np.unique(present, axis=0, return_inverse=True)
        self._kinds = [(np.flatnonzero(kind_of.ravel() == n), np.flatnonzero(kind)) for n, kind in enumerate(kinds)]
        self._rows = torch.where(varies, rows, 0)
        if cross is not None:
            self._follow(torch.where(varies[:, None], _central(gram, cross.detach().to(gram), rows.shape[1]), 0))
        scale = torch.ones(len(rows)) if row_scale is None else row_scale.detach()
        self._rows *= scale.to(rows)[:, None] / math.sqrt(2 * unit)

    def _follow(self, wanted: Tensor) -> None:
        """Rows become those that follow the targets best; `wanted` is (M·k)×N, the covariances with them."""
        for neurons, covariance, rows, inputs in self._parts(np.arange(len(self._rows))):
            columns, chosen = _columns(inputs, self._kernel).to(rows.device), torch.from_numpy(neurons).to(rows.device)
            # Solved for the change, so that the ridge pulls towards what the rows are.
            missing = wanted[columns[:, None], chosen] - covariance @ rows.T
            change = torch.cholesky_solve(missing, torch.linalg.cholesky(covariance))
            self._rows[chosen[:, None], columns] = rows + change.T

    def of_rows(self, at_hand: BoolArray) -> NDArray[np.float64]:
        """N×P: the loss of each row on each worker, with `at_hand` (M×P) to draw from."""
        loss = np.zeros((len(self._rows), at_hand.shape[1]))
        for p, available in enumerate(at_hand.T):
            for neurons, covariance, rows, inputs in self._parts(np.arange(len(loss))):
                there, missing = self._split(available[inputs])
                left = _without(covariance, there, missing) @ rows[:, missing].T
                loss[neurons, p] = (rows[:, missing].T * left).sum(dim=0).clamp(min=0).cpu().numpy()
        return loss

    def costs(self, worker: NDArray[np.int64], at_hand: BoolArray) -> NDArray[np.float64]:
        """N×M: what each input is worth to each row where it sits (`worker`, N), with `at_hand` (M×P) to draw from.

        The loss of dropping it, with refit, where it is at hand; the gain of having it where it is not. After
        `choose`, a worker's rows add up to more than the price for the inputs that are sent and for no other, but for
        ties: a layer problem with these costs sends the same for the same placement.
        """
        cost = np.zeros((len(self._rows), len(at_hand)))
        for p, there in enumerate(at_hand.T):
            for neurons, covariance, rows, inputs in self._parts(np.flatnonzero(worker == p)):
                swept = _Swept(covariance, rows, there[inputs], self._kernel)
                cost[neurons[:, None], inputs] = swept.worth().T.cpu().numpy()
        return cost

    def choose(
        self,
        worker: NDArray[np.int64],
        input_worker: NDArray[np.int64],
        send_cost: NDArray[np.float64],
        start: BoolArray | None = None,
    ) -> BoolArray:
        """M×P; sends that no single one more or less improves: Σ loss + Σ prices, the best step first.

        Args:
            worker: N.
            input_worker: M, the owners, who are sent nothing.
            send_cost: M×P, in the unit of losses.
            start: M×P, sends to begin with; None = none.
        """
        own = input_worker[:, None] == np.arange(send_cost.shape[1])
        sent = np.zeros_like(own) if start is None else start & ~own
        for p in range(own.shape[1]):
            sent[:, p] = self._improved(np.flatnonzero(worker == p), own[:, p], sent[:, p], send_cost[:, p])
        return sent

    def _improved(
        self, neurons: NDArray[np.int64], own: BoolArray, sent: BoolArray, price: NDArray[np.float64]
    ) -> BoolArray:
        """M; a worker's sends after steps that each gain, until none does."""
        sent, parts, least = sent.copy(), [], 0.0
        for _, covariance, rows, inputs in self._parts(neurons):
            least += _LEAST_STEP * float((rows @ covariance * rows).sum())
            # Own inputs stay whatever they are worth: what they explain is taken out once.
            there, missing = self._split(own[inputs])
            remote = inputs[~own[inputs]]
            left = _without(covariance, there, missing)
            if remote.size:
                parts.append((remote, _Swept(left, rows[:, missing], sent[remote], self._kernel)))
        while True:
            worth = np.zeros(len(own))
            for inputs, swept in parts:
                worth[inputs] += swept.total_worth
            gain = np.where(own, -np.inf, np.where(sent, price - worth, worth - price))
            best = int(gain.argmax())
            if gain[best] <= least:
                return sent
            sent[best] ^= True
            for inputs, swept in parts:
                swept.toggle(np.flatnonzero(inputs == best))

    def _parts(
        self, neurons: NDArray[np.int64]
    ) -> Iterator[tuple[NDArray[np.int64], Tensor, Tensor, NDArray[np.int64]]]:
        """By kind of row: which of the neurons, covariance and rows over the columns they have, and those inputs."""
        for members, inputs in self._kinds:
            chosen = np.intersect1d(members, neurons, assume_unique=True)
            if chosen.size and inputs.size:
                columns = _columns(inputs, self._kernel).to(self._rows.device)
                rows = self._rows[torch.from_numpy(chosen).to(columns.device)][:, columns]
                yield chosen, self._covariance[columns[:, None], columns], rows, inputs

    def _split(self, at_hand: BoolArray) -> tuple[Tensor, Tensor]:
        """Columns of the inputs at hand and of the others."""
        return (
            _columns(np.flatnonzero(at_hand), self._kernel).to(self._rows.device),
            _columns(np.flatnonzero(~at_hand), self._kernel).to(self._rows.device),
        )


class _Swept:
    """Rows of one kind and the covariance of their inputs, swept by the inputs at hand (Goodnight 1979).

    With A the columns at hand and B the others, one table holds all there is to know, and an input enters or leaves
    by one update of it, O(D² k):

        A    −Σ_AA⁻¹       Σ_AA⁻¹ Σ_AB                   ŵ_A: the refitted rows
        B    transposed    C = Σ_BB − Σ_BA Σ_AA⁻¹ Σ_AB   C w_B

    Attributes:
        table: D×(D+n), D columns of m inputs, n rows.
        at_hand: m.
    """

    def __init__(self, covariance: Tensor, rows: Tensor, at_hand: BoolArray, kernel: int) -> None:
        """`covariance` is D×D, `rows` n×D, `at_hand` m."""
        self.table = torch.cat([covariance, covariance @ rows.T], dim=1)
        self.at_hand = np.zeros_like(at_hand)
        self._kernel = kernel
        self._total: NDArray[np.float64] | None = None
        self.toggle(np.flatnonzero(at_hand))

    def toggle(self, places: NDArray[np.int64]) -> None:
        """Inputs, all of them at hand or none, change sides."""
        if not places.size:
            return
        sign = -1 if self.at_hand[places[0]] else 1
        columns, size = _columns(places, self._kernel).to(self.table.device), len(self.table)
        panel = self.table[columns]
        factor = torch.linalg.cholesky(sign * panel[:, columns])
        solved = torch.cholesky_solve(panel, factor)
        self.table.addmm_(panel[:, :size].T, solved, alpha=-sign)
        self.table[columns] = solved
        self.table[:, columns] = solved[:, :size].T
        self.table[columns[:, None], columns] = -sign * torch.cholesky_inverse(factor)
        self.at_hand[places] ^= True
        self._total = None

    def worth(self) -> Tensor:
        """m×n; loss of dropping each input at hand, gain of each other, one at a time."""
        m, k = len(self.at_hand), self._kernel
        blocks = self.table[:, : m * k].reshape(m, k, m, k).diagonal(dim1=0, dim2=2).permute(2, 0, 1)
        sign = torch.from_numpy(np.where(self.at_hand, -1.0, 1.0)).to(blocks)
        factor = torch.linalg.cholesky(blocks * sign[:, None, None])
        aims = self.table[:, m * k :].unflatten(0, (m, k))
        return torch.linalg.solve_triangular(factor, aims, upper=False).square().sum(dim=1)

    @property
    def total_worth(self) -> NDArray[np.float64]:
        """m; `worth` of all rows together, kept until an input enters or leaves."""
        if self._total is None:
            self._total = self.worth().sum(dim=1).cpu().numpy()
        return self._total


def _refuse_misfit(matrix: Tensor, gram: Tensor, cross: Tensor | None, kernel: int, unit: float) -> None:
    """Raises InputError for what is no layer with its moments."""
    width = matrix.shape[1]
    if width % kernel or gram.shape not in {(width, width), (width + 1, width + 1)}:
        raise InputError(
            f"a matrix of {width} columns in kernels of {kernel} does not fit second moments {tuple(gram.shape)}"
        )
    if cross is not None and cross.shape != (len(gram), len(matrix)):
        raise InputError(f"moments with the outputs are {tuple(cross.shape)}; give {(len(gram), len(matrix))}")
    if not (math.isfinite(unit) and unit > 0):
        raise InputError(f"the unit of losses is {unit}; it must be finite and > 0")
    given = (matrix, gram) if cross is None else (matrix, gram, cross)
    if not all(bool(torch.isfinite(numbers).all()) for numbers in given):
        raise InputError("weights or moments hold NaN or infinite values; give finite ones")


def _columns(inputs: NDArray[np.int64], kernel: int) -> Tensor:
    return torch.from_numpy((inputs[:, None] * kernel + np.arange(kernel)).ravel())


def _without(covariance: Tensor, there: Tensor, missing: Tensor) -> Tensor:
    """Of the columns `missing`, the covariance that `there` does not explain: the Schur complement."""
    factor = torch.linalg.cholesky(covariance[there[:, None], there])
    explained = torch.linalg.solve_triangular(factor, covariance[there[:, None], missing], upper=False)
    return covariance[missing[:, None], missing] - explained.T @ explained


def _central(gram: Tensor, moments: Tensor, width: int) -> Tensor:
    """Moments with the first `width` columns, around the mean if a constant comes after them."""
    if len(gram) == width:
        return moments.clone()
    return moments[:width] - torch.outer(gram[:width, width], moments[width]) / gram[width, width]


def _covariance(gram: Tensor, width: int, ridge: float) -> tuple[Tensor, Tensor]:
    """(M·k)² and M·k: covariance with its ridge, around the mean if the bias is refitted; which columns vary."""
    covariance, energy = _central(gram, gram[:, :width], width), gram.diagonal()[:width]
    varies = covariance.diagonal() > _CONSTANT * energy
    # Constant columns say nothing that the bias does not. In units of their own, so that none counts as degenerate.
    covariance = torch.where(varies[:, None] & varies, covariance, 0)
    covariance.diagonal().add_((~varies).to(covariance))
    variance = covariance.diagonal().clone()
    # Means far larger than deviations leave more rounding than the ridge makes up for. What half of the ridge makes
    # solvable, the whole keeps so under any updates.
    while True:
        covariance.diagonal().copy_(variance * (1 + ridge / 2))
        if not torch.linalg.cholesky_ex(covariance).info:
            break
        ridge *= 10
    covariance.diagonal().copy_(variance * (1 + ridge))
    return covariance, varies
