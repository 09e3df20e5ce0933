"""Step ``likeness``: does the mini pair behave like the real one, as far as that is known?

Reads the committed results of the suites ``mini`` and ``mini-shots`` and writes the table of
``docs/mini-suite.md`` and the line ``likeness`` of the suite's card. The figures of the real
pair are published ones: the averages over eleven datasets at 16 shots on ViT-B/16.
"""

from __future__ import annotations

import json
import re
from pathlib import Path

import pandas as pd

from compatbench.data.cards import suite_cards
from compatbench.results.estimate import draw_resamples, estimate, percentile_interval
from compatbench.results.result_files import read_results
from compatbench.tables.markdown import fill_section

from .reading import read_card
from .report import to_markdown
from .sets import TASKS_FOLDER

#: Averages over eleven datasets, ViT-B/16, 16 shots, percent. CLIP-LoRA (arXiv:2405.18541),
#: table 1; linear probe and PromptSRC from PromptSRC (arXiv:2307.06948), table 13; GDA from
#: the authors' log (arXiv:2402.04087).
PUBLISHED = {
    "zeroshot": 65.1,
    "cocoop": 75.3,
    "clip_adapter": 75.5,
    "kgcoop": 77.3,
    "maple": 78.6,
    "linear_probe": 78.8,
    "coop": 80.0,
    "prograd": 79.9,
    "tip_adapter_f": 80.7,
    "taskres": 80.8,
    "gda": 81.85,
    "promptsrc": 82.9,
    "clip_lora": 83.0,
}
SHOTS = 16
RESULTS_FOLDER = TASKS_FOLDER.parent / "results"
PAGE = TASKS_FOLDER.parent / "docs" / "mini-suite.md"
CARD = TASKS_FOLDER / "suites" / "mini.yaml"


def write_likeness(work: Path) -> None:
    """Writes the tables between the markers of the page; the working folder is not used."""
    del work
    rows, tables = likeness()
    text = fill_section(PAGE.read_text(encoding="utf-8"), "likeness", tables)
    PAGE.write_text(text, encoding="utf-8")
    CARD.write_text(fill_card(CARD.read_text(encoding="utf-8"), rows), encoding="utf-8")


def fill_card(text: str, rows: list[dict[str, str]]) -> str:
    """The suite's card with its line ``likeness``."""
    holds, fails = ([r["property"] for r in rows if (r["holds"] == "yes") == yes] for yes in (1, 0))
    line = f"Of {len(rows)} properties of real upgrades, {len(holds)} hold here"
    line += f" ({'; '.join(holds)})" if holds else ""
    line += f". These do not: {'; '.join(fails)}." if fails else "."
    return re.sub(r"(?m)^likeness: .*$", lambda _: f"likeness: {json.dumps(line)}", text)


def likeness(results: Path = RESULTS_FOLDER) -> tuple[list[dict[str, str]], str]:
    """What is known of the real pair and what the mini pair shows: rows, and tables in Markdown."""
    main, by_shots = read_rows(results / "mini"), read_rows(results / "mini-shots")
    main = main[~main["method"].isin(suite_cards.read("mini").unranked)]
    source = main[(main.backbone == main.source) & (main.test_set == main.task)]
    rows = [
        *zero_shot_facts(main),
        rank_agreement(source),
        probe_gain(source),
        prompts_and_probe(source),
        below_zero_shot(source),
        *after_the_upgrade(main),
    ]
    if len(by_shots):
        curve = shots_curve(by_shots[by_shots.backbone == by_shots.source])
        rows.append(monotony(curve))
    if source.seed.nunique() > 1:
        rows.append(spread_over_seeds(source))
    tables = [to_markdown(pd.DataFrame(rows)), methods_table(source)]
    if len(by_shots):
        tables.append(to_markdown(curve.reset_index()))
    return rows, "\n\n".join(tables)


def read_rows(folder: Path) -> pd.DataFrame:
    """The measured rows of a suite's results, with ``accuracy`` in percent."""
    frame = read_results(folder).frame
    return frame[(frame["status"] == "ok") & (frame["transfer"] == "copied")]


def fact(name: str, known: str, wanted: str, found: str, holds: bool) -> dict[str, str]:
    """A row of the main table."""
    return {
        "property": name,
        "what is known of the real pair": known,
        "the mini pair must show": wanted,
        "it shows": found,
        "holds": "yes" if holds else "**no**",
    }


def zero_shot_facts(rows: pd.DataFrame) -> list[dict[str, str]]:
    """Zero-shot accuracy of the source, over chance, and of the targets over the source."""
    plain = rows[(rows.method == "zeroshot") & (rows.test_set == rows.task)]
    table = plain.pivot_table(index="task", columns="backbone", values="accuracy")
    (source,) = plain.source.unique()
    mean = table.mean()
    classes = {task: len(read_card(task.removeprefix("mini-"))["classes"]) for task in table.index}
    over_chance = (table[source] / (100 / pd.Series(classes))).sort_values()
    facts = [
        fact(
            "zero-shot accuracy",
            "zero-shot ViT-B/16 about 65 on the mean of 11 datasets",
            "source 45 to 70, every task at least 5 × chance",
            f"{mean[source]:.1f}; least {over_chance.iloc[0]:.1f} × ({over_chance.index[0]})",
            45 <= mean[source] <= 70 and round(over_chance.iloc[0], 6) >= 5,
        )
    ]
    for target in (name for name in table if name != source):
        gain = mean[target] - mean[source]
        facts.append(
            fact(
                f"gain of {target} over the source",
                "EVA02-B/16 about +5.5",
                "target + 3 to + 12",
                f"{gain:+.1f} ({target})",
                3 <= gain <= 12,
            )
        )
    return facts


def rank_agreement(source: pd.DataFrame) -> dict[str, str]:
    """Spearman's correlation of the methods' source accuracy with the published averages.

    The interval is over tasks.
    """
    table = mean_accuracy(source, "task")
    methods = [name for name in PUBLISHED if name in table.index and name != "zeroshot"]
    published = pd.Series(PUBLISHED)[methods]
    accuracy, resamples = table.loc[methods].to_numpy(), draw_resamples(table.shape[1])
    draws = [accuracy.mean(axis=1), *(accuracy[:, some].mean(axis=1) for some in resamples)]
    found = [published.corr(pd.Series(one, methods), method="spearman") for one in draws]
    interval = percentile_interval(found[0], found[1:], table.shape[1])
    return fact(
        "ranks of the methods",
        "16-shot averages of the methods on ViT-B/16",
        "Spearman's rank correlation with them at least 0.75",
        f"{found[0]:.2f} ({interval.low:.2f} to {interval.high:.2f}) over {len(methods)} methods",
        found[0] >= 0.75,
    )


def probe_gain(source: pd.DataFrame) -> dict[str, str]:
    """The linear probe's gain over zero-shot."""
    means = mean_accuracy(source, "task").mean(axis=1)
    gain = means["linear_probe"] - means["zeroshot"]
    return fact(
        "gain of the linear probe",
        "a linear probe gains 13.7 points over zero-shot",
        "at least 8 points",
        f"{gain:+.1f}",
        gain >= 8,
    )


def prompts_and_probe(source: pd.DataFrame) -> dict[str, str]:
    """CoOp's gain over zero-shot as a share of the linear probe's."""
    means = mean_accuracy(source, "task").mean(axis=1)
    gains = means[["coop", "linear_probe"]] - means["zeroshot"]
    share = gains["coop"] / gains["linear_probe"]
    return fact(
        "gain of CoOp beside the probe's",
        "CoOp gains about what a linear probe gains (14.9 and 13.7 points)",
        "CoOp's gain at least 75 % of the linear probe's",
        f"{gains['coop']:+.1f} and {gains['linear_probe']:+.1f} points: {100 * share:.0f} %",
        gains["linear_probe"] > 0 and share >= 0.75,
    )


def below_zero_shot(source: pd.DataFrame) -> dict[str, str]:
    """Methods whose accuracy on the source is below zero-shot by more than chance."""
    table = mean_accuracy(source, "task")
    gains = table.drop(index="zeroshot") - table.loc["zeroshot"]
    below = [name for name in gains.index if estimate(gains.loc[name]).sign < 0]
    return fact(
        "no method below zero-shot",
        "every published method gains over zero-shot on its own model",
        "no method below zero-shot by more than its interval over tasks",
        ", ".join(below) or "none",
        not below,
    )


def after_the_upgrade(rows: pd.DataFrame) -> list[dict[str, str]]:
    """What the founding paper (arXiv:2412.20895) reports of copied modules, in signs alone."""
    plain = rows[(rows.test_set == rows.task) & (rows.backbone != rows.source)]
    means = {
        target: mean_accuracy(one, "task").mean(axis=1) for target, one in plain.groupby("backbone")
    }
    facts = []
    for method, title, sign in (("coop", "CoOp", -1), ("contcoop", "ContCoOp", 1)):
        gains = {name: one[method] - one["zeroshot"] for name, one in means.items()}
        where = "below" if sign < 0 else "above"
        facts.append(
            fact(
                f"{title}'s module on the target",
                f"{title}'s module, copied, is {where} the new model's zero-shot",
                f"{where} zero-shot on every target",
                ", ".join(f"{gain:+.1f} ({name})" for name, gain in gains.items()),
                all(sign * gain > 0 for gain in gains.values()),
            )
        )
    return facts


def spread_over_seeds(source: pd.DataFrame) -> dict[str, str]:
    """The largest deviation over seeds of a method's mean over tasks."""
    learned = source[source.method.isin(source[source.seed > source.seed.min()].method)]
    spread = mean_accuracy(learned, "seed").std(axis=1, ddof=1).sort_values()
    return fact(
        "agreement of seeds",
        "seeds agree within a point or so on the mean",
        "standard deviation of the mean over seeds below 1.5 points",
        f"median {spread.median():.2f}, largest {spread.iloc[-1]:.2f} ({spread.index[-1]})",
        spread.iloc[-1] < 1.5,
    )


def mean_accuracy(source: pd.DataFrame, column: str) -> pd.DataFrame:
    """Mean accuracy of the cells with 16 shots, ``[methods, values of the column]``."""
    rows = source[(source.shots == SHOTS) | (source.method == "zeroshot")]
    return rows.groupby(["method", column]).accuracy.mean().unstack()


def methods_table(source: pd.DataFrame) -> str:
    """Published averages and the mini suite's, side by side."""
    means = mean_accuracy(source, "seed").mean(axis=1)
    table = pd.DataFrame({"ViT-B/16, published": PUBLISHED, "mini-clip": means}).dropna()
    table = table.sort_values("ViT-B/16, published")
    return to_markdown(table.rename_axis("method").reset_index())


def shots_curve(own: pd.DataFrame) -> pd.DataFrame:
    """Mean accuracy over tasks and seeds, ``[methods, shots]``."""
    learned = own[own.method != "zeroshot"]
    return learned.groupby(["method", "shots"]).accuracy.mean().unstack()


def monotony(curve: pd.DataFrame) -> dict[str, str]:
    """Whether more shots help every method."""
    steps = curve.diff(axis=1).iloc[:, 1:]
    falling = [name for name in curve.index if (steps.loc[name] < 0).any()]
    return fact(
        "more shots, more accuracy",
        "more shots help every method, monotonically on average",
        "the same from 1 to 16 shots",
        f"the mean of all methods: {', '.join(f'{v:.1f}' for v in curve.mean())}; "
        + (f"not monotone: {', '.join(falling)}" if falling else "every method rises at each step"),
        not falling,
    )
