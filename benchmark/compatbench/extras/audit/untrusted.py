"""The untrusted job of a pull request: the contributed methods fit and predict, without labels.

It runs the installed harness with the methods and cards of a change. It has no network, and a copy
of the cards from which the labels of all test images were removed. What it leaves is a store with
modules and predictions, and ``job.json``; it judges nothing.
"""

from __future__ import annotations

import csv
import importlib
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from compatbench.engine.task_images import UNKNOWN
from compatbench.errors import CompatbenchError
from compatbench.files.hashes import hash_file

JOB = "job.json"
SECONDS = 3 * 3600.0  # that the job may take
BOX = "bwrap"  # bubblewrap


@dataclass(frozen=True)
class Order:
    """What the job is asked for."""

    root: Path  # of the clone with the contributed files
    work: Path  # the one folder that it may write
    methods: tuple[str, ...]  # files in ``methods/`` that are run
    suite: str
    device: str


def copy_without_labels(tasks: Path, copy: Path) -> None:
    """Copies a folder of cards, without the labels of the test images that it has."""
    shutil.copytree(tasks, copy, ignore=shutil.ignore_patterns("build", "__pycache__"))
    place = copy / "mini" / "manifest.json"
    manifest = json.loads(place.read_text("utf-8"))
    for path in sorted((copy / "mini" / "splits").glob("*.csv")):
        with path.open(newline="", encoding="utf-8") as file:
            header, *rows = csv.reader(file)
        split, label = header.index("split"), header.index("label")
        for row in rows:
            row[label] = str(UNKNOWN) if row[split] == "test" else row[label]
        text = "".join(",".join(row) + "\n" for row in (header, *rows))
        path.write_text(text, encoding="utf-8")
        manifest["files"][f"splits/{path.name}"]["sha256"] = hash_file(path)
    place.write_text(json.dumps(manifest), encoding="utf-8")


def run_untrusted(order: Order, progress: Callable[[str], object]) -> str:
    """Runs the job in a process that sees neither a network nor a test label.

    Returns:
        What the process was kept from, in a sentence.

    Raises:
        CompatbenchError: it did not end well; its last line is the reason.
    """
    tasks = order.work / "tasks"
    copy_without_labels(order.root / "tasks", tasks)
    command = [sys.executable, "-m", __spec__.name, json.dumps(_to_json(order))]
    boxed = _in_box(order, tasks)
    how = "in a container without network, test labels or a writable folder but its own"
    if not boxed:
        how = "in a plain process, since there is no bubblewrap here: it could reach the network"
    progress(f"runs {', '.join(order.methods)} {how}")
    environment = {name: os.environ[name] for name in ("PATH", "HOME") if name in os.environ}
    environment |= {"COMPATBENCH_CACHE": str(order.work / "cache"), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [*boxed, *command],
        cwd=order.work,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=SECONDS,
    )
    if done.returncode:
        last = (done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[-1]
        raise CompatbenchError(f"the contributed methods cannot be run: {last}")
    return f"Run {how}."


def _in_box(order: Order, tasks: Path) -> list[str]:
    """The command that puts another into a container; none where there is no bubblewrap."""
    from compatbench.files.project_folders import installed_folder

    if (box := shutil.which(BOX)) is None:
        return []
    hidden = [installed_folder("tasks"), order.root / "tasks"]
    binds = [part for folder in hidden for part in ("--ro-bind", str(tasks), str(folder))]
    clones = {folder.parent / ".git" for folder in hidden}
    binds += [part for git in sorted(clones) if git.is_dir() for part in ("--tmpfs", str(git))]
    work = str(order.work)
    options = ["--unshare-net", "--unshare-pid", "--die-with-parent", "--new-session"]
    return [
        *(box, "--ro-bind", "/", "/", "--dev", "/dev", "--proc", "/proc", "--tmpfs", "/tmp"),
        *(*binds, "--bind", work, work, *options, "--"),
    ]


def _to_json(order: Order) -> dict[str, Any]:
    return {name: str(v) if isinstance(v, Path) else v for name, v in asdict(order).items()}


def main(text: str) -> None:
    """The job itself."""
    from compatbench.data.cards import suite_cards
    from compatbench.engine.compute import Compute
    from compatbench.engine.execute.run_plan import run_plan
    from compatbench.engine.plan import make_plan
    from compatbench.extras.check.plugin_files import PluginFiles
    from compatbench.extras.check.run_checks import run_checks
    from compatbench.files.project_folders import use_folders
    from compatbench.method.registry import builtin_methods
    from compatbench.results.collect import describe_method

    given = json.loads(text)
    root, work = (Path(given[name]) for name in ("root", "work"))
    folders = {name: root / name for name in ("methods", "transfers", "formats")}
    present = {name: folder for name, folder in folders.items() if folder.is_dir()}
    use_folders((), tasks=work / "tasks", **present)
    for name, folder in present.items():
        importlib.import_module(f"compatbench.{name}").__path__ = [str(folder)]
    registry, card = builtin_methods(), suite_cards.read(given["suite"])
    files = {(root / name).resolve() for name in given["methods"]}
    names = [name for name in registry.names() if registry.file_of(name) in files]
    broken = {name: registry.broken[name] for name in registry.broken}
    outcomes = run_checks("method", names, files=PluginFiles((), folder=folders["methods"]))
    plan = make_plan(card, names, seeds=card.seeds, out=work) if names else None
    if plan is not None:
        # In this process, which has the change's folders in place of those that are installed.
        run_plan(plan, Compute(device=given["device"], jobs=1))
    described = {name: describe_method(card, registry.get(name), name) for name in names}
    job = {
        "broken": broken,
        "checks": [asdict(outcome) for outcome in outcomes],
        "methods": {
            name: {"info": asdict(each.info), "config": each.config, "differs": each.differs}
            for name, each in described.items()
        },
        "cells": [_describe_cell(cell) for cell in plan.cells] if plan else [],
    }
    (work / JOB).write_text(json.dumps(job, default=list), encoding="utf-8")


def _describe_cell(cell: Any) -> dict[str, Any]:
    skipped = ("places", "training", "shots_file", "plugin", "transfer_plugin")
    values = {name: value for name, value in vars(cell).items() if name not in skipped}
    return values | {"training": cell.training.model_dump(mode="json")}


def _read_arguments(arguments: Sequence[str]) -> str:
    if len(arguments) != 1:
        raise SystemExit("this program is started by 'compatbench ci'")
    return arguments[0]


if __name__ == "__main__":
    main(_read_arguments(sys.argv[1:]))
