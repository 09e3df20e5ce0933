"""Tasks made of anybody's images: what is found, what is written, and what is refused."""

from __future__ import annotations

import csv
import re
import shlex
import shutil
import sys
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from command_line import invoke, output_of
from data.conftest import load_again
from data.small_layouts import CLASSES, NAMES, write_folders, write_parquet, write_shard

import compatbench as cb
from compatbench.data import dataset_folders
from compatbench.data.cards import suite_cards, task_cards
from compatbench.data.images.dataset_files import BrokenImages
from compatbench.data.layouts import containers
from compatbench.data.layouts.containers import open_container
from compatbench.data.new_task import NewTask
from compatbench.data.new_task_choices import natural
from compatbench.data.task import inspect_task, load_task
from compatbench.errors import CompatbenchError

WRITTEN = {"pets.yaml", "pets.csv", "pets-upgrade.yaml"}


@pytest.fixture
def work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty current folder, in which nothing is known of earlier tasks."""
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    monkeypatch.setenv("COMPATBENCH_CARDS", "")
    monkeypatch.setenv("COMPATBENCH_DATA_PETS", "")
    monkeypatch.delenv("COMPATBENCH_DATA", raising=False)
    return tmp_path / "work"


def read_rows(path: Path) -> list[dict[str, str]]:
    with path.with_suffix(".csv").open(newline="") as file:
        return list(csv.DictReader(file))


def check_reads_back(made: NewTask) -> None:
    """The card loads, with the images that were counted, and each of them has its label."""
    load_again()
    task = load_task(made.task.name)
    for split, counts in made.images.items():
        samples = task.source.samples[split]
        assert Counter(sample.label for sample in samples) == counts
        assert [*map(task.source.image, samples)] != [] or not samples
    assert inspect_task(task.name).state == "found"
    assert suite_cards.read(made.suite.stem).tasks == (task.name,)


def test_class_folders_are_split_by_a_seed(work: Path) -> None:
    """Every class by itself; the same images for the same seed, in whatever order they lie."""
    write_folders(work / "pets", 9)
    (work / "pets" / "notes.txt").write_text("no image")
    (work / "pets" / "lynx").mkdir()
    made = cb.new_task("pets")
    assert "folders without an image are no classes: lynx" in made.notes
    assert {path.name for path in work.iterdir()} == WRITTEN | {"pets"}
    assert made.task.names == ("Alpine Ibex", "red Fox")
    assert made.images["train"] == {0: 5, 1: 5}
    assert made.images["test"] == {0: 4, 1: 4}
    assert (made.shots, made.data_root, made.decoded) == (2, "", 18)
    assert made.frame["train"].tolist() == [5, 5]
    rows = read_rows(made.card)
    assert all(row["path"].split("/")[0] == row["label"] for row in rows)
    check_reads_back(made)
    first = (work / "pets.csv").read_bytes()
    assert read_rows(cb.new_task("pets", seed=2, replace=True).card) != rows
    cb.new_task("pets", replace=True)
    assert (work / "pets.csv").read_bytes() == first
    assert cb.new_task("pets", test_share=0.2, replace=True).images["test"] == {0: 2, 1: 2}


@pytest.mark.parametrize(
    ("splits", "kept"),
    [
        (("train", "test"), {"train": 8, "test": 6}),
        (("Training", "validation", "TEST"), {"train": 8, "val": 4, "test": 6}),
        (("train", "val"), {"train": 8, "test": 4}),
        (("train",), {"train": 4, "test": 4}),
    ],
)
def test_splits_that_are_there_are_kept(
    work: Path, splits: tuple[str, ...], kept: dict[str, int]
) -> None:
    sizes = {"train": 4, "training": 4, "validation": 2, "val": 2, "test": 3}
    for split in splits:
        write_folders(work / "pets" / "images", sizes[split.lower()], split)
    made = cb.new_task("pets", "pets")
    assert made.task.counts == kept
    check_reads_back(made)


def test_a_list_says_paths_labels_and_splits(work: Path) -> None:
    folder = write_folders(work / "pets" / "images") and work / "pets"
    lines = [f"images/{name}/{n}.png" for name in CLASSES for n in range(8)]
    table = [f"{path},{'ibex' if 'Ibex' in path else 'a, fox'!r}" for path in lines]
    text = "\n".join(["File_Name,class", *table]).replace("'a, fox'", '"a, fox"')
    (folder / "labels.csv").write_text(f"{text}\n".replace("'", ""), encoding="utf-8-sig")
    for given in (folder, folder / "labels.csv"):
        made = cb.new_task(given, replace=True)
        assert made.task.names == ("a, fox", "ibex")
        assert made.kind == "the list labels.csv"
        check_reads_back(made)
    parts = ["train", "Test"] * 8
    rows = [
        f"{path}\t{path.split('/')[1]}\t{part}" for path, part in zip(lines, parts, strict=True)
    ]
    (folder / "labels.csv").unlink()
    (folder / "labels.tsv").write_text("\n".join(["image\tlabel\tsplit", *rows]))
    made = cb.new_task(folder, replace=True)
    assert made.task.counts == {"train": 8, "test": 8}
    check_reads_back(made)


def test_shards_bring_names_and_prompts(work: Path) -> None:
    """CLIP_benchmark's folders have prompts with {c} for the class, and say what they are."""
    for number in range(2):
        write_shard(work / "pets" / "train" / f"{number}.tar", [0, 1] * 4)
    write_shard(work / "pets" / "test" / "0.tar", [0, 1, 1])
    made = cb.new_task("pets")
    assert (made.kind, made.task.counts) == ("3 tar shards", {"train": 16, "test": 3})
    assert any("are numbers" in note for note in made.notes)
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


def test_names_of_parquet_s_labels_are_those_of_the_hub_s_page(work: Path) -> None:
    write_parquet(work / "pets" / "data" / "train-00000-of-00001.parquet", [0, 1] * 5, names=False)
    write_parquet(work / "pets" / "data" / "unlabelled.parquet", [-1, -1])
    made = cb.new_task("pets")
    assert made.task.names == ("0", "1")
    assert any("unlabelled.parquet has no labels" in note for note in made.notes)
    (work / "pets" / "README.md").write_text(HUB_PAGE)
    assert cb.new_task("pets", replace=True).task.names == NAMES
    (work / "pets" / "README.md").write_text("---\n: [\n---\n")
    assert cb.new_task("pets", replace=True).task.names == ("0", "1")


def test_parquet_rows_are_read_once_for_all_threads_and_one_without_image_is_broken(
    work: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_parquet(work / "0.parquet", [0, 1] * 6)
    opened, really = list[Path](), containers.open_parquet
    monkeypatch.setattr(
        containers, "open_parquet", lambda path: opened.append(path) or really(path)
    )

    rows = [row for row, _ in open_container(work, "0.parquet", labelled=False)[0]]
    with ThreadPoolExecutor(8) as pool:
        images = list(pool.map(lambda i: rows[i // 9].read(), range(9 * 6)))
    assert images == [rows[i // 9].read() for i in range(9 * 6)]
    assert len(opened) == 1 + 2  # its description, and two groups of three rows
    pa, pq = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    pq.write_table(pa.table({"image": [b"x", None], "label": [0, 1]}), work / "1.parquet")
    with pytest.raises(BrokenImages, match=r"1.parquet/1 holds no image"):
        open_container(work, "1.parquet")[0][1][0].read()


def test_parquet_without_pyarrow_is_one_line(work: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (work / "pets").mkdir()
    (work / "pets" / "0.parquet").write_bytes(b"PAR1")
    monkeypatch.setitem(sys.modules, "pyarrow.parquet", None)
    with pytest.raises(CompatbenchError, match="pyarrow reads parquet and is not here; python -m"):
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
def test_a_label_becomes_a_natural_name(label: str, name: str) -> None:
    assert natural(label) == name


def test_folders_of_wordnet_ids_have_imagenet_s_names(work: Path) -> None:
    known = task_cards.read("imagenet")
    for folder, name in zip(known.folders[:2], CLASSES, strict=True):
        (write_folders(work / "all") / name).rename(work / "all" / folder)
    write_folders(work / "all", 1)
    for name in CLASSES:
        shutil.rmtree(work / "all" / name)
    assert cb.new_task("all").task.names == known.names[:2]


def test_images_that_lie_elsewhere_are_named_by_an_option(
    work: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A card names nothing outside its folder, so the command that is shown does."""
    write_folders(tmp_path / "far away" / "My Pets")
    text = output_of("new-task", tmp_path / "far away" / "My Pets", "--name", "pets")
    folder = f"{tmp_path}/far away/My Pets"
    assert f"--data-root 'pets={folder}'" in text
    assert folder not in "".join(p.read_text() for p in work.iterdir())
    monkeypatch.setenv("COMPATBENCH_DATA_PETS", "")
    load_again()
    with pytest.raises(CompatbenchError, match="--data-root pets=FOLDER"):
        load_task("pets")
    dataset_folders.set_data_roots([f"pets={folder}"])
    assert len(load_task("pets").split("test")) == 8


def test_the_command_shows_what_it_found_on_80_columns(work: Path) -> None:
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
    assert "--backbone mini-eva-clip --cards cards" in evaluate
    table = [line for line in lines if line.startswith("class ") and "/" not in line]
    assert len(table) == 13
    assert max(map(len, table)) <= 80


def test_the_doctor_s_advice_is_about_the_folder(work: Path) -> None:
    write_folders(work / "pets")
    cb.new_task("pets")
    image = work / "pets" / read_rows(work / "pets.yaml")[0]["path"]
    image.unlink()
    report = inspect_task("pets")
    assert (report.state, report.message) == ("wrong", f"{image} is missing")
    again = f"compatbench new-task {work}/pets --name pets --replace"
    assert (
        report.fix
        == f"put the images back in {work}/pets; or, if it is meant to be so now: {again}"
    )
    output_of(*again.split()[1:])
    assert inspect_task("pets").state == "found"
    (work / "pets").rename(work / "moved")
    report = inspect_task("pets")
    assert (report.state, report.folder) == ("missing", work / "pets")
    assert report.fix == "put the images there, or say where they are: --data-root pets=FOLDER"
    assert "docs/datasets.md" not in f"{report}"


def spoil_list(text: str) -> Callable[[Path], object]:
    return lambda pets: (pets / "labels.csv").write_bytes(text.encode(errors="surrogateescape"))


def link(place: str, target: str) -> Callable[[Path], object]:
    return lambda pets: (pets / place).symlink_to(target)


def rename(old: str, new: str) -> Callable[[Path], object]:
    return lambda pets: (pets / old).rename(pets / new)


def empty(pets: Path) -> None:
    for path in (*pets.glob("*/*"), *pets.glob("*")):
        path.unlink() if path.is_file() else path.rmdir()


def without_test(pets: Path) -> None:
    for path in pets.glob("*"):
        path.rename(pets.parent / path.name)
    for split in ("train", "test"):
        write_folders(pets, 3, split)
    (pets / "test" / CLASSES[0]).rename(pets.parent / "away")


def cut_shard(pets: Path) -> None:
    path = write_shard(pets / "0.tar", [0, 1] * 4)
    path.write_bytes(path.read_bytes()[:1700])


IBEX, FOX = CLASSES
LIST = {"list": True}  # the list itself is given, not its folder
ROW = f"{IBEX}/0.png"


def fill(content: bytes | None, *numbers: int) -> Callable[[Path], object]:
    """Images of a class with other content, or none."""

    def spoil(pets: Path) -> None:
        for path in (pets / IBEX / f"{number}.png" for number in numbers):
            path.unlink() if content is None else path.write_bytes(content)

    return spoil


def same(pets: Path) -> None:
    """Nothing is wrong with the folder."""


# What is done to a folder of images, the options besides, and what is said.
BAD: dict[str, tuple[Callable[[Path], object], dict[str, Any], str]] = {
    "empty folder": (empty, {}, "holds no image"),
    "no folder": (rename(".", "../gone"), {}, "there is no folder or file"),
    "one class": (rename(FOX, "../away"), {}, f"has one class, '{IBEX}'"),
    "damaged image": (fill(b"\x89PNG broken", 3), {}, r"3.png cannot be decoded .*or remove it$"),
    "empty images": (fill(b"", 1, 2), {}, r"is empty; .*; and 1 more of 16"),
    "too few for the shots": (same, {"shots": 5}, f"5 shots: class '{FOX}|{IBEX}'"),
    "no shots": (same, {"shots": 0}, "0 shots: class"),
    "one image": (fill(None, *range(7)), {}, f"class '{IBEX}' has 1 image and none to train on"),
    "newline in a class": (rename(IBEX, "a\nb"), {}, r"holds 'a\\nb'; rename it"),
    "newline in an image": (rename(f"{IBEX}/0.png", f"{IBEX}/a\n.png"), {}, r"'a\\n.png'; rename"),
    "classes of one name": (rename(IBEX, "red_Fox"), {}, "are both called 'red Fox'"),
    "images without folders": (
        lambda pets: [path.rename(pets / f"{n}.png") for n, path in enumerate(pets.glob("*/*"))],
        {},
        "holds 16 images and no class folders",
    ),
    "something beside splits": (
        lambda pets: write_folders(pets, 2, "train"),
        {},
        f"beside train lies '{IBEX}', which is no split",
    ),
    "a class that is not tested": (without_test, {}, f"'{IBEX}' has 3 images and none to test on"),
    "link to a file outside": (link(f"{IBEX}/x.png", "/etc/passwd"), {}, "is a link out of"),
    "link to a folder outside": (link("x", "/etc"), {}, "is a link out of the dataset's folder"),
    "link to a folder inside": (link("x", FOX), {}, "is a link to a folder; put the folder its"),
    "list without paths": (spoil_list("a,label\nx,y\n"), LIST, "call that of the images"),
    "list without labels": (spoil_list("path,b\nx,y\n"), LIST, "the columns are path,b"),
    "empty list": (spoil_list("path,label\n"), LIST, "lists no image"),
    "list that is no text": (spoil_list("path,label\n\udcff\udcfe"), LIST, "cannot be read"),
    "row of three": (spoil_list("path,label\na,b,c\n"), LIST, "Expected 2 fields in line 2, saw 3"),
    "absolute path": (spoil_list("path,label\n/etc/x,a\n"), {}, "csv:2: path '/etc/x' leaves"),
    "path that leaves": (spoil_list("path,label\n../x,a\n"), {}, "csv:2: .*make it one below"),
    "path that is not there": (spoil_list("path,label\nx.png,a\n"), {}, "csv:2: there is no file"),
    "row without a label": (spoil_list(f"path,label\n{ROW},\n"), {}, "csv:2: label ''"),
    "label with a newline": (spoil_list(f'path,label\n{ROW},"a\nb"\n'), {}, r"label 'a\\nb'"),
    "split of no name": (
        spoil_list(f"path,label,split\n{ROW},a,later\n"),
        {},
        "split 'later' is none of train",
    ),
    "image twice": (spoil_list(f"path,label\n{ROW},a\n{ROW},b\n"), {}, "csv:3: .* in line 2, too"),
    "two lists": (
        lambda pets: [(pets / f"{n}.csv").write_text("path,label\nx,y\n") for n in "ab"],
        {},
        "has several lists, a.csv and b.csv",
    ),
    "broken shard": (cut_shard, {}, "0.tar cannot be read"),
    "shard that is none": (
        lambda pets: (pets / "0.tar").write_bytes(b"no tar" * 200),
        {},
        "0.tar cannot be read",
    ),
    "name that is taken": (same, {"name": "mini-food"}, "a task is named 'mini-food'"),
    "name that is none": (same, {"name": "a/b"}, "'a/b' cannot be a task's name"),
    "template without a place": (same, {"template": ["a"]}, "field 'templates.0'"),
    "unknown backbone": (same, {"target": "mini-eva"}, "did you mean mini-eva-clip"),
    "one backbone": (same, {"target": "mini-clip"}, "names a backbone twice"),
    "share of all": (same, {"test_share": 1.0}, "a share of 1.0 for testing"),
    "names of other classes": (
        lambda pets: (pets.parent / "names.txt").write_text("a\nb\nc\n"),
        {"class_names": "names.txt"},
        "has 3 names for 2 classes",
    ),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_one_line_and_nothing_is_written(work: Path, case: str) -> None:
    spoil, options, message = BAD[case]
    pets = write_folders(work / "pets")
    spoil(pets)
    before = {path.name for path in work.iterdir()}
    given = pets / "labels.csv" if (options := dict(options)).pop("list", False) else pets
    with pytest.raises(CompatbenchError, match=message) as error:
        cb.new_task(given, **{"name": "pets", **options})
    assert "\n" not in str(error.value)
    assert {path.name for path in work.iterdir()} == before
    assert "pets" not in task_cards.names()


def test_two_tasks_of_one_name_are_refused(work: Path) -> None:
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


def test_what_cannot_be_written_leaves_things_as_they_were(
    work: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from compatbench.data import new_task as module

    write = module.write_atomic

    def fail(path: Path, content: bytes) -> None:
        if "upgrade" in path.name:
            raise CompatbenchError(f"cannot write {path}: No space left on device")
        write(path, content)

    write_folders(work / "pets")
    for replace in (False, True):
        before = {path.name: path.read_bytes() for path in work.iterdir() if path.is_file()}
        with monkeypatch.context() as patch:
            patch.setattr(module, "write_atomic", fail)
            with pytest.raises(CompatbenchError, match="No space"):
                cb.new_task("pets", seed=5, replace=replace)
        after = {path.name: path.read_bytes() for path in work.iterdir() if path.is_file()}
        assert after == before
        cb.new_task("pets", replace=replace)
        assert {path.name for path in work.iterdir()} == WRITTEN | {"pets"}
    (work / "list.txt").touch()
    with pytest.raises(CompatbenchError, match=r"cannot write .*list\.txt is no folder"):
        cb.new_task("pets", "others", out="list.txt")
    (work / "pets.csv").unlink()
    (work / "pets.csv").mkdir()
    with pytest.raises(CompatbenchError, match="cannot write"):
        cb.new_task("pets", replace=True)


def test_the_folder_may_be_the_current_one(work: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(write_folders(work / "My pets"))
    made = cb.new_task(".", "pets")
    assert (made.card.parent, made.data_root) == (work / "My pets", "")
    check_reads_back(made)
    first = read_rows(made.card)
    assert read_rows(cb.new_task(".", "pets", replace=True).card) == first


def test_a_list_is_never_replaced_by_itself(work: Path) -> None:
    write_folders(work / "pets" / "images")
    rows = [f"images/{name}/{n}.png,{name}" for name in CLASSES for n in range(8)]
    (work / "pets" / "pets.csv").write_text("\n".join(["path,label", *rows]))
    before = (work / "pets" / "pets.csv").read_bytes()
    with pytest.raises(CompatbenchError, match="would be replaced; choose another name"):
        cb.new_task("pets/pets.csv", out="pets", replace=True)
    assert (work / "pets" / "pets.csv").read_bytes() == before


@pytest.mark.slow
def test_from_a_folder_of_images_to_a_verdict_in_three_commands(work: Path) -> None:
    """Those that the command shows, word for word."""
    write_folders(work / "pets", 20)
    text = output_of("new-task", "pets")
    run, evaluate = (line.split()[1:] for line in text.splitlines() if line.startswith("  compat"))
    assert "Tip-Adapter" in output_of(*run, "--jobs", "1")
    [module] = work.glob(evaluate[1])
    assert "The module " in output_of("evaluate", module, *evaluate[2:])
    assert invoke("doctor", "--suite", "pets-upgrade").exit_code == 0


@pytest.mark.slow
def test_the_page_on_own_data_is_true(work: Path) -> None:
    """Its commands, in its order, on what it says that one has."""
    page = (Path(__file__).parents[2] / "docs" / "own-data.md").read_text(encoding="utf-8")
    blocks = re.findall(r"(?ms)^```sh\n(.*?)^```", page)
    assert len(blocks[0].splitlines()) == 3
    write_folders(work / "photos", 40)
    rows = [f"{name}/{n}.png,{name}" for name in CLASSES for n in range(4)]
    (write_folders(work / "birds") / "labels.csv").write_text("\n".join(["path,label", *rows]))
    write_shard(work / "shards" / "train" / "0.tar", [0, 1] * 4)
    write_shard(work / "shards" / "test" / "0.tar", [0, 1] * 4)
    write_parquet(work / "hub" / "data" / "train-00000-of-00001.parquet", [0, 1] * 4)
    shown = ""
    for line in "".join(blocks).splitlines():
        command, *words = shlex.split(line)
        assert command == "compatbench"
        given = [one for word in words for one in ("*" in word and [*work.glob(word)]) or [word]]
        load_again()
        shown += output_of(
            *given,
            *(["--jobs", "1"] if words[0] == "run" else []),
            COLUMNS="80",
            COMPATBENCH_CARDS="",
        )
    assert "The module " in shown
    assert re.search(r"^more-photos +More-photos +task +2 +40 +40", shown, re.MULTILINE)
    for name in ("photos", "photos-b16", "photos-4", "birds", "shards", "hub", "cards/more-photos"):
        assert (work / f"{name}.yaml").is_file()
