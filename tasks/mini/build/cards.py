"""Writes the task cards and the table of licences."""

from __future__ import annotations

from typing import Any

import yaml

from .sets import MINI_FOLDER, TASKS_FOLDER, icon_sets
from .splits import Split, Task

HOMEPAGE = "https://icon-sets.iconify.design"
DESCRIPTIONS = {
    "file": "descriptions/mini.json",
    "source": "written for compatbench from class names",
    "licence": "Apache-2.0",
}


def write_cards(tasks: list[Task]) -> None:
    """Writes ``tasks/mini-*.yaml`` and ``tasks/mini/LICENCES.md``."""
    for stale in TASKS_FOLDER.glob("mini-*.yaml"):
        stale.unlink()
    used: set[str] = set()
    for task in tasks:
        for split in task.splits:
            used |= set(split.rows.set)
            card, options = _card(task, split), dict(width=100, default_flow_style=None)
            text = yaml.safe_dump(card, sort_keys=False, allow_unicode=True, **options)
            (TASKS_FOLDER / f"mini-{split.name}.yaml").write_text(text, encoding="utf-8")
    _write_licences([name for name in icon_sets() if name in used])


def _card(task: Task, split: Split) -> dict[str, Any]:
    """The card of a task, or of a variant, which has classes and texts from its parent."""
    spec, name = task.spec, f"mini-{split.name}"
    if split.name != spec.name:
        variant = spec.variants[split.name.removeprefix(f"{spec.name}-")]
        parent = {"parent": f"mini-{spec.name}"}
        return {"name": name, "title": variant.title, **parent, **_common(split)}
    return {
        "name": name,
        "title": spec.title,
        "suite_note": spec.note,
        "classes": task.classes,
        "templates": list(spec.templates),
        "descriptions": DESCRIPTIONS,
        **_common(split),
    }


def _common(split: Split) -> dict[str, Any]:
    sets = [icon_sets()[name] for name in icon_sets() if name in set(split.rows.set)]
    by_licence: dict[str, list[str]] = {}
    for icon_set in sets:
        by_licence.setdefault(icon_set.licence, []).append(icon_set.name)
    licence = "; ".join(f"{key}: {', '.join(by_licence[key])}" for key in sorted(by_licence))
    return {
        "source": {"kind": "drawings", "split": f"mini/splits/{split.name}.csv"},
        "counts": split.counts(),
        "licence": licence,
        "homepage": HOMEPAGE,
    }


def _write_licences(names: list[str]) -> None:
    lines = [
        "# Licences of the drawings",
        "",
        "Each sprite sheet in `drawings/` holds drawings of one icon set, rendered at 48 × 48",
        "pixels from the set's SVG files and otherwise unchanged; backgrounds, colours of",
        "monochrome drawings and small movements are added when an image is read.",
        "",
        "| sheet | title and author | licence | from |",
        "| --- | --- | --- | --- |",
    ]
    for icon_set in (icon_sets()[name] for name in names):
        lines.append(
            f"| {icon_set.name} | {icon_set.attribution} | {icon_set.licence} | {icon_set.link} |"
        )
    lines += [
        "",
        "All sets come as `@iconify-json/<set>` from the npm registry; `build/sets.yaml` names the",
        "versions. The models were also trained on sets that are not shipped, among them two",
        "under CC-BY-SA-4.0 (OpenMoji, Emoji One v1); none of their drawings are in this folder.",
        "",
    ]
    (MINI_FOLDER / "LICENCES.md").write_text("\n".join(lines), encoding="utf-8")
