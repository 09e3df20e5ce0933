"""Suites made up for the tests of the pages, and the cells of Markdown tables."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from itertools import product
from typing import Any, Literal

from synthetic_results import make_method, make_page, make_row, refuse, through_words

from compatbench.results.expected import Expected
from compatbench.results.method_results import MethodInfo, MethodResults
from compatbench.tables.markdown import render_table
from compatbench.tables.suite_page import SuitePage
from compatbench.tables.table import Table

Depth = Literal["none", "shallow", "deep"]

TASKS = ("cats", "dogs")

# What might end an element, an attribute, a script or a formula.
HOSTILE = (
    "<script>hacked = 1</script>",
    "</script><img src=x onerror='hacked = 1'>",
    '"><svg onload="hacked = 1">',
    "<!-- --> ]]> &amp; {{ 7 * 7 }} {% raw %}",
    "$\\frac{ $x^$ %s {0}",
    "\u2028\u202e\x00 line\nbreak",
)


def cells_of(lines: Table | list[str]) -> list[list[str]]:
    """The cells of a table, or of those among these lines, as Markdown has them."""
    if isinstance(lines, Table):
        lines = render_table(lines).splitlines()
    shown = [re.split(r"(?<!\\)\|", line)[1:-1] for line in lines if line.startswith("|")]
    return [[cell.strip() for cell in line] for line in shown]


def info(
    name: str, title: str = "", depth: Depth = "deep", paper: str = "arXiv:2109.01134"
) -> MethodInfo:
    """A method's card."""
    return MethodInfo(name, title or name, paper, depth, ("feature",), learns=depth != "none")


def method(
    of: MethodInfo,
    source: int,
    target: int,
    *,
    targets: Sequence[str] = ("new",),
    shots: Sequence[int] = (4,),
    seconds: float = 0.4,
    parameters: int = 8192,
) -> MethodResults:
    """Accuracies that are the same on both tasks but for 10 points; both seeds are alike."""
    rows = []
    draws = product(shots, (1, 2)) if of.learns else [(shots[0], 1)]
    for task, (count, seed) in product(TASKS, draws):
        fit = dict(method=of.name, task=task, seed=seed, shots=count, parameters=parameters)
        for backbone, correct in (("old", source), *((name, target) for name in targets)):
            right = max(correct + 10 * (task == "dogs"), 0)
            rows.append(make_row(right, backbone=backbone, **fit))
    return make_method(of, rows, seconds)


def small_page(**changes: Any) -> SuitePage:
    """Four methods that can be told apart by hand, on one upgrade."""
    page = make_page(
        method(info("zeroshot", "Zero-shot", "none"), 35, 55),
        method(info("coop", "CoOp", "shallow"), 60, 40, seconds=20.0, parameters=3072),
        method(info("tip", "Tip-Adapter"), 50, 60, seconds=0.1, parameters=0),
        method(info("probe", "Linear probe"), 70, 20, seconds=1.0, parameters=5000),
    )
    return replace(page, **changes)


def hostile_page() -> SuitePage:
    """Every text of it tries to break out."""
    methods = [method(info(f"m{i}", title), 40 + i, 50 - i) for i, title in enumerate(HOSTILE)]
    bad = refuse(method(info("r", HOSTILE[0], paper=HOSTILE[2]), 60, 60), HOSTILE[1])
    page = make_page(*methods, bad)
    titles = dict(zip(("old", "new"), (HOSTILE[1], HOSTILE[4]), strict=True))
    return replace(page, title=HOSTILE[1], note=HOSTILE[0] + HOSTILE[2], backbones=titles)


def long_page() -> SuitePage:
    """Two upgrades and two numbers of shots; some methods lack cells or have bad names."""
    expected = Expected(TASKS, (1, 4), (1, 2), (("old", "new"), ("old", "other")))
    everywhere: Any = dict(targets=("new", "other"), shots=(1, 4))
    depths: list[Depth] = ["shallow", "deep", "deep"]
    page = make_page(
        method(info("zeroshot", "Zero-shot", "none"), 35, 55, **everywhere),
        through_words(method(info("m03", "Method 03"), 43, 65, **everywhere)),
        method(info("half", "Half done"), 50, 50, shots=(4,)),
        *(
            method(info(f"m{i:02}", f"Method {i:02}", depths[i % 3]), 40 + i, 60 - i, **everywhere)
            for i in (*range(10), 11, 12)
        ),
        expected=expected,
    )
    return replace(page, backbones={"old": "Old model", "new": "New model", "other": "Other model"})
