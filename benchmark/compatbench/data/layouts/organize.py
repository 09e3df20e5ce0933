"""Gives the images that were found natural class names and splits."""

from __future__ import annotations

import random
import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from compatbench.data.cards import task_cards
from compatbench.data.cards.shots import count_shots
from compatbench.data.images.dataset_files import read_lines
from compatbench.data.images.source import SPLITS
from compatbench.data.layouts.found import Found
from compatbench.data.layouts.tables import Row
from compatbench.errors import CompatbenchError

SHOTS = (16, 8, 4, 2, 1)  # the most that the smallest class has images for
MOST_VALIDATION = 4  # images of a class that the choice of shots leaves to validate on


def natural(label: str) -> str:
    """A label as people write it: ``001.Black_footed_Albatross`` is ``Black footed Albatross``."""
    text = re.sub(r"^\d+[._ -]+(?=\D)", "", label).replace("_", " ")
    text = re.sub(r"(?<=[a-z])(?=[A-Z])", " ", text)
    return " ".join(text.split()) or label


def name_classes(found: Found, file: str | Path | None = None) -> dict[str, str]:
    """The natural name of every label, in label order: that of numbers, or of sorted words.

    Args:
        file: of names, a line for each label in that order, in place of what labels are called.

    Raises:
        CompatbenchError: fewer than two classes, two of one name, or names that do not fit.
    """
    labels = {row.label for row in found.rows}
    numbers = all(re.fullmatch("[0-9]{1,9}", label) for label in labels)
    ordered = sorted(labels, key=int) if numbers else sorted(labels)
    if len(ordered) < 2:
        raise CompatbenchError(
            f"{found.folder} has one class, '{ordered[0]}'; a task needs two at least"
        )
    if unused := found.names.keys() - labels:
        found.notes.append(f"{len(unused):,} class names without images are left out")
    titles = {label: natural(found.names.get(label, label)) for label in ordered}
    if file is not None:
        lines = read_lines(path := Path(file).expanduser())
        if len(lines) != len(ordered):
            raise CompatbenchError(f"{path} has {len(lines)} names for {len(ordered)} classes")
        titles = dict(zip(ordered, lines, strict=True))
    elif all(re.fullmatch("n[0-9]{8}", label) for label in labels):  # WordNet's, as ImageNet's
        known = task_cards.read("imagenet")
        words = dict(zip(known.folders, known.names, strict=True))
        titles = {label: words.get(label, label) for label in ordered}
    if odd := [title for title in titles.values() if not title.isprintable()]:
        raise CompatbenchError(f"the class name {odd[0]!r} cannot be printed; rename the class")
    if double := [title for title, count in Counter(titles.values()).items() if count > 1]:
        both = " and ".join(repr(label) for label in ordered if titles[label] == double[0])
        raise CompatbenchError(
            f"the classes {both} are both called '{double[0]}'; rename one, or give --class-names"
        )
    if all(re.fullmatch("n?[0-9]+", title) for title in titles.values()):
        found.notes.append(
            "the class names are numbers, which mean nothing to the text tower; give names: "
            "--class-names FILE"
        )
    return titles


def split_rows(found: Found, seed: int, share: float) -> list[Row]:
    """The rows with a split each, training first: that of the data, or one that is drawn.

    Args:
        seed: of the draw.
        share: of each class that is drawn for testing.

    Raises:
        CompatbenchError: splits of which none is for training or for testing.
    """
    rows, splits = found.rows, {row.split for row in found.rows}
    if splits == {"train", "val"}:
        found.notes.append("there is no test split; what is called validation is tested")
        rows = [row._replace(split="test") if row.split == "val" else row for row in rows]
    elif splits in ({""}, {"train"}):
        found.notes.append(
            f"no test split: {share:.0%} of each class drawn for testing, seed {seed}"
        )
        rows = _draw(rows, seed, share)
    elif "" in splits:
        odd = next(row for row in rows if not row.split)
        raise CompatbenchError(f"{found.folder}: {odd.path} is in no split, but others are")
    elif missing := {"train", "test"} - splits:
        raise CompatbenchError(
            f"{found.folder} has no split '{min(missing)}', only {', '.join(sorted(splits))}"
        )
    return sorted(rows, key=lambda row: SPLITS.index(row.split))


def _draw(rows: Sequence[Row], seed: int, share: float) -> list[Row]:
    """Which images are tested depends on their names, the share and the seed alone."""
    by_label: dict[str, list[str]] = {}
    for path, label, _ in rows:
        by_label.setdefault(label, []).append(path)
    tested = set[str]()
    for label, paths in by_label.items():
        count = max(1, min(len(paths) - 1, round(share * len(paths))))
        tested |= {*random.Random(f"{seed}\n{label}").sample(sorted(paths), count)}
    return [row._replace(split="test" if row.path in tested else "train") for row in rows]


def choose_shots(
    found: Found, rows: Sequence[Row], classes: dict[str, str], wanted: int | None
) -> int:
    """The shots of a task: what is wanted, or the most that the smallest class has images for.

    Raises:
        CompatbenchError: a class without training or test images, or with fewer than wanted.
    """
    counts = {split: Counter(r.label for r in rows if r.split == split) for split in SPLITS}
    for split, what in (("train", "train on"), ("test", "test on")):
        if empty := [label for label in classes if not counts[split][label]]:
            images = sum(found[empty[0]] for found in counts.values())
            raise CompatbenchError(
                f"{found.folder}: class '{empty[0]}' has {images} image{'s' * (images != 1)} and "
                f"none to {what}; add some, or remove the class"
            )
    label, least = min(counts["train"].items(), key=lambda one: (one[1], one[0]))
    if wanted is not None and not 1 <= wanted <= least:
        raise CompatbenchError(
            f"{wanted} shots: class '{label}' has {least} training images; give --shots from 1 to "
            f"{least}, or add images"
        )
    # Without a split to validate on, methods validate on training images that are left over.
    spare = 0 if counts["val"] else MOST_VALIDATION
    fit = [shots for shots in SHOTS if shots + min(shots, spare) <= least]
    shots = wanted or (fit or [1])[0]
    if wanted is None and shots < SHOTS[0]:
        few = f"'{label}' has {least} training image{'s' * (least != 1)}"
        found.notes.append(f"{count_shots(shots)}, because {few}")
    elif shots not in fit and shots + min(shots, spare) > least:
        found.notes.append(f"'{label}' has few training images beyond the shots to validate on")
    return shots
