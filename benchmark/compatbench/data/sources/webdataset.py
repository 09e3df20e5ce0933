"""Tar shards in the format in which CLIP_benchmark publishes datasets (webdataset)."""

from __future__ import annotations

import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from compatbench.data.cards.task import WebdatasetSource
from compatbench.data.images import SPLITS, ImageSource, Sample, read_lines, unreadable
from compatbench.data.labels import CLASS_NAMES, Classes
from compatbench.errors import CompatbenchError

EXTENSIONS = ("webp", "png", "jpg", "jpeg")
MOST_LABEL_BYTES = 32
MOST_DIGITS = 9


@dataclass(frozen=True, slots=True)
class Member(Sample):
    """One image in a shard: ``size`` bytes from ``start``."""

    shard: Path
    start: int
    size: int


class WebdatasetShards(ImageSource):
    """Images that are read from their place in uncompressed tar files.

    None is extracted, links are refused, and names only tell images apart.

    Raises:
        CompatbenchError: a shard is missing, damaged or breaks the format, or the classes
            are not the card's.
    """

    def __init__(self, folder: Path, card: WebdatasetSource, classes: Classes) -> None:
        if (names := folder / CLASS_NAMES).is_file():
            classes.check(read_lines(names), names, exact=False)
        places = {split: place for split in SPLITS if (place := getattr(card, split))}
        samples = {split: list(_read_split(folder, place)) for split, place in places.items()}
        for member in (member for members in samples.values() for member in members):
            if member.label >= (count := len(classes.names)):
                raise CompatbenchError(
                    f"{folder}: {member.id} has label {member.label}; the card has {count} classes"
                )
        super().__init__(samples)

    def size(self, sample: Member) -> int:
        return sample.size

    def content(self, sample: Member) -> tuple[bytes, str | Path]:
        try:
            with sample.shard.open("rb") as file:
                file.seek(sample.start)
                return file.read(sample.size), sample.id
        except OSError as error:
            raise unreadable(sample.shard, error) from None


def _read_split(folder: Path, place: str) -> Iterator[Member]:
    listing = folder / place / "nshards.txt"
    text = " ".join(read_lines(listing))
    if not (text.isascii() and text.isdigit()) or len(text) > MOST_DIGITS:
        raise CompatbenchError(f"{listing}: it holds the number of shards")
    for number in range(int(text)):
        yield from _read_shard(folder / place / f"{number}.tar", f"{place}/{number}.tar")


def _read_shard(path: Path, name: str) -> Iterator[Member]:
    """The images of one shard, in its order; their identities begin with ``name``."""
    images: dict[str, tuple[int, int]] = {}
    labels: dict[str, int] = {}
    try:
        # "r:" takes plain tars only: a compressed one would have to be unpacked.
        with tarfile.open(path, "r:") as tar:
            for member in tar:
                stem, _, extension = member.name.rpartition(".")
                if extension not in (*EXTENSIONS, "cls"):
                    continue
                if not member.isreg() or member.issparse() or not member.name.isprintable():
                    raise CompatbenchError(f"{path}: {member.name!r} is not a plain file")
                if extension == "cls":
                    labels[stem] = _read_label(tar, member, path)
                elif stem in images:
                    raise CompatbenchError(f"{path}: there are two images {stem!r}")
                else:
                    images[stem] = member.offset_data, member.size
        with path.open("rb") as file:
            file.seek(max(path.stat().st_size - 1024, 0))
            whole = file.read() == bytes(1024)  # as every tar ends
    except (tarfile.TarError, OSError, ValueError) as error:
        raise unreadable(path, error) from None
    if alone := next(iter(images.keys() ^ labels.keys()), None):
        what = "label" if alone in images else "image"
        raise CompatbenchError(f"{path}: {alone!r} has no {what}")
    if not whole:
        raise CompatbenchError(f"{path} is cut short; fetch it again")
    for stem, (start, size) in images.items():
        yield Member(f"{name}/{stem}", labels[stem], path, start, size)


def _read_label(tar: tarfile.TarFile, member: tarfile.TarInfo, path: Path) -> int:
    file = tar.extractfile(member) if member.size <= MOST_LABEL_BYTES else None
    text = file.read().decode("ascii", "replace").strip() if file else ""
    if not (text.isascii() and text.isdigit()):
        raise CompatbenchError(f"{path}: {member.name!r} holds no label but {text!r}")
    return int(text)
