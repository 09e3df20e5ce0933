"""Tar shards in the format in which CLIP_benchmark publishes datasets (webdataset)."""

from __future__ import annotations

import re
import tarfile
from collections.abc import Iterator
from pathlib import Path

from compatbench.data.cards.task import WebdatasetSource
from compatbench.data.images import SPLITS, ImageSource, Member, read_lines, unreadable
from compatbench.data.labels import CLASS_NAMES, Classes
from compatbench.errors import CompatbenchError

EXTENSIONS = ("webp", "png", "jpg", "jpeg")
MOST_LABEL_BYTES = 32


def read_webdataset(folder: Path, card: WebdatasetSource, classes: Classes) -> ImageSource:
    """Images that are read from their place in uncompressed tar files.

    None is extracted, links are refused, and names only tell images apart.
    """
    if (names := folder / CLASS_NAMES).is_file():
        classes.check(read_lines(names), names, exact=False)
    places = {split: place for split in SPLITS if (place := getattr(card, split))}
    samples = {split: list(_read_split(folder, place)) for split, place in places.items()}
    for member in (member for members in samples.values() for member in members):
        if member.label >= (count := len(classes.names)):
            raise CompatbenchError(
                f"{folder}: {member.id} has label {member.label}; the card has {count} classes"
            )
    return ImageSource(folder, samples)


def _read_split(folder: Path, place: str) -> Iterator[Member]:
    listing = folder / place / "nshards.txt"
    text = " ".join(read_lines(listing))
    if not re.fullmatch("[0-9]{1,9}", text):
        raise CompatbenchError(f"{listing}: it holds the number of shards")
    for number in range(int(text)):
        yield from _read_shard(folder, f"{place}/{number}.tar")


def _read_shard(folder: Path, name: str) -> Iterator[Member]:
    """The images of one shard, in its order; their identities begin with its name."""
    path = folder / name
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
                    file = tar.extractfile(member) if member.size <= MOST_LABEL_BYTES else None
                    text = file.read().decode("ascii", "replace").strip() if file else ""
                    if not (text.isascii() and text.isdigit()):
                        raise CompatbenchError(f"{path}: {member.name!r} holds no label: {text!r}")
                    labels[stem] = int(text)
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
