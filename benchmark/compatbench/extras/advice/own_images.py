"""Your own images and modules, made ready for advice: a task, its halves, modules and weights."""

from __future__ import annotations

import copy
import os
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from compatbench.backbone.load.find_weights import is_offline
from compatbench.backbone.load.weights import fetch_backbones
from compatbench.backbone.needed_files import NeededFile, list_needed_files
from compatbench.data.cards import (
    COPIED,
    TaskCard,
    backbone_cards,
    is_card_path,
    suite_cards,
    task_cards,
)
from compatbench.data.cards.own_cards import look_at
from compatbench.data.dataset_folders import cards_option, images_option, variable_of
from compatbench.data.images.source import SPLITS
from compatbench.data.layouts.listing import Listing, scan_list
from compatbench.data.layouts.recognise import scan
from compatbench.data.new_task import name_task, new_task, read_broken
from compatbench.data.new_task_choices import HALF
from compatbench.data.task import Task, load_task
from compatbench.engine.single_module import Fitted, read_fitted
from compatbench.errors import CompatbenchError, CompatbenchWarning
from compatbench.extras.advice.remembered import Memory
from compatbench.files.atomic import write_atomic
from compatbench.files.hashes import sha256_bytes, sha256_json
from compatbench.files.project_folders import add_own_place
from compatbench.files.sizes import format_bytes
from compatbench.files.yaml_text import dump_yaml, load_yaml
from compatbench.messages import count, count_are, is_or_are
from compatbench.method import Module
from compatbench.method.hub import local_file
from compatbench.results.choice import judge_effect
from compatbench.results.estimate import Array
from compatbench.results.evaluation import Evaluation

SWAPPED = "{}-swapped"  # the task whose training images are the other one's test images
CHECKS = (
    "the order of the classes (--class-names FILE), how its features are normalised, its prompt, "
    "and the model that it was trained on (source)"
)
# On images that a module was trained on, it is nearly always right, and far better than zero-shot.
TOO_ACCURATE = 99.0  # percent
TOO_MUCH_GAIN = 10.0  # points


@dataclass(frozen=True)
class OwnImages:
    """The images that modules are tested on.

    Attributes:
        task: the task as its card describes it, with training and test images.
        tested: the same task with the images that a given module is tested on.
        halves: the tasks of a cross-fit. Each trains on one part of the images, and is tested on
            the other one. These are halves unless ``new-task`` made the card. It is the task alone
            if it has test images of its own.
        cards: the words with which other commands find the card of the task.
        data_root: the words with which they find its images.
    """

    task: Task
    tested: Task
    halves: tuple[str, ...]
    cards: tuple[str, ...] = ()
    data_root: tuple[str, ...] = ()

    @property
    def part(self) -> str:
        """Return the word for a part of a cross-fit: half, or part if the sizes differ."""
        sizes = [load_task(half).max_shots for half in self.halves]
        return "half" if max(sizes) - min(sizes) <= 1 else "part"

    def half_of(self) -> Array:
        """Return the number of the half that each tested image is in, ``[images]``."""
        number_of = {}
        for number, half in enumerate(self.halves):
            for sample in load_task(half).split("test"):
                number_of[sample.id] = number
        return np.array([number_of[sample.id] for sample in self.tested.split("test")], float)


def are_images(place: object) -> bool:
    """Return True for a folder or file of images, or a task or its card, and not for a suite."""
    if not isinstance(place, str | Path) or str(place) in suite_cards.names():
        return False
    path = Path(place).expanduser()
    if is_card_path(str(place)):
        card = look_at(path)
        return card is not None and card.kind == "task"
    return path.exists() or str(place) in task_cards.names()


def fetch_missing_files(backbones: Sequence[str], yes: bool) -> None:
    """Download the weights and tokenizers that are missing.

    Raises:
        CompatbenchError: something is missing, and nobody agreed to download it, or it cannot be
            downloaded.
    """
    missing = [file for file in list_needed_files(backbones) if file.path is None]
    if not missing:
        return
    if is_offline():
        commands = "; ".join(file.fetch for file in missing if file.fetch)
        raise CompatbenchError(
            f"{count(len(missing), 'file')} missing, and nothing may be downloaded. Where there is "
            f"a network: {commands}"
        )
    if not yes:
        raise CompatbenchError(
            f"{describe_files(missing)} must be downloaded first; to agree, add --yes (in Python: "
            "yes=True)"
        )
    names = list(dict.fromkeys(file.backbone for file in missing))
    for fetched in fetch_backbones(names):
        if fetched.problem:
            raise CompatbenchError(fetched.problem)


def describe_files(files: Sequence[NeededFile]) -> str:
    """Return files with their sizes and licences, in one line."""
    described = [f"{file.name} ({file.size_in_words}, {file.licence})" for file in files]
    total = sum(file.size or 0 for file in files)
    return f"{count(len(files), 'file')}, {format_bytes(total)} in all: {', '.join(described)}"


def open_images(
    place: str | Path, source: str, targets: Sequence[str], out: Path, skip_broken: bool = False
) -> OwnImages:
    """Return the task of a folder, a file or a name, with the images that a module is tested on.

    These are all images, unless the data have a test split of their own. The cards of a new task
    are written to ``out``. If they are there, they are used as they are; they are written again if
    the images have changed, or the suite is for other models, and nobody has edited the cards.

    Args:
        skip_broken: leave out images that cannot be read, as ``new_task`` does.
    """
    path = Path(place).expanduser().absolute()
    is_card = is_card_path(str(place))
    if is_card:
        add_own_place(path.parent)  # where the suite of the task is
    if is_card or not path.exists() or _means_task(str(place), out):
        task = load_task(task_cards.resolve(str(place)))
        return OwnImages(
            task, task, (task.name,), cards_option(task.name), images_option(task.name)
        )
    folder = out.expanduser().absolute()
    name = _find_name(name_task(None, path), folder)
    card = folder / f"{name}.yaml"
    listing = scan(path, card.with_suffix(".csv"))
    if card.exists():
        add_own_place(folder)
        _point_to(name, card, path)
    upgrades = [(source, target) for target in targets]
    if not card.exists() or _must_be_made_again(card, path, listing, upgrades):
        again = card.exists()
        made = new_task(
            path,
            name,
            source=source,
            target=list(targets),
            test_share=HALF,  # the halves are swapped, so that every image is tested
            skip_broken=skip_broken,
            out=out,
            replace=again,
        )
        write_atomic(_record_of(card), _hash_cards(card).encode())
        for problem in made.problems:
            _warn(problem)
    task = load_task(name)
    cards = () if folder == Path.cwd() else ("--cards", str(out))
    data_root = images_option(name)
    splits = set(listing.frame["split"])
    if "test" in splits or "val" in splits:
        return OwnImages(task, task, (name,), cards, data_root)
    other = _write_swapped(card)
    _point_to(other, card, path)
    return OwnImages(task, _test_all(task), (name, other), cards, data_root)


def _means_task(name: str, out: Path) -> bool:
    """Return True if a folder and a task have this name, and the images of the task were given.

    A card in ``out`` was made of the folder.
    """
    is_known = name in task_cards.names() and not (out / f"{name}.yaml").exists()
    return is_known and variable_of(name) in os.environ


def _find_name(name: str, folder: Path) -> str:
    """Return the name of the task whose card is in the folder, or else one that is free."""
    number = 1
    found = name
    while not (folder / f"{found}.yaml").exists() and found in task_cards.names():
        number += 1
        found = f"{name}-{number}"
    return found


def _must_be_made_again(
    card: Path, path: Path, listing: Listing, upgrades: Sequence[tuple[str, str]]
) -> bool:
    """Return True if the images are not those of the card's list, or its suite is for other models.

    Warn about it.
    """
    changes = _describe_new_images(card, path, listing) or _describe_suite(card, upgrades)
    if not changes:
        return False
    record = _record_of(card)
    if not record.exists() or record.read_text(encoding="utf-8") != _hash_cards(card):
        _warn(
            f"{changes}; {card}, its suite or its list was edited, or made by another command, and "
            f"is used as it is. To make them again, remove {card.name}, {card.stem}-upgrade.yaml "
            f"and {card.stem}.csv"
        )
        return False
    _warn(f"{changes}; {card} is written again")
    return True


def _describe_new_images(card: Path, path: Path, listing: Listing) -> str:
    """Return how the images differ from those of the card's list; '' if they do not."""
    listed = scan_list(card.with_suffix(".csv"), path).frame
    before = set(zip(listed["path"], listed["label"], strict=True))
    kept = listing.frame[~listing.frame["path"].isin(read_broken(card))]
    now = set(zip(kept["path"], kept["label"].map(str), strict=True))
    if before == now:
        return ""
    gone = len(before - now)
    new = count_are(len(now - before), "image")
    return f"{new} new in {path} and {gone:,} {is_or_are(gone)} gone"


def _describe_suite(card: Path, upgrades: Sequence[tuple[str, str]]) -> str:
    """Return the upgrades of the suite beside a card if others are asked about; otherwise ''."""
    name = f"{card.stem}-upgrade"
    if name not in suite_cards.names():
        return ""
    known = suite_cards.read(name).upgrades
    if set(upgrades) <= set(known):
        return ""
    return f"suite '{name}' is for {', '.join(map(' → '.join, known))}"


def _record_of(card: Path) -> Path:
    """Return the file with the hash of the cards as they were written."""
    return card.with_name(f"{card.stem}-cards.sha256")


def _hash_cards(card: Path) -> str:
    """Return a hash of the cards of a task and its suite, and of the list of images."""
    suite = card.with_name(f"{card.stem}-upgrade.yaml")
    files = [path for path in (card, suite, card.with_suffix(".csv")) if path.exists()]
    return sha256_json([[path.name, sha256_bytes(path.read_bytes())] for path in files])


def _point_to(name: str, card: Path, images: Path) -> None:
    """Let a task find its images again where they are not below its card."""
    folder = Path(os.path.realpath(images if images.is_dir() else images.parent))
    if not folder.is_relative_to(os.path.realpath(card.parent)):
        os.environ[variable_of(name)] = str(folder)


def _write_swapped(card: Path) -> str:
    """Write the task that trains on the test images of another one, and return its name."""
    values: dict[str, Any] = load_yaml(card.read_text(encoding="utf-8"))
    name = SWAPPED.format(values["name"])
    values["name"] = name
    values["title"] = f"{values['title']}, training and test images swapped"
    lists = card.with_suffix(".csv")
    values["source"] = values["source"] | {"file": f"{name}.csv"}
    counts = values["counts"]
    values["counts"] = {"train": counts["test"], "test": counts["train"]}
    frame = scan_list(lists, card.parent).frame
    frame = frame.assign(split=frame["split"].map({"train": "test", "test": "train"}))
    order = frame["split"].map(SPLITS.index)
    rows = frame.loc[order.sort_values(kind="stable").index]
    texts = {
        card.parent / f"{name}.csv": rows.to_csv(index=False, lineterminator="\n"),
        card.parent / f"{name}.yaml": dump_yaml(values, width=100),
    }
    for path, text in texts.items():
        if not path.exists() or path.read_text(encoding="utf-8") != text:
            write_atomic(path, text.encode())
    return name


def _test_all(task: Task) -> Task:
    """Return the task with all its images as test images: nothing is trained on any of them."""
    source = copy.copy(task.source)
    samples = [sample for split in SPLITS for sample in task.source.samples[split]]
    source.samples = {"train": (), "val": (), "test": samples}
    counts = {"test": len(samples)}
    card: TaskCard = task.card.model_copy(update={"counts": counts, "least_per_class": {}})
    return Task(card, task.labels, source)


def images_for(own: OwnImages, modules: Mapping[str, Module]) -> OwnImages:
    """Return the images to test modules on: without those that one of them was trained on.

    Raises:
        CompatbenchError: one module was trained on the images that another one leaves.
    """
    task = own.task.name
    learned: dict[str, str] = {}  # a module of each half, by the name of its task
    for name, module in modules.items():
        _, fitted = read_fitted(module)
        if fitted.imported is None and fitted.task in (task, SWAPPED.format(task)):
            learned.setdefault(fitted.task, name)
    if len(learned) > 1:
        both = " and ".join(learned.values())
        raise CompatbenchError(
            f"{both} were trained on different halves of '{task}', so no image is left to test "
            "both; ask for each"
        )
    if not learned or (own.tested is own.task and task in learned):
        return own
    [(half, name)] = learned.items()
    _warn(f"{name} was trained on images of '{task}', so only the others are used")
    return replace(own, tested=load_task(half), halves=(half,))


def check_places(modules: Sequence[Module | str | Path]) -> None:
    """Raise CompatbenchError if there is nothing at the place of a module."""
    for module in modules:
        place = local_file(module)
        if isinstance(place, Path) and not place.exists():
            raise CompatbenchError(f"--module (in Python: module): there is nothing at '{module}'")


def read_modules(
    modules: Sequence[Module | str | Path],
    task: Task,
    source: str | None,
    how: Mapping[str, Any],
    memory: Memory,
) -> dict[str, Module]:
    """Return modules by name. Checkpoints of other code are imported, with their format detected.

    Settings that a checkpoint does not contain are chosen on the images, unless ``how``, which has
    the arguments ``classes`` and ``settings`` of ``import_module``, contains them.

    Raises:
        CompatbenchError: a checkpoint without a source, modules of several sources, or classes and
            settings without a checkpoint that they are for.
    """
    read: dict[str, Module] = {}
    sources = set()
    any_imported = False
    for module in modules:
        loaded, is_imported = _read_module(module, task, source, how, memory)
        any_imported |= is_imported
        _, fitted = read_fitted(loaded)
        sources.add(fitted.source)
        name = fitted.method
        if name in read and not isinstance(module, Module):
            name = _name_by_file(fitted.method, Path(module))
        number = 2
        while name in read:
            name = f"{fitted.method}-{number}"
            number += 1
        read[name] = loaded
    if not any_imported and any(how.values()):
        raise CompatbenchError(
            "class_names (--class-names) and settings (--set) are those of a checkpoint of other "
            "code, and a module of compatbench contains them: leave them out"
        )
    if len(sources) > 1:
        raise CompatbenchError(
            f"the modules were fitted on several models, {', '.join(sorted(sources))}; ask for each"
        )
    if source is not None and sources and sources != {backbone_cards.resolve(source)}:
        raise CompatbenchError(
            f"the module was fitted on '{min(sources)}', not on the source '{source}'; leave the "
            "source out"
        )
    return read


def _name_by_file(method: str, path: Path) -> str:
    """Return the method's name with that of the file, which may begin with it already."""
    return path.stem if path.stem.startswith(f"{method}-") else f"{method}-{path.stem}"


def _read_module(
    module: Module | str | Path,
    task: Task,
    source: str | None,
    how: Mapping[str, Any],
    memory: Memory,
) -> tuple[Module, bool]:
    """Return a module, and True if it was imported from a checkpoint of other code."""
    address = local_file(module)
    if source is None:
        return read_own_module(module)[0], False
    try:
        return read_fitted(address)[0], False
    except CompatbenchError:
        if isinstance(address, Module):
            raise
    return memory.import_checkpoint(address, task, backbone_cards.resolve(source), how), True


def read_own_module(module: Module | str | Path) -> tuple[Module, Fitted]:
    """Return a module and its description of the fit.

    Raises:
        CompatbenchError: it is a checkpoint of other code, which does not name its source.
    """
    address = local_file(module)
    try:
        return read_fitted(address)
    except CompatbenchError:
        if isinstance(address, Module):
            raise
    raise CompatbenchError(
        f"{module} is no module of compatbench; if it is a checkpoint of other code, name the "
        "model that it was trained on: --source NAME"
    )


def check_modules(measured: Sequence[tuple[str, Evaluation]]) -> None:
    """Check that modules work on the old model, and warn of one that is not shown to.

    Raises:
        CompatbenchError: a module is significantly worse than zero-shot there.
    """
    for name, evaluation in measured:
        effect = evaluation.source_effect
        if evaluation.transfer != COPIED or effect is None or evaluation.source is None:
            continue
        where = f"on its own model '{evaluation.fitted.source}'"
        if judge_effect(effect) == "loses":
            raise CompatbenchError(
                f"{name} is significantly worse than zero-shot {where} ({effect.value:+.1f} "
                f"points, {effect.low:+.1f} to {effect.high:+.1f}): this does not look like a "
                f"module for these classes or this model. Check {CHECKS}."
            )
        if judge_effect(effect) != "gains":
            _warn(
                f"With {count(evaluation.images, 'image')} we cannot tell whether {name} beats "
                f"zero-shot on {evaluation.fitted.source}. If you expected it to, check {CHECKS}."
            )
        elif evaluation.source.accuracy >= TOO_ACCURATE and effect.value >= TOO_MUCH_GAIN:
            _warn(
                f"{name} classifies {evaluation.source.accuracy:.1f} % of the images correctly "
                f"{where}. If it was trained on them, give other images: the gain is too high."
            )


def _warn(text: str) -> None:
    warnings.warn(text, CompatbenchWarning, stacklevel=4)
