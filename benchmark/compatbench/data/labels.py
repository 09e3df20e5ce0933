"""The facts about a task's classes that a module may know."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any, Literal, get_args


@dataclass(frozen=True)
class Labels:
    """Everything that a module may know of a task when it is attached.

    Attributes:
        names: natural class names; label c is ``names[c]``.
        templates: with ``{}`` for the name; the first is the zero-shot one.
        teacher_template: the prompt that distilling methods pull towards.
        descriptions: texts of each class; empty unless the method's card needs them and the task
            has them.
    """

    names: tuple[str, ...]
    templates: tuple[str, ...]
    teacher_template: str
    descriptions: tuple[tuple[str, ...], ...] = ()

    def __len__(self) -> int:
        return len(self.names)

    @property
    def described(self) -> dict[str, Any]:
        """Return everything but the descriptions as JSON values, as a module's file stores it."""
        return {
            "names": list(self.names),
            "templates": list(self.templates),
            "teacher_template": self.teacher_template,
        }

    def fill(self, template: str | None = None) -> tuple[str, ...]:
        """Return the template, by default the first, filled with every class name."""
        template = template or self.templates[0]
        return tuple(template.format(name) for name in self.names)

    def find(self, name: object) -> int | None:
        """Return the number of the class of this name; None if there is none, or several.

        Case, underscores, hyphens and articles count only if two classes differ in nothing else.
        """
        if not isinstance(name, str):
            return None
        if name in self.names:
            return self.names.index(name)
        folded = [fold_name(each) for each in self.names]
        wanted = fold_name(name)
        return folded.index(wanted) if folded.count(wanted) == 1 else None


def fold_name(name: str) -> str:
    """Return a class name without case, underscores, hyphens and a leading article."""
    words = re.sub(r"[\s_-]+", " ", name).strip().casefold()
    return re.sub(r"^(an?|the) (?=\S)", "", words)


# Access: things that a transfer may need besides the module and the target.
Access = Literal["words", "unlabelled", "labels", "old model", "source weights", "modules"]
ACCESS: tuple[Access, ...] = get_args(Access)
Need = Literal["descriptions", "unlabelled", "teacher", "stream", "words"]
# A description of each need, for lists and pages.
NEEDS: dict[Need, str] = {
    "descriptions": "descriptions of the classes",
    "unlabelled": "all training images, without labels",
    "teacher": "another model as a teacher",
    "stream": "all test images at once",
    "words": "a list of common words",
}
