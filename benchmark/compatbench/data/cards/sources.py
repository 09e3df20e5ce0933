"""Where a task's images lie: one schema per layout that is known, told apart by ``kind``."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from compatbench.data.cards.schema import RelativePath
from compatbench.data.cards.yamlfile import CardModel


class DrawingsSource(CardModel):
    """Images painted from the drawings that ship with the mini suite."""

    kind: Literal["drawings"]
    split: RelativePath = Field(description="CSV of split,label,set,tile,paint, relative to tasks/")


class OnDisk(CardModel):
    """Images in a folder of the user's own."""

    folder: RelativePath = Field(description="the dataset's folder, relative to the data root")


class CoopSplitSource(OnDisk):
    """A dataset in CoOp's layout: images, and a split file that lists all of them."""

    kind: Literal["coop-split"]
    split: RelativePath = Field(description="JSON of [path, label, name] by split, in the folder")
    images: RelativePath | None = Field(
        None, description="folder that the split's paths begin at; default: the dataset's own"
    )


class ClassFoldersSource(OnDisk):
    """One folder per split, in it one folder per class.

    Images are listed sorted by name, so that a draw is the same on every machine.
    """

    kind: Literal["class-folders"]
    images: RelativePath | None = Field(
        None, description="folder of the splits' folders; where it is not there, the dataset's own"
    )
    train: RelativePath | None = None
    val: RelativePath | None = None
    test: RelativePath
    numbered: bool = Field(False, description="class folders are called 0, 1, 2, ... by label")


class FgvcSource(OnDisk):
    """FGVC-Aircraft's text files: ``variants.txt`` and ``images_variant_<split>.txt``."""

    kind: Literal["fgvc"]
    images: RelativePath


class TorchvisionSource(OnDisk):
    """A dataset as torchvision has downloaded it; the folder is torchvision's ``root``.

    Only those whose splits are the official ones that CoOp keeps, in whole or at least for
    testing; of the others torchvision has other test images under the same name.
    """

    kind: Literal["torchvision"]
    dataset: Literal["FGVCAircraft", "OxfordIIITPet", "StanfordCars"]


class WebdatasetSource(OnDisk):
    """Tar shards as CLIP_benchmark publishes them: ``<split>/nshards.txt``, ``<split>/0.tar``, ...

    Members are read where they lie in the tar; nothing is ever extracted.
    """

    kind: Literal["webdataset"]
    train: RelativePath | None = None
    val: RelativePath | None = None
    test: RelativePath = "test"


DiskSource = (
    CoopSplitSource | ClassFoldersSource | FgvcSource | TorchvisionSource | WebdatasetSource
)
SourceCard = Annotated[DrawingsSource | DiskSource, Field(discriminator="kind")]
