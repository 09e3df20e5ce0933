"""Named configs of a method in a suite, and shots that are all there are."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from compatbench.data.cards import SuiteCard, suite_cards, suite_tasks
from compatbench.data.shots import ALL_SHOTS, count_shots
from compatbench.engine.matrix import resolve_config, select_matrix
from compatbench.engine.missing import Missing
from compatbench.engine.plan import plan_cells
from compatbench.errors import CompatbenchError
from compatbench.method.registry import builtin_methods
from compatbench.results.rows import Row, read_csv, to_frame, write_csv

REGISTRY = builtin_methods()


def selected(suite: SuiteCard, methods: str) -> list[str]:
    return [choice.name for choice in select_matrix(suite, REGISTRY, methods).choices]


def smoke(**values: Any) -> SuiteCard:
    return SuiteCard.model_validate(suite_cards.read("smoke").model_dump() | values)


def ablation(**methods: dict[str, Any]) -> SuiteCard:
    configs = {"contcoop+no-kd": {"method": "contcoop", "weight": 0}, **methods}
    return smoke(methods=configs, compare=["kgcoop", "contcoop", "contcoop+*"])


def test_all_means_what_the_suite_compares() -> None:
    suite = ablation()
    assert selected(suite, "all") == ["contcoop", "kgcoop", "contcoop+no-kd"]
    assert selected(suite, "!kgcoop") == ["contcoop", "contcoop+no-kd"]
    assert selected(suite, "all,coop,!contcoop") == [
        "coop",
        "kgcoop",
        "contcoop+no-kd",
    ]
    assert set(selected(smoke(), "all")) == set(REGISTRY.names())


def test_a_suite_s_plug_ins_are_loaded_before_its_methods_are_selected(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(
        "from dataclasses import replace\n\n"
        "from compatbench.methods.coop import CoOp\n\n\n"
        "class Mine(CoOp):\n"
        '    """Mine."""\n\n'
        "    card = replace(CoOp.card, name='mine')\n"
    )
    (tmp_path / "suite.yaml").write_text(
        "name: own\ntitle: Own\nextends: smoke\nplugins: [./mine.py]\n"
        "methods: {mine+b: {method: mine, context_length: 4}}\ncompare: [mine, mine+b, zeroshot]\n"
    )
    suite, registry = suite_cards.read(str(tmp_path / "suite.yaml")), builtin_methods.__wrapped__()
    choices = select_matrix(suite, registry).choices
    assert {choice.name for choice in choices} == {"mine", "mine+b", "zeroshot"}


def test_a_named_config_begins_with_what_the_suite_changes_of_its_method() -> None:
    suite = ablation(contcoop={"recipe": {"lr": 0.5}, "heads": 2})
    cls = REGISTRY.get("contcoop")
    config = resolve_config(cls, suite, "contcoop+no-kd")
    assert (config["weight"], config["heads"], config["recipe"]["lr"]) == (0, 2, 0.5)
    assert resolve_config(cls, suite)["weight"] == 8


def test_a_named_config_s_cell_is_that_of_its_method_with_these_settings() -> None:
    suite = ablation()
    [named] = plan_cells(suite, REGISTRY, ["contcoop+no-kd"])
    [plain] = plan_cells(smoke(methods={"contcoop": {"weight": 0}}), REGISTRY, ["contcoop"])
    assert (named.name, named.method) == ("contcoop+no-kd", "contcoop")
    assert named.key == plain.key


@pytest.mark.parametrize(
    ("methods", "message"),
    [
        ({"coop+x": {"method": "coopp"}}, "did you mean coop"),
        ({"coop": {"method": "kgcoop"}}, "has the name of a method"),
    ],
)
def test_a_config_of_no_method_is_refused(methods: dict[str, Any], message: str) -> None:
    with pytest.raises(CompatbenchError, match=message):
        selected(smoke(methods=methods), "all")


def test_two_names_for_the_same_settings_are_refused() -> None:
    suite = ablation(**{"contcoop+again": {"method": "contcoop", "weight": 0.0}})
    with pytest.raises(CompatbenchError, match="the same settings; drop one"):
        plan_cells(suite, REGISTRY, ["contcoop+no-kd", "contcoop+again"])


def test_a_config_without_a_method_is_refused() -> None:
    with pytest.raises(ValidationError, match="needs 'method'"):
        smoke(methods={"coop+x": {"context_length": 4}})


@pytest.mark.parametrize("name", suite_cards.names())
def test_every_suite_can_be_counted_without_its_data(name: str) -> None:
    suite = suite_cards.read(name)
    methods = selected(suite, "all")
    places = select_matrix(suite, REGISTRY).places
    sources = {upgrade[0] for upgrade in suite.upgrades}
    targets = {name for upgrade in suite.upgrades for name in upgrade} - sources
    learners = [m for m in methods if REGISTRY.get(suite.base_method(m)).card.learns]
    draws = len(suite.shots) * len(suite.seeds)
    tasks = len(suite_tasks(suite))
    each = len(sources) * tasks
    retrained = len(targets) * tasks * len(learners) * draws if suite.retrained else 0
    once = len(methods) - len(learners)
    assert len(places) == each * (len(learners) * draws + once) + retrained
    missing = Missing({backbone: "gone" for upgrade in suite.upgrades for backbone in upgrade}, {})
    assert plan_cells(suite, REGISTRY, methods, missing=missing) == []


def test_a_missing_target_or_variant_leaves_the_rest_of_the_cell() -> None:
    suite = smoke(tasks=["mini-objects"], variants=["mini-*"])
    missing = Missing({"mini-eva-clip": "gone"}, {"mini-objects-mono": "gone"})
    [whole] = plan_cells(suite, REGISTRY, ["coop"])
    [cell] = plan_cells(suite, REGISTRY, ["coop"], missing=missing)
    assert cell.backbones == ("mini-clip",)
    assert set(whole.test_sets) - set(cell.test_sets) == {"mini-objects-mono"}
    assert cell.key == whole.key


def test_all_shots_is_a_word_in_files_and_the_largest_number_in_between(tmp_path: Path) -> None:
    suite = smoke(shots=[4, "all"])
    assert suite.shots == (4, ALL_SHOTS)
    assert suite.model_dump()["shots"] == (4, "all")
    assert count_shots(ALL_SHOTS) == "all shots"
    assert count_shots(1) == "1 shot"
    row = Row.model_validate(
        {
            "method": "contcoop+no-kd",
            "task": "mini-weather",
            "test_set": "mini-weather",
            "source": "ViT-B-16-quickgelu/openai",
            "backbone": "local-dir:/models/eva",
            "shots": "all",
            "seed": 1,
            "status": "failed",
            "reason": "no luck",
            "key": "0" * 64,
            "data": "1" * 64,
        }
    )
    frame = to_frame([row], Row)
    text = write_csv(frame)
    assert ",all,1,failed," in text
    (tmp_path / "rows.csv").write_text(text, encoding="utf-8")
    assert read_csv(tmp_path / "rows.csv", Row).equals(frame)
