"""The untrusted job of a pull request: the contributed methods fit and predict, without labels.

It runs the installed harness with the methods and cards of a change. It has no network, and a copy
of the cards from which the labels of all test images were removed. What it leaves is a store with
modules and predictions, rows without a right count, and ``job.json``; it judges nothing.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
from pydantic import TypeAdapter

import compatbench
from compatbench.engine.task_images import UNKNOWN
from compatbench.errors import CompatbenchError
from compatbench.extras.check.rules import Outcome
from compatbench.files.hashes import hash_file
from compatbench.files.project_folders import CONTENT, installed_folder, shipped_results
from compatbench.results.result_files import PUBLISHED, RETRIEVAL

JOB = "job.json"
CLAIMED = "claimed"  # folder of rows, whose counts are worth nothing
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


@dataclass(frozen=True)
class Job:
    """What the job leaves beside its store and rows: ``job.json``."""

    broken: dict[str, str]  # methods that cannot be loaded, and why
    checks: list[Outcome]


ORDERS, JOBS = TypeAdapter(Order), TypeAdapter(Job)


def copy_without_labels(tasks: Path, copy: Path) -> None:
    """Copies a folder of cards, without the labels of the test images that it has."""
    shutil.copytree(tasks, copy, ignore=shutil.ignore_patterns("build", "__pycache__"))
    place = copy / "mini" / "manifest.json"
    manifest = json.loads(place.read_text("utf-8"))
    for path in sorted((copy / "mini" / "splits").glob("*.csv")):
        rows = pd.read_csv(path, dtype=str, keep_default_na=False)
        rows.loc[rows["split"] == "test", "label"] = str(UNKNOWN)
        rows.to_csv(path, index=False, lineterminator="\n")
        manifest["files"][f"splits/{path.name}"]["sha256"] = hash_file(path)
    place.write_text(json.dumps(manifest), encoding="utf-8")


def run_untrusted(order: Order, progress: Callable[[str], object]) -> str:
    """Runs the job in a process that sees neither a network nor a test label.

    Returns:
        What the process was kept from, in a sentence.

    Raises:
        CompatbenchError: it did not end well; its last line is the reason.
    """
    tasks, site = order.work / "tasks", order.work / "site"
    copy_without_labels(order.root / "tasks", tasks)
    boxed = _in_box(order, tasks)
    how = "in a container without network, test labels or a writable folder but its own"
    if not boxed:
        how = "in a plain process, since there is no bubblewrap here: it could reach the network"
    progress(f"runs {', '.join(order.methods)} {how}")
    environment = {name: os.environ[name] for name in ("PATH", "HOME") if name in os.environ}
    environment |= {"COMPATBENCH_CACHE": str(order.work / "cache"), "OMP_NUM_THREADS": "1"}
    environment |= {"PYTHONPATH": str(site)}
    link_package(order.root, tasks, site / "compatbench")
    command = [*boxed, sys.executable, "-m", __spec__.name, ORDERS.dump_json(order).decode()]
    problem = "the contributed methods cannot be run"
    run_program(command, order.work, problem, env=environment, timeout=SECONDS)
    shutil.rmtree(site)
    return f"Run {how}."


def run_program(command: Sequence[str], folder: Path, problem: str, **options: Any) -> None:
    """Runs a program in a folder; one that fails is an error, with its last line for the reason."""
    done = subprocess.run(
        command, cwd=folder, capture_output=True, text=True, check=False, **options
    )
    if done.returncode:
        last = (done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[-1]
        raise CompatbenchError(f"{problem}: {last}")


def link_package(root: Path, tasks: Path, package: Path) -> None:
    """Makes a package of links: the installed harness, with a change's content and these cards."""
    folders = {path.name: path for path in Path(compatbench.__path__[0]).iterdir()}
    folders |= {name: shipped_results(name) for name in (PUBLISHED, RETRIEVAL)}
    folders |= {name: installed_folder(name) for name in CONTENT}
    folders |= {name: root / name for name in CONTENT if (root / name).is_dir()}
    for name in CONTENT:
        if not (folders[name] / "__init__.py").is_file():
            raise CompatbenchError(f"{folders[name]} has no __init__.py; restore it")
    package.mkdir(parents=True)
    for name, folder in (folders | {"tasks": tasks}).items():
        (package / name).symlink_to(folder)


def _in_box(order: Order, tasks: Path) -> list[str]:
    """The command that puts another into a container; none where there is no bubblewrap."""
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


def main(text: str) -> None:
    """The job itself, in whose package the change's folders are."""
    from compatbench.data.cards import suite_cards
    from compatbench.engine.compute import Compute
    from compatbench.engine.execute.run_plan import run_plan
    from compatbench.engine.plan import make_plan
    from compatbench.extras.check.rules import find_checks
    from compatbench.extras.check.run_checks import run_checks
    from compatbench.method.registry import builtin_methods
    from compatbench.results.collect import collect_results

    order = ORDERS.validate_json(text)
    registry, card = builtin_methods(), suite_cards.read(order.suite)
    files = {(order.root / name).resolve() for name in order.methods}
    names = [name for name in registry.names() if registry.file_of(name) in files]
    outcomes = run_checks(names, [*find_checks()])
    if names:
        plan = make_plan(card, names, seeds=card.seeds, out=order.work)
        run_plan(plan, Compute(device=order.device, jobs=1))
        collect_results(plan, order.work / CLAIMED / card.name)
    (order.work / JOB).write_bytes(JOBS.dump_json(Job(dict(registry.broken), outcomes)))


if __name__ == "__main__":
    if len(sys.argv) != 2:
        raise SystemExit("this program is started by 'compatbench maintain ci'")
    main(sys.argv[1])
