"""What a module may know of a task's classes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, get_args


@dataclass(frozen=True)
class Labels:
    """All that a module may know of a task when it is attached.

    Attributes:
        names: natural class names; label c is ``names[c]``.
        templates: with ``{}`` for the name; the first is the zero-shot one.
        teacher_template: the prompt that distilling methods pull towards.
        descriptions: texts of each class, for methods whose card says that they need them, if
            the task has any.
    """

    names: tuple[str, ...]
    templates: tuple[str, ...]
    teacher_template: str
    descriptions: tuple[tuple[str, ...], ...] = ()

    def __len__(self) -> int:
        return len(self.names)

    @property
    def described(self) -> dict[str, Any]:
        """All but the descriptions, as JSON values: what a module's file says of its classes."""
        return {
            "names": list(self.names),
            "templates": list(self.templates),
            "teacher_template": self.teacher_template,
        }

    def fill(self, template: str | None = None) -> tuple[str, ...]:
        """The template, by default the first, filled with every class name."""
        template = template or self.templates[0]
        return tuple(template.format(name) for name in self.names)


# What a transfer may need besides the module and the target.
Access = Literal["words", "unlabelled", "labels", "old model", "source weights"]
ACCESS: tuple[Access, ...] = get_args(Access)
Need = Literal["descriptions", "unlabelled", "teacher", "stream", "words"]
# What each of them is, for lists and pages.
NEEDS: dict[Need, str] = {
    "descriptions": "descriptions of the classes",
    "unlabelled": "all training images, without labels",
    "teacher": "another backbone as a teacher (outside information)",
    "stream": "all test images at once, in a drawn order",
    "words": "a list of common words, read by both backbones",
}
