"""Texts that come with a dataset: descriptions of its classes, and captions of its images."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

from pydantic import RootModel

from compatbench.data.cards.sources import CaptionedSource
from compatbench.data.images.dataset_files import (
    BrokenImages,
    inside,
    read_bytes,
    read_json,
    reading,
)
from compatbench.data.images.source import ImageSource, Member, Sample
from compatbench.data.layouts.containers import PARQUET, read_columns
from compatbench.data.layouts.listing import Classes, Listing, check_inside, open_images, read_csv
from compatbench.errors import CompatbenchError

if TYPE_CHECKING:
    import pandas as pd

TXT = "txt"  # in place of a file's name: x.txt beside x.jpg in a shard, a caption in each line
Captions = dict[str, tuple[str, ...]]  # by an image's identity


def read_descriptions(path: Path, names: Sequence[str]) -> tuple[tuple[str, ...], ...]:
    """The texts of each class, in the file's order, without empty ones and repeats.

    Names are the same whatever joins and capitalises their words.
    """

    def plain(name: str) -> str:
        return " ".join(name.replace("_", " ").casefold().split())

    by_name = read_json(path, RootModel[dict[str, tuple[str, ...]]]).root
    texts, rows = {plain(name): listed for name, listed in by_name.items()}, []
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
    if name == TXT:
        rows = _texts_beside(images)
    else:
        table = _read_table(path := inside(folder, name))
        columns = table.index, table["image"], table["caption"].str.strip()
        rows = ((f"{path}:{line}", *row) for line, *row in zip(*columns, strict=True))
    texts: dict[str, list[str]] = {sample.id: [] for sample in images}
    for where, image, caption in rows:
        if image in texts:
            texts[image].append(caption)
        elif image not in others:
            shown = f"write its path as the task has it, such as {images[0].id!r}"
            raise BrokenImages(f"{where}: the task has no image {image!r}; {shown}")
    captions = {image: tuple(listed) for image, listed in texts.items() if listed}
    if not captions:
        raise BrokenImages(f"{folder / name} has no caption of a test image; add some")
    return captions


def read_captioned(folder: Path, card: CaptionedSource, captions: str) -> ImageSource:
    """The images that a table of captions names, in the order of their first rows.

    A column ``split`` says what an image is for; without it all are test images.
    """
    table = _read_table(path := inside(folder, captions))
    first = table.groupby("image")["split"].transform("first")
    for line, image, split, other in zip(
        table.index, table["image"], table["split"], first, strict=True
    ):
        try:
            check_inside(image)
        except ValueError as error:
            raise BrokenImages(f"{path}:{line}: {error}") from None
        if split != other:
            raise BrokenImages(f"{path}:{line}: {image!r} is in two splits; give it one")
    frame = table.drop_duplicates("image").rename(columns={"image": "path"}).assign(label=None)
    listing = Listing("a table of captions", inside(folder, card.images), frame, table=path)
    return open_images(listing, Classes("", (), (), ()))


def _texts_beside(images: Sequence[Any]) -> Iterator[tuple[str, str, str]]:
    """Where it is, the image and the text of each line of the texts beside images in shards."""
    for image in images:
        if not isinstance(image, Member) or image.text is None:
            what = f"there is no {TXT} beside it in a tar shard; add it"
            raise BrokenImages(f"image {image.id}: {what}")
        with reading(image.shard / f"{PurePosixPath(image.id).name}.{TXT}"):
            lines = read_bytes(image.shard, *image.text).decode().split("\n")
        for line in filter(None, map(str.strip, lines)):
            yield image.id, image.id, line


def _read_table(path: Path) -> pd.DataFrame:
    """The rows of a CSV, TSV or Parquet file; in the last a field may hold a list of captions."""
    import pandas as pd

    if path.suffix == PARQUET:
        table = pd.DataFrame(read_columns(path, ["image", "caption", "split"]))
        table.index += 1
    else:
        table = read_csv(path)
    for name in ("image", "caption"):
        if name not in table:
            raise BrokenImages(f"{path}:1: there is no column '{name}'; call it so")
    table = table.loc[[caption != [] for caption in table["caption"]]].explode("caption")
    for name in ("image", "caption"):
        is_text = [isinstance(value, str) and bool(value.strip()) for value in table[name]]
        if not all(is_text):
            line = table.index[is_text.index(False)]
            what = f"'{name}' is no text; write it, or drop the row"
            raise BrokenImages(f"{path}:{line}: {what}")
    return table if "split" in table else table.assign(split="test")
