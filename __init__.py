"""Makes ``import compatbench`` work in the folder above a clone, which it would find as a folder.

Python takes a folder of that name without this file for a namespace package, before it asks for
the package that ``pip install -e`` has put elsewhere.
"""

import sys
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path

_CLONE = Path(__file__).parent
_PACKAGE = _CLONE / "benchmark" / "compatbench"

if __name__ == "compatbench":
    _spec = spec_from_file_location(
        __name__,
        _PACKAGE / "__init__.py",
        # ``methods/``, ``tasks/`` and their like lie in the clone itself.
        submodule_search_locations=[str(_PACKAGE), str(_CLONE)],
    )
    assert _spec is not None
    assert _spec.loader is not None
    sys.modules[__name__] = module_from_spec(_spec)
    _spec.loader.exec_module(sys.modules[__name__])
