"""One command from images to advice: with a checkpoint, several modules, or none."""

from __future__ import annotations

import csv
import itertools
import json
import os
import re
import shlex
import sys
import time
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from command_line import expect_known, invoke, output_of
from data.trees import load_again
from formats.files_of_authors import save_coop, save_head
from notebooks import write_photos
from PIL import Image
from safetensors.torch import save_file

import compatbench as cb
from compatbench.backbone import Backbone, load_backbone
from compatbench.backbone.needed_files import NeededFile
from compatbench.data.cards import suite_cards
from compatbench.data.dataset_folders import cards_option
from compatbench.data.draws import draw_shots
from compatbench.data.labels import Labels
from compatbench.data.task import Task, load_task
from compatbench.engine.execute.run_plan import run_plan
from compatbench.engine.plan import Plan
from compatbench.engine.single_module import Fitted
from compatbench.errors import CompatbenchError, CompatbenchWarning
from compatbench.extras.advice import advise_command, advise_images, own_images, remembered
from compatbench.extras.advice.cross_fit import CHEAP_METHODS, CrossFit, cross_fit, read_suite
from compatbench.extras.advice.own_images import (
    OwnImages,
    are_images,
    fetch_missing_files,
    images_for,
    open_images,
    read_modules,
)
from compatbench.extras.advice.remembered import Memory
from compatbench.extras.advice.verdicts import VERDICTS
from compatbench.results.choice import Choice, Decision
from compatbench.results.evaluation import Evaluation
from compatbench.results.verdict_lines import Case

UPGRADE = {"source": "mini-clip", "target": "mini-eva-clip"}
OLD_AND_NEW = ("--source", "mini-clip", "--target", "mini-eva-clip")
QUIET = "ignore:.*:compatbench.errors.CompatbenchWarning"


@pytest.fixture
def work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a folder with ``photos/``, 30 images of three classes, and a checkpoint of CoOp."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COMPATBENCH_CARDS", "")
    names = write_photos(tmp_path / "photos")
    save_coop(tmp_path / "output/seed1", load_backbone("mini-clip"), names)
    load_again()
    return tmp_path


def write_list(folder: Path) -> None:
    """Write a list of the images, as a table of a user's own."""
    with (folder / "photos.list.csv").open("w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(["path", "label"])
        for path in sorted((folder / "photos").glob("*/*.png")):
            rows.writerow([path.relative_to(folder), path.parent.name])


def write_peft(folder: Path) -> None:
    """Write a PEFT adapter of the text tower that changes little."""
    width = load_backbone("mini-clip").token_width
    generator = torch.Generator().manual_seed(1)
    name = "base_model.model.text_model.encoder.layers.0.self_attn.q_proj"
    tensors = {
        f"{name}.lora_A.weight": 0.02 * torch.randn(2, width, generator=generator),
        f"{name}.lora_B.weight": 0.02 * torch.randn(width, 2, generator=generator),
    }
    folder.mkdir()
    save_file(tensors, folder / "adapter_model.safetensors", {"format": "pt"})
    config = {"peft_type": "LORA", "r": 2, "lora_alpha": 2, "bias": "none", "use_dora": False}
    config |= {"modules_to_save": None, "target_modules": ["q_proj"]}
    (folder / "adapter_config.json").write_text(json.dumps(config))


def write_probe(path: Path) -> None:
    """Write a probe whose rows are the features of the class names."""
    backbone = load_backbone("mini-clip")
    names = sorted(child.name for child in Path("photos").iterdir())
    with torch.no_grad():
        rows = backbone.zero_shot(Labels(tuple(names), ("a photo of a {}.",), ""))
    save_head(path, coef=rows, intercept=torch.zeros(len(names)), classes=np.array(names))


def next_commands(shown: str) -> list[list[str]]:
    """Return the commands that a text names as the next ones."""
    lines = re.findall(r"(?m)^  next: compatbench (.*)$", shown)
    return [shlex.split(line, comments=True) for line in lines]


@pytest.mark.filterwarnings(QUIET)
@pytest.mark.parametrize("images", ["photos", "photos.list.csv"])
@pytest.mark.parametrize("module", ["coop", "peft", "probe"])
def test_images_and_a_checkpoint_lead_to_a_verdict(work: Path, images: str, module: str) -> None:
    write_list(work)
    place = {"coop": "output/seed1", "peft": "adapter", "probe": "probe.npz"}[module]
    if module == "peft":
        write_peft(work / place)
    elif module == "probe":
        write_probe(work / place)
    words = ["advise", images, "--module", place, "--source", "mini-clip"]
    shown = output_of(*words, "--target", "mini-eva-clip", COMPATBENCH_CARDS="")
    verdict, gain, following, *_ = shown.splitlines()
    assert verdict.startswith("mini-eva-clip: ")
    assert re.search(r"gain [-+]?\d+\.\d \([-+]?[\d.]+ to [-+]?[\d.]+\) over zero-shot", gain)
    assert "30 test images" in gain  # nothing is trained, so every image is tested
    assert following.startswith("  next: compatbench ")
    numbers = json.loads((work / "advice.json").read_text())
    assert numbers["targets"][0]["target"] == "mini-eva-clip"
    assert {"old model", "zero-shot", "copied"} <= {each["option"] for each in numbers["options"]}
    assert verdict in (work / "advice.md").read_text()


@pytest.mark.filterwarnings(QUIET)
def test_the_last_line_says_which_files_were_written(work: Path) -> None:
    words = ["advise", "photos", "--module", "output/seed1", *OLD_AND_NEW, "--out", "cards"]
    [*_, last] = invoke(*words, COMPATBENCH_CARDS="").stderr.splitlines()
    assert last == (
        "Wrote cards/advice.md, cards/advice.json, the cards of the task (cards/photos.yaml and "
        "others), modules (cards/photos-modules/)"
    )


def test_few_images_are_no_reason_to_doubt_a_module(work: Path) -> None:
    message = "With 30 images we cannot tell whether coop beats zero-shot on mini-clip. If you"
    with pytest.warns(CompatbenchWarning, match=message):
        cb.advise("photos", module="output/seed1", **UPGRADE)


@pytest.mark.filterwarnings(QUIET)
def test_folder_and_checkpoint_lead_to_advice(work: Path) -> None:
    advice = cb.advise("photos", module="output/seed1", **UPGRADE)
    [row] = advice.frame.to_dict("records")
    assert (row["method"], row["images"], row["seeds"]) == ("coop", 30, 1)
    assert [*advice.targets["target"]] == ["mini-eva-clip"]
    # The task that was made can be used by other commands; there, images are split as usual.
    evaluation = cb.evaluate("output/seed1", "mini-eva-clip", "photos", source="mini-clip")
    assert evaluation.images == 15
    assert str(evaluation).splitlines()[0].startswith("mini-eva-clip: ")
    assert "Retraining was not measured" in " ".join(advice.details().split())


@pytest.mark.filterwarnings(QUIET)
def test_rows_without_names_follow_the_file_of_class_names(work: Path) -> None:
    write_probe(work / "probe.npz")
    with np.load("probe.npz") as probe:
        names = [*probe["classes"]]
        np.savez("moved.npz", coef=probe["coef"][[2, 0, 1]], intercept=np.zeros(3))
    (work / "names.txt").write_text("\n".join(f"The_{names[row].upper()}" for row in (2, 0, 1)))
    expected = cb.advise("photos", module="probe.npz", **UPGRADE)
    for given in ({"class_names": "names.txt"}, {"class_names": [names[row] for row in (2, 0, 1)]}):
        how = given | {"settings": {"normalized": False}}
        advice = cb.advise("photos", module="moved.npz", **UPGRADE, **how)
        assert advice.options["gain"].equals(expected.options["gain"])


@pytest.mark.filterwarnings(QUIET)
def test_misspelt_class_name_is_found_in_its_file(work: Path) -> None:
    names = sorted(child.name for child in Path("photos").iterdir())
    misspelt = names[0][:-1]
    (work / "names.txt").write_text("\n".join([misspelt, *names[1:]]))
    words = ["--module", "output/seed1", *OLD_AND_NEW, "--class-names", "names.txt"]
    right = f"^--class-names names.txt: '{misspelt}' is not a class .*; did you mean '{names[0]}'"
    with pytest.raises(CompatbenchError, match=right):
        invoke("advise", "photos", *words)


@pytest.mark.filterwarnings("ignore:.*we cannot tell whether coop beats")
def test_images_that_are_left_out_are_counted_and_named(work: Path) -> None:
    names = sorted(child.name for child in Path("photos").iterdir())
    Path(f"photos/{names[0]}/a.heic").write_bytes(b"ftypheic")
    Path(f"photos/{names[1]}/b.png").write_bytes(b"\x89PNG broken")
    with pytest.raises(CompatbenchError, match=r"b.png cannot be decoded .*--skip-broken"):
        cb.advise("photos", module="output/seed1", **UPGRADE)
    with pytest.warns(CompatbenchWarning) as caught:
        advice = cb.advise("photos", module="output/seed1", skip_broken=True, **UPGRADE)
    said = [str(each.message) for each in caught]
    assert advice.frame["images"].tolist() == [30]
    assert any("1 file of a kind that is not read (.heic)" in line for line in said)
    assert any(f"1 image ({names[1]}/b.png) cannot be read" in line for line in said)
    assert f"{names[1]}/b.png" in Path("photos-broken.txt").read_text()
    # The card is used again, although an image is not in its list.
    before = Path("photos.yaml").stat().st_mtime_ns
    load_again()
    cb.advise("photos", module="output/seed1", skip_broken=True, **UPGRADE)
    assert Path("photos.yaml").stat().st_mtime_ns == before


@pytest.mark.slow
@pytest.mark.filterwarnings(QUIET)
def test_without_a_module_three_cheap_methods_are_cross_fitted(work: Path) -> None:
    shown = output_of(
        *("advise", "photos", "--source", "mini-clip", "--target", "mini-eva-clip"),
        COMPATBENCH_CARDS="",
    )
    assert "No module given: proker, ape, tip_adapter, three cheap methods" in shown
    assert "of one half and tested on the other" in " ".join(shown.split())
    numbers = json.loads((work / "advice.json").read_text())
    assert [row["method"] for row in numbers["verdicts"]] == [*CHEAP_METHODS]
    assert {(row["images"], row["seeds"]) for row in numbers["verdicts"]} == {(30, 3)}
    # No image is a training image and a test image of the same module, and every one is tested.
    tested = []
    for half in ("photos", "photos-swapped"):
        task = load_task(half)
        images = {sample.id for sample in task.split("test")}
        assert images.isdisjoint(sample.id for sample in task.split("train"))
        tested += images
    assert len(tested) == len(set(tested)) == 30


@pytest.mark.slow
@pytest.mark.filterwarnings(QUIET)
def test_labels_add_retraining_and_a_second_call_reuses_everything(
    work: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    how = {"methods": "tip_adapter", "labels": 2} | UPGRADE
    cb.advise("photos", module="output/seed1", **UPGRADE)
    first = cb.advise("photos", **how)
    options = first.options.set_index("option")
    assert options.loc["retrained+2", "accuracy"] > 0
    [row] = first.frame.to_dict("records")
    assert (row["images"], row["seeds"]) == (30, 3)

    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("a finished cell is run, or an image is encoded, again")

    monkeypatch.setattr(Backbone, "encode_images", refuse)
    monkeypatch.setattr("compatbench.engine.execute.run_plan.run_here", refuse)
    second = cb.advise("photos", **how)
    assert second.frame.equals(first.frame)
    cb.advise("photos", module="output/seed1", **UPGRADE)


@pytest.mark.filterwarnings(QUIET)
def test_a_changed_task_is_measured_again_in_the_same_process(
    work: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    planned: list[Plan] = []

    def record(plan: Plan, *rest: Any) -> Any:
        planned.append(plan)
        return run_plan(plan, *rest)

    monkeypatch.setattr("compatbench.extras.advice.cross_fit.run_plan", record)
    files = sorted((work / "photos").glob("*/*.png"))
    images = [Image.open(file) for file in files]
    labels = [file.parent.name for file in files]
    names = sorted(set(labels))

    def advise_on(images: list[Image.Image], labels: list[str], **how: Any) -> set[object]:
        task = cb.task(images, labels, names, name="pets", out="cards", **how)
        advice = cb.advise(task, methods="tip_adapter", **UPGRADE)
        tested = len(load_task("pets").split("test"))
        assert set(advice.frame["images"]) == {tested}
        return {(cell.key, *cell.places) for cell in planned.pop().cells}

    kinds = [
        advise_on(images, labels),
        advise_on(images, labels, template=["a drawing of a {}."]),
        advise_on(images[1:], labels[1:]),
        advise_on([images[0].rotate(180), *images[1:]], labels),
    ]
    for first, second in itertools.combinations(kinds, 2):
        assert not first & second
    assert advise_on(images, labels) == kinds[0]


@pytest.mark.filterwarnings(QUIET)
def test_second_call_with_given_modules_loads_no_model(
    work: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_peft(work / "adapter")
    how = {"module": ["output/seed1", "adapter"], **UPGRADE}
    first = cb.advise("photos", **how)

    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("a model is loaded")

    monkeypatch.setattr("compatbench.backbone.backbone.build_model", refuse)
    monkeypatch.setattr("compatbench.extras.advice.targets.build_architecture", refuse)
    second = cb.advise("photos", **how)
    assert str(second) == str(first)
    assert second.options.equals(first.options)
    assert second.targets.equals(first.targets)
    # Other settings, and another module, are measured.
    with pytest.raises(AssertionError, match="a model is loaded"):
        cb.advise("photos", settings={"position": "front"}, **how)
    # So are other images.
    image = next((work / "photos").glob("*/*.png"))
    content = image.read_bytes()
    image.write_bytes(content + b" ")
    with pytest.raises(AssertionError, match="a model is loaded"):
        cb.advise("photos", **how)
    image.write_bytes(content)
    assert str(cb.advise("photos", **how)) == str(first)
    config = work / "adapter" / "adapter_config.json"
    config.write_text(config.read_text().replace('"lora_alpha": 2', '"lora_alpha": 4'))
    with pytest.raises(AssertionError, match="a model is loaded"):
        cb.advise("photos", **how)


@pytest.mark.filterwarnings(QUIET)
def test_second_call_repeats_what_was_noted_on_a_checkpoint(work: Path) -> None:
    write_probe(work / "probe.npz")
    said = []
    advice = []
    answers = work / "runs" / "answers"
    for number in range(3):
        if number == 2:  # files that are damaged are made again
            for path in answers.glob("*/*"):
                path.write_bytes(b"damaged")
        with pytest.warns(CompatbenchWarning) as caught:
            given = cb.advise("photos", module=["output/seed1", "probe.npz"], **UPGRADE)
        advice.append(str(given))
        said.append([str(each.message) for each in caught])
    assert said[0] == said[1] == said[2]
    assert advice[0] == advice[1] == advice[2]
    assert b"damaged" not in [path.read_bytes() for path in answers.glob("*/*")]


def test_costs_of_a_model_are_computed_again_by_another_version(
    work: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    memory = Memory(work / "answers", None, "cpu")
    first = memory.describe("mini-clip")
    monkeypatch.setattr(remembered, "describe_target", lambda name: {"described": name})
    assert memory.describe("mini-clip") == first
    monkeypatch.setattr(cb, "__version__", "another")
    assert memory.describe("mini-clip") == {"described": "mini-clip"}


@pytest.mark.filterwarnings(QUIET)
def test_a_file_beside_a_checkpoint_is_read_again_if_it_has_changed(work: Path) -> None:
    generator = torch.Generator().manual_seed(1)
    task = load_task("mini-food")
    classes = task.labels.names
    keys = torch.randn(load_backbone("mini-clip").embed_dim, len(classes), generator=generator)
    (work / "cache").mkdir()
    torch.save(keys.half(), work / "cache" / "keys_1shots.pt")
    values = torch.eye(len(classes))  # one image for each class
    memory = Memory(work / "runs" / "answers", None, "cpu")
    how = {"classes": None, "settings": {"alpha": 1, "beta": 1}}
    modules = []
    for stored in (values, values.flip(0), values):
        torch.save(stored.half(), work / "cache" / "values_1shots.pt")
        file = work / "cache" / "keys_1shots.pt"
        modules.append(memory.import_checkpoint(file, task, "mini-clip", how))
    assert torch.equal(modules[0]["values"], modules[2]["values"])
    assert torch.equal(modules[0]["values"].flip(0), modules[1]["values"])


@pytest.mark.filterwarnings(QUIET)
def test_command_reuses_the_task_wherever_the_images_are(work: Path) -> None:
    (work / "elsewhere").mkdir()
    (work / "photos").rename(work / "elsewhere" / "photos")
    words = ["advise", "elsewhere/photos", "--module", "output/seed1", "--source", "mini-clip"]
    words += ["--target", "mini-eva-clip,mini-eva-clip-anew", "--out", "cards"]
    first = output_of(*words, COLUMNS="80", COMPATBENCH_CARDS="")
    assert "mini-eva-clip-anew: " in first
    card = (work / "cards" / "photos.yaml").stat().st_mtime_ns
    load_again()
    again = output_of(*words, COLUMNS="80", COMPATBENCH_CARDS="")
    assert again == first
    assert (work / "cards" / "photos.yaml").stat().st_mtime_ns == card


def test_new_images_are_read_unless_the_card_was_edited(work: Path) -> None:
    first = open_images("photos", "mini-clip", ["mini-eva-clip"], work)
    assert len(first.tested.split("test")) == 30
    [image, *_] = sorted((work / "photos").glob("*/*.png"))
    rng = np.random.default_rng(1)
    pictures = rng.integers(0, 255, (2, 48, 48, 3), dtype=np.uint8)
    Image.fromarray(pictures[0]).save(image.parent / "new.png")
    load_again()
    with pytest.warns(
        CompatbenchWarning, match=r"1 image is new in .* and 0 are gone; .* is written again"
    ):
        second = open_images("photos", "mini-clip", ["mini-eva-clip"], work)
    assert len(second.tested.split("test")) == 31
    drawings = load_task("mini-food")
    cherry = work / "photos" / "zz_new_class"
    cherry.mkdir()
    for number, sample in enumerate(drawings.split("train")[-8:]):
        drawings.source.image(sample).save(cherry / f"{number}.png")
    load_again()
    with pytest.warns(CompatbenchWarning, match=r"8 images are new .* is written again"):
        third = open_images("photos", "mini-clip", ["mini-eva-clip"], work)
    assert len(third.tested.labels.names) == 4
    card = work / "photos-upgrade.yaml"  # any of the cards may be edited
    card.write_text(card.read_text() + "seeds: [1]\n# a drawing of a cat\n")
    Image.fromarray(pictures[1]).save(image.parent / "newer.png")
    load_again()
    with pytest.warns(CompatbenchWarning, match="was edited, .* is used as it is") as warned:
        open_images("photos", "mini-clip", ["mini-eva-clip"], work)
    assert "a drawing of a" in card.read_text()
    # The warning says how to make them again.
    names = re.findall(r"photos[-\w]*\.(?:yaml|csv)", str(warned[0].message).partition("remove")[2])
    assert len(names) == 3
    for name in names:
        (work / name).unlink()
    load_again()
    last = open_images("photos", "mini-clip", ["mini-eva-clip"], work)
    assert len(last.tested.split("test")) == 40


def test_a_second_call_inside_the_folder_tests_the_same_images(
    work: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(work / "photos")
    for _ in range(3):
        own = open_images(".", "mini-clip", ["mini-eva-clip"], Path())
        assert own.halves == ("photos", "photos-swapped")
        assert len(own.tested.split("test")) == 30
        load_again()


def test_real_models_do_not_get_the_training_of_the_miniatures(work: Path) -> None:
    open_images("photos", "mini-clip", ["mini-eva-clip"], work)
    made = suite_cards.read("photos-upgrade")
    assert read_suite("photos", "mini-clip") == read_suite("photos", "mini-clip-next") == made
    assert read_suite("photos", "vit-b16-openai") == suite_cards.read("paper")
    # Nobody has edited the cards, so they are made for the models that are asked about.
    message = "suite 'photos-upgrade' is for mini-clip → mini-eva-clip; .* is written again"
    with pytest.warns(CompatbenchWarning, match=message):
        open_images("photos", "vit-b16-openai", ["eva02-b16", "siglip2-b16"], work)
    made = suite_cards.read("photos-upgrade")
    assert (made.extends, len(made.upgrades)) == ("paper", 2)
    assert read_suite("photos", "vit-b16-openai") == made
    open_images("photos", "vit-b16-openai", ["siglip2-b16"], work)  # one of both
    card = work / "photos-upgrade.yaml"
    card.write_text(card.read_text() + "seeds: [1]\n")
    with pytest.warns(CompatbenchWarning, match="is for vit-b16-openai .* is used as it is"):
        open_images("photos", "mini-clip", ["mini-eva-clip"], work)
    assert read_suite("photos", "mini-clip") == suite_cards.read("mini")


@pytest.mark.filterwarnings(QUIET)
def test_several_modules_are_compared_and_printed_commands_work(work: Path) -> None:
    modules = []
    for method in ("tip_adapter", "proker"):
        module = cb.fit(method, task="mini-food", source="mini-clip", shots=4, views=1)
        module.save(work / f"{method}.safetensors")
        modules += ["--module", f"{method}.safetensors"]
    shown = output_of("advise", "mini-food", *modules, "--target", "mini-eva-clip")
    advice = cb.advise("mini-food", module=modules[1::2], target="mini-eva-clip", progress=False)
    assert str(advice).splitlines()[0] == shown.splitlines()[0]
    frame = advice.frame.set_index("method")
    assert [*frame.index] == ["tip_adapter", "proker"]
    assert set(frame["images"]) == {277}
    expected = cb.evaluate("proker.safetensors", "mini-eva-clip").effect
    assert expected is not None
    option = advice.options.set_index(["method", "option"]).loc[("proker", "copied")]
    assert (option["gain"], option["gain_low"]) == (expected.value, expected.low)
    both = output_of("evaluate", *modules[1::2], "--target", "mini-eva-clip")
    assert len(next_commands(both)) == 2
    for command in [*next_commands(shown), *next_commands(both)]:
        if "--labels" not in command:
            assert invoke(*command).exit_code == 0


def test_module_that_loses_on_its_own_model_is_refused(work: Path) -> None:
    """The rows of its classes are in another order than the classes."""
    module = cb.fit("linear_probe", task="mini-food", source="mini-clip", shots=16, views=1)
    rows = {name: tensor.flip(0) for name, tensor in module.trained.items()}
    mixed = type(module)(rows, module.stored, module.about)
    with pytest.raises(cb.CompatbenchError, match="does not look like a module for these classes"):
        cb.advise("mini-food", module=mixed, target="mini-eva-clip")


@pytest.mark.filterwarnings(QUIET)
def test_images_that_a_module_was_trained_on_are_left_out(work: Path) -> None:
    cb.new_task("photos")
    module = cb.fit("tip_adapter", task="photos", source="mini-clip", shots=2, views=1)
    with pytest.warns(CompatbenchWarning, match="was trained on images of 'photos'"):
        advice = cb.advise("photos", module=module, target="mini-eva-clip")
    assert set(advice.frame["images"]) == {18}  # of ten per class, two train and two validate


@pytest.mark.filterwarnings(QUIET)
def test_module_of_either_half_is_tested_on_the_other(work: Path) -> None:
    own = open_images("photos", "mini-clip", ["mini-eva-clip"], work)
    modules = {}
    for half in own.halves:
        modules[half] = cb.fit("tip_adapter", task=half, source="mini-clip", shots=2, views=1)
        with pytest.warns(CompatbenchWarning, match="was trained on images of 'photos'"):
            left = images_for(own, {"tip_adapter": modules[half]})
        assert left.halves == (half,)
        trained = {sample.id for sample in load_task(half).split("train")}
        tested = {sample.id for sample in left.tested.split("test")}
        assert len(tested) == 15
        assert trained.isdisjoint(tested)
    with pytest.raises(CompatbenchError, match="photos and photos-swapped were trained on diff"):
        images_for(own, modules)
    # The task is named, and its test images are those that the module was trained on.
    task = load_task("photos")
    named = images_for(OwnImages(task, task, ("photos",)), {"tip": modules["photos-swapped"]})
    assert named.halves == ("photos-swapped",)
    how = {"module": modules["photos-swapped"], "target": "mini-eva-clip"}
    assert set(cb.advise("photos", **how).frame["images"]) == {15}


@pytest.mark.filterwarnings(QUIET)
def test_a_new_task_and_its_card_are_accepted(work: Path) -> None:
    made = cb.new_task("photos", "pets", out="cards")
    module = cb.fit("tip_adapter", task=made, source="mini-clip", shots=2, views=1)
    module.save(work / "tip.safetensors")
    how = {"module": "tip.safetensors", "target": "mini-eva-clip"}
    expected = cb.advise("pets", **how)
    for given in (made, made.card, str(made.card)):
        advice = cb.advise(given, **how)
        assert advice.options.equals(expected.options)
    words = ["advise", "cards/pets.yaml", "--module", "tip.safetensors"]
    shown = output_of(*words, "--target", "mini-eva-clip", COMPATBENCH_CARDS="")
    assert shown.splitlines()[0] == str(expected).splitlines()[0]
    [command] = next_commands(shown)
    assert {"cards/pets.yaml", f"pets={work}/photos"} <= {*command}
    assert output_of(*without_labels(command), COMPATBENCH_CARDS="")


@pytest.mark.parametrize("given", [{"class_names": ["no", "such"]}, {"settings": {"nonsense": 1}}])
def test_settings_of_a_checkpoint_are_refused_for_a_module_of_compatbench(
    work: Path, given: dict[str, Any]
) -> None:
    module = cb.fit("tip_adapter", task="mini-food", source="mini-clip", shots=1, views=1)
    for source in (None, "mini-clip"):
        with pytest.raises(CompatbenchError, match="those of a checkpoint of other code"):
            cb.advise("mini-food", module=module, source=source, target="mini-eva-clip", **given)


def test_every_image_of_unbalanced_classes_is_tested_once(work: Path) -> None:
    task = load_task("mini-food")
    for label, images in enumerate((38, 30, 12, 3, 2)):
        folder = work / "pets" / task.labels.names[label]
        folder.mkdir(parents=True)
        drawings = [sample for sample in task.split("train") if sample.label == label]
        for number in range(images):
            drawing = task.source.image(drawings[number % len(drawings)])
            drawing.rotate(number).save(folder / f"{number}.png")
    own = open_images("pets", "mini-clip", ["mini-eva-clip"], work)
    assert len(own.tested.split("test")) == 85  # of a module that is given
    tested = []
    for half in own.halves:
        task = load_task(half)
        draw = draw_shots(task, 4, seed=1)
        assert {sample.label for sample in draw.train} == {0, 1, 2, 3, 4}
        tested += [sample.id for sample in task.split("test")]
    assert len(tested) == len(set(tested)) == 85  # of modules that are trained
    assert np.bincount(own.half_of().astype(int)).tolist() == [43, 42]


@pytest.mark.filterwarnings(QUIET)
def test_task_is_meant_if_its_images_are_given_and_a_folder_has_its_name(
    work: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cb.new_task("photos", out="cards")
    monkeypatch.setenv("COMPATBENCH_DATA_PHOTOS", str(work / "photos"))
    own = open_images("photos", "mini-clip", ["mini-eva-clip"], work)
    assert own.task.name == "photos"
    assert len(own.tested.split("test")) == 18  # a module may have been trained on the others
    assert own.cards == ("--cards", f"{work}/cards")


def test_downloads_are_named_and_need_consent(monkeypatch: pytest.MonkeyPatch) -> None:
    file = NeededFile(
        "eva", "weights", "us/eva/model.bin", "MIT", None, 2**20, fetch="hf download us/eva"
    )
    fetched: list[list[str]] = []

    def fetch(names: list[str]) -> list[object]:
        fetched.append(names)
        return []

    monkeypatch.setattr(own_images, "list_needed_files", lambda names: [file])
    monkeypatch.setattr(own_images, "fetch_backbones", fetch)
    monkeypatch.setattr(own_images, "is_offline", lambda: False)
    message = r"1 file, 1\.0 MiB in all: us/eva/model\.bin \(1\.0 MiB, MIT\) .* add --yes"
    with pytest.raises(cb.CompatbenchError, match=message):
        fetch_missing_files(["eva"], yes=False)
    assert not fetched
    fetch_missing_files(["eva"], yes=True)
    assert fetched == [["eva"]]
    monkeypatch.setattr(own_images, "is_offline", lambda: True)
    with pytest.raises(cb.CompatbenchError, match="there is a network: hf download us/eva"):
        fetch_missing_files(["eva"], yes=True)


def test_question_about_downloads_knows_the_source_of_a_module(
    work: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[list[str]] = []

    def list_files(names: list[str]) -> list[NeededFile]:
        asked.append(names)
        return []

    monkeypatch.setattr("compatbench.backbone.needed_files.list_needed_files", list_files)
    monkeypatch.setattr("compatbench.backbone.load.is_offline", lambda: False)
    monkeypatch.setattr("compatbench.cli.output.console", SimpleNamespace(is_terminal=True))
    monkeypatch.setattr("sys.stdin", SimpleNamespace(isatty=lambda: True))
    module = cb.fit("tip_adapter", task="mini-food", source="mini-clip", shots=1, views=1)
    module.save(work / "tip.safetensors")
    for given in (
        ("mini-clip", "mini-eva-clip", None, None),
        (None, "mini-eva-clip", None, ["tip.safetensors"]),
        (None, None, "mini-clip,mini-eva-clip", ["output/seed1"]),
    ):
        advise_command._agree(*given)
        assert asked.pop() == ["mini-clip", "mini-eva-clip"]
    advise_command._agree(None, "mini-eva-clip", None, ["output/seed1"])  # is refused later
    assert not asked


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["photos", "--module", "output/seed1", "--source", "mini-clip"], "--target NAME"),
        (
            ["photos", "--module", "output/seed1", "--target", "mini-eva-clip"],
            "seed1 is no module .* name the model that it was trained on: --source NAME$",
        ),
        (["photos", "--target", "mini-eva-clip"], "Name the old model: --source NAME"),
        (["photos", "--source", "mini-clip", "--target", "mini-clip"], "is the old model; name"),
        (
            ["photos", *OLD_AND_NEW, "--labels", "50"],
            "largest class of 'photos' has 5 images in each half; give at most 5, or add images",
        ),
        (["photos", "--module", "sed1", *OLD_AND_NEW], "--module .*: there is nothing at 'sed1'"),
        (["photos", "--module", "sed1", "--target", "mini-eva-clip"], "there is nothing at 'sed1'"),
        (["--module", "output/seed1"], "--module needs your images"),
        (["--source", "mini-clip"], "--source needs your images"),
        (["nothing", "--target", "mini-eva-clip"], "there is nothing at 'nothing'"),
        (["nothing", "--source", "mini-clip"], "there is nothing at 'nothing'"),
        (["nothing.csv", "--source", "mini-clip"], "there is nothing at 'nothing.csv'"),
    ],
)
def test_what_is_missing_is_said(work: Path, words: list[str], message: str) -> None:
    with pytest.raises(cb.CompatbenchError, match=message):
        invoke("advise", *words)


def test_misspelt_module_leaves_nothing_behind(work: Path) -> None:
    before = sorted(work.rglob("*"))
    with pytest.raises(cb.CompatbenchError, match=r"there is nothing at 'nothing\.pt'"):
        cb.advise("photos", module="nothing.pt", source="mini-clip", target="mini-eva-clip")
    assert sorted(work.rglob("*")) == before


def test_a_suite_is_no_folder_of_images(work: Path) -> None:
    (work / "mini").mkdir()
    cb.new_task("photos", "pets")
    names = ("mini", "photos", "mini-food", "nothing", "pets-upgrade.yaml", "pets.yaml", "no.yaml")
    expected = [False, True, True, False, False, True, False]
    assert [are_images(name) for name in names] == expected
    assert np.all([are_images(work / "photos")])


@pytest.mark.filterwarnings(QUIET)
def test_unequal_parts_of_a_card_are_not_called_halves(work: Path) -> None:
    cb.new_task("photos", shots=1)
    message = "in the smaller part; give at most .*, or make the card again with 'new-task --test-s"
    with pytest.raises(CompatbenchError, match=message):
        invoke("advise", "photos", *OLD_AND_NEW, "--labels", "5")
    own = open_images("photos", "mini-clip", ["mini-eva-clip"], work)
    sentence = advise_images._describe_fits(False, ["tip_adapter"], 1, own)
    assert "of one part and tested on the other" in sentence


@pytest.mark.filterwarnings(QUIET)
def test_a_task_of_the_same_name_elsewhere_is_not_in_the_way(work: Path) -> None:
    cb.new_task("photos")
    first = open_images("photos", "mini-clip", ["mini-eva-clip"], work / "other")
    second = open_images("photos", "mini-clip", ["mini-eva-clip"], work / "other")
    assert first.task.name == second.task.name == "photos-2"
    assert "--cards" in first.cards


@pytest.mark.slow
@pytest.mark.filterwarnings(QUIET)
def test_200_images_and_two_models_take_less_than_two_minutes_of_cpu(work: Path) -> None:
    task = load_task("mini-food")
    for label in range(10):
        folder = work / "many" / task.labels.names[label]
        folder.mkdir(parents=True)
        drawings = [sample for sample in task.split("train") if sample.label == label]
        for number, drawing in enumerate(drawings[:20]):
            task.source.image(drawing).save(folder / f"{number}.png")
    write_peft(work / "adapter")
    start = time.process_time()
    targets = ["mini-eva-clip", "mini-eva-clip-anew"]
    advice = cb.advise("many", module="adapter", source="mini-clip", target=targets)
    assert time.process_time() - start < 120
    assert set(advice.frame["images"]) == {200}


def test_files_that_are_not_read_are_reported(work: Path) -> None:
    (work / "photos" / "apple" / "telephone.heic").write_bytes(b"no image")
    with pytest.warns(CompatbenchWarning, match=r"1 file .* is left out: .*heic") as warned:
        open_images("photos", "mini-clip", ["mini-eva-clip"], work)
    assert "split" not in str([each.message for each in warned])


@pytest.mark.filterwarnings(QUIET)
def test_retraining_counts_where_no_module_can_be_attached(
    work: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> list[tuple[str, Evaluation]]:
        evaluations = []
        for method in ("coop", "tip_adapter"):
            fitted = Fitted(
                method=method, config={}, task="photos", source="mini-clip", shots=4, seed=1
            )
            refused = Evaluation(fitted, "mini-eva-clip", "photos", None, None, "too wide")
            evaluations.append((method, refused))
        return evaluations

    right = {("coop", "copied", "mini-eva-clip"): np.ones((3, 30))}
    right["tip_adapter", "copied", "mini-eva-clip"] = np.ones((3, 30))
    retrained = CrossFit(right, zero_shot={"mini-eva-clip": np.zeros((1, 30))})
    monkeypatch.setattr(advise_images, "_evaluate_modules", refuse)
    monkeypatch.setattr(advise_images, "cross_fit", lambda *_, **__: retrained)
    tip = cb.fit("tip_adapter", task="mini-food", source="mini-clip", shots=1, views=1)
    modules = ["output/seed1", tip]
    advice = cb.advise("photos", module=modules, labels=4, **UPGRADE)
    assert set(advice.frame["verdict"]) == {"retrain"}
    assert str(advice).startswith("mini-eva-clip: retrain coop (retrained+4)")


@pytest.mark.filterwarnings(QUIET)
def test_retraining_takes_the_settings_that_the_file_of_a_module_contains(
    work: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given: list[dict[str, Any]] = []

    def cross_fit(
        halves: list[str], tested: Task, *_: object, settings: dict[str, Any], **__: object
    ) -> CrossFit:
        given.append(settings)
        right = {("coop", "copied", "mini-eva-clip"): np.ones((3, len(tested.split("test"))))}
        return CrossFit(right)

    monkeypatch.setattr(advise_images, "cross_fit", cross_fit)
    advice = cb.advise("photos", module="output/seed1", labels=4, **UPGRADE)
    own = {"class_specific": False, "context_length": 4, "position": "end"}
    assert given == [{"coop": own}]
    shown = " ".join(str(advice).split())
    assert (
        "The settings of coop were those in its file (class_specific False, context_length 4, "
        "position end), and otherwise those of suite 'photos-upgrade'." in shown
    )
    recipe = {"recipe": {"epochs": 2}, "context_length": 3}
    module = cb.fit("coop", task="mini-food", source="mini-clip", shots=1, config=recipe)
    advice = cb.advise("mini-food", module=module, labels=4, **UPGRADE)
    assert given[1]["coop"]["recipe"]["epochs"] == 2
    assert "The settings of coop were those in its file." in " ".join(str(advice).split())


@pytest.mark.filterwarnings(QUIET)
def test_settings_of_a_module_replace_those_of_the_suite(
    work: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    own = open_images("photos", "mini-clip", ["mini-eva-clip"], work)
    planned: list[Plan] = []

    def record(plan: Plan, *_: object) -> list[object]:
        planned.append(plan)
        return []

    monkeypatch.setattr("compatbench.extras.advice.cross_fit.run_plan", record)
    how = {"settings": {"coop": {"context_length": 3}}, "out": work, "progress": False}
    how["suite"] = read_suite("photos", "mini-eva-clip")
    with pytest.raises(CompatbenchError, match="no module of coop could be trained"):
        cross_fit(own.halves, own.tested, ["coop"], [("mini-eva-clip",)], 2, **how)
    configs = [cell.config for cell in planned[0].cells]
    assert {config["context_length"] for config in configs} == {3}
    assert {config["max_steps"] for config in configs} == {470}  # the suite's


def without_labels(command: list[str]) -> list[str]:
    """Return a command that retrains nothing."""
    if "--labels" not in command:
        return command
    place = command.index("--labels")
    return command[:place] + command[place + 2 :]


@pytest.mark.filterwarnings(QUIET)
def test_printed_commands_repeat_what_was_given(work: Path) -> None:
    write_probe(work / "probe.npz")
    with np.load("probe.npz") as probe:
        names = [*probe["classes"]]
        np.savez("moved.npz", coef=probe["coef"][[2, 0, 1]], intercept=np.zeros(3))
    (work / "names.txt").write_text("\n".join(names[row] for row in (2, 0, 1)))
    (work / "photos" / names[0] / "broken.png").write_bytes(b"\x89PNG broken")
    upgrade = ["--source", "mini-clip", "--target", "mini-eva-clip"]
    how = ["--class-names", "names.txt", "--set", "normalized=false"]
    words = ["advise", "photos", "--module", "moved.npz", *upgrade, *how, "--skip-broken"]
    first = output_of(*words, "--out", "cards", COMPATBENCH_CARDS="")
    [command, *_] = next_commands(first)
    assert "cards" in command
    again = output_of(*without_labels(command), COMPATBENCH_CARDS="")
    (work / "photos").rename(work / "moved")  # from here on, 'photos' is the task
    assert command[0] != "advise" or again.splitlines()[:2] == first.splitlines()[:2]
    words = ["evaluate", "moved.npz", "--task", "photos", *upgrade, *how, "--cards", "cards"]
    words += ["--data-root", f"photos={work / 'moved'}"]
    shown = output_of(*words, COMPATBENCH_CARDS="")
    [command] = next_commands(shown)
    assert {"--class-names", "--set", "--cards"} <= {*command}
    assert command[0] != "advise" or "--data-root" in command
    assert output_of(*without_labels(command), COMPATBENCH_CARDS="")
    [command] = next_commands(output_of(*words, "--format", "linear", COMPATBENCH_CARDS=""))
    assert command[:3] == ["module", "import", "linear"]
    assert output_of(*command, COMPATBENCH_CARDS="")


@pytest.mark.filterwarnings(QUIET)
def test_every_command_that_goes_on_finds_cards_images_and_methods(
    work: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (work / "elsewhere").mkdir()
    (work / "photos").rename(work / "elsewhere" / "photos")
    cb.new_task("elsewhere/photos", out="cards")
    module = cb.fit("tip_adapter", task="photos", source="mini-clip", shots=1, views=1)
    module.save(work / "tip.safetensors")
    (work / "models").mkdir()
    mine = "name: mine\ntitle: Mine\nconfig: ViT-B-16\nlicence: MIT\n"
    (work / "models" / "mine.yaml").write_text(mine)
    monkeypatch.setenv("COMPATBENCH_CARDS", f"{work}/cards{os.pathsep}{work}/models")
    load_again()
    cards = ("--cards", f"{work}/cards")
    assert cards_option("photos", "mine") == (*cards, "--cards", f"{work}/models")
    method = Path(sys.modules["compatbench.methods.tip_adapter"].__file__ or "")
    how = {"module": "tip.safetensors", "methods": str(method), "target": "mini-eva-clip"}
    asked = cb.advise("photos", **how).asked
    assert asked is not None
    files = {("tip_adapter", ""): "tip.safetensors", ("tip_adapter", "mini-eva-clip"): "new.st"}
    seen = set()
    for labels, verdict, is_null in itertools.product((None, 4), VERDICTS, (False, True)):
        case = Case(
            decision=Decision(verdict, "", "", Choice("", (), None, False), None, None, None),
            difference=lambda option, minus: None,
            upgrade=("mini-clip", "mini-eva-clip"),
            module="tip_adapter",
            transfer="copied",
            old="",
            units=(30, "test image"),
            is_null=is_null,
        )
        following = replace(asked, labels=labels, files=files).next_command(case)
        [command] = next_commands(f"  next: {following}")
        expect_known(command)
        if command[0] == "list":
            continue
        assert set(cards) <= {*command}
        assert "--methods" in command
        assert command[0] == "module" or f"photos={work}/elsewhere/photos" in command
        if command[0] == "module" and "module" not in seen:
            assert invoke(*command, COMPATBENCH_CARDS="").exit_code == 0
        seen.add(command[0])
    assert seen == {"advise", "evaluate", "module"}
    # More images are asked for only if they may decide.
    for needed, first in ((500.0, "compatbench advise"), (5000.0, "compatbench list methods")):
        decision = Decision("cannot tell", "", "", Choice("", (), None, False), None, None, needed)
        undecided = replace(case, decision=decision, is_null=False)
        following = replace(asked, labels=4).next_command(undecided)
        assert following.startswith(first)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"suite": "mini", "labels": 4}, r"labels \(--labels\) cannot be used here"),
        ({"suite": "mini", "class_names": "names.txt"}, "--class-names"),
        ({"suite": "mini", "settings": {"alpha": 1}}, "--set"),
        ({"suite": "mini", "skip_broken": True}, "--skip-broken"),
        ({"shots": 4}, "--shots"),
        ({"tasks": "mini-food"}, "--tasks"),
        ({"settings": {"alpha": 1}}, "for a checkpoint"),
        ({"source": "mini-clip", "upgrade": "mini-clip,mini-eva-clip"}, "names its source"),
    ],
)
def test_parameters_that_would_be_ignored_are_refused(
    work: Path, given: dict[str, Any], message: str
) -> None:
    with pytest.raises(CompatbenchError, match=message):
        cb.advise(**({"suite": "photos"} | given))


def test_options_that_would_be_ignored_are_refused(work: Path) -> None:
    with pytest.raises(CompatbenchError, match="--labels"):
        invoke("advise", "--labels", "4")
    with pytest.raises(CompatbenchError, match="--suite 'smoke' is for the results"):
        invoke("advise", "photos", "--suite", "smoke")


@pytest.mark.filterwarnings(QUIET)
def test_modules_of_one_method_have_different_names(work: Path) -> None:
    module = cb.fit("tip_adapter", task="mini-food", source="mini-clip", shots=1, views=1)
    for name in ("3", "tip_adapter-b"):
        module.save(work / f"{name}.safetensors")
    given = [module, "3.safetensors", module, "tip_adapter-b.safetensors"]
    memory = Memory(work / "runs" / "answers", None, "cpu")
    read = read_modules(given, load_task("mini-food"), None, {}, memory)
    assert [*read] == ["tip_adapter", "tip_adapter-3", "tip_adapter-2", "tip_adapter-b"]
    advice = cb.advise(module=module, target="mini-eva-clip")
    call = "cb.advise('mini-food', module=module, target='mini-eva-clip', labels=4)"
    assert f"next: {call}" in str(advice)
