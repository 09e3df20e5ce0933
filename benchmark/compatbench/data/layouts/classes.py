"""What a reader of a layout knows of a task's classes, and how it compares those on the disk."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from compatbench.data.images.dataset_files import WrongClasses

CLASS_NAMES = "classnames.txt"  # a list of the names, in label order, beside the images


@dataclass(frozen=True)
class Classes:
    """What a source must know of a task's classes, in label order."""

    task: str
    names: tuple[str, ...]  # as prompts write them
    ids: tuple[str, ...]  # as the card's ``folders`` has them; the names, if it has none
    folders: tuple[str, ...]  # on the disk

    def check(
        self, found: Sequence[str], where: Path, expected: Sequence[str] = (), exact: bool = True
    ) -> None:
        """Compares names in label order with those expected, by default the card's.

        If not ``exact``, names may be others, and only their order counts if they are not.
        """
        expected = expected or self.names
        if len(found) != len(expected):
            raise WrongClasses(
                f"{where}: {len(found)} classes, the card of '{self.task}' has {len(expected)}"
            )
        theirs, ours = list(map(_words, found)), list(map(_words, expected))
        permuted = sorted(theirs) == sorted(ours)
        for label, name in enumerate(found):
            if theirs[label] != ours[label] and (exact or permuted):
                raise WrongClasses(
                    f"{where}: label {label} is {name!r}, on the card of '{self.task}' it is "
                    f"'{expected[label]}'{' (the same names in another order)' if permuted else ''}"
                    "; take the dataset's own file, or correct the card"
                )


def _words(name: str) -> list[str]:
    """A name's words, whatever joins, orders and capitalises them."""
    return sorted(name.replace("_", " ").casefold().split())
