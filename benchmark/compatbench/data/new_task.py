"""Makes the cards of a task, and of a suite that asks about an upgrade on it, from images."""

from __future__ import annotations

import os
import random
import re
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml
from pydantic import ValidationError

from compatbench.data.cards import SuiteCard, TaskCard, backbone_cards, suite_cards, task_cards
from compatbench.data.cards.names import IMAGES_PATH, NAME
from compatbench.data.cards.own_cards import ENDINGS
from compatbench.data.dataset_folders import variable_of
from compatbench.data.images.source import SPLITS
from compatbench.data.labels import Labels
from compatbench.data.layouts.containers import RowImage
from compatbench.data.layouts.listing import Classes, open_images
from compatbench.data.layouts.recognise import scan
from compatbench.data.new_task_choices import choose_shots, name_classes, natural, split_images
from compatbench.data.task import Task
from compatbench.errors import CompatbenchError
from compatbench.files.atomic import open_atomic
from compatbench.files.hashes import sha256_bytes
from compatbench.files.project_folders import add_own_place
from compatbench.messages import count, first_problem
from compatbench.plugins import load

if TYPE_CHECKING:
    import pandas as pd

TEMPLATES = ("a photo of a {}.", "a picture of a {}.", "this is a {}.")
LICENCE = "not stated: images of one's own"
DECODED = 2000  # images are decoded at most, drawn at random


@dataclass(frozen=True)
class NewTask:
    """The cards that were made, and what is in them."""

    card: Path
    suite: Path
    task: TaskCard
    folder: Path  # of the images, which stay where they are
    kind: str  # what was found there, in words
    images: dict[str, Counter[int]]  # by split, of each label
    decoded: int  # images that were decoded to see whether they can be
    shots: int
    notes: tuple[str, ...]  # what a user should know, a line each
    data_root: str  # what ``--data-root`` needs; empty if the card says where the images are

    @property
    def frame(self) -> pd.DataFrame:
        """A row per class: ``class``, and its images by split."""
        import pandas as pd

        frame = pd.DataFrame({split: pd.Series(n) for split, n in self.images.items() if n})
        frame = frame.reindex(range(len(self.task.classes)), fill_value=0).fillna(0).astype(int)
        frame.insert(0, "class", self.task.names)
        return frame

    def __repr__(self) -> str:
        total = sum(images.total() for images in self.images.values())
        return f"<NewTask '{self.task.name}': {len(self.task.classes)} classes, {total:,} images>"


def new_task(
    folder: str | Path,
    name: str | None = None,
    *,
    source: str = "mini-clip",
    target: str | Sequence[str] = "mini-eva-clip",
    shots: int | None = None,
    seed: int = 1,
    test_share: float = 0.5,
    template: Sequence[str] | None = None,
    class_names: str | Path | None = None,
    out: str | Path = ".",
    replace: bool = False,
    progress: Callable[[str], object] = lambda _: None,
) -> NewTask:
    """Makes a task of your own images, and a suite that measures an upgrade on it.

    The images are read where they lie, and nothing of them is copied: the cards ``<name>.yaml`` and
    ``<name>-upgrade.yaml`` and the list ``<name>.csv`` are all that is written. Nothing is written
    if there is an error.

    Args:
        folder: class folders, below folders of splits or not; or a list (CSV, TSV) with columns
            such as ``path`` and ``label``, perhaps ``split``; tar shards of a webdataset, or
            parquet files of the Hub's kind (``image``, ``label``). A folder, or one such file.
        name: the task's name; by default the folder's.
        source: the old model: a name (see ``list backbones``), or ``MODEL/TAG`` of open_clip.
        target: the new model, likewise; of several, a list with commas, the suite has an upgrade
            to each.
        shots: training images of every class; by default 16, or 8, 4, 2, 1 if a class has fewer.
        seed: seed of the split, where there is no test split.
        test_share: share of each class that is then drawn for testing, above 0 and below 1.
        template: prompts with ``{}`` for the class; the first is the zero-shot one. By default
            those that CLIP_benchmark keeps beside its shards, or three plain ones.
        class_names: file of natural names, a line for each class in the order of its labels (of
            folders: sorted); by default what folders or labels are called, with spaces for ``_``.
        out: the folder for the cards.
        replace: replace cards and list of this name.
        progress: is called with what is being done.

    Returns:
        The paths of both cards, the task's card, and the counts by class (``frame``).

    Raises:
        CompatbenchError: nothing that can be learned from: no image, one class, a class without
            training or test images or with fewer than ``shots``, damaged images, names that are
            taken. Nothing is written then.
    """
    if not 0 < test_share < 1:
        raise CompatbenchError(f"a share of {test_share} for testing: give one between 0 and 1")
    progress("looking for images")
    place = Path(folder).expanduser().absolute()
    name = _choose_name(name, place)
    paths = _choose_files(name, Path(out).expanduser().absolute(), replace)
    listing = scan(place, paths["list"])
    classes = name_classes(listing, class_names)
    listing.frame = split_images(listing, seed, test_share)
    shots = choose_shots(listing, classes, shots)
    counts = Counter(listing.frame["split"])
    labels, titles = tuple(classes), tuple(classes.values())
    images, where = Path(os.path.realpath(listing.folder)), paths["task"].parent
    below = os.path.relpath(images, os.path.realpath(where)).replace(os.sep, "/")
    if away := below.startswith("..") or not re.fullmatch(IMAGES_PATH, below):
        below = name
    values: dict[str, Any] = {
        "name": name,
        "title": natural(name).capitalize(),
        "classes": [*titles],
        **({"folders": [*labels]} if labels != titles else {}),
        "templates": [*(template or listing.templates or TEMPLATES)],
        "source": {"kind": "table", "folder": below, "file": paths["list"].name},
        "counts": {split: counts[split] for split in SPLITS if counts[split]},
        "licence": LICENCE,
    }
    card = _check(TaskCard, values, paths["task"])
    targets = dict.fromkeys(map(_backbone, backbone_cards.resolve_all(target)))
    suite = _make_suite(card, [[_backbone(source), each] for each in targets], shots)
    _check(SuiteCard, suite_cards.read(suite["extends"]).model_dump() | suite, paths["suite"])
    opened = open_images(listing, Classes(name, card.names, labels, labels))
    task = Task(card, Labels(card.names, card.templates, card.templates[0]), opened)
    decoded = _decode(task, seed, progress)
    listing.notes += _find_twins(task, seed)
    rows = listing.frame.to_csv(index=False, lineterminator="\n")
    _write({paths["suite"]: _dump(suite), paths["task"]: _dump(values), paths["list"]: rows})
    # What was made is found by name, in this process and its workers.
    add_own_place(where)
    if away:
        os.environ[variable_of(name)] = str(images)
    return NewTask(
        paths["task"],
        paths["suite"],
        card,
        images,
        listing.kind,
        {s: Counter(sample.label for sample in task.source.samples[s]) for s in SPLITS},
        decoded,
        shots,
        tuple(listing.notes),
        f"{name}={images}" if away else "",
    )


def _choose_name(wanted: str | None, place: Path) -> str:
    folder = Path(os.path.realpath(place.parent if place.is_file() else place)).name
    name = wanted or re.sub(r"[^a-z0-9_.-]+", "-", folder.lower()).strip("-._")
    if not re.fullmatch(NAME, name) or name.endswith(ENDINGS):
        raise CompatbenchError(
            f"'{wanted or place}' cannot be a task's name; give one of letters, digits, '-', '_' "
            "and '.': --name my-photos"
        )
    return name


def _choose_files(name: str, out: Path, replace: bool) -> dict[str, Path]:
    """Where the cards and the list go; refused if they are there, or their names are taken."""
    paths = {"list": f"{name}.csv", "task": f"{name}.yaml", "suite": f"{name}-upgrade.yaml"}
    files = {kind: out / file for kind, file in paths.items()}
    for kind, catalog in (("task", task_cards), ("suite", suite_cards)):
        taken = files[kind].stem
        if taken in catalog.names():
            path = catalog.path(taken)
            if os.path.realpath(path) != os.path.realpath(files[kind]):
                raise CompatbenchError(
                    f"a {kind} is named '{taken}' already, {path}; choose another name: --name"
                )
    for path in files.values():
        if os.path.lexists(path) and not replace:
            raise CompatbenchError(
                f"{path} exists; choose another name (--name), or replace it (--replace)"
            )
    return files


def _backbone(name: str) -> str:
    """The name of a backbone that there is; its weights need not be here."""
    name = backbone_cards.resolve(name)
    if any(mark in name for mark in "/@:"):  # open_clip knows, which takes a second to load
        load("compatbench.backbone.load.names:read_backbone")(name)
    else:
        backbone_cards.path(name)
    return name


def _make_suite(card: TaskCard, upgrades: list[list[str]], shots: int) -> dict[str, Any]:
    """The suite's fields: upgrades on the task, with the settings of 'mini' or of 'paper'."""
    source, *_ = upgrades[0]
    to = ", ".join(target for _, target in upgrades)
    ships = source in backbone_cards.builtin_names() and backbone_cards.read(source).weights
    return {
        "name": f"{card.name}-upgrade",
        "title": f"{card.title}: {source} → {to}",
        "extends": "mini" if ships else "paper",
        "note": "The backbones are miniature models; see docs/mini-suite.md." if ships else "",
        "upgrades": upgrades,
        "tasks": [card.name],
        "variants": [],
        "shots": [shots],
        **({} if ships else {"retrained": False}),
    }


def _check(model: type[TaskCard] | type[SuiteCard], values: dict[str, Any], path: Path) -> Any:
    try:
        return model.model_validate(values, context=path.parent)
    except ValidationError as error:
        field, message = first_problem(error)
        raise CompatbenchError(f"{path} cannot be made: field '{field}': {message}") from None


def _decode(task: Task, seed: int, progress: Callable[[str], object]) -> int:
    """Decodes images, all or a part drawn at random; an error counts those that fail."""
    task.source.check_files()
    samples = _draw([sample for split in SPLITS for sample in task.source.samples[split]], seed)
    broken = task.source.find_broken(
        samples, lambda done, total: progress(f"decoding images, {done:,} of {total:,}")
    )
    if broken:
        more = f"; and {len(broken) - 1:,} more of {len(samples):,}" if len(broken) > 1 else ""
        raise CompatbenchError(f"{broken[0]}, or remove it{more}")
    return len(samples)


def _draw(samples: Sequence[Any], seed: int) -> Sequence[Any]:
    """The images, or as many of them as are decoded, in their order, which parquet files like."""
    if len(samples) <= DECODED:
        return samples
    return [samples[i] for i in sorted(random.Random(seed).sample(range(len(samples)), DECODED))]


def _find_twins(task: Task, seed: int) -> list[str]:
    """Notes of test images that are training images, too: byte for byte, of those drawn."""
    samples = task.source.samples
    tested, trained = _draw(samples["test"], seed), [*samples["train"], *samples["val"]]
    if in_rows := any(isinstance(sample, RowImage) for sample in tested):
        trained = _draw(trained, seed)  # of which nothing but their content says how large each is

    def size(sample: Any) -> int:
        return 0 if in_rows else task.source.size(sample)

    shared = {*map(size, tested)} & {*map(size, trained)}

    def read(samples: Sequence[Any]) -> Iterator[tuple[str, Any]]:
        alike = (sample for sample in samples if size(sample) in shared)
        return ((sha256_bytes(task.source.content(sample)), sample) for sample in alike)

    known = dict(read(trained))
    twins = [(sample, known[digest]) for digest, sample in read(tested) if digest in known]
    if not twins:
        return []
    what = f"of {count(len(tested), 'test image')}, {len(twins):,} are in training, too, which"
    pair = f"{twins[0][0].id} is {twins[0][1].id}"
    return [f"{what} flatters every module ({pair}); remove them"]


def _dump(values: dict[str, Any]) -> str:
    return yaml.safe_dump(values, sort_keys=False, allow_unicode=True, width=100)


def _write(texts: dict[Path, str]) -> None:
    """Writes all files, or none: they take their places, the last first, when all are written."""
    with ExitStack() as files:
        for path, text in texts.items():
            file = files.enter_context(open_atomic(path))
            file.write(text.encode())
            file.flush()  # a full disk is told before any of them has its name
