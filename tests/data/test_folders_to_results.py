"""From folders on a disk to results: the doctor, the plan and a run, on each layout."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml
from data.conftest import SetUp, invoke
from data.trees import Sizes, Tree

from compatbench.backbone.load import read_backbone
from compatbench.errors import CompatbenchError
from compatbench.files.project_folders import tasks_folder
from compatbench.results.store import read_results

METHODS = "zeroshot,tip_adapter"


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COMPATBENCH_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")


def write_suite(folder: Path, **values: object) -> str:
    """A suite of one shot and two steps."""
    suite = {
        "name": "whole",
        "title": "Whole",
        "upgrades": [["mini-clip", "mini-eva-clip"]],
        "shots": [1],
        "seeds": [1],
        "training": {"max_steps": 2},
    }
    (folder / "whole.yaml").write_text(yaml.safe_dump(suite | values), encoding="utf-8")
    return str(folder / "whole.yaml")


@pytest.mark.slow
def test_datasets_run_from_their_folders_to_the_leaderboard(
    data: dict[str, Tree], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COMPATBENCH_DATA", "/nowhere")  # --data-root comes first
    names = ["eurosat", "fgvc_aircraft", "dtd"]
    suite = write_suite(tmp_path, tasks=names)
    root = ["--data-root", str(data["dtd"].folder.parent)]
    doctor = invoke("doctor", "--suite", suite, *root)
    assert doctor.exit_code == 0, doctor.output
    assert all(f"found {name} " in doctor.output for name in names)
    run = invoke("run", "--suite", suite, "--methods", METHODS, "--out", str(tmp_path), *root)
    assert run.exit_code == 0, run.output
    for method in read_results(tmp_path / "results" / "whole").methods.values():
        measured = {(row.test_set, row.backbone): row for row in method.rows.itertuples()}
        assert set(measured) == {(t, b) for t in names for b in ("mini-clip", "mini-eva-clip")}
        for (test_set, _), row in measured.items():
            assert (row.status, row.total) == ("ok", data[test_set].counts["test"])


def change_split(tree: Tree, change: Callable[[list[list[object]]], None]) -> None:
    path = next(tree.folder.glob("split_zhou_*.json"))
    split = json.loads(path.read_text(encoding="utf-8"))
    for rows in split.values():
        change(rows)
    path.write_text(json.dumps(split), encoding="utf-8")


def lose_the_split(tree: Tree) -> None:
    next(tree.folder.glob("split_zhou_*.json")).unlink()


def swap_two_classes(tree: Tree) -> None:
    def swap(rows: list[list[object]]) -> None:
        for row in rows:
            row[1] = {0: 1, 1: 0}.get(int(str(row[1])), row[1])

    change_split(tree, swap)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("spoil", "says"),
    [(lose_the_split, "split_zhou_EuroSAT.json"), (swap_two_classes, "Annual Crop Land")],
)
def test_a_damaged_dataset_is_one_line_of_run_plan_and_doctor(
    spoil: Callable[[Tree], None], says: str, set_up: SetUp, tmp_path: Path
) -> None:
    spoil(set_up("eurosat")["eurosat"])
    suite = write_suite(tmp_path, tasks=["eurosat"])
    arguments = ["--suite", suite, "--methods", METHODS, "--out", str(tmp_path / "out")]
    with pytest.raises(CompatbenchError) as error:
        invoke("run", *arguments)
    assert says in str(error.value)
    assert "compatbench doctor" in str(error.value)
    assert "\n" not in str(error.value)
    assert not (tmp_path / "out").exists()
    doctor = invoke("doctor", "--suite", suite)
    assert (doctor.exit_code, "wrong eurosat" in doctor.output) == (1, True)
    assert "fix: " in doctor.output
    assert "missing images of eurosat" in invoke("plan", *arguments).output


def test_a_missing_image_is_named_by_the_doctor(set_up: SetUp) -> None:
    tree = set_up("eurosat")["eurosat"]
    name = tree.rows["test"][0][0]
    (tree.folder / "2750" / name).unlink()
    doctor = invoke("doctor", "--task", "eurosat")
    assert (doctor.exit_code, name in doctor.output) == (1, True)


def test_an_unreadable_folder_is_one_line(
    set_up: SetUp, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = set_up("eurosat")["eurosat"].folder
    allowed = os.access
    monkeypatch.setattr(
        os, "access", lambda path, mode: Path(path) != folder and allowed(path, mode)
    )
    with pytest.raises(CompatbenchError, match=str(folder)) as error:
        invoke("run", "--suite", write_suite(tmp_path, tasks=["eurosat"]), "--out", str(tmp_path))
    assert "\n" not in str(error.value)


@pytest.mark.slow
def test_results_stay_when_images_are_damaged_or_gone(
    set_up: SetUp, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tree = set_up("eurosat", sizes=Sizes(pictures=True))["eurosat"]
    suite = write_suite(tmp_path, tasks=["mini-weather", "eurosat"])
    arguments = ["--suite", suite, "--out", str(tmp_path), "--methods", "zeroshot"]
    assert invoke("run", *arguments, "--tasks", "mini-weather").exit_code == 0
    results = tmp_path / "results" / "whole" / "zeroshot.csv"
    before = results.read_bytes()
    for name, _ in tree.rows["test"]:
        image = tree.folder / "2750" / name
        image.write_bytes(image.read_bytes()[:200])
    with pytest.raises(CompatbenchError, match=r"\.jpg") as error:
        invoke("run", *arguments)
    assert "\n" not in str(error.value)
    assert results.read_bytes() == before
    monkeypatch.setenv("COMPATBENCH_DATA", str(tmp_path / "nowhere"))
    assert invoke("run", *arguments, "--skip-missing").exit_code == 0
    assert results.read_bytes() == before


@pytest.mark.slow
@pytest.mark.parametrize(
    ("backbone", "message"),
    [
        ("ViT-B-16/openai", "ViT-B-16-quickgelu"),
        ("vit-b16-openai", "not on this machine"),
        ("ViT-B-16@{weights}", "ViT-B-16"),
    ],
)
def test_a_backbone_that_cannot_be_had_is_one_line(
    backbone: str, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setenv("HOME", str(tmp_path))
    name = backbone.format(weights=tasks_folder() / str(read_backbone("mini-clip").weights))
    suite = write_suite(tmp_path, upgrades=[[name, "mini-eva-clip"]], tasks=["mini-weather"])
    with pytest.raises(CompatbenchError, match=message) as error:
        invoke("run", "--suite", suite, "--methods", METHODS, "--out", str(tmp_path / "out"))
    assert "\n" not in str(error.value)
    assert invoke("doctor", "--suite", suite).exit_code == 1


@pytest.mark.slow
def test_tasks_whose_images_are_here_run_when_the_rest_is_skipped(
    set_up: SetUp, tmp_path: Path
) -> None:
    set_up("eurosat", sizes=Sizes(pictures=True))
    suite = write_suite(tmp_path, tasks=["eurosat", "dtd"])
    arguments = ["--suite", suite, "--methods", "tip_adapter", "--out", str(tmp_path)]
    with pytest.raises(CompatbenchError, match="dtd"):
        invoke("run", *arguments)
    run = invoke("run", *arguments, "--skip-missing")
    assert run.exit_code == 0
    assert "missing images of dtd" in run.output
    [method] = read_results(tmp_path / "results" / "whole").methods.values()
    assert set(method.rows["task"]) == {"eurosat"}
    assert "no mean is given" in run.output
