"""The committed figures: made by the committed code, and what the mini suite must show."""

from __future__ import annotations

import re
from itertools import product
from pathlib import Path

import pytest
from planning import cells_of
from unrecorded_methods import UNRECORDED

from compatbench.data.cards import suite_cards, suite_tasks, task_cards
from compatbench.engine.cell import shorten_key
from compatbench.engine.keys import InputHashes, data_key
from compatbench.engine.request import make_request
from compatbench.method.registry import builtin_methods
from compatbench.method.transfer import JOINT_SPACE
from compatbench.results.result_files import ResultFiles
from compatbench.tables.suite_page import read_suite_page

REPOSITORY = Path(__file__).parents[1]
SUITE = suite_cards.read("mini")
COMPARED = {*make_request("mini").methods}
METHODS = [name for name in builtin_methods().names() if name in COMPARED - UNRECORDED]
# Backbones of a suite that has to be made first have no cards here, and so no keys.
PLANNED = [name for name in suite_cards.names() if not suite_cards.read(name).made_by]
PUBLISHED = [name for name in PLANNED if (REPOSITORY / "results" / name).is_dir()]


@pytest.fixture(scope="module")
def page():
    return read_suite_page(SUITE, ResultFiles(REPOSITORY))


@pytest.mark.slow
@pytest.mark.parametrize("name", PUBLISHED)
def test_every_row_is_of_the_code_the_weights_and_the_images_that_are_committed(name: str) -> None:
    suite = suite_cards.read(name)
    shown = read_suite_page(suite, ResultFiles(REPOSITORY))
    results = shown.results.restrict({*METHODS, *suite.configs})
    expected = set()
    hashes = InputHashes()
    for transfer in results.frame["transfer"].unique():
        methods = results.frame.loc[results.frame["transfer"] == transfer, "method"].unique()
        cells = cells_of(suite, list(methods), transfers=[transfer], seeds=shown.expected.seeds)
        for cell in cells:
            for backbone, test_set in product(cell.backbones, cell.test_sets):
                data = shorten_key(data_key(backbone, test_set, hashes))
                expected.add((shorten_key(cell.key), backbone, test_set, data))
    places = results.frame[["key", "backbone", "test_set", "data"]]
    assert set(places.itertuples(index=False, name=None)) == expected
    assert set(results.frame["status"]) <= {"ok", "not transferable"}


def test_every_method_is_ranked(page) -> None:
    [shots] = page.expected.shots
    for upgrade in page.expected.upgrades:
        ranking = page.ranking(upgrade, shots)
        ranking = ranking[ranking["ranked_with"].isin(["copied", "words"])]
        assert {*ranking["method"]} - UNRECORDED == {*METHODS, *SUITE.configs}
        copied = ranking[ranking["transfer"] == "copied"]
        without_rank = copied[copied["state"] != "complete"]
        without_rank = without_rank[~without_rank["method"].isin(UNRECORDED)]
        assert {*without_rank["state"]} <= {"at chance", "not ranked", "not transferable"}
        expected = {"coop", "contcoop", "clip_lora", "twosfs", "mma"}
        assert not expected & {*without_rank["method"]}
    for name in METHODS:  # what acts on features alone is measured through words, too
        if set(builtin_methods().get(name).card.places) <= JOINT_SPACE:
            assert name in page.results.ranked_with("words")


def test_the_prompts_of_contcoop_are_several_on_every_task(page) -> None:
    rows = page.results.methods["contcoop"].rows
    source = rows.loc[(rows["backbone"] == rows["source"]) & (rows["test_set"] == rows["task"])]
    diversity = source.groupby("task")["prompt_diversity"].mean()
    assert set(diversity.index) == set(suite_tasks(SUITE))
    assert diversity.min() > 0.1


def zero_shot(page, task: str, backbone: str) -> float:
    rows = page.results.frame.query("method == 'zeroshot' and transfer == 'copied'")
    return rows.set_index(["test_set", "backbone"])["accuracy"].loc[(task, backbone)]


def test_targets_of_the_leaderboard_are_better_than_the_source(page) -> None:
    assert len(page.leaderboard_upgrades) == 2
    for _, target in page.leaderboard_upgrades:
        assert zero_shot_gain(page, target) >= 3


def zero_shot_gain(page, target: str) -> float:
    tasks = suite_tasks(SUITE)
    gains = [zero_shot(page, task, target) - zero_shot(page, task, "mini-clip") for task in tasks]
    return sum(gains) / len(gains)


@pytest.mark.parametrize("task", suite_tasks(SUITE))
def test_zero_shot_is_far_above_chance(page, task: str) -> None:
    chance = 100 / len(task_cards.read(task).classes)
    for backbone in {name for pair in page.leaderboard_upgrades for name in pair}:
        assert zero_shot(page, task, backbone) >= 5 * chance


def test_the_readme_states_the_correlation_with_published_results_as_it_was_computed() -> None:
    likeness = (REPOSITORY / "docs" / "mini-suite.md").read_text(encoding="utf-8")
    found = re.search(r"\| (-?[\d.]+) \((-?[\d.]+) to (-?[\d.]+)\) over 10 methods;", likeness)
    assert found is not None
    value, low, high = found.groups()
    readme = " ".join((REPOSITORY / "README.md").read_text(encoding="utf-8").split())
    assert f"rank correlation {value}, 95 % interval {low} to {high}, [over ten methods]" in readme
