"""What a forger does to a copy of the honest project: a function for each forgery."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from functools import partial
from operator import methodcaller
from typing import Any
from unittest.mock import patch

import pandas as pd
from forged_project import METHODS, Project
from PIL import Image
from torch import Tensor

import compatbench as cb
from compatbench.backbone import Backbone
from compatbench.data.layouts.drawings import Drawings
from compatbench.engine.execute.compute import Compute
from compatbench.results.store import read_methods, with_figures, write_results
from compatbench.tables.report_site import make_report

Forger = Callable[[Project], object]

OTHER = "AMD EPYC 9"
ROWS, SIMPLESHOT, COOP = (f"results/tiny/{n}.csv" for n in ("taskres", "simpleshot", "coop"))
WIDE = "results/wide/simpleshot.csv"
SPLIT, SHEET = "tasks/mini/splits/weather.csv", "tasks/mini/drawings/twemoji.webp"
WEIGHTS = "mini/mini-eva-clip.safetensors"
FLIPS = ["negative_flips", "positive_flips", "inconsistent_errors"]
COUNTED = ["correct", *FLIPS, "ece"]


# What a project can do to a file of its own, as forgers.
change, add, replace = (partial(methodcaller, name) for name in ("change", "add", "replace"))


def append(name: str) -> Forger:
    """One byte more."""
    return lambda project: project.write(name, (project.folder / name).read_bytes() + b"\n")


def together(*forgers: Forger) -> Forger:
    """Several changes that fit each other."""
    return lambda project: [forge(project) for forge in forgers]


def keep_lines(name: str, *lines: int) -> Forger:
    """Keeps these lines of a file, in this order."""

    def keep(text: str) -> str:
        every = text.splitlines(keepends=True)
        return "".join(every[number - 1] for number in lines)

    return lambda project: project.edit(name, keep)


def flip_hex(value: str) -> str:
    """A hash that differs in its first digit."""
    return ("0" if value[0] != "0" else "1") + value[1:]


def claim(suite: str, method: str, processor: str = OTHER) -> Forger:
    """Says that a method's results were made by a processor."""
    pattern, said = r'("processor": \[\s*)"[^"]*"', rf'\g<1>"{processor}"'
    return replace(f"results/{suite}/{method}.json", pattern, said)


def every_count(column: str, images: int, processor: str = "") -> Forger:
    """Moves a count in all rows of all suites, and has other processors made them."""
    files = [(suite, method) for suite in ("tiny", "wide") for method in METHODS]
    moved = [add(f"results/{suite}/{method}.csv", column, images) for suite, method in files]
    return together(*moved, *(claim(*file, processor) for file in files if processor))


def one_more(name: str, *lines: int) -> Forger:
    """One more image right on targets; the flips fit."""
    return together(*(add(name, column, 1, *lines) for column in ("correct", "positive_flips")))


def fewer_flips() -> Forger:
    """Two flips less in both directions."""
    return together(*(add(ROWS, column, -2, 3, 5) for column in FLIPS[:2]))


def halve(name: str, column: str, *lines: int) -> Forger:
    """Halves a real number."""
    return change(name, column, lambda value: round(float(value) / 2, 4), *lines)


def swap_seeds(*columns: str) -> Forger:
    """Gives SimpleShot's two seeds each other's figures."""

    def swap(project: Project) -> None:
        with project.table(SIMPLESHOT) as table:
            names = list(columns)
            table.loc[[2, 3, 4, 5], names] = table.loc[[4, 5, 2, 3], names].to_numpy()

    return swap


def copy_rows(*columns: str) -> Forger:
    """Shows TaskRes's figures, or whole rows, as SimpleShot's."""

    def copy(project: Project) -> None:
        with project.table(ROWS) as other:
            better = other.loc[[2, 3, 4, 5]].assign(method="simpleshot")
        with project.table(SIMPLESHOT) as table:
            names = list(columns) or list(table.columns)
            table.loc[[2, 3, 4, 5], names] = better[names].to_numpy()

    return copy


def hide(status: str) -> Forger:
    """No number on the target, in place of a bad one."""

    def forge(project: Project) -> None:
        with project.table(SIMPLESHOT) as table:
            table.loc[[3, 5], [*COUNTED, "total", "zero_shot_correct"]] = ""
            table.loc[[3, 5], ["status", "reason"]] = status, "it could not be"

    return forge


def invent_suite(project: Project) -> None:
    """A suite whose weights nobody has here, with numbers of another."""
    folder = project.folder / "results" / "away"
    shutil.copytree(project.folder / "results" / "tiny", folder)
    for path in sorted(folder.glob("*.csv")):
        path.write_text(path.read_text().replace("mini-eva-clip", "eva02-b16"))
    for method in read_methods(folder).values():
        write_results(folder, method)  # in the order of their names


def hide_the_mark(project: Project) -> None:
    """An invented suite, shown as if it had been verified."""
    invent_suite(project)
    project.publish()
    project.replace("leaderboard.md", r" \(reported, not verified\)", "")


def invent_method(project: Project) -> None:
    """A method of which there is no code, with CoOp's rows."""
    for end in (".csv", ".cost.csv", ".json"):
        text = (project.folder / COOP).with_suffix(end).read_text()
        text = text.replace("coop,", "mine,").replace('"name": "coop"', '"name": "mine"')
        project.write(f"results/tiny/mine{end}", text.encode())


def invent_rows(project: Project) -> None:
    """A method that is here, with nine in ten images right everywhere, and flips that fit."""
    project.change(COOP, "correct", lambda _: 232)
    for column, images in zip(FLIPS, (5, 5, 2), strict=True):
        project.change(COOP, column, lambda _, images=images: images, 3, 5)


def link(name: str) -> Forger:
    """A file or a folder that lies elsewhere."""

    def forge(project: Project) -> None:
        (project.folder / name).rename(project.folder / "elsewhere")
        (project.folder / name).symlink_to(project.folder / "elsewhere")

    return forge


def other_images(project: Project) -> None:
    """A split whose drawings are painted in other colours, with a hash that fits."""
    project.replace(SPLIT, r"(?m)1$", "2")
    project.hash_anew("mini/splits/weather.csv", "mini/manifest.json")


def other_weights(project: Project) -> None:
    """Weights with one bit changed, and hashes that fit."""
    content = bytearray((project.folder / "tasks" / WEIGHTS).read_bytes())
    content[-1] ^= 1
    project.write(f"tasks/{WEIGHTS}", bytes(content))
    for listed in ("backbones/mini-eva-clip.yaml", "mini/manifest.json"):
        project.hash_anew(WEIGHTS, listed)


def blank_images(project: Project) -> None:
    """The numbers of a decoder that gives blank images."""
    blank = Project(project.folder / "blank" / "project")  # with a cache of its own
    blank.folder.mkdir(parents=True)
    (blank.folder / "tasks").symlink_to(project.folder / "tasks")
    white, encode = Image.new("RGB", (48, 48), "white"), Backbone.encode_images

    def encode_one(backbone: Backbone, images: Tensor, *wanted: Any) -> Tensor:
        return encode(backbone, images[:1], *wanted).expand(len(images), -1)  # all are alike

    patches = patch.object(Drawings, "image", lambda *_: white)
    with blank.in_force(), patches, patch.object(Backbone, "encode_images", encode_one):
        cb.run("tiny", methods=["simpleshot"], out=blank.folder, compute=Compute(jobs=1))
    for end in (".csv", ".cost.csv"):
        name = SIMPLESHOT.replace(".csv", end)
        project.write(name, (blank.folder / name).read_bytes())


def add_bonus(project: Project) -> None:
    """Pages made by code that gives TaskRes five points more."""

    def favour(rows: pd.DataFrame, costs: pd.DataFrame) -> pd.DataFrame:
        table = with_figures(rows, costs)
        return table.assign(accuracy=table["accuracy"] + 5 * (table["method"] == "taskres"))

    with patch("compatbench.results.store.with_figures", favour):
        project.publish()


def draw_by_hand(name: str, end: str = "</svg>", vl_convert: str = "") -> Forger:
    """A figure or report that was changed after it was made; the figure names a vl-convert."""

    def forge(project: Project) -> None:
        shutil.rmtree(project.folder / "results" / "wide")  # a figure less to draw
        with project.in_force():
            make_report(project.folder)
            project.publish()
            project.replace(name, end, f"<text>mine</text>{end}")
            if vl_convert:
                project.replace(name, r"by vl-convert \S+", f"by vl-convert {vl_convert}")
                with patch("compatbench.tables.report_site.write_changed", write):
                    make_report(project.folder, check=True)

    def write(files: dict[Any, bytes], *_: object) -> None:
        for path, content in files.items():
            path.write_bytes(content)

    return forge


def fewer_seeds(project: Project) -> None:
    """A suite that asks for one seed less, without its rows."""
    project.replace("tasks/suites/tiny.yaml", r"\[1, 2\]", "[1]")
    for suite in ("tiny", "wide"):
        for method in METHODS:
            name = f"results/{suite}/{method}"
            with project.table(f"{name}.csv") as rows:
                gone = set(rows.loc[rows["seed"] == "2", "key"])
            for end in (".csv", ".cost.csv") if gone else ():
                lines = (project.folder / f"{name}{end}").read_text().splitlines(keepends=True)
                left = (line for line in lines if not any(key in line for key in gone))
                project.write(f"{name}{end}", "".join(left).encode())
