"""Which drawings show which class of which task, read from tasks.yaml."""

from __future__ import annotations

import re
import zlib
from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import pandas as pd
import yaml

from .corpus import pretraining_table
from .names import slug, table_path
from .render import load_drawings
from .sets import BUILD_FOLDER, names_with_role

#: Sets whose family is not the first word of their name.
FAMILIES = {"bxs": "bx"}
_PERSON = re.compile(r"^(man|woman|person)-|-(light|dark|man|woman)$")


@dataclass(frozen=True)
class TestSource:
    """Sets that give test drawings, and style words that bar a drawing."""

    title: str
    sets: tuple[str, ...]
    no_styles: frozenset[str] = frozenset()


@dataclass(frozen=True)
class TaskSpec:
    """One task as tasks.yaml gives it.

    Attributes:
        name: Short name, such as ``animals``.
        title: For people.
        note: One line on what the images are.
        templates: The first is the zero-shot template; all are the ensemble.
        sets: Sets that give the task its drawings: all held-out ones but those of variants.
        variants: Further test sets by name.
        classes: For each class name the lists ``emoji`` and ``icons`` of what shows it.
    """

    name: str
    title: str
    note: str
    templates: tuple[str, ...]
    sets: tuple[str, ...]
    variants: dict[str, TestSource]
    classes: dict[str, dict[str, list[str]]]


@dataclass
class ClassDrawings:
    """The distinct drawings of one class: rows of the drawings table, in a fixed random order.

    Attributes:
        name: The class.
        drawings: Rows of the task's sets.
        variants: Rows of each variant.
        pretraining: How many drawings of its concepts the source's pre-training has.
    """

    name: str
    drawings: pd.DataFrame
    variants: dict[str, pd.DataFrame] = field(default_factory=dict)
    pretraining: int = 0


@cache
def _document() -> dict[str, Any]:
    return yaml.safe_load((BUILD_FOLDER / "tasks.yaml").read_text(encoding="utf-8"))


def limits() -> dict[str, int]:
    """Bounds on classes and drawings; see the head of tasks.yaml."""
    return _document()["limits"]


def family(icon_set: str) -> str:
    """The family of a set: sets of one family draw many silhouettes alike."""
    return FAMILIES.get(icon_set, icon_set.split("-")[0])


def task_specs() -> dict[str, TaskSpec]:
    """All tasks by name, in the order of tasks.yaml.

    Raises:
        ValueError: A set of a variant is not held out.
    """
    document = _document()
    specs = {}
    for name, row in document["tasks"].items():
        variants = {
            key: TestSource(v["title"], _flat(v["test"]), frozenset(v.get("no_styles", ())))
            for key, v in row.get("variants", {}).items()
        }
        elsewhere = {s for source in variants.values() for s in source.sets}
        spec = TaskSpec(
            name=name,
            title=row["title"],
            note=row["note"],
            templates=tuple(row.get("templates", document["templates"])),
            sets=tuple(s for s in names_with_role("held-out") if s not in elsewhere),
            variants=variants,
            classes=row["classes"],
        )
        if unknown := elsewhere - set(names_with_role("held-out")):
            raise ValueError(f"Task {name} tests on {sorted(unknown)}: not held-out sets.")
        specs[name] = spec
    return specs


def _flat(items: Iterable[str | list[str]]) -> tuple[str, ...]:
    return tuple(s for item in items for s in (item if isinstance(item, list) else [item]))


def fixed_number(*parts: object) -> int:
    """A number below 2**32 that depends on the parts only: seeds and fixed random orders."""
    return zlib.crc32("/".join(map(str, parts)).encode("utf-8"))


class Finder:
    """Finds the drawings of classes in the table of all drawings."""

    def __init__(self, work: Path) -> None:
        table = pd.read_parquet(table_path(work))
        table = table[table.role == "held-out"].copy()
        known = (table.label != "") | ~table.emoji
        table = table[known].reset_index(drop=True)
        # Of the pixels, to tell copies.
        table["digest"] = [zlib.crc32(one.tobytes()) for one in load_drawings(work, table)]
        self._table = table
        self._pretraining = pretraining_table(work, "source").concept.value_counts()

    def find(self, spec: TaskSpec, name: str) -> ClassDrawings:
        """The drawings of one class of a task."""
        wanted = spec.classes[name]
        table = self._table
        emoji = {slug(label) for label in wanted.get("emoji", ())}
        icons = set(wanted.get("icons", ()))
        mask = (table.emoji & table.concept.isin(emoji)) | (
            ~table.emoji & table.concept.isin(icons)
        )
        shown = table[mask]
        return ClassDrawings(
            name=name,
            drawings=self._distinct(shown, spec.sets, frozenset(), spec.name),
            variants={
                key: self._distinct(shown, source.sets, source.no_styles, f"{spec.name}-{key}")
                for key, source in spec.variants.items()
            },
            pretraining=int(self._pretraining.reindex(shown.concept.unique()).fillna(0).sum()),
        )

    @staticmethod
    def _distinct(
        shown: pd.DataFrame, sets: tuple[str, ...], no_styles: frozenset[str], salt: str
    ) -> pd.DataFrame:
        """One row per design: of the skin tones or styles of one icon of a set, one is taken.

        The column ``design`` names family and concept: what may share a silhouette.
        """
        rows = shown[shown.set.isin(sets)]
        if no_styles:
            rows = rows[rows["style"].map(lambda s: not no_styles & set(s.split())).astype(bool)]
        order = [fixed_number(salt, s, n) for s, n in zip(rows.set, rows.name, strict=True)]
        concepts = [_PERSON.sub("", concept) for concept in rows.concept]
        design = [f"{family(s)}/{c}" for s, c in zip(rows.set, concepts, strict=True)]
        rows = rows.assign(order=order, design=design).sort_values("order")
        return rows.drop_duplicates(["set", "concept"]).drop_duplicates("digest")
