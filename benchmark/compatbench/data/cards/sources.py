"""The schemas of the layouts in which a task's images may lie."""

from __future__ import annotations

from typing import Literal

from compatbench.data.cards.names import FilePattern, ImagesPath, RelativePath
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


class CaptionedSource(OnDisk):
    """The images that the card's file of captions names; it may have a column ``split``."""

    kind: Literal["captioned"]
    images: RelativePath = "."  # where the file's paths begin


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
    | CaptionedSource
    | ParquetSource
    | TableSource
)
