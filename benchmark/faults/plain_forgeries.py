"""Forgeries that an audit finds without running anything again: a line for each."""

from __future__ import annotations

from dataclasses import dataclass

import forgers as f
from forgers import COOP, OTHER, ROWS, WIDE, Forger


@dataclass(frozen=True)
class Forgery:
    """What is forged, what is expected to be said of it, and how the audit is called."""

    forge: Forger
    expected: str  # searched for in the findings, a regular expression; of a limit, docs' reason
    again: tuple[str, ...] = ()  # methods of which all cells are run again; then the pages fit
    zero_shot: bool = False


STALE = "is not what this checkout computes"
FLIPS = "taskres.csv:3: 'negative_flips': the flips do not lead"
DAMAGED = "ships with the project: .* is damaged"
DRIFT = "cells computed again differ by more than rounding explains"
PAGE = "is not what the results give"
COST, ABOUT = ROWS.replace(".csv", ".cost.csv"), ROWS.replace(".csv", ".json")

PLAIN: dict[str, Forgery] = {
    "three more right on the target": Forgery(
        f.add(ROWS, "correct", 3, 3), rf"{FLIPS} .* expected correct = \d+ \+"
    ),
    "three more right on the source": Forgery(f.add(ROWS, "correct", 3, 2), FLIPS),
    "a negative flip less": Forgery(f.add(ROWS, "negative_flips", -1, 3), FLIPS),
    "half an image": Forgery(
        f.change(ROWS, "correct", lambda v: f"{int(v) / 2 + 0.25:.2f}", 3),
        "taskres.csv:3: .*'correct'",
    ),
    "more flips than images": Forgery(
        f.add(ROWS, "inconsistent_errors", 200, 3), "taskres.csv:3: .*flipped"
    ),
    "a smaller test set": Forgery(
        f.add(ROWS, "total", -20, 3), "is not the number of test images of mini-weather; exp"
    ),
    "less zero-shot in one row": Forgery(
        f.add(ROWS, "zero_shot_correct", -5, 3), r"3: 'zero_shot.*; expected \d+, found \d+"
    ),
    "less zero-shot everywhere": Forgery(
        f.every_count("zero_shot_correct", -1),
        "'zero_shot_correct': zero-shot of mini-clip on mini-weather was computed again",
        zero_shot=True,
    ),
    "two percent less zero-shot, by another processor": Forgery(
        f.every_count("zero_shot_correct", -5, OTHER), f"'zero_shot_correct': .*{DRIFT}", (), True
    ),
    "an invented key": Forgery(
        f.change(ROWS, "key", f.flip_hex, 3),
        f"taskres.csv:3: 'key': {STALE}; the row is stale, or forged",
    ),
    "invented data": Forgery(
        f.change(ROWS, "data", f.flip_hex, 3), f"taskres.csv:3: 'data': {STALE}"
    ),
    "rows of another method": Forgery(
        f.copy_rows(),
        "simpleshot.csv:2: 'key': is the key of another cell, taskres · mini-weather · 2 shots · "
        "seed 1; expected [0-9a-f]{64}, found [0-9a-f]{64}",
    ),
    "seeds swapped with their keys": Forgery(
        f.swap_seeds("key", *f.COUNTED),
        "simpleshot.csv:2: 'key': is the key of another cell, simpleshot .* seed 2",
    ),
    "a seed that nobody asked for": Forgery(
        f.change(ROWS, "seed", lambda _: 9, 2),
        "'seed': the suite has no such measurement; expected 1 or 2, found 9",
    ),
    "a transfer that there is not": Forgery(
        f.change(ROWS, "transfer", lambda _: "wishes", 6),
        "'transfer': .*; expected copied or words, found wishes",
    ),
    "a row twice": Forgery(
        f.keep_lines(ROWS, 1, 2, 3, 3, 4, 5, 6, 7, 8, 9),
        "taskres.csv: two lines for copied, mini-weather, mini-clip, 2, 1, mini-eva-clip",
    ),
    "a row left out": Forgery(
        f.keep_lines(ROWS, 1, 2, 3, 4, 5, 6, 8, 9),
        r"taskres.csv: a measurement of the suite has no row; expected a row of taskres "
        r"\(words\) · mini-weather · 2 shots · seed 1 at mini-eva-clip on mini-weather, found none",
    ),
    "rows in another order": Forgery(
        f.keep_lines(ROWS, 1, 3, 2, 4, 5, 6, 7, 8, 9),
        "taskres.csv:2: is not as 'compatbench run' writes it",
    ),
    "line ends of another system": Forgery(
        f.replace(ROWS, "\n", "\r\n"), "taskres.csv:1: is not as 'compatbench run' writes it"
    ),
    "another layout of settings": Forgery(
        f.replace(ABOUT, "(?m)^ +", ""), "taskres.json:2: is not as 'compatbench run' writes it"
    ),
    "fewer parameters in one row": Forgery(
        f.add(ROWS, "parameters", -1, 3), "3: 'parameters': is not that of the same module in"
    ),
    "a smaller module in one row": Forgery(
        f.add(ROWS, "module_bytes", -4, 3), "3: 'module_bytes': is not that of the same module in"
    ),
    "a source in one of two suites": Forgery(
        f.add(WIDE, "correct", 1, 2, 3),
        r"wide/simpleshot.csv:\d: 'correct': is not that under the same key in .*tiny",
    ),
    "a cost left out": Forgery(
        f.keep_lines(COST, 1, 3, 4, 5, 6, 7, 8, 9),
        r"taskres.cost.csv: 'key': has no line for line \d of taskres.csv; expected",
    ),
    "a cost of no cell": Forgery(
        f.change(COST, "key", f.flip_hex, 2),
        "taskres.cost.csv:2: 'key': no row is of a cell with this key",
    ),
    "two times of one fit": Forgery(
        f.halve(COST, "fit_seconds", 3),
        r"taskres.cost.csv:\d: 'fit_seconds': is not that of the same fit in line",
    ),
    "settings that are not the suite's": Forgery(
        f.replace(ABOUT, '"lr": ', '"lr": 1'),
        r"taskres.json: 'config.recipe.lr': is not as resolved here; expected [\d.]+, found",
    ),
    "a difference from the recipe, hidden": Forgery(
        f.replace("results/wide/coop.json", r'(?s)"differs": \{.*?\},', '"differs": {},'),
        r"wide/coop.json: 'differs.recipe.lr': is not as resolved here; expected \[0.002,0.02\]",
    ),
    "a difference from the recipe, invented": Forgery(
        f.replace("results/tiny/coop.json", '"differs": {}', '"differs": {\n  "lr": [1, 2]\n }'),
        r"coop.json: 'differs.lr': is not as resolved here; expected nothing, found \[1,2\]",
    ),
    "a precision that it was not run with": Forgery(
        f.replace(
            "results/tiny/coop.json", '"differs": {}', '"differs": {\n  "precision": [0, "bf16"]}'
        ),
        f"coop.csv:2: 'key': {STALE}",
    ),
    "another title": Forgery(
        f.replace("results/tiny/coop.json", '"title": "CoOp"', '"title": "ContCoOp"'),
        "coop.json: 'method.title': .*; expected CoOp, found ContCoOp",
    ),
    "no version of torch": Forgery(
        f.replace(ABOUT, r'"torch": \[[^\]]*\]', '"torch": []'),
        "taskres.json: 'provenance.torch': is missing; every result says what it was made with",
    ),
    "a version that is none": Forgery(
        f.replace(ABOUT, r'"numpy": \[[^\]]*\]', '"numpy": ["newest"]'),
        "taskres.json: 'provenance.numpy': is not a version: newest",
    ),
    "weights that ship, one byte more": Forgery(
        f.append(f"tasks/{f.WEIGHTS}"), f"mini-eva-clip {DAMAGED}"
    ),
    "a split that ships, one byte more": Forgery(f.append(f.SPLIT), f"mini-weather {DAMAGED}"),
    "drawings that ship, one byte more": Forgery(
        f.append(f.SHEET), "mini-weather ships with the project: .*twemoji.webp is damaged"
    ),
    "other weights, with a hash that fits": Forgery(
        f.other_weights, f"taskres.csv:3: 'data': {STALE}"
    ),
    "other images, with a hash that fits": Forgery(
        f.other_images, f"taskres.csv:3: 'data': {STALE}"
    ),
    "easier class names": Forgery(
        f.replace("tasks/mini-weather.yaml", "cloud with lightning", "thunder"),
        f"taskres.csv:2: 'key': {STALE}",
    ),
    "longer training": Forgery(
        f.replace("tasks/suites/tiny.yaml", "max_steps: 5", "max_steps: 50"),
        f"taskres.csv:2: 'key': {STALE}",
    ),
    "an easier suite, with rows of the other": Forgery(
        f.replace("tasks/suites/tiny.yaml", r"\[1, 2\]", "[1]"),
        "'seed': the suite has no such measurement; expected 1, found 2",
    ),
    "an invented suite that needs other weights": Forgery(
        f.invent_suite, r"away: \d+ rows are not checked; missing here: weights of eva02-b16"
    ),
    "rows that were not verified, without their mark": Forgery(
        f.hide_the_mark, rf"leaderboard.md:\d+: {PAGE}.*Away \(reported, not verified\)"
    ),
    "a suite that there is not": Forgery(
        lambda project: (project.folder / "results" / "wide").rename(
            project.folder / "results" / "best"
        ),
        "results/best: no suite has that name",
    ),
    "a method that there is not": Forgery(
        f.invent_method, "mine.csv:2: 'method': there is no such method here"
    ),
    "a linked file": Forgery(f.link(COOP), "coop.csv is a link"),
    "a linked suite": Forgery(f.link("results/tiny"), "results/tiny: is a link"),
    "a leaderboard edited by hand": Forgery(
        f.replace("leaderboard.md", "TaskRes", "MyMethod"), rf"leaderboard.md:\d+: {PAGE}.*MyMethod"
    ),
    "a ranking in the README edited by hand": Forgery(
        f.replace("README.md", "TaskRes", "MyMethod"), rf"README.md:\d+: {PAGE}.*MyMethod"
    ),
    "a bonus in the code that makes pages": Forgery(
        f.add_bonus, rf"leaderboard.md:\d+: {PAGE}.*TaskRes"
    ),
    "a figure edited by hand": Forgery(
        f.draw_by_hand("results/figures/tiny-scatter-1.svg"),
        "tiny-scatter-1.svg is not what results/ gives",
    ),
    "a report edited by hand": Forgery(
        f.draw_by_hand("results/report/index.html", "</h1>"),
        "index.html is not what results/ gives",
    ),
}
