"""A small honest project, copies of it that can be forged, and the audit of a copy."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from unittest.mock import patch

import pandas as pd

import compatbench as cb
from compatbench.engine import keys
from compatbench.engine.execute.compute import Compute
from compatbench.extras.audit import Audit
from compatbench.files.hashes import sha256_file
from compatbench.files.project_folders import tasks_folder
from compatbench.tables.leaderboard import write_pages

METHODS = ("coop", "simpleshot", "taskres", "zeroshot")
SUITE = """\
name: tiny
title: Tiny
upgrades: [[mini-clip, mini-eva-clip]]
tasks: [mini-weather]
shots: [2]
seeds: [1, 2]
training: {views: 1, max_steps: 5}
"""
SUITES = {
    "tiny": SUITE,
    # The same cells on another target, but of CoOp, and on one whose weights no clone has.
    "wide": "{name: wide, title: Wide, extends: tiny, upgrades: [[mini-clip, mini-clip-next]],\n"
    " methods: {coop: {recipe: {lr: 0.02}}}}\n",
    "away": "{name: away, title: Away, extends: tiny, upgrades: [[mini-clip, eva02-b16]]}\n",
}
README = "# Ours\n\nThe best of all.\n\n<!-- leaderboard:begin -->\n<!-- leaderboard:end -->\n"


@dataclass(frozen=True)
class Project:
    """A folder with ``results/``, pages, and ``tasks/`` of its own."""

    folder: Path

    @property
    def cache(self) -> Path:
        """Beside the folder, so that copies share it."""
        return self.folder.parent / "cache"

    def copy(self, folder: Path) -> Project:
        """A copy beside it; what ships is linked, not copied, until ``write`` changes it."""
        shutil.copytree(self.folder, folder, ignore=shutil.ignore_patterns("tasks"))
        shutil.copytree(self.folder / "tasks", folder / "tasks", copy_function=os.link)
        return Project(folder)

    def write(self, name: str, content: bytes) -> None:
        """Gives a file, by its path in the project, another content."""
        path = self.folder / name
        path.unlink(missing_ok=True)
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(content)

    def edit(self, name: str, change: Callable[[str], str]) -> None:
        """Changes a file, which must really change."""
        before = (self.folder / name).read_bytes().decode()
        after = change(before)
        assert after != before, name
        self.write(name, after.encode())

    def replace(self, name: str, old: str, new: str) -> None:
        """Replaces a pattern wherever it is in a file."""
        self.edit(name, lambda text: re.sub(old, new, text))

    @contextmanager
    def table(self, name: str) -> Iterator[pd.DataFrame]:
        """The lines of a CSV file as text, by their numbers, the first after the header is 2."""
        table = pd.read_csv(self.folder / name, dtype=str, keep_default_na=False)
        table.index += 2
        yield table
        self.write(name, table.to_csv(index=False, lineterminator="\n").encode())

    def change(self, name: str, column: str, value: Callable[[str], object], *lines: int) -> None:
        """Changes a column of a CSV file, in these lines or in all."""
        with self.table(name) as table:
            where = list(lines) or list(table.index)
            table.loc[where, column] = [str(value(old)) for old in table.loc[where, column]]

    def add(self, name: str, column: str, images: int, *lines: int) -> None:
        """Adds to a count."""
        self.change(name, column, lambda count: int(count) + images, *lines)

    def hash_anew(self, name: str, listed: str) -> None:
        """Has a file that lists the SHA-256 of another one give the one that it has now."""
        old = sha256_file(tasks_folder() / name)
        self.replace(f"tasks/{listed}", old, sha256_file(self.folder / "tasks" / name))

    @contextmanager
    def in_force(self) -> Iterator[None]:
        """With its own cards, and a cache beside the folder."""
        tasks, cache = str(self.folder / "tasks"), str(self.cache)
        with patch.dict(os.environ, COMPATBENCH_TASKS=tasks, COMPATBENCH_CACHE=cache):
            _forget_keys()
            try:
                yield
            finally:
                _forget_keys()

    def publish(self) -> None:
        """Makes the pages of the results as they are."""
        with self.in_force():
            write_pages(self.folder)

    def audit(
        self, again: Collection[str] = (), zero_shot: bool = False, unverified: Collection[str] = ()
    ) -> Audit:
        """Audits it, and runs all cells of these methods again."""
        options = {"cells": 99 if again else 0, "only": again, "zero_shot": zero_shot}
        with self.in_force():
            return cb.audit_results(self.folder, unverified=unverified, seed=7, **options)


def _forget_keys() -> None:
    """A process takes cards for unchanged; here each project has its own."""
    for value in vars(keys).values():
        if callable(clear := getattr(value, "cache_clear", None)):
            clear()


def make_honest(folder: Path) -> Project:
    """The project that is forged, in a new folder; measures its cells.

    Of ``tiny/taskres.csv`` lines 2 and 3 are seed 1 on the source and on the target, and 4 and 5
    seed 2; 6 to 9 are the same through words.
    """
    shutil.copytree(tasks_folder(), folder / "tasks", ignore=shutil.ignore_patterns("build"))
    shutil.rmtree(folder / "tasks" / "suites")
    (folder / "tasks" / "suites").mkdir()
    for name, text in SUITES.items():
        (folder / "tasks" / "suites" / f"{name}.yaml").write_text(text)
    (folder / "README.md").write_text(README)
    project = Project(folder)
    with project.in_force():
        here = {"out": folder, "compute": Compute(jobs=1)}
        cb.run("tiny", methods=METHODS, **here)
        cb.run("tiny", methods=["taskres"], transfers=["words"], **here)
        cb.run("wide", methods=METHODS, **here)
    shutil.rmtree(folder / "runs")
    return project
