"""A method in another process, with other hashes and times of files, where it is watched.

``prepare`` makes such processes what they are. What a method does in one of them is compared, bit
for bit, with what it does in the process in which all other checks, and fits, came before.
"""

from __future__ import annotations

import datetime
import os
import sys
import time
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from compatbench.extras.check.method_under_test import MethodUnderTest
from compatbench.extras.check.models import synthetic_models
from compatbench.files.tensors import fingerprint
from compatbench.method.identity import PLUGIN_PREFIX

if TYPE_CHECKING:
    from compatbench.engine.confined.server import MethodServer

PREPARE, ASKED = (f"{__name__}:{name}" for name in ("prepare", "list_asked"))
ENVIRONMENT = {"PYTHONHASHSEED": "77", "TZ": "UTC-9", "LC_ALL": "C"}
LATER = 400 * 86400 + 27000  # seconds that files are younger
_CONTRIBUTED = (PLUGIN_PREFIX, "compatbench.methods.")
# Modules of Python through which the machine is asked.
_BETWEEN = ("os", "collections.abc", "posixpath", "ntpath", "genericpath", "pathlib", "tempfile")
_BETWEEN += ("datetime", __name__)
_asked: set[str] = set()  # what contributed code has asked the machine


def compare(here: Mapping[str, str], there: Mapping[str, str], asked: Sequence[str]) -> str:
    """What is wrong with two fits in two processes, if anything.

    Args:
        here, there: what ``describe_fit`` gives of them.
        asked: what the method asked of the machine in the second.
    """
    if asked:
        return f"it asks for {', '.join(asked[:3])}; the machine decides nothing"
    for what in ("module", "source", "target"):
        if here.get(what) != there.get(what):
            thing = "another module" if what == "module" else f"other logits on the {what}"
            return (
                f"a new process gives {thing}; neither hash(), id(), times of files, nor what was "
                "fitted or classified before may decide anything"
            )
    return ""


def describe_fit(tested: MethodUnderTest) -> dict[str, str]:
    """Fingerprints of a module that is fitted now, and of its logits by role."""
    module = tested.fit()
    found = {"module": module.fingerprint}
    for role, backbone in tested.served():
        found[role] = fingerprint({"logits": tested.logits(backbone, module)})
    return found


def list_asked(_: MethodServer) -> dict[str, list[str]]:
    """What contributed code has asked the machine in this process."""
    return {"asked": sorted(_asked)}


def prepare() -> None:
    """Makes files younger than they are, notes what is asked, and builds the models."""
    _watch(os._Environ, "__getitem__", "the variable {1!r} of the environment")
    for name in ("time", "time_ns", "localtime", "gmtime", "ctime", "strftime"):
        _watch(time, name, "the hour")
    for name in ("getpid", "getppid", "getcwd"):
        _watch(os, name, f"os.{name}()")

    class Watched(datetime.datetime):
        @classmethod
        def now(cls, tz: datetime.tzinfo | None = None) -> Watched:
            return cls.fromtimestamp(time.time(), tz)

        today = utcnow = now  # type: ignore[assignment]

    datetime.datetime = Watched  # type: ignore[misc]
    stat = os.stat

    def younger(*arguments: Any, **options: Any) -> os.stat_result:
        found = stat(*arguments, **options)
        fields = {name: getattr(found, name) for name in dir(found) if name.startswith("st_")}
        fields |= {f"st_{kind}time": fields[f"st_{kind}time"] + LATER for kind in "amc"}
        return os.stat_result([*found[:7], *(n + LATER for n in found[7:10])], fields)

    os.stat = younger  # type: ignore[assignment]
    synthetic_models()


def _watch(owner: Any, name: str, what: str) -> None:
    """Has a function note what contributed code asks of it."""
    function = getattr(owner, name)

    def call(*arguments: Any, **options: Any) -> Any:
        frame = sys._getframe(1)
        while frame is not None and frame.f_globals.get("__name__") in _BETWEEN:
            frame = frame.f_back
        if frame and str(frame.f_globals.get("__name__")).startswith(_CONTRIBUTED):
            _asked.add(what.format(*arguments))
        return function(*arguments, **options)

    setattr(owner, name, call)
