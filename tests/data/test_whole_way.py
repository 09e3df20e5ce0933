"""From folders on a disk to a leaderboard: the doctor, the draws, two methods on each dataset."""

from __future__ import annotations

import json
import os
import random
from collections.abc import Callable
from pathlib import Path

import open_clip
import pytest
import torch
import yaml
from data.conftest import SetUp
from data.trees import BUILDERS, TASKS, VARIANTS, Sizes, Tree, write_cards
from safetensors.torch import save_file
from typer.testing import CliRunner, Result

from compatbench.backbone.load import read_backbone
from compatbench.cli.app import app
from compatbench.data.draws import draw_shots
from compatbench.data.task import load_task
from compatbench.errors import CompatbenchError
from compatbench.results.store import read_results

METHODS = "coop,tip_adapter"


def invoke(*arguments: str) -> Result:
    result = CliRunner().invoke(app, list(arguments), env={"COLUMNS": "200"})
    if result.exception and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COMPATBENCH_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")


def write_suite(folder: Path, **values: object) -> Path:
    """A suite of one shot and two steps."""
    path = folder / "whole.yaml"
    suite = {
        "name": "whole",
        "title": "Whole",
        "upgrades": [["mini-clip", "mini-eva-clip"]],
        "shots": [1],
        "seeds": [1],
        "training": {"max_steps": 2},
    }
    path.write_text(yaml.safe_dump(suite | values), encoding="utf-8")
    return path


def write_random_backbone(folder: Path, seed: int) -> str:
    """A tiny CLIP of random weights in a folder of its own, as open_clip reads one."""
    config = {
        "embed_dim": 16,
        "vision_cfg": {
            "image_size": 32,
            "layers": 1,
            "width": 32,
            "head_width": 16,
            "patch_size": 16,
        },
        "text_cfg": {
            "context_length": 77,
            "vocab_size": 49408,
            "width": 32,
            "heads": 2,
            "layers": 1,
        },
    }
    folder.mkdir()
    (folder / "open_clip_config.json").write_text(
        json.dumps({"model_cfg": config, "preprocess_cfg": {"size": 32}}), encoding="utf-8"
    )
    torch.manual_seed(seed)
    state = open_clip.CLIP(**config).state_dict()
    save_file(
        {name: tensor.contiguous() for name, tensor in state.items()},
        folder / "open_clip_model.safetensors",
    )
    return f"local-dir:{folder}"


def test_every_dataset_runs_from_its_folder_to_the_leaderboard(
    trees: dict[str, Tree], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cards = write_cards(tmp_path / "tasks", trees.values())
    monkeypatch.setenv("COMPATBENCH_TASKS", str(cards))
    monkeypatch.setenv("COMPATBENCH_DATA", "/nowhere")  # --data-root comes first
    root = str(trees["dtd"].folder.parent)
    pair = [write_random_backbone(tmp_path / f"clip-{seed}", seed) for seed in (0, 1)]
    suite = write_suite(
        tmp_path,
        upgrades=[pair],
        tasks=list(TASKS),
        variants=list(VARIANTS),
    )

    doctor = invoke("doctor", "--suite", str(suite), "--data-root", root)
    assert doctor.exit_code == 0, doctor.output
    assert all(f"found {name} " in doctor.output for name in BUILDERS)

    for name in TASKS:
        # Independently: one image per class in the order of first appearance, then validation.
        stream = random.Random(1)
        rows = trees[name].rows
        expected = {split: draw(rows.get(split, []), stream) for split in ("train", "val")}
        drawn = draw_shots(load_task(name), 1, 1)
        assert [sample.id for sample in drawn.train] == expected["train"]
        if name != "imagenet":  # which has no validation images of its own
            assert [sample.id for sample in drawn.val] == expected["val"]

    arguments = ["--suite", str(suite), "--data-root", root, "--out", str(tmp_path)]
    run = invoke("run", *arguments, "--methods", METHODS, "--jobs", "1")
    assert run.exit_code == 0, run.output
    for method in read_results(tmp_path / "results" / "whole").methods.values():
        measured = {(row.test_set, row.backbone): row for row in method.rows}
        assert set(measured) == {(t, b) for t in BUILDERS for b in pair}
        for (test_set, _), row in measured.items():
            assert row.status == "ok"
            assert row.total == trees[test_set].counts["test"]


def draw(rows: list[tuple[str, int]], stream: random.Random) -> list[str]:
    by_class: dict[int, list[str]] = {}
    for path, label in rows:
        by_class.setdefault(label, []).append(path)
    return [name for group in by_class.values() for name in stream.sample(group, 1)]


def spoil_split(tree: Tree, change: Callable[[dict[str, list[list[object]]]], None]) -> None:
    path = next(tree.folder.glob("split_zhou_*.json"))
    split = json.loads(path.read_text(encoding="utf-8"))
    change(split)
    path.write_text(json.dumps(split), encoding="utf-8")


def lose_the_split(tree: Tree) -> None:
    next(tree.folder.glob("split_zhou_*.json")).unlink()


def lose_a_class(tree: Tree) -> None:
    def change(split: dict[str, list[list[object]]]) -> None:
        for name, rows in split.items():
            split[name] = [row for row in rows if row[1] != 9]

    spoil_split(tree, change)


def swap_two_classes(tree: Tree) -> None:
    def change(split: dict[str, list[list[object]]]) -> None:
        for rows in split.values():
            for row in rows:
                row[1] = {0: 1, 1: 0}.get(int(str(row[1])), row[1])

    spoil_split(tree, change)


def lose_an_image(tree: Tree) -> None:
    (tree.folder / "2750" / tree.rows["test"][0][0]).unlink()


SPOILT = {
    "missing split file": (lose_the_split, "split_zhou_EuroSAT.json"),
    "class-count mismatch": (lose_a_class, "eurosat"),
    "swapped class order": (swap_two_classes, "Annual Crop Land"),
}


@pytest.mark.parametrize("name", SPOILT)
def test_a_spoilt_dataset_is_one_line_of_run_and_doctor(
    name: str, set_up: SetUp, tmp_path: Path
) -> None:
    spoil, says = SPOILT[name]
    spoil(set_up("eurosat")["eurosat"])
    suite = write_suite(tmp_path, tasks=["eurosat"])
    with pytest.raises(CompatbenchError) as error:
        invoke("run", "--suite", str(suite), "--methods", METHODS, "--out", str(tmp_path / "out"))
    assert says in str(error.value)
    assert "compatbench doctor" in str(error.value)
    assert "\n" not in str(error.value)
    assert not (tmp_path / "out").exists()
    doctor = invoke("doctor", "--suite", str(suite))
    assert doctor.exit_code == 1
    assert "wrong eurosat" in doctor.output
    assert "fix: " in doctor.output
    plan = invoke("plan", "--suite", str(suite), "--methods", METHODS, "--out", str(tmp_path / "o"))
    assert "missing images of eurosat" in plan.output


def test_a_missing_image_is_named_by_the_doctor(set_up: SetUp) -> None:
    tree = set_up("eurosat")["eurosat"]
    lose_an_image(tree)
    doctor = invoke("doctor", "--task", "eurosat")
    assert doctor.exit_code == 1
    assert tree.rows["test"][0][0] in doctor.output


def test_an_unreadable_folder_is_one_line(
    set_up: SetUp, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = set_up("eurosat")["eurosat"].folder
    allowed = os.access
    monkeypatch.setattr(
        os, "access", lambda path, mode: Path(path) != folder and allowed(path, mode)
    )
    suite = write_suite(tmp_path, tasks=["eurosat"])
    with pytest.raises(CompatbenchError, match=str(folder)) as error:
        invoke("run", "--suite", str(suite), "--out", str(tmp_path))
    assert "\n" not in str(error.value)


def test_a_truncated_image_is_one_line_and_what_was_measured_stays(
    set_up: SetUp, tmp_path: Path
) -> None:
    tree = set_up("eurosat", sizes=Sizes(pictures=True))["eurosat"]
    for name, _ in tree.rows["test"]:
        image = tree.folder / "2750" / name
        image.write_bytes(image.read_bytes()[:200])
    suite = write_suite(tmp_path, tasks=["mini-weather", "eurosat"])
    arguments = ["--suite", str(suite), "--out", str(tmp_path), "--methods", "tip_adapter"]
    assert invoke("run", *arguments, "--jobs", "1", "--tasks", "mini-weather").exit_code == 0
    results = tmp_path / "results" / "whole" / "tip_adapter.csv"
    before = results.read_bytes()
    with pytest.raises(CompatbenchError) as error:
        invoke("run", *arguments, "--jobs", "1")
    assert ".jpg" in str(error.value)
    assert "\n" not in str(error.value)
    assert results.read_bytes() == before


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
    weights = Path(str(read_backbone("mini-clip").weights))
    path = Path(__file__).parents[2] / "tasks" / weights
    name = backbone.format(weights=path)
    suite = write_suite(tmp_path, upgrades=[[name, "mini-eva-clip"]], tasks=["mini-weather"])
    arguments = ["--suite", str(suite), "--methods", METHODS, "--out", str(tmp_path / "out")]
    with pytest.raises(CompatbenchError, match=message) as error:
        invoke("run", *arguments, "--jobs", "1")
    assert "\n" not in str(error.value)
    assert invoke("doctor", "--suite", str(suite)).exit_code == 1


def test_what_is_here_runs_when_the_rest_is_to_be_skipped(set_up: SetUp, tmp_path: Path) -> None:
    set_up("eurosat", sizes=Sizes(pictures=True))
    suite = write_suite(tmp_path, tasks=["eurosat", "dtd"])
    arguments = ["--suite", str(suite), "--methods", "tip_adapter", "--out", str(tmp_path)]
    with pytest.raises(CompatbenchError, match="dtd"):
        invoke("run", *arguments)
    run = invoke("run", *arguments, "--skip-missing", "--jobs", "1")
    assert run.exit_code == 0
    assert "missing images of dtd" in run.output
    [method] = read_results(tmp_path / "results" / "whole").methods.values()
    assert {row.task for row in method.rows} == {"eurosat"}
    assert "no mean is given" in run.output


def test_rows_of_data_that_is_gone_stay(
    set_up: SetUp, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    set_up("eurosat", sizes=Sizes(pictures=True))
    suite = write_suite(tmp_path, tasks=["eurosat", "mini-weather"])
    arguments = ["--suite", str(suite), "--methods", "zeroshot", "--out", str(tmp_path)]
    assert invoke("run", *arguments, "--jobs", "1").exit_code == 0
    results = tmp_path / "results" / "whole" / "zeroshot.csv"
    before = results.read_bytes()
    monkeypatch.setenv("COMPATBENCH_DATA", str(tmp_path / "nowhere"))
    assert invoke("run", *arguments, "--jobs", "1", "--skip-missing").exit_code == 0
    assert results.read_bytes() == before
