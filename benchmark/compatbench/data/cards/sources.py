"""Schemas of the sources of a task's images: layouts on the disk, and downloads."""

from __future__ import annotations

from pathlib import PurePosixPath
from typing import Annotated, Literal
from urllib.parse import urlsplit

from pydantic import Field, PositiveInt, model_validator

from compatbench.data.cards.names import (
    FilePattern,
    ImagesPath,
    Link,
    Name,
    RelativePath,
    written_as,
)
from compatbench.data.cards.yaml_file import CardModel


class DrawingsSource(CardModel):
    """Images painted from the drawings that ship with the mini suite."""

    kind: Literal["drawings"]
    split: RelativePath  # CSV of split,label,set,tile,paint, relative to tasks/


class DigitsSource(CardModel):
    """The handwritten digits that ship with scikit-learn."""

    kind: Literal["sklearn-digits"]


class OnDisk(CardModel):
    """Images in a folder, relative to the data root or, on a user's own card, to the card."""

    folder: ImagesPath


class CoopSplitSource(OnDisk):
    """A dataset in CoOp's layout: images, and a split file that lists all of them."""

    kind: Literal["coop-split"]
    split: RelativePath  # JSON of [path, label, name] by split, in the folder
    images: RelativePath = "."  # the folder where the split's paths begin


class ClassFoldersSource(OnDisk):
    """One folder per split, with one folder per class; the images are sorted by name."""

    kind: Literal["class-folders"]
    images: RelativePath = "."  # the folder around the splits' folders, if it exists
    elsewhere: tuple[RelativePath, ...] = ()  # other folders around them, tried afterwards
    train: RelativePath | None = None
    val: RelativePath | None = None
    test: RelativePath
    numbered: bool = False  # class folders are named 0, 1, 2, ... after labels


class FgvcSource(OnDisk):
    """FGVC-Aircraft's text files: ``variants.txt`` and ``images_variant_<split>.txt``."""

    kind: Literal["fgvc"]
    images: RelativePath


class WebdatasetSource(OnDisk):
    """Tar shards as CLIP_benchmark publishes them: ``<split>/nshards.txt``, ``<split>/0.tar``."""

    kind: Literal["webdataset"]
    train: RelativePath | None = None
    val: RelativePath | None = None
    test: RelativePath = "test"


class ParquetSource(OnDisk):
    """Parquet files as on the Hub: ``image`` with its bytes, and ``label``."""

    kind: Literal["parquet"]
    train: FilePattern | None = None  # * stands for any part of a name
    val: FilePattern | None = None
    test: FilePattern = "data/test-*.parquet"


class TableSource(OnDisk):
    """Images that a CSV file lists: files, or members of tar shards and rows of parquet files."""

    kind: Literal["table"]
    file: ImagesPath  # CSV of path,label,split, beside the card; labels are the card's folders
    upright: bool = False  # True if images are turned as their EXIF data say
    hashed: bool = False  # True if keys contain the content of the images, not just their sizes


Source = (
    DrawingsSource
    | DigitsSource
    | CoopSplitSource
    | ClassFoldersSource
    | FgvcSource
    | WebdatasetSource
    | ParquetSource
    | TableSource
)

NO_HASH = "none is published"
Hash = Annotated[
    str,
    written_as(
        rf"md5:[0-9a-f]{{32}}|sha256:[0-9a-f]{{64}}|{NO_HASH}", f"md5:..., sha256:... or {NO_HASH}"
    ),
]


class Download(CardModel):
    """A file with a part of a dataset: an archive, or a file that is used as it is."""

    url: Link | None = None  # the file's own address, or its page on Google Drive
    page: Link | None = None  # the page where a person gets it, if there is no address or it fails
    # The file's name; default: the last part of the address.
    file: Name = Field(default="", validate_default=True)
    hash: Hash
    bytes: PositiveInt | None = None
    # By paths in the dataset's folder, the paths in the archive of what is put there ('.' is
    # everything). If it is empty, the file itself is used.
    gives: dict[ImagesPath, ImagesPath] = {}
    inner: RelativePath | None = None  # the archive within the archive that contains these paths
    licence: str = ""  # default: the card's
    agree: bool = False  # True if a person must agree to the licence first
    note: str = ""  # a hint for a person who gets the file by hand

    @model_validator(mode="before")
    @classmethod
    def _name_the_file(cls, values: object) -> object:
        if not isinstance(values, dict) or "file" in values:
            return values
        url = values.get("url")
        if not isinstance(url, str):
            return values
        path = urlsplit(url).path
        return values | {"file": PurePosixPath(path).name}

    @model_validator(mode="after")
    def _check(self) -> Download:
        if not (self.url or self.page):
            raise ValueError("a download needs 'url' or 'page'")
        return self

    @property
    def targets(self) -> tuple[str, ...]:
        """Return the paths in the dataset's folder that it fills."""
        return tuple(self.gives) or (self.file,)

    @property
    def published(self) -> str:
        """Return the published hash, ``md5:...`` or ``sha256:...``; empty if there is none."""
        return "" if self.hash == NO_HASH else self.hash
