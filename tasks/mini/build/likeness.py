"""Step ``likeness``: compare the mini suite with what is known of real models.

Read the committed results of the suites ``mini`` and ``mini-shots``, and write the table of
``docs/mini-suite.md`` and the line ``likeness`` of the suite's card. The numbers of real models are
published ones: averages over eleven datasets at 16 shots on ViT-B/16. They are of an upgrade from
CLIP to EVA-CLIP, so only targets of that kind are compared.

A property holds if the whole 95 % interval agrees with it, and does not hold if the whole interval
disagrees. Otherwise it is not shown.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Iterable, Sequence
from functools import cache
from itertools import combinations
from pathlib import Path

import pandas as pd

from compatbench.data.cards import suite_cards
from compatbench.method.registry import builtin_methods
from compatbench.results.estimate import (
    Interval,
    draw_resamples,
    estimate,
    percentile_interval,
    ratio_of_means,
)
from compatbench.results.result_files import ResultFiles
from compatbench.tables.markdown import fill_section
from compatbench.tables.numbers import bounds, percent, signed

from .reading import read_card
from .report import to_markdown
from .sets import TASKS_FOLDER

#: The average over eleven datasets on ViT-B/16, percent, of CLIP-LoRA (arXiv:2405.18541), table 1:
#: the few-shot tables of ``results/published`` have no zero-shot.
ZERO_SHOT = 65.1
#: Where two tables have a figure, that of the one with most methods is taken.
SOURCES = ("arXiv:2307.06948, Table 13", "mrflogs/ICLR24, logs/architecture.log", "HALoRA, Table 5")
DATASETS = 11
FEWEST_METHODS = 20  # of which a correlation of ranks is decided
SHOTS = 16
EVA = "eva-clip"  # in the names of the targets that are compared
NOT_SHOWN = "not shown"  # the verdict if an interval contains the limit
FAILS = "**no**"
RESULTS_FOLDER = TASKS_FOLDER.parent / "results"
PAGE = TASKS_FOLDER.parent / "docs" / "mini-suite.md"
CARD = TASKS_FOLDER / "suites" / "mini.yaml"


def write_likeness(work: Path) -> None:
    """Write the tables between the markers of the page; the working folder is not used."""
    del work
    rows, tables = likeness()
    text = fill_section(PAGE.read_text(encoding="utf-8"), "likeness", tables)
    text = fill_section(text, "steps", describe_steps())
    PAGE.write_text(text, encoding="utf-8")
    CARD.write_text(fill_card(CARD.read_text(encoding="utf-8"), rows), encoding="utf-8")


def describe_steps() -> str:
    """Return how many steps the suite allows to methods that train through a tower."""
    limits: dict[str, int] = {}
    for name, settings in suite_cards.read("mini").methods.items():
        card = builtin_methods().get(settings.get("method", name)).card
        if "max_steps" in settings and not {"feature", "classifier"}.issuperset(card.places):
            limits[name] = settings["max_steps"]
    fewest = min(limits, key=limits.__getitem__)
    most = max(limits, key=limits.__getitem__)
    return (
        f"Methods that train through a tower have {limits[fewest]:,} steps (`{fewest}`) to "
        f"{limits[most]:,} (`{most}`). Published fits take thousands. CoOp learns sixteen vectors "
        f"from a random start in {limits['coop']:,} steps."
    )


def fill_card(text: str, rows: list[dict[str, str]]) -> str:
    """Return the suite's card with its line ``likeness``."""
    names: dict[str, list[str]] = {"yes": [], NOT_SHOWN: [], FAILS: []}
    for row in rows:
        names[row["holds"]].append(row["property"])
    sentences = [f"The mini suite was compared with real upgrades in {len(rows)} properties."]
    if names["yes"]:
        sentences.append(f"{_count_them(names['yes'], 'holds', 'hold')}.")
    if names[NOT_SHOWN]:
        why = " (an interval contains the limit)"
        counted = _count_them(names[NOT_SHOWN], f"is not shown{why}", f"are not shown{why}")
        sentences.append(f"{counted}.")
    if names[FAILS]:
        sentences.append(f"{_count_them(names[FAILS], 'does not hold', 'do not hold')}.")
    line = " ".join(sentences)
    return re.sub(r"(?m)^likeness: .*$", lambda _: f"likeness: {json.dumps(line)}", text)


def _count_them(names: Sequence[str], one: str, several: str) -> str:
    """Return ``2 hold: size; colour``."""
    return f"{len(names)} {one if len(names) == 1 else several}: {'; '.join(names)}"


def likeness(results: Path = RESULTS_FOLDER) -> tuple[list[dict[str, str]], str]:
    """Return what is known of real models and what the mini suite shows: rows, and tables."""
    files = ResultFiles(results.parent)
    main = read_rows(files, "mini")
    by_shots = read_rows(files, "mini-shots")
    main = main[~main["method"].isin(suite_cards.read("mini").unranked)]
    main = main[(main["backbone"] == main["source"]) | main["backbone"].str.contains(EVA)]
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
        rows.append(monotony(by_shots[by_shots.backbone == by_shots.source]))
    if source.seed.nunique() > 1:
        rows.append(spread_over_seeds(source))
    tables = [to_markdown(pd.DataFrame(rows)), methods_table(source)]
    return rows, "\n\n".join(tables)


def read_rows(files: ResultFiles, suite: str) -> pd.DataFrame:
    """Return the measured rows of a suite's results, with ``accuracy`` in percent."""
    frame = files.read_suite(suite).frame
    return frame[(frame["status"] == "ok") & (frame["transfer"] == "copied")]


def fact(name: str, known: str, wanted: str, found: str, holds: bool | None) -> dict[str, str]:
    """Return a row of the main table; ``holds`` is None if the results do not show which."""
    verdict = NOT_SHOWN if holds is None else "yes" if holds else FAILS
    return {
        "property": name,
        "real models": known,
        "the mini suite must show": wanted,
        "it shows": found,
        "holds": verdict,
    }


def lies_within(
    interval: Interval, least: float = -math.inf, most: float = math.inf
) -> bool | None:
    """Return True if an interval lies between two limits, and None if it contains one of them."""
    if least < interval.low and interval.high < most:
        return True
    if interval.high < least or most < interval.low:
        return False
    return None


def all_hold(verdicts: Iterable[bool | None]) -> bool | None:
    """Return False if one thing does not hold, and None if one is not shown."""
    found = set(verdicts)
    if False in found:
        return False
    return None if None in found else True


def zero_shot_facts(rows: pd.DataFrame) -> list[dict[str, str]]:
    """Return the facts on zero-shot: of the source over chance, of the targets over the source."""
    plain = rows[(rows.method == "zeroshot") & (rows.test_set == rows.task)]
    table = plain.pivot_table(index="task", columns="backbone", values="accuracy")
    (source,) = plain.source.unique()
    accuracy = estimate(table[source])
    classes = {task: len(read_card(task.removeprefix("mini-"))["classes"]) for task in table.index}
    over_chance = (table[source] / (100 / pd.Series(classes))).sort_values()
    facts = [
        fact(
            "zero-shot accuracy",
            "about 65 % for ViT-B/16, mean of 11 datasets",
            "source 45 to 70 %, every task at least 5 × chance",
            f"{show(accuracy, percent)}; "
            f"lowest task {over_chance.iloc[0]:.1f} × ({over_chance.index[0]})",
            # The number of a task is no estimate: the suite has these tasks.
            all_hold([lies_within(accuracy, 45, 70), round(over_chance.iloc[0], 6) >= 5]),
        )
    ]
    gains = {
        name: estimate(table[name] - table[source]) for name in table.columns if name != source
    }
    facts.append(
        fact(
            "gain of the targets over the source",
            "about +5.5 for EVA02-B/16",
            "+3 to +12 for every target",
            ", ".join(f"{show(gain)} on {name}" for name, gain in gains.items()),
            all_hold(lies_within(gain, 3, 12) for gain in gains.values()),
        )
    )
    return facts


@cache
def read_published() -> pd.DataFrame:
    """Return published results on ViT-B/16 at 16 shots: method, dataset, accuracy, source."""
    frame = pd.read_csv(RESULTS_FOLDER / "published" / "few_shot.csv")
    wanted = {"backbone": "vit-b16-openai", "shots": SHOTS, "protocol": "all classes"}
    for column, value in wanted.items():
        frame = frame[frame[column] == value]
    return frame


def published_table() -> pd.DataFrame:
    """Return published accuracies ``[methods, datasets]`` of methods with all eleven datasets."""
    frame = read_published()
    # Tables of domain generalisation have variants of ImageNet, too.
    eleven = set(frame[frame["source"] == SOURCES[0]]["test_set"])
    frame = frame[frame["test_set"].isin(eleven)]
    place = frame["source"].map({name: i for i, name in enumerate(SOURCES)}).fillna(len(SOURCES))
    frame = frame.assign(place=place).sort_values(["place", "source"], kind="stable")
    frame = frame.drop_duplicates(["method", "test_set"])
    return frame.pivot_table(index="method", columns="test_set", values="accuracy").dropna()


def published_gain(method: str) -> str:
    """Return the published mean gain of a method over zero-shot, in points."""
    return f"{published_table().loc[method].mean() - ZERO_SHOT:.1f}"


def rank_agreement(source: pd.DataFrame, published: pd.DataFrame | None = None) -> dict[str, str]:
    """Return the fact on Spearman's correlation of source accuracies with published averages.

    The interval is a bootstrap over methods, and over the tasks and the published datasets.
    """
    theirs = published_table() if published is None else published
    ours = mean_accuracy(source, "task")
    methods = [name for name in theirs.index if name in ours.index]
    theirs, ours = theirs.loc[methods].to_numpy(), ours.loc[methods].to_numpy()

    def correlate(rows: Sequence[int], tasks: Sequence[int], sets: Sequence[int]) -> float:
        means = (
            table[rows][:, some].mean(axis=1) for table, some in ((ours, tasks), (theirs, sets))
        )
        first, second = (pd.Series(mean).rank() for mean in means)
        return first.corr(second) if first.nunique() > 1 < second.nunique() else math.nan

    counts = len(methods), ours.shape[1], theirs.shape[1]
    value = correlate(*map(range, counts))
    draws = zip(*(draw_resamples(count, seed) for seed, count in enumerate(counts)), strict=True)
    interval = percentile_interval(value, [correlate(*draw) for draw in draws], min(counts))
    holds: bool | None = None
    if len(methods) >= FEWEST_METHODS:
        if value >= 0.75 and interval.low > 0.5:
            holds = True
        elif interval.high < 0.75:
            holds = False
    return fact(
        "ranks of the methods",
        "means of the methods over 11 datasets, ViT-B/16, 16 shots",
        "a rank correlation (Spearman) of 0.75 or more, with its interval above 0.5, over "
        f"{FEWEST_METHODS} methods or more",
        f"{value:.2f} ({interval.low:.2f} to {interval.high:.2f}) over {len(methods)} methods; "
        + ceiling(),
        holds,
    )


def ceiling() -> str:
    """Return how far two published tables agree, on the datasets that both have."""
    tables = {
        name: table.groupby(["method", "test_set"])["accuracy"].mean()
        for name, table in read_published().groupby("source")
    }
    both = {
        (one, other): pd.concat([tables[one], tables[other]], axis=1, join="inner")
        for one, other in combinations(sorted(tables), 2)
    }
    (one, other), shared = max(both.items(), key=lambda pair: len(pair[1]))
    means = shared.groupby("method").mean()
    gaps = means.iloc[:, 0].sub(means.iloc[:, 1]).abs()
    return (
        f"even two published tables ({one}; {other}) share {len(gaps)} methods, too few for ranks; "
        f"their means differ by {gaps.min():.1f} to {gaps.max():.1f} points"
    )


def probe_gain(source: pd.DataFrame) -> dict[str, str]:
    """Return the fact on the linear probe's gain over zero-shot."""
    table = mean_accuracy(source, "task")
    gain = estimate(table.loc["linear_probe"] - table.loc["zeroshot"])
    return fact(
        "gain of the linear probe",
        f"{published_gain('linear_probe')} points over zero-shot",
        "at least 8 points",
        show(gain),
        lies_within(gain, least=8),
    )


def prompts_and_probe(source: pd.DataFrame) -> dict[str, str]:
    """Return the fact on CoOp's gain over zero-shot as a share of the linear probe's."""
    table = mean_accuracy(source, "task")
    coop = table.loc["coop"] - table.loc["zeroshot"]
    probe = table.loc["linear_probe"] - table.loc["zeroshot"]
    share = estimate({"coop": 100 * coop, "probe": probe}, statistic=ratio_of_means)
    published = f"{published_gain('coop')} and {published_gain('linear_probe')} points"
    return fact(
        "gain of CoOp beside the probe's",
        f"about as much as the linear probe ({published})",
        "at least 75 % of the gain of the linear probe",
        f"{show(estimate(coop))} and {show(estimate(probe))} points: "
        f"{share.value:.0f} % ({share.low:.0f} to {share.high:.0f})",
        lies_within(share, least=75),
    )


def below_zero_shot(source: pd.DataFrame) -> dict[str, str]:
    """Return the fact on methods whose mean accuracy on the source is below zero-shot."""
    table = mean_accuracy(source, "task")
    floors = table.index.intersection(["zeroshot", "zeroshot_ensemble"])  # they learn nothing
    differences = table.drop(index=floors) - table.loc["zeroshot"]
    gains = {name: estimate(row) for name, row in differences.iterrows()}
    below = []
    for name, gain in sorted(gains.items(), key=lambda pair: pair[1].value):
        if gain.value < 0:
            below.append(f"{name} {show(gain)}")
    return fact(
        "no method below zero-shot",
        "every published method gains over zero-shot",
        "a mean gain of 0 or more for every method",
        ", ".join(below) or "none below 0",
        all_hold(lies_within(gain, least=0) for gain in gains.values()),
    )


def after_the_upgrade(rows: pd.DataFrame) -> list[dict[str, str]]:
    """Return facts on two claims of the founding paper (arXiv:2412.20895).

    The paper says that a module "fails" or "survives" and gives no limit. Here the limit is the
    zero-shot accuracy of the target.
    """
    plain = rows[(rows.test_set == rows.task) & (rows.backbone != rows.source)]
    tables = {target: mean_accuracy(one, "task") for target, one in plain.groupby("backbone")}
    facts = []
    claims = (
        ("coop", "CoOp", "fails if copied, according to the founding paper", -1),
        ("contcoop", "ContCoOp", "survives if copied, according to the founding paper", 1),
    )
    for method, title, claim, sign in claims:
        gains = {}
        for name, table in tables.items():
            gains[name] = estimate(table.loc[method] - table.loc["zeroshot"])
        where = "below" if sign < 0 else "above"
        limits = {"most": 0} if sign < 0 else {"least": 0}
        facts.append(
            fact(
                f"{title}'s module on the target",
                claim,
                f"{where} zero-shot on every target",
                ", ".join(f"{show(gain)} on {name}" for name, gain in gains.items()),
                all_hold(lies_within(gain, **limits) for gain in gains.values()),
            )
        )
    return facts


def show(interval: Interval, form: Callable[[float], str] = signed) -> str:
    """Return a mean with its interval over tasks: ``+1.2 (-0.3 to +2.5)``."""
    return f"{form(interval.value)} ({bounds(interval, form)})"


def spread_over_seeds(source: pd.DataFrame) -> dict[str, str]:
    """Return the fact on the largest deviation over seeds of a method's mean over tasks."""
    learned = source[source.method.isin(source[source.seed > source.seed.min()].method)]
    spread = mean_accuracy(learned, "seed").std(axis=1, ddof=1).sort_values()
    return fact(
        "agreement of seeds",
        "means that differ by about a point between seeds",
        "a standard deviation between seeds below 1.5 points",
        f"median {spread.median():.2f}, largest {spread.iloc[-1]:.2f} ({spread.index[-1]})",
        spread.iloc[-1] < 1.5,
    )


def mean_accuracy(source: pd.DataFrame, column: str) -> pd.DataFrame:
    """Return the mean accuracy of cells with 16 shots, ``[methods, values of the column]``."""
    rows = source[(source.shots == SHOTS) | (source.method == "zeroshot")]
    return rows.groupby(["method", column]).accuracy.mean().unstack()


def methods_table(source: pd.DataFrame) -> str:
    """Return the table of published averages and those of the mini suite."""
    means = mean_accuracy(source, "seed").mean(axis=1)
    published = published_table().mean(axis=1)
    published["zeroshot"] = ZERO_SHOT
    table = pd.DataFrame({"ViT-B/16, published": published, "mini-clip": means}).dropna()
    table = table.sort_values("ViT-B/16, published")
    return to_markdown(table.rename_axis("method").reset_index())


def monotony(own: pd.DataFrame) -> dict[str, str]:
    """Return the fact on whether more shots help in the mean of all methods."""
    learned = own[own.method != "zeroshot"]
    accuracies = learned.groupby(["method", "task", "shots"]).accuracy.mean()
    curve = accuracies.groupby(["method", "shots"]).mean().unstack()
    falling = [name for name, steps in curve.diff(axis=1).iterrows() if (steps < 0).any()]
    by_task = accuracies.groupby(["task", "shots"]).mean().unstack()
    steps = [estimate(column) for _, column in by_task.diff(axis=1).iloc[:, 1:].items()]
    smallest = min(steps, key=lambda step: step.value)
    return fact(
        "more shots, more accuracy",
        "more shots help on average",
        "a mean of all methods that rises from 1 to 16 shots",
        f"{', '.join(f'{mean:.1f}' for mean in curve.mean())}; smallest step {show(smallest)}; "
        + (f"not at every step for {', '.join(falling)}" if falling else "every method rises"),
        all_hold(lies_within(step, least=0) for step in steps),
    )
