"""The schema of task cards, and of the layouts in which their images are stored."""

from __future__ import annotations

from collections import Counter
from typing import Annotated, Literal

from pydantic import Field, PositiveInt, StringConstraints, model_validator

from compatbench.data.cards.names import Name, RelativePath
from compatbench.data.cards.yaml_file import CardModel

Template = Annotated[str, StringConstraints(pattern=r"^[^{}]*\{\}[^{}]*$")]
Link = Annotated[str, StringConstraints(pattern=r"^https?://\S+$")]
Split = Literal["train", "val", "test"]


class DrawingsSource(CardModel):
    """Images painted from the drawings that ship with the mini suite."""

    kind: Literal["drawings"]
    split: RelativePath  # CSV of split,label,set,tile,paint, relative to tasks/


class OnDisk(CardModel):
    """Images in a folder of the user's own, relative to the data root."""

    folder: RelativePath


class CoopSplitSource(OnDisk):
    """A dataset in CoOp's layout: images, and a split file that lists all of them."""

    kind: Literal["coop-split"]
    split: RelativePath  # JSON of [path, label, name] by split, in the folder
    images: RelativePath = "."  # where the split's paths begin


class ClassFoldersSource(OnDisk):
    """One folder per split, in it one folder per class, the images sorted by name."""

    kind: Literal["class-folders"]
    images: RelativePath = "."  # around the splits' folders; passed over where it is not there
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


Source = DrawingsSource | CoopSplitSource | ClassFoldersSource | FgvcSource | WebdatasetSource


class TaskCard(CardModel):
    """A dataset: class names, prompt templates, splits, source of the images, licence.

    A card with a ``parent`` is a *variant*: a test set with the parent's classes, or some
    of them, from which nothing is ever learned.
    """

    name: Name
    title: str
    suite_note: str = ""
    parent: Name | None = None
    # In label order, as the split file has them; prompts read _ as a space.
    classes: tuple[str, ...] = ()
    namesakes: tuple[str, ...] = ()  # names that two classes share
    folders: tuple[str, ...] = ()  # of the classes, in label order; default: their names
    subset: tuple[str, ...] = ()  # of a variant: its classes, by the parent's folders
    templates: tuple[Template, ...] = ()
    teacher_template: Template | None = None  # of distilling methods; default: the first template
    source: Annotated[Source, Field(discriminator="kind")]
    counts: dict[Split, PositiveInt]
    least_per_class: dict[Split, PositiveInt] = {}  # images that every class has at least
    licence: str
    homepage: str = ""
    citation: str = ""
    downloads: tuple[Link, ...] = ()  # where images and split file are had
    mirrors: tuple[Link, ...] = ()  # where else the same images are had
    dead_links: tuple[Link, ...] = ()  # addresses that are known not to work

    @model_validator(mode="after")
    def _check(self) -> TaskCard:
        if self.parent is None:
            for field in ("classes", "templates"):
                if not getattr(self, field):
                    raise ValueError(f"a task without a parent needs '{field}'")
            if missing := {"train", "test"} - set(self.counts):
                raise ValueError(f"counts lack {', '.join(sorted(missing))}")
            if self.subset:
                raise ValueError("only a variant has a 'subset'")
        elif self.classes or self.templates or self.folders or set(self.counts) != {"test"}:
            raise ValueError("a variant inherits classes and templates, and has test images only")
        shared = {name for name, count in Counter(self.classes).items() if count > 1}
        if extra := sorted(shared - set(self.namesakes)):
            raise ValueError(
                f"two classes have the same name, '{extra[0]}'; list it in 'namesakes' if it is so"
            )
        if extra := sorted(set(self.namesakes) - shared):
            raise ValueError(f"'{extra[0]}' of 'namesakes' is not the name of two classes")
        for field in ("folders", "subset"):
            if len(set(values := getattr(self, field))) != len(values):
                raise ValueError(f"'{field}' names a folder twice")
        if self.folders and len(self.folders) != len(self.classes):
            raise ValueError(f"{len(self.folders)} folders for {len(self.classes)} classes")
        if isinstance(self.source, ClassFoldersSource) and shared and not self.folders:
            raise ValueError("classes of the same name need 'folders'")
        return self

    @property
    def names(self) -> tuple[str, ...]:
        """The class names as prompts write them."""
        return tuple(name.replace("_", " ") for name in self.classes)
