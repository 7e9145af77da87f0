"""What proves a lower bound: integers from which anybody can compute it anew (docs/certificates.md).

Shapes: N neurons, M inputs, P workers, K resources, B blocks, J pairs (input, worker) in blocks.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

IntArray = NDArray[np.int64]


@dataclass(frozen=True)
class Block:
    """Some of a worker's remote inputs; none, where all that the worker could be sent is settled beforehand."""

    worker: int
    inputs: tuple[int, ...]


@dataclass(frozen=True, eq=False)
class BlockProof:
    """Multipliers of a Lagrangian block decomposition (solvers/lagrangian.py).

    Attributes:
        bound: what they prove, in the problem's own unit.
        factor: S; everything below is in costs times S.
        blocks: a pair (input, worker) is in one at most.
        mu: B×N.
        least: B; no pattern of the block costs less. Computed, so no one needs to believe it.
        slopes: J×N, block by block; λ of the minorants min(t, g·x) >= λ·x + v. Any slopes will do; good ones make
            the search for `least` short.
    """

    kind: ClassVar[str] = "lagrangian"
    bound: int
    factor: int
    blocks: tuple[Block, ...]
    mu: IntArray
    least: IntArray
    slopes: tuple[IntArray, ...]

    def arrays(self) -> dict[str, Any]:
        """For a certificate's `.npz`; the inputs of block b are block_inputs[block_ends[b−1]:block_ends[b]]."""
        inputs = [j for block in self.blocks for j in block.inputs]
        return {
            "factor": np.int64(self.factor),
            "block_worker": np.array([block.worker for block in self.blocks], dtype=np.int64),
            "block_ends": np.cumsum([len(block.inputs) for block in self.blocks], dtype=np.int64),
            "block_inputs": np.array(inputs, dtype=np.int64),
            "mu": self.mu,
            "least": self.least,
            "slopes": np.array(self.slopes, dtype=np.int64).reshape(len(inputs), self.mu.shape[1]),
        }


@dataclass(frozen=True, eq=False)
class DualProof:
    """Prices of the load rows, for problems in which every neuron's cost is its own (solvers/separable.py).

    Attributes:
        bound: what they prove, in the problem's own unit.
        factor: S.
        beta: P×K, in costs times S; what a unit of load on a worker is worth.
    """

    kind: ClassVar[str] = "assignment"
    bound: int
    factor: int
    beta: IntArray

    def arrays(self) -> dict[str, Any]:
        """For a certificate's `.npz`."""
        return {"factor": np.int64(self.factor), "beta": self.beta}


Proof = BlockProof | DualProof
