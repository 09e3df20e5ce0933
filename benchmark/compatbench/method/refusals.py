"""What ``compatbench check`` refused: remembered in the cache by the method's code.

A method from outside that was refused is measured by ``run``, and not ranked, until a check of
the same code passes. Methods of the repository are checked by its tests.
"""

from __future__ import annotations

from pathlib import Path

from compatbench.data.cache_files import default_cache_folder
from compatbench.engine_version import ENGINE_VERSION
from compatbench.files.atomic import write_atomic
from compatbench.files.hashes import sha256_json
from compatbench.messages import one_line


def remember_refusal(identity: str, reason: str) -> None:
    """Keeps why the code of this identity (see ``method_identity``) breaks a rule."""
    write_atomic(_path(identity), reason.encode(), sync=False)


def forget_refusal(identity: str) -> None:
    """The code of this identity keeps the rules."""
    _path(identity).unlink(missing_ok=True)


def find_refusal(identity: str) -> str:
    """Why the code of this identity breaks a rule, in one line; empty for all that is not known."""
    try:
        return one_line(_path(identity).read_text(encoding="utf-8"), 300)
    except OSError:
        return ""


def _path(identity: str) -> Path:
    return default_cache_folder() / "refused" / f"{sha256_json([identity, ENGINE_VERSION])}.txt"
