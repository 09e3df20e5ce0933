"""Datasets as torchvision lays them out, read by torchvision itself."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import scipy.io
from data.trees import BUILDERS, FEW, picture

from compatbench.data.cards import TaskCard, task_cards
from compatbench.data.cards.task import TorchvisionSource
from compatbench.data.sources.split_files import read_torchvision
from compatbench.data.task import describe_classes, load_task
from compatbench.errors import CompatbenchError


def source(dataset: str) -> TorchvisionSource:
    given = {"kind": "torchvision", "folder": "torchvision", "dataset": dataset}
    return TorchvisionSource.model_validate(given)


def read(dataset: str, name: str, root: Path):
    _, classes, _ = describe_classes(task_cards.read(name))
    return read_torchvision(root, source(dataset), classes)


def test_fgvc_is_coop_s_in_all_splits(tmp_path: Path) -> None:
    card = task_cards.read("fgvc_aircraft")
    tree = BUILDERS["fgvc_aircraft"](card, tmp_path / "fgvc-aircraft-2013b" / "data", FEW)
    found = read("FGVCAircraft", "fgvc_aircraft", tmp_path)
    place = "fgvc-aircraft-2013b/data/images"
    for split, rows in tree.rows.items():
        listed = [(sample.id, sample.label) for sample in found.samples[split]]
        assert listed == [(f"{place}/{path}", label) for path, label in rows]
    assert found.image(found.samples["test"][0]).mode == "RGB"


def write_pets(root: Path, card: TaskCard) -> None:
    folder = root / "oxford-iiit-pet"
    (folder / "images").mkdir(parents=True)
    (folder / "annotations").mkdir()
    for split, count in (("trainval", 2), ("test", 1)):
        lines = []
        for label, name in enumerate(card.classes):
            for number in range(count):
                image = f"{name.capitalize()}_{len(split) * 10 + number}"
                (folder / "images" / f"{image}.jpg").write_bytes(picture(label, number))
                lines.append(f"{image} {label + 1} 1 1\n")
        (folder / "annotations" / f"{split}.txt").write_text("".join(lines))


def test_pets_test_set_is_coop_s_and_the_rest_is_for_training(tmp_path: Path) -> None:
    card = task_cards.read("oxford_pets")
    write_pets(tmp_path, card)
    samples = read("OxfordIIITPet", "oxford_pets", tmp_path).samples
    assert [sample.label for sample in samples["test"]] == list(range(37))
    assert (len(samples["train"]), len(samples["val"])) == (74, 0)


def write_cars(root: Path, card: TaskCard) -> None:
    folder = root / "stanford_cars"
    names = np.empty((1, len(card.classes)), dtype=object)
    for label, name in enumerate(card.classes):
        year, _, rest = name.partition(" ")
        names[0, label] = f"{rest} {year}"  # as in the devkit: the year stands last
    fields = ["bbox_x1", "bbox_y1", "bbox_x2", "bbox_y2", "class", "fname"]
    (folder / "devkit").mkdir(parents=True)
    scipy.io.savemat(folder / "devkit" / "cars_meta.mat", {"class_names": names})
    for split, path in (
        ("train", folder / "devkit" / "cars_train_annos.mat"),
        ("test", folder / "cars_test_annos_withlabels.mat"),
    ):
        (folder / f"cars_{split}").mkdir()
        rows = np.zeros((1, len(card.classes)), dtype=[(field, object) for field in fields])
        for label in range(len(card.classes)):
            file = f"{label + 1:05}.jpg"
            (folder / f"cars_{split}" / file).write_bytes(picture(label, 1))
            rows[0, label] = (1, 1, 2, 2, label + 1, file)
        scipy.io.savemat(path, {"annotations": rows})


def test_cars_are_read_with_the_year_at_the_end_of_their_names(tmp_path: Path) -> None:
    write_cars(tmp_path, task_cards.read("stanford_cars"))
    samples = read("StanfordCars", "stanford_cars", tmp_path).samples
    assert [sample.label for sample in samples["test"]] == list(range(196))
    assert samples["test"][4].id == "stanford_cars/cars_test/00005.jpg"
    assert len(samples["train"]) == 196


def test_classes_in_another_order_are_refused(tmp_path: Path) -> None:
    card = task_cards.read("oxford_pets")
    swapped = (card.classes[1], card.classes[0], *card.classes[2:])
    write_pets(tmp_path, card.model_copy(update={"classes": swapped}))
    with pytest.raises(CompatbenchError, match="the same names in another order"):
        read("OxfordIIITPet", "oxford_pets", tmp_path)


def test_a_root_without_the_dataset_is_named(tmp_path: Path) -> None:
    with pytest.raises(CompatbenchError, match="does not hold torchvision's FGVCAircraft"):
        read("FGVCAircraft", "fgvc_aircraft", tmp_path)


def test_a_card_names_no_dataset_whose_splits_are_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = (
        "name: mine\ntitle: Mine\nclasses: [a, b]\ntemplates: ['{}']\n"
        "source: {kind: torchvision, folder: x, dataset: DTD}\n"
        "counts: {train: 1, test: 1}\nlicence: none\n"
    )
    (tmp_path / "mine.yaml").write_text(text)
    monkeypatch.setenv("COMPATBENCH_TASKS", str(tmp_path))
    with pytest.raises(CompatbenchError, match=r"mine.yaml:5: field 'source.dataset'"):
        load_task("mine")
