"""Plans: the cells of a request, what their keys contain, and which of them are done."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from made_results import make_row
from planning import add_methods, cells_of, matrix_of
from pydantic import ValidationError

from compatbench.backbone import load_backbone
from compatbench.data.cards import SuiteCard, suite_cards, suite_tasks, suite_variants
from compatbench.data.cards.shots import ALL_SHOTS
from compatbench.engine.cell import Cell, Where
from compatbench.engine.described_method import describe_method
from compatbench.engine.keys import zero_shot_key
from compatbench.engine.method_settings import resolve_settings
from compatbench.engine.missing import Missing
from compatbench.engine.plan import make_plan
from compatbench.engine.request import make_request
from compatbench.engine.store import RunStore
from compatbench.engine.worker import Worker, build_method
from compatbench.errors import CompatbenchError
from compatbench.method.registry import builtin_methods
from compatbench.results.rows import Row, to_frame, write_csv

from .running import finish, write_methods

REGISTRY = builtin_methods()
CLIP = "mini-clip"
EVA = "mini-eva-clip"
ANEW = "mini-eva-clip-anew"
VIEWS = {"views": 2, "crop_scale": [0.5, 1.0], "max_steps": 20}


def smoke(**values: Any) -> SuiteCard:
    return SuiteCard.model_validate(suite_cards.read("smoke").model_dump() | values)


def ablation(**methods: dict[str, Any]) -> SuiteCard:
    configs = {"contcoop+no-kd": {"method": "contcoop", "weight": 0}, **methods}
    return smoke(methods=configs, compare=["kgcoop", "contcoop", "contcoop+*"])


def selected(suite: SuiteCard, methods: str) -> list[str]:
    return [*dict.fromkeys(one.name for one in matrix_of(suite, methods).choices)]


def one_cell(suite: SuiteCard, method: str = "coop", **selection: Any) -> Cell:
    [cell] = cells_of(suite, [method], **selection)
    return cell


def paths(suite: SuiteCard, method: str = "coop", **selection: Any) -> list[tuple[str, ...]]:
    return [cell.backbones for cell in cells_of(suite, [method], **selection)]


def test_a_task_stands_for_its_variants_which_can_be_named_alone() -> None:
    suite = suite_cards.read("ood")
    whole = matrix_of(suite, "zeroshot", tasks="imagenet").request
    assert whole.test_sets["imagenet"] == ("imagenet", *suite_variants(suite)["imagenet"])
    part = matrix_of(suite, "zeroshot", tasks="imagenet_r,imagenet_v2").request
    assert part.tasks == ("imagenet",)
    assert set(part.test_sets["imagenet"]) == {"imagenet_r", "imagenet_v2"}
    part = matrix_of(suite, "zeroshot", tasks="all,!imagenet_r").request
    assert set(whole.test_sets["imagenet"]) - set(part.test_sets["imagenet"]) == {"imagenet_r"}


def test_cells_have_different_keys_and_a_method_that_does_not_learn_has_one_cell() -> None:
    cells = cells_of("mini", REGISTRY.names())
    assert len({cell.key for cell in cells}) == len(cells)
    many = smoke(seeds=[1, 2, 3])
    assert one_cell(many, "zeroshot").key == one_cell(many, "zeroshot", seeds=[3, 2]).key


@pytest.mark.parametrize("name", suite_cards.names())
def test_every_suite_can_be_counted_without_its_data(name: str) -> None:
    suite = suite_cards.read(name)
    methods = selected(suite, "all")
    sources = {upgrade[0] for upgrade in suite.upgrades}
    targets = {name for upgrade in suite.upgrades for name in upgrade} - sources
    learners = [m for m in methods if REGISTRY.get(suite.base_method(m)).card.learns]
    tasks = len(suite_tasks(suite))
    fits = len(learners) * len(suite.shots) * len(suite.seeds)
    retrained = len(targets) * tasks * fits if suite.retrained else 0
    each = fits + len(methods) - len(learners)
    untouched = matrix_of(suite, transfers=["copied"])
    assert len(untouched.cells) == len(sources) * tasks * each + retrained
    missing = Missing(dict.fromkeys(sources | targets, "gone"), {})
    assert cells_of(suite, methods, missing) == []


def test_the_default_seeds_are_those_of_a_first_run(tmp_path: Path) -> None:
    suite = smoke(seeds=[1, 2, 3], run_seeds=[2, 7])
    for seeds, expected in ((None, {2}), ([1, 3], {1, 3})):
        plan = make_plan(make_request(suite, "coop", seeds=seeds, out=tmp_path))
        assert {cell.seed for cell in plan.cells} == expected


def test_repeated_seeds_and_shots_count_once() -> None:
    request = make_request(smoke(), "coop", seeds="1,2,1", shots=[4, "4"])
    assert (request.seeds, request.shots) == ((1, 2), (4,))
    suite = smoke(seeds=[1, 2, 1], shots=[4, "all", 4])
    assert (suite.seeds, suite.shots) == ((1, 2), (4, ALL_SHOTS))
    with pytest.raises(CompatbenchError, match=r"seeds.*: 1\.5 is not valid; give whole numbers"):
        make_request(smoke(), "coop", seeds=1.5)  # type: ignore[arg-type]


@pytest.mark.parametrize("tasks", ["", " , ", []])
def test_an_empty_selection_of_tasks_is_an_error(tasks: str | list[str]) -> None:
    with pytest.raises(CompatbenchError, match="'' names no task"):
        make_request("smoke", "coop", tasks=tasks)


def test_upgrades_of_one_source_share_a_fit_and_targets_are_retrained_once() -> None:
    plain = smoke(upgrades=[[CLIP, EVA], [CLIP, EVA, ANEW]])
    assert paths(plain) == [(CLIP, EVA, ANEW)]
    retrained = smoke(upgrades=plain.upgrades, retrained=True)
    assert paths(retrained) == [(CLIP, EVA, ANEW), (EVA,), (ANEW,)]
    both = smoke(upgrades=[[CLIP, EVA], [EVA, ANEW]], retrained=True)
    assert paths(both) == [(CLIP, EVA), (EVA, ANEW), (ANEW,)]
    # The same cells as in any suite that starts there.
    first, second, _ = cells_of(retrained, ["coop"])
    assert first == one_cell(plain)
    assert second.key == one_cell(smoke(upgrades=[[EVA, CLIP]])).key
    matrices = [matrix_of(suite, ["coop"]) for suite in (retrained, plain)]
    assert [len(matrix.cells) for matrix in matrices] == [3, 1]
    # What learns nothing is not retrained, nor is a target without weights.
    assert paths(smoke(retrained=True), "zeroshot") == [(CLIP, EVA)]
    assert paths(smoke(retrained=True), missing=Missing({EVA: "gone"})) == [(CLIP,)]


def test_a_missing_target_or_variant_leaves_the_rest_of_the_cell() -> None:
    suite = smoke(tasks=["mini-objects"], variants=["mini-*"])
    missing = Missing({EVA: "gone"}, {"mini-objects-mono": "gone"})
    whole = one_cell(suite)
    cell = one_cell(suite, missing=missing)
    assert cell.backbones == (CLIP,)
    assert set(whole.test_sets) - set(cell.test_sets) == {"mini-objects-mono"}
    assert cell.key == whole.key


@pytest.mark.parametrize(
    ("values", "decides"),
    [
        ({"shots": [2]}, True),
        ({"seeds": [2]}, True),
        ({"tasks": ["mini-animals"]}, True),
        ({"upgrades": [[EVA, CLIP]]}, True),
        ({"training": VIEWS | {"views": 3}}, True),
        ({"training": VIEWS | {"crop_scale": [0.4, 1.0]}}, True),
        ({"training": VIEWS | {"max_steps": 21}}, True),
        ({"training": VIEWS | {"precision": "bf16"}}, True),
        ({"methods": {"coop": {"context_length": 4}}}, True),
        ({"methods": {"coop": {"recipe": {"lr": 0.1}}}}, True),
        ({"training": VIEWS}, False),
        ({"title": "Another title", "note": "Another note"}, False),
        ({"methods": {"kgcoop": {"weight": 1.0}}}, False),
        # A default is in no key.
        (
            {"methods": {"coop": REGISTRY.get("coop").Config().model_dump(exclude={"max_steps"})}},
            False,
        ),
        ({"upgrades": [[CLIP, "mini-clip-other"]]}, False),
    ],
)
def test_a_key_contains_everything_that_decides_a_module_and_nothing_else(
    values: dict[str, Any], decides: bool
) -> None:
    assert (one_cell(smoke()).key != one_cell(smoke(**values)).key) == decides


def test_all_means_the_methods_that_the_suite_compares() -> None:
    suite = ablation()
    assert selected(suite, "all") == ["contcoop", "kgcoop", "contcoop+no-kd"]
    assert selected(suite, "!kgcoop") == ["contcoop", "contcoop+no-kd"]
    assert selected(suite, "all,coop,!contcoop") == ["coop", "kgcoop", "contcoop+no-kd"]
    assert set(selected(smoke(), "all")) == set(REGISTRY.names())


def test_settings_are_the_recipe_s_but_for_what_the_suite_names() -> None:
    suite = smoke(methods={"kgcoop": {"recipe": {"lr": 0.5}}})
    recipe = resolve_settings(REGISTRY.get("kgcoop"), suite).config["recipe"]
    published = REGISTRY.get("kgcoop").Config().recipe  # type: ignore[attr-defined]
    assert recipe == published.model_dump(mode="json") | {"lr": 0.5}
    # The cap on steps reaches methods that are trained in steps.
    assert resolve_settings(REGISTRY.get("coop"), suite).config["max_steps"] == 20
    assert "max_steps" not in resolve_settings(REGISTRY.get("linear_probe"), suite).config
    # A named config begins with what the suite changes of its method.
    suite = ablation(contcoop={"recipe": {"lr": 0.5}, "heads": 2})
    cls = REGISTRY.get("contcoop")
    config = resolve_settings(cls, suite, "contcoop+no-kd").config
    assert (config["weight"], config["heads"], config["recipe"]["lr"]) == (0, 2, 0.5)
    assert resolve_settings(cls, suite).config["weight"] == 8
    named = one_cell(ablation(), "contcoop+no-kd")
    assert (named.name, named.method) == ("contcoop+no-kd", "contcoop")
    assert named.key == one_cell(smoke(methods={"contcoop": {"weight": 0}}), "contcoop").key


@pytest.mark.parametrize(
    ("method", "field"), [("promptkd", "teacher_recipe"), ("mergetune", "coop_recipe")]
)
def test_a_suite_changes_single_parts_of_every_recipe(method: str, field: str) -> None:
    published = REGISTRY.get(method).Config().model_dump(mode="json")[field]
    changes = {field: {"batch_size": 16}, "tasks": {"mini-food": {field: {"lr": 0.5}}}}
    suite = smoke(methods={method: changes})
    for_all = published | {"batch_size": 16}
    assert resolve_settings(REGISTRY.get(method), suite).config[field] == for_all
    on_food = resolve_settings(REGISTRY.get(method), suite, task="mini-food").config[field]
    assert on_food == for_all | {"lr": 0.5}


def test_settings_of_a_task_and_the_training_of_a_method_hold_there_alone() -> None:
    own = {"recipe": {"lr": 0.5}, "training": {"views": "fresh"}}
    everywhere = {"recipe": {"lr": 0.1}, "training": {"crop_scale": [0.2, 1.0]}}
    changed = {"coop": {**everywhere, "tasks": {"mini-a*,mini-food": own}}}
    tasks = ["mini-animals", "mini-food", "mini-travel"]
    suite = smoke(tasks=tasks, methods=changed)
    cells = {cell.task: cell for cell in cells_of(suite, ["coop"])}
    rates = [cells[task].config["recipe"]["lr"] for task in tasks]
    views = [(cells[task].training.views, cells[task].training.crop_scale) for task in tasks]
    assert rates == [0.5, 0.5, 0.1]
    assert views == [("fresh", (0.2, 1.0)), ("fresh", (0.2, 1.0)), (2, (0.2, 1.0))]
    # The same settings, however they are written, are the same module.
    alone = smoke(tasks=["mini-food"], methods={"coop": {**own, "training": {
        "views": "fresh", "crop_scale": [0.2, 1.0]}}})  # fmt: skip
    assert one_cell(alone).key == cells["mini-food"].key
    assert one_cell(alone, "kgcoop").training == alone.training
    # One view of every image per epoch, and the plain one.
    [choice] = matrix_of(suite, ["coop"]).choices
    epochs = {}
    view_counts = {}
    for task in tasks:
        epochs[task], _ = choice.build(task).plan_steps(4, 4 * 15)
        view_counts[task] = len(cells[task].training.list_views(epochs[task]))
    assert view_counts == epochs | {"mini-travel": 2}
    capped = cells["mini-food"].training.model_copy(update={"most_views": 3})
    assert len(capped.list_views(epochs["mini-animals"])) == 3
    described = describe_method(suite, REGISTRY.get("coop"), "coop").differs
    assert described["mini-food: recipe.lr"] == (0.1, 0.5)
    assert described["mini-food: training.views"] == (2, "fresh")
    assert (described["recipe.lr"], "mini-travel: recipe.lr" in described) == ((0.002, 0.1), False)


@pytest.mark.slow
def test_mirrored_images_and_another_number_of_validation_images_reach_the_fit(
    worker: Worker,
) -> None:
    own = {"training": {"views": "mirror", "val_shots": 2}}
    suite = smoke(tasks=["mini-travel"], shots=[6], methods={"gda": own})
    backbone = load_backbone(CLIP)
    before = worker.few_shot_data(one_cell(suite, "lfa"), backbone)
    after = worker.few_shot_data(one_cell(suite, "gda"), backbone)
    assert torch.equal(before.train.plain, after.train.plain)
    assert after.train.views.shape == (1, *after.train.plain.shape)
    assert 0.8 < F.cosine_similarity(after.train.views[0], after.train.plain).mean() < 1
    assert before.val.targets.bincount().max() == 4
    assert after.val.targets.bincount().max() == 2
    more = smoke(tasks=["mini-travel"], shots=[6], methods={"gda": {"training": {"val_shots": 2}}})
    assert len({one_cell(s, "gda").key for s in (suite, more, smoke(shots=[6]))}) == 3


def test_a_suite_that_extends_another_changes_single_settings(tmp_path: Path) -> None:
    base = "recipe: {lr: 0.5}, tasks: {mini-food: {context_length: 8}}"
    head = "title: T\nupgrades: [[mini-clip, mini-eva-clip]]\ntasks: [mini-food]\n"
    text = f"name: base\n{head}shots: [4]\nseeds: [1]\nmethods:\n  coop: {{{base}}}\n"
    (tmp_path / "base.yaml").write_text(text)
    (tmp_path / "more.yaml").write_text(
        "name: more\nextends: base\nmethods:\n  coop: {tasks: {mini-food: {position: front}}}\n"
    )
    config = one_cell(suite_cards.read(str(tmp_path / "more.yaml"))).config
    assert (config["context_length"], config["position"]) == (8, "front")
    assert config["recipe"]["lr"] == 0.5


@pytest.mark.parametrize(
    ("methods", "message"),
    [
        ({"coop+x": {"method": "coopp"}}, "did you mean coop"),
        ({"coop": {"method": "kgcoop"}}, "has the name of a method"),
        ({"coop+x": {"context_length": 4}}, "needs 'method'"),
        ({"a+1": {"method": "coop"}, "a+2": {"method": "coop"}}, "the same settings; drop one"),
        ({"coop": {"tasks": {"mini-foot": {}}}}, r"methods.coop.tasks .*mean mini-food"),
        ({"coop": {"tasks": {"mini-food": 3}}}, "methods.coop.tasks must hold settings"),
        ({"coop": {"training": 3}}, "methods.coop: 'training' must be a mapping"),
        ({"coop": {"training": {"view": 3}}}, "setting 'view' of the training of method 'coop'"),
        ({"coop": {"training": {"views": "frsh"}}}, "setting 'views' of the training"),
    ],
)
def test_a_wrong_config_is_refused(methods: dict[str, Any], message: str) -> None:
    with pytest.raises((CompatbenchError, ValidationError), match=message):
        selected(smoke(methods=methods), "all,a+*" if "a+1" in methods else "all")


def test_a_cell_is_done_if_nothing_is_missing_and_failed_cells_are_retried(
    tmp_path: Path,
) -> None:
    cell = one_cell(smoke())
    store = RunStore(tmp_path)
    record = finish(store, cell)
    *rest, last = record.records

    def state(**values: Any) -> tuple[bool, bool, list[Where]]:
        changed = record.model_copy(update=values)
        store.write(changed)
        done, failed, _ = store.read_state(cell)
        return done, failed, store.left(cell, changed)

    assert state() == (True, False, [])
    # An outcome of other weights or images does not count.
    stale = last.model_copy(update={"data": "0" * 64})
    assert state(records=(*rest, stale)) == (False, False, [last.where])
    failed = last.model_copy(update={"status": "failed", "reason": "no luck"})
    assert state(records=(*rest, failed)) == (False, True, [last.where])
    assert state(status="failed", records=())[:2] == (False, True)
    # A cell whose predictions are lost, its own or those of zero-shot, is not done.
    assert state() == (True, False, [])
    path = store.predictions_path(zero_shot_key(last.data, "fp32"))
    path.unlink()
    assert RunStore(tmp_path).left(cell, record) == [last.where]
    store.predictions_path(cell.key).unlink()
    assert RunStore(tmp_path).left(cell, record) == list(cell.places)


def test_a_method_file_that_was_changed_after_the_plan_is_not_run(tmp_path: Path) -> None:
    file = tmp_path / "mine.py"
    write_methods(file, mine="pass")
    add_methods(file)
    cell = one_cell(smoke(), "mine")
    builtin_methods.cache_clear()  # as in a worker that has not loaded it yet
    assert build_method(cell).card.name == "mine"
    write_methods(file, other="pass")
    assert build_method(cell).card.name == "mine"  # it has the code of the plan in memory
    builtin_methods.cache_clear()
    with pytest.raises(CompatbenchError, match=r"mine.py was changed after the run had begun; run"):
        build_method(cell)
    builtin_methods.cache_clear()


def test_all_shots_is_a_word_in_files_and_the_largest_number_in_between() -> None:
    suite = smoke(shots=[4, "all"])
    assert suite.shots == (4, ALL_SHOTS)
    assert suite.model_dump()["shots"] == (4, "all")
    assert ",all,1,ok," in write_csv(to_frame([make_row(shots="all")], Row))
