"""Downloads that resume where they broke off. A file gets its name once it is whole and checked."""

from __future__ import annotations

import errno
import os
import shutil
import time
from collections.abc import Callable, Iterator
from http.client import HTTPException, HTTPResponse
from pathlib import Path
from typing import Literal
from urllib.error import HTTPError
from urllib.request import Request, urlopen

from compatbench.errors import CompatbenchError
from compatbench.files.atomic import cannot_write
from compatbench.files.hashes import hash_file
from compatbench.files.sizes import format_bytes
from compatbench.messages import first_line, one_line

TRIES = 5  # tries in a row that bring nothing
PAUSE = 2.0  # seconds between two tries
TIMEOUT = 30  # seconds without a byte
BLOCK = 1 << 20
BUSY = (408, 425, 429, 500, 502, 503, 504)  # answers after which another try may help


class NoFile(CompatbenchError):
    """An address that does not answer with the file."""


class _Broken(Exception):
    """A broken connection; the bytes that have come are kept."""


def download(
    url: str,
    path: Path,
    *,
    size: int | None = None,
    digest: str = "",
    progress: Callable[[int, int | None], object] = lambda have, total: None,
) -> None:
    """Download ``url`` to ``path.part``, which a later call continues, and rename it to ``path``.

    Args:
        size: the file's bytes, if they are known.
        digest: ``md5:...`` or ``sha256:...`` of the whole file, or empty.
        progress: called with the bytes that are here, and those of the whole file if known.

    Raises:
        NoFile: the address answers with an error or a web page.
        CompatbenchError: the connection broke again and again, the disk is full, or the file
            is not the expected one; in this last case it is deleted.
    """
    part = path.with_name(f"{path.name}.part")
    tag = path.with_name(f"{path.name}.part.tag")
    tries_left = TRIES
    while True:
        before = _size(part)
        try:
            _continue_download(url, part, tag, size, bool(digest), progress)
            break
        except _Broken as error:
            if _size(part) > before:
                tries_left = TRIES
            else:
                tries_left -= 1
            if not tries_left:
                have = format_bytes(_size(part))
                problem = f"{url} broke off, {have} are here: {error}"
                fix = "the same command continues from there"
                raise CompatbenchError(f"{problem}; {fix}") from None
            time.sleep(PAUSE)
        except OSError as error:
            raise cannot_write(part, error) from None
    tag.unlink(missing_ok=True)
    try:
        check_digest(part, digest)
    except CompatbenchError as error:
        part.unlink()
        problem = f"{error} (from {url})"
        raise CompatbenchError(f"{problem}; it was deleted, run the command again") from None
    part.replace(path)


def check_digest(path: Path, digest: str) -> None:
    """Raise an error if a file's hash is not ``digest``: ``md5:...``, ``sha256:...`` or empty."""
    if not digest:
        return
    kind, _, expected = digest.partition(":")
    actual = hash_file(path, kind)
    if actual != expected:
        name = path.name.removesuffix(".part")
        problem = f"its {kind} is {actual}, not {expected}"
        raise CompatbenchError(f"{name} is damaged or another file: {problem}")


def _continue_download(
    url: str,
    part: Path,
    tag: Path,
    size: int | None,
    checked: bool,
    progress: Callable[[int, int | None], object],
) -> None:
    """Request the bytes that are not here yet. ``tag`` keeps the server's name for this version."""
    have = _size(part)
    known_tag = tag.read_text() if tag.is_file() else ""
    if not known_tag and not checked:  # nothing could show whether the rest is of the same file
        have = 0
    if have and have == size:
        return
    response = _request(url, part, known_tag, have)
    if response is None:
        return
    with response:
        if response.headers.get_content_type() == "text/html":
            raise NoFile(f"{url} answers with a web page")
        length = response.headers.get("Content-Length", "")
        if response.status == 206:
            start, _, end = response.headers.get("Content-Range", "").partition("-")
            if start != f"bytes {have}":
                part.unlink(missing_ok=True)
                raise _Broken("the server sent another part than the requested one")
            length = end.partition("/")[2]
        else:
            have = 0
        total = int(length) if length.isdecimal() else size
        if size is not None and total != size:
            problem = f"it has {total:,} bytes, not {size:,}"
            raise CompatbenchError(f"{url} is another file than the card's: {problem}")
        if total is not None and shutil.disk_usage(part.parent).free < total - have:
            raise OSError(errno.ENOSPC, "no room")
        new_tag = response.headers.get("ETag", "")
        if not new_tag.startswith('"'):  # a weak tag does not identify bytes
            new_tag = response.headers.get("Last-Modified", "")
        tag.write_text(new_tag)
        mode: Literal["ab", "wb"] = "ab" if have else "wb"
        with part.open(mode) as file:
            for block in _blocks(response):
                file.write(block)
                have += len(block)
                progress(have, total)
            file.flush()
            os.fsync(file.fileno())
    if total is not None and have != total:
        raise _Broken(f"{have:,} of {total:,} bytes came")


def _request(url: str, part: Path, known_tag: str, have: int) -> HTTPResponse | None:
    """Request the bytes after the first ``have`` ones. Return None if there are no more."""
    headers = {"User-Agent": "compatbench", "Accept-Encoding": "identity"}
    if have:
        headers["Range"] = f"bytes={have}-"
        if known_tag:
            headers["If-Range"] = known_tag
    try:
        return urlopen(Request(url, headers=headers), timeout=TIMEOUT)  # type: ignore[no-any-return]
    except HTTPError as error:
        error.close()
        if error.code == 416:
            if error.headers.get("Content-Range", "") == f"bytes */{have}":
                return None
            part.unlink(missing_ok=True)
            raise _Broken("the server has another file now") from None
        if error.code in BUSY:
            raise _Broken(f"{error.code} {error.reason}") from None
        raise NoFile(f"{url} answers with {error.code} {one_line(str(error.reason))}") from None
    except (OSError, HTTPException, ValueError) as error:
        raise _Broken(first_line(error)) from None


def _blocks(response: HTTPResponse) -> Iterator[bytes]:
    """Yield the bytes that the server sends. Errors of reading count as a broken connection."""
    try:
        while True:
            block = response.read(BLOCK)
            if not block:
                return
            yield block
    except (OSError, HTTPException) as error:
        raise _Broken(first_line(error)) from None


def _size(path: Path) -> int:
    return path.stat().st_size if path.is_file() else 0
