"""Fetches datasets: what their cards name is downloaded, checked, and put where the card says."""

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
from compatbench.data.cards.sources import Download
from compatbench.data.dataset_folders import dataset_folder, find_dataset
from compatbench.data.download import NoFile, check_digest, download
from compatbench.data.task import TaskReport, inspect_task
from compatbench.errors import CompatbenchError
from compatbench.files.atomic import cannot_write, write_atomic
from compatbench.files.hashes import hash_file
from compatbench.files.scratch import scratch_folder
from compatbench.files.sizes import format_bytes
from compatbench.messages import first_line, one_line

LOCK = "downloads.json"  # in a dataset's folder: bytes and SHA-256 of what came, by file
BUSY = ".fetching"
# An address of a file's page on Google Drive, and that of the file itself.
DRIVE_PAGE = re.compile(r"^https://drive\.google\.com/(?:file/d/|open\?id=)([\w-]+)(?:/view.*)?$")
DRIVE_FILE = r"https://drive.usercontent.google.com/download?id=\1&export=download&confirm=t"
Tell = Callable[[str], object]
# What the readers raise on damaged files, encrypted ones, and unknown compression.
_REFUSED = getattr(tarfile, "FilterError", ())
_DAMAGED = (BadZipFile, tarfile.TarError, EOFError, zlib.error, lzma.LZMAError, ValueError)
_DAMAGED += (RuntimeError, NotImplementedError)


@dataclass(frozen=True)
class Fetched:
    """What came of fetching a task's dataset."""

    task: str
    files: tuple[str, ...]  # those that came now
    problems: tuple[str, ...]  # a line for each file that could not be had
    report: TaskReport  # the state of the images now

    @property
    def ready(self) -> bool:
        """Whether the images are all here."""
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
    """Downloads datasets into the folders in which their cards look for them.

    What is complete is left alone, and what broke off is gone on with. A file is checked against
    the hash that is published, or else against ``downloads.json`` in the dataset's folder, which
    the first download writes. Archives are unpacked beside their place and then renamed.

    Args:
        tasks: names or globs.
        suite: fetch all that a suite needs, variants included.
        agree: the licences that ask for it are agreed to.
        keep: keep archives that were unpacked.
        tell: called with lines for people: licences, before anything of theirs is downloaded.
        progress: called with how far the work is.

    Returns:
        A record per dataset. What could not be had is in its ``problems``.

    Raises:
        CompatbenchError: an unknown task or suite, or a broken card.
    """
    names = task_cards.select_names(tasks) if tasks else []
    if suite is not None:
        names += map(whole_name, suite_test_sets(suite_cards.read(suite)))
    if not names:
        raise CompatbenchError("nothing to fetch: name tasks, or a suite")
    return [_fetch(name, agree, keep, tell, progress) for name in dict.fromkeys(names)]


def _fetch(name: str, agree: bool, keep: bool, tell: Tell, progress: Tell) -> Fetched:
    progress(name)
    if (report := inspect_task(name)).state == "found":
        return Fetched(name, (), (), report)
    card, files, problems = task_cards.read(name), [], []
    try:
        folder = _prepare(card)
        missing = [
            wanted
            for wanted in card.downloads
            if not all((folder / target).exists() for target in wanted.targets)
        ]
        _show_licences(card, missing, agree, tell)
        with FileLock(folder / BUSY, timeout=0):
            for wanted in missing:
                try:
                    _get(card, wanted, folder, keep, progress)
                    files.append(wanted.file)
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
    """The dataset's folder, which is made if it is not there."""
    if not card.downloads or card.source.kind == "drawings":
        where = f"get it from {card.homepage}" if card.homepage else "put its images there"
        raise CompatbenchError(f"task '{card.name}': its card names no 'downloads'; {where}")
    folder = dataset_folder(card.name, card.source.folder)
    if folder is None:
        return find_dataset(card.name, card.source.folder)  # which says what to set
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def _show_licences(card: TaskCard, missing: list[Download], agree: bool, tell: Tell) -> None:
    for licence in dict.fromkeys(wanted.licence or card.licence for wanted in missing):
        tell(f"{card.name}: licence: {licence} ({card.homepage})")
    asked = [wanted.licence or card.licence for wanted in missing if wanted.agree]
    if asked and not agree:
        what = f"task '{card.name}': its licence must be agreed to: {asked[0]}"
        raise CompatbenchError(f"{what}; read it ({card.homepage}), then give --agree")


def _get(card: TaskCard, wanted: Download, folder: Path, keep: bool, progress: Tell) -> None:
    """Downloads one file, or takes it as it lies there, and puts what it gives in its place."""
    path, lock = folder / wanted.file, _read_lock(folder)
    before = lock.get(wanted.file, {}).get("sha256")
    digest = wanted.published or (f"sha256:{before}" if before else "")
    note = f"; {wanted.note}" if wanted.note else ""
    by_hand = f"get it from {wanted.page or wanted.url}, save it as {path}, and run the command"
    by_hand += f" again{note}"

    def show(have: int, total: int | None) -> None:
        of = f" of {format_bytes(total)}" if total else ""
        progress(f"{card.name}: {wanted.file}: {format_bytes(have)}{of}")

    if path.is_file():  # by hand, or by a fetch that could not unpack it
        check_digest(path, digest)
    elif wanted.url is None:
        raise CompatbenchError(f"task '{card.name}': {wanted.file} cannot be fetched: {by_hand}")
    else:
        url = DRIVE_PAGE.sub(DRIVE_FILE, wanted.url)
        try:
            download(url, path, size=wanted.bytes, digest=digest, progress=show)
        except NoFile as error:
            raise CompatbenchError(f"task '{card.name}': {error}; {by_hand}") from None
    if wanted.gives:
        progress(f"{card.name}: unpacking {wanted.file}")
        _unpack(path, wanted, folder)
    if before is None:  # only now, so that a damaged archive is not what must come again
        size, sha256 = path.stat().st_size, hash_file(path)
        lock[wanted.file] = {"url": wanted.url, "bytes": size, "sha256": sha256}
        write_atomic(folder / LOCK, (json.dumps(lock, indent=1, sort_keys=True) + "\n").encode())
    if wanted.gives and not keep:
        path.unlink()


def _read_lock(folder: Path) -> dict[str, dict[str, object]]:
    path, entries = folder / LOCK, TypeAdapter(dict[str, dict[str, object]])
    try:
        return entries.validate_json(path.read_bytes()) if path.is_file() else {}
    except ValidationError:
        raise CompatbenchError(f"{path} is damaged; delete it, or put it back") from None


def _unpack(archive: Path, wanted: Download, folder: Path) -> None:
    """Unpacks in a folder beside, and renames: what has its name is whole."""

    def unpack_into(place: Path, archive: Path, paths: Iterable[str]) -> list[Path]:
        unpack(archive, place, paths)
        for path in paths:
            if not (place / path).exists():
                what = f"{archive.name} holds no '{path}'"
                raise CompatbenchError(f"{what}; it is another file than the card's, delete it")
        return [place / path for path in paths]

    with scratch_folder(inside=folder) as scratch:
        if wanted.inner is not None:
            [archive] = unpack_into(scratch / "outer", archive, [wanted.inner])
        sources = unpack_into(scratch / "all", archive, wanted.gives.values())
        for target, source in zip(wanted.gives, sources, strict=True):
            if not (place := folder / target).exists():
                place.parent.mkdir(parents=True, exist_ok=True)
                source.replace(place)


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
        elif not hasattr(tarfile, "data_filter"):  # which keeps members in their folder
            what = f"{archive.name} is not unpacked: that takes Python 3.11.4 or newer"
            raise CompatbenchError(f"{what}; unpack it by hand, if you trust where it is from")
        else:
            with tarfile.open(archive) as tarred:
                members = (member for member in tarred if is_wanted(member.name))
                tarred.extractall(folder, members, filter="data")
    except _REFUSED as error:
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
