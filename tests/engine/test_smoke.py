"""The main job, end to end, on the embedded models and images, and errors that stop it."""

from __future__ import annotations

import csv
import json
import os
import re
import shutil
import signal
from pathlib import Path

import pytest
from command_line import invoke_in, output_in
from safetensors.torch import load_file, save_file

from compatbench.errors import CompatbenchError
from compatbench.files.hashes import hash_file
from compatbench.files.project_folders import tasks_folder
from compatbench.method import load_module
from compatbench.method.registry import builtin_methods

from .running import METHODS, SMOKE, SlowRun, wait_until, write_suite


def read_results(folder: Path, suite: str = "smoke") -> dict[str, list[dict[str, str]]]:
    """Return the rows of each method in a folder of results."""
    results = {}
    for path in sorted((folder / "results" / suite).glob("*.csv")):
        if path.name != "costs.csv":
            with path.open(newline="") as file:
                results[path.stem] = list(csv.DictReader(file))
    return results


def snapshot(folder: Path) -> dict[str, tuple[int, bytes]]:
    """Return the time and content of every file in a folder."""
    files = {}
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            files[str(path.relative_to(folder))] = (path.stat().st_mtime_ns, path.read_bytes())
    return files


def cells(folder: Path) -> dict[str, tuple[int, dict]]:
    """Return the time and content of every record in a run store, by key."""
    records = {}
    for path in (folder / "runs" / "cells").rglob("*.json"):
        records[path.stem] = (path.stat().st_mtime_ns, json.loads(path.read_text()))
    return records


@pytest.mark.slow
def test_every_method_has_numbers_that_agree_with_each_other(tmp_path: Path) -> None:
    write_suite(tmp_path, "short", shots=[2], training={"max_steps": 1, "views": 1})
    output_in(tmp_path, "run", "--suite", "./short.yaml", "--methods", "all")
    results = read_results(tmp_path, "short")
    methods = builtin_methods()
    assert set(results) == set(methods.names())
    zero_shot = set()
    for method, (source, target) in results.items():
        assert (source["backbone"], target["backbone"]) == ("mini-clip", "mini-eva-clip")
        assert source["status"] == "ok"
        # EVA's tower does not have all weights of CLIP's.
        if method in ("clipood", "flyp", "skip_tuning", "wise_ft_weights"):
            assert target["status"] == "not transferable"
            continue
        assert target["status"] == "ok"
        zero_shot.add((source["zero_shot_correct"], target["zero_shot_correct"]))
        if method == "zeroshot":
            assert source["correct"] == source["zero_shot_correct"]
            assert target["correct"] == target["zero_shot_correct"]
        assert source["negative_flips"] == source["positive_flips"] == ""
        change = int(target["correct"]) - int(source["correct"])
        assert change == int(target["positive_flips"]) - int(target["negative_flips"])
        assert 0 < float(source["ece"]) < 100
    assert len(zero_shot) == 1
    for key, (_, cell) in cells(tmp_path).items():
        module = load_module(tmp_path / "runs" / "modules" / key[:2] / f"{key}.safetensors")
        assert module.about["method"] == cell["method"]
        assert module.fingerprint == cell["module"]


def test_a_second_run_changes_nothing(smoke: Path) -> None:
    before = snapshot(smoke)
    assert "all done" in output_in(smoke, *SMOKE)
    # The device is checked even if nothing is left to do.
    for more in ([], ["--executor", "ray"]):
        with pytest.raises(CompatbenchError, match="--device 'tpu'"):
            invoke_in(smoke, *SMOKE, *more, "--device", "tpu")
    assert snapshot(smoke) == before


def test_a_killed_run_resumes_where_it_stopped(smoke: Path, tmp_path: Path) -> None:
    with SlowRun(tmp_path, "--jobs", "2", also=METHODS) as run:
        assert wait_until(lambda: len([*tmp_path.glob("runs/cells/**/*.json")]) >= 3)
        os.killpg(run.process.pid, signal.SIGKILL)
        run.process.wait()
    finished = {}
    for key, (time, cell) in cells(tmp_path).items():
        if len(cell["records"]) == 2:
            finished[key] = time
    assert finished
    assert not (tmp_path / "results" / "smoke").exists()

    # One process gives the same results as two.
    assert f"{len(finished)} done" in output_in(tmp_path, *SMOKE, "--jobs", "1")
    assert read_results(tmp_path) == read_results(smoke)
    now = cells(tmp_path)
    for key, time in finished.items():
        assert now[key][0] == time


def test_temporary_files_of_a_killed_run_are_removed_by_the_next_one(
    smoke: Path, tmp_path: Path
) -> None:
    out = tmp_path / "copy"
    cache = tmp_path / "cache"
    shutil.copytree(smoke, out)
    before = snapshot(out)
    name = ".a.json.0123456789ab.tmp"
    places = ["runs/cells/aa", "runs/modules/aa", "runs/predictions/aa", "results/smoke/tuning"]
    left = [cache / "features" / "aa" / name, *(out / place / name for place in places)]
    for path in left:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    output_in(out, *SMOKE, COMPATBENCH_CACHE=str(cache))
    assert [path for path in left if path.exists()] == []
    assert snapshot(out) == before


@pytest.mark.parametrize("name", ["coop.csv", "costs.csv"])
def test_results_that_were_cut_off_are_reported_with_how_to_make_them_again(
    smoke: Path, tmp_path: Path, name: str
) -> None:
    out = tmp_path / "copy"
    shutil.copytree(smoke, out)
    path = out / "results" / "smoke" / name
    whole = path.read_bytes()
    for size in (len(whole) - 1, len(whole) // 2, 0):
        path.write_bytes(whole[:size])
        with pytest.raises(CompatbenchError, match=r"cut off.*; delete it, and 'compatbench run"):
            invoke_in(out, *SMOKE)
    path.unlink()
    assert "all done" in output_in(out, *SMOKE)
    assert path.read_bytes() == whole


def test_a_new_target_costs_its_evaluation_only(smoke: Path, tmp_path: Path) -> None:
    folder = tmp_path / "copy"
    cards = tmp_path / "tasks"
    shutil.copytree(smoke, folder)
    shutil.copytree(tasks_folder(), cards)
    weights = cards / "mini" / "mini-eva-clip.safetensors"
    before = hash_file(weights)
    state = load_file(weights)
    state["visual.trunk.head.weight"] = state["visual.trunk.head.weight"].roll(1, dims=0)
    save_file(state, weights)
    card = cards / "backbones" / "mini-eva-clip.yaml"
    card.write_text(card.read_text().replace(before, hash_file(weights)))

    output_in(folder, *SMOKE, COMPATBENCH_TASKS=str(cards))
    assert snapshot(folder / "runs" / "modules") == snapshot(smoke / "runs" / "modules")
    for method, rows in read_results(folder).items():
        new = {row["backbone"]: row for row in rows}
        old = {row["backbone"]: row for row in read_results(smoke)[method]}
        assert new["mini-clip"] == old["mini-clip"]
        assert new["mini-eva-clip"]["data"] != old["mini-eva-clip"]["data"]
        assert new["mini-eva-clip"]["key"] == old["mini-eva-clip"]["key"]


def test_a_suite_with_retrained_also_fits_modules_on_the_target(
    smoke: Path, tmp_path: Path
) -> None:
    write_suite(tmp_path, "again", publish=True, retrained=True)
    command = ("run", "--suite", "./again.yaml", "--methods", "zeroshot,tip_adapter")
    output_in(tmp_path, *command)
    *attached, retrained = read_results(tmp_path, "again")["tip_adapter"]
    assert attached == read_results(smoke)["tip_adapter"]
    assert (retrained["source"], retrained["backbone"]) == ("mini-eva-clip", "mini-eva-clip")
    # A suite from a file has its page.
    assert "compatbench run --suite again" in (tmp_path / "leaderboard.md").read_text()
    assert "all done" in output_in(tmp_path, *command)


# A pattern of files among the cards, the text to replace and its replacement, and the error.
# Without a text, one bit is flipped.
BROKEN = [
    ("mini/mini-eva-clip.safetensors", b"", b"", "mini-eva-clip.safetensors is damaged or was"),
    ("mini/drawings/*.webp", b"", b"", ".webp is damaged"),
    pytest.param(  # a worker process finds this out
        *("backbones/mini-eva-clip.yaml", b"config: mini-eva-clip", b"config: mini-clip"),
        "the weights do not fit the architecture",
        marks=pytest.mark.slow,
    ),
]


@pytest.mark.parametrize(("pattern", "old", "new", "message"), BROKEN)
def test_a_broken_card_or_file_stops_the_run(
    tmp_path: Path, pattern: str, old: bytes, new: bytes, message: str
) -> None:
    cards = Path(shutil.copytree(tasks_folder(), tmp_path / "tasks"))
    for path in cards.glob(pattern):
        content = bytearray(path.read_bytes())
        if old:
            content = content.replace(old, new)
        else:
            content[len(content) // 2] ^= 1
        path.write_bytes(content)
    worker = ["--timeout", "10m"] if old else []
    options = ["--suite", "smoke", "--methods", "zeroshot,coop", "--jobs", "1", *worker]
    environment = {"COMPATBENCH_TASKS": str(cards), "COMPATBENCH_CACHE": str(tmp_path / "cache")}
    with pytest.raises(CompatbenchError, match=message):
        invoke_in(tmp_path, "run", *options, **environment)


def test_broken_results_of_another_suite_stop_a_run_before_its_work(
    smoke: Path, tmp_path: Path
) -> None:
    shutil.copytree(smoke / "results" / "smoke", tmp_path / "results" / "other")
    path = tmp_path / "results" / "other" / "coop.csv"
    path.write_text(path.read_text().replace(",ok,", ",fine,", 1))
    with pytest.raises(CompatbenchError, match=r"coop\.csv:2: 'status'"):
        invoke_in(tmp_path, "run", "--suite", "smoke", "--methods", "zeroshot")
    assert not (tmp_path / "runs" / "cells").exists()


def test_offline_weights_are_not_fetched_and_a_plan_needs_none(tmp_path: Path) -> None:
    write_suite(tmp_path, "real", upgrades=[["vit-b16-openai", "mini-eva-clip"]])
    home = {"HF_HOME": str(tmp_path), "HOME": str(tmp_path)}
    options = ["--suite", "real.yaml", "--methods", "coop"]
    message = (
        "open_clip_model.safetensors of timm/vit_base_patch16_clip_224.openai is not on this "
        "machine, and nothing may be fetched (HF_HUB_OFFLINE)"
    )
    with pytest.raises(CompatbenchError, match=re.escape(message)):
        invoke_in(tmp_path, "run", *options, "--offline", **home)
    output_in(tmp_path, "plan", *options, **home)
    assert not (tmp_path / "hub").exists()
