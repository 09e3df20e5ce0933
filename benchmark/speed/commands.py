"""Measure the time and memory of whole commands, in a clone and with many cells.

python benchmark/speed/commands.py                # a quarter of an hour; writes commands.json
python benchmark/speed/commands.py clone growth   # measures these parts, and keeps the others

``clone`` is this clone with its results. ``many`` has about 20,000 finished cells, and 500 methods
on 15 tasks. ``growth`` goes from about 2,000 to 8,000 finished cells. Cells are made for whole
seeds, and the page shows how many there were.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from itertools import product
from pathlib import Path
from statistics import median
from typing import Any

import torch

import compatbench as cb
from compatbench.data.cards import task_cards
from compatbench.data.task import load_task
from compatbench.engine.cell import Cell, Outcome, describe_cell, provenance
from compatbench.engine.plan import make_plan
from compatbench.engine.request import make_request
from compatbench.engine.store import RunStore
from compatbench.files.hashes import sha256_json
from compatbench.files.project_folders import tasks_folder
from compatbench.method.predictions import Predictions
from compatbench.results.collect import collect_results
from compatbench.results.result_files import ResultFiles
from compatbench.results.stored_method import MethodInfo
from compatbench.tables.pages.leaderboard import write_pages
from compatbench.tables.suite_page import published_pages

CELLS = 20_000  # approximately
METHODS = 500
TASKS = 15
GROWTH = (2_000, 8_000)  # approximate numbers of cells
ROUNDS = 3  # of each command in a clone; the page shows the median
# The most CPU time that each command may take, as a multiple of what PyTorch takes to load just
# before it. So a limit means the same on a slow machine. Audits run no cell again here.
LIMITS: dict[str, dict[str, float]] = {
    "clone": {
        "--help": 0.3,
        "list tasks": 1,
        "list methods": 1,
        "plan": 2,
        "evaluate": 3,
        "report": 8,
        "report --check": 8,
        "maintain audit --cells 0": 10,
    },
    "many": {
        "plan": 8,
        "maintain audit --cells 0": 15,
        "report": 15,
    },
}
GROWING = ("plan", "report")  # the commands whose time may grow with the cells
HERE = Path(__file__).parent
# A small process between this one and the measured one: the peak memory of a child starts from
# that of its parent.
BETWEEN = """\
import resource, subprocess, sys
subprocess.run(sys.argv[1:], stdout=subprocess.DEVNULL, check=True)
used = resource.getrusage(resource.RUSAGE_CHILDREN)
print(used.ru_utime + used.ru_stime, used.ru_maxrss / 1024)
"""


def finish(store: RunStore, cell: Cell) -> None:
    """Store a cell as finished, with predictions that differ from cell to cell."""
    start = int(cell.key[:4], 16)
    outcomes = []
    answers = {}
    for where in cell.places:
        backbone, test_set, data = where
        labels = torch.tensor([sample.label for sample in load_task(test_set).split("test")])
        confidence = torch.full((len(labels),), 0.5)
        # Many different counts: an audit reports two seeds whose counts are all the same.
        right = torch.arange(len(labels)) % 50 < 10 + start % 30
        answers[where] = Predictions(torch.where(right, labels, labels + 1).int(), confidence)
        store.write_zero_shot(where, "fp32", Predictions(labels.int(), confidence))
        outcomes.append(
            Outcome(backbone=backbone, test_set=test_set, data=data, status="ok", seconds=0.1)
        )
    store.write_predictions(cell.key, answers)
    about = {"fit_seconds": 1.0, "parameters": 1, "records": tuple(outcomes)}
    store.write(describe_cell(cell, "ok", **about))


def count_seeds(cells: int) -> int:
    """Return how many seeds of ``mini`` have about so many cells."""
    # Methods that do not learn have cells of the first seed only.
    of_a_seed = make_plan(make_request("mini", seeds=[2])).cells
    return cells // len(of_a_seed)


def make_cells(folder: Path, seeds: int, *fields: str) -> tuple[Path, int]:
    """Write finished cells of ``mini``, their results and pages.

    Args:
        folder: the folder of the store, the results and the suite.
        seeds: the number of seeds.
        fields: more lines of the suite's card.

    Returns:
        The suite's YAML file and the number of cells.
    """
    path = folder / "load.yaml"
    draws = list(range(1, seeds + 1))
    card = ("extends: mini", "name: load", "title: Load", "publish: true", f"seeds: {draws}")
    path.write_text("\n".join((*card, *fields)))
    plan = make_plan(make_request(str(path), out=folder))
    for cell in plan.cells:
        finish(plan.store, cell)
    files = ResultFiles(folder)
    collect_results(plan, files)
    write_pages(folder, published_pages(files, plan.suite))
    return path, len(plan.cells)


def make_board(folder: Path, methods: int, seeds: int = 3) -> None:
    """Write results of many methods on 15 tasks, and a folder ``tasks/`` with cards and suite."""
    sys.path.append(str(HERE.parents[1] / "tests"))
    from made_results import (  # pyright: ignore[reportMissingImports]
        ZEROSHOT,
        make_method,
        make_row,
    )

    shutil.copytree(tasks_folder(), folder / "tasks")
    tasks = [name for name in task_cards.names() if task_cards.read(name).counts.get("train")]
    tasks = tasks[:TASKS]
    draws = list(range(1, seeds + 1))
    (folder / "tasks" / "suites" / "board.yaml").write_text(
        f"name: board\ntitle: Board\nupgrades: [[mini-clip, mini-eva-clip]]\ntasks: {tasks}\n"
        f"shots: [16]\nseeds: {draws}\n"
    )
    flips = {"negative_flips": 1, "positive_flips": 2, "inconsistent_errors": 0}
    made = []
    for number in range(methods):
        name = f"method{number:03}"
        depth: Any = "deep" if number % 2 else "shallow"
        info = MethodInfo(name, name, "arXiv:2109.01134", depth, ("text-input",))
        if number == 0:
            info = ZEROSHOT
        rows = []
        for task, seed in product(tasks, draws if info.learns else draws[:1]):
            right = 50 + int(sha256_json([info.name, task, seed])[:4], 16) % 33
            about = {"method": info.name, "task": task, "source": "mini-clip", "seed": seed}
            about |= {"shots": 16, "ece": 3.25}
            rows.append(make_row(right, backbone="mini-clip", **about))
            rows.append(make_row(right + 1, backbone="mini-eva-clip", **about, **flips))
        made.append(make_method(info, rows))
    ResultFiles(folder).write("board", made)


def measure(*command: str, **variables: str) -> dict[str, float]:
    """Load PyTorch in one process, then run a command in another, with these variables.

    Return the ``load_seconds`` of the first, and the ``cpu_seconds`` and peak memory ``mb`` of the
    second.
    """
    load_seconds, _ = _measure_process("-c", "import torch")
    cpu_seconds, megabytes = _measure_process("-m", "compatbench", *command, **variables)
    return {"load_seconds": load_seconds, "cpu_seconds": cpu_seconds, "mb": megabytes}


def _measure_process(*arguments: str, **variables: str) -> tuple[float, float]:
    """Run Python with these arguments. Return its CPU seconds and peak memory in MB."""
    words = [sys.executable, "-c", BETWEEN, sys.executable, *arguments]
    done = subprocess.run(
        words, stdout=subprocess.PIPE, text=True, check=True, env=os.environ | variables
    )
    seconds, memory = done.stdout.split()
    return round(float(seconds), 2), round(float(memory))


def measure_clone(folder: Path) -> dict[str, Any]:
    """Measure commands in this clone with its results. Return the medians as ``commands``."""
    module = folder / "module.safetensors"
    cb.fit("gda", task="mini-food", source="mini-clip").save(module)
    options = {
        "evaluate": [str(module), "--target", "mini-eva-clip"],
        "plan": ["--out", str(folder)],
    }
    figures = {}
    for command in LIMITS["clone"]:
        words = [*command.split(), *options.get(command, ())]
        rounds = [measure(*words) for _ in range(ROUNDS)]
        figures[command] = {name: median(each[name] for each in rounds) for name in rounds[0]}
    return {"commands": figures}


def measure_many(folder: Path) -> dict[str, Any]:
    """Measure a report of very many methods, and the other commands over very many cells.

    Return the number of cells as ``cells`` and the results as ``commands``.
    """
    cells = folder / "cells"
    cells.mkdir()
    suite, count = make_cells(cells, count_seeds(CELLS))
    board = folder / "board"
    make_board(board, METHODS)
    figures = {}
    for command in LIMITS["many"]:
        if command == "report":
            tasks = {"COMPATBENCH_TASKS": str(board / "tasks")}
            figures[command] = measure("report", "--out", str(board), **tasks)
        else:
            options = ["--suite", str(suite), "--out", str(cells)]
            figures[command] = measure(*command.split(), *options)
    return {"cells": count, "commands": figures}


def measure_growth(folder: Path) -> dict[str, Any]:
    """Measure commands over more and more cells.

    Return the results as ``commands``, by command and number of cells.
    """
    figures: dict[str, Any] = {command: {} for command in GROWING}
    for aim in GROWTH:
        place = folder / str(aim)
        place.mkdir()
        suite, count = make_cells(place, count_seeds(aim))
        cards = {"COMPATBENCH_CARDS": str(place)}  # a report finds the suite there
        for command in GROWING:
            words = [command, "--out", str(place)]
            if command == "plan":
                words += ["--suite", str(suite)]
            figures[command][count] = measure(*words, **cards)
    return {"commands": figures}


PARTS = {"clone": measure_clone, "many": measure_many, "growth": measure_growth}


def main(parts: Sequence[str]) -> None:
    """Measure these parts, by default all, and write them to ``commands.json``."""
    path = HERE / "commands.json"
    measured = json.loads(path.read_text(encoding="utf-8"))
    for part in parts or PARTS:
        with tempfile.TemporaryDirectory() as name:
            figures = PARTS[part](Path(name))
        measured[part] = {"processor": provenance()["processor"], **figures}
    path.write_text(json.dumps(measured, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main(sys.argv[1:])
