"""Ways of bringing a module along, one file each; called, it is ``compatbench.api.transfers``."""

import sys

if __name__ != "compatbench.transfers":
    raise ImportError("import this package as 'compatbench.transfers', not as 'transfers'")

from compatbench import CallableModule

sys.modules[__name__].__class__ = CallableModule
