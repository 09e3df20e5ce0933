"""The Python interface: everything that a command can do, as a function that returns data.

    import compatbench as cb
    results = cb.run("mini", methods=["coop", "kgcoop"], seeds=[1])
    results.ranking("mini-clip", "mini-eva-clip")

Imports wait until a function needs them, so that ``import compatbench`` is quick.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from compatbench.api.analyses import (
    analyze_claims,
    analyze_depth,
    analyze_embeddings,
    analyze_gauge,
    analyze_layers,
    analyze_stress,
)
from compatbench.api.checks import audit_results, check_methods, check_pull_request, diagnose
from compatbench.api.listings import backbones, methods, modules, suites, tasks, transfers
from compatbench.api.runs import evaluate, fit, leaderboard, plan, report, results, run
from compatbench.errors import CompatbenchError

if TYPE_CHECKING:
    from compatbench.engine.run import Compute

__all__ = [
    "CompatbenchError",
    "Compute",
    "analyze_claims",
    "analyze_depth",
    "analyze_embeddings",
    "analyze_gauge",
    "analyze_layers",
    "analyze_stress",
    "audit_results",
    "backbones",
    "check_methods",
    "check_pull_request",
    "diagnose",
    "evaluate",
    "fit",
    "leaderboard",
    "methods",
    "modules",
    "plan",
    "report",
    "results",
    "run",
    "suites",
    "tasks",
    "transfers",
]


def __getattr__(name: str) -> Any:
    # A record of settings, whose module imports PyTorch.
    if name == "Compute":
        from compatbench.engine.run import Compute

        return Compute
    raise AttributeError(f"module 'compatbench.api' has no attribute '{name}'")
