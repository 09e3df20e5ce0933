"""``cb.task``: images that are in memory become a task, and input that is refused."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import Dataset

import compatbench as cb
from compatbench.data.task import load_task
from compatbench.errors import CompatbenchError, CompatbenchWarning

NAMES = ["red fox", "Lynx", "ibex"]
PER_CLASS = 6


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("COMPATBENCH_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    return tmp_path / "cache"


def draw_arrays() -> tuple[list[np.ndarray], list[int]]:
    """Return noise of several sizes, with labels."""
    random = np.random.default_rng(1)
    arrays = []
    labels = []
    for number in range(PER_CLASS * len(NAMES)):
        shape = (20 + number, 30, 3)
        arrays.append(random.integers(0, 256, shape, dtype=np.uint8))
        labels.append(number % len(NAMES))
    return arrays, labels


ARRAYS, LABELS = draw_arrays()
IMAGES = [Image.fromarray(array) for array in ARRAYS]


class Pairs(Dataset[Any]):
    """A dataset of torch, as torchvision's are."""

    def __init__(self, images: list[Any], classes: list[str] | None = NAMES) -> None:
        self.images = images
        if classes:
            self.classes = classes

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, number: int) -> tuple[Any, Any]:
        return self.images[number], torch.tensor(LABELS[number])


class ClassLabel:
    names = NAMES


class HubDataset:
    """A dataset with the attributes of those of the library ``datasets``."""

    column_names = ("pic", "label")
    features = {"pic": type("Image", (), {})(), "label": ClassLabel()}

    def __init__(self, images: list[Any]) -> None:
        self.images = images

    def __len__(self) -> int:
        return len(self.images)

    def __iter__(self) -> Any:
        return iter([{"pic": one, "label": y} for one, y in zip(self.images, LABELS, strict=True)])


def tensors() -> list[torch.Tensor]:
    return [torch.from_numpy(array).permute(2, 0, 1) for array in ARRAYS]


@pytest.mark.parametrize(
    "given",
    [
        (ARRAYS, LABELS, NAMES),
        (IMAGES, np.array(LABELS), tuple(NAMES)),
        (IMAGES, [NAMES[label] for label in LABELS], NAMES),
        (list(zip(IMAGES, LABELS, strict=True)), None, NAMES),
        (Pairs(IMAGES),),
        (Pairs(tensors(), None), None, NAMES),
        (HubDataset(IMAGES),),
    ],
    ids=["arrays", "PIL", "names as labels", "pairs", "torch", "tensors", "hub"],
)
def test_images_of_every_kind_give_the_same_task_without_loss(given: tuple[Any, ...]) -> None:
    expected = cb.task(IMAGES, LABELS, NAMES)
    made = cb.task(*given)
    assert made == expected
    assert repr(made) == f"<Task '{made}': 3 classes, images: train 6, test 12; shots: 1>"
    task = load_task(made)
    assert task.labels.names == tuple(NAMES)
    found = set()
    for split in ("train", "test"):
        for sample in task.source.samples[split]:
            found.add((sample.label, np.asarray(task.source.image(sample)).tobytes()))
    assert found == {(label, array.tobytes()) for label, array in zip(LABELS, ARRAYS, strict=True)}


def test_datasets_of_the_hugging_face_library_are_read() -> None:
    datasets = pytest.importorskip("datasets")
    columns = {"image": datasets.Image(), "label": datasets.ClassLabel(names=NAMES)}
    rows = {"image": IMAGES, "label": LABELS}
    dataset = datasets.Dataset.from_dict(rows, features=datasets.Features(columns))
    assert cb.task(dataset) == cb.task(IMAGES, LABELS, NAMES)


def test_the_same_images_are_stored_once_in_any_order(own_cache: Path) -> None:
    first = cb.task(IMAGES, LABELS, NAMES)
    files = {path: path.stat().st_mtime_ns for path in own_cache.rglob("*.png")}
    assert len(files) == len(IMAGES)
    card = Path(first.made.card)
    text = card.read_text()
    again = cb.task(IMAGES[::-1], LABELS[::-1], NAMES, name="pets")
    assert (again, again.suite) == ("pets", "pets-upgrade")
    assert {path: path.stat().st_mtime_ns for path in own_cache.rglob("*.png")} == files
    assert cb.task(IMAGES, LABELS, NAMES) == first
    assert card.read_text() == text
    # A cell of a notebook that is run again with other images replaces the task.
    assert len(load_task("pets").split("test")) == 12
    cb.task(IMAGES[6:], LABELS[6:], NAMES, name="pets")
    assert len(load_task("pets").split("test")) == 6
    assert len(load_task(first).split("test")) == 12


def test_another_draw_of_the_same_images_is_another_task() -> None:
    """Else a module could be tested on images that it was trained on."""
    first = cb.task(IMAGES, LABELS, NAMES)
    before = load_task(first).split("test")
    settings: list[dict[str, Any]] = [{"shots": 2}, {"seed": 2}, {"test_share": 0.4}]
    settings.append({"template": ["a drawing of a {}."]})
    names = {cb.task(IMAGES, LABELS, NAMES, **each) for each in settings}
    assert len({first, *names}) == 5
    assert load_task(first).split("test") == before


def test_cards_and_images_can_be_in_a_folder_of_ones_own(tmp_path: Path) -> None:
    made = cb.task(IMAGES, LABELS, NAMES, name="pets", out="here")
    assert made.made.card == tmp_path / "here" / "pets.yaml"
    assert len([*(tmp_path / "here").rglob("*.png")]) == len(IMAGES)
    assert not (tmp_path / "cache" / "tasks").exists()


def test_splits_of_a_mapping_are_kept() -> None:
    images = {"train": IMAGES[:9], "validation": IMAGES[9:12], "test": IMAGES[12:]}
    labels = {"train": LABELS[:9], "validation": LABELS[9:12], "test": LABELS[12:]}
    task = load_task(cb.task(images, labels, NAMES))
    assert {
        split: len(task.source.samples[split]) for split in images if split != "validation"
    } == {
        "train": 9,
        "test": 6,
    }
    assert len(task.source.samples["val"]) == 3


def test_images_are_turned_as_their_exif_data_say() -> None:
    images = list(IMAGES)
    turned = images[0].transpose(Image.Transpose.ROTATE_90)
    turned.getexif()[0x0112] = 6  # to be turned by 270 degrees
    images[0] = turned
    assert cb.task(images, LABELS, NAMES) == cb.task(IMAGES, LABELS, NAMES)


def test_images_that_harm_a_comparison_are_named_by_their_place() -> None:
    with pytest.warns(CompatbenchWarning, match="1 image given twice with the same label"):
        made = cb.task([*IMAGES, IMAGES[0]], [*LABELS, 0], NAMES)
    assert made == cb.task(IMAGES, LABELS, NAMES)
    with pytest.warns(CompatbenchWarning, match=r"two labels \(images\[(0|18)\] is images"):
        cb.task([*IMAGES, IMAGES[0]], [*LABELS, 1], NAMES)
    with pytest.warns(CompatbenchWarning, match="class names are numbers"):
        cb.task(IMAGES, LABELS, ["0", "1", "2"])


GREY = Image.new("I", (8, 8), 70000)
MISTAKES: dict[str, tuple[Any, ...]] = {
    r"images has 18 images and labels has 17; give one label for each image": (
        (IMAGES, LABELS[1:], NAMES)
    ),
    r"images\[2\]: label 2 is out of range; the 2 classes are 0 to 1": (IMAGES, LABELS, NAMES[:2]),
    r"images\[0\]: label -1 is out of range": (IMAGES, [-1, *LABELS[1:]], NAMES),
    r"images\[0\]: label 'cat' is none of the names": (IMAGES, ["cat", *LABELS[1:]], NAMES),
    r"images\[0\]: label 0.5 is neither the number nor the name": (
        (IMAGES, [0.5, *LABELS[1:]], NAMES)
    ),
    r"class 3, 'yak', has no image; add some, or leave the class out": (
        (IMAGES, LABELS, [*NAMES, "yak"])
    ),
    r"class 3, 'yak', has one image; it needs one to train on and one to test on": (
        ([*IMAGES, Image.new("L", (9, 9))], [*LABELS, 3], [*NAMES, "yak"])
    ),
    r"images\[1\] has the type Thing, not that of an image; give PIL images": (
        ([IMAGES[0], type("Thing", (), {})()], [0, 1], NAMES)
    ),
    r"images\[0\] has the type str, not that of an image.*cb.new_task\(FOLDER\)": (
        ["a.png"],
        [0],
        NAMES,
    ),
    r"images\[0\] is an array of float64; give uint8": ([np.zeros((4, 4, 3))], [0], NAMES),
    r"images\[0\] is an array of 3 × 8 × 8; give height × width × 3": (
        ([np.zeros((3, 8, 8), np.uint8)], [0], NAMES)
    ),
    r"images\[0\] is a tensor of float32; give the dataset without its transform": (
        Pairs([torch.zeros(3, 8, 8)]),
    ),
    r"images\[0\] has more than 8 bits a pixel": ([GREY], [0], NAMES),
    r"images\[0\] has the type Image, and is no pair of image and label; give the labels": (
        (IMAGES, None, NAMES)
    ),
    r"names: 'Lynx' and 'lynx' are the same name": (IMAGES, LABELS, [*NAMES, "lynx"]),
    r"names\[2\] is 3; give the name of a class": (IMAGES, LABELS, [*NAMES[:2], 3]),
    r"names: a task needs two classes, and this is 1": (IMAGES, LABELS, ["fox"]),
    r"names: the data have no names of classes; give them": (IMAGES, LABELS),
    r"images is empty; give images": ([], [], NAMES),
    r"labels is 3; give a list with one for each image": (IMAGES, 3, NAMES),
    r"images has no split 'train', only test; add it": (
        ({"test": IMAGES}, {"test": LABELS}, NAMES)
    ),
    r"class 2, 'ibex', has no image in the split 'test'; add some": (
        ({"train": IMAGES, "test": IMAGES[:2]}, {"train": LABELS, "test": LABELS[:2]}, NAMES)
    ),
    r"images is a path, 'photos'; give images; for those in files": ("photos",),
    r"images has the type generator, without numbered images": (
        (one for one in IMAGES),
        LABELS,
        NAMES,
    ),
    r"images\['all'\] is not a split; name it one of train, val, test": ({"all": IMAGES},),
    r"labels has no 'train'; give the labels by split, too": ({"train": IMAGES}, LABELS, NAMES),
}


@pytest.mark.parametrize("message", MISTAKES)
def test_mistakes_are_one_line_that_names_the_image(message: str, own_cache: Path) -> None:
    with pytest.raises(CompatbenchError, match=f"^{message}"):
        cb.task(*MISTAKES[message])
    assert not [*own_cache.rglob("*.yaml")]


def test_only_bytes_of_usual_formats_are_decoded(monkeypatch: pytest.MonkeyPatch) -> None:
    def encode(image: Image.Image, kind: str) -> dict[str, Any]:
        file = io.BytesIO()
        image.save(file, kind)
        return {"bytes": file.getvalue()}

    def refuse(value: dict[str, Any], message: str) -> None:
        with pytest.raises(CompatbenchError, match=message):
            cb.task([value, *IMAGES], [0, *LABELS], NAMES)

    small = Image.new("RGB", (8, 8), 90)
    refuse(encode(small, "EPS"), r"images\[0\] cannot be decoded \(unknown image format\)")
    line = Image.new("L", (70_000, 1))
    refuse(encode(line, "PNG"), "70,000 × 1 pixels; give 1 to .*, and at most 65,535 in a row")

    def fail(*_: Any) -> None:
        raise IndexError("index out of range")

    damaged = encode(small, "PNG")
    monkeypatch.setattr("PIL.PngImagePlugin.PngImageFile.load", fail)
    refuse(damaged, r"images\[0\] cannot be decoded \(index out of range\); leave it out")


def test_a_name_that_is_taken_or_an_object_in_place_of_a_name_is_one_line() -> None:
    with pytest.raises(CompatbenchError, match="a task is named 'mini-food' already"):
        cb.task(IMAGES, LABELS, NAMES, name="mini-food")
    with pytest.raises(CompatbenchError, match=r"not by a list; make a task .*cb.task\(images"):
        cb.fit("zeroshot", IMAGES, "mini-clip")  # pyright: ignore[reportArgumentType]


def test_a_task_is_accepted_where_its_name_is() -> None:
    task = cb.task(IMAGES, LABELS, NAMES)
    module = cb.fit("tip_adapter", task, "mini-clip")
    assert module.about["shots"] == task.made.shots
    found = cb.evaluate(module, "mini-eva-clip", task)
    assert found.images == 12
    assert module.about["task"] == task
    plan = cb.plan(methods=["zeroshot"], tasks=[task], seeds=1)
    assert plan.suite.name == task.suite
    with pytest.raises(CompatbenchError, match="no task in this suite named 'task-"):
        cb.plan("mini", methods=["zeroshot"], tasks=[task])
    results = cb.run(
        methods=["zeroshot"], tasks=[task], seeds=1, compute=cb.Compute(executor="here")
    )
    assert {*results.frame["task"]} == {task}
    assert results.frame["correct"].iloc[-1] == found.as_dict()["target"]["zero_shot_correct"]
    other = cb.task(IMAGES[3:], LABELS[3:], NAMES)
    with pytest.raises(CompatbenchError, match="run one at a time, or write a suite"):
        cb.plan(methods=["zeroshot"], tasks=[task, other])
