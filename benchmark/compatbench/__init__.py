"""compatbench: do modules fine-tuned on CLIP survive its upgrade to EVA-CLIP?

``import compatbench as cb`` gives the functions of ``compatbench.api``: ``run``, ``plan``,
``fit``, ``evaluate``, ``results``, ``methods``, ``tasks``, ``backbones``, ``suites`` and more.
"""

from __future__ import annotations

import importlib
from types import ModuleType
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from compatbench.api import *  # noqa: F403


def __getattr__(name: str) -> Any:
    # Found when asked for, so that importing one room does not import them all.
    if name.startswith("_") and name != "__all__":
        raise AttributeError(f"module 'compatbench' has no attribute '{name}'")
    api = importlib.import_module("compatbench.api")
    if name == "api":
        return api
    if name == "__all__" or name in api.__all__:
        return getattr(api, name)
    raise AttributeError(f"module 'compatbench' has no attribute '{name}'")


class CallableModule(ModuleType):
    """A package that can be called like the function of its name in ``compatbench.api``.

    ``compatbench.results`` is a package and a function; which of the two an import has left in
    that place must not matter to who calls it.
    """

    def __call__(self, *arguments: Any, **named: Any) -> Any:
        function = self.__name__.rpartition(".")[2]
        return getattr(importlib.import_module("compatbench.api"), function)(*arguments, **named)


def __dir__() -> list[str]:
    return sorted(importlib.import_module("compatbench.api").__all__)
