"""Methods that ``compatbench check`` refused, kept in the cache by their code.

``run`` measures a refused method from outside but does not rank it, until a check of the same
code passes. The repository's own methods are checked by its tests.
"""

from __future__ import annotations

from pathlib import Path

from compatbench.data.cache_files import default_cache_folder
from compatbench.engine_version import ENGINE_VERSION
from compatbench.files.atomic import write_atomic
from compatbench.files.hashes import sha256_json
from compatbench.messages import one_line


def remember_refusal(identity: str, reason: str) -> None:
    """Store the reason why the code of this identity (see ``method_identity``) was refused."""
    write_atomic(_path(identity), reason.encode(), sync=False)


def forget_refusal(identity: str) -> None:
    """Remove the refusal of this identity, because a check has passed."""
    _path(identity).unlink(missing_ok=True)


def find_refusal(identity: str) -> str:
    """Return why the code of this identity was refused, in one line; '' if it was not."""
    try:
        return one_line(_path(identity).read_text(encoding="utf-8"), 300)
    except OSError:
        return ""


def _path(identity: str) -> Path:
    return default_cache_folder() / "refused" / f"{sha256_json([identity, ENGINE_VERSION])}.txt"
