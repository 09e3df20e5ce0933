"""Checkpoint formats of other code, one file each; called, it is ``compatbench.api.formats``."""

import sys

if __name__ != "compatbench.formats":
    raise ImportError("import this package as 'compatbench.formats', not as 'formats'")

from compatbench import CallableModule

sys.modules[__name__].__class__ = CallableModule
