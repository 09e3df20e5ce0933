"""Schemas of cards: tasks, backbones, and suites."""

from __future__ import annotations

import re
from collections import Counter
from itertools import chain
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
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
    Repository,
    split_half,
    written_as,
)
from compatbench.data.cards.shots import MOST_VALIDATION_SHOTS, Seed, Shots
from compatbench.data.cards.sources import ClassFoldersSource, Download, Source
from compatbench.data.cards.yaml_file import CardModel, check_place
from compatbench.data.images.views import View
from compatbench.errors import CompatbenchError

COPIED = "copied"
"""The transfer that attaches a module untouched; the headline of the benchmark."""

MOST_VIEWS = 10_000  # of an image
Views = Annotated[int, Field(ge=1, le=MOST_VIEWS)]
AT_LEAST_ONE = Field(min_length=1)
EACH_ONCE = AfterValidator(lambda values: tuple(dict.fromkeys(values)))
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

    A card with a ``parent`` is a *variant*: a test set with the parent's classes, or some of them.
    No method ever learns from it.
    """

    name: Name
    title: str
    suite_note: str = ""
    parent: Name | None = None
    # In label order, as the split file has them; prompts read _ as a space.
    classes: tuple[str, ...] = ()
    namesakes: tuple[str, ...] = ()  # names that two classes share
    folders: tuple[str, ...] = ()  # one for each class, in label order; default: their names
    subset: tuple[str, ...] = ()  # for a variant: its classes, as the parent's folders
    templates: tuple[Template, ...] = ()
    teacher_template: Template | None = None  # for distilling methods; default: the first template
    descriptions: Descriptions | None = None
    source: Annotated[Source, Field(discriminator="kind")]
    counts: dict[Split, PositiveInt]
    least_per_class: dict[Split, PositiveInt] = {}  # fewest images that any class has
    licence: str
    homepage: str = ""
    citation: str = ""
    downloads: tuple[Download, ...] = ()  # files that contain the images and the split
    mirrors: tuple[Link, ...] = ()  # other addresses of the same images
    dead_links: tuple[Link, ...] = ()  # addresses that no longer work

    @field_validator("name")
    @classmethod
    def _is_of_a_whole_task(cls, name: str) -> str:
        _, half = split_half(name)
        if half is not None:
            raise ValueError(f"'{name}' would be the {half} classes of a task; choose another")
        return name

    @model_validator(mode="after")
    def _check(self) -> TaskCard:
        if self.parent is None:
            self._check_task()
        elif self.classes or self.templates or self.folders or set(self.counts) != {"test"}:
            raise ValueError("a variant inherits classes and templates, and has test images only")
        shared = set()
        for name, number in Counter(self.classes).items():
            if number > 1:
                shared.add(name)
        different = sorted(shared ^ set(self.namesakes))
        if different:
            rule = "'namesakes' lists the names that two classes have, and no other"
            raise ValueError(f"{rule}: see '{different[0]}'")
        for field in ("folders", "subset"):
            folders = getattr(self, field)
            if len(set(folders)) != len(folders):
                raise ValueError(f"'{field}' names a folder twice")
        if self.folders and len(self.folders) != len(self.classes):
            raise ValueError(f"{len(self.folders)} folders for {len(self.classes)} classes")
        if isinstance(self.source, ClassFoldersSource) and shared and not self.folders:
            raise ValueError("classes of the same name need 'folders'")
        return self

    def _check_task(self) -> None:
        """Raise ValueError if a field is missing that only variants lack, or is a variant's."""
        for field in ("classes", "templates"):
            if not getattr(self, field):
                raise ValueError(f"a task without a parent needs '{field}'")
        missing = sorted({"train", "test"} - set(self.counts))
        if missing:
            raise ValueError(f"counts lack {', '.join(missing)}")
        if self.subset:
            raise ValueError("only a variant has a 'subset'")

    @property
    def names(self) -> tuple[str, ...]:
        """Return the class names as prompts write them."""
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
    repository: Repository | Literal[""] = ""  # where the weights are on the Hugging Face hub
    revision: Commit | None = None  # of this repository
    hashes: dict[Name, Sha256] = {}  # SHA-256 of the repository's files, by their names
    files: tuple[Name, ...] = ()  # other names under which people store the file
    path: str | None = None  # checkpoint or model folder on this machine
    # A safetensors file, relative to tasks/; on a user's own card, also relative to the card.
    weights: RelativePath | None = None
    # The hash of the weights file; default: the hash of the file that is found.
    sha256: Sha256 | None = None
    # Byte-pair merges, in tasks/ or beside a user's own card; default: the model's.
    tokenizer: RelativePath | None = None
    lineage: str = ""  # the model from which the weights were initialised
    text_from: Name | None = None  # card of the backbone whose text tower was the start
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
    """The settings of a suite for every trained method."""

    # Cached augmentations per image, cycled by epoch. 1 is the plain view; 'fresh' is one per epoch
    # (the plain view for a method without epochs); 'mirror' is the plain view mirrored.
    views: Views | Literal["fresh", "mirror"] = 1
    most_views: Views | None = None  # the maximum, whatever a method requests
    crop_scale: tuple[float, float] = (0.08, 1.0)  # share of the area that a random crop keeps
    flip: bool = True
    # 'randaugment' replaces crop and flip (arXiv:1909.13719).
    augmentation: Literal["crop", "randaugment"] = "crop"
    # The maximum of validation images per class; there are never more than shots.
    val_shots: PositiveInt = MOST_VALIDATION_SHOTS
    # The precision of the frozen towers; modules are always float32.
    precision: Literal["fp32", "tf32", "bf16", "fp16"] = "fp32"
    max_steps: PositiveInt | None = None  # per fit; its epochs then become fewer and shorter

    def list_views(self, epochs: int) -> list[View]:
        """Return the views of a training image in a fit of so many epochs, in their order."""
        if self.views == "mirror":
            return [View(mirror=True)]
        count = epochs if self.views == "fresh" else self.views
        if self.most_views is not None:
            count = min(count, self.most_views)
        if count > MOST_VIEWS:
            raise CompatbenchError(
                f"{count:,} epochs with a fresh view each: set most_views to {MOST_VIEWS:,} or less"
            )
        if count == 1:
            return [View()]
        views = []
        for number in range(1, count + 1):
            view = View(number, self.crop_scale, self.flip, augmentation=self.augmentation)
            views.append(view)
        return views


class TuningCard(CardModel):
    """The search for a suite's settings: the same for every method.

    ``maintain tune`` fits every rate with every length on the suite's development tasks and first
    source. While the best rate is the first or the last, it tries further rates. With the best of
    these, it then tries every other training.
    """

    rates: Annotated[tuple[PositiveFloat, ...], AT_LEAST_ONE] = (1, 3, 10, 30)  # × the published
    lengths: Annotated[tuple[PositiveFloat, ...], AT_LEAST_ONE] = (1,)  # × the published epochs
    trainings: tuple[dict[str, Any], ...] = ()  # each has the changes to the suite's 'training'
    # Each gives one draw.
    seeds: Annotated[tuple[Seed, ...], AT_LEAST_ONE, EACH_ONCE] = (101, 102)


class SuiteCard(CardModel):
    """A matrix: upgrades × tasks × shots × seeds.

    In YAML, ``upgrades`` is a list of paths, or a mapping from the titles of groups to such lists.
    Means over upgrades are then taken within a group, never across groups.
    """

    name: Name
    title: str
    extends: Name | None = None  # the suite whose fields are the defaults of this one
    note: str = ""  # a line that a reader of the leaderboard must read first
    likeness: str = ""  # one line: how similar its results are to those of other suites
    about: str = ""  # the page with more about it, relative to the folder of leaderboard.md
    # True if leaderboard.md shows the suite. 'section' shows it under the suite that it extends:
    # the question that it asks, or its ranking if it asks none.
    publish: bool | Literal["section"] = True
    upgrades: Annotated[tuple[UpgradePath, ...], AT_LEAST_ONE]
    # Upgrades that are measured with the others and shown on the suite's page, but not on the
    # leaderboard. In YAML as 'upgrades', which then contains them. Not inherited.
    more_upgrades: tuple[UpgradePath, ...] = ()
    groups: dict[str, tuple[UpgradePath, ...]] = {}  # upgrades by group, from both
    tasks: Annotated[tuple[str, ...], AT_LEAST_ONE]
    variants: tuple[str, ...] = ()
    # Training and test sets. 'few-shot' trains on all classes of a task and also tests on its
    # variants; 'base-to-new' trains on half of its classes and also tests on the other half;
    # 'cross-dataset' trains on ``train_on`` and also tests on the tasks with their own class names.
    protocol: Protocol = "few-shot"
    train_on: tuple[str, ...] = ()
    # The tasks on which settings and methods are chosen. Rankings are over the others.
    development: tuple[str, ...] = ()
    shots: Annotated[tuple[Shots, ...], AT_LEAST_ONE, EACH_ONCE]
    seeds: Annotated[tuple[Seed, ...], AT_LEAST_ONE, EACH_ONCE]
    # The seeds of a run that requests none; by default all. Not inherited.
    run_seeds: tuple[Seed, ...] = ()
    training: TrainingCard = TrainingCard()
    plugins: tuple[Path, ...] = ()  # method files, relative to the suite's file; their code is run
    # The methods that '--methods all' selects here.
    compare: Annotated[tuple[str, ...], AT_LEAST_ONE] = ("all",)
    transfers: Annotated[tuple[str, ...], AT_LEAST_ONE] = (COPIED,)  # the default of a run
    # True if modules are also fitted on every target, to compare the old module with them.
    retrained: bool = False
    # The command that makes the backbones without a card, with their cards.
    made_by: str = ""
    # Methods that this suite cannot judge fairly, with the reason: measured, but not ranked.
    unranked: dict[Name, str] = {}
    # Methods whose implausible results a maintainer has looked at, with what was found.
    reviewed: dict[ConfigName, str] = {}
    # Methods whose training magnifies rounding so far that another processor gives other numbers,
    # with how far they differ.
    unstable: dict[ConfigName, str] = {}
    # Not inherited: a suite that extends this one inherits the chosen settings, not the search.
    tuning: TuningCard | None = None
    # Settings that differ from a method's recipe. With 'method', the entry is a config of that
    # method under a new name. 'training' contains the changes to the suite's; 'tasks' contains, by
    # names of tasks, the settings that are valid only there.
    methods: dict[ConfigName, dict[str, Any]] = {}

    @field_validator("upgrades")
    @classmethod
    def _files_may_be_read(
        cls, upgrades: tuple[UpgradePath, ...], info: ValidationInfo
    ) -> tuple[UpgradePath, ...]:
        if info.context is None:
            return upgrades
        for name in chain.from_iterable(upgrades):
            place = re.sub("^(local-dir:|hf:|[^@]*(@|$))", "", name)
            # A missing file is reported where it is read; it may be a repository of the hub.
            if place and Path(place).expanduser().exists():
                check_place(place, info.context)
        return upgrades

    @model_validator(mode="before")
    @classmethod
    def _flatten_groups(cls, values: Any) -> Any:
        if not isinstance(values, dict):
            return values
        values = dict(values)
        groups: dict[str, Any] = {}
        for field in ("upgrades", "more_upgrades"):
            paths_by_title = values.get(field)
            if isinstance(paths_by_title, dict):
                groups |= _check_group_lists(field, paths_by_title)
                values[field] = list(chain.from_iterable(paths_by_title.values()))
        if groups:
            values["groups"] = groups
        upgrades = values.get("upgrades")
        more = values.get("more_upgrades")
        if isinstance(upgrades, (list, tuple)) and isinstance(more, (list, tuple)):
            values["upgrades"] = [*upgrades, *(path for path in more if path not in upgrades)]
        return values

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
        self._check_groups()
        for name, settings in self.methods.items():
            _check_method_settings(name, settings)
        if self.publish == "section" and self.extends is None:
            raise ValueError("a suite with 'publish: section' must say which suite it extends")
        return self

    def _check_groups(self) -> None:
        """Raise ValueError if an upgrade is in two groups."""
        groups: dict[tuple[str, str], str] = {}
        for title, paths in self.groups.items():
            for source, *targets in paths:
                for target in targets:
                    other = groups.setdefault((source, target), title)
                    if other != title:
                        raise ValueError(
                            f"upgrade {source} → {target} is in two groups: '{other}' and '{title}'"
                        )

    def _check_protocol(self) -> None:
        """Raise ValueError if the protocol contradicts the other fields."""
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
        """Return the method of a name in this suite, then the configs that lead to the name."""
        names = [name]
        while True:
            settings = self.methods.get(names[0], {})
            base = settings.get("method", names[0])
            if base in names:  # a method itself, or configs that refer to each other
                return tuple(names)
            names.insert(0, base)

    def base_method(self, name: str) -> str:
        """Return the method of a name in this suite: the name itself, or the config's method."""
        return self.lineage(name)[0]

    @property
    def configs(self) -> tuple[str, ...]:
        """Return the named configs of methods, in the order of the file."""
        return tuple(name for name, settings in self.methods.items() if "method" in settings)


def _check_group_lists(field: str, paths_by_title: dict[Any, Any]) -> dict[str, Any]:
    """Return the upgrades of a field by group; raise ValueError if a group is no list."""
    groups = {}
    for title, paths in paths_by_title.items():
        if not isinstance(paths, (list, tuple)):
            raise ValueError(f"{field}: a group is a title with a list of upgrades")
        groups[str(title)] = paths
    return groups


def _check_method_settings(name: str, settings: dict[str, Any]) -> None:
    """Raise ValueError if the settings of a method in a suite do not have the right form."""
    tasks = settings.get("tasks", {})
    if not isinstance(tasks, dict) or not all(isinstance(each, dict) for each in tasks.values()):
        raise ValueError(f"methods.{name}.tasks must hold settings by names of tasks")
    for values in (settings, *tasks.values()):
        if not isinstance(values.get("training", {}), dict):
            raise ValueError(f"methods.{name}: 'training' must be a mapping")
    if "method" in settings and not isinstance(settings["method"], str):
        raise ValueError(f"methods.{name}.method must be the name of a method")
    if "+" in name and "method" not in settings:
        raise ValueError(f"methods.{name} needs 'method', the method that it sets")
