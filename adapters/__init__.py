"""PyTorch in and out: trained networks become layer problems, and plans become pruned, adjusted networks."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from adapters.apply import apply_plan as apply_plan
    from adapters.local_workers import run_distributed as run_distributed
    from adapters.partition import partition_model as partition_model
    from adapters.plan import PartitionPlan as PartitionPlan
    from adapters.shards import shard as shard

# `recover` and `guarantee` are in modules of the same names, which they would hide here or be hidden by.
_HOME = {
    "PartitionPlan": "adapters.plan",
    "apply_plan": "adapters.apply",
    "partition_model": "adapters.partition",
    "run_distributed": "adapters.local_workers",
    "shard": "adapters.shards",
}

__all__ = list(_HOME)


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_HOME[name]), name)
