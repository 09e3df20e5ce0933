"""Choosing settings: which images take part, what is chosen, and what the pages say."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from command_line import output_of
from made_results import COOP, PROBE, TWO_BY_TWO, flat, make_suite
from pydantic import ValidationError

import compatbench as cb
from compatbench.data.cards import SuiteCard, suite_cards
from compatbench.data.cards.schemas import TuningCard
from compatbench.data.draws import HELD_OUT, draw_shots, hold_out, load_test_set
from compatbench.data.task import load_task
from compatbench.engine.plan import make_plan
from compatbench.engine.request import make_request
from compatbench.errors import CompatbenchError
from compatbench.method.registry import builtin_methods
from compatbench.results.result_files import ResultFiles
from compatbench.results.tuning_records import Setting, Tuning, choose
from compatbench.results.tuning_search import _next_settings
from compatbench.tables.pages.leaderboard import render_leaderboard
from compatbench.tables.suite_page import read_suite_page

SUITE = """
name: tiny
title: Tiny
extends: smoke
shots: [4]
development: [mini-weather]
tuning: {rates: [1, 30], lengths: [1, 0.1], trainings: [{views: 1}], seeds: [101, 102]}
"""


def write(folder: Path, changes: dict[str, str]) -> str:
    """The file of the suite with other words in it."""
    text = SUITE
    for old, new in changes.items():
        assert old in text
        text = text.replace(old, new)
    (folder / "tiny.yaml").write_text(text)
    return str(folder / "tiny.yaml")


@pytest.fixture(scope="module")
def tuned(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[Tuning]]:
    """Tune one method. Return the folder of the suite and the record, and the returned tunings."""
    folder = tmp_path_factory.mktemp("tuned")
    suite = write(folder, {})
    compute = cb.Compute(jobs=1)
    return folder, cb.tune("taskres", suite, out=folder, compute=compute)


def record(**changes: Any) -> dict[str, Any]:
    """Return a record as JSON values: three settings, of which the second is the best."""
    values: dict[str, Any] = dict(suite="tiny", method="coop", version=1, source="mini-clip")
    values |= dict(shots=12, tasks=["cats", "dogs"], seeds=[1], total=[50, 100], provenance={})
    values |= dict(settings=[{"rate": rate} for rate in (1, 3, 10)])
    values |= dict(correct=[[20, 40], [30, 62], [40, 0]])
    return values | dict(chosen=1, config={"lr": 0.002}) | changes


def test_a_quarter_of_the_training_images_is_held_out_and_no_test_image() -> None:
    task = load_task("mini-weather")
    whole = draw_shots(task, 16, 101)
    kept, held = hold_out(task, 16, 101)
    assert sorted([*kept.train, *held], key=str) == sorted(whole.train, key=str)
    assert kept.val == whole.val
    assert draw_shots(task, 12, 101, held_out_of=16) == kept
    assert set(Counter(one.label for one in held).values()) == {4}
    assert hold_out(task, 16, 101)[1] == held != hold_out(task, 16, 102)[1]
    tested = load_test_set(HELD_OUT.format("mini-weather", 16, 101))
    assert list(tested.split("test")) == held
    assert tested.split("train") == ()
    assert not {*held} & {*task.split("test"), *kept.train, *kept.val}


@pytest.mark.slow
def test_settings_are_compared_on_the_source_and_on_held_out_images_alone(
    tuned: tuple[Path, list[Tuning]],
) -> None:
    folder, [tuning] = tuned
    grid = [(1, 1), (1, 0.1), (30, 1), (30, 0.1)]
    assert [(each.rate, each.length) for each in tuning.settings[:4]] == grid
    assert tuning.settings[-1].training == {"views": 1}
    assert (tuning.method, tuning.shots, tuning.total) == ("taskres", 3, (20, 20))
    assert tuning.chosen == choose(tuning.frame)
    rate = tuning.settings[tuning.chosen].rate
    assert tuning.config["recipe"]["lr"] == pytest.approx(0.002 * rate)
    cells = [json.loads(path.read_text()) for path in (folder / "runs/cells").rglob("*.json")]
    assert len(cells) == 2 * len(tuning.settings)
    tested = {(row["backbone"], row["test_set"]) for cell in cells for row in cell["records"]}
    names = [f"mini-weather.held-out-4-{seed}" for seed in (101, 102)]
    assert tested == {("mini-clip", name) for name in names}


@pytest.mark.parametrize(
    ("had", "best", "further"),
    [
        ([1, 5, 25], 5, None),  # in the middle: no further rate
        ([1, 5, 25], 25, 125),
        ([1, 5, 25, 125], 125, 625),
        ([1, 5, 25, 125, 625], 625, None),  # two more rates at most
        ([1, 5, 25, 125], 25, None),
        ([1, 5, 25], 1, 0.2),
        ([0.04, 0.2, 1, 5, 25], 0.04, None),
    ],
)
def test_a_best_rate_at_the_end_widens_the_grid_and_trainings_come_last(
    had: list[float], best: float, further: Any
) -> None:
    tuning = TuningCard(rates=(1, 5, 25), trainings=({"views": 1},))
    settings = [Setting(rate=rate) for rate in had]
    expected = [Setting(rate=best, training={"views": 1})]
    if further is not None:
        expected = [Setting(rate=further)]
    assert _next_settings(settings, Setting(rate=best), tuning) == expected
    assert _next_settings([*settings, *expected], None, tuning) == []
    done = [*settings, Setting(rate=best, training={"views": 1})]
    assert _next_settings(done, done[-1], tuning) == []


def test_a_setting_changes_rate_epochs_and_training_alone() -> None:
    config = builtin_methods().get("coop").Config()
    setting = Setting(rate=5, length=0.25, training={"crop_scale": [0.75, 1.0]})
    assert setting.label == "rate-5+length-0.25+crop_scale-0.75-1.0"
    assert setting.changes(config) == {
        "recipe": {"lr": 0.01, "epochs": {1: 12, 2: 25, 8: 50}},
        "training": {"crop_scale": [0.75, 1.0]},
    }
    assert Setting().changes(config) == {}


@pytest.mark.parametrize(
    ("method", "changes", "settings"),
    [
        # A closed form has no rate; a development task may be beside those of the suite.
        ("gda", {"[mini-weather]": "[mini-science]"}, ["length-1", "length-1+views-1"]),
        # CoOp's own 100 epochs of a batch are over the cap of 20 steps, as 800 would be.
        ("coop", {"[1, 30]": "[1]", "[1, 0.1]": "[0.1, 1, 8]"}, ["length-1", "length-0.1"]),
    ],
)
def test_settings_that_change_nothing_are_not_tried(
    tmp_path: Path, method: str, changes: dict[str, str], settings: list[str]
) -> None:
    plan = cb.plan_tuning(method, write(tmp_path, changes), tmp_path)
    names = list(plan.methods)
    assert names == [f"{method}+rate-1+{setting}" for setting in settings]
    assert plan.request.tasks == (changes.get("[mini-weather]", "[mini-weather]")[1:-1],)


@pytest.mark.slow
def test_finished_fits_are_kept_and_the_record_has_the_same_bytes(
    tuned: tuple[Path, list[Tuning]],
) -> None:
    folder, [tuning] = tuned
    path = folder / "results" / "tiny" / "tuning" / "taskres.json"
    before = path.read_bytes()
    assert Tuning.model_validate_json(before) == tuning
    started = []
    again = cb.tune("taskres", str(folder / "tiny.yaml"), out=folder, on_event=started.append)
    assert (again, started, path.read_bytes()) == ([tuning], [], before)
    assert cb.plan_tuning("taskres", str(folder / "tiny.yaml"), folder).to_do == []
    text = output_of("maintain tune", "taskres", "--suite", folder / "tiny.yaml", "--out", folder)
    assert "all done" in text
    # What is printed gives the suite the chosen settings.
    lines = text.partition("nothing):\n")[2]
    indented = "".join(f"  {line}\n" for line in lines.splitlines())
    (folder / "set.yaml").write_text(f"{SUITE}methods:\n{indented}")
    plan = make_plan(make_request(str(folder / "set.yaml"), "taskres", out=folder / "other"))
    assert plan.cells[0].config == tuning.config


def test_how_settings_are_chosen_changes_no_key(tmp_path: Path) -> None:
    plain = suite_cards.read("smoke")
    tuned = plain.model_copy(update={"tuning": TuningCard(), "development": ("mini-weather",)})
    first, second = (
        [cell.key for cell in make_plan(make_request(card, "coop", out=tmp_path)).cells]
        for card in (plain, tuned)
    )
    assert first == second


@pytest.mark.parametrize(
    ("gains", "chosen"),
    [
        ([(0, 0), (5, 1), (-1, 1)], 1),
        ([(0, 0), (1, 2), (3, 3)], 0),  # within one standard error: the recipe's own
        ([(0, 0), (3, 4), (2, 0.1)], 0),  # the best is judged, and not the surest
        ([(0, 0), (-3, 1)], 0),
        ([(0, 0), (2, 0), (2, 0)], 1),  # of equal ones the first
        ([(None, None), (None, None), (1, None)], 2),
    ],
)
def test_the_best_is_chosen_if_it_is_better_than_chance(gains: Any, chosen: int) -> None:
    frame = pd.DataFrame(gains, columns=["gain", "error"], dtype=float)
    frame["accuracy"] = 50 + frame["gain"]
    assert choose(frame) == chosen


def test_a_gain_has_the_standard_error_over_tasks_and_seeds() -> None:
    frame = Tuning.model_validate(record()).frame
    assert frame["accuracy"].tolist() == [40, 61, 40]
    assert frame["gain"].tolist() == [0, 21, 0]
    assert frame["error"].tolist() == pytest.approx([0, 1, 40])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"chosen": 2}, "not what the counts give"),
        ({"correct": [[20, 40], [51, 62], [40, 0]]}, "more images are right"),
        ({"correct": [[20], [30], [40]]}, "a count for each task and seed"),
        ({"correct": [[None, 1]] * 3}, "every setting failed"),
        ({"note": "mine"}, "Extra inputs"),
    ],
)
def test_a_record_that_does_not_agree_with_itself_is_refused(changes: Any, message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        Tuning.model_validate(record(**changes))


def test_a_page_says_which_methods_were_not_tuned(tmp_path: Path) -> None:
    """Only where the suite says how, and until a record has chosen their settings."""
    trained = replace(flat(COOP, 62, 57, 2), config={"recipe": {"lr": 0.1}})
    results = make_suite(trained, flat(PROBE, 80, 5, 2))
    card = suite_cards.read("smoke").model_copy(update={"name": "tiny"})
    own = card.model_copy(update={"tuning": TuningCard()})

    def titles(suite: SuiteCard) -> list[str]:
        page = read_suite_page(suite, ResultFiles(tmp_path), results)
        shown = render_leaderboard([replace(page, expected=TWO_BY_TWO)])
        assert ("† not tuned" in shown) == bool(page.legend) == ("CoOp †" in shown)
        return [info.title for info in page.results.infos]

    assert titles(card) == ["CoOp", "Linear probe"]
    assert titles(own) == ["CoOp †", "Linear probe"]
    path = tmp_path / "results" / "tiny" / "tuning" / "coop.json"
    path.parent.mkdir(parents=True)
    path.write_text(json.dumps(record()))
    assert titles(own) == ["CoOp †", "Linear probe"]  # other settings were chosen
    path.write_text(json.dumps(record(config=trained.config)))
    assert titles(own) == ["CoOp", "Linear probe"]
    # A suite may train longer with the rate that was chosen.
    shorter = {"recipe": {"lr": 0.1, "epochs": 5}, "max_steps": 7}
    path.write_text(json.dumps(record(config=shorter)))
    assert titles(own) == ["CoOp", "Linear probe"]
    path.write_text(json.dumps(record(chosen=2)))
    with pytest.raises(CompatbenchError, match=r"coop\.json: .*not what the counts give"):
        titles(own)


@pytest.mark.parametrize(
    ("methods", "changes", "message"),
    [
        ("gda,zeroshot", {"trainings: [{views: 1}], ": ""}, "nothing to tune of zeroshot, gda: no"),
        ("coop", {"[mini-weather]": "[mini-wether]"}, "no development task named 'mini-wether'; d"),
        ("coop", {"[mini-weather]": "[]"}, "must name its development tasks: 'development'"),
        ("coop", {"shots: [4]": "shots: [2, all]"}, "too few images to hold a quarter out"),
        ("coop", {"[101, 102]": "[101]"}, "'tuning.seeds' give one draw, and a standard error"),
    ],
)
def test_bad_input_gives_a_one_line_error(
    tmp_path: Path, methods: str, changes: dict[str, str], message: str
) -> None:
    with pytest.raises(CompatbenchError, match=message):
        cb.tune(methods, write(tmp_path, changes), out=tmp_path)
    assert not (tmp_path / "runs").exists()


MINE = """\
from dataclasses import replace
from compatbench.methods.taskres import TaskRes

class Mine(TaskRes):
    card = replace(TaskRes.card, name="mine")
    def fit(self, backbone, data, rng): raise ValueError("no")
"""


def test_a_method_whose_fits_all_fail_is_reported(tmp_path: Path) -> None:
    mine = tmp_path / "mine.py"
    mine.write_text(MINE)
    suite = write(tmp_path, {})
    with pytest.raises(CompatbenchError, match="'mine': every setting failed"):
        cb.tune(str(mine), suite, out=tmp_path, compute=cb.Compute(jobs=1))
