"""A user's own cards, in addition to the built-in ones: found by name, or named by their paths."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from command_line import invoke, output_of
from data.trees import load_again, write_folders

import compatbench as cb
from compatbench.data import task as task_module
from compatbench.data.cards import (
    backbone_cards,
    names_elsewhere,
    suite_cards,
    suite_tasks,
    task_cards,
)
from compatbench.data.task import inspect_task, load_task
from compatbench.engine import keys
from compatbench.errors import CompatbenchError
from compatbench.files.project_folders import tasks_folder

TASK = """\
name: pets
title: Pets
classes: [cat, dog]
folders: [Alpine_Ibex, redFox]
templates: ["a photo of a {}."]
source: {kind: class-folders, folder: my pets, train: train, test: test}
counts: {train: 8, test: 4}
licence: none
"""
SUITE = """\
name: mine
title: Mine
extends: smoke
tasks: [pets]
"""
MINI_CLIP = (tasks_folder() / "backbones" / "mini-clip.yaml").read_text(encoding="utf-8")
BACKBONE = MINI_CLIP.replace("name: mini-clip\n", "name: house-clip\n")


@pytest.fixture
def cards(work: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a task, its images, a suite and a backbone, beside the current folder."""
    folder = tmp_path / "cards"
    write_folders(write_folders(folder / "my pets", 4, "train"), 2, "test")
    (folder / "suites").mkdir()
    (folder / "pets.yaml").write_text(TASK)
    (folder / "house-clip.yaml").write_text(BACKBONE)
    (folder / "suites" / "mine.yaml").write_text(SUITE)
    (folder / "compose.yaml").write_text("name: web\nservices: {web: {image: nginx}}\n")
    monkeypatch.setenv("COMPATBENCH_CACHE", str(tmp_path / "cache"))
    return folder


@pytest.fixture
def found(cards: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The same folder, with its cards found by name."""
    monkeypatch.setenv("COMPATBENCH_CARDS", str(cards))
    return cards


@pytest.mark.parametrize("place", ["variable", "option", "folder", "python"])
def test_own_cards_are_found_beside_built_in_ones(
    cards: Path, monkeypatch: pytest.MonkeyPatch, place: str
) -> None:
    before = set(task_cards.names())
    assert "pets" not in before
    if place == "variable":
        monkeypatch.setenv("COMPATBENCH_CARDS", f"{cards}{os.pathsep}{cards}")
    elif place == "folder":
        monkeypatch.chdir(cards)
    elif place == "option":
        monkeypatch.chdir(cards.parent)
        for kind, name in (("tasks", "pets"), ("backbones", "house-clip"), ("suites", "mine")):
            shown = output_of("list", kind, "--cards", cards.name)
            assert name in {line.split(" ")[0] for line in shown.splitlines()}
    else:
        assert cb.tasks(str(cards / "pets.yaml"))["name"].tolist() == ["pets"]
        assert {*task_cards.names()} - before == {"pets"}
        return
    for catalog, own, shipped in (
        (task_cards, "pets", "mini-food"),
        (backbone_cards, "house-clip", "mini-clip"),
        (suite_cards, "mine", "mini"),
    ):
        assert {own, shipped} <= {*catalog.names()}
        assert (catalog.read(own).name, catalog.read(shipped).name) == (own, shipped)
        assert not {"web", "compose"} & {*catalog.names()}
    assert {*task_cards.names()} - before == {"pets"}
    assert suite_tasks(suite_cards.read("mine")) == ("pets",)
    assert len(load_task("pets").split("train")) == 8
    assert inspect_task("pets").folder == cards / "my pets"


def test_own_descriptions_change_the_test_set_key(found: Path) -> None:
    """A module of another task may be tested with them, and its key does not cover them."""

    def key(texts: dict[str, list[str]] | None) -> str:
        card = TASK
        if texts is not None:
            card += "descriptions: {file: texts.json, source: us, licence: none}\n"
        (found / "pets.yaml").write_text(card)
        (found / "texts.json").write_text(json.dumps(texts))
        task_module._load.cache_clear()
        return keys.data_key("mini-clip", "pets")

    texts = {"cat": ["it purrs"], "dog": ["it barks"]}
    plain = key(None)
    assert plain == key({"cat": ["it purrs"]})  # incomplete, so they are not used
    assert len({plain, key(texts), key(texts | {"dog": ["it howls"]})}) == 3
    assert key(texts) == key(texts | {"elk": ["it bells"]})


def test_path_may_be_an_object_of_pathlib(cards: Path) -> None:
    task = cards / "pets.yaml"
    assert task_cards.read(task).name == "pets"
    assert backbone_cards.read(cards / "house-clip.yaml").name == "house-clip"
    assert load_task(task).name == "pets"
    suite = cards / "suites" / "mine.yaml"
    plan = cb.plan(suite, "zeroshot", tasks=task)
    assert plan.frame["cells"].tolist() == [1]
    assert plan.request.suite_given == str(suite)
    assert cb.plan(suite, "zeroshot", tasks=[task]).frame.equals(plan.frame)
    with pytest.raises(CompatbenchError, match="no task of suite 'mine' matches"):
        cb.plan(suite, "zeroshot", tasks=[task, "!pets"])


@pytest.mark.slow
def test_path_works_wherever_a_name_does(cards: Path, tmp_path: Path) -> None:
    task = cards / "pets.yaml"
    backbone = cards / "house-clip.yaml"
    assert load_task(str(task)).name == "pets"
    assert len(task_cards.names()) == len(task_cards.builtin_names()) + 1
    module = cb.fit("taskres", task=str(task), source=str(backbone), shots=2)
    assert (module.about["task"], module.about["source"]) == ("pets", "house-clip")
    found = cb.evaluate(module, str(backbone), str(task))
    assert (found.backbone, found.test_set, found.images) == ("house-clip", "pets", 4)
    suite = cards / "own.yaml"
    paths = "tasks: [pets.yaml]\nupgrades: [[./house-clip.yaml, mini-clip]]\n"
    suite.write_text(SUITE.replace("tasks: [pets]\n", paths))
    card = suite_cards.read(str(suite))
    assert (card.tasks, card.upgrades) == (("pets",), (("house-clip", "mini-clip"),))
    arguments = ("--suite", suite, "--tasks", task, "--methods", "zeroshot", "--out", tmp_path)
    output_of("run", *arguments)
    assert (tmp_path / "results" / "mine").is_dir()
    assert "found pets" in invoke("store doctor", "--tasks", task).output


def test_suite_may_name_only_cards_in_its_folder(cards: Path, tmp_path: Path) -> None:
    for given in ("../outside.yaml", str(tmp_path / "outside.yaml"), "link.yaml"):
        (tmp_path / "outside.yaml").write_text(TASK)
        (cards / "link.yaml").unlink(missing_ok=True)
        (cards / "link.yaml").symlink_to(tmp_path / "outside.yaml")
        for field in (f"tasks: ['{given}']", f"tasks: [pets]\nupgrades: [[mini-clip, '{given}']]"):
            (cards / "own.yaml").write_text(SUITE.replace("tasks: [pets]", field))
            with pytest.raises(CompatbenchError, match=r"neither in the card's folder nor"):
                suite_cards.read(str(cards / "own.yaml"))


def test_duplicate_card_name_error_names_both_files(
    found: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (found / "again.yml").write_text(TASK)
    both = rf"named 'pets', {found}/again.yml and {found}/pets.yaml; rename one"
    for read in (lambda: task_cards.read("pets"), lambda: load_task("pets")):
        with pytest.raises(CompatbenchError, match=both):
            read()
    (found / "food.yaml").write_text(TASK.replace("pets", "mini-food"))
    with pytest.raises(CompatbenchError, match=r"/cards/food.yaml and .*/tasks/mini-food.yaml;"):
        invoke("run", "--suite", "mini", "--methods", "zeroshot", "--tasks", "mini-food")
    assert task_cards.read("mini-travel").name == "mini-travel"  # the others are as before
    # A card that is found twice counts once.
    (found / "again.yml").unlink()
    (found / "food.yaml").unlink()
    (found.parent / "work" / "link.yaml").symlink_to(found / "pets.yaml")
    monkeypatch.setenv("COMPATBENCH_CARDS", f"{found}{os.pathsep}{found / 'pets.yaml'}")
    assert task_cards.read("pets").name == "pets"
    monkeypatch.chdir(tasks_folder())
    assert task_cards.own().keys() == {"pets"}


def test_files_that_are_not_cards_are_refused(cards: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (cards / "notes.yaml").write_text("a: b\n")
    for given, message in (
        (cards / "none", "there is no folder or file"),
        (cards / "notes.yaml", "is not a card of a task, backbone or suite"),
    ):
        with pytest.raises(CompatbenchError, match=f"^--cards '{given}': .*{message}"):
            invoke("list", "tasks", "--cards", given)
        monkeypatch.setenv("COMPATBENCH_CARDS", str(given))
        with pytest.raises(CompatbenchError, match=f"^COMPATBENCH_CARDS: .*{message}"):
            task_cards.names()
        monkeypatch.setenv("COMPATBENCH_CARDS", "")
    with pytest.raises(CompatbenchError, match="field 'name' is missing"):
        load_task(str(cards / "notes.yaml"))
    (cards / "own.yaml").write_text(
        SUITE.replace("tasks: [pets]", "tasks: ['~no-such-user/a.yaml']")
    )
    with pytest.raises(CompatbenchError, match=r"cannot read card .*a\.yaml"):
        suite_cards.read(str(cards / "own.yaml"))


def test_broken_own_card_does_not_affect_other_cards(found: Path) -> None:
    (found / "broken.yaml").write_text("name: broken\ntitle: Broken\nsource: [\n")
    os.mkfifo(found / "pipe.yaml")
    assert suite_tasks(suite_cards.read("mine")) == ("pets",)
    with pytest.raises(CompatbenchError, match=r"broken.yaml:\d: not valid YAML"):
        task_cards.read("broken")
    # A task must not be named like a half.
    (found / "pets.yaml").write_text(TASK.replace("name: pets", "name: pets.new"))
    for read in (task_cards.read, load_task):
        with pytest.raises(CompatbenchError, match=r"pets.yaml:1: field 'name'.* new classes "):
            read("pets.new")


def test_images_are_beside_the_card_or_at_data_root(
    found: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COMPATBENCH_DATA", str(tmp_path / "nowhere"))
    assert len(load_task("pets").split("test")) == 4
    (found / "my pets").rename(tmp_path / "moved")
    assert inspect_task("pets").state == "missing"
    (found / "my pets").symlink_to(tmp_path / "moved")
    load_again()
    with pytest.raises(CompatbenchError, match="is a link out of the card's folder; give the pl"):
        load_task("pets")
    monkeypatch.setenv("COMPATBENCH_DATA_PETS", str(tmp_path / "moved"))
    assert len(load_task("pets").split("test")) == 4


def test_own_cards_do_not_count_as_shipped(found: Path) -> None:
    """The audit expects the user to have whatever the project does not contain."""
    suite = f"{SUITE}upgrades: [[mini-clip, house-clip]]\n".replace("mine", "own")
    (found / "own.yaml").write_text(suite)
    assert backbone_cards.read("house-clip").weights
    assert names_elsewhere(suite_cards.read("own")) == {"pets", "house-clip"}
    assert names_elsewhere(suite_cards.read("smoke")) == set()
