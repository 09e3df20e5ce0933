"""Step ``trials``: what was tried so that more properties of real upgrades hold.

Reads the rows of ``benchmark/research/likeness_trials.py`` and the committed results of the suite
``mini``, and writes a table of ``docs/mini-suite.md``. All figures are those of step ``likeness``.
"""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from compatbench.tables.markdown import fill_section

from .likeness import (
    PAGE,
    RESULTS_FOLDER,
    SHOTS,
    mean_accuracy,
    probe_gain,
    prompts_and_probe,
    rank_agreement,
    read_rows,
)
from .report import to_markdown
from .sets import TASKS_FOLDER

ROWS = TASKS_FOLDER.parent / "benchmark" / "research" / "results" / "likeness_trials.csv"
#: After the name of a method that has four times the steps that the suite allows it.
LONGER = "+longer"
#: The trials in the order of the table.
TITLES = {
    "longer": "the suite",
    "classes-40": "six tasks of 37 to 40 classes",
    "patch-12": "300 more batches, patches of 12",
    "patch-6": "300 more batches, patches of 6",
}


def write_trials(work: Path) -> None:
    """Writes the table between the markers of the page; the working folder is not used."""
    del work
    text = fill_section(PAGE.read_text(encoding="utf-8"), "trials", trials_table())
    PAGE.write_text(text, encoding="utf-8")


def trials_table() -> str:
    """The suite and the trials in Markdown: one seed, and the methods that the trials have."""
    trials = pd.read_csv(ROWS).assign(shots=SHOTS)
    suite = read_rows(RESULTS_FOLDER / "mini")
    suite = suite[(suite.backbone == suite.source) & (suite.test_set == suite.task)]
    suite = suite[(suite.seed == 1) & suite.method.isin(trials.method)]
    minutes = suite.fit_seconds.sum() / 60
    rows = [_describe("the suite", suite.assign(training_minutes=0.0, fit_minutes=minutes))]
    for name, title in TITLES.items():
        part = trials[trials.trial == name]
        longer = part[part.method.str.endswith(LONGER)]
        plain = part.drop(index=longer.index)
        if len(plain):
            rows.append(_describe(title, plain))
        if len(longer):
            longer = longer.assign(method=longer.method.str.removesuffix(LONGER))
            others = plain if len(plain) else suite
            shown = pd.concat([others[~others.method.isin(longer.method)], longer])
            names = ", ".join(sorted(longer.method.unique()))
            rows.append(_describe(f"{title}; {names} in four times the steps", shown))
    return to_markdown(pd.DataFrame(rows))


def _describe(title: str, rows: pd.DataFrame) -> dict[str, object]:
    """A row of the table, from the accuracies of methods on the source, in percent."""
    means = mean_accuracy(rows, "task").mean(axis=1)
    return {
        "what": title,
        "zero-shot": float(means["zeroshot"]),
        "correlation with published ranks": rank_agreement(rows)["it shows"].split("; ")[0],
        "gain of the linear probe": probe_gain(rows)["it shows"],
        "CoOp's gain beside it": prompts_and_probe(rows)["it shows"].split(": ")[1],
        "minutes of training": float(rows["training_minutes"].max()),
        "minutes of fits": float(rows["fit_minutes"].max()),
    }
