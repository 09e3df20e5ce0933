"""The Python interface: everything that a command can do, as a function that returns data.

    import compatbench as cb
    results = cb.run("mini", methods=["coop", "kgcoop"], seeds=[1])
    results.ranking("mini-clip", "mini-eva-clip")

Imports wait until a function needs them, so that ``import compatbench`` is quick.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from compatbench.api.advice import advise
from compatbench.api.listings import backbones, formats, methods, modules, suites, tasks, transfers
from compatbench.api.own_modules import (
    evaluate,
    export_module,
    fit,
    import_module,
    port,
    port_index,
    predict,
)
from compatbench.api.runs import leaderboard, plan, report, results, run
from compatbench.errors import CompatbenchError

if TYPE_CHECKING:
    from compatbench.backbone.load.fetch_weights import fetch_backbones
    from compatbench.data.fetch_datasets import fetch_data
    from compatbench.data.new_task import new_task
    from compatbench.engine.execute.compute import Compute
    from compatbench.engine.tuning import plan_tuning
    from compatbench.extras.audit import audit_results
    from compatbench.extras.audit.pull_request import check_pull_request
    from compatbench.extras.check import check_methods, check_transfers
    from compatbench.extras.doctor import diagnose
    from compatbench.extras.sharing.hub import pull_module, pull_results, push_module, push_results
    from compatbench.extras.studies.claims import analyze_claims
    from compatbench.extras.studies.classes import analyze_classes
    from compatbench.extras.studies.depth import analyze_depth
    from compatbench.extras.studies.embeddings import analyze_embeddings
    from compatbench.extras.studies.layers import analyze_layers
    from compatbench.extras.studies.retrieval import retrieve
    from compatbench.method.convert import inspect_checkpoint
    from compatbench.results.tuning import tune

__all__ = ["backbones", "methods", "modules", "suites", "tasks", "transfers"]
__all__ += ["CompatbenchError", "Compute", "evaluate", "fit", "plan", "port", "predict"]
__all__ += ["results", "run"]
__all__ += ["advise", "export_module", "formats", "import_module", "inspect_checkpoint"]
__all__ += ["pull_module", "pull_results", "push_module", "push_results"]
__all__ += ["audit_results", "check_methods", "check_pull_request", "check_transfers", "diagnose"]
__all__ += ["analyze_claims", "analyze_classes", "analyze_depth", "analyze_embeddings"]
__all__ += ["fetch_backbones", "fetch_data", "new_task"]
__all__ += ["analyze_layers", "leaderboard", "plan_tuning", "report", "tune"]
__all__ += ["port_index", "retrieve"]

# What another room offers as it is, and where; imported when it is asked for.
_ROOMS = {
    "Compute": "engine.execute.compute",
    "analyze_claims": "extras.studies.claims",
    "analyze_classes": "extras.studies.classes",
    "analyze_depth": "extras.studies.depth",
    "analyze_embeddings": "extras.studies.embeddings",
    "analyze_layers": "extras.studies.layers",
    "audit_results": "extras.audit",
    "check_methods": "extras.check",
    "check_transfers": "extras.check",
    "check_pull_request": "extras.audit.pull_request",
    "diagnose": "extras.doctor",
    "fetch_backbones": "backbone.load.fetch_weights",
    "fetch_data": "data.fetch_datasets",
    "inspect_checkpoint": "method.convert",
    "new_task": "data.new_task",
    "plan_tuning": "engine.tuning",
    "pull_module": "extras.sharing.hub",
    "pull_results": "extras.sharing.hub",
    "push_module": "extras.sharing.hub",
    "push_results": "extras.sharing.hub",
    "retrieve": "extras.studies.retrieval",
    "tune": "results.tuning",
}


def __getattr__(name: str) -> Any:
    if name in _ROOMS:
        return getattr(importlib.import_module(f"compatbench.{_ROOMS[name]}"), name)
    raise AttributeError(f"module 'compatbench.api' has no attribute '{name}'")
