"""The schema of task cards, and what all schemas share."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, PositiveInt, StringConstraints, model_validator

from compatbench.cards.yamlfile import CardModel

# A name becomes part of a path, so it may not hold separators or dots alone.
Name = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,99}$")]
# Inside tasks/ and nowhere else.
_PART = r"[A-Za-z0-9_-][A-Za-z0-9_.-]*"
RelativePath = Annotated[str, StringConstraints(pattern=rf"^{_PART}(/{_PART})*$")]
# The name of a card, or one that needs no card: MODEL/TAG, MODEL@FILE, MODEL/TAG@FILE,
# local-dir:FOLDER, hf:FOLDER and hf:OWNER/NAME.
_NAME = r"[A-Za-z0-9][A-Za-z0-9_.-]{0,99}"
_PATH = r"[^\s\x00-\x1f]([^\x00-\x1f]{0,998}[^\s\x00-\x1f])?"
BackboneName = Annotated[
    str,
    StringConstraints(pattern=rf"^({_NAME}(/{_NAME})?(@{_PATH})?|(local-dir|hf):{_PATH})$"),
]
Template = Annotated[str, StringConstraints(pattern=r"^[^{}]*\{\}[^{}]*$")]


class DrawingsSource(CardModel):
    """Images painted from the drawings that ship with the mini suite."""

    kind: Literal["drawings"]
    split: RelativePath = Field(description="CSV of split,label,set,tile,paint, relative to tasks/")


class TaskCard(CardModel):
    """A dataset: class names, prompt templates, splits, source of the images, licence.

    A card with a ``parent`` is a *variant*: a test set with the parent's classes,
    in the parent's order, from which nothing is ever learned.
    """

    name: Name
    title: str
    suite_note: str = ""
    parent: Name | None = None
    classes: tuple[str, ...] = ()
    templates: tuple[Template, ...] = ()
    teacher_template: Template | None = Field(
        None,
        description="hand-written prompt of the distilling methods; default: the first template",
    )
    source: DrawingsSource
    counts: dict[Literal["train", "val", "test"], PositiveInt]
    licence: str
    homepage: str = ""

    @model_validator(mode="after")
    def _classes_belong_to_parents(self) -> TaskCard:
        if self.parent is None:
            for field in ("classes", "templates"):
                if not getattr(self, field):
                    raise ValueError(f"a task without a parent needs '{field}'")
            if len(set(self.classes)) != len(self.classes):
                raise ValueError("two classes have the same name")
            if missing := {"train", "test"} - set(self.counts):
                raise ValueError(f"counts lack {', '.join(sorted(missing))}")
        elif self.classes or self.templates or set(self.counts) != {"test"}:
            raise ValueError("a variant inherits classes and templates, and has test images only")
        return self
