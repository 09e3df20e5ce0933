"""The functions of the core, for editors and type checkers; a test compares them with reality."""

from typing import Any

from compatbench.backbone.live_model import as_backbone as as_backbone
from compatbench.backbone.load.weights import fetch_backbones as fetch_backbones
from compatbench.data.card_listings import backbones as backbones
from compatbench.data.card_listings import suites as suites
from compatbench.data.card_listings import tasks as tasks
from compatbench.data.fetch_datasets import fetch_data as fetch_data
from compatbench.data.live_task import task as task
from compatbench.data.new_task import new_task as new_task
from compatbench.engine.compute import Compute as Compute
from compatbench.engine.plan import plan as plan
from compatbench.engine.port import port as port
from compatbench.engine.single_module import fit as fit
from compatbench.engine.single_module import modules as modules
from compatbench.errors import CompatbenchError as CompatbenchError
from compatbench.method.convert import export_module as export_module
from compatbench.method.convert import import_module as import_module
from compatbench.method.convert import inspect_checkpoint as inspect_checkpoint
from compatbench.method.convert import load as load
from compatbench.method.listings import formats as formats
from compatbench.method.listings import methods as methods
from compatbench.method.listings import transfers as transfers
from compatbench.results.evaluation import evaluate as evaluate
from compatbench.results.tuning_search import plan_tuning as plan_tuning
from compatbench.runs import results as results
from compatbench.runs import run as run
from compatbench.runs import tune as tune
from compatbench.tables.pages.leaderboard import report as report

__version__: str

def __getattr__(name: str) -> Any: ...  # what the extras register
