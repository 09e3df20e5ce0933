"""A user's own images, suites and methods, through the whole harness and its workers."""

from __future__ import annotations

import csv
import json
import shutil
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from command_line import output_in
from data.trees import picture
from PIL import Image

from compatbench.backbone import load_backbone
from compatbench.files.project_folders import tasks_folder
from compatbench.method import load_module

from .running import write_suite

NAMES = ["red_fox", "blue_whale", "tree_frog", "barn_owl", "sea_star"]
SUBSET = ["tree_frog", "red_fox", "sea_star"]
TARGETS = ("mini-eva-clip", "mini-clip-next")

TASK = f"""\
name: beasts
title: Beasts
classes: {json.dumps(NAMES)}
templates: ["a photo of a {{}}."]
source: {{kind: class-folders, folder: beasts, train: train, test: test}}
counts: {{train: 40, test: 30}}
licence: none
"""
VARIANT = f"""\
name: beasts-some
title: Some beasts
parent: beasts
subset: {json.dumps(SUBSET)}
source: {{kind: class-folders, folder: some, test: test}}
counts: {{test: 12}}
licence: none
"""
SUITE = """\
name: beasts
title: Beasts
upgrades: [[mini-clip, mini-eva-clip]]
tasks: [beasts]
variants: [beasts-some]
shots: [2]
seeds: [1]
training: {views: 2, max_steps: 5}
"""


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """Return a folder with cards in tasks/ and images in data/."""
    tasks = tmp_path / "tasks"
    shutil.copytree(tasks_folder(), tasks, ignore=shutil.ignore_patterns("build"))
    (tasks / "beasts.yaml").write_text(TASK)
    (tasks / "beasts-some.yaml").write_text(VARIANT)
    (tasks / "suites" / "beasts.yaml").write_text(SUITE)
    parts = (("beasts/train", NAMES, 8), ("beasts/test", NAMES, 6), ("some/test", SUBSET, 4))
    for part, names, count in parts:
        for name in names:
            folder = tmp_path / "data" / part / name
            folder.mkdir(parents=True)
            for number in range(count):
                label = NAMES.index(name) + 10 * len(part)
                (folder / f"{number}.jpg").write_bytes(picture(label, number))
    return tmp_path


def do(place: Path, *arguments: str, **environment: str) -> str:
    """Return the output of a command with the cards, images and suite of a place."""
    if arguments[0] == "run":
        arguments += ("--suite", "beasts")
    variables = {"COMPATBENCH_TASKS": str(place / "tasks"), "COMPATBENCH_DATA": str(place / "data")}
    return output_in(place, *arguments, **variables | environment)


def rows(place: Path, method: str, suite: str = "beasts") -> dict[tuple[str, str], dict[str, str]]:
    with (place / "results" / suite / f"{method}.csv").open(newline="") as file:
        return {(row["backbone"], row["test_set"]): row for row in csv.DictReader(file)}


@torch.no_grad()
def right_by_hand(names: list[str], folder: Path) -> int:
    """Return how many images of a folder the source's zero-shot classifier gets right."""
    backbone = load_backbone("mini-clip")
    model = backbone.model
    prompts = [f"a photo of a {name}.".replace("_", " ") for name in names]
    texts = backbone.tokenizer(prompts)
    weights = F.normalize(model.encode_text(texts), dim=-1)  # type: ignore[operator]
    right = 0
    for label, name in enumerate(names):
        for path in (folder / name).iterdir():
            image = backbone.preprocess(Image.open(path).convert("RGB"))[None]  # type: ignore[index]
            features = F.normalize(model.encode_image(image), dim=-1)  # type: ignore[operator]
            right += int((features @ weights.T).argmax() == label)
    return right


@pytest.mark.slow
def test_a_variant_of_some_classes_is_classified_among_these_alone(place: Path) -> None:
    # The folders of images are given on the command line, and must reach the worker.
    (place / "data" / "some").rename(place / "elsewhere")
    roots = ["--data-root", "data", "--data-root", "beasts-some=elsewhere"]
    limit = ["--timeout", "10m"]  # with one, a worker has a process of its own
    do(place, "run", "--methods", "zeroshot,taskres", *roots, *limit, COMPATBENCH_DATA="")
    zero_shot = rows(place, "zeroshot")
    whole = right_by_hand(NAMES, place / "data/beasts/test")
    part = right_by_hand(SUBSET, place / "elsewhere/test")
    assert zero_shot["mini-clip", "beasts"]["correct"] == str(whole)
    assert zero_shot["mini-clip", "beasts-some"]["correct"] == str(part)
    for row in zero_shot.values():
        assert row["correct"] == row["zero_shot_correct"]
    # A residual was learned for each of five classes; three of them are served, too.
    learned = rows(place, "taskres")
    assert {row["status"] for row in learned.values()} == {"ok"}
    modules = {load_module(path).about["method"]: path for path in place.glob("runs/modules/*/*")}
    options = ["--target", "mini-eva-clip", "--task", "beasts-some", "--json"]
    found = json.loads(do(place, "evaluate", str(modules["taskres"]), *options, *roots))
    for side in ("source", "target"):
        row = learned[found[side]["backbone"], "beasts-some"]
        for count in ("correct", "zero_shot_correct"):
            assert str(found[side][count]) == row[count]


INSIDE = """
from dataclasses import replace
from compatbench.method import *
from compatbench.methods.zeroshot import ZeroShot

BLOCK = {"mini-clip": 2, "mini-eva-clip": 5, "mini-clip-next": 99}

class Inside(ZeroShot):
    card = replace(ZeroShot.card, name="inside", inserts="image-layers")

    def image_input(self, backbone):
        return ImageInput("hidden", BLOCK[backbone.name])

    def attach(self, module, backbone, labels):
        classify = CosineClassifier(backbone.zero_shot(labels), 1.0)
        return lambda tokens: classify(backbone.image.encode(tokens, block=BLOCK[backbone.name]))
"""


@pytest.mark.slow
def test_tokens_reach_the_method_and_a_target_that_cannot_give_them_is_a_result(
    tmp_path: Path,
) -> None:
    (tmp_path / "inside.py").write_text(INSIDE)
    write_suite(tmp_path, "two", upgrades=[["mini-clip", name] for name in TARGETS])
    output_in(tmp_path, "run", "--suite", "./two.yaml", "--methods", "./inside.py")
    source, refused, near = rows(tmp_path, "inside", "two").values()
    for row in (source, near):  # from an inner block on, the frozen tower is zero-shot
        assert row["correct"] == row["zero_shot_correct"] != "", row
    assert refused["status"] == "not transferable"
    assert refused["reason"].startswith("the method acts from block 99 on, and the image tower has")


MINE = """\
from dataclasses import replace
from compatbench.methods.zeroshot import ZeroShot

class Mine(ZeroShot):
    card = replace(ZeroShot.card, name="mine", title="Mine")
"""


@pytest.mark.slow
def test_a_users_own_suite_brings_its_method(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(MINE)
    write_suite(tmp_path, "own", plugins=["./mine.py"], compare=["mine"])
    assert "Mine" in output_in(tmp_path, "run", "--suite", "own.yaml")
    assert "all done" in output_in(tmp_path, "plan", "--suite", "own.yaml")
