"""compatbench: do modules fine-tuned on CLIP survive its upgrade to EVA-CLIP?

    import compatbench as cb
    results = cb.run("mini", methods=["coop", "kgcoop"], seeds=[1])
    results.ranking("mini-clip", "mini-eva-clip")

Everything that a command can do is a function here that returns data. Those of the core are the
imports of ``__init__.pyi``, those of ``extras/`` what each folder registers (``plugins``). A
function is imported when it is asked for, so that ``import compatbench`` is quick.
"""

from __future__ import annotations

import importlib
import sys
from types import ModuleType
from typing import Any

from compatbench.plugins import functions
from compatbench.plugins import load as load_place

__version__ = "0.3.0"


# Functions whose name a folder has, too.
_FOLDERS = ("formats", "methods", "results", "tasks", "transfers")


class _Package(ModuleType):
    """The package, in which ``results`` is the function, whichever folder has been imported.

    The function has the folder's names: after ``import compatbench.results.rows`` there is
    ``compatbench.results.rows``, and ``from compatbench.results import ...`` is as ever.
    """

    def __setattr__(self, name: str, value: object) -> None:
        # The import of a folder would put it in the function's place.
        if name not in _FOLDERS or not isinstance(value, ModuleType):
            super().__setattr__(name, value)


sys.modules[__name__].__class__ = _Package


def __getattr__(name: str) -> Any:
    if name.startswith("_") and name != "__all__":
        raise AttributeError(f"module 'compatbench' has no attribute '{name}'")
    if name == "__all__":
        return sorted(functions())
    if name not in functions():
        raise AttributeError(f"module 'compatbench' has no attribute '{name}'")
    function = load_place(name)
    if name in _FOLDERS:
        # Not a copy: what is imported of the folder later is there, too.
        function.__dict__ = vars(importlib.import_module(f"{__name__}.{name}"))
    return function


def __dir__() -> list[str]:
    return sorted(functions())
