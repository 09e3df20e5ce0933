"""``python -m compatbench`` in the folder above a clone, which Python takes for the package.

Without an ``__init__.py`` it is none, but a namespace that hides what ``pip install -e`` has put
elsewhere. With one, pytest would take the whole clone for a package of tests.
"""

import sys
from pathlib import Path
from runpy import run_module

sys.modules.pop("compatbench", None)
sys.path.insert(0, str(Path(__file__).resolve().parent / "benchmark"))
run_module("compatbench", run_name="__main__", alter_sys=True)
