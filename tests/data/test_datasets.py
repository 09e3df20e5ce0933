"""Each of the fifteen datasets, through its shipped card and its real loader."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path

import numpy as np
import pytest
from data.trees import DATASETS, IMAGENET, SetUp, Tree, load_again

from compatbench.data.cards import task_cards
from compatbench.data.dataset_folders import set_data_roots
from compatbench.data.draws import draw_shots
from compatbench.data.task import inspect_task, load_task
from compatbench.errors import CompatbenchError

# Of the datasets with classes of their own, in CoOp's splits.
CLASSES = dict(imagenet=1000, caltech101=100, oxford_pets=37, stanford_cars=196, flowers102=102)
CLASSES |= dict(food101=101, fgvc_aircraft=100, sun397=397, dtd=47, eurosat=10, ucf101=101)
PAGE = Path(__file__).parents[2] / "docs" / "datasets.md"
ROWS = dict(re.findall(r"^\| `(\w+)` \|.*\| (.* / .* / .*) \|$", PAGE.read_text("utf-8"), re.M))


@pytest.mark.parametrize("name", sorted({*DATASETS, *ROWS, *CLASSES}))
def test_card_counts_equal_the_published_ones(name: str) -> None:
    card = task_cards.read(name)
    shown = []
    for split in ("train", "val", "test"):
        count = card.counts.get(split, 0)
        shown.append(f"{count:,}" if count else "–")
    assert " / ".join(shown) == ROWS[name]
    assert len(card.classes) == CLASSES.get(name, 0)
    assert len(card.subset) in (0, 200)
    assert [*card.subset] == sorted(card.subset)  # as labels of ImageNet's variants are numbered
    assert card.homepage
    assert card.citation
    assert card.licence


@pytest.mark.parametrize("name", DATASETS)
def test_complete_dataset_is_found_and_read(name: str, data: dict[str, Tree]) -> None:
    report = inspect_task(name)
    assert (report.state, report.message) == ("found", "")
    assert report.found == report.expected == data[name].counts
    assert report.class_order is True
    assert report.folder == data[name].folder
    task = load_task(name)
    for split, samples in task.source.samples.items():
        read = [(sample.id, sample.label) for sample in samples]
        assert read == data[name].rows.get(split, [])  # in the order of the split file
    image = task.source.image(task.split("test")[-1])
    assert (image.mode, image.size) == ("RGB", (16, 12))
    assert np.asarray(image).std() > 0
    for prompt in task.labels.fill():
        assert "_" not in prompt
    for label, there in enumerate(task.parent_labels or ()):
        assert task.labels.names[label] == IMAGENET.names[there]
        assert (task.card.subset or IMAGENET.folders)[label] == IMAGENET.folders[there]


def test_imagenet_validates_on_spare_training_images(data: dict[str, Tree]) -> None:
    task = load_task("imagenet")
    rows = data["imagenet"].rows["train"]
    assert rows == sorted(rows)
    draw = draw_shots(task, 2, 1)
    drawn = {(sample.id, sample.label) for sample in draw.train}
    held_out = [(sample.id, sample.label) for sample in draw.val]
    assert set(held_out) == set(rows) - drawn  # of three images one is left
    assert [label for _, label in held_out] == list(range(1000))
    assert (task.max_shots, load_task("imagenet_a").max_shots) == (3, 0)


def test_dataset_folder_follows_variables_and_option(data: dict[str, Tree], tmp_path: Path) -> None:
    """The option sets the root of all datasets, and the folders of single ones."""
    os.environ |= {
        "COMPATBENCH_DATA": f"{tmp_path}",
        "COMPATBENCH_DATA_DTD": f"{data['dtd'].folder}",
    }
    assert inspect_task("dtd").state == "found"
    report = inspect_task("eurosat")
    assert (report.state, report.folder) == ("missing", tmp_path / "eurosat")
    del os.environ["COMPATBENCH_DATA"], os.environ["COMPATBENCH_DATA_DTD"]
    with pytest.raises(CompatbenchError, match="'eurosat': no folder of datasets is set; give"):
        load_task("eurosat")
    odd = tmp_path / "a=b"
    odd.mkdir()
    set_data_roots([str(odd), f"oxford_pets={data['oxford_pets'].folder}"])
    assert inspect_task("oxford_pets").state == "found"
    assert inspect_task("dtd").folder == odd / "dtd"
    with pytest.raises(CompatbenchError, match="no task named 'oxford_pet'; did you mean"):
        set_data_roots([f"oxford_pet={tmp_path}"])
    with pytest.raises(CompatbenchError, match="there is no folder"):
        set_data_roots([f"dtd={tmp_path / 'nowhere'}"])


@pytest.mark.parametrize("change", ["size", "label", "path", "order", "other image", "place"])
def test_fingerprint_changes_only_with_used_images_and_labels(
    change: str, set_up: SetUp, monkeypatch: pytest.MonkeyPatch
) -> None:
    tree = set_up("eurosat", pictures=True)
    split = tree.folder / "split_zhou_EuroSAT.json"
    task = load_task("eurosat")
    before = task.fingerprint(task.split("test"))
    listed = json.loads(split.read_text())
    path, label, name = listed["test"][0]
    if change == "size":
        image = tree.folder / "2750" / path
        image.write_bytes(image.read_bytes() + b" ")
    elif change == "label":
        listed["test"][0] = [path, *listed["test"][-1][1:]]
    elif change == "path":
        (tree.folder / "2750" / path).rename(tree.folder / "2750" / "other.jpg")
        listed["test"][0] = ["other.jpg", label, name]
    elif change == "order":
        listed["test"].reverse()
    elif change == "other image":
        (tree.folder / "2750" / tree.rows["train"][0][0]).write_bytes(b"")
    split.write_text(json.dumps(listed))
    if change == "place":
        moved = tree.folder.rename(tree.folder.with_name("moved"))
        monkeypatch.setenv("COMPATBENCH_DATA_EUROSAT", str(moved))
    load_again()
    task = load_task("eurosat")
    same = change in ("other image", "place")
    assert (task.fingerprint(task.split("test")) == before) is same
