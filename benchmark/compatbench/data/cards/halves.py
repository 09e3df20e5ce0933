"""Halves of a task's classes, as CoCoOp (arXiv:2203.05557) draws them for base-to-new.

The first ⌈C/2⌉ labels are *base*, the others *new* and numbered from 0. A half is a task of its
own, under the task's name with ``.base`` or ``.new`` behind it; it has no card on the disk.
"""

from __future__ import annotations

from compatbench.data.cards.names import Half, half_name
from compatbench.data.cards.schemas import TaskCard
from compatbench.errors import CompatbenchError

LEAST = 2  # classes of a half: of one class every answer is right


def half_labels(classes: int, half: Half) -> range:
    """The labels of a half of so many classes."""
    middle = -(-classes // 2)
    return range(middle) if half == "base" else range(middle, classes)


def halve_card(card: TaskCard, half: Half) -> TaskCard:
    """The card of a half of a task's classes.

    Images are counted in proportion, for estimates: which class has how many is known when the
    task is loaded. The source is that of the whole task.

    Raises:
        CompatbenchError: the task has too few classes, no names of classes, or is a variant.
    """
    whose, names = f"task '{card.name}' has no base and new classes", card.names
    if card.parent is not None:
        raise CompatbenchError(f"{whose}: it is a variant; name its parent, '{card.parent}'")
    if (number := len(names)) < 2 * LEAST:
        found = f"{number} class{'es' * (number != 1)}"
        raise CompatbenchError(f"{whose}: it has {found}, and each half needs {LEAST} or more")
    if not any(letter.isalpha() for name in names for letter in name):
        raise CompatbenchError(
            f"{whose}: its classes have numbers for names, which say nothing about a new class; "
            "write their names in the card's 'classes'"
        )
    kept = half_labels(number, half)
    own = slice(kept.start, kept.stop)
    shares = {name: max(round(n * len(kept) / number), 1) for name, n in card.counts.items()}
    changes = {
        "name": half_name(card.name, half),
        "title": f"{card.title}, {half} classes",
        "classes": card.classes[own],
        "folders": card.folders[own],
        "namesakes": (),
        "counts": shares,
    }
    return card.model_copy(update=changes)
