"""The committed figures: made by the committed code, and what the mini suite must show."""

from __future__ import annotations

from pathlib import Path

import pytest
from planning import cells_of
from unrecorded_methods import UNRECORDED

from compatbench.data.cards import suite_cards, suite_tasks, task_cards
from compatbench.engine.cell import shorten_key
from compatbench.engine.keys import data_key
from compatbench.method.registry import builtin_methods
from compatbench.method.transfer import JOINT_SPACE
from compatbench.results.result_files import ResultFiles
from compatbench.tables.suite_page import read_suite_page

REPOSITORY = Path(__file__).parents[1]
SUITE = suite_cards.read("mini")
METHODS = [name for name in builtin_methods().names() if name not in UNRECORDED]
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
    known = {*METHODS, *suite.configs}
    results = shown.results.restrict(known)
    expected = {
        (shorten_key(cell.key), backbone, test_set, shorten_key(data_key(backbone, test_set)))
        for transfer in {one.transfer for one in results.all}
        for cell in cells_of(
            suite,
            [one.info.name for one in results.all if one.transfer == transfer],
            transfers=[transfer],
            seeds=shown.expected.seeds,
        )
        for backbone in cell.backbones
        for test_set in cell.test_sets
    }
    places = results.frame[["key", "backbone", "test_set", "data"]]
    assert set(places.itertuples(index=False, name=None)) == expected
    assert set(results.frame["status"]) <= {"ok", "not transferable"}


def test_every_method_is_ranked(page) -> None:
    [shots] = page.expected.shots
    for upgrade in page.expected.upgrades:
        ranked = [*page.ranks(upgrade, shots, "words"), *page.ranks(upgrade, shots)]
        standings = {one.standing.info.name: one.standing for one in ranked}
        assert {*standings} - UNRECORDED == {*METHODS, *SUITE.configs}
        states = {
            name: one.state
            for name, one in standings.items()
            if one.state != "complete" and name not in UNRECORDED
        }
        assert set(states.values()) <= {"at chance", "not ranked", "not transferable"}
        assert not {*states} & {"coop", "contcoop", "clip_lora", "twosfs", "mma"}
    for name in METHODS:  # what acts on features alone is measured through words, too
        if set(builtin_methods().get(name).card.places) <= JOINT_SPACE:
            assert name in page.results.of("words")


def test_the_prompts_of_contcoop_are_several_on_every_task(page) -> None:
    rows = page.results.methods["contcoop"].rows
    source = rows.loc[(rows["backbone"] == rows["source"]) & (rows["test_set"] == rows["task"])]
    diversity = source.groupby("task")["prompt_diversity"].mean()
    assert set(diversity.index) == set(suite_tasks(SUITE))
    assert diversity.min() > 0.1


def zero_shot(page, task: str, backbone: str) -> float:
    table = page.results.methods["zeroshot"].table.set_index(["test_set", "backbone"])
    return table["accuracy"].loc[(task, backbone)]


@pytest.mark.parametrize("target", [target for _, target in SUITE.upgrades])
def test_the_upgrade_is_an_upgrade(page, target: str) -> None:
    tasks = suite_tasks(SUITE)
    gains = [zero_shot(page, task, target) - zero_shot(page, task, "mini-clip") for task in tasks]
    assert sum(gains) / len(gains) >= 3


@pytest.mark.parametrize("backbone", sorted({name for path in SUITE.upgrades for name in path}))
@pytest.mark.parametrize("task", suite_tasks(SUITE))
def test_zero_shot_is_far_above_chance(page, task: str, backbone: str) -> None:
    chance = 100 / len(task_cards.read(task).classes)
    assert zero_shot(page, task, backbone) >= 5 * chance
