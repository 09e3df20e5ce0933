"""Checkpoints of other code as modules, and modules as such checkpoints: one file per format.

A format is a subclass of ``Format`` with a name: in a file here, in a file anywhere
(``./mine.py``), or in an installed package that names it under ``compatbench.formats``.
"""

import sys

from compatbench import CallableModule

sys.modules[__name__].__class__ = CallableModule
