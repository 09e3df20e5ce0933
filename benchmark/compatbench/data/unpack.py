"""Unpacks zip and tar archives that one has not made oneself."""

from __future__ import annotations

import lzma
import tarfile
import zlib
from collections.abc import Iterable
from pathlib import Path, PurePosixPath, PureWindowsPath
from zipfile import BadZipFile, ZipFile

from compatbench.errors import CompatbenchError
from compatbench.files.atomic import cannot_write
from compatbench.messages import first_line, one_line

# What the readers raise on damaged files, encrypted ones, and unknown compression.
_DAMAGED = (BadZipFile, tarfile.TarError, EOFError, zlib.error, lzma.LZMAError, ValueError)
_DAMAGED += (RuntimeError, NotImplementedError)


def unpack(archive: Path, folder: Path, wanted: Iterable[str]) -> None:
    """Unpacks what an archive has at or below some paths (``.``: all) into a new folder.

    Raises:
        CompatbenchError: the archive is damaged, a member leads out of the folder or is a device or
            a link out of it; or the disk is full. What is unpacked by then is left to the caller,
            who removes the folder.
    """
    starts = [PurePosixPath(path).parts for path in wanted]

    def is_wanted(name: str) -> bool:
        # As Windows reads it, which knows all of '/', '\' and 'C:'.
        if ".." in (path := PureWindowsPath(name)).parts or path.anchor:
            what = f"{archive.name} is not unpacked: '{one_line(name)}' would be put outside"
            raise CompatbenchError(f"{what} its folder; do not trust where it is from")
        return any(PurePosixPath(name).parts[: len(start)] == start for start in starts)

    try:
        with archive.open("rb") as file:
            is_zip = file.read(4) == b"PK\x03\x04"
        if is_zip:
            with ZipFile(archive) as zipped:
                zipped.extractall(folder, filter(is_wanted, zipped.namelist()))
        else:
            with tarfile.open(archive) as tarred:
                members = (member for member in tarred if is_wanted(member.name))
                tarred.extractall(folder, members, filter="data")
    except tarfile.FilterError as error:
        fix = "unpack it by hand, if you trust where it is from"
        what = f"{archive.name} is not unpacked: {one_line(str(error))}"
        raise CompatbenchError(f"{what}; {fix}") from None
    except OSError as error:
        if error.errno is not None:
            raise cannot_write(folder.parent, error) from None
        raise _damaged(archive, error) from None  # gzip's own errors have no number
    except _DAMAGED as error:
        raise _damaged(archive, error) from None


def _damaged(archive: Path, error: Exception) -> CompatbenchError:
    what = f"{archive} is damaged, or no zip or tar archive: {first_line(error)}"
    return CompatbenchError(f"{what}; delete it, and run the command again")
