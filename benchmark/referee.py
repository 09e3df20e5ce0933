"""Recompute what the pages of suite ``mini`` say, without any code of this project.

python benchmark/referee.py            # of this clone
python benchmark/referee.py FOLDER     # of another one

Only the rules are shared. They were read in the documentation, not in the code: leaderboard.md,
docs/protocol.md, docs/findings.md and docs/transfers.md. A line is printed for each difference,
and the exit status is 1 if there is one.
"""

from __future__ import annotations

import csv
import json
import re
import sys
from pathlib import Path

import numpy as np
from scipy import stats

UPGRADES = (("mini-clip", "mini-eva-clip"), ("mini-clip", "mini-eva-clip-anew"))
# Only the suite's page and the site show these.
MORE_UPGRADES = (("mini-clip", "mini-clip-next"), ("mini-clip", "mini-clip-other"))
# The pages with rankings, and the upgrades in their order.
PAGES = {"leaderboard.md": UPGRADES, "results/mini/README.md": UPGRADES + MORE_UPGRADES}
SHOTS = "16"
# Labels per class of retrained+1, +2, ...: up to 4 more choose the settings, and they count.
LABELS = (2, 4, 8, 12, 20)
FREE = {"words", "source weights"}  # whoever has the module can have these
# What an owner has beside these, and labels per class; first nothing but the module.
HELD = (
    (None, 0),
    (set(), 0),
    ({"unlabelled"}, 0),
    ({"old model"}, 0),
    ({"labels"}, 2),
    ({"labels"}, 8),
    ({"labels"}, 20),
)
REPORTED = {"target accuracy": 3.57, "H": 2.68}


class Suite:
    """The rows of a suite's files: ``cell[method, transfer][task, seed, backbone]``."""

    def __init__(self, root: Path, name: str) -> None:
        card = (root / "tasks/suites/mini.yaml").read_text(encoding="utf-8")
        self.tasks = [task.strip() for task in between(card, "\ntasks: [", "]").split(",")]
        unranked = between(card, "\nunranked:\n", "\n#").splitlines()
        self.unranked = {line.split(":")[0].strip() for line in unranked}
        self.cards: dict[str, dict] = {}
        self.cells: dict[tuple[str, str], dict] = {}
        for path in sorted((root / "results" / name).glob("*.csv")):
            if path.stem == "costs":
                continue
            text = path.with_suffix(".json").read_text(encoding="utf-8")
            self.cards[path.stem] = json.loads(text)["method"]
            for row in csv.DictReader(path.open(encoding="utf-8", newline="")):
                if row["shots"] == SHOTS and row["task"] == row["test_set"]:
                    place = row["task"], int(row["seed"]), row["backbone"]
                    self.cells.setdefault((path.stem, row["transfer"]), {})[place] = row
        self.chance = {}
        for task in self.tasks:
            splits = root / "tasks/mini/splits" / (task.removeprefix("mini-") + ".csv")
            labels = [int(row["label"]) for row in csv.DictReader(splits.open(encoding="utf-8"))]
            self.chance[task] = 100 / (1 + max(labels))
        self.seeds = sorted({seed for _, seed, _ in self.cells["coop", "copied"]})

    def table(self, module: tuple[str, str], backbone: str, column: str) -> np.ndarray:
        """Return a column in percent of the images, ``[tasks, seeds]``; NaN where it is missing."""
        seeds = self.seeds if self.cards[module[0]].get("learns", True) else self.seeds[:1]
        values = np.full((len(self.tasks), len(seeds)), np.nan)
        for i, task in enumerate(self.tasks):
            for j, seed in enumerate(seeds):
                row = self.cells[module].get((task, seed, backbone))
                if row and row["status"] == "ok" and column == "changed":
                    values[i, j] = float(row["changed"] or "nan")
                elif row and row["status"] == "ok":
                    values[i, j] = 100 * int(row[column]) / int(row["total"])
        return values

    def measure(self, module: tuple[str, str], upgrade: tuple[str, str]) -> dict:
        """Return the tables of a module on an upgrade."""
        source, target = (self.table(module, one, "correct") for one in upgrade)
        floors = [self.table(module, one, "zero_shot_correct") for one in upgrade]
        with np.errstate(invalid="ignore", divide="ignore"):
            h = np.where(source + target > 0, 2 * source * target / (source + target), 0)
        h[np.isnan(source + target)] = np.nan
        return {
            "source": source,
            "target": target,
            "h": h,
            "gain": target - floors[1],
            "source_gain": source - floors[0],
        }

    def has_rank(self, module: tuple[str, str], upgrade: tuple[str, str]) -> bool:
        """Return True if a module is complete, and neither unranked, null nor at chance."""
        card = self.cards[module[0]]
        tables = self.measure(module, upgrade)
        if module[0] in self.unranked or card.get("refused") or np.isnan(tables["h"]).any():
            return False
        if not card.get("learns", True):
            return True
        changed = [self.table(module, one, "changed").mean() for one in upgrade]
        twice = 2 * np.array([self.chance[task] for task in self.tasks])
        return max(changed) >= 1 and interval(tables["target"].mean(axis=1) - twice)[2] >= 0

    def track(self, module: tuple[str, str]) -> tuple[str, bool]:
        """Return the transfer that a module is ranked with, and if it sees the test images."""
        needs = self.cards[module[0]].get("needs", ())
        words = "words" in needs and module[1] == "copied"
        return "words" if words else module[1], "stream" in needs


def between(text: str, start: str, end: str) -> str:
    """Return the text between two markers."""
    return text.split(start, 1)[1].split(end, 1)[0]


def interval(values: np.ndarray) -> tuple[float, float, float]:
    """Return a mean with its 95 % interval by Student's t over tasks."""
    reach = stats.t.ppf(0.975, len(values) - 1) * stats.sem(values)
    return values.mean(), values.mean() - reach, values.mean() + reach


def worse_than_best(scores: np.ndarray) -> np.ndarray:
    """Return Holm's p of each row's difference from the row with the highest mean (paired t)."""
    best = scores.mean(axis=1).argmax()
    others = [i for i in range(len(scores)) if i != best]
    p = np.array([stats.ttest_rel(scores[best], scores[i]).pvalue for i in others])
    p[np.isnan(p)] = 1  # equal on every task
    result = np.ones(len(scores))
    result[others] = holm(p)
    return result


def holm(p: np.ndarray) -> np.ndarray:
    """Return p values with Holm's correction for their number."""
    order = np.argsort(p, kind="stable")
    corrected = np.ones(len(p))
    corrected[order] = np.maximum.accumulate(np.minimum(1, p[order] * (len(p) - np.arange(len(p)))))
    return corrected


def rank(suite: Suite, modules: list, upgrade: tuple[str, str]) -> dict:
    """Return the rank of each module as pages show it, ``2=``; of others ``–``."""
    h = {one: suite.measure(one, upgrade)["h"].mean(axis=1) for one in modules}
    left = [one for one in sorted(modules) if suite.has_rank(one, upgrade)]
    left.sort(key=lambda one: -h[one].mean())
    ranks = dict.fromkeys(modules, "–")
    first = 1
    while left:
        worse = list(worse_than_best(np.array([h[one] for one in left])) < 0.05)
        size = worse.index(True) if True in worse else len(left)
        for one in left[:size]:
            ranks[one] = f"{first}=" if size > 1 else str(first)
        left = left[size:]
        first += size
    return ranks


def rank_all(suite: Suite, upgrade: tuple[str, str]) -> dict:
    """Return the module and the rank of each method and track; modules of a track are compared."""
    ranked = {}
    for track in {suite.track(module) for module in suite.cells}:
        modules = [module for module in suite.cells if suite.track(module) == track]
        words = [track[0]] * (track[0] != "copied") + ["transductive"] * track[1]
        for module, place in rank(suite, modules, upgrade).items():
            ranked[module[0], " ".join(words)] = (module, place)
    return ranked


def check_site(root: Path, suite: Suite, found: list[str]) -> None:
    """Compare every row of the site."""
    text = (root / "results/report/data/mini.js").read_text(encoding="utf-8")
    boards = json.loads(text[text.index("{") : text.rindex("}") + 1])["boards"]
    index = (root / "results/report/index.js").read_text(encoding="utf-8")
    columns = json.loads("[" + between(index, '"columns": [', "\n]") + "]")
    titles = [column["title"] for column in columns]
    for upgrade in UPGRADES + MORE_UPGRADES:
        [board] = [each for each in boards if tuple(each["upgrade"]) == upgrade]
        ranked = rank_all(suite, upgrade)
        if len(ranked) != len(board["rows"]):
            found.append(f"site: {upgrade[1]}: {len(board['rows'])} rows, not {len(ranked)}")
        for name, _, track, _, cells, *_ in board["rows"]:
            shown = dict(zip(titles, cells, strict=True))
            module, place = ranked[name, track]
            where = f"site: {shown['Method']} ({track or 'copied'}) on {upgrade[1]}"
            known = [word for word in shown["Rank"][0].split() if word[0].isdigit()] or ["–"]
            differs(found, f"{where}: Rank", known[0], place)
            for column, value in show_row(suite, module, upgrade).items():
                cell = shown.get(column)
                if isinstance(cell, list) and cell[0][0] in "+-0123456789":
                    differs(found, f"{where}: {column}", cell[0], value)


def check_rankings(root: Path, suite: Suite, found: list[str]) -> None:
    """Compare the rankings of leaderboard.md and of the suite's page, and what is said of ties."""
    for page, upgrades in PAGES.items():
        tables = read_tables(root / page, "Rank")
        for upgrade, table in zip(upgrades, tables, strict=True):
            by_title = {}
            for (name, track), (module, place) in rank_all(suite, upgrade).items():
                by_title[suite.cards[name]["title"], track] = (module, place)
            for row in table:
                *track, place = row["Rank"].split()
                if not place[0].isdigit():  # the site has these with their track
                    continue
                title = plain_title(row["Method"])
                module, expected_place = by_title[title, " ".join(track)]
                where = f"{page}: {title} on {upgrade[1]}"
                differs(found, f"{where}: Rank", place, expected_place)
                expected = show_row(suite, module, upgrade)
                for column in expected.keys() & row.keys():
                    differs(found, f"{where}: {column}", row[column], expected[column])
    lines = (root / "leaderboard.md").read_text(encoding="utf-8").splitlines()
    sentences = [line for line in lines if "methods share first place" in line]
    for upgrade, sentence in zip(UPGRADES, sentences, strict=True):
        for expected in describe_stability(suite, upgrade):
            if expected not in sentence:
                found.append(f"leaderboard.md: ties on {upgrade[1]}: recomputed {expected}")


def describe_stability(suite: Suite, upgrade: tuple[str, str]) -> tuple[str, str]:
    """Return in words how often the first stays so with a task left out, and how many tie."""
    modules = [one for one in suite.cells if suite.track(one) == ("copied", False)]
    ranked = [one for one in modules if suite.has_rank(one, upgrade)]
    h = np.array([suite.measure(one, upgrade)["h"].mean(axis=1) for one in ranked])
    best = h.mean(axis=1).argmax()
    kept = 0
    sizes = []
    for task in range(h.shape[1]):
        left = np.delete(h, task, axis=1)
        order = np.argsort(-left.mean(axis=1), kind="stable")
        worse = list(worse_than_best(left[order]) < 0.05)
        sizes.append(worse.index(True) if True in worse else len(left))
        kept += best in order[: sizes[-1]]
    tasks = len(sizes)
    stays = f"among the first in {kept} of {tasks} cases"
    if kept == tasks:
        stays = f"Without any one of the {tasks} tasks it stays"
    return stays, f"{min(sizes)} to {max(sizes)} methods share first place"


def check_survival(root: Path, suite: Suite, found: list[str]) -> None:
    """Compare what two pages say of each module: its gain, the interval and the verdict."""
    check_verdicts(root, "leaderboard.md", suite, UPGRADES, found)
    check_verdicts(root, "results/mini/README.md", suite, MORE_UPGRADES, found)


def check_verdicts(root: Path, page: str, suite: Suite, upgrades: tuple, found: list[str]) -> None:
    """Compare the first table of a page that has a row for each method."""
    rows = read_tables(root / page, "Method")[0]
    for row in rows:
        title, *cells = row.values()
        names = [n for n, card in suite.cards.items() if card["title"] == plain_title(title)]
        for upgrade, cell in zip(upgrades, cells, strict=True):
            where = f"{page}: {title} on {upgrade[1]}"
            gain = suite.measure((names[0], "copied"), upgrade)["gain"].mean(axis=1)
            if np.isnan(gain).any():
                differs(found, where, cell, "cannot be attached")
                continue
            effect = interval(gain)
            verdict = {"supported": "gains", "contradicted": "loses"}
            expected = verdict.get(judge(*effect[1:]), "cannot tell")
            if names[0] in suite.unranked:
                expected = "not ranked"
            numbers = cell.replace("**", "").removeprefix(expected)
            numbers = numbers.replace("(", "").replace(")", "").replace(" to ", " ").split()
            agree = len(numbers) == 3 and cell.replace("**", "").startswith(expected)
            for text, value in zip(numbers, effect, strict=False):
                digits = len(text.partition(".")[2])
                agree = agree and abs(float(text) - value) <= 0.5 / 10**digits + 1e-9
            if not agree:
                found.append(f"{where}: published {cell}, recomputed {expected} {plus(*effect)}")


def show_row(suite: Suite, module: tuple[str, str], upgrade: tuple[str, str]) -> dict[str, str]:
    """Return what a page shows of a module; numbers that are not known are left out."""
    tables = suite.measure(module, upgrade)
    shown = {}
    for title, name in (("Source", "source"), ("Target", "target"), ("H", "h")):
        by_seed = tables[name].mean(axis=0)
        spread = f" ± {decimal(by_seed.std(ddof=1))}" if len(by_seed) > 1 else ""
        shown[title] = decimal(by_seed.mean()) + spread
    _, low, high = interval(tables["h"].mean(axis=1))
    shown["95 % of H"] = f"{decimal(max(low, 0))} to {decimal(min(high, 100))}"
    shown["Gain"] = signed(tables["gain"].mean())
    return {title: text for title, text in shown.items() if "nan" not in text}


def decimal(value: float) -> str:
    """Return a number with one decimal, never -0.0."""
    return f"{round(float(value), 1) + 0:.1f}"


def signed(value: float) -> str:
    """Return a number with one decimal and its sign; 0.0 has none."""
    text = decimal(value)
    return text if text == "0.0" or text[0] == "-" else f"+{text}"


def differs(found: list[str], where: str, published: str, recomputed: str) -> None:
    """Add a line if a published text is not the recomputed one."""
    if published.replace("**", "").strip() != recomputed:
        found.append(f"{where}: published {published}, recomputed {recomputed}")


def read_tables(path: Path, column: str) -> list[list[dict[str, str]]]:
    """Return the Markdown tables of a page that have a column, as rows by the titles of columns."""
    tables: list[list[dict[str, str]]] = []
    header: list[str] = []
    for line in path.read_text(encoding="utf-8").splitlines():
        cells = [cell.strip() for cell in re.split(r"(?<!\\)\|", line.strip())[1:-1]]
        if not line.startswith("|"):
            header = []
        elif not header:
            header = cells
            tables.append([])
        elif not line.startswith("| -"):
            tables[-1].append(dict(zip(header, cells, strict=True)))
    return [table for table in tables if table and column in table[0]]


def plain_title(cell: str) -> str:
    """Return the title of a method without its link and its marks."""
    title = cell.replace("**", "").split("]")[0].lstrip("[")
    for end in (" (floor)", " (transductive)", " ‡"):
        title = title.removesuffix(end)
    return title


def break_even(accuracy: float, curve: np.ndarray) -> float:
    """Return the labels per class at which a curve over 0 and ``LABELS`` reaches an accuracy.

    The curve is its running maximum, and linear in log2(1 + labels) between two numbers.
    """
    best = np.maximum.accumulate(curve)
    places = np.log2(1 + np.array([0, *LABELS]))
    if best[0] >= accuracy:
        return 0.0
    if best[-1] < accuracy:
        return np.inf
    after = int((best >= accuracy).argmax())
    share = (accuracy - best[after - 1]) / (best[after] - best[after - 1])
    return 2 ** (places[after - 1] + share * (places[after] - places[after - 1])) - 1


def list_options(root: Path, mini: Suite, price: Suite, upgrade: tuple[str, str]) -> list[dict]:
    """Return every option of an owner: a method with a transfer, and to stay with the old model."""
    needs_of = {}
    for line in (root / "transfers/needs.yaml").read_text(encoding="utf-8").splitlines():
        if "access: [" in line:
            needs = between(line, "access: [", "]").split(", ")
            needs_of[line.split(":")[0].strip()] = set(filter(None, needs))
    options = {}
    for suite in (mini, price):
        shared = [seed in mini.seeds and seed in price.seeds for seed in suite.seeds]
        for module in sorted(suite.cells):
            transfer, sees = suite.track(module)
            learns = suite.cards[module[0]].get("learns", True)
            if sees or not learns or not suite.has_rank(module, upgrade):
                continue
            if transfer == "kept":  # the same as to stay with the old model
                continue
            measured = suite.measure(module, upgrade)
            tables = {name: t.mean(axis=1) for name, t in measured.items()}
            name, _, setting = transfer.partition("+")
            needs = needs_of[name]
            shots = int(setting.split("+")[-1]) if "labels" in needs else 0
            labels = shots + min(shots, 4)
            cost = (labels, "old model" in needs, len(needs), transfer != "copied")
            option = {
                "title": suite.cards[module[0]]["title"],
                "name": transfer,
                "needs": needs,
                "labels": labels,
                "cost": cost,
                "accuracy": tables["target"],
                "zero": tables["target"] - tables["gain"],
                "seeds": suite.seeds,
                "on_shared_seeds": measured["target"][:, shared].mean(axis=1),
            }
            options.setdefault((module[0], transfer), option)
            if module[1] == "copied":
                stay = {
                    "name": "stay",
                    "needs": {"old model"},
                    "labels": 0,
                    "cost": (0, False, 0, False),
                    "accuracy": tables["source"],
                    "on_shared_seeds": measured["source"][:, shared].mean(axis=1),
                }
                options.setdefault((module[0], "stay"), option | stay)
    return list(options.values())


def choose(options: list[dict]) -> tuple[dict, str]:
    """Return the cheapest option that gains and is not significantly worse than the best.

    If choosing on the other tasks does not gain on the task that is left out, we cannot tell. Then
    the option without labels that gains most is returned.
    """
    gains = np.array([each["accuracy"] - each["zero"] for each in options])
    tasks = range(gains.shape[1])
    left_out = [gains[np.delete(gains, i, axis=1).mean(axis=1).argmax(), i] for i in tasks]
    gaining = [i for i in range(len(options)) if interval(gains[i])[1] > 0]
    if not gaining or interval(np.array(left_out))[1] <= 0:
        free = [i for i in range(len(options)) if not options[i]["labels"]]
        return options[max(free, key=lambda i: gains[i].mean())], "cannot tell"
    by_cost: dict[tuple, int] = {}
    for i in sorted(gaining, key=lambda i: -gains[i].mean()):
        by_cost.setdefault(options[i]["cost"], i)  # the best of each cost is compared
    compared = [by_cost[cost] for cost in sorted(by_cost)]
    worse = worse_than_best_option([options[i] for i in compared]) < 0.05
    most = -np.inf
    for i, is_worse in zip(compared, worse, strict=True):
        # An option that gains no more than a cheaper one that is worse, is worse, too.
        if not is_worse and gains[i].mean() > most:
            return options[i], ""
        most = max(most, gains[i].mean())
    raise AssertionError("the best option is not worse than itself")


def worse_than_best_option(options: list[dict]) -> np.ndarray:
    """Return Holm's p of each option's difference from the best.

    Options with different seeds are compared on the seeds that all have.
    """
    best = max(options, key=lambda option: option["accuracy"].mean())
    p = []
    others = [i for i, option in enumerate(options) if option is not best]
    for i in others:
        same = options[i]["seeds"] == best["seeds"]
        scores = "accuracy" if same else "on_shared_seeds"
        is_behind = options[i][scores].mean() < best[scores].mean()
        p.append(stats.ttest_rel(best[scores], options[i][scores]).pvalue if is_behind else 1.0)
    result = np.ones(len(options))
    result[others] = holm(np.array(p))
    return result


def check_answers(root: Path, mini: Suite, price: Suite, found: list[str]) -> None:
    """Compare the table of what to try first with the options that the rule chooses."""
    [rows] = read_tables(root / "leaderboard.md", "The upgrade")
    starts = [i for i, row in enumerate(rows) if row["The upgrade"]]
    parts = [rows[i:j] for i, j in zip(starts, [*starts[1:], len(rows)], strict=True)]
    for upgrade, part in zip(UPGRADES, parts, strict=True):
        options = list_options(root, mini, price, upgrade)
        curves = {}
        for method, transfer in price.cells:
            if transfer.startswith("retrained+"):
                accuracy = price.measure((method, transfer), upgrade)["target"].mean()
                shots = int(transfer.split("+")[1])
                curves.setdefault(method, {})[shots + min(shots, 4)] = accuracy
        curve = [max(each[k] for each in curves.values()) for k in LABELS]
        expected = set()
        for extra, labels in HELD:
            needs = FREE | extra if extra is not None else set()
            allowed = [o for o in options if o["needs"] <= needs and o["labels"] <= labels]
            chosen, doubt = choose(allowed)
            accuracy = chosen["accuracy"].mean()
            zero = chosen["zero"].mean()
            worth = break_even(accuracy, np.array([zero, *curve]))
            shown = "–" if chosen["name"].startswith("retrained") else decimal(worth)
            shown = f"> {LABELS[-1]}" if shown == "inf" else shown
            expected.add((doubt, chosen["title"], decimal(accuracy), decimal(zero), shown))
        published = set()
        for row in part:
            columns = {}
            for start in ("Try first", "Accuracy", "Zero-shot", "Worth"):
                [columns[start]] = [text for title, text in row.items() if title.startswith(start)]
            before, title, *_ = columns["Try first"].split("**")
            columns["Try first"] = plain_title(title)
            doubt = "cannot tell" if before.startswith("cannot tell") else ""
            published.add((doubt, *columns.values()))
        for answer in sorted(published ^ expected):
            kind = "published" if answer in published else "recomputed"
            shown = ", ".join(filter(None, answer))
            found.append(f"leaderboard: try first on {upgrade[1]}: only {kind}: {shown}")


def judge(low: float, high: float, bound: float = 0.0) -> str:
    """Return the verdict of an interval on a claim that an effect is above a bound."""
    if low > bound:
        return "supported"
    return "contradicted" if high < bound else "not decided"


def resample(tables: list[np.ndarray], statistic) -> tuple[float, float, float]:
    """Return a statistic of methods with an expanded percentile interval, crossed with tasks."""
    rng = np.random.default_rng(1)
    count = tables[0].shape[1]
    values = []
    for _ in range(4000):
        tasks = rng.integers(count, size=count)
        drawn = [table[rng.integers(len(table), size=len(table))][:, tasks] for table in tables]
        values.append(statistic(*drawn))
    units = min(count, *map(len, tables))
    wide = stats.norm.cdf(stats.t.ppf(0.025, units - 1) * np.sqrt(units / (units - 1)))
    return statistic(*tables), *np.quantile(values, [wide, 1 - wide])


def check_claims(root: Path, suite: Suite, found: list[str]) -> None:
    """Compare the effects and verdicts of docs/findings.md with the results."""
    [rows] = read_tables(root / "docs/findings.md", "Claim")
    for upgrade in UPGRADES:
        known: dict[str, dict] = {}
        groups: dict[str, list[str]] = {"shallow": [], "deep": []}
        for module in suite.cells:
            card = suite.cards[module[0]]
            values = {k: v.mean(axis=1) for k, v in suite.measure(module, upgrade).items()}
            ours = card["paper"] == "compatbench" or module[0] in suite.unranked
            ranked = suite.track(module) == ("copied", False) and card["depth"] != "none"
            if ranked and not ours and not np.isnan(values["h"]).any():
                known[module[0]] = values
                if "+" not in module[0]:  # a config of another method
                    groups[card["depth"]].append(module[0])
        recomputed = claims_1_and_2(known, groups) | claim_3(known, groups) | claim_4(known)
        for says, (effect, verdict) in recomputed.items():
            [row] = [row for row in rows if f"{row['What it says']}:".startswith(says)]
            where = f"claims: {upgrade[1]}: {says}"
            published = row[f"Verdict for {upgrade[1]}"].split("; ")[0].split(" \\[")[0]
            if "(" not in effect:
                published = published.split(" (")[0]
            differs(found, where, published, f"{verdict} {effect}")


def claims_1_and_2(known: dict[str, dict], groups: dict[str, list[str]]) -> dict:
    """Return effect and verdict of the shares below 0, and of the differences of medians.

    The intervals are drawn anew, so only their verdicts are compared.
    """
    recomputed = {}
    for depth, names in groups.items():
        able = [name for name in names if known[name]["source_gain"].mean() > 0]
        gains = np.array([known[name]["gain"] for name in able])
        share = resample([gains], lambda table: (table.mean(axis=1) < 0).mean())
        says = f"a third or more of the {depth} methods with a mean gain above 0 on the source"
        verdict = judge(share[1], share[2], 1 / 3 - 1e-9)
        recomputed[says] = (f"{100 * share[0]:.0f} %", verdict)
    for says, less in (("gain more on", 0), ("lose less of their gain", 1)):
        tables = []
        for names in groups.values():
            of_names = [known[n]["gain"] - less * known[n]["source_gain"] for n in names]
            tables.append(np.array(of_names))
        effect = resample(tables, lambda a, b: np.median(a.mean(1)) - np.median(b.mean(1)))
        recomputed[f"shallow modules {says}"] = (plus(effect[0]), judge(effect[1], effect[2]))
    return recomputed


def claim_3(known: dict[str, dict], groups: dict[str, list[str]]) -> dict:
    """Return effect and verdict of ContCoOp, and of its other reading, being the best."""
    recomputed = {}
    for reading, title in (("contcoop", "ContCoOp"), ("contcoop+literal", "ContCoOp, literal")):
        every = groups["shallow"] + groups["deep"]
        for names, end in ((every, ":"), (groups["shallow"], " of the methods")):
            others = [name for name in names if name != "contcoop"]
            h = np.array([known[name]["h"] for name in [reading, *others]])
            best = 1 + h[1:].mean(axis=1).argmax()
            p = worse_than_best(h)
            verdict = "contradicted" if p[0] < 0.05 else "not decided"
            if h.mean(axis=1).argmax() == 0 and max(p[1:]) < 0.05:
                verdict = "supported"
            effect = plus(*interval(h[0] - h[best]))
            recomputed[f"{title} has the highest H{end}"] = (effect, verdict)
    return recomputed


def claim_4(known: dict[str, dict]) -> dict:
    """Return effect and verdict of ContCoOp's gains over the mean of three baselines."""
    recomputed = {}
    for first, title in (("coop", "CoOp,"), ("coop+context-4", "CoOp with 4 context vectors")):
        for key, name in (("target", "target accuracy"), ("h", "H")):
            others = [known[method][key] for method in (first, "cocoop", "kgcoop")]
            effect = interval(known["contcoop"][key] - np.mean(others, axis=0))
            bound = REPORTED[name]
            says = f"ContCoOp gains +{bound} points of {name} or more: over the mean of {title}"
            recomputed[says] = (plus(*effect), judge(effect[1], effect[2], bound))
    return recomputed


def plus(value: float, *bounds: float) -> str:
    """Return ``+1.2 (-0.3 to +2.5)``; bounds have the decimals that show their side of 0."""
    if not bounds:
        return signed(value)
    shown = []
    for bound in bounds:
        digits = 1
        while bound and not float(f"{bound:.{digits}f}") and digits < 4:
            digits += 1
        shown.append(f"{bound:+.{digits}f}" if bound else "0.0")
    return f"{signed(value)} ({shown[0]} to {shown[1]})"


def list_differences(root: Path) -> list[str]:
    """Return a line for each published number, rank, choice or verdict that is not recomputed."""
    found: list[str] = []
    mini = Suite(root, "mini")
    price = Suite(root, "mini-price")
    check_site(root, mini, found)
    check_rankings(root, mini, found)
    check_survival(root, mini, found)
    check_answers(root, mini, price, found)
    check_claims(root, mini, found)
    return found


def main(root: Path) -> int:
    """Print every difference; return 1 if there is one."""
    found = list_differences(root)
    print("\n".join(found) or "Every number that was recomputed agrees with the pages.")
    return int(bool(found))


if __name__ == "__main__":
    folder = Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).parents[1]
    raise SystemExit(main(folder))
