"""The table of results, measures and rankings; called, it is ``compatbench.api.results``."""

import sys

from compatbench import CallableModule

sys.modules[__name__].__class__ = CallableModule
