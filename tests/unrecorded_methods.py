"""Methods of which the results are not of this code: they are made after the merge.

A change adds, alters, renames or removes a method in ``methods/``; ``compatbench maintain submit``
then makes rows, golden outputs and pages. Until that, tests leave these methods alone.
"""

from __future__ import annotations

import json
from pathlib import Path

from compatbench.method.identity import method_identity
from compatbench.method.registry import builtin_methods

_OUTPUTS = Path(__file__).parent / "golden" / "outputs"


def list_unrecorded() -> set[str]:
    """Names that have no golden output of this version, or one but no method any more."""
    kept = {
        path.stem.removeprefix("method-"): json.loads(path.read_text(encoding="utf-8"))["version"]
        for path in _OUTPUTS.glob("method-*.json")
    }
    here = {
        name: method_identity(cls)
        for name, cls in builtin_methods().classes.items()
        if cls.__module__.startswith("compatbench.")
    }
    return {
        name
        for name in kept.keys() | here.keys()
        if kept.get(name, "").partition(",")[0] != here.get(name)
    }


UNRECORDED = list_unrecorded()
