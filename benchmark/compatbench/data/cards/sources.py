"""The schemas of where a task's images are: the layouts that they may lie in, and downloads."""

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


class OnDisk(CardModel):
    """Images in a folder, relative to the data root; of a card of one's own, to the card."""

    folder: ImagesPath


class CoopSplitSource(OnDisk):
    """A dataset in CoOp's layout: images, and a split file that lists all of them."""

    kind: Literal["coop-split"]
    split: RelativePath  # JSON of [path, label, name] by split, in the folder
    images: RelativePath = "."  # where the split's paths begin


class ClassFoldersSource(OnDisk):
    """One folder per split, in it one folder per class, the images sorted by name."""

    kind: Literal["class-folders"]
    images: RelativePath = "."  # around the splits' folders; ignored where it does not exist
    elsewhere: tuple[RelativePath, ...] = ()  # where others keep them, tried after that
    train: RelativePath | None = None
    val: RelativePath | None = None
    test: RelativePath
    numbered: bool = False  # class folders are called 0, 1, 2, ... by label


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
    """Parquet files as the Hub has them: ``image`` with its bytes, and ``label``."""

    kind: Literal["parquet"]
    train: FilePattern | None = None  # * stands for any part of a name
    val: FilePattern | None = None
    test: FilePattern = "data/test-*.parquet"


class TableSource(OnDisk):
    """Images that a CSV file lists: files, or members of tar shards and rows of parquet files."""

    kind: Literal["table"]
    file: ImagesPath  # CSV of path,label,split, beside the card; labels are the card's folders


Source = (
    DrawingsSource
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
    """A file that a part of a dataset comes from: an archive, or a file that is used as it is."""

    url: Link | None = None  # the file's own address; one of Google Drive's pages serves, too
    page: Link | None = None  # where a person gets it, if it has no address or that fails
    # Its name; default: the last part of the address.
    file: Name = Field(default="", validate_default=True)
    hash: Hash
    bytes: PositiveInt | None = None
    # Paths in the dataset's folder, and what is put there, by its path in the archive ('.' is
    # all of it); empty: the file itself.
    gives: dict[ImagesPath, ImagesPath] = {}
    inner: RelativePath | None = None  # the archive in the archive that holds these
    licence: str = ""  # default: the card's
    agree: bool = False  # whether that must be agreed to before
    note: str = ""  # what a person must know who gets it by hand

    @model_validator(mode="before")
    @classmethod
    def _name_the_file(cls, values: object) -> object:
        if isinstance(values, dict) and "file" not in values and isinstance(values.get("url"), str):
            return values | {"file": PurePosixPath(urlsplit(values["url"]).path).name}
        return values

    @model_validator(mode="after")
    def _check(self) -> Download:
        if not (self.url or self.page):
            raise ValueError("a download needs 'url' or 'page'")
        return self

    @property
    def targets(self) -> tuple[str, ...]:
        """The paths in the dataset's folder that it fills."""
        return tuple(self.gives) or (self.file,)

    @property
    def published(self) -> str:
        """``md5:...`` or ``sha256:...``; empty if none is published."""
        return "" if self.hash == NO_HASH else self.hash
