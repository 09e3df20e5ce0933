"""Cells and columns that the leaderboard's tables share, as Markdown."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

from compatbench.pages.markdown import bold_best, escape, linked, percent, spread
from compatbench.pages.suitepage import SuitePage
from compatbench.results.measures import Mean, Measure, Standing

Item = TypeVar("Item")


def method_cell(standing: Standing) -> str:
    """The title, linked; the zero-shot classifier, which inserts nothing, is the floor."""
    title = linked(standing.title, standing.info.paper)
    return f"{title} (floor)" if standing.info.depth == "none" else title


def upgrade_text(page: SuitePage, upgrade: Sequence[str]) -> str:
    """The models of an upgrade or a path by their titles, not escaped."""
    return " → ".join(page.backbone_title(name) for name in upgrade)


def upgrade_cell(page: SuitePage, upgrade: Sequence[str]) -> str:
    """The models of an upgrade or a path by their titles."""
    return " → ".join(escape(page.backbone_title(name)) for name in upgrade)


def value(mean: Mean | None) -> float | None:
    """The figure alone."""
    return None if mean is None else mean.value


def spread_column(means: Sequence[Mean | None], states: Sequence[str] = ()) -> list[str]:
    """Means with their spread, the best in bold; where there is none, the state if it says why."""
    cells = [spread(mean) for mean in means]
    if states:
        cells = [state or cell for state, cell in zip(states, cells, strict=True)]
    return bold_best([value(mean) for mean in means], cells)


def column(means: Sequence[Mean | None]) -> list[str]:
    """Means, the best in bold."""
    values = [value(mean) for mean in means]
    return bold_best(values, [percent(one) for one in values])


def arrow_column(
    items: Sequence[Item], figure: Callable[[Item, Measure], float | None]
) -> list[str]:
    """``source → target``, the best of each side in bold."""
    sides = []
    for measure in ("source", "target"):
        values = [figure(item, measure) for item in items]
        sides.append(bold_best(values, [percent(one) for one in values]))
    return [f"{source} → {target}" for source, target in zip(*sides, strict=True)]


def setting_cell(setting: Any) -> str:
    """A method's setting as a file has it."""
    if setting is None:
        return "none"
    text = setting if isinstance(setting, str) else json.dumps(setting, ensure_ascii=False)
    return escape(text)
