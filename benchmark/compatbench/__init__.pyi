"""The functions of ``compatbench`` that are the core's: for editors, and for ``plugins``."""

from typing import Any

from compatbench.api.listings import backbones as backbones
from compatbench.api.listings import formats as formats
from compatbench.api.listings import methods as methods
from compatbench.api.listings import modules as modules
from compatbench.api.listings import suites as suites
from compatbench.api.listings import tasks as tasks
from compatbench.api.listings import transfers as transfers
from compatbench.api.own_modules import evaluate as evaluate
from compatbench.api.own_modules import export_module as export_module
from compatbench.api.own_modules import fit as fit
from compatbench.api.own_modules import import_module as import_module
from compatbench.api.own_modules import port as port
from compatbench.api.runs import leaderboard as leaderboard
from compatbench.api.runs import plan as plan
from compatbench.api.runs import report as report
from compatbench.api.runs import results as results
from compatbench.api.runs import run as run
from compatbench.backbone.load.fetch_weights import fetch_backbones as fetch_backbones
from compatbench.data.fetch_datasets import fetch_data as fetch_data
from compatbench.data.new_task import new_task as new_task
from compatbench.engine.compute import Compute as Compute
from compatbench.engine.tuning import plan_tuning as plan_tuning
from compatbench.errors import CompatbenchError as CompatbenchError
from compatbench.method.convert import inspect_checkpoint as inspect_checkpoint
from compatbench.results.tuning_records import tune as tune

__version__: str

def __getattr__(name: str) -> Any: ...  # what the extras register
