"""What proves a lower bound: integers from which anybody can compute it anew (docs/certificates.md).

Shapes: N neurons, M inputs, P workers, K resources, B blocks, J pairs (input, worker) in blocks.
"""

from __future__ import annotations

import math
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


#: In place of the worker of a neuron that may sit anywhere.
FREE = -1


@dataclass(frozen=True, eq=False)
class Leaf:
    """What multipliers of a block decomposition prove of the placements that agree with a partial one.

    Attributes:
        bound: none of them costs less, in the problem's own unit; inf where none fits.
        worker: N; where the placed neurons sit, FREE for the others.
        factor: S; everything below is in costs times S.
        blocks: a pair (input, worker) is in one at most.
        mu: B×N; 0 for placed neurons.
        least: B; no pattern of the block costs less. Computed, so no one needs to believe it.
        slopes: for each input of the blocks with more than one; N, λ of a minorant min(t, g·x) >= λ·x + v. Any will
            do; good ones make the search for `least` short.
    """

    bound: float
    worker: IntArray
    factor: int
    blocks: tuple[Block, ...]
    mu: IntArray
    least: IntArray
    slopes: tuple[IntArray, ...]


@dataclass(frozen=True, eq=False)
class BlockProof:
    """Leaves of a Lagrangian block decomposition that hold every placement between them (solvers/lagrangian.py)."""

    leaves: tuple[Leaf, ...]

    @property
    def bound(self) -> int:
        """What they prove, in the problem's own unit; one of them at least holds a placement that fits."""
        return int(min(leaf.bound for leaf in self.leaves))

    @property
    def placement(self) -> IntArray | None:
        """N; the cheapest placement that is a leaf by itself; None where none that fits is."""
        whole = [leaf for leaf in self.leaves if math.isfinite(leaf.bound) and np.all(leaf.worker != FREE)]
        return min(whole, key=lambda leaf: leaf.bound).worker if whole else None

    @property
    def kind(self) -> str:
        whole = len(self.leaves) == 1 and np.all(self.leaves[0].worker == FREE)
        return "lagrangian" if whole else "tree"

    def arrays(self) -> dict[str, Any]:
        """For a certificate's `.npz`.

        The blocks of leaf k are numbers leaf_ends[k−1] to leaf_ends[k], the inputs of block b are
        block_inputs[block_ends[b−1]:block_ends[b]], and slopes has a row for each of those, blocks of one left out.
        """
        num_neurons = self.leaves[0].worker.size
        blocks = [block for leaf in self.leaves for block in leaf.blocks]
        inputs = [j for block in blocks for j in block.inputs]
        slopes = [slope for leaf in self.leaves for slope in leaf.slopes]
        return {
            "leaf_worker": np.array([leaf.worker for leaf in self.leaves], dtype=np.int64),
            "leaf_factor": np.array([leaf.factor for leaf in self.leaves], dtype=np.int64),
            "leaf_ends": np.cumsum([len(leaf.blocks) for leaf in self.leaves], dtype=np.int64),
            "block_worker": np.array([block.worker for block in blocks], dtype=np.int64),
            "block_ends": np.cumsum([len(block.inputs) for block in blocks], dtype=np.int64),
            "block_inputs": np.array(inputs, dtype=np.int64),
            "mu": np.concatenate([leaf.mu for leaf in self.leaves]),
            "least": np.concatenate([leaf.least for leaf in self.leaves]),
            "slopes": np.array(slopes, dtype=np.int64).reshape(len(slopes), num_neurons),
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
