"""compatbench: do modules fine-tuned on CLIP survive its upgrade to EVA-CLIP?

    import compatbench as cb
    results = cb.run("mini", methods=["coop", "kgcoop"], seeds=[1])
    results.ranking("mini-clip", "mini-eva-clip")

Everything that a command can do is a function here that returns data. A function is imported when
it is first used, so ``import compatbench`` is quick.
"""

from __future__ import annotations

import importlib
from typing import Any

from compatbench import plugins

__version__ = "0.3.0"

# The module that each function of the core is in, as in ``__init__.pyi``; extras add theirs.
_CORE = {
    "Compute": "compatbench.engine.compute",
    "CompatbenchError": "compatbench.errors",
    "as_backbone": "compatbench.backbone.live_model",
    "backbones": "compatbench.data.card_listings",
    "evaluate": "compatbench.results.evaluation",
    "export_module": "compatbench.method.convert",
    "fetch_backbones": "compatbench.backbone.load.weights",
    "fetch_data": "compatbench.data.fetch_datasets",
    "fit": "compatbench.engine.single_module",
    "formats": "compatbench.method.listings",
    "import_module": "compatbench.method.convert",
    "inspect_checkpoint": "compatbench.method.convert",
    "load": "compatbench.method.convert",
    "methods": "compatbench.method.listings",
    "modules": "compatbench.engine.single_module",
    "new_task": "compatbench.data.new_task",
    "plan": "compatbench.engine.plan",
    "plan_tuning": "compatbench.results.tuning_search",
    "port": "compatbench.engine.port",
    "report": "compatbench.tables.pages.leaderboard",
    "results": "compatbench.runs",
    "run": "compatbench.runs",
    "suites": "compatbench.data.card_listings",
    "task": "compatbench.data.live_task",
    "tasks": "compatbench.data.card_listings",
    "transfers": "compatbench.method.listings",
    "tune": "compatbench.runs",
}
_PLACES = {name: f"{module}:{name}" for name, module in _CORE.items()}
_PLACES.update(plugins.offered("FUNCTIONS"))
__all__ = sorted(_PLACES)  # pyright: ignore[reportUnsupportedDunderAll]

# Five functions have the name of a folder. The import of a folder makes it an attribute of this
# package, which would hide the function. Python does so at the first import only, so the folders
# are imported here (they are empty but for a docstring), and the attributes are deleted: from now
# on ``compatbench.results`` is the function, and ``from compatbench.results.rows import ...``
# works as ever. The alternative is to rename five folders that contributed code imports from.
_FOLDERS = ("formats", "methods", "results", "tasks", "transfers")
for _name in _FOLDERS:
    importlib.import_module(f"{__name__}.{_name}")
    del globals()[_name]


def __getattr__(name: str) -> Any:
    if name not in _PLACES:
        raise AttributeError(f"module 'compatbench' has no attribute '{name}'")
    function = plugins.load(_PLACES[name])
    if name in _FOLDERS:
        # ``compatbench.results.rows`` is the module after it has been imported: the function has
        # the attributes of the folder, those of later imports too.
        function.__dict__ = vars(importlib.import_module(f"{__name__}.{name}"))
    return function


def __dir__() -> list[str]:
    return __all__
