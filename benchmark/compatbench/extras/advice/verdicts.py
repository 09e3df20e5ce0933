"""What the owner of a module should do in an upgrade: keep it, port it, retrain it, or drop it.

The verdict of a method on one upgrade, from what each transfer of its modules gives:

* ``keep`` the module untouched if it gains over the new model's zero-shot, and no way that needs
  neither images nor the old model at test time is better by more than the 95 % interval;
* ``port`` it by the best of these ways if that gains over zero-shot, and is clearly better;
* ``retrain`` if the best way with labels gains over zero-shot, or else ``zero-shot``;
* ``retrain or zero-shot`` if no way with labels was measured; ``unknown`` if the module untouched
  was not.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from textwrap import fill
from typing import Any

import numpy as np
import pandas as pd

from compatbench.data.cards import COPIED, backbone_cards
from compatbench.data.cards.shots import count_shots
from compatbench.extras.advice.cases import OLD, ZERO_SHOT, Case
from compatbench.extras.advice.price import (
    access_of,
    break_even,
    count_labels,
    describe_prices,
    format_prices,
)
from compatbench.messages import count
from compatbench.results.estimate import FEWEST_UNITS, interval_columns
from compatbench.tables.numbers import with_interval

CHEAP = {"words", "source weights"}  # what a way without images may need
WIDTH = 79
VERDICTS = {
    "keep": "keep it untouched",
    "port": "port it by {}",
    "retrain": "retrain it ({})",
    "zero-shot": "use zero-shot",
    "retrain or zero-shot": "retrain it, or use zero-shot",
    "unknown": "no verdict, for measurements are missing",
}


def judge(case: Case) -> dict[str, Any]:
    """The verdict with what it rests on, a row of ``Advice.frame``."""
    means = {name: float(figures.mean()) for name, figures in case.accuracy.items()}
    known = {name: means[name] for name in case.ways if not math.isnan(means[name])}
    cheap, labelled = (
        max(names, key=known.__getitem__, default="")
        for names in (
            [name for name in known if name != COPIED and CHEAP.issuperset(access_of(name))],
            [name for name in known if "labels" in access_of(name)],
        )
    )
    gains = {"": False} | {name: mean > means[ZERO_SHOT] for name, mean in known.items()}
    over = case.estimate(cheap, COPIED) if COPIED in known else None
    better = bool(cheap) and (over is None or over.sign == 1)
    if not {COPIED} & {*known, *case.reasons}:
        verdict, chosen = "unknown", ""
    elif gains.get(COPIED) and not better:
        verdict, chosen = "keep", COPIED
    elif gains[cheap] and better:
        verdict, chosen = "port", cheap
    elif gains[labelled]:
        verdict, chosen = "retrain", labelled
    else:
        verdict, chosen = "zero-shot" if labelled else "retrain or zero-shot", ""
    labels, worth = count_labels(case.ways), None
    curve = [means[ZERO_SHOT], *(means[name] for name in labels.values())]
    if verdict in ("keep", "port") and labels and not math.isnan(sum(curve)):
        worth = float(break_even(known[chosen], curve, [0, *labels]))
    gain = case.estimate(chosen, ZERO_SHOT)
    return {
        **case.about,
        "shots": case.shots,
        "verdict": verdict,
        "transfer": chosen,
        **interval_columns("expected", case.estimate(chosen or ZERO_SHOT)),
        "certain": gain is not None and gain.sign == 1,
        "cheap": cheap,
        **interval_columns("over_copied", over),
        "worth": worth,
        "tasks": len(case.tasks),
        "seeds": len(case.accuracy[case.ways[0]]),
        "images": case.images.sum(),
    }


def describe_ways(case: Case) -> Iterator[dict[str, Any]]:
    """The old model, zero-shot, and every way that was measured: rows of ``Advice.ways``."""
    for name in case.accuracy:
        yield {
            **case.about,
            "way": name,
            "needs": ", ".join(sorted(access_of(name))) if name in case.ways else "",
            **interval_columns("accuracy", case.estimate(name)),
            **interval_columns("gain", None if name == OLD else case.estimate(name, ZERO_SHOT)),
            "reason": case.reasons.get(name, ""),
        }


@dataclass(frozen=True, repr=False)
class Advice:
    """Verdicts; accuracies in percent, gains in points, ``_low`` and ``_high`` bound 95 %.

    ``frame`` has a row per upgrade and method: ``verdict``, the ``transfer`` that it names, the
    ``expected`` accuracy on the target, whether its gain is ``certain`` (the interval is above 0),
    ``over_copied`` of the best ``cheap`` way (without images), and ``worth``, the labels per class
    at which retraining is as good. ``ways`` has a row per transfer; ``prices`` too, where modules
    were trained anew with labels: what it needs (``needs``), the ``seconds`` that it takes, what it
    is ``worth`` in labels per class, infinite if more than were measured, and the ``share`` of the
    tasks on which it is worth any. ``str()`` says it in words.
    """

    cases: tuple[Case, ...]

    @property
    def frame(self) -> pd.DataFrame:
        return pd.DataFrame([judge(case) for case in self.cases])

    @property
    def ways(self) -> pd.DataFrame:
        return pd.DataFrame([row for case in self.cases for row in describe_ways(case)])

    @property
    def prices(self) -> pd.DataFrame:
        rows = [case.about | row for case in self.cases for row in describe_prices(case.prices)]
        return pd.DataFrame(rows)

    def __repr__(self) -> str:
        return f"<Advice: {len(self.cases)} verdicts>"

    def __str__(self) -> str:
        parts, last = list[str](), ""
        for case in self.cases:
            shots = "" if case.shots is None else f", {count_shots(case.shots)}"
            if (upgrade := f"{' → '.join(case.upgrade)}{shots}") != last:
                parts.append(last := upgrade)
            parts += _explain(case)
        return "\n".join([*parts, _wrap(_basis(self.cases))])


def _explain(case: Case) -> Iterator[str]:
    """A verdict in a line, and below it the figures."""
    plain, signed = "{:.1f}".format, "{:+.1f}".format
    row, said = judge(case), []
    title = f"{case.method}: {VERDICTS[row['verdict']].format(row['transfer'])}"
    if row["verdict"] != "unknown" and row["expected"] is not None:
        title += f"; expect {with_interval(row, 'expected', plain)} %"
    yield _wrap(title)
    for way in describe_ways(case):
        name = "untouched" if way["way"] == COPIED else way["way"]
        gain = "" if way["gain"] is None else f"gain {with_interval(way, 'gain', signed)}"
        text = f"{with_interval(way, 'accuracy', plain):23}{gain}"
        if way["accuracy"] is None:
            text = way["reason"] or "not measured on all tasks and seeds"
        yield _wrap(f"{name:20} {text}".rstrip(), "  ")
    if row["over_copied"] is not None:
        over = with_interval(row, "over_copied", signed)
        said.append(f"{row['cheap']} against the module untouched: {over}.")
    if (worth := row["worth"]) is not None:
        most = f"more than {max(count_labels(case.ways))}"
        labels = most if math.isinf(worth) else "fewer than 1" if worth < 1 else plain(worth)
        said.append(f"Retraining takes {labels} labelled images per class to be as accurate.")
    if not _retraining(case):
        said.append("Retraining was not measured.")
    if row["transfer"] and not row["certain"]:
        said.append("The gain may be chance, for its interval reaches 0: test on more images.")
    if said:
        yield _wrap(" ".join(said), "  ")
    yield from (f"  {line}" for line in format_prices(case.prices))


def _retraining(case: Case) -> bool:
    return any("labels" in access_of(name) for name in case.ways)


def _basis(cases: Sequence[Case]) -> str:
    """What all verdicts rest on."""

    def basis(case: Case) -> str:
        tasks, seeds = count(len(case.tasks), "task"), len(case.accuracy[case.ways[0]])
        images = count(int(np.nan_to_num(case.images).sum()), "test image")
        return f"{tasks} ({', '.join(case.tasks)}), {count(seeds, 'seed')} and {images}"

    many = any(len(case.tasks) >= FEWEST_UNITS for case in cases)
    chance = "Student's t over tasks" if many else "the counts of images and the seeds"
    text = f"This rests on {'; '.join(dict.fromkeys(map(basis, cases)))}. Accuracies are in "
    text += f"percent, gains over the new model's zero-shot; 95 % intervals are from {chance}."
    if not all(map(_retraining, cases)):
        text += " What retraining gives, 'run --transfers copied,words,retrained+4' measures."
    names = {name for case in cases for name in case.upgrade} & {*backbone_cards.builtin_names()}
    if any(backbone_cards.read(name).weights for name in names):
        text += " The models are miniatures: these are not the figures of CLIP or EVA-CLIP."
    return text


def _wrap(text: str, indent: str = "") -> str:
    return fill(
        text, WIDTH, initial_indent=indent, subsequent_indent=indent, break_on_hyphens=False
    )
