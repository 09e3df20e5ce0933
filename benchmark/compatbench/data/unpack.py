"""Unpacks zip and tar archives that one has not made oneself."""

from __future__ import annotations

import lzma
import shutil
import stat
import tarfile
import zlib
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import IO
from zipfile import BadZipFile, ZipFile

from compatbench.data.download import BLOCK
from compatbench.errors import CompatbenchError
from compatbench.files.atomic import cannot_write
from compatbench.messages import first_line, one_line

# (name, whether it is a folder, whether it is a folder or a file, how to open it)
Member = tuple[str, bool, bool, Callable[[], "IO[bytes] | None"]]
# What the readers raise on damaged files, encrypted ones, and unknown compression.
_DAMAGED = (BadZipFile, tarfile.TarError, EOFError, zlib.error, lzma.LZMAError, ValueError)
_DAMAGED += (RuntimeError, NotImplementedError)


def unpack(archive: Path, folder: Path, wanted: Iterable[str]) -> None:
    """Unpacks what an archive has at or below some paths (``.``: all) into a new folder.

    Raises:
        CompatbenchError: the archive is damaged, or any of its members, wanted or not, leads out
            of the folder or is a link or a device; or the disk is full. What is unpacked by then
            is left to the caller, who removes the folder.
    """
    starts = [PurePosixPath(path).parts for path in wanted]
    try:
        for name, is_folder, plain, open_member in _members(archive):
            path, shown = PurePosixPath(name), one_line(name)
            # As Windows reads it, which knows all of '/', '\' and 'C:'.
            if ".." in (read := PureWindowsPath(name)).parts or read.anchor:
                what = f"{archive.name} is not unpacked: '{shown}' would be put outside its folder"
                raise CompatbenchError(f"{what}; do not trust where it is from")
            if not plain:
                what = f"{archive.name} is not unpacked: '{shown}' is a link or a device"
                raise CompatbenchError(f"{what}; unpack it by hand, if you trust where it is from")
            if not any(path.parts[: len(start)] == start for start in starts):
                continue
            target = folder.joinpath(path)
            if is_folder:
                target.mkdir(parents=True, exist_ok=True)
                continue
            target.parent.mkdir(parents=True, exist_ok=True)
            if (opened := open_member()) is None:
                raise ValueError(f"'{shown}' cannot be read")
            with opened as source, target.open("wb") as file:
                shutil.copyfileobj(source, file, BLOCK)
    except OSError as error:
        if error.errno is not None:
            raise cannot_write(folder.parent, error) from None
        raise _damaged(archive, error) from None  # gzip's own errors have no number
    except _DAMAGED as error:
        raise _damaged(archive, error) from None


def _damaged(archive: Path, error: Exception) -> CompatbenchError:
    what = f"{archive} is damaged, or no zip or tar archive: {first_line(error)}"
    return CompatbenchError(f"{what}; delete it, and run the command again")


def _members(archive: Path) -> Iterator[Member]:
    with archive.open("rb") as file:
        is_zip = file.read(4) == b"PK\x03\x04"
    if is_zip:
        with ZipFile(archive) as zipped:
            for info in zipped.infolist():
                kind = stat.S_IFMT(info.external_attr >> 16)
                plain = kind in (0, stat.S_IFREG, stat.S_IFDIR)
                yield info.filename, info.is_dir(), plain, partial(zipped.open, info)
        return
    with tarfile.open(archive, "r|*") as tarred:
        for one in tarred:
            plain = one.isfile() or one.isdir()
            yield one.name, one.isdir(), plain, partial(tarred.extractfile, one)
