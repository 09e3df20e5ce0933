"""The choices of ``new-task`` for the images that were found: class names, splits and shots."""

from __future__ import annotations

import random
import re
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING

from compatbench.data.cards import task_cards
from compatbench.data.cards.shots import count_shots
from compatbench.data.images.dataset_files import read_lines
from compatbench.data.images.source import SPLITS
from compatbench.data.layouts.listing import Listing
from compatbench.errors import CompatbenchError
from compatbench.messages import count, is_or_are

if TYPE_CHECKING:
    import pandas as pd

SHOTS = (16, 8, 4, 2, 1)  # the first one that a third of the classes have enough images for
MOST_VALIDATION = 4  # images of a class that the choice of shots leaves for validation
HALF = 0.5  # the share of each class that is drawn for testing, unless another one is requested


def natural(label: str) -> str:
    """Return a label as people write it: ``001.Black_Gull`` becomes ``Black Gull``."""
    text = re.sub(r"^\d+[._ -]+(?=\D)", "", label).replace("_", " ")
    text = re.sub(r"(?<=[a-z])(?=[A-Z])", " ", text)
    return " ".join(text.split()) or label


def name_classes(listing: Listing, file: str | Path | None = None) -> dict[str, str]:
    """Return the natural name of every label, in the order of numbers or of sorted words.

    Args:
        file: names, a line for each label in that order. They replace those of the data.

    Raises:
        CompatbenchError: fewer than two classes, two of one name, or names that do not fit.
    """
    labels: set[str] = {*listing.frame["label"]}
    are_numbers = all(re.fullmatch("[0-9]{1,9}", label) for label in labels)
    ordered = sorted(labels, key=int) if are_numbers else sorted(labels)
    if len(ordered) < 2:
        raise CompatbenchError(
            f"{listing.folder} has one class, '{ordered[0]}'; a task needs two at least"
        )
    unused = listing.names.keys() - labels
    if unused:
        listing.notes.append(
            f"{count(len(unused), 'class name')} without images {is_or_are(len(unused))} left out"
        )
    titles = {label: natural(listing.names.get(label, label)) for label in ordered}
    if file is not None:
        path = Path(file).expanduser()
        lines = read_lines(path)
        if len(lines) != len(ordered):
            raise CompatbenchError(f"{path} has {len(lines)} names for {len(ordered)} classes")
        titles = dict(zip(ordered, lines, strict=True))
    elif all(re.fullmatch("n[0-9]{8}", label) for label in labels):  # WordNet's ids, as ImageNet's
        known = task_cards.read("imagenet")
        words = dict(zip(known.folders, known.names, strict=True))
        titles = {label: words.get(label, label) for label in ordered}
    _check_titles(titles)
    if all(re.fullmatch("n?[0-9]+", title) for title in titles.values()):
        listing.notes.append(
            "the class names are numbers, which mean nothing to the text tower; give names: "
            "--class-names FILE"
        )
    return titles


def _check_titles(titles: dict[str, str]) -> None:
    """Raise an error if a name cannot be shown in a table, or if two classes have the same one."""
    for title in titles.values():
        if not title.isprintable() or "|" in title:
            raise CompatbenchError(
                f"the class name {title!r} cannot be shown in a table; rename it, or give "
                "--class-names"
            )
    # A text tower reads capitals as small letters.
    folded = {label: title.casefold() for label, title in titles.items()}
    numbers = Counter(folded.values())
    for name, number in numbers.items():
        if number > 1:
            same = [repr(label) for label in titles if folded[label] == name]
            both = " and ".join(same)
            raise CompatbenchError(
                f"the classes {both} are both called '{name}', whatever the capitals; put them "
                "together, rename one, or give --class-names"
            )


def split_images(listing: Listing, seed: int, share: float = HALF) -> pd.DataFrame:
    """Return the images with a split each, training first: the data's splits, or drawn ones.

    Args:
        seed: seed of the draw.
        share: share of each class that is drawn for testing.

    Raises:
        CompatbenchError: no split is for training, or none for testing.
    """
    frame = listing.frame
    splits = {*frame["split"]}
    if splits == {"train", "val"}:
        listing.notes.append("there is no test split; the validation split is used for testing")
        frame = frame.assign(split=frame["split"].replace("val", "test"))
    elif lacks_tests(listing):
        frame = _draw(frame, seed, share)
    elif "" in splits:
        odd = frame.loc[frame["split"] == "", "path"].iloc[0]
        raise CompatbenchError(f"{listing.folder}: {odd} is in no split, but others are")
    elif not splits >= {"train", "test"}:
        missing = min({"train", "test"} - splits)
        found = ", ".join(sorted(splits))
        raise CompatbenchError(f"{listing.folder} has no split '{missing}', only {found}")
    return _sort(frame)


def lacks_tests(listing: Listing) -> bool:
    """Return True if test images have to be drawn, because all images are in one split."""
    return {*listing.frame["split"]} in ({""}, {"train"})


def move_unused(frame: pd.DataFrame, seed: int, shots: int) -> pd.DataFrame:
    """Return drawn splits with more test images: the training images that no fit would use.

    A fit trains on up to ``shots`` images of a class, and validates on as many more, up to
    ``MOST_VALIDATION``.
    """
    used = shots + min(shots, MOST_VALIDATION)
    unused = set[str]()
    for label, paths in frame.loc[frame["split"] == "train"].groupby("label")["path"]:
        number = max(0, len(paths) - used)
        unused.update(random.Random(f"{seed}\n{label}\nunused").sample(sorted(paths), number))
    return _sort(frame.assign(split=frame["split"].mask(frame["path"].isin(unused), "test")))


def _sort(frame: pd.DataFrame) -> pd.DataFrame:
    return frame.sort_values("split", key=lambda column: column.map(SPLITS.index), kind="stable")


def _draw(frame: pd.DataFrame, seed: int, share: float) -> pd.DataFrame:
    """Draw test images; only their names, the share and the seed decide the draw."""
    tested = set[str]()
    for label, paths in frame.groupby("label")["path"]:
        number = round(share * len(paths))
        number = max(1, min(len(paths) - 1, number))  # leave at least one image for each split
        tested.update(random.Random(f"{seed}\n{label}").sample(sorted(paths), number))
    splits = ["test" if path in tested else "train" for path in frame["path"]]
    return frame.assign(split=splits)


def choose_shots(listing: Listing, classes: dict[str, str], requested: int | None) -> int:
    """Return the requested shots, or the most that a third of the classes have enough images for.

    Classes with fewer images give all that they have.

    Raises:
        CompatbenchError: a class has no training or test images, or no class has so many.
    """
    import pandas as pd

    counts = pd.crosstab(listing.frame["label"], listing.frame["split"])
    counts = counts.reindex([*classes], fill_value=0)
    counts = counts.reindex([*SPLITS], axis=1, fill_value=0)
    for split, purpose in (("train", "train on"), ("test", "test on")):
        empty = [*counts.index[counts[split] == 0]]
        if empty:
            total = count(int(counts.loc[empty[0]].sum()), "image")
            raise CompatbenchError(
                f"{listing.folder}: class '{empty[0]}' has {total} and none to {purpose}; add "
                "some, or remove the class"
            )
    label, smallest = min(counts["train"].items(), key=lambda item: (item[1], item[0]))
    largest = int(counts["train"].max())
    if requested is not None and not 1 <= requested <= largest:
        raise CompatbenchError(
            f"{requested} shots: the largest class has {largest} training images; give --shots "
            f"from 1 to {largest}, or add images"
        )
    # Without a validation split, methods validate on training images that are left over.
    spare = 0 if counts["val"].any() else MOST_VALIDATION

    def fits(shots: int) -> bool:
        return int((counts["train"] >= shots + min(shots, spare)).sum()) >= len(counts) / 3

    shots = requested or next(filter(fits, SHOTS), 1)
    fewer = int((counts["train"] < shots).sum())
    if fewer:
        listing.notes.append(
            f"{count_shots(shots)}: {fewer:,} of {len(counts):,} classes have fewer training "
            f"images and give all of them ('{label}': {smallest})"
        )
    elif requested is None and shots < SHOTS[0]:
        few = f"'{label}' has {count(int(smallest), 'training image')}"
        listing.notes.append(f"{count_shots(shots)}, because {few}")
    elif shots + min(shots, spare) > smallest:
        listing.notes.append(f"'{label}' has few training images beyond the shots to validate on")
    return shots
