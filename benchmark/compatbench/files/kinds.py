"""Kinds of paths: a link, a pipe or a folder may be in the place of a file."""

from __future__ import annotations

import shutil
import stat
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Literal

from compatbench.errors import CompatbenchError


def kind_of(path: Path, *, follow: bool = False) -> str:
    """Return ``file``, ``folder``, ``link`` or ``pipe or device``; empty if there is nothing.

    Links are not followed, unless ``follow`` is true.
    """
    try:
        mode = path.stat(follow_symlinks=follow).st_mode
    except (FileNotFoundError, NotADirectoryError):
        return ""
    except OSError as error:
        raise CompatbenchError(f"cannot read {path}: {error.strerror}") from None
    kinds = {stat.S_IFREG: "file", stat.S_IFDIR: "folder", stat.S_IFLNK: "link"}
    return kinds.get(stat.S_IFMT(mode), "pipe or device")


def require(
    path: Path, required: Literal["file", "folder"] = "file", *, follow: bool = False
) -> Path:
    """Return the path if it has the required kind or does not exist; raise an error otherwise.

    Call this before opening a path: opening a pipe would wait for whoever writes to it.
    """
    kind = kind_of(path, follow=follow)
    if kind in ("", required):
        return path
    hint = ""
    if kind == "link" and required == "folder":
        # Users keep folders on another disk behind a link. They can name the folder itself.
        hint = ", or use --out with the folder around what it leads to"
    raise CompatbenchError(f"{path} is a {kind}, not a {required}; move it away{hint}")


def require_new(path: Path, other: str = "give another --out") -> Path:
    """Return the path if nothing is there, not even a broken link; raise an error otherwise.

    ``other`` is what the user can do instead of deleting what is there.
    """
    if kind_of(path):
        raise CompatbenchError(f"{path} exists; {other}, or delete it first")
    return path


def files_below(folder: Path) -> Iterator[Path]:
    """Yield everything below a folder that is not itself a folder, hidden files included."""
    if kind_of(folder) != "folder":
        return
    for path in sorted(folder.iterdir()):
        if kind_of(path) == "folder":
            yield from files_below(path)
        else:
            yield path


def delete_paths(paths: Iterable[Path]) -> None:
    """Delete files, links (not what they lead to), and folders with everything in them."""
    for path in paths:
        try:
            if kind_of(path) == "folder":
                shutil.rmtree(path)
            else:
                path.unlink(missing_ok=True)
        except OSError as error:
            raise CompatbenchError(
                f"cannot delete {path}: {error.strerror}; make it writable, or delete it yourself"
            ) from None
