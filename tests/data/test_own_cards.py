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
    """A folder with a task, its images, a suite and a backbone, beside the one where one works."""
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
    """The same, whose cards are found by their names."""
    monkeypatch.setenv("COMPATBENCH_CARDS", str(cards))
    return cards


@pytest.mark.parametrize("way", ["variable", "option", "folder", "python"])
def test_own_cards_are_found_besides_the_built_in_ones(
    cards: Path, monkeypatch: pytest.MonkeyPatch, way: str
) -> None:
    before = set(task_cards.names())
    assert "pets" not in before
    if way == "variable":
        monkeypatch.setenv("COMPATBENCH_CARDS", f"{cards}{os.pathsep}{cards}")
    elif way == "folder":
        monkeypatch.chdir(cards)
    elif way == "option":
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


def test_own_descriptions_are_in_the_key_of_a_test_set(found: Path) -> None:
    """A module of another task may be given them, whose key knows nothing of them."""

    def key(texts: dict[str, list[str]] | None) -> str:
        described = "descriptions: {file: texts.json, source: us, licence: none}\n"
        (found / "pets.yaml").write_text(TASK + described * (texts is not None))
        (found / "texts.json").write_text(json.dumps(texts))
        for known in (task_module._load, keys._hash_test_set):
            known.cache_clear()
        return keys.data_key("mini-clip", "pets")

    texts = {"cat": ["it purrs"], "dog": ["it barks"]}
    plain = key(None)
    assert plain == key({"cat": ["it purrs"]})  # of no use, as a method that needs them says
    assert len({plain, key(texts), key(texts | {"dog": ["it howls"]})}) == 3
    assert key(texts) == key(texts | {"elk": ["it bells"]})


@pytest.mark.slow
def test_a_path_serves_wherever_a_name_does(cards: Path, tmp_path: Path) -> None:
    task, backbone = cards / "pets.yaml", cards / "house-clip.yaml"
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
    assert "Mine" in output_of("run", *arguments) or (tmp_path / "results" / "mine").is_dir()
    assert "found pets" in invoke("store doctor", "--tasks", task).output


def test_a_suite_names_cards_in_its_own_folder(cards: Path, tmp_path: Path) -> None:
    for given in ("../outside.yaml", str(tmp_path / "outside.yaml"), "link.yaml"):
        (tmp_path / "outside.yaml").write_text(TASK)
        (cards / "link.yaml").unlink(missing_ok=True)
        (cards / "link.yaml").symlink_to(tmp_path / "outside.yaml")
        for field in (f"tasks: ['{given}']", f"tasks: [pets]\nupgrades: [[mini-clip, '{given}']]"):
            (cards / "own.yaml").write_text(SUITE.replace("tasks: [pets]", field))
            with pytest.raises(CompatbenchError, match=r"neither in the card's folder nor"):
                suite_cards.read(str(cards / "own.yaml"))


def test_two_cards_of_one_name_are_one_line_with_both_files(
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
    # One that is found in two ways is one.
    (found / "again.yml").unlink()
    (found / "food.yaml").unlink()
    (found.parent / "work" / "link.yaml").symlink_to(found / "pets.yaml")
    monkeypatch.setenv("COMPATBENCH_CARDS", f"{found}{os.pathsep}{found / 'pets.yaml'}")
    assert task_cards.read("pets").name == "pets"
    monkeypatch.chdir(tasks_folder())
    assert task_cards.own().keys() == {"pets"}


def test_what_is_no_card_is_told(cards: Path, monkeypatch: pytest.MonkeyPatch) -> None:
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


def test_a_broken_card_of_one_s_own_concerns_only_who_asks_for_it(found: Path) -> None:
    (found / "broken.yaml").write_text("name: broken\ntitle: Broken\nsource: [\n")
    os.mkfifo(found / "pipe.yaml")
    assert suite_tasks(suite_cards.read("mine")) == ("pets",)
    with pytest.raises(CompatbenchError, match=r"broken.yaml:\d: not valid YAML"):
        task_cards.read("broken")
    # Nor may a task have the name of a half.
    (found / "pets.yaml").write_text(TASK.replace("name: pets", "name: pets.new"))
    for read in (task_cards.read, load_task):
        with pytest.raises(CompatbenchError, match=r"pets.yaml:1: field 'name'.* new classes "):
            read("pets.new")


def test_images_lie_beside_the_card_or_where_one_says(
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


def test_own_cards_do_not_ship(found: Path) -> None:
    """The audit takes what does not ship for what the user has to bring."""
    suite = f"{SUITE}upgrades: [[mini-clip, house-clip]]\n".replace("mine", "own")
    (found / "own.yaml").write_text(suite)
    assert backbone_cards.read("house-clip").weights
    assert names_elsewhere(suite_cards.read("own")) == {"pets", "house-clip"}
    assert names_elsewhere(suite_cards.read("smoke")) == set()
