"""``new-task``: layouts of images that become a task, and input that is refused."""

from __future__ import annotations

import csv
import io
import itertools
import json
import re
import shlex
import shutil
import sys
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from command_line import output_of
from data.trees import (
    CLASSES,
    NAMES,
    Spoil,
    content,
    load_again,
    rename,
    write,
    write_folders,
    write_rows,
    write_shard,
)
from PIL import Image

import compatbench as cb
from compatbench.data import dataset_folders
from compatbench.data.cards import suite_cards, task_cards
from compatbench.data.draws import draw_shots
from compatbench.data.layouts import containers
from compatbench.data.layouts.containers import open_container
from compatbench.data.new_task import NewTask
from compatbench.data.new_task_choices import natural
from compatbench.data.task import inspect_task, load_task
from compatbench.engine_version import ENGINE_VERSION
from compatbench.errors import CompatbenchError
from compatbench.files.atomic import open_atomic
from compatbench.files.hashes import sha256_json

IBEX, FOX = CLASSES
WRITTEN = {"pets.yaml", "pets.csv", "pets-upgrade.yaml"}


def read_rows(path: Path) -> list[dict[str, str]]:
    with path.with_suffix(".csv").open(newline="") as file:
        return list(csv.DictReader(file))


def check_reads_back(made: NewTask) -> None:
    """Check that the card loads, with the images that were counted, and that all can be read."""
    load_again()
    task = load_task(made.task.name)
    for split, counts in made.images.items():
        samples = task.source.samples[split]
        labels = Counter(sample.label for sample in samples)
        assert labels == counts
        for sample in samples:
            task.source.image(sample)
    assert inspect_task(task.name).state == "found"
    assert suite_cards.read(made.suite.stem).tasks == (task.name,)


def test_class_folders_are_split_by_seed(work: Path) -> None:
    """Each class is split separately, and the same seed draws the same images."""
    write_folders(work / "pets", 9)
    (work / "pets" / "notes.txt").write_text("no image")
    (work / "pets" / "lynx").mkdir()
    made = cb.new_task("pets")
    assert "folders without an image are not classes: lynx" in made.notes
    assert {path.name for path in work.iterdir()} == WRITTEN | {"pets"}
    assert made.task.names == ("Alpine Ibex", "red Fox")
    assert made.images["train"] == {0: 4, 1: 4}  # two to train on, two to validate on
    assert made.images["test"] == {0: 5, 1: 5}
    assert (made.shots, made.data_root, made.decoded) == (2, "", 18)
    assert made.frame["train"].tolist() == [4, 4]
    rows = read_rows(made.card)
    for row in rows:
        assert row["path"].split("/")[0] == row["label"]
    check_reads_back(made)
    first = (work / "pets.csv").read_bytes()
    assert read_rows(cb.new_task("pets", seed=2, replace=True).card) != rows
    cb.new_task("pets", replace=True)
    assert (work / "pets.csv").read_bytes() == first
    assert cb.new_task("pets", test_share=0.2, replace=True).images["test"] == {0: 2, 1: 2}


def split_folders(**images: int) -> Spoil:
    """Write so many images of each class in each split."""

    def write_splits(pets: Path) -> None:
        for split, number in images.items():
            write_folders(pets / "images", number, split)

    return write_splits


def listed(name: str, *lines: str) -> Spoil:
    """Write class folders and a list of their images."""

    def write_list(pets: Path) -> None:
        write_folders(pets / "images")
        write(pets / name, "\n".join([*lines, ""]))

    return write_list


def parquet(*splits: str) -> Spoil:
    """Write two files for every split."""

    def write_all(pets: Path) -> None:
        for split in splits:
            for shard in range(2):
                write_rows(pets / split / f"data-0000{shard}-of-00002.parquet", [0, 1] * 4)

    return write_all


ROWS = [(f"images/{name}/{n}.png", name) for name, n in itertools.product(CLASSES, range(8))]
SPLIT = [(*row, ("train", "train", "Test")[n % 3]) for n, row in enumerate(ROWS)]
WILD = [f'{path},"{name}, wild"' for path, name in ROWS]
RECORDS = [{"file_name": path, "label": name, "more": [1]} for path, name in ROWS]
# Writes a dataset; the images of its task by split; the kind of layout that is reported.
FOUND: list[tuple[Spoil, list[int], str]] = [
    (split_folders(train=4, test=3), [8, 6], "class folders with splits"),
    (split_folders(Training=4, validation=2, TEST=3), [8, 4, 6], "class folders with splits"),
    (split_folders(train=4, val=2), [8, 4], "class folders with splits"),
    (split_folders(train=4), [4, 4], "class folders"),
    (listed("labels.csv", "\ufeffFile_Name,class", *WILD), [8, 8], "the list labels.csv"),
    (listed("labels.csv", "path;label", *map(";".join, ROWS)), [8, 8], "the list labels.csv"),
    (listed("a.tsv", "image\tlabel\tsplit", *map("\t".join, SPLIT)), [11, 5], "the list a.tsv"),
    (listed("metadata.jsonl", *map(json.dumps, RECORDS)), [8, 8], "the list metadata.jsonl"),
    (parquet(""), [8, 8], "2 parquet files"),
    (parquet("train", "validation", "test"), [16, 16, 16], "6 parquet files"),
]


@pytest.mark.parametrize(("write_all", "counts", "kind"), FOUND)
def test_every_layout_becomes_a_task(
    work: Path, write_all: Spoil, counts: list[int], kind: str
) -> None:
    write_all(work / "pets")
    places = ["pets"]
    list_file = kind.partition("the list ")[2]
    if list_file:
        places.append(f"pets/{list_file}")
    splits = ["train", "val", "test"]
    if len(counts) == 2:
        splits.remove("val")
    wild_names = tuple(f"{name}, wild" for name in NAMES)
    for place in places:
        made = cb.new_task(place, "pets", replace=True)
        assert made.kind == kind
        assert made.task.names in (NAMES, wild_names)
        assert made.task.counts == dict(zip(splits, counts, strict=True))
        check_reads_back(made)


def test_images_shared_by_training_and_test_are_noted(work: Path) -> None:
    for split in ("train", "test"):
        write_folders(work / "pets", 5, split)
    for number, path in enumerate((work / "pets").glob("*/*/*.png")):
        photo(number).save(path)
    assert "in training, too" not in "\n".join(cb.new_task("pets").notes)
    shutil.copy(work / "pets" / "train" / FOX / "2.png", work / "pets" / "test" / FOX / "4.png")
    [note] = [note for note in cb.new_task("pets", replace=True).notes if "too" in note]
    pair = f"(test/{FOX}/4.png is train/{FOX}/2.png)"
    assert note.startswith("of 10 test images, 1 is in training, too")
    assert pair in note
    write_rows(work / "rows" / "train" / "0.parquet", [0, 1] * 3)
    write_rows(work / "rows" / "test" / "0.parquet", [0, 1] * 2)
    [note] = [note for note in cb.new_task("rows").notes if "too" in note]
    assert note.startswith("of 4 test images, 4 are in training, too")


def photo(seed: int, size: tuple[int, int] = (120, 90)) -> Image.Image:
    """Return an image with large coloured spots."""
    spots = np.random.default_rng(seed).integers(0, 256, (6, 8, 3), dtype=np.uint8)
    return Image.fromarray(spots).resize(size, Image.Resampling.BICUBIC)


def save_photos(pets: Path, **counts: int) -> None:
    """Write so many photos of each class."""
    for name, number in counts.items():
        (pets / name).mkdir(parents=True)
        for index in range(number):
            photo(1000 * len(name) + index).save(pets / name / f"{index}.png")


def test_photos_saved_again_and_photos_under_two_labels_are_noted(work: Path) -> None:
    save_photos(work / "pets" / "train", cat=4, horse=4)
    save_photos(work / "pets" / "test", zebras=3)
    (work / "pets" / "test" / "zebras").rename(work / "pets" / "test" / "cat")
    (work / "pets" / "test" / "horse").mkdir()
    photo(5).save(work / "pets" / "test" / "horse" / "0.png")
    assert not [note for note in cb.new_task("pets").notes if "pair" in note or "too" in note]
    again = Image.open(work / "pets" / "train" / "cat" / "1.png").resize((200, 150))
    again.save(work / "pets" / "test" / "cat" / "again.jpg", quality=60)
    shutil.copy(work / "pets/train/cat/2.png", work / "pets/train/horse/copy.png")
    shared, doubled = cb.new_task("pets", replace=True).notes[-2:]
    assert "1 is in training, too" in shared
    assert "(test/cat/again.jpg is train/cat/1.png)" in shared
    assert doubled == (
        "1 pair of images show one picture under two labels "
        "(train/cat/2.png is train/horse/copy.png)"
    )


def test_files_of_other_kinds_are_counted_with_the_first_three(work: Path) -> None:
    pets = work / "pets"
    save_photos(pets, cat=4, horse=4)
    for number in range(4):
        (pets / "cat" / f"{number}.HEIC").write_bytes(b"ftypheic")
    [note] = [note for note in cb.new_task("pets").notes if "not read" in note]
    assert note.startswith("4 files of a kind that is not read (.heic) are left out: cat/0.HEIC, ")
    assert "cat/2.HEIC ...; save images as JPEG" in note
    for path in pets.glob("*/*.png"):
        path.unlink()
    with pytest.raises(CompatbenchError, match=r"holds no image .*4 files of a kind .*heic"):
        cb.new_task("pets", replace=True)


def test_photos_are_turned_as_their_exif_data_say(work: Path) -> None:
    pets = work / "pets"
    save_photos(pets, cat=4, horse=4)
    exif = Image.Exif()
    exif[0x0112] = 6  # turned by 90 degrees
    photo(7, (40, 20)).save(pets / "cat" / "turned.png", exif=exif)
    made = cb.new_task("pets")
    task = load_task("pets")
    every = [*task.source.samples["train"], *task.source.samples["test"]]
    [turned] = [sample for sample in every if "turned" in sample.id]
    assert task.source.image(turned).size == (20, 40)
    before = task.source.fingerprint([turned])
    # A card of before keeps its features, and their keys.
    text = made.card.read_text().replace("upright: true", "upright: false")
    made.card.write_text(text.replace("hashed: true", "hashed: false"))
    load_again()
    old = load_task("pets").source
    assert old.image(turned).size == (40, 20)
    assert old.fingerprint([turned]) != before
    facts = [[(turned.id, old.size(turned))], ENGINE_VERSION]
    assert old.fingerprint([turned]) == sha256_json(facts)


def test_an_image_with_other_content_of_the_same_size_is_another_one(work: Path) -> None:
    write_folders(work / "pets")
    write_shard(work / "shards" / "0.tar", [0, 1] * 4)
    for name, file in (("pets", work / "pets" / ROW), ("shards", work / "shards" / "0.tar")):
        cb.new_task(name)
        keys = []
        content = file.read_bytes()
        for changed in (content, content[:-1] + b"x", content):
            file.write_bytes(changed)
            task = load_task(name)
            every = [*task.split("train"), *task.split("test")]
            keys.append(task.fingerprint(every))
            assert keys[-1] == task.fingerprint(every)
        assert keys[0] == keys[2] != keys[1]


def test_hashes_of_unchanged_images_are_read_from_the_cache(
    work: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_folders(work / "pets")
    cb.new_task("pets")
    task = load_task("pets")
    before = task.fingerprint(task.split("train"))

    def refuse(path: Path) -> str:
        raise AssertionError(f"{path} is read again")

    monkeypatch.setattr("compatbench.data.image_hashes.hash_file", refuse)
    load_again()
    task = load_task("pets")
    assert task.fingerprint(task.split("train")) == before
    image = work / "pets" / task.split("train")[0].id
    image.write_bytes(image.read_bytes())
    with pytest.raises(AssertionError, match="is read again"):
        task.fingerprint(task.split("train"))


def test_a_changed_list_of_images_is_read_again(work: Path) -> None:
    write_folders(work / "pets")
    cb.new_task("pets")
    task = load_task("pets")
    before = [sample.id for sample in task.split("train")]
    assert load_task("pets") is task
    renamed = work / "pets" / before[0]
    renamed.rename(renamed.with_name(f"new-{renamed.name}"))
    text = (work / "pets.csv").read_text()
    (work / "pets.csv").write_text(text.replace(renamed.name, f"new-{renamed.name}", 1))
    after = [sample.id for sample in load_task("pets").split("train")]
    assert len(after) == len(before)
    assert {*after} != {*before}


@pytest.mark.parametrize("entry", [None, 5, [], [1, 2], [1, 2, 3], ["1", 2, "3"]])
def test_damaged_hashes_in_the_cache_are_computed_again(
    work: Path, monkeypatch: pytest.MonkeyPatch, entry: object
) -> None:
    monkeypatch.setenv("COMPATBENCH_CACHE", str(work / "cache"))
    write_folders(work / "pets")
    cb.new_task("pets")
    task = load_task("pets")
    samples = task.split("train")
    before = task.fingerprint(samples)
    [kept] = (work / "cache" / "hashes").glob("images-*.json")
    for damaged in ([entry], dict.fromkeys(json.loads(kept.read_text()), entry)):
        kept.write_text(json.dumps(damaged))
        assert task.fingerprint(samples) == before


def test_broken_images_can_be_left_out_and_are_listed(work: Path) -> None:
    pets = work / "pets"
    save_photos(pets, cat=6, horse=6, owl=2)
    for path in ("cat/0.png", "owl/0.png", "owl/1.png"):
        (pets / path).write_bytes(b"\x89PNG broken")
    made = cb.new_task("pets", skip_broken=True)
    assert made.task.names == ("cat", "horse")
    assert sum(made.task.counts.values()) == 11
    [note] = [note for note in made.notes if "cannot be read" in note]
    assert note == (
        "3 images (cat/0.png, owl/0.png, owl/1.png) cannot be read and are left out: "
        "pets-broken.txt"
    )
    lines = (work / "pets-broken.txt").read_text().splitlines()
    assert len(lines) == 3
    assert "cat/0.png cannot be decoded" in lines[0]
    # The list of other cards does not stay.
    shutil.rmtree(pets)
    save_photos(pets, cat=6, horse=6)
    cb.new_task("pets", replace=True)
    assert not (work / "pets-broken.txt").exists()


def test_huge_image_is_called_too_large(work: Path) -> None:
    pets = work / "pets"
    save_photos(pets, cat=4, horse=4)
    for width in (11_000, 20_000):
        Image.new("1", (width, 10_000)).save(pets / "cat" / "huge.png")
        with pytest.raises(CompatbenchError, match=r"huge.png is too large \(.* pixels.*smaller"):
            cb.new_task("pets")


def test_unbalanced_classes_give_up_to_the_shots_that_they_have(work: Path) -> None:
    save_photos(work / "pets", cat=38, fox=30, horse=12, owl=3, yak=2)
    made = cb.new_task("pets")
    assert made.shots == 8
    [note] = [note for note in made.notes if "fewer training images" in note]
    assert note.startswith("8 shots: 3 of 5 classes have fewer")
    draw = draw_shots(load_task("pets"), made.shots, seed=1)
    assert Counter(sample.label for sample in draw.train) == {0: 8, 1: 8, 2: 6, 3: 1, 4: 1}
    assert Counter(sample.label for sample in draw.val) == {0: 4, 1: 4}
    assert cb.new_task("pets", shots=16, replace=True).shots == 16


def test_every_image_of_unbalanced_classes_is_learned_from_or_tested(work: Path) -> None:
    save_photos(work / "pets", cat=38, fox=30, horse=12, owl=3, yak=2)
    made = cb.new_task("pets")
    assert made.images["test"] == {0: 26, 1: 18, 2: 6, 3: 2, 4: 1}
    assert "no test split: 53 of 85 images drawn for testing, seed 1" in made.notes
    task = load_task("pets")
    draw = draw_shots(task, made.shots, seed=1)
    used = [*draw.train, *draw.val, *task.split("test")]
    assert len(used) == len({sample.id for sample in used}) == 85
    # A share that is requested is kept, for other numbers of shots.
    made = cb.new_task("pets", test_share=0.5, replace=True)
    assert made.images["test"] == {0: 19, 1: 15, 2: 6, 3: 2, 4: 1}


def test_each_target_is_an_upgrade_of_the_suite(work: Path) -> None:
    write_folders(work / "pets")
    targets = ("mini-eva-clip", "mini-clip-next")
    made = cb.new_task("pets", target="mini-eva-clip, mini-clip-next,mini-eva-clip")
    suite = suite_cards.read(made.suite.stem)
    assert suite.upgrades == (("mini-clip", targets[0]), ("mini-clip", targets[1]))
    shown = output_of("new-task", "pets", "--target", ",".join(targets), "--replace")
    assert re.search(r"compatbench evaluate .* mini-eva-clip\n", shown)


def test_class_names_and_prompts_come_with_shards(work: Path) -> None:
    """CLIP_benchmark's folders have prompts with {c} for the class, and say what they are."""
    for number in range(2):
        write_shard(work / "pets" / "train" / f"{number}.tar", [0, 1] * 4)
    write_shard(work / "pets" / "test" / "0.tar", [0, 1, 1])
    made = cb.new_task("pets")
    assert (made.kind, made.task.counts) == ("3 tar shards", {"train": 16, "test": 3})
    assert "are numbers" in "\n".join(made.notes)
    (work / "names.txt").write_text("ibex\nfox\n")
    prompts = ["a bad photo of a {c}.", "a photo of a {c}.", "{c}."]
    (work / "pets" / "zeroshot_classification_templates.txt").write_text("\n".join(prompts) + "\n")
    made = cb.new_task("pets", class_names="names.txt", replace=True)
    assert made.task.names == ("ibex", "fox")
    assert made.task.templates == ("a photo of a {}.", "a bad photo of a {}.", "{}.")
    made = cb.new_task("pets", class_names="names.txt", template=["my {}."], replace=True)
    assert made.task.templates == ("my {}.",)
    (work / "pets" / "dataset_type.txt").write_text("retrieval\n")
    with pytest.raises(CompatbenchError, match="says 'retrieval'; a task needs one class"):
        cb.new_task("pets", replace=True)


HUB_PAGE = """\
---
dataset_info:
  features:
  - name: image
    dtype: image
  - name: label
    dtype:
      class_label:
        names:
          '0': Alpine Ibex
          '1': red Fox
---
# Pets
"""


def test_parquet_class_names_come_from_the_hub_page(work: Path) -> None:
    write_rows(work / "pets" / "data" / "train-00000-of-00001.parquet", [0, 1] * 5, names=False)
    write_rows(work / "pets" / "data" / "unlabelled.parquet", [-1, -1])
    made = cb.new_task("pets")
    assert made.task.names == ("0", "1")
    assert "unlabelled.parquet has no labels" in "\n".join(made.notes)
    (work / "pets" / "README.md").write_text(HUB_PAGE)
    assert cb.new_task("pets", replace=True).task.names == NAMES
    (work / "pets" / "README.md").write_text("---\n: [\n---\n")
    assert cb.new_task("pets", replace=True).task.names == ("0", "1")


def columns(**values: list[Any]) -> Spoil:
    """Write a parquet file of these columns."""

    def write_file(pets: Path) -> None:
        pa = pytest.importorskip("pyarrow")
        pq = pytest.importorskip("pyarrow.parquet")
        pq.write_table(pa.table(values), pets / "0.parquet")

    return write_file


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (content("0.parquet", b""), "0.parquet cannot be read: "),
        (content("0.parquet", b"\xff\xff\xff\xff" * 99), "0.parquet cannot be read: "),
        (columns(label=[0, 1]), "no image column found; the columns are label"),
        (columns(image=[b"x"]), "has no column 'label'; it has image"),
        (columns(image=[b"x"], label=[0.5]), "'label' holds neither numbers nor names"),
        (
            columns(image=[{"bytes": b"x"}, {"bytes": None}] * 3, label=[0, 1] * 3),
            "at most its address; put it there, or remove it; of 6 images, these cannot be read: 6",
        ),
    ],
)
def test_unusable_parquet_file_is_refused(work: Path, spoil: Spoil, message: str) -> None:
    pytest.importorskip("pyarrow")
    (work / "pets").mkdir()
    spoil(work / "pets")
    check_refused(work, message)


def test_arrow_files_are_refused_with_advice(work: Path) -> None:
    """``save_to_disk`` writes them."""
    write(work / "pets" / "train" / "state.json", "{}")
    write(work / "pets" / "train" / "data-00000-of-00001.arrow", b"x")
    check_refused(work, r"00001\.arrow: Arrow files are not read; save .*to_parquet")


def test_threads_read_each_group_of_rows_once(work: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_rows(work / "0.parquet", [0, 1] * 6)
    opened: list[Path] = []
    open_parquet = containers.open_parquet

    def open_counted(path: Path) -> Any:
        opened.append(path)
        return open_parquet(path)

    monkeypatch.setattr(containers, "open_parquet", open_counted)
    images, _ = open_container(work, "0.parquet", labelled=False)
    rows = [row for row, _ in images]
    wanted = [row for row in rows[:6] for _ in range(9)]
    with ThreadPoolExecutor(8) as pool:
        contents = list(pool.map(lambda row: row.read(), wanted))
    assert contents == [row.read() for row in wanted]
    assert len(opened) == 1 + 2  # its description, and two groups of three rows


def test_parquet_without_pyarrow_says_how_to_install_it(
    work: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (work / "pets").mkdir()
    (work / "pets" / "0.parquet").write_bytes(b"PAR1")
    monkeypatch.setitem(sys.modules, "pyarrow.parquet", None)
    with pytest.raises(
        CompatbenchError, match="pyarrow reads parquet and is not installed; python -m"
    ):
        cb.new_task("pets")


@pytest.mark.parametrize(
    ("label", "name"),
    [
        ("001.Black_footed_Albatross", "Black footed Albatross"),
        ("AnnualCrop", "Annual Crop"),
        ("polka-dotted", "polka-dotted"),
        ("737-800", "737-800"),
        ("7", "7"),
        ("_", "_"),
    ],
)
def test_label_becomes_natural_class_name(label: str, name: str) -> None:
    assert natural(label) == name


def test_wordnet_folders_get_imagenet_names(work: Path) -> None:
    known = task_cards.read("imagenet")
    for folder, name in zip(known.folders[:2], CLASSES, strict=True):
        (write_folders(work / "all") / name).rename(work / "all" / folder)
    shutil.rmtree(work / "all" / CLASSES[0])
    assert cb.new_task("all").task.names == known.names[:2]


def test_images_outside_the_folder_need_data_root(
    work: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A card names nothing outside its folder, so the printed command does."""
    write_folders(tmp_path / "far away" / "My Pets")
    text = output_of("new-task", tmp_path / "far away" / "My Pets", "--name", "pets")
    folder = f"{tmp_path}/far away/My Pets"
    assert f"--data-root 'pets={folder}'" in text
    for path in work.iterdir():
        assert folder not in path.read_text()
    monkeypatch.setenv("COMPATBENCH_DATA_PETS", "")
    load_again()
    with pytest.raises(CompatbenchError, match="--data-root pets=FOLDER"):
        load_task("pets")
    dataset_folders.set_data_roots([f"pets={folder}"])
    assert len(load_task("pets").split("test")) == 8


def test_command_output_fits_80_columns(work: Path) -> None:
    for number in range(15):
        write_folders(work / "pets", 5)
        (work / "pets" / CLASSES[0]).rename(work / "pets" / f"class {number:02}")
    text = output_of("new-task", "pets", "--shots", "1", "--out", "cards", COLUMNS="80")
    lines = text.splitlines()
    assert "images of 16 classes" in lines[0]
    assert "... and 4 more classes" in lines
    [run, evaluate] = [line for line in lines if line.startswith("  compatbench ")]
    assert "--suite pets-upgrade" in run
    assert run.endswith(f"--cards cards --data-root pets={work}/pets")
    assert "--target mini-eva-clip --cards cards" in evaluate
    table = []
    for line in lines:
        if line.startswith("class ") and "/" not in line:
            table.append(line)
            assert len(line) <= 80
    assert len(table) == 13


def test_doctor_says_how_to_repair_a_new_task(work: Path) -> None:
    write_folders(work / "pets")
    cb.new_task("pets")
    image = work / "pets" / read_rows(work / "pets.yaml")[0]["path"]
    image.unlink()
    report = inspect_task("pets")
    assert (report.state, report.message) == ("wrong", f"{image} is missing")
    again = f"compatbench new-task {work}/pets --name pets --replace"
    assert (
        report.fix == f"put the images back in {work}/pets; or, if the change is intended: {again}"
    )
    output_of(*again.split()[1:])
    assert inspect_task("pets").state == "found"
    (work / "pets").rename(work / "moved")
    report = inspect_task("pets")
    assert (report.state, report.folder) == ("missing", work / "pets")
    assert report.fix == "put the images there, or say where they are: --data-root pets=FOLDER"
    assert "docs/datasets.md" not in f"{report}"


ROW = f"{IBEX}/0.png"


def link(place: str, target: str) -> Spoil:
    return lambda pets: (pets / place).symlink_to(target)


def fill(content: bytes, *numbers: int) -> Spoil:
    """Give some images of a class other content."""

    def write_images(pets: Path) -> None:
        for number in numbers:
            (pets / IBEX / f"{number}.png").write_bytes(content)

    return write_images


def keep_one(pets: Path) -> None:
    for number in range(7):
        (pets / IBEX / f"{number}.png").unlink()


def scan_of(white: int) -> bytes:
    """Return a PNG of 16 bits a pixel, as microscopes and X-ray machines write it."""
    buffer = io.BytesIO()
    Image.fromarray(np.full((8, 8), white, np.uint16)).save(buffer, "PNG")
    return buffer.getvalue()


def flatten(pets: Path) -> None:
    for number, path in enumerate(pets.glob("*/*")):
        path.rename(pets / f"{number}.png")


def empty(pets: Path) -> None:
    for name in CLASSES:
        shutil.rmtree(pets / name)


def without_test(pets: Path) -> None:
    empty(pets)
    for split in ("train", "test"):
        write_folders(pets, 3, split)
    (pets / "test" / IBEX).rename(pets.parent / "away")


# Changes to a folder of images, each with its error.
SPOILED: list[tuple[Spoil, str]] = [
    (rename(IBEX, "-Ibex"), "path '-Ibex/0.png' begins with '-', as a spreadsheet's formula does"),
    (empty, r"holds no image .*expected a folder per class: \w+/CLASS/IMAGE.jpg"),
    (rename(".", "../gone"), "there is no folder or file"),
    (rename(FOX, "../away"), f"has one class, '{IBEX}'"),
    (fill(b"\x89PNG broken", 3), r"3.png cannot be decoded .*or remove it; --skip-broken leaves"),
    (
        fill(b"", 1, 2),
        r"is empty; .*; of 16 images, these cannot be read: 2 images \(Alpine_Ibex/1.png, Alp",
    ),
    (keep_one, f"class '{IBEX}' has 1 image and none to train on"),
    (rename(IBEX, "a\nb"), r"holds 'a\\nb'; rename it"),
    (rename(f"{IBEX}/0.png", f"{IBEX}/a\n.png"), r"'a\\n.png'; rename"),
    (rename(IBEX, "RED FOX"), "'RED FOX' and 'redFox' are both called 'red fox', whatever the cap"),
    (rename(IBEX, "a|b"), r"the class name 'a\|b' cannot be shown in a table"),
    (fill(scan_of(4095), 3), r"3.png cannot be decoded \(it has more than 8 bits a pixel; save"),
    (flatten, "holds 16 images and no class folders"),
    (
        lambda pets: write_folders(pets, 2, "train"),
        f"the folder '{IBEX}' beside train is not a split; .*, or list the images in a CSV",
    ),
    (without_test, f"'{IBEX}' has 3 images and none to test on"),
    (link("x", "/etc"), "is a link out of the dataset's folder"),
    (link("x", FOX), "is a link to a folder; put the folder its"),
    (content("0.tar", b"no tar" * 200), "0.tar cannot be read"),
    (
        lambda pets: [write(pets / f"{name}.csv", "path,label\nx,y\n") for name in "ab"],
        "has several lists, a.csv and b.csv",
    ),
]
# Lists of images.
LISTS: list[tuple[str, str]] = [
    ("a,label\nx,y\n", "name the column of images"),
    ("path,b\nx,y\n", "the columns are path,b"),
    ("path,label\n", "lists no image"),
    ("path,label\n\udcff\udcfe", "cannot be read"),
    ("[1]", "cannot be read"),
    ('{"a": 1}\n{"a"', "cannot be read"),
    (f'{{"path": "{ROW}", "label": null}}', "jsonl:1: label '' of .* is not a class's name"),
    ("path,label\n/etc/x,a\n", "csv:2: path '/etc/x' leaves .*make it one below"),
    ("path,label\nx.png,a\n", "csv:2: there is no file"),
    (f"path,label\n{ROW},\n", "csv:2: label ''"),
    (f"path,label\n{ROW},=1+1\n", "label '=1[+]1' begins with '=', as a spreadsheet's formula"),
    (f"path,label\n{ROW},@a\n", "label '@a' begins with '@', .*; rename it"),
    (f'path,label\n{ROW},"a\nb"\n', r"label 'a\\nb'"),
    (f"path,label\n{ROW},a\n{ROW},b\n", "csv:3: .* in line 2, too"),
]
OPTIONS: list[tuple[dict[str, Any], str]] = [
    ({"shots": 5}, "5 shots: the largest class has 4 training images"),
    ({"shots": 0}, "0 shots: the largest class"),
    ({"name": "mini-food"}, "a task is named 'mini-food'"),
    ({"name": "a/b"}, "'a/b' cannot be a task's name"),
    ({"template": ["a"]}, "field 'templates.0': 'a': give a prompt with {} for the class, once"),
    ({"target": "ViT-B-16/no-such"}, "no-such"),
    ({"target": "ViT-B-99@w.pt"}, "ViT-B-99"),
    ({"target": "hf:nowhere"}, "nowhere"),
    (
        {"target": "mini-eva-clip,mini-klip"},
        "no backbone named 'mini-klip'; did you mean mini-clip",
    ),
    ({"target": "mini-clip"}, "names a backbone twice"),
    ({"test_share": 1.0}, "a share of 1.0 for testing"),
    ({"class_names": "pets/names.txt"}, "has 3 names for 2 classes"),
]


def check_refused(work: Path, message: str, place: str = "pets", **options: Any) -> None:
    """Check that the error is one line with this message, and that nothing is written."""
    before = {path.name for path in work.iterdir()}
    with pytest.raises(CompatbenchError, match=message) as error:
        cb.new_task(place, **{"name": "pets", **options})
    assert "\n" not in str(error.value)
    assert {path.name for path in work.iterdir()} == before
    assert "pets" not in task_cards.names()


@pytest.mark.parametrize("case", [*SPOILED, *LISTS, *OPTIONS], ids=lambda case: case[1])
def test_unusable_images_lists_and_options_are_refused(work: Path, case: tuple[Any, str]) -> None:
    pets = write_folders(work / "pets")
    wrong, message = case
    if callable(wrong):
        wrong(pets)
        check_refused(work, message)
    elif isinstance(wrong, str):
        ending = "jsonl" if wrong[0] in "[{" else "csv"
        name = f"labels.{ending}"
        write(pets / name, wrong.encode(errors="surrogateescape"))
        check_refused(work, message, f"pets/{name}")
    else:
        write(pets / "names.txt", "a\nb\nc\n")
        check_refused(work, message, **wrong)


def test_existing_task_name_is_refused(work: Path) -> None:
    write_folders(work / "pets")
    made = cb.new_task("pets")
    before = made.card.read_bytes()
    for options, message in (
        ({}, r"pets.csv exists; choose another name \(--name\), or replace it"),
        ({"out": "other"}, f"a task is named 'pets' already, {made.card}; choose another name"),
        ({"out": "other", "replace": True}, "a task is named 'pets' already"),
    ):
        with pytest.raises(CompatbenchError, match=message):
            cb.new_task("pets", **options)
    assert made.card.read_bytes() == before
    assert not (work / "other").exists()


def test_failed_write_leaves_old_files_unchanged(
    work: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def files() -> dict[str, bytes]:
        found = {}
        for path in work.iterdir():
            if path.is_file():
                found[path.name] = path.read_bytes()
        return found

    def fail(path: Path) -> Any:
        if path.suffix == ".csv":
            raise CompatbenchError(f"cannot write {path}: No space left on device")
        return open_atomic(path)

    write_folders(work / "pets")
    for replace in (False, True):
        before = files()
        with monkeypatch.context() as patch:
            patch.setattr("compatbench.data.new_task.open_atomic", fail)
            with pytest.raises(CompatbenchError, match="No space"):
                cb.new_task("pets", seed=5, replace=replace)
        assert files() == before
        cb.new_task("pets", replace=replace)
        assert files().keys() == WRITTEN
    (work / "list.txt").touch()
    with pytest.raises(CompatbenchError, match=r"cannot write .*list\.txt is not a folder"):
        cb.new_task("pets", "others", out="list.txt")
    (work / "pets.csv").unlink()
    (work / "pets.csv").mkdir()
    with pytest.raises(CompatbenchError, match="cannot write"):
        cb.new_task("pets", replace=True)


def test_cards_beside_images_never_replace_the_list_they_are_made_from(
    work: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(write_folders(work / "My pets"))
    made = cb.new_task(".", "pets")
    assert (made.card.parent, made.data_root) == (work / "My pets", "")
    check_reads_back(made)
    before = made.card.with_suffix(".csv").read_bytes()
    assert cb.new_task(".", "pets", replace=True).card.with_suffix(".csv").read_bytes() == before
    mine = work / "My pets" / "mine.csv"
    mine.write_bytes(before)
    with pytest.raises(CompatbenchError, match="would be replaced; choose another name"):
        cb.new_task("mine.csv", "mine", replace=True)
    assert mine.read_bytes() == before


def test_lists_of_other_tasks_are_not_lists_of_the_user(
    work: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(write_folders(work / "pets"))
    first = cb.new_task(".", "first")
    second = cb.new_task(".", "second")
    assert first.kind == second.kind == "class folders"
    # A list beside other YAML is one of the user.
    Path("mine.csv").write_bytes(first.card.with_suffix(".csv").read_bytes())
    Path("mine.yaml").write_text("names: [ibex, fox]\n")
    assert cb.new_task(".", "third").kind == "the list mine.csv"


def test_class_may_be_named_train(work: Path) -> None:
    pets = write_folders(work / "pets", 4)
    (pets / IBEX).rename(pets / "train")
    made = cb.new_task("pets")
    assert made.kind == "class folders"
    assert made.task.names == ("red Fox", "train")
    check_reads_back(made)


@pytest.mark.slow
def test_commands_for_own_images_on_the_datasets_page_work(work: Path) -> None:
    """Run the page's commands in their order on the folders that it describes."""
    page = (Path(__file__).parents[2] / "docs" / "datasets.md").read_text(encoding="utf-8")
    blocks = re.findall(r"(?ms)^```sh\n(.*?)^```", page)
    assert len(blocks[0].splitlines()) == 3
    write_folders(work / "photos", 40)
    rows = ["path,label"]
    for name in CLASSES:
        rows += [f"{name}/{n}.png,{name}" for n in range(4)]
    birds = write_folders(work / "birds")
    (birds / "labels.csv").write_text("\n".join(rows))
    write_shard(work / "shards" / "train" / "0.tar", [0, 1] * 4)
    write_shard(work / "shards" / "test" / "0.tar", [0, 1] * 4)
    write_rows(work / "hub" / "data" / "train-00000-of-00001.parquet", [0, 1] * 4)
    shown = ""
    for line in "".join(blocks).splitlines():
        command, *words = shlex.split(line)
        assert command == "compatbench"
        arguments: list[object] = []
        for word in words:
            if "*" in word:
                arguments += work.glob(word)
            else:
                arguments.append(word)
        if words[0] == "run":
            arguments += ["--jobs", "1"]
        load_again()
        shown += output_of(*arguments, COLUMNS="80", COMPATBENCH_CARDS="")
    # The first command shows the two that follow it on the page.
    for line in blocks[0].splitlines()[1:]:
        assert f"  {line}\n" in shown
    assert "mini-eva-clip: " in shown
    assert re.search(r"^more-photos +More-photos +task +2 +40 +40", shown, re.MULTILINE)
    for name in ("photos", "photos-b16", "photos-4", "birds", "shards", "hub", "cards/more-photos"):
        assert (work / f"{name}.yaml").is_file()


def test_new_task_is_accepted_as_its_name_and_fit_takes_the_shots_that_it_has(
    tmp_path: Path,
) -> None:
    write_folders(tmp_path / "pets")
    made = cb.new_task(tmp_path / "pets", out=tmp_path, shots=1)
    for task, suite in ((made, None), ("pets", "pets-upgrade"), (made, "pets-upgrade")):
        module = cb.fit("tip_adapter", task, "mini-clip", suite=suite)
        assert module.about["task"] == "pets"
        assert module.about["shots"] == 1
    assert cb.evaluate(module, "mini-eva-clip", made).test_set == "pets"
    assert cb.tasks(made)["name"].tolist() == ["pets"]  # pyright: ignore[reportArgumentType]
    assert load_task(made).name == "pets"
    assert cb.plan(methods=["zeroshot"], tasks=made, seeds=1).suite.name == "pets-upgrade"
    with pytest.raises(
        CompatbenchError, match=r"'16': no task here has .* per class; try shots=2$"
    ):
        cb.fit("tip_adapter", "pets", "mini-clip")
