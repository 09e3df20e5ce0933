"""Method adapters, one file each; called, it is ``compatbench.api.methods``."""

import sys

if __name__ != "compatbench.methods":
    raise ImportError("import this package as 'compatbench.methods', not as 'methods'")

from compatbench import CallableModule

sys.modules[__name__].__class__ = CallableModule
