"""The schemas of cards: tasks, backbones, and suites."""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import (
    Field,
    PositiveFloat,
    PositiveInt,
    ValidationInfo,
    field_validator,
    model_validator,
)

from compatbench.data.cards.names import (
    BackboneName,
    ConfigName,
    Link,
    Name,
    RelativePath,
    split_half,
    written_as,
)
from compatbench.data.cards.shots import MOST_VALIDATION_SHOTS, Seed, Shots
from compatbench.data.cards.sources import ClassFoldersSource, Download, Source
from compatbench.data.cards.yaml_file import CardModel, check_place
from compatbench.data.images.views import View

COPIED = "copied"
"""The transfer that attaches a module untouched; the headline of the benchmark."""

AT_LEAST_ONE = Field(min_length=1)
UpgradePath = tuple[BackboneName, ...]  # a source, followed by its targets
Template = Annotated[str, written_as(r"[^{}]*\{\}[^{}]*", "a prompt with {} for the class, once")]
Split = Literal["train", "val", "test"]
Sha256 = Annotated[str, written_as("[0-9a-f]{64}", "a SHA-256, 64 digits of 0-9a-f")]
Commit = Annotated[str, written_as("[0-9a-f]{40}", "a commit, 40 digits of 0-9a-f")]
Protocol = Literal["few-shot", "base-to-new", "cross-dataset"]


class Descriptions(CardModel):
    """Texts of a task's classes, in a JSON file of class name to list of texts."""

    file: RelativePath  # relative to tasks/; it may hold other classes, too
    form: Literal["sentences", "phrases"] = "sentences"  # phrases follow "NAME, which has"
    source: str  # who wrote them, and how
    licence: str


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
    descriptions: Descriptions | None = None
    source: Annotated[Source, Field(discriminator="kind")]
    counts: dict[Split, PositiveInt]
    least_per_class: dict[Split, PositiveInt] = {}  # images that every class has at least
    licence: str
    homepage: str = ""
    citation: str = ""
    downloads: tuple[Download, ...] = ()  # files that images and split come from
    mirrors: tuple[Link, ...] = ()  # where else the same images are had
    dead_links: tuple[Link, ...] = ()  # addresses that are known not to work

    @field_validator("name")
    @classmethod
    def _is_of_a_whole_task(cls, name: str) -> str:
        if (half := split_half(name)[1]) is not None:
            raise ValueError(f"'{name}' would be the {half} classes of a task; choose another")
        return name

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
        if extra := sorted(shared ^ set(self.namesakes)):
            what = "'namesakes' lists the names that two classes have, and no other"
            raise ValueError(f"{what}: see '{extra[0]}'")
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


class BackboneCard(CardModel):
    """A frozen vision-language model: architecture, weights and lineage.

    Its weights are one of: a file that ships beside the cards (``weights``), a release that
    open_clip knows (``tag``), a file or folder on this machine (``path``), or a repository
    for transformers (``provider: hf`` with ``repository``).
    """

    name: Name
    title: str
    provider: Literal["open_clip", "hf"] = "open_clip"  # the library that builds the model
    config: Name | None = None  # an open_clip model; a folder or repository brings its own
    tag: str | None = None  # open_clip's name of the weights
    repository: str = ""  # where the weights are on the Hugging Face hub
    revision: Commit | None = None  # of it
    hashes: dict[Name, Sha256] = {}  # SHA-256 of its files, by their names
    files: tuple[Name, ...] = ()  # other names that people have the file under
    path: str | None = None  # checkpoint or model folder on this machine
    # safetensors file, relative to tasks/; of a card of one's own, also to the card
    weights: RelativePath | None = None
    # Of the weights file; default: that of the file that is found.
    sha256: Sha256 | None = None
    tokenizer: RelativePath | None = None  # byte-pair merges, in tasks/; default: the model's
    lineage: str = ""  # what the weights were initialised from
    text_from: Name | None = None  # card of the backbone from which the text tower began
    data: str = ""
    licence: str

    @field_validator("path")
    @classmethod
    def _path_may_be_read(cls, path: str | None, info: ValidationInfo) -> str | None:
        if path is None or info.context is None:
            return path
        place = (info.context / Path(path).expanduser()).absolute()
        return check_place(str(place), info.context)

    @model_validator(mode="after")
    def _weights_are_somewhere(self) -> BackboneCard:
        if self.weights is not None and self.sha256 is None:
            raise ValueError("'weights' need their 'sha256'")
        if self.provider == "hf":
            if not self.path and not self.repository:
                raise ValueError("a model of provider hf needs 'repository' or 'path'")
        elif not self.config and not self.path:
            raise ValueError("a model of open_clip needs 'config'")
        elif not (self.weights or self.tag or self.path):
            raise ValueError("the weights need 'tag', 'path' or 'weights'")
        return self


class TrainingCard(CardModel):
    """What a suite decides for every trained method."""

    # Cached augmentations per image, cycled by epoch; 1: the plain view; 'fresh': one per epoch
    # (for a method that has no epochs, the plain view); 'mirror': the plain view mirrored.
    views: PositiveInt | Literal["fresh", "mirror"] = 1
    most_views: PositiveInt | None = None  # at most, whatever a method asks for
    crop_scale: tuple[float, float] = (0.08, 1.0)  # share of the area that a random crop keeps
    flip: bool = True
    # 'randaugment' takes the place of crop and flip (arXiv:1909.13719).
    augmentation: Literal["crop", "randaugment"] = "crop"
    # Validation images per class, at most; never more than shots.
    val_shots: PositiveInt = MOST_VALIDATION_SHOTS
    # What the frozen towers compute in; modules are float32 always.
    precision: Literal["fp32", "tf32", "bf16", "fp16"] = "fp32"
    max_steps: PositiveInt | None = None  # of a fit; its epochs then get fewer and shorter

    def list_views(self, epochs: int) -> list[View]:
        """The views of a training image in a fit of so many epochs, in their order."""
        if self.views == "mirror":
            return [View(mirror=True)]
        count = epochs if self.views == "fresh" else self.views
        count = min(count, self.most_views or count)
        if count == 1:
            return [View()]
        views = (View(number, self.crop_scale, self.flip) for number in range(1, count + 1))
        return [replace(view, augmentation=self.augmentation) for view in views]


class TuningCard(CardModel):
    """How settings are chosen for a suite: the same search for every method.

    ``maintain tune`` fits every rate with every length on the suite's development tasks and
    first source; then further rates, while the best is the first or the last; then, with the
    best of these, every other training.
    """

    rates: Annotated[tuple[PositiveFloat, ...], AT_LEAST_ONE] = (1, 3, 10, 30)  # × the published
    lengths: Annotated[tuple[PositiveFloat, ...], AT_LEAST_ONE] = (1,)  # × the published epochs
    trainings: tuple[dict[str, Any], ...] = ()  # each what differs from the suite's 'training'
    seeds: Annotated[tuple[Seed, ...], AT_LEAST_ONE] = (101, 102)  # a draw each


class SuiteCard(CardModel):
    """A matrix: upgrades × tasks × shots × seeds.

    In YAML, ``upgrades`` is a list of paths, or a mapping from the titles of groups to such
    lists; then means over upgrades are taken within a group, never across.
    """

    name: Name
    title: str
    extends: Name | None = None  # the suite whose fields hold where this one gives none
    note: str = ""  # what a reader of the leaderboard must know first
    likeness: str = ""  # one line: how far its results are like those of other suites
    about: str = ""  # the page that says more, from the folder of leaderboard.md
    # Whether leaderboard.md shows the suite; 'section' shows it under the suite that it extends:
    # the question that it puts, or its ranking where it puts none.
    publish: bool | Literal["section"] = True
    upgrades: Annotated[tuple[UpgradePath, ...], AT_LEAST_ONE]
    groups: dict[str, tuple[UpgradePath, ...]] = {}  # upgrades by group, from 'upgrades'
    tasks: Annotated[tuple[str, ...], AT_LEAST_ONE]
    variants: tuple[str, ...] = ()
    # What modules are trained and tested on: 'few-shot', all classes of a task, and its variants;
    # 'base-to-new', half of its classes, and the other half; 'cross-dataset', ``train_on``, and
    # the tasks with their own class names.
    protocol: Protocol = "few-shot"
    train_on: tuple[str, ...] = ()
    # Those of the tasks on which settings and methods are chosen: rankings are over the others.
    development: tuple[str, ...] = ()
    shots: Annotated[tuple[Shots, ...], AT_LEAST_ONE]
    seeds: Annotated[tuple[Seed, ...], AT_LEAST_ONE]
    # Those of a run that asks for none; by default all. A suite that extends this one has its own.
    run_seeds: tuple[Seed, ...] = ()
    training: TrainingCard = TrainingCard()
    plugins: tuple[Path, ...] = ()  # method files, relative to the suite's; their code is run
    compare: tuple[str, ...] = ("all",)  # what '--methods all' means here
    transfers: Annotated[tuple[str, ...], AT_LEAST_ONE] = (COPIED,)  # unless asked for others
    # Whether modules are also fitted on every target: how much of that does the old one keep?
    retrained: bool = False
    # The command that makes those of its backbones that have no card, with their cards.
    made_by: str = ""
    # Methods that this suite cannot do justice to, each with the reason: measured, but in no rank.
    unranked: dict[Name, str] = {}
    # Of the suite itself: one that extends it has its settings, and says for itself how others
    # are chosen.
    tuning: TuningCard | None = None
    # Settings that differ from a method's recipe; with 'method', a config of that method under
    # a name of its own. 'training' holds what differs from the suite's; 'tasks', by names of
    # tasks, the settings that hold there alone.
    methods: dict[ConfigName, dict[str, Any]] = {}

    @field_validator("upgrades")
    @classmethod
    def _files_may_be_read(
        cls, upgrades: tuple[UpgradePath, ...], info: ValidationInfo
    ) -> tuple[UpgradePath, ...]:
        for name in (name for path in upgrades for name in path):
            place = re.sub("^(local-dir:|hf:|[^@]*(@|$))", "", name)
            # A missing file is reported where it is read; it may be a repository of the hub.
            if place and info.context is not None and Path(place).expanduser().exists():
                check_place(place, info.context)
        return upgrades

    @model_validator(mode="before")
    @classmethod
    def _flatten_groups(cls, values: Any) -> Any:
        upgrades = values.get("upgrades") if isinstance(values, dict) else None
        if not isinstance(upgrades, dict):
            return values
        if not all(isinstance(paths, (list, tuple)) for paths in upgrades.values()):
            raise ValueError("upgrades: a group is a title with a list of upgrades")
        flat = [path for paths in upgrades.values() for path in paths]
        titles = {str(title): paths for title, paths in upgrades.items()}
        return values | {"upgrades": flat, "groups": titles}

    @model_validator(mode="after")
    def _check(self) -> SuiteCard:
        for upgrade in self.upgrades:
            if len(upgrade) < 2:
                raise ValueError(f"upgrade [{', '.join(upgrade)}] has no target backbone")
            if len(set(upgrade)) != len(upgrade):
                raise ValueError(f"upgrade [{', '.join(upgrade)}] names a backbone twice")
        self._check_protocol()
        if self.tuning is not None and not self.development:
            raise ValueError("a suite with 'tuning' must name its development tasks: 'development'")
        group_of: dict[tuple[str, str], str] = {}
        for title, paths in self.groups.items():
            for source, target in ((path[0], target) for path in paths for target in path[1:]):
                if (other := group_of.setdefault((source, target), title)) != title:
                    raise ValueError(
                        f"upgrade {source} → {target} is in two groups: '{other}' and '{title}'"
                    )
        for name, settings in self.methods.items():
            tasks = settings.get("tasks", {})
            if not (isinstance(tasks, dict) and all(isinstance(v, dict) for v in tasks.values())):
                raise ValueError(f"methods.{name}.tasks must hold settings by names of tasks")
            for values in (settings, *tasks.values()):
                if not isinstance(values.get("training", {}), dict):
                    raise ValueError(f"methods.{name}: 'training' must be a mapping")
            if "method" in settings and not isinstance(settings["method"], str):
                raise ValueError(f"methods.{name}.method must be the name of a method")
            if "+" in name and "method" not in settings:
                raise ValueError(f"methods.{name} needs 'method', the method that it sets")
        if self.publish == "section" and self.extends is None:
            raise ValueError("a suite with 'publish: section' must say which suite it extends")
        return self

    def _check_protocol(self) -> None:
        """ValueError if the protocol contradicts the other fields."""
        crossed = self.protocol == "cross-dataset"
        if self.protocol != "few-shot" and self.variants:
            raise ValueError(
                f"protocol '{self.protocol}' has test sets of its own: set 'variants: []'"
            )
        if crossed and not self.train_on:
            raise ValueError("protocol 'cross-dataset' needs 'train_on', the task to learn from")
        if self.train_on and not crossed:
            raise ValueError("only protocol 'cross-dataset' has 'train_on'")

    def lineage(self, name: str) -> tuple[str, ...]:
        """The method that a name means in this suite, and the configs that lead to the name."""
        names = (name,)
        while (base := self.methods.get(names[0], {}).get("method", names[0])) not in names:
            names = (base, *names)
        return names

    def base_method(self, name: str) -> str:
        """The method that a name means in this suite: itself, or that of the config."""
        return self.lineage(name)[0]

    @property
    def configs(self) -> tuple[str, ...]:
        """The named configs of methods, in the order of the file."""
        return tuple(name for name, settings in self.methods.items() if "method" in settings)
