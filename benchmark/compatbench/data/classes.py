"""The classes of a task as they are on the disk, compared with its card."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from compatbench.data.images import WrongClasses

CLASS_NAMES = "classnames.txt"  # a list of the names, in label order, beside the images


@dataclass(frozen=True)
class Classes:
    """What a source must know of a task's classes.

    Attributes:
        task: the task's name.
        names: as prompts write them, in label order.
        ids: as the card's ``folders`` has them, in label order; the names, if it has none.
        folders: on the disk, in label order.
    """

    task: str
    names: tuple[str, ...]
    ids: tuple[str, ...]
    folders: tuple[str, ...]

    def check_names(self, found: Sequence[str], where: Path, exact: bool = True) -> None:
        """Compares names in label order with the card's.

        Args:
            exact: if not, names may be written in another way, and only their order counts.

        Raises:
            WrongClasses: another number of classes, or another name at some label.
        """
        self.check_count(len(found), where)
        ours, theirs = [_words(name) for name in self.names], [_words(name) for name in found]
        permuted = ours != theirs and sorted(ours) == sorted(theirs)
        for label, (name, expected) in enumerate(zip(found, self.names, strict=True)):
            same = name.replace("_", " ") == expected if exact else ours[label] == theirs[label]
            if not same and (exact or permuted):
                order = " (the same names in another order)" if permuted else ""
                raise WrongClasses(
                    f"{where}: label {label} is {name!r}, on the card of '{self.task}' it is "
                    f"'{expected}'{order}; take the dataset's own file, or correct the card"
                )

    def check_count(self, found: int, where: Path) -> None:
        """Compares a number of classes with the card's.

        Raises:
            WrongClasses: they differ.
        """
        if found != len(self.names):
            raise WrongClasses(
                f"{where}: {found} classes, the card of '{self.task}' has {len(self.names)}"
            )


def names_by_label(pairs: Iterable[tuple[int, str]], where: Path) -> list[str]:
    """The names of labels 0, 1, 2, ... from (label, name) pairs, each perhaps many times.

    Raises:
        WrongClasses: a label without a name, or with two.
    """
    names: dict[int, str] = {}
    for label, name in pairs:
        if names.setdefault(label, name) != name:
            raise WrongClasses(f"{where}: label {label} is both {names[label]!r} and {name!r}")
    for label in range(len(names)):
        if label not in names:
            raise WrongClasses(f"{where}: no image has label {label}, but some have {max(names)}")
    return [names[label] for label in range(len(names))]


def _words(name: str) -> list[str]:
    """A name's words, whatever joins, orders and capitalises them.

    The Cars of some have the year in front ("2000 AM General Hummer SUV"), those of others
    at the end.
    """
    return sorted(name.replace("_", " ").casefold().split())
