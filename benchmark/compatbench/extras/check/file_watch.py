"""Notice the files that a method opens. Those on its card are part of its key; others are not.

Python reports every file that it opens to audit hooks. A hook cannot be removed, so it is added in
the processes of ``check`` only. Files that Python opens to import a module do not count.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from types import FrameType, ModuleType
from typing import Any

import safetensors
import safetensors.numpy
import safetensors.torch

from compatbench.extras.check.outcome import BrokenRule
from compatbench.files.project_folders import CONTENT
from compatbench.method import Method
from compatbench.method.identity import class_file
from compatbench.method.mistakes import PLUGIN_PREFIX, is_contributed_module

# The import system, and the module that reads lines of code for warnings.
_READERS = ("importlib", "zipimport", "linecache")
_SHARED = tuple(f"compatbench.{kind}._shared" for kind in CONTENT)


class FileWatch:
    """The files that contributed code has opened in this process.

    Attributes:
        opened: for each file the module that has opened it, the file's path and the line.
        allowed: the files that the method under test may open; None to refuse none yet.
    """

    def __init__(self) -> None:
        self.opened: list[tuple[str, Path, str]] = []
        self.allowed: frozenset[Path] | None = None
        self._is_installed = False

    def install(self) -> None:
        """Begin to notice files, once for this process and those forked from it."""
        if not self._is_installed:
            self._is_installed = True
            # To know the installed packages, it reads files itself.
            is_contributed_module("")
            sys.addaudithook(self._notice)
            for module in (safetensors, safetensors.numpy, safetensors.torch):
                _report_opening(module)

    def begin(self, method: type[Method]) -> None:
        """Refuse from now on all files that the card of a method does not list."""
        folder = class_file(method).parent
        files = [*method.card.files, os.devnull]
        self.allowed = frozenset((folder / name).resolve() for name in files)

    def complaints(self, method: type[Method]) -> list[str]:
        """Return a line for each file that the method's module has opened against its card."""
        modules = {base.__module__ for base in method.__mro__}
        lines = []
        for module, path, line in self.opened:
            package = module.partition(".")[0]
            beside = package.startswith(PLUGIN_PREFIX) and package in method.__module__
            if (module in modules or beside) and path not in (self.allowed or ()):
                lines.append(_describe(path, line))
        return lines

    def _notice(self, event: str, arguments: tuple[Any, ...]) -> None:
        if event != "open" or isinstance(arguments[0], int):
            return
        frame = _find_opener(sys._getframe(1))
        if frame is None:
            return
        path = Path(os.fsdecode(arguments[0])).resolve()
        line = f"{Path(frame.f_code.co_filename).name}:{frame.f_lineno}"
        self.opened.append((frame.f_globals["__name__"], path, line))
        if self.allowed is not None and path not in self.allowed:
            raise BrokenRule(_describe(path, line))


def _report_opening(module: ModuleType) -> None:
    """Report the files that safetensors opens, which it does without Python."""
    opening = module.safe_open

    def safe_open(filename: str | os.PathLike[str], *arguments: Any, **options: Any) -> Any:
        sys.audit("open", os.fspath(filename), "r", 0)
        return opening(filename, *arguments, **options)

    vars(module)["safe_open"] = safe_open


def _find_opener(frame: FrameType | None) -> FrameType | None:
    """Return the frame of contributed code that opens a file; None if the harness opens it."""
    while frame is not None:
        module = frame.f_globals.get("__name__", "")
        if module.partition(".")[0] in _READERS:
            return None
        if is_contributed_module(module) and not module.startswith(_SHARED):
            return frame
        if module.partition(".")[0] == "compatbench" and module != __name__:
            return None
        frame = frame.f_back
    return None


def _describe(path: Path, line: str) -> str:
    return (
        f"it opens {path}, which is not among the 'files' of its card, so its key would not change "
        f"with it ({line})"
    )


WATCH = FileWatch()
