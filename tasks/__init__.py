"""Cards of tasks, backbones and suites; called, it is ``compatbench.api.tasks``."""

import sys

if __name__ != "compatbench.tasks":
    raise ImportError("import this package as 'compatbench.tasks', not as 'tasks'")

from compatbench import CallableModule

sys.modules[__name__].__class__ = CallableModule
