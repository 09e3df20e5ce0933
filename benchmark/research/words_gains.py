"""What the transfer ``words`` gains over copying, from a suite's results."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from compatbench.data.cards import SuiteCard, suite_cards
from compatbench.errors import CompatbenchError
from compatbench.extras.studies import frames
from compatbench.extras.studies.frames import Row, StudyReport
from compatbench.results.estimate import interval_columns
from compatbench.results.expected import Upgrade
from compatbench.results.standing import (
    Standing,
    compute_standing,
    measure_interval,
    paired_interval,
)
from compatbench.tables.figures.spec_parts import Shown
from compatbench.tables.numbers import percent, with_interval
from compatbench.tables.suite_page import SuitePage, read_suite_page
from compatbench.tables.table import Table, code, join, plain_table, records, sentence


@dataclass(frozen=True)
class GainsReport(StudyReport):
    """Copied modules against those brought along by ``words``: ``compare_transfers`` by upgrade."""

    gains: Mapping[Upgrade, pd.DataFrame]

    def tables(self) -> list[Table]:
        """One table for each upgrade that has results; an error if none has."""
        header = ["Method", "Source", "Copied", "Words", "Gain", "Over zero-shot"]
        tables = []
        for pair, found in self._known():
            rows = [
                [
                    one["title"],
                    *[frames.spread(one, name) for name in ("source", "copied", "words")],
                    *[with_interval(one, name) for name in ("gain", "over_zero_shot")],
                ]
                for one in found
            ]
            zero_shot = percent(found[0]["zero_shot"])
            head = sentence(join(map(code, pair)), f", the target's zero-shot is {zero_shot}:")
            tables.append(plain_table(header, rows, caption=head))
        return tables

    figure, figures = "gains", Path(__file__).with_name("alignment.yaml.jinja")

    def shown(self) -> Shown:
        """From copied to ``words``, a line for each method, and the target's zero-shot."""
        names = ("title", "copied", "words", "zero_shot")
        rows = [
            {"panel": " → ".join(pair), **{name: row[name] for name in names}}
            for pair, found in self._known()
            for row in sorted(found, key=lambda row: -row["words"])
        ]
        return Shown(rows, {"series": ["copied", "words"]})

    def _known(self) -> list[tuple[Upgrade, list[dict[str, Any]]]]:
        known = [(pair, records(found)) for pair, found in self.gains.items() if len(found)]
        if not known:
            raise CompatbenchError(
                "there are no results of a method both copied and through words; run "
                "'compatbench run --transfers copied,words' first"
            )
        return known


def study_gains(suite: SuiteCard, out: str | Path = ".") -> GainsReport:
    """What ``words`` gains on a suite's upgrades, and on others of the suites shown under it."""
    gains: dict[Upgrade, pd.DataFrame] = {}
    cards = map(suite_cards.read, suite_cards.names())
    sections = [one for one in cards if one.publish == "section" and one.extends == suite.name]
    for card in (suite, *sections):
        page = read_suite_page(card, Path(out))
        for pair in page.expected.upgrades:
            found = compare_transfers(page, pair, max(card.shots))
            if card is suite or len(found):
                gains.setdefault(pair, found)
    return GainsReport(gains)


def compare_transfers(page: SuitePage, upgrade: Upgrade, shots: int) -> pd.DataFrame:
    """The methods that are measured with both transfers, the largest gain first, in percent.

    Returns:
        ``method``, ``title``; mean and standard deviation over seeds of ``source``, ``copied``,
        ``words``; ``zero_shot`` of the target; and, with an interval over the tasks, what
        ``words`` is above copied, ``gain``, and above it, ``over_zero_shot``.
    """
    rows = []
    for method in page.results.of("words").values():
        plain = page.results.methods.get(method.info.name)
        if plain is None:
            continue
        both = [compute_standing(one, page.expected, upgrade, shots) for one in (plain, method)]
        copied, words = both
        if copied.is_measured and words.is_measured:
            row = {"method": plain.info.name, "title": plain.info.title}
            rows.append(row | _compare(copied, words))
    if not rows:
        return pd.DataFrame()
    frame = pd.DataFrame(rows).sort_values("method")
    return frame.sort_values("gain", ascending=False, kind="stable", ignore_index=True)


def _compare(copied: Standing, words: Standing) -> Row:
    row = frames.mean_columns("source", copied.mean("source"))
    for name, standing in (("copied", copied), ("words", words)):
        row |= frames.mean_columns(name, standing.mean("target"))
    means = [frames.task_means(copied, measure).mean() for measure in ("target", "gain")]
    row["zero_shot"] = means[0] - means[1]
    row |= interval_columns("gain", paired_interval(words, copied, "target"))
    return row | interval_columns("over_zero_shot", measure_interval(words, "gain"))
