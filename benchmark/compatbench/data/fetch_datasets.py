"""Fetching datasets: download the files that cards name, check them, and put them in place."""

from __future__ import annotations

import json
import lzma
import re
import tarfile
import zlib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath, PureWindowsPath
from zipfile import BadZipFile, ZipFile

from filelock import FileLock, Timeout
from pydantic import TypeAdapter, ValidationError

from compatbench.data.cards import TaskCard, suite_cards, suite_test_sets, task_cards, whole_name
from compatbench.data.cards.sources import Download, OnDisk
from compatbench.data.dataset_folders import dataset_folder, find_dataset
from compatbench.data.download import NoFile, check_digest, download
from compatbench.data.task import TaskReport, inspect_task
from compatbench.errors import CompatbenchError
from compatbench.files.atomic import cannot_write, write_atomic
from compatbench.files.hashes import hash_file
from compatbench.files.scratch import scratch_folder
from compatbench.files.sizes import format_bytes
from compatbench.messages import first_line, one_line

LOCK = "downloads.json"  # in a dataset's folder: bytes and SHA-256 of downloads, by file
BUSY = ".fetching"
# The address of a file's page on Google Drive, and the address of the file itself.
DRIVE_PAGE = re.compile(r"^https://drive\.google\.com/(?:file/d/|open\?id=)([\w-]+)(?:/view.*)?$")
DRIVE_FILE = r"https://drive.usercontent.google.com/download?id=\1&export=download&confirm=t"
Tell = Callable[[str], object]
# Errors that the readers raise on damaged files, encrypted ones, and unknown compression.
_REFUSED = getattr(tarfile, "FilterError", ())
_DAMAGED = (BadZipFile, tarfile.TarError, EOFError, zlib.error, lzma.LZMAError, ValueError)
_DAMAGED += (RuntimeError, NotImplementedError)


@dataclass(frozen=True)
class Fetched:
    """The outcome of fetching a task's dataset."""

    task: str
    files: tuple[str, ...]  # files that were downloaded now
    problems: tuple[str, ...]  # a line for each file that could not be fetched
    report: TaskReport  # the state of the images now

    @property
    def ready(self) -> bool:
        """Return True if all images are here."""
        return self.report.state == "found"


def fetch_data(
    tasks: str | Sequence[str] = (),
    suite: str | None = None,
    *,
    agree: bool = False,
    keep: bool = False,
    tell: Tell = lambda _: None,
    progress: Tell = lambda _: None,
) -> list[Fetched]:
    """Download datasets into the folders in which their cards look for them.

    Complete datasets are left alone, and interrupted downloads are resumed. A file is checked
    against its published hash, or else against ``downloads.json`` in the dataset's folder, which
    the first download writes. Archives are unpacked beside their place and then renamed.

    Args:
        tasks: names or globs.
        suite: fetch everything that a suite needs, variants included.
        agree: agree to the licences that require it.
        keep: keep archives that were unpacked.
        tell: called with lines for people: each licence, before its files are downloaded.
        progress: called with the current state of the work.

    Returns:
        A record per dataset. Files that could not be fetched are in its ``problems``.

    Raises:
        CompatbenchError: an unknown task or suite, or a broken card.
    """
    names = task_cards.select_names(tasks) if tasks else []
    if suite is not None:
        test_sets = suite_test_sets(suite_cards.read(suite))
        names += [whole_name(name) for name in test_sets]
    if not names:
        raise CompatbenchError("nothing to fetch: name tasks, or a suite")
    unique_names = dict.fromkeys(names)
    return [_fetch(name, agree, keep, tell, progress) for name in unique_names]


def _fetch(name: str, agree: bool, keep: bool, tell: Tell, progress: Tell) -> Fetched:
    """Fetch one dataset; collect its errors as problems, so that the others are fetched too."""
    progress(name)
    report = inspect_task(name)
    if report.state == "found":
        return Fetched(name, (), (), report)
    card = task_cards.read(name)
    files = []
    problems = []
    try:
        folder = _prepare(card)
        missing = []
        for file in card.downloads:
            if not all((folder / target).exists() for target in file.targets):
                missing.append(file)
        _show_licences(card, missing, agree, tell)
        with FileLock(folder / BUSY, timeout=0):
            for file in missing:
                try:
                    _get(card, file, folder, keep, progress)
                    files.append(file.file)
                except CompatbenchError as error:
                    problems.append(str(error))
    except Timeout:
        problems.append(f"task '{name}': another fetch is running; wait until it ends")
    except CompatbenchError as error:
        problems.append(str(error))
    except OSError as error:
        problems.append(str(cannot_write(Path(error.filename or "."), error)))
    return Fetched(name, tuple(files), tuple(problems), inspect_task(name))


def _prepare(card: TaskCard) -> Path:
    """Return the dataset's folder; make it if it does not exist."""
    if not card.downloads or not isinstance(card.source, OnDisk):
        where = f"get it from {card.homepage}" if card.homepage else "put its images there"
        raise CompatbenchError(f"task '{card.name}': its card names no 'downloads'; {where}")
    folder = dataset_folder(card.name, card.source.folder)
    if folder is None:
        return find_dataset(card.name, card.source.folder)  # raises the error that says what to set
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def _show_licences(card: TaskCard, missing: list[Download], agree: bool, tell: Tell) -> None:
    """Tell the licences of the missing files; raise an error if one must be agreed to first."""
    licences = [file.licence or card.licence for file in missing]
    for licence in dict.fromkeys(licences):
        tell(f"{card.name}: licence: {licence} ({card.homepage})")
    if agree:
        return
    for file, licence in zip(missing, licences, strict=True):
        if file.agree:
            problem = f"task '{card.name}': its licence must be agreed to: {licence}"
            raise CompatbenchError(f"{problem}; read it ({card.homepage}), then give --agree")


def _get(card: TaskCard, file: Download, folder: Path, keep: bool, progress: Tell) -> None:
    """Download one file unless it is already there, and put its content in place."""
    path = folder / file.file
    lock = _read_lock(folder)
    known_sha256 = lock.get(file.file, {}).get("sha256")
    digest = file.published
    if not digest and known_sha256:
        digest = f"sha256:{known_sha256}"
    note = f"; {file.note}" if file.note else ""
    page = file.page or file.url
    by_hand = f"get it from {page}, save it as {path}, and run the command again{note}"

    def show(have: int, total: int | None) -> None:
        out_of = f" of {format_bytes(total)}" if total else ""
        progress(f"{card.name}: {file.file}: {format_bytes(have)}{out_of}")

    if path.is_file():  # a person put it there, or an earlier fetch could not unpack it
        check_digest(path, digest)
    elif file.url is None:
        raise CompatbenchError(f"task '{card.name}': {file.file} cannot be fetched: {by_hand}")
    else:
        url = DRIVE_PAGE.sub(DRIVE_FILE, file.url)
        try:
            download(url, path, size=file.bytes, digest=digest, progress=show)
        except NoFile as error:
            raise CompatbenchError(f"task '{card.name}': {error}; {by_hand}") from None
    if file.gives:
        progress(f"{card.name}: unpacking {file.file}")
        _unpack(path, file, folder)
    if known_sha256 is None:
        # Only now that it could be unpacked: the hash of a damaged archive must not be recorded.
        size = path.stat().st_size
        lock[file.file] = {"url": file.url, "bytes": size, "sha256": hash_file(path)}
        text = json.dumps(lock, indent=1, sort_keys=True) + "\n"
        write_atomic(folder / LOCK, text.encode())
    if file.gives and not keep:
        path.unlink()


def _read_lock(folder: Path) -> dict[str, dict[str, object]]:
    path = folder / LOCK
    if not path.is_file():
        return {}
    entries = TypeAdapter(dict[str, dict[str, object]])
    try:
        return entries.validate_json(path.read_bytes())
    except ValidationError:
        raise CompatbenchError(f"{path} is damaged; delete it, or put it back") from None


def _unpack(archive: Path, file: Download, folder: Path) -> None:
    """Unpack into a scratch folder, then rename: a file or folder in its place is complete."""

    def unpack_into(place: Path, archive: Path, paths: Iterable[str]) -> list[Path]:
        unpack(archive, place, paths)
        for path in paths:
            if not (place / path).exists():
                problem = f"{archive.name} holds no '{path}'"
                raise CompatbenchError(f"{problem}; it is another file than the card's, delete it")
        return [place / path for path in paths]

    with scratch_folder(inside=folder) as scratch:
        if file.inner is not None:
            [archive] = unpack_into(scratch / "outer", archive, [file.inner])
        sources = unpack_into(scratch / "all", archive, file.gives.values())
        for target, source in zip(file.gives, sources, strict=True):
            place = folder / target
            if not place.exists():
                place.parent.mkdir(parents=True, exist_ok=True)
                source.replace(place)


def unpack(archive: Path, folder: Path, paths: Iterable[str]) -> None:
    """Unpack the members of an archive at or below some paths (``.``: all) into a new folder.

    Raises:
        CompatbenchError: the archive is damaged, a member leads out of the folder or is a device or
            a link out of it; or the disk is full. The caller deletes the folder, with what was
            unpacked by then.
    """
    starts = [PurePosixPath(path).parts for path in paths]

    def is_selected(name: str) -> bool:
        # Windows paths know all of '/', '\' and 'C:', so this is safe on every system.
        path = PureWindowsPath(name)
        if ".." in path.parts or path.anchor:
            problem = f"{archive.name} is not unpacked: '{one_line(name)}' would be put outside"
            raise CompatbenchError(f"{problem} its folder; do not trust where it is from")
        parts = PurePosixPath(name).parts
        return any(parts[: len(start)] == start for start in starts)

    try:
        with archive.open("rb") as file:
            is_zip = file.read(4) == b"PK\x03\x04"
        if is_zip:
            with ZipFile(archive) as zipped:
                zipped.extractall(folder, filter(is_selected, zipped.namelist()))
        elif not hasattr(tarfile, "data_filter"):  # the filter that keeps members in their folder
            problem = f"{archive.name} is not unpacked: that takes Python 3.11.4 or newer"
            raise CompatbenchError(f"{problem}; unpack it by hand, if you trust where it is from")
        else:
            with tarfile.open(archive) as tarred:
                members = (member for member in tarred if is_selected(member.name))
                tarred.extractall(folder, members, filter="data")
    except _REFUSED as error:
        fix = "unpack it by hand, if you trust where it is from"
        problem = f"{archive.name} is not unpacked: {one_line(str(error))}"
        raise CompatbenchError(f"{problem}; {fix}") from None
    except OSError as error:
        if error.errno is not None:
            raise cannot_write(folder.parent, error) from None
        raise _damaged(archive, error) from None  # gzip's own errors have no number
    except _DAMAGED as error:
        raise _damaged(archive, error) from None


def _damaged(archive: Path, error: Exception) -> CompatbenchError:
    problem = f"{archive} is damaged, or no zip or tar archive: {first_line(error)}"
    return CompatbenchError(f"{problem}; delete it, and run the command again")
