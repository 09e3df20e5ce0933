"""Class names and prompt templates: all that a module may know of a task when it is attached."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Labels:
    """The classes of a task, in label order, and its hand-written templates.

    Attributes:
        names: natural class names; label ``c`` is ``names[c]``.
        templates: prompts with ``{}`` for the name; the first is the single zero-shot template.
        teacher_template: the prompt that distilling methods pull towards.
    """

    names: tuple[str, ...]
    templates: tuple[str, ...]
    teacher_template: str

    def __len__(self) -> int:
        return len(self.names)

    def fill(self, template: str | None = None) -> tuple[str, ...]:
        """The template, by default the first, filled with every class name."""
        template = template or self.templates[0]
        return tuple(template.format(name) for name in self.names)
