"""Forged results, each of which an audit must find, and say what it must say.

    python benchmark/faults/forgeries.py [NAME ...]

A forgery is a function that changes a copy of a small honest project, and a line in ``FORGERIES``.
"""

from __future__ import annotations

import os
import re
import shutil
import sys
import tempfile
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import compatbench as cb
from compatbench.audit import Audit
from compatbench.files.project_folders import tasks_folder
from compatbench.pages.leaderboard import write_pages

METHODS = ("simpleshot", "taskres", "zeroshot")
SUITES = {
    "tiny": """\
name: tiny
title: Tiny
upgrades: [[mini-clip, mini-eva-clip]]
tasks: [mini-weather]
shots: [2]
seeds: [1, 2]
training: {views: 1, max_steps: 5}
""",
    # The same cells on another target, and on one whose weights no clone has.
    "wide": "{name: wide, title: Wide, extends: tiny, upgrades: [[mini-clip, mini-clip-next]]}\n",
    "away": "{name: away, title: Away, extends: tiny, upgrades: [[mini-clip, eva02-b16]]}\n",
}


@dataclass(frozen=True)
class Project:
    """A folder with ``results/``, ``leaderboard.md``, and ``tasks/`` of its own."""

    folder: Path

    def edit(self, name: str, change: Callable[[str], str]) -> None:
        """Changes a file below ``results/``, which must really change."""
        path = self.folder / "results" / name
        before = path.read_text()
        path.write_text(after := change(before))
        assert after != before, name

    def add(self, name: str, column: str, images: int, lines: tuple[int, ...] = ()) -> None:
        """Adds to a column of a file, in these lines (1 is the header) or in all."""

        def change(text: str) -> str:
            header, *rows = (line.split(",") for line in text.splitlines())
            for number, row in enumerate(rows, 2):
                if not lines or number in lines:
                    place = header.index(column)
                    row[place] = str(int(row[place]) + images)
            return "".join(",".join(row) + "\n" for row in (header, *rows))

        self.edit(name, change)

    def claim(self, processor: str, suite: str, method: str) -> None:
        """Says that a method's results were made by a processor."""
        pattern, said = r'("processor": \[\s*)"[^"]*"', rf'\g<1>"{processor}"'
        self.edit(f"{suite}/{method}.json", lambda text: re.sub(pattern, said, text))

    def damage(self, name: str) -> None:
        """Appends one byte to a file below ``tasks/mini/``."""
        with (self.folder / "tasks" / "mini" / name).open("ab") as file:
            file.write(b"\n")

    @contextmanager
    def in_force(self) -> Iterator[None]:
        """With its own cards, and a cache beside the folder."""
        wanted = {
            "COMPATBENCH_TASKS": str(self.folder / "tasks"),
            "COMPATBENCH_CACHE": str(self.folder.parent / "cache"),
        }
        before = {name: os.environ.get(name) for name in wanted}
        os.environ.update(wanted)
        try:
            yield
        finally:
            for name, value in before.items():
                if value is None:
                    del os.environ[name]
                else:
                    os.environ[name] = value


@dataclass(frozen=True)
class Forgery:
    """What is forged, what is expected to be said of it, and how many cells are run again."""

    forge: Callable[[Project], object]
    expected: str  # searched for in the findings, a regular expression
    cells: int = 0
    zero_shot: bool = False


def every_count(project: Project, column: str, images: int, processor: str = "") -> None:
    """Moves a count in all rows of all suites, and has other processors made them."""
    for suite in ("tiny", "wide"):
        for method in METHODS:
            project.add(f"{suite}/{method}.csv", column, images)
            if processor:
                project.claim(processor, suite, method)


def on_target(project: Project, suite: str) -> None:
    """One more image right on the target of SimpleShot's first seed; the flips fit."""
    for column in ("correct", "positive_flips"):
        project.add(f"{suite}/simpleshot.csv", column, 1, (3,))


def on_source(project: Project) -> None:
    """One more image right on the source in one of two suites; the flips fit."""
    project.add("wide/simpleshot.csv", "correct", 1, (2, 3))


def invent_suite(project: Project) -> None:
    """A suite whose weights nobody has here, with numbers of another."""
    shutil.copytree(project.folder / "results" / "tiny", project.folder / "results" / "away")
    for path in sorted((project.folder / "results" / "away").glob("*.csv")):
        path.write_text(path.read_text().replace("mini-eva-clip", "eva02-b16"))


def beside_a_stranger(project: Project) -> None:
    """Another method's file names another processor."""
    project.claim("AMD EPYC 9", "wide", "taskres")
    on_target(project, "wide")


DRIFT = "cells computed again differ by more than rounding explains"
AGAIN = "'correct': the cell was run again and gave another number"
OTHER = "AMD EPYC 9"
FORGERIES: dict[str, Forgery] = {
    "weights that ship, one byte more": Forgery(
        lambda project: project.damage("mini-eva-clip.safetensors"),
        "mini-eva-clip ships with the project: .* is damaged",
    ),
    "a split that ships, one byte more": Forgery(
        lambda project: project.damage("splits/weather.csv"),
        "mini-weather ships with the project: .* is damaged",
    ),
    "an invented suite that needs other weights": Forgery(
        invent_suite, r"away: \d+ rows are not checked; missing here: weights of eva02-b16"
    ),
    "a target in the second suite of a cell": Forgery(
        lambda project: on_target(project, "wide"), rf"wide/simpleshot.csv:3: {AGAIN}", cells=9
    ),
    "a source in one of two suites": Forgery(
        on_source, r"wide/simpleshot.csv:\d: 'correct': is not that under the same key in .*tiny"
    ),
    "two percent everywhere, by another processor": Forgery(
        lambda project: every_count(project, "correct", 5, OTHER), f"'correct': .*{DRIFT}", cells=9
    ),
    "two percent less zero-shot, by another processor": Forgery(
        lambda project: every_count(project, "zero_shot_correct", -5, OTHER),
        f"'zero_shot_correct': .*{DRIFT}",
        zero_shot=True,
    ),
    "one image beside a file of another processor": Forgery(
        beside_a_stranger, rf"wide/simpleshot.csv:3: {AGAIN}", cells=9
    ),
}


def make_honest(folder: Path) -> Project:
    """The project that is forged, in a new folder; measures its cells."""
    shutil.copytree(tasks_folder(), folder / "tasks", ignore=shutil.ignore_patterns("build"))
    shutil.rmtree(folder / "tasks" / "suites")
    (folder / "tasks" / "suites").mkdir()
    for name, text in SUITES.items():
        (folder / "tasks" / "suites" / f"{name}.yaml").write_text(text)
    project = Project(folder)
    with project.in_force():
        for suite in ("tiny", "wide"):
            cb.run(suite, methods=METHODS, out=folder)
        write_pages(folder)
    shutil.rmtree(folder / "runs")
    return project


def audit(
    project: Project, cells: int = 0, zero_shot: bool = False, unverified: Collection[str] = ()
) -> Audit:
    """Audits a project with pages that fit its results, as far as any can be made."""
    with project.in_force():
        write_pages(project.folder)
        return cb.audit_results(
            project.folder, cells=cells, seed=7, zero_shot=zero_shot, unverified=unverified
        )


def try_forgery(name: str, honest: Project, folder: Path) -> list[str]:
    """What an audit says of a forgery that it was expected to say."""
    forgery, project = FORGERIES[name], Project(folder)
    shutil.copytree(honest.folder, folder)
    forgery.forge(project)
    found = map(str, audit(project, forgery.cells, forgery.zero_shot).findings)
    return [line for line in found if re.search(forgery.expected, line)]


def main(names: list[str]) -> int:
    """Tries forgeries, by default all; 1 if one is not found."""
    missed = 0
    with tempfile.TemporaryDirectory() as place:
        honest = make_honest(Path(place) / "honest")
        for number, name in enumerate(names or FORGERIES):
            lines = try_forgery(name, honest, Path(place) / str(number))
            missed += not lines
            print(f"{name}: {lines[0] if lines else 'NOT FOUND'}")
    return int(missed > 0)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
