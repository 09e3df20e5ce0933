"""What stands at a path, where a link, a pipe or a folder may lie in place of a file."""

from __future__ import annotations

import shutil
import stat
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Literal

from compatbench.errors import CompatbenchError


def kind_of(path: Path, *, follow: bool = False) -> str:
    """``file``, ``folder``, ``link`` or ``pipe or device``; empty if there is nothing.

    A link is not followed, unless ``follow`` says so.
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
    path: Path, wanted: Literal["file", "folder"] = "file", *, follow: bool = False
) -> Path:
    """The path, if what stands there is a file, or a folder, or nothing; else an error.

    It is for what is opened next: opening a pipe would wait for whoever writes to it.
    """
    kind = kind_of(path, follow=follow)
    if kind not in ("", wanted):
        # A folder that is kept on another disk is given as such.
        linked = (kind, wanted) == ("link", "folder")
        hint = ", or use --out with the folder around what it leads to" if linked else ""
        raise CompatbenchError(f"{path} is a {kind}, not a {wanted}; move it away{hint}")
    return path


def require_new(path: Path, other: str = "give another --out") -> Path:
    """The path, if nothing stands there, not even a link that leads nowhere; else an error.

    ``other`` is what the user can do, beside deleting what is there.
    """
    if kind_of(path):
        raise CompatbenchError(f"{path} exists; {other}, or delete it first")
    return path


def files_below(folder: Path) -> Iterator[Path]:
    """Whatever is in a folder and in folders in it, hidden or not, and is no folder itself."""
    for path in sorted(folder.iterdir()) if kind_of(folder) == "folder" else ():
        if kind_of(path) == "folder":
            yield from files_below(path)
        else:
            yield path


def delete_paths(paths: Iterable[Path]) -> None:
    """Deletes files, links (not what they lead to) and folders with all that is in them."""
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
