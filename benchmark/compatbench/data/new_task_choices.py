"""What ``new-task`` decides about the images that were found: class names, splits and shots."""

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
from compatbench.messages import count

if TYPE_CHECKING:
    import pandas as pd

SHOTS = (16, 8, 4, 2, 1)  # the most that the smallest class has images for
MOST_VALIDATION = 4  # images of a class that the choice of shots leaves to validate on


def natural(label: str) -> str:
    """A label as people write it: ``001.Black_footed_Albatross`` is ``Black footed Albatross``."""
    text = re.sub(r"^\d+[._ -]+(?=\D)", "", label).replace("_", " ")
    text = re.sub(r"(?<=[a-z])(?=[A-Z])", " ", text)
    return " ".join(text.split()) or label


def name_classes(listing: Listing, file: str | Path | None = None) -> dict[str, str]:
    """The natural name of every label, in label order: that of numbers, or of sorted words.

    Args:
        file: of names, a line for each label in that order, in place of what labels are called.

    Raises:
        CompatbenchError: fewer than two classes, two of one name, or names that do not fit.
    """
    labels: set[str] = {*listing.frame["label"]}
    numbers = all(re.fullmatch("[0-9]{1,9}", label) for label in labels)
    ordered = sorted(labels, key=int) if numbers else sorted(labels)
    if len(ordered) < 2:
        raise CompatbenchError(
            f"{listing.folder} has one class, '{ordered[0]}'; a task needs two at least"
        )
    if unused := listing.names.keys() - labels:
        listing.notes.append(f"{len(unused):,} class names without images are left out")
    titles = {label: natural(listing.names.get(label, label)) for label in ordered}
    if file is not None:
        lines = read_lines(path := Path(file).expanduser())
        if len(lines) != len(ordered):
            raise CompatbenchError(f"{path} has {len(lines)} names for {len(ordered)} classes")
        titles = dict(zip(ordered, lines, strict=True))
    elif all(re.fullmatch("n[0-9]{8}", label) for label in labels):  # WordNet's, as ImageNet's
        known = task_cards.read("imagenet")
        words = dict(zip(known.folders, known.names, strict=True))
        titles = {label: words.get(label, label) for label in ordered}
    if odd := [title for title in titles.values() if not title.isprintable() or "|" in title]:
        raise CompatbenchError(
            f"the class name {odd[0]!r} cannot stand in a table; rename it, or give --class-names"
        )
    # A text tower reads capitals as small letters.
    folded = {label: title.casefold() for label, title in titles.items()}
    if double := [title for title, count in Counter(folded.values()).items() if count > 1]:
        both = " and ".join(repr(label) for label in ordered if folded[label] == double[0])
        raise CompatbenchError(
            f"the classes {both} are both called '{double[0]}', whatever the capitals; put them "
            "together, rename one, or give --class-names"
        )
    if all(re.fullmatch("n?[0-9]+", title) for title in titles.values()):
        listing.notes.append(
            "the class names are numbers, which mean nothing to the text tower; give names: "
            "--class-names FILE"
        )
    return titles


def split_images(listing: Listing, seed: int, share: float) -> pd.DataFrame:
    """The images with a split each, training first: that of the data, or one that is drawn.

    Args:
        seed: of the draw.
        share: of each class that is drawn for testing.

    Raises:
        CompatbenchError: splits of which none is for training or for testing.
    """
    frame, splits = listing.frame, {*listing.frame["split"]}
    if splits == {"train", "val"}:
        listing.notes.append("there is no test split; what is called validation is tested")
        frame = frame.assign(split=frame["split"].replace("val", "test"))
    elif splits in ({""}, {"train"}):
        listing.notes.append(
            f"no test split: {share:.0%} of each class drawn for testing, seed {seed}"
        )
        frame = _draw(frame, seed, share)
    elif "" in splits:
        odd = frame.loc[frame["split"] == "", "path"].iloc[0]
        raise CompatbenchError(f"{listing.folder}: {odd} is in no split, but others are")
    elif missing := {"train", "test"} - splits:
        raise CompatbenchError(
            f"{listing.folder} has no split '{min(missing)}', only {', '.join(sorted(splits))}"
        )
    return frame.sort_values("split", key=lambda column: column.map(SPLITS.index), kind="stable")


def _draw(frame: pd.DataFrame, seed: int, share: float) -> pd.DataFrame:
    """Which images are tested depends on their names, the share and the seed alone."""
    tested = set[str]()
    for label, paths in frame.groupby("label")["path"]:
        number = max(1, min(len(paths) - 1, round(share * len(paths))))
        tested |= {*random.Random(f"{seed}\n{label}").sample(sorted(paths), number)}
    return frame.assign(split=["test" if path in tested else "train" for path in frame["path"]])


def choose_shots(listing: Listing, classes: dict[str, str], wanted: int | None) -> int:
    """The shots of a task: what is wanted, or the most that the smallest class has images for.

    Raises:
        CompatbenchError: a class without training or test images, or with fewer than wanted.
    """
    import pandas as pd

    counts = pd.crosstab(listing.frame["label"], listing.frame["split"])
    counts = counts.reindex([*classes], fill_value=0).reindex([*SPLITS], axis=1, fill_value=0)
    for split, purpose in (("train", "train on"), ("test", "test on")):
        if empty := [*counts.index[counts[split] == 0]]:
            total = count(int(counts.loc[empty[0]].sum()), "image")
            raise CompatbenchError(
                f"{listing.folder}: class '{empty[0]}' has {total} and none to {purpose}; add "
                "some, or remove the class"
            )
    label, least = min(counts["train"].items(), key=lambda item: (item[1], item[0]))
    if wanted is not None and not 1 <= wanted <= least:
        raise CompatbenchError(
            f"{wanted} shots: class '{label}' has {least} training images; give --shots from 1 to "
            f"{least}, or add images"
        )
    # Without a split to validate on, methods validate on training images that are left over.
    spare = 0 if counts["val"].any() else MOST_VALIDATION
    fit = [shots for shots in SHOTS if shots + min(shots, spare) <= least]
    shots = wanted or (fit or [1])[0]
    if wanted is None and shots < SHOTS[0]:
        few = f"'{label}' has {count(int(least), 'training image')}"
        listing.notes.append(f"{count_shots(shots)}, because {few}")
    elif shots not in fit and shots + min(shots, spare) > least:
        listing.notes.append(f"'{label}' has few training images beyond the shots to validate on")
    return shots
