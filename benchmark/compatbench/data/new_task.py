"""``new-task``: make the cards of a task, and of a suite for an upgrade on it, from images."""

from __future__ import annotations

import os
import random
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from copy import copy
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from PIL import Image
from pydantic import ValidationError

from compatbench.data.cards import SuiteCard, TaskCard, backbone_cards, suite_cards, task_cards
from compatbench.data.cards.names import IMAGES_PATH, NAME
from compatbench.data.cards.own_cards import ENDINGS
from compatbench.data.dataset_folders import variable_of
from compatbench.data.images.dataset_files import read_lines
from compatbench.data.images.duplicates import Pixels, find_pairs, shrink
from compatbench.data.images.source import SPLITS
from compatbench.data.labels import Labels
from compatbench.data.layouts.containers import RowImage
from compatbench.data.layouts.listing import Classes, Listing, open_images
from compatbench.data.layouts.recognise import scan
from compatbench.data.new_task_choices import (
    HALF,
    choose_shots,
    lacks_tests,
    move_unused,
    name_classes,
    natural,
    split_images,
)
from compatbench.data.task import Task
from compatbench.errors import CompatbenchError
from compatbench.files.atomic import open_atomic
from compatbench.files.hashes import sha256_bytes
from compatbench.files.project_folders import add_own_place
from compatbench.files.yaml_text import dump_yaml
from compatbench.messages import count, first_problem, is_or_are
from compatbench.plugins import load

if TYPE_CHECKING:
    import pandas as pd

TEMPLATES = ("a photo of a {}.", "a picture of a {}.", "this is a {}.")
LICENCE = "not stated: images of one's own"
_FORMULA = re.compile(r"[=+@]|-(?![0-9]+$)")  # a negative number is none
DECODED = 2000  # at most so many images, drawn at random, are decoded
MOST_HASHED = 100_000  # of more images only the names and sizes are in keys, as reading takes long
MOST_SHOWN = 3  # images of a note or an error


@dataclass(frozen=True)
class NewTask:
    """The cards that were made, and their content.

    It is accepted wherever the name of a task is.
    """

    card: Path
    suite: Path
    task: TaskCard
    folder: Path  # of the images, which stay where they are
    kind: str  # of the layout that was found there, in words
    images: dict[str, Counter[int]]  # numbers of images, by split and label
    decoded: int  # images that were decoded as a check
    shots: int
    notes: tuple[str, ...]  # facts that a user should know, a line each
    problems: tuple[str, ...]  # those of the notes that say what is wrong with images
    data_root: str  # the value for ``--data-root``; empty if the card contains the place

    @property
    def frame(self) -> pd.DataFrame:
        """Return a row per class: ``class``, and its images by split."""
        import pandas as pd

        columns = {}
        for split, counts in self.images.items():
            if counts:
                columns[split] = pd.Series(counts)
        labels = range(len(self.task.classes))
        frame = pd.DataFrame(columns).reindex(labels, fill_value=0)
        frame = frame.fillna(0).astype(int)  # a class may be in one split only
        frame.insert(0, "class", self.task.names)
        return frame

    def __fspath__(self) -> str:
        """Return the path of the card, which is accepted wherever the name of a task is."""
        return str(self.card)

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
    test_share: float | None = None,
    template: Sequence[str] | None = None,
    class_names: str | Path | None = None,
    skip_broken: bool = False,
    out: str | Path = ".",
    replace: bool = False,
    progress: Callable[[str], object] = lambda _: None,
) -> NewTask:
    """Make a task of your own images, and a suite that measures an upgrade on it.

    Images are not copied. Only the cards ``<name>.yaml`` and ``<name>-upgrade.yaml`` and the list
    ``<name>.csv`` are written, and nothing at all if there is an error.

    Args:
        folder: a folder or one file. It may have class folders, perhaps below folders of splits;
            a list (CSV, TSV) with columns such as ``path``, ``label`` and perhaps ``split``; tar
            shards of a webdataset; or parquet files as on the Hub (``image``, ``label``).
        name: the task's name; by default the folder's.
        source: the old model: a name (see ``list backbones``), or ``MODEL/TAG`` of open_clip.
        target: the new model, likewise. It may be several, with commas between them; the suite
            then has an upgrade to each.
        shots: training images per class, where a class has so many; by default the most of 16, 8,
            4, 2 and 1 that a third of the classes have, with some left for validation.
        seed: seed of the split, if there is no test split.
        test_share: share of each class that is then drawn for testing, above 0 and below 1. By
            default, every image that no module learns from is tested, and at least half of each
            class.
        template: prompts with ``{}`` for the class; the first is the zero-shot one. The default
            are the prompts that CLIP_benchmark keeps beside its shards, or three plain ones.
        class_names: file of natural names, a line for each class in the order of its labels (of
            folders: sorted); by default the names of folders or labels, with spaces for ``_``.
        skip_broken: leave out images that cannot be read, and list them in ``<name>-broken.txt``.
            All images are decoded then.
        out: the folder for the cards.
        replace: replace cards and list of this name.
        progress: called with the current step.

    Returns:
        The paths of both cards, the task's card, and the counts by class (``frame``).

    Raises:
        CompatbenchError: nothing can be learned from the images (no image, one class, a class
            without training or test images or with fewer than ``shots``, damaged images), or the
            names are taken.
    """
    share = HALF if test_share is None else test_share
    if not 0 < share < 1:
        raise CompatbenchError(f"a share of {share} for testing: give one between 0 and 1")
    progress("looking for images")
    place = Path(folder).expanduser().absolute()
    name = name_task(name, place)
    paths = _choose_files(name, Path(out).expanduser().absolute(), replace)
    listing = scan(place, paths["list"])
    _check_cells(listing)
    broken = _drop_broken(listing, progress) if skip_broken else {}
    classes = name_classes(listing, class_names)
    is_drawn = lacks_tests(listing)
    listing.frame = split_images(listing, seed, share)
    shots = choose_shots(listing, classes, shots)
    if is_drawn and test_share is None:
        listing.frame = move_unused(listing.frame, seed, shots)
    if is_drawn:
        listing.notes.append(_describe_draw(listing, seed))
    labels = tuple(classes)
    titles = tuple(classes.values())
    images = Path(os.path.realpath(listing.folder))
    card_folder = paths["task"].parent
    below = os.path.relpath(images, os.path.realpath(card_folder)).replace(os.sep, "/")
    # A card can only name a folder below its own. Elsewhere, a data root leads to the images.
    is_elsewhere = below.startswith("..") or not re.fullmatch(IMAGES_PATH, below)
    if is_elsewhere:
        below = name
    # The order of the fields is that of the file.
    values: dict[str, Any] = {"name": name, "title": natural(name).capitalize()}
    values["classes"] = [*titles]
    if labels != titles:
        values["folders"] = [*labels]
    values["templates"] = [*(template or listing.templates or TEMPLATES)]
    file = paths["list"].name
    values["source"] = {"kind": "table", "folder": below, "file": file, "upright": True}
    values["source"]["hashed"] = len(listing.frame) <= MOST_HASHED
    counts = Counter(listing.frame["split"])
    values["counts"] = {}
    for split in SPLITS:
        if counts[split]:
            values["counts"][split] = counts[split]
    values["licence"] = LICENCE
    card = _check(TaskCard, values, paths["task"])
    targets = dict.fromkeys(map(_backbone, backbone_cards.resolve_all(target)))
    suite = _make_suite(card, [[_backbone(source), each] for each in targets], shots)
    base = suite_cards.read(suite["extends"]).model_dump()
    _check(SuiteCard, base | suite, paths["suite"])
    opened = open_images(listing, Classes(name, card.names, labels, labels))
    task = Task(card, Labels(card.names, card.templates, card.templates[0]), opened)
    pixels = _decode(task, seed, progress)
    listing.problems += _note_copies(task, seed, pixels)
    rows = listing.frame.to_csv(index=False, lineterminator="\n")
    suite_text = dump_yaml(suite, width=100)
    task_text = dump_yaml(values, width=100)
    texts = {paths["suite"]: suite_text, paths["task"]: task_text, paths["list"]: rows}
    if broken:
        broken_list = list_of_broken(paths["task"])
        texts[broken_list] = "".join(f"{path}\t{problem}\n" for path, problem in broken.items())
        problem = f"{_some(broken)} cannot be read and {is_or_are(len(broken))} left out: "
        problem += broken_list.name
        listing.problems.append(problem)
    _write(texts)
    if replace and not broken:
        list_of_broken(paths["task"]).unlink(missing_ok=True)  # that of the cards before
    # The new cards are found by name, in this process and its workers.
    add_own_place(card_folder)
    data_root = ""
    if is_elsewhere:
        os.environ[variable_of(name)] = str(images)
        data_root = f"{name}={images}"
    images_by_label = {}
    for split in SPLITS:
        images_by_label[split] = Counter(sample.label for sample in task.source.samples[split])
    return NewTask(
        card=paths["task"],
        suite=paths["suite"],
        task=card,
        folder=images,
        kind=listing.kind,
        images=images_by_label,
        decoded=len(pixels),
        shots=shots,
        notes=(*listing.notes, *listing.problems),
        problems=tuple(listing.problems),
        data_root=data_root,
    )


def name_task(requested: str | None, place: Path) -> str:
    """Return the requested name of the task, or else one made of the folder's name."""
    name = requested
    if not name:
        folder = place.parent if place.is_file() else place
        folder_name = Path(os.path.realpath(folder)).name
        name = re.sub(r"[^a-z0-9_.-]+", "-", folder_name.lower()).strip("-._")
    if not re.fullmatch(NAME, name) or name.endswith(ENDINGS):
        raise CompatbenchError(
            f"'{requested or place}' cannot be a task's name; give one of letters, digits, '-', "
            "'_' and '.': --name my-photos"
        )
    return name


def _describe_draw(listing: Listing, seed: int) -> str:
    """Return how many images were drawn for testing, in a line."""
    tested = int((listing.frame["split"] == "test").sum())
    total = count(len(listing.frame), "image")
    return f"no test split: {tested:,} of {total} drawn for testing, seed {seed}"


def _check_cells(listing: Listing) -> None:
    """Raise an error for a path or label that a spreadsheet would take for a formula."""
    for column in ("path", "label"):
        for text in listing.frame[column].unique():
            if _FORMULA.match(str(text)):
                raise CompatbenchError(
                    f"{listing.folder}: {column} {text!r} begins with '{str(text)[0]}', as a "
                    "spreadsheet's formula does; rename it"
                )


def _choose_files(name: str, out: Path, replace: bool) -> dict[str, Path]:
    """Return the paths of the cards and the list; raise an error if they or their names exist."""
    files = {
        "list": out / f"{name}.csv",
        "task": out / f"{name}.yaml",
        "suite": out / f"{name}-upgrade.yaml",
    }
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
    """Return the name of an existing backbone; its weights need not be on this machine."""
    name = backbone_cards.resolve(name)
    if any(mark in name for mark in "/@:"):
        # Only open_clip knows these names, and it takes a second to load.
        load("compatbench.backbone.load.backbone_names:read_backbone")(name)
    else:
        backbone_cards.path(name)
    return name


def is_miniature(backbone: str) -> bool:
    """Return True for a model whose weights ship with the project."""
    if backbone not in backbone_cards.builtin_names():
        return False
    return bool(backbone_cards.read(backbone).weights)


def _make_suite(card: TaskCard, upgrades: list[list[str]], shots: int) -> dict[str, Any]:
    """Return the suite's fields: upgrades on the task, with the settings of 'mini' or 'paper'."""
    source = upgrades[0][0]
    targets = ", ".join(target for _, target in upgrades)
    is_mini = is_miniature(source)
    note = "The backbones are miniature models; see docs/mini-suite.md." if is_mini else ""
    fields: dict[str, Any] = {
        "name": f"{card.name}-upgrade",
        "title": f"{card.title}: {source} → {targets}",
        "extends": "mini" if is_mini else "paper",
        "note": note,
        "upgrades": upgrades,
        "tasks": [card.name],
        "variants": [],
        "shots": [shots],
    }
    if not is_mini:
        fields["retrained"] = False  # unlike "paper", do not also fit on every target
    return fields


def _check(model: type[TaskCard] | type[SuiteCard], values: dict[str, Any], path: Path) -> Any:
    """Return the card with these values; an error names the file that it would be in."""
    try:
        return model.model_validate(values, context=path.parent)
    except ValidationError as error:
        field, message = first_problem(error)
        raise CompatbenchError(f"{path} cannot be made: field '{field}': {message}") from None


def list_of_broken(card: Path) -> Path:
    """Return the path of the list of images that a task leaves out: path, tab, problem."""
    return card.with_name(f"{card.stem}-broken.txt")


def read_broken(card: Path) -> set[str]:
    """Return the paths of the images that a task leaves out, because they cannot be read."""
    path = list_of_broken(card)
    if not path.is_file():
        return set()
    return {line.partition("\t")[0] for line in read_lines(path)}


def _drop_broken(listing: Listing, progress: Callable[[str], object]) -> dict[str, str]:
    """Decode all images and drop those that fail from the listing. Return their problems by path.

    Raises:
        CompatbenchError: no image can be read.
    """
    frame = listing.frame
    # Neither classes nor splits matter here.
    everything = copy(listing)
    everything.frame = frame.assign(label=None, split="train")
    source = open_images(everything, Classes("", (), (), ()))
    broken = source.find_broken(progress=_show_decoding(progress))
    listing.frame = frame[~frame["path"].isin(broken)]
    if listing.frame.empty:
        raise CompatbenchError(f"{next(iter(broken.values()))}; and no other image can be read")
    return broken


def _show_decoding(progress: Callable[[str], object]) -> Callable[[int, int], object]:
    def show(done: int, total: int) -> None:
        progress(f"decoding images, {done:,} of {total:,}")

    return show


def _some(names: Iterable[str]) -> str:
    """Return how many images these are, with the first three: ``4 images (a, b, c ...)``."""
    listed = [*names]
    more = " ..." if len(listed) > MOST_SHOWN else ""
    return f"{count(len(listed), 'image')} ({', '.join(listed[:MOST_SHOWN])}{more})"


def _decode(task: Task, seed: int, progress: Callable[[str], object]) -> dict[str, Pixels]:
    """Decode images, all or some drawn at random, and return them as few pixels, by their ids.

    Raises:
        CompatbenchError: images cannot be decoded; it counts them and names the first ones.
    """
    task.source.check_files()
    all_samples: list[Any] = []
    for split in SPLITS:
        all_samples += task.source.samples[split]
    samples = _draw(all_samples, seed)
    pixels: dict[str, Pixels] = {}

    def look(sample: Any, image: Image.Image) -> None:
        pixels[sample.id] = shrink(image)

    broken = task.source.find_broken(samples, _show_decoding(progress), look)
    if broken:
        first = next(iter(broken.values()))
        more = ""
        if len(broken) > 1:
            more = f"; of {len(samples):,} images, these cannot be read: {_some(broken)}"
        raise CompatbenchError(f"{first}, or remove it{more}; --skip-broken leaves them out")
    return {sample.id: pixels[sample.id] for sample in samples}  # threads end in any order


def _draw(samples: Sequence[Any], seed: int) -> Sequence[Any]:
    """Return at most ``DECODED`` images, drawn at random, in their order (parquet needs it)."""
    if len(samples) <= DECODED:
        return samples
    drawn = random.Random(seed).sample(range(len(samples)), DECODED)
    return [samples[i] for i in sorted(drawn)]


def _note_copies(task: Task, seed: int, pixels: Mapping[str, Pixels]) -> list[str]:
    """Return notes on test images that are in training, too, and on images under two labels.

    Images that were saved again are found among those that were decoded, and files that are equal
    byte for byte among the drawn test images and all training images (of rows, the drawn ones).
    """
    samples = task.source.samples
    labels = {}
    tested = set()
    for split in SPLITS:
        for sample in samples[split]:
            labels[sample.id] = sample.label
            if split == "test":
                tested.add(sample.id)
    pairs = dict.fromkeys(_find_twins(task, seed))
    for first, second in find_pairs(pixels):
        # The test image of a pair comes first.
        is_second = first not in tested and second in tested
        pairs[(second, first) if is_second else (first, second)] = None
    shared = {}
    doubled = {}
    for first, second in pairs:
        if labels[first] != labels[second]:
            doubled[f"{first} is {second}"] = None
        if first in tested and second not in tested:
            shared[first] = f"{first} is {second}"
    notes = []
    if shared:
        shown = ", ".join([*shared.values()][:MOST_SHOWN])
        notes.append(
            f"of {count(len(samples['test']), 'test image')}, {len(shared):,} "
            f"{is_or_are(len(shared))} in training, too, which flatters every module ({shown}); "
            "remove the copies"
        )
    if doubled:
        shown = ", ".join([*doubled][:MOST_SHOWN])
        pictures = count(len(doubled), "pair")
        notes.append(f"{pictures} of images show one picture under two labels ({shown})")
    return notes


def _find_twins(task: Task, seed: int) -> list[tuple[str, str]]:
    """Return test images and the training images that are equal to them, byte for byte."""
    samples = task.source.samples
    tested = _draw(samples["test"], seed)
    trained: Sequence[Any] = [*samples["train"], *samples["val"]]
    in_rows = any(isinstance(sample, RowImage) for sample in tested)
    if in_rows:
        # Only an image's content shows its size here, so that sizes cannot narrow the search.
        trained = _draw(trained, seed)

    def size(sample: Any) -> int:
        return 0 if in_rows else task.source.size(sample)

    shared_sizes = {*map(size, tested)} & {*map(size, trained)}

    def digests(samples: Sequence[Any]) -> Iterator[tuple[str, Any]]:
        for sample in samples:
            if size(sample) in shared_sizes:
                yield sha256_bytes(task.source.content(sample)), sample

    trained_by_digest = dict(digests(trained))
    twins = []
    for digest, sample in digests(tested):
        if digest in trained_by_digest:
            twins.append((sample.id, trained_by_digest[digest].id))
    return twins


def _write(texts: dict[Path, str]) -> None:
    """Write all files or none: they are renamed, the last one first, once all are written."""
    with ExitStack() as files:
        for path, text in texts.items():
            file = files.enter_context(open_atomic(path))
            file.write(text.encode())
            file.flush()  # so that a full disk is noticed before any of them has its name
