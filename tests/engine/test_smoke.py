"""The main job, end to end, on the embedded models and images."""

from __future__ import annotations

import csv
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from safetensors.torch import load_file, save_file

from compatbench.files.hashes import sha256_file
from compatbench.files.project_folders import tasks_folder
from compatbench.method.module import load_module
from compatbench.method.registry import builtin_methods

from .conftest import Run


def read_results(folder: Path) -> dict[str, list[dict[str, str]]]:
    files = sorted((folder / "results" / "smoke").glob("*.csv"))
    return {
        path.stem: list(csv.DictReader(path.open())) for path in files if ".cost" not in path.name
    }


def snapshot(folder: Path) -> dict[str, tuple[int, bytes]]:
    return {
        str(path.relative_to(folder)): (path.stat().st_mtime_ns, path.read_bytes())
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def cells(folder: Path) -> dict[str, tuple[int, dict]]:
    return {
        path.stem: (path.stat().st_mtime_ns, json.loads(path.read_text()))
        for path in (folder / "runs" / "cells").rglob("*.json")
    }


def test_every_method_has_a_number_on_source_and_target(smoke: Path) -> None:
    results = read_results(smoke)
    assert sorted(results) == sorted(builtin_methods().names())
    for rows in results.values():
        assert {row["backbone"] for row in rows} == {"mini-clip", "mini-eva-clip"}
        assert {row["status"] for row in rows} == {"ok"}


def test_zero_shot_figures_of_all_methods_agree(smoke: Path) -> None:
    figures = {
        (row["backbone"], row["test_set"], row["zero_shot_correct"])
        for rows in read_results(smoke).values()
        for row in rows
    }
    assert len(figures) == 2
    zero_shot = read_results(smoke)["zeroshot"]
    assert all(row["correct"] == row["zero_shot_correct"] for row in zero_shot)


def test_flips_and_accuracies_tell_the_same(smoke: Path) -> None:
    for rows in read_results(smoke).values():
        [source] = [row for row in rows if row["backbone"] == row["source"]]
        [target] = [row for row in rows if row["backbone"] != row["source"]]
        assert source["negative_flips"] == source["positive_flips"] == ""
        change = int(target["correct"]) - int(source["correct"])
        assert change == int(target["positive_flips"]) - int(target["negative_flips"])
        assert 0 < float(source["ece"]) < 100


def test_modules_are_saved_and_name_their_cell(smoke: Path) -> None:
    for key, (_, cell) in cells(smoke).items():
        module, about = load_module(smoke / "runs" / "modules" / key[:2] / f"{key}.safetensors")
        assert about["method"] == cell["method"]
        assert module.fingerprint == cell["module"]


def test_a_second_run_changes_nothing(compatbench: Run, smoke: Path) -> None:
    before = snapshot(smoke)
    result = compatbench("run", "--suite", "smoke", cwd=smoke)
    assert result.returncode == 0, result.stderr
    assert "all done" in result.stdout
    assert snapshot(smoke) == before


def test_one_process_gives_the_same_results_as_two(
    compatbench: Run, smoke: Path, tmp_path: Path
) -> None:
    methods = "coop,tip_adapter_f,linear_probe"
    result = compatbench(
        "run", "--suite", "smoke", "--methods", methods, "--jobs", "1", cwd=tmp_path
    )
    assert result.returncode == 0, result.stderr
    alone = read_results(tmp_path)
    assert sorted(alone) == sorted(methods.split(","))
    both = read_results(smoke)
    assert alone == {name: both[name] for name in alone}


def test_a_killed_run_goes_on_where_it_stopped(
    compatbench: Run, smoke: Path, cache: Path, tmp_path: Path
) -> None:
    command = [sys.executable, "-m", "compatbench", "run", "--suite", "smoke", "--jobs", "2"]
    process = subprocess.Popen(
        command,
        cwd=tmp_path,
        env=os.environ | {"COMPATBENCH_CACHE": str(cache)},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    deadline = time.monotonic() + 120
    while len(list((tmp_path / "runs").rglob("*.json"))) < 3 and time.monotonic() < deadline:
        time.sleep(0.02)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    finished = {
        key: written
        for key, (written, cell) in cells(tmp_path).items()
        if len(cell["records"]) == 2
    }
    assert finished
    assert not (tmp_path / "results" / "smoke").exists()

    result = compatbench("run", "--suite", "smoke", cwd=tmp_path)

    assert result.returncode == 0, result.stderr
    assert f"{len(finished)} done" in result.stdout
    assert read_results(tmp_path) == read_results(smoke)
    assert {key: cells(tmp_path)[key][0] for key in finished} == finished


def test_a_damaged_record_is_set_aside_and_measured_again(
    compatbench: Run, smoke: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "copy"
    shutil.copytree(smoke, folder)
    victim = next(path for path in (folder / "runs" / "cells").rglob("*.json"))
    victim.write_bytes(victim.read_bytes()[:-40])
    result = compatbench("run", "--suite", "smoke", cwd=folder)
    assert result.returncode == 0, result.stderr
    assert "damaged" in result.stderr
    assert (folder / "runs" / "damaged" / victim.name).exists()
    assert read_results(folder) == read_results(smoke)


def test_a_new_target_costs_its_evaluation_only(
    compatbench: Run, smoke: Path, tmp_path: Path
) -> None:
    folder, cards = tmp_path / "copy", tmp_path / "tasks"
    shutil.copytree(smoke, folder)
    shutil.copytree(tasks_folder(), cards)
    weights = cards / "mini" / "mini-eva-clip.safetensors"
    before = sha256_file(weights)
    state = load_file(weights)
    state["visual.trunk.head.weight"] = state["visual.trunk.head.weight"].roll(1, dims=0)
    save_file(state, weights)
    card = cards / "backbones" / "mini-eva-clip.yaml"
    card.write_text(card.read_text().replace(before, sha256_file(weights)))

    result = compatbench("run", "--suite", "smoke", cwd=folder, COMPATBENCH_TASKS=str(cards))

    assert result.returncode == 0, result.stderr
    modules = {name: written for name, (written, _) in snapshot(smoke / "runs" / "modules").items()}
    again = {name: written for name, (written, _) in snapshot(folder / "runs" / "modules").items()}
    assert modules == again
    for method, rows in read_results(folder).items():
        old = {row["backbone"]: row for row in read_results(smoke)[method]}
        new = {row["backbone"]: row for row in rows}
        assert new["mini-clip"] == old["mini-clip"]
        assert new["mini-eva-clip"]["data"] != old["mini-eva-clip"]["data"]
        assert new["mini-eva-clip"]["key"] == old["mini-eva-clip"]["key"]


def test_a_failing_method_is_a_row_and_the_others_go_on(compatbench: Run, tmp_path: Path) -> None:
    (tmp_path / "broken_fit.py").write_text(
        "from compatbench.method import Method, MethodCard\n"
        "class BrokenFit(Method):\n"
        "    card = MethodCard('broken_fit', 'Broken', 'none', 'classifier', 'fails')\n"
        "    def fit(self, backbone, data, rng):\n"
        "        raise RuntimeError('no luck today')\n"
        "    def attach(self, module, backbone, labels):\n"
        "        raise AssertionError\n"
    )
    result = compatbench(
        "run", "--suite", "smoke", "--methods", "./broken_fit.py,taskres", cwd=tmp_path
    )
    assert result.returncode == 1
    assert "no luck today" in result.stdout
    assert "Traceback" not in result.stdout + result.stderr
    results = read_results(tmp_path)
    assert {row["status"] for row in results["taskres"]} == {"ok"}
    assert {(row["status"], row["reason"]) for row in results["broken_fit"]} == {
        ("failed", "RuntimeError: no luck today")
    }
    [record] = [cell for _, cell in cells(tmp_path).values() if cell["method"] == "broken_fit"]
    assert record["trace"][-1].startswith("broken_fit.py:5 in fit")


@pytest.mark.slow
def test_a_worker_that_dies_costs_one_cell(compatbench: Run, tmp_path: Path) -> None:
    (tmp_path / "dies.py").write_text(
        "import os\n"
        "from compatbench.method import Method, MethodCard\n"
        "class Dies(Method):\n"
        "    card = MethodCard('dies', 'Dies', 'none', 'classifier', 'kills its process')\n"
        "    def fit(self, backbone, data, rng):\n"
        "        os.kill(os.getpid(), 9)\n"
        "    def attach(self, module, backbone, labels):\n"
        "        raise AssertionError\n"
    )
    result = compatbench(
        "run", "--suite", "smoke", "--methods", "./dies.py,taskres", "-j", "2", cwd=tmp_path
    )
    assert result.returncode == 1
    assert "killed by signal 9" in result.stdout
    assert {row["status"] for row in read_results(tmp_path)["taskres"]} == {"ok"}


def test_a_module_that_does_not_fit_is_a_result(compatbench: Run, tmp_path: Path) -> None:
    (tmp_path / "picky.py").write_text(
        "from compatbench.method import *\n"
        "class Picky(Method):\n"
        "    card = MethodCard('picky', 'Picky', 'none', 'classifier', 'source only')\n"
        "    def fit(self, backbone, data, rng):\n"
        "        return Module()\n"
        "    def attach(self, module, backbone, labels):\n"
        "        if backbone.name != 'mini-clip':\n"
        "            raise NotTransferable('made for mini-clip')\n"
        "        return CosineClassifier(backbone.zero_shot(labels), 1.0)\n"
    )
    result = compatbench("run", "--suite", "smoke", "--methods", "./picky.py", cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    by_backbone = {row["backbone"]: row for row in read_results(tmp_path)["picky"]}
    assert by_backbone["mini-clip"]["status"] == "ok"
    assert by_backbone["mini-eva-clip"]["status"] == "not transferable"
    assert by_backbone["mini-eva-clip"]["reason"] == "made for mini-clip"
    assert "not transferable" in result.stdout


@pytest.mark.slow
@pytest.mark.parametrize("jobs", ["1", "2"])
def test_logits_of_a_wrong_shape_are_a_failure(compatbench: Run, tmp_path: Path, jobs: str) -> None:
    (tmp_path / "wrong.py").write_text(
        "from compatbench.method import *\n"
        "class Wrong(Method):\n"
        "    card = MethodCard('wrong', 'Wrong', 'none', 'classifier', 'wrong shape')\n"
        "    def fit(self, backbone, data, rng):\n"
        "        return Module()\n"
        "    def attach(self, module, backbone, labels):\n"
        "        return lambda features: features[:, :2]\n"
    )
    result = compatbench(
        "run", "--suite", "smoke", "--methods", "./wrong.py", "-j", jobs, cwd=tmp_path
    )
    assert result.returncode == 1
    assert "logits have shape" in result.stdout


def test_a_suite_from_a_file_gets_its_page(compatbench: Run, tmp_path: Path) -> None:
    text = (tasks_folder() / "suites" / "smoke.yaml").read_text()
    text = text.replace("name: smoke", "name: mine").replace("publish: false", "publish: true")
    (tmp_path / "mine.yaml").write_text(text)
    result = compatbench(
        "run", "--suite", "./mine.yaml", "--methods", "zeroshot,taskres", cwd=tmp_path
    )
    assert result.returncode == 0, result.stderr
    assert "compatbench run --suite mine" in (tmp_path / "leaderboard.md").read_text()


def test_modules_are_retrained_on_the_target_where_a_suite_asks_for_it(
    compatbench: Run, smoke: Path, tmp_path: Path
) -> None:
    text = (tasks_folder() / "suites" / "smoke.yaml").read_text()
    text = text.replace("name: smoke", "name: again").replace("publish: false", "retrained: true")
    (tmp_path / "again.yaml").write_text(text)
    command = ("run", "--suite", "./again.yaml", "--methods", "zeroshot,tip_adapter")
    result = compatbench(*command, cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    with (tmp_path / "results" / "again" / "tip_adapter.csv").open() as file:
        rows = list(csv.DictReader(file))
    *attached, retrained = rows
    assert attached == read_results(smoke)["tip_adapter"]
    assert (retrained["source"], retrained["backbone"]) == ("mini-eva-clip", "mini-eva-clip")
    assert "### Compared with retraining" in (tmp_path / "leaderboard.md").read_text()
    assert "all done" in compatbench(*command, cwd=tmp_path).stdout
