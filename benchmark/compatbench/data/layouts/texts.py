"""Texts that come with a dataset: descriptions of its classes, and captions of its images."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from pydantic import RootModel

from compatbench.data.cards.sources import CaptionedSource
from compatbench.data.images.dataset_files import (
    BrokenImages,
    inside,
    read_bytes,
    read_json,
    unreadable,
)
from compatbench.data.images.source import SPLITS, ImageSource, Member, Sample
from compatbench.data.layouts.layouts import check_inside
from compatbench.data.layouts.parquet import open_parquet
from compatbench.data.layouts.tables import PARQUET, Row, open_table, read_csv
from compatbench.errors import CompatbenchError
from compatbench.messages import first_line

TXT = "txt"  # in place of a file's name: x.txt beside x.jpg in a shard, a caption in each line
Captions = dict[str, tuple[str, ...]]  # by an image's identity


class Caption(NamedTuple):
    """One row of a table; ``where`` is its file and line."""

    where: str
    image: str
    caption: str
    split: str


def read_descriptions(path: Path, names: Sequence[str]) -> tuple[tuple[str, ...], ...]:
    """The texts of each class, in the file's order, without empty ones and repeats.

    Names are the same whatever joins and capitalises their words.
    """

    def plain(name: str) -> str:
        return " ".join(name.replace("_", " ").casefold().split())

    found = read_json(path, RootModel[dict[str, tuple[str, ...]]]).root
    texts, rows = {plain(name): listed for name, listed in found.items()}, []
    for name in names:
        row = (" ".join(text.split()) for text in texts.get(plain(name), ()))
        rows.append(tuple(dict.fromkeys(filter(None, row))))
        if not rows[-1]:
            raise CompatbenchError(f"{path} has no text of the class '{name}'; add one")
    return tuple(rows)


def read_captions(
    folder: Path, name: str, images: Sequence[Sample], others: Collection[str]
) -> Captions:
    """The captions of a task's test images, in the order of the file; some may have none.

    Args:
        folder: the dataset's.
        name: of the table in it; or ``txt``, for images in tar shards as CLIP_benchmark has them.
        images: the test images.
        others: identities of the task's other images, whose captions are not taken.

    Raises:
        CompatbenchError: a broken file, a row of no image of the task, an empty caption, or no
            caption at all.
    """
    found: dict[str, list[str]] = {one.id: [] for one in images}
    rows = _texts_beside(images) if name == TXT else _read_table(inside(folder, name))
    for row in rows:
        if row.image in found:
            found[row.image].append(row.caption)
        elif row.image not in others:
            shown = f"write its path as the task has it, such as {images[0].id!r}"
            raise BrokenImages(f"{row.where}: the task has no image {row.image!r}; {shown}")
    captions = {image: tuple(own) for image, own in found.items() if own}
    if not captions:
        raise BrokenImages(f"{folder / name} has no caption of a test image; add some")
    return captions


def read_captioned(folder: Path, card: CaptionedSource, captions: str) -> ImageSource:
    """The images that a table of captions names, in the order of their first rows.

    A column ``split`` says what an image is for; without it all are test images.
    """
    rows: dict[str, Row] = {}
    for row in _read_table(inside(folder, captions)):
        try:
            check_inside(row.image)
        except ValueError as error:
            raise BrokenImages(f"{row.where}: {error}") from None
        first = rows.setdefault(row.image, Row(row.image, "", row.split))
        if row.split != first.split or row.split not in SPLITS:
            what = f"split {row.split!r} of {row.image!r}"
            raise BrokenImages(f"{row.where}: {what}: give it one of {', '.join(SPLITS)}")
    return open_table(inside(folder, card.images), rows.values(), (), inside(folder, captions))


def _texts_beside(images: Sequence[Any]) -> Iterator[Caption]:
    for one in images:
        if not isinstance(one, Member) or one.text is None:
            raise BrokenImages(
                f"image {one.id}: there is no {TXT} beside it in a tar shard; add it"
            )
        try:
            lines = read_bytes(one.shard, *one.text).decode().split("\n")
        except ValueError as error:
            raise unreadable(one.shard, ValueError(f"text of {one.id}: {error}")) from None
        for line in filter(None, map(str.strip, lines)):
            yield Caption(one.id, one.id, line, "test")


def _read_table(path: Path) -> Iterator[Caption]:
    """The rows of a CSV, TSV or Parquet file; in the last a field may hold a list of captions."""
    for line, row in _read_parquet(path) if path.suffix == PARQUET else read_csv(path):
        for name in ("image", "caption"):
            if name not in row:
                raise BrokenImages(f"{path}:1: there is no column '{name}'; call it so")
        image, texts = row["image"], row["caption"]
        for text in texts if isinstance(texts, list) else [texts]:
            for name, value in (("image", image), ("caption", text)):
                if not isinstance(value, str) or not value.strip():
                    raise BrokenImages(
                        f"{path}:{line}: '{name}' is no text; write it, or drop the row"
                    )
            yield Caption(f"{path}:{line}", image, text.strip(), row.get("split", "test"))


def _read_parquet(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """The rows of a Parquet file, numbered from 1; of a few columns, images are left alone."""
    file = open_parquet(path)
    names = [name for name in file.schema_arrow.names if name in ("image", "caption", "split")]
    line = 0
    try:
        for batch in file.iter_batches(columns=names, use_threads=False):
            for row in batch.to_pylist():
                line += 1
                yield line, row
    except (OSError, ValueError) as error:  # as pyarrow's own are
        raise unreadable(path, ValueError(first_line(error))) from None
