"""What a stress test gives: the accuracy of methods on a target that was changed."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import cycle
from typing import TYPE_CHECKING

import pandas as pd

from compatbench.pages.figures.svg import BLUE, GREEN, GREY, ORANGE, PURPLE, RED, SKY
from compatbench.pages.markdown import NOTHING, code, percent
from compatbench.studies.study_report import (
    StudyReport,
    TextTable,
    new_figure,
    plot_means,
    records,
    spread,
)

if TYPE_CHECKING:
    from matplotlib.figure import Figure

RANDOM = "random"
# Behind the name of a method whose modules were attached through words.
THROUGH_WORDS = " (words)"
COLOURS = (BLUE, ORANGE, GREEN, RED, PURPLE, SKY, "#000000")
CHANGES = {
    "turned": "accuracy on the target by the largest angle of its turn, mean ± std over turns",
    "sizes": "accuracy on the target by the size of its narrowed joint space",
    "words": "accuracy on the target by the words of which the turn was found",
}


@dataclass(frozen=True)
class StressReport(StudyReport):
    """Methods, copied and by ``words``, on a changed target; in percent, mean over tasks.

    Attributes:
        kind: ``turned``, ``sizes`` (the target narrowed) or ``words`` (the rotation is found from
            parts of the word list).
        points: one row for each ``method`` (with `` (words)`` if its modules were attached
            through words) and ``change`` (the largest angle in degrees or ``random``, the
            narrower size, or the words): mean and standard deviation, over turns and seeds, of
            ``source``, ``target`` and ``h``, the last two missing if the method is not
            transferable, for which ``reason`` is given; ``zero_shot`` of the changed target;
            ``flipped``, the most zero-shot answers that one of the turns changed.
    """

    source: str
    target: str
    kind: str
    points: pd.DataFrame

    def tables(self) -> list[TextTable]:
        """One row for each method, one column for each change."""
        points = records(self.points)
        zero_shot = {one["change"]: percent(one["zero_shot"]) for one in points}
        rows = {"": ["zero-shot", NOTHING, *zero_shot.values()]}
        for one in points:
            name = one["method"]
            row = rows.setdefault(name, [name, percent(one["source"])])
            row.append(spread(one, "target"))
        notes = []
        if self.kind == "turned":
            flipped = max(one["flipped"] for one in points)
            notes.append(f"Zero-shot answers that any turn has changed, by rounding: {flipped}.")
        if reason := next((one["reason"] for one in points if one["reason"]), ""):
            notes.append(f"{NOTHING}: not transferable; {reason}, and so on.")
        unit = "°" if self.kind == "turned" else ""
        header = ["", "source", *[name if name == RANDOM else name + unit for name in zero_shot]]
        head = f"{code(self.source)} → {code(self.target)}, {CHANGES[self.kind]}:"
        mark = {0: lambda name: name if name == "zero-shot" else code(name)}
        return [TextTable(header, [*rows.values()], head, notes, markup=mark)]

    def draw(self) -> Figure:
        """Accuracy on the target by how it was changed: copied modules left, ``words`` right."""
        figure = new_figure(9, 3.8)
        panels = figure.subplots(1, 2, sharey=True)
        points = records(self.points)
        zero_shot = {one["change"]: one["zero_shot"] for one in points}
        names = dict.fromkeys(one["method"].removesuffix(THROUGH_WORDS) for one in points)
        for axes, suffix in zip(panels, ("", THROUGH_WORDS), strict=True):
            axes.plot([*zero_shot], [*zero_shot.values()], "--", color=GREY, label="zero-shot")
            for name, colour in zip(names, cycle(COLOURS), strict=False):
                own = [one for one in points if one["method"] == name + suffix]
                own = [one for one in own if one["target"] is not None]
                if own:
                    changes = [one["change"] for one in own]
                    plot_means(axes, changes, own, "target", color=colour, fmt="o-", label=name)
            axes.set_title("words" if suffix else "copied")
            angles = RANDOM in zero_shot
            axes.set_xlabel("largest angle of the turn, degrees" if angles else "change")
        panels[0].set_ylabel("accuracy on the target, %")
        panels[0].set_ylim(bottom=0)
        figure.legend(*panels[0].get_legend_handles_labels(), loc="outside right upper")
        how = {"sizes": "narrowed", "words": "by words"}.get(self.kind, self.kind)
        figure.suptitle(f"{self.source} → {self.target}, {how}", fontsize=10)
        return figure
