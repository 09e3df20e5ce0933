"""Captions of test images: both layouts, what is refused, and retrieval by them."""

from __future__ import annotations

import csv
import io
import re
import tarfile
from pathlib import Path

import numpy as np
import pytest
import torch.nn.functional as F
from data.trees import load_again, picture
from PIL import Image

import compatbench as cb
from compatbench.backbone import Backbone
from compatbench.data.task import inspect_task, load_task
from compatbench.errors import CompatbenchError
from compatbench.extras.indexes.galleries import Galleries
from compatbench.extras.indexes.retrieval_files import FIGURES, POOLED

WORDS = ["a red dog", "the blue cat on grass", "two birds", "an old tree", "a photo of the sea"]
HEAD = "title: Photos\nlicence: MIT\n"
CARDS = {
    "listed": "captions: captions.csv\nsource: {kind: captioned, folder: photos, images: images}\n",
    "shards": "captions: txt\nsource: {kind: webdataset, folder: wds, train: train}\n",
    "pets": "classes: [cat, dog]\ntemplates: ['a {}.']\ncaptions: captions.csv\n"
    "source: {kind: class-folders, folder: pets, train: train, test: test}\n",
}
TASKS = "./listed.yaml,./shards.yaml"


def captions_of(number: int) -> list[str]:
    """One to three, other ones for each image."""
    return [f"{WORDS[(number + i) % 5]} {number}" for i in range(1 + number % 3)]


@pytest.fixture
def work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Nine test images and ten for training in each layout, with their cards."""
    (tmp_path / "photos" / "images").mkdir(parents=True)
    rows = [["image", "caption", "split"]]
    for number in range(19):
        image = tmp_path / "photos" / "images" / f"{number}.png"
        image.write_bytes(picture(number, 0, "PNG"))
        split = "test" if number < 9 else "train"
        rows += [[image.name, text, split] for text in captions_of(number)]
    write_rows(tmp_path / "photos" / "captions.csv", rows)
    shards = {"test/0": range(5), "test/1": range(5, 9), "train/0": range(9, 19)}
    for shard, numbers in shards.items():
        write_shard(tmp_path / "wds" / f"{shard}.tar", numbers)
    (tmp_path / "wds" / "test" / "nshards.txt").write_text("2\n")
    (tmp_path / "wds" / "train" / "nshards.txt").write_text("1\n")
    rows = [["image", "caption"]]
    for number, place in enumerate(("train/cat", "train/dog", "test/cat", "test/dog")):
        (tmp_path / "pets" / place).mkdir(parents=True)
        (tmp_path / "pets" / place / "1.png").write_bytes(picture(number, 2, "PNG"))
        rows += [[f"{place}/1.png", text] for text in captions_of(number)]
    write_rows(tmp_path / "pets" / "captions.csv", rows)
    for name, text in CARDS.items():
        counts = "{train: 2, test: 2}" if name == "pets" else "{train: 10, test: 9}"
        (tmp_path / f"{name}.yaml").write_text(f"name: {name}\n{HEAD}counts: {counts}\n{text}")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COMPATBENCH_CARDS", "")
    monkeypatch.setenv("COMPATBENCH_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("COMPATBENCH_DATA", raising=False)
    load_again()
    return tmp_path


def write_rows(path: Path, rows: list[list[str]]) -> None:
    with path.open("w", newline="") as file:
        csv.writer(file).writerows(rows)


def write_shard(path: Path, numbers: range, texts: bool = True) -> None:
    """As CLIP_benchmark has it: ``x.png``, and in ``x.txt`` a caption in each line."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as tar:
        for number in numbers:
            members = {"png": picture(20 + number, 0, "PNG")}
            if texts:
                members["txt"] = "\n".join(captions_of(number)).encode()
            for ending, content in members.items():
                info = tarfile.TarInfo(f"s{number:07}.{ending}")
                info.size = len(content)
                tar.addfile(info, io.BytesIO(content))


def encode(model: Backbone, images: list[bytes]) -> np.ndarray:
    """Unit features of images, one by one, in double precision."""
    opened = [Image.open(io.BytesIO(one)).convert("RGB") for one in images]
    rows = [model.encode_images(model.preprocess(one)[None]) for one in opened]
    return np.concatenate([F.normalize(one, dim=-1).numpy() for one in rows])


def naive(model: Backbone, gallery: np.ndarray, captions: dict[int, list[str]]) -> np.ndarray:
    """Recall at 1, 5 and 10 and mean reciprocal rank, in percent, by their definitions."""
    figures = []
    for home, texts in captions.items():
        for text in texts:
            query = F.normalize(model.text_features((text,)), dim=-1).numpy()[0]
            similar = [float(image @ query) for image in gallery]
            rank = 1 + sum(one > similar[home] for one in similar)
            figures.append([rank <= 1, rank <= 5, rank <= 10, 1 / rank])
    return 100 * np.mean(np.array(figures, dtype=float), axis=0)


@pytest.mark.slow
def test_every_caption_looks_for_its_image(
    work: Path, clip64: Backbone, eva64: Backbone, monkeypatch: pytest.MonkeyPatch
) -> None:
    models = {"mini-clip": clip64, "mini-eva-clip": eva64}
    monkeypatch.setattr(
        "compatbench.extras.indexes.retrieve.load_backbone", lambda name, device: models[name]
    )
    found = cb.retrieve("mini", targets="mini-eva-clip", tasks=TASKS, pairs=[8])
    assert set(found.frame["queries"]) == {"captions"}
    assert found.about["tasks"] == ["listed", "shards"]  # which are not of the suite
    assert {*found.frame["way"]} >= {"words", "images", "low-rank", "ridge"}
    rows = found.frame.set_index(["gallery", "way"])
    captions = {number: captions_of(number) for number in range(9)}
    pictures = {
        "listed": [picture(number, 0, "PNG") for number in range(9)],
        "shards": [picture(20 + number, 0, "PNG") for number in range(9)],
    }
    pictures[POOLED] = pictures["listed"] + pictures["shards"]
    both = captions | {9 + number: texts for number, texts in captions.items()}
    for name, images in pictures.items():
        old, new = encode(clip64, images), encode(eva64, images)
        asked = both if name == POOLED else captions
        for way, model, gallery in (
            ("old model", clip64, old),
            ("copied", eva64, old),
            ("re-encoded", eva64, new),
        ):
            row = rows.loc[(name, way)]
            assert (row["images"], row["asked"]) == (len(images), sum(map(len, asked.values())))
            wanted = naive(model, gallery, asked)
            assert np.abs(row[[*FIGURES]].to_numpy(float) - wanted).max() <= 1e-9


def test_classes_and_captions_are_asked_apart(work: Path) -> None:
    study = Galleries([load_task("pets"), load_task("listed", bare=True)])
    asked = {(one.gallery, one.queries): one for one in study.questions}
    labelled, captioned = {"texts", "images", "captions"}, {"captions"}
    assert {queries for name, queries in asked if name == "pets"} == labelled
    assert {queries for name, queries in asked if name == "listed"} == captioned
    # Images without a class are no wrong answers to a class's name.
    assert [len(asked[POOLED, one].images) for one in ("texts", "captions")] == [2, 11]
    # Captions of training images are not taken.
    assert [row for row, _ in study.captions[:6]] == [0, 0, 0, 1, 2, 3]
    assert len(study.captions) == 4 + 18


def test_a_parquet_file_may_hold_lists(work: Path) -> None:
    pa, pq = (pytest.importorskip(name) for name in ("pyarrow", "pyarrow.parquet"))
    wanted = load_task("pets").find_captions()
    assert wanted["test/cat/1.png"] == tuple(captions_of(2))
    table = pa.table({"image": [*wanted], "caption": [list(texts) for texts in wanted.values()]})
    pq.write_table(table, work / "pets" / "captions.parquet")
    card = work / "pets.yaml"
    card.write_text(card.read_text().replace("captions.csv", "captions.parquet"))
    load_again()
    assert load_task("pets").find_captions() == wanted


@pytest.mark.parametrize(
    ("name", "file", "text", "message"),
    [
        ("pets", "pets/captions.csv", "image,caption\nx.png,hi\n", r"csv:2: .* no image 'x.png'"),
        ("pets", "pets/captions.csv", "image,caption\ntest/cat/1.png,\n", "csv:2: 'caption' is no"),
        ("pets", "pets/captions.csv", "file,caption\nx.png,hi\n", "csv:1: there is no column 'im"),
        ("pets", "pets/captions.csv", "image,caption\ntrain/cat/1.png,a\n", "has no caption of a"),
        ("listed", "photos/captions.csv", "image,caption\n../x.png,a\n", "csv:2: .*leaves the"),
        ("listed", "photos/captions.csv", "image,caption,split\n0.png,a,new\n", "csv:2: split 'ne"),
        ("listed", "photos/captions.csv", "image,caption\n0.png,a\n", "train has 0 images"),
        ("listed", "listed.yaml", "classes: [cat]\ntemplates: ['{}']\n", "kind captioned has no"),
        ("pets", "pets.yaml", "classes: []\ntemplates: []\n", "without 'classes' has 'captions'"),
    ],
)
def test_a_mistake_is_named_with_its_place(
    work: Path, name: str, file: str, text: str, message: str
) -> None:
    path = work / file
    if path.suffix == ".yaml":
        text = re.sub("(?m)^(classes|templates):.*\n", "", path.read_text()) + text
    path.write_text(text)
    with pytest.raises(CompatbenchError, match=message):
        load_task(name, bare=True).find_captions()


def test_what_has_no_classes_is_for_retrieval_alone(work: Path) -> None:
    assert inspect_task("listed").state == inspect_task("shards").state == "found"
    with pytest.raises(CompatbenchError, match="'listed' has captions and no classes"):
        load_task("listed")
    write_shard(work / "wds" / "test" / "1.tar", range(5, 9), texts=False)
    load_again()
    assert "there is no txt beside it" in inspect_task("shards").message
    with pytest.raises(CompatbenchError, match="there are 20; give 20 at"):
        cb.retrieve("mini", tasks=TASKS, pairs=[64])
