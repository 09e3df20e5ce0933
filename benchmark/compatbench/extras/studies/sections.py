"""What pages say of classes that modules were not trained on."""

from __future__ import annotations

from pathlib import Path

from compatbench.extras.studies import class_tables
from compatbench.tables.pages.sections import Section

_FOLDER = Path(__file__).parent
CLASSES = Section(
    page="suite",
    place=70,
    title="Known and other classes",
    applies=class_tables.has_other_classes,
    template=str(_FOLDER / "classes.md.jinja"),
    functions=vars(class_tables),
)
ANSWER = Section(
    page="leaderboard",
    place=20,
    title="Known and other classes: {}",
    applies=class_tables.has_other_classes,
    template=str(_FOLDER / "classes_answer.md.jinja"),
    functions=vars(class_tables),
)
WORDS = Section(
    page="words",
    place=10,
    title="Words of protocols",
    applies=class_tables.has_other_classes,
    template=str(_FOLDER / "classes_words.md.jinja"),
    functions={},
)
