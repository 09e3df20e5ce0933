"""Downloads a file: resumed where it broke off, and under its name only when whole and checked."""

from __future__ import annotations

import errno
import os
import shutil
import time
from collections.abc import Callable, Iterator
from http.client import HTTPException, HTTPResponse
from pathlib import Path
from urllib.error import HTTPError
from urllib.request import Request, urlopen

from compatbench.errors import CompatbenchError
from compatbench.files.atomic import cannot_write
from compatbench.files.hashes import hash_file
from compatbench.files.sizes import format_bytes
from compatbench.messages import first_line, one_line

TRIES = 5  # in a row that bring nothing
PAUSE = 2.0  # seconds between them
TIMEOUT = 30  # seconds without a byte
BLOCK = 1 << 20
BUSY = (408, 425, 429, 500, 502, 503, 504)  # answers after which another try may help


class NoFile(CompatbenchError):
    """An address that does not answer with the file."""


class _Broken(Exception):
    """The connection broke; what has come is kept."""


def download(
    url: str,
    path: Path,
    *,
    size: int | None = None,
    digest: str = "",
    progress: Callable[[int, int | None], object] = lambda have, total: None,
) -> None:
    """Downloads ``url`` to ``path``, by way of ``path.part``, which a later call continues.

    Args:
        size: in bytes, if it is known.
        digest: ``md5:...`` or ``sha256:...`` of the whole file, or empty.
        progress: called with the bytes that are here, and those of the whole file if known.

    Raises:
        NoFile: the address answers with an error or a web page.
        CompatbenchError: the connection broke again and again, the disk is full, or the file
            is not the one that was asked for; in this last case it is deleted.
    """
    part, tag = path.with_name(f"{path.name}.part"), path.with_name(f"{path.name}.part.tag")
    left = TRIES
    while True:
        before = _size(part)
        try:
            _go_on(url, part, tag, size, bool(digest), progress)
            break
        except _Broken as error:
            left = TRIES if _size(part) > before else left - 1
            if not left:
                have = format_bytes(_size(part))
                what = f"{url} broke off, {have} are here: {error}"
                raise CompatbenchError(f"{what}; the same command continues from there") from None
            time.sleep(PAUSE)
        except OSError as error:
            raise cannot_write(part, error) from None
    tag.unlink(missing_ok=True)
    try:
        check_digest(part, digest)
    except CompatbenchError as error:
        part.unlink()
        what = f"{error} (from {url})"
        raise CompatbenchError(f"{what}; it was deleted, run the command again") from None
    part.replace(path)


def check_digest(path: Path, digest: str) -> None:
    """Refuses a file that has another MD5 or SHA-256 than ``md5:...`` or ``sha256:...`` says."""
    kind, _, wanted = digest.partition(":")
    if not digest:
        return
    if (read := hash_file(path, kind)) != wanted:
        name, both = path.name.removesuffix(".part"), f"{read}, not {wanted}"
        raise CompatbenchError(f"{name} is damaged or another file: its {kind} is {both}")


def _go_on(
    url: str,
    part: Path,
    tag: Path,
    size: int | None,
    checked: bool,
    progress: Callable[[int, int | None], object],
) -> None:
    """One request for what is not here yet. ``tag`` keeps the server's name for this state."""
    have, known = _size(part), tag.read_text() if tag.is_file() else ""
    if not known and not checked:  # then nothing shows whether the rest is of the same file
        have = 0
    if have and have == size:
        return
    response = _ask(url, part, known, have)
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
                raise _Broken("the server sent another part than was asked for")
            length = end.partition("/")[2]
        else:
            have = 0
        total = int(length) if length.isdecimal() else size
        if size is not None and total != size:
            both = f"{total:,} bytes, not {size:,}"
            raise CompatbenchError(f"{url} is another file than the card's: it has {both}")
        if total is not None and shutil.disk_usage(part.parent).free < total - have:
            raise OSError(errno.ENOSPC, "no room")
        etag = response.headers.get("ETag", "")  # a weak one names no bytes
        tag.write_text(etag if etag.startswith('"') else response.headers.get("Last-Modified", ""))
        with part.open("ab" if have else "wb") as file:
            for block in _blocks(response):
                file.write(block)
                have += len(block)
                progress(have, total)
            file.flush()
            os.fsync(file.fileno())
    if total is not None and have != total:
        raise _Broken(f"{have:,} of {total:,} bytes came")


def _ask(url: str, part: Path, known: str, have: int) -> HTTPResponse | None:
    """The answer of the server, asked for what follows ``have`` bytes; None if nothing does."""
    headers = {"User-Agent": "compatbench", "Accept-Encoding": "identity"}
    if have:
        headers |= {"Range": f"bytes={have}-", **({"If-Range": known} if known else {})}
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
    """What the server sends; only its own errors are those of the connection."""
    try:
        while block := response.read(BLOCK):
            yield block
    except (OSError, HTTPException) as error:
        raise _Broken(first_line(error)) from None


def _size(path: Path) -> int:
    return path.stat().st_size if path.is_file() else 0
