"""Suites made up for the tests of the pages; their figures can be told by hand."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import product
from typing import Any, Literal

import pandas as pd
from made_results import (
    CELLS,
    COOP,
    PROBE,
    TWO_BY_TWO,
    UPGRADE,
    ZEROSHOT,
    flat,
    lines_of,
    make_method,
    make_page,
    make_pairs,
    make_row,
    make_suite,
    on_tasks,
    refuse,
    through_words,
    with_card,
)

from compatbench.results.expected import Expected, upgrade_pairs
from compatbench.results.rows import Row
from compatbench.results.stored_method import MethodInfo, StoredMethod
from compatbench.tables.suite_page import SuitePage

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
) -> StoredMethod:
    """Accuracies that are the same on both tasks but for 10 points; both seeds are alike."""
    rows = []
    draws = product(shots, (1, 2)) if of.learns else [(shots[0], 1)]
    for task, (count, seed) in product(TASKS, draws):
        fit = dict(method=of.name, task=task, seed=seed, shots=count, parameters=parameters)
        for backbone, correct in (("old", source), *((name, target) for name in targets)):
            right = max(correct + 10 * (task == "dogs"), 0)
            rows.append(make_row(right, backbone=backbone, **fit))
    return make_method(of, rows, seconds)


def on_six_tasks(page: SuitePage) -> SuitePage:
    """Return a page with each of its two tasks three times, so that methods have ranks."""
    methods = []
    for each in page.results.methods.values():
        rows = []
        costs = []
        for end in ("", "-2", "-3"):
            of_task = each.rows.assign(test_set=each.rows["test_set"] + end)
            rows.append(of_task.assign(task=each.rows["task"] + end))
            costs.append(each.costs.assign(test_set=each.costs["test_set"] + end))
        methods.append(replace(each, rows=pd.concat(rows), costs=pd.concat(costs)))
    tasks = tuple(f"{task}{end}" for end, task in product(("", "-2", "-3"), TASKS))
    card = page.card.model_copy(update={"tasks": tasks})
    expected = replace(page.expected, tasks=tasks)
    return replace(page, results=make_suite(*methods), card=card, expected=expected)


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
    page = with_card(page, title=HOSTILE[1], note=HOSTILE[0] + HOSTILE[2])
    return replace(page, backbones=titles)


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


KINDS = ("The new model is kin", "The new model is a stranger")


def survival_page() -> SuitePage:
    """Two kinds of upgrade on six tasks, and modules of every verdict.

    What a module gains on the first kind it loses on the second.
    """
    tasks = ("a", "b", "c", "d", "e", "f")
    gains = {
        "coop": ("CoOp", [-9, -8] * 3),
        "tip": ("Tip-Adapter", [3, 4] * 3),
        "probe": ("Linear probe", [9, -8] * 3),
        **{f"m{i}": (f"Method {i}", [1, 2] * 3) for i in range(8)},
        "maple": ("MaPLe", [3, 4] * 3),
    }
    methods = []
    for name, (title, of_method) in gains.items():
        rows = []
        for task, gain in zip(tasks, of_method, strict=True):
            for backbone, correct in (("old", 70), ("new", 60 + gain), ("other", 50 - gain)):
                rows.append(make_row(correct, method=name, task=task, backbone=backbone))
        methods.append(make_method(info(name, title), rows))
    methods.append(refuse(methods.pop(), "other sizes"))
    upgrades = (("old", "new"), ("old", "other"))
    return make_page(
        *methods,
        expected=Expected(tasks, (4,), (1,), upgrades),
        tasks={task: f"Task {task}" for task in tasks},
        groups={kind: (upgrade,) for kind, upgrade in zip(KINDS, upgrades, strict=True)},
        backbones={"old": "Old model", "new": "New model", "other": "Other model"},
    )


CONTCOOP = MethodInfo("contcoop", "ContCoOp", "arXiv:2412.20895", "shallow", ("text-input",))


def variant(name: str, right: tuple[int, int, int, int], **config: object) -> StoredMethod:
    """A config whose source and target accuracy, and so H, are equal on every cell."""
    of = replace(CONTCOOP, name=name, title=name)
    figures = {cell: (value, value) for cell, value in zip(CELLS, right, strict=True)}
    settings = {"attention": "self", "weight": 8.0} | config
    return make_method(of, make_pairs(figures, method=name), config=settings)


def states_page() -> SuitePage:
    """Every state: complete, the floor, not transferable, incomplete with a failure, refused."""
    visual = MethodInfo("visual", "Visual prompt", "", "deep", ("image-layers",))
    gone = MethodInfo("gone", "Gone", "a book", "deep", ("feature",))
    bad = replace(PROBE, name="bad", title="Bad", refused="check 'no-image': attach saw an image")
    broken = lines_of(flat(gone, 55, 55, 2))
    broken[0] = make_row(None, method="gone", status="failed", reason="RuntimeError: no | <b>")
    other = flat(PROBE, 80, 5, 2)
    zero_shot = [41, *other.rows["zero_shot_correct"][1:]]  # the others have 40
    disagrees = replace(other, rows=other.rows.assign(zero_shot_correct=zero_shot))
    return make_page(
        flat(ZEROSHOT, 40, 60),
        flat(COOP, 62, 57, 2),
        replace(disagrees, provenance={"torch": ("2.5", "2.6")}),
        refuse(flat(visual, 60, 50, 2), "width 128, not 192"),
        make_method(gone, broken[:-1]),
        flat(bad, 90, 90),
    )


def apart_page() -> SuitePage:
    """A method that sees test images, one with a teacher, and a transfer beside untouched ones."""
    tda = MethodInfo("tda", "TDA", "", "deep", ("classifier",), needs=("stream",))
    kdpl = MethodInfo("kdpl", "KDPL", "", "shallow", ("text-input",), needs=("teacher",))
    page = make_page(
        flat(ZEROSHOT, 40, 60),
        flat(COOP, 62, 57, 2),
        flat(tda, 90, 90),
        flat(kdpl, 50, 50),
        through_words(flat(COOP, 65, 60)),
        through_words(variant("other", (20, 20, 20, 20))),
    )
    return on_six_tasks(with_card(page, run_seeds=(1,)))


def breakage_page() -> SuitePage:
    """Flips, calibration, a harmed dataset, a development task and variants.

    Flips that are expected of independent errors: 70 % × 34 % are 23.8 %.
    """
    flips = dict(negative_flips=8, positive_flips=4, inconsistent_errors=6)
    rows = []
    for task, seed in CELLS:
        where = {"task": task, "seed": seed}
        right = 70 if task == "cats" else 60
        rows.append(make_row(right, **where, ece=2.0))
        rows.append(make_row(right - 4, **where, backbone="new", ece=5.0, **flips))
    cats = [cell for cell in CELLS if cell[0] == "cats"]
    rows += make_pairs(dict.fromkeys(cats, (40, 30)), test_set="cats-flat")
    rows += make_pairs(dict.fromkeys(cats, (20, 10)), test_set="cats-3d")
    variants = {"cats": ("cats-flat", "cats-3d")}
    expected = replace(TWO_BY_TWO, tasks=("cats",), development=("dogs",), variants=variants)
    page = make_page(make_method(COOP, rows), flat(ZEROSHOT, 40, 60), expected=expected)
    return replace(page, tasks={**page.tasks, "cats-flat": "Flat", "cats-3d": "3D"})


def ablation_page() -> SuitePage:
    """Two configs of a method: the one loses 5 on both tasks, the other gains 3 and loses 4."""
    cross = variant("contcoop+cross", (46, 55, 46, 57), attention="cross")
    # What prompts differ by on the source: 0.2 on one task, 0.3 on the other.
    diversity = cross.rows["task"].map({"cats": 0.2, "dogs": 0.3})
    page = make_page(
        variant("contcoop", (50, 60, 52, 62)),
        replace(cross, rows=cross.rows.assign(prompt_diversity=diversity)),
        variant("contcoop+no-kd", (54, 56, 54, 58), weight=0.0),
        variant("alone+config", (54, 56, 54, 58)),
    )
    configs = dict.fromkeys(("contcoop+no-kd", "contcoop+cross", "contcoop+not-run"), "contcoop")
    return replace(page, configs=configs | {"alone+config": "alone"})


def shots_page() -> SuitePage:
    """Two numbers of shots; of one method, one cell of the fewer is missing."""
    rows = make_pairs(dict.fromkeys(CELLS, (50, 30)))
    rows += make_pairs(dict.fromkeys(CELLS, (70, 70)), shots=16)
    probe = make_pairs(dict.fromkeys(CELLS, (60, 40)), shots=16, method="linear_probe")
    probe += make_pairs(dict.fromkeys(CELLS[:3], (60, 40)), method="linear_probe")
    expected = replace(TWO_BY_TWO, shots=(16, 4))
    methods = make_method(COOP, rows), make_method(PROBE, probe), flat(ZEROSHOT, 40, 60)
    return make_page(*methods, expected=expected)


def path_page() -> SuitePage:
    """A path of three models, on which zero-shot has 40, 50 and 60 right; a cell is missing."""
    right = {"old": (60, 70), "middle": (58, 66), "new": (63, 61)}

    def rows_of(name: str) -> list[Row]:
        rows = []
        for backbone, (cats, dogs) in right.items():
            for task, seed in CELLS:
                correct = cats if task == "cats" else dogs
                correct += 2 * (seed - 1)
                where = {"task": task, "seed": seed, "backbone": backbone}
                rows.append(make_row(correct, method=name, **where))
        return rows

    coop = rows_of("coop")
    probe = rows_of("linear_probe")
    del probe[7]  # the last one on the model in the middle
    path = tuple(right)
    groups = {"Kin": (UPGRADE, ("old", "middle"))}
    expected = replace(TWO_BY_TWO, upgrades=upgrade_pairs([path]))
    methods = make_method(COOP, coop), make_method(PROBE, probe)
    return make_page(*methods, expected=expected, paths=(path,), groups=groups)


def retained_page() -> SuitePage:
    """A method that is attached and retrained on a target, where zero-shot has 60 of 100 right."""
    attached = zip(CELLS, [(50, 62), (50, 70), (50, 64), (50, 68)], strict=True)
    retrained = [
        make_row(right, task=task, seed=seed, source="new", backbone="new")
        for (task, seed), right in zip(CELLS, (64, 88, 68, 84), strict=True)
    ]
    coop = make_method(COOP, [*make_pairs(dict(attached)), *retrained])
    return make_page(coop, flat(ZEROSHOT, 40, 60), expected=replace(TWO_BY_TWO, retrained=True))


def tested_page() -> SuitePage:
    """Three methods that differ on each of eight tasks; the floor has no second seed."""
    methods = [on_tasks(f"m{right}", range(right, right + 8)) for right in (10, 50, 60)]
    floor = on_tasks("floor", range(49, 57), ZEROSHOT)
    return make_page(
        *methods, floor, expected=Expected(tuple("abcdefgh"), (4,), (1, 2), (UPGRADE,))
    )


def partial_page() -> SuitePage:
    """Parts of what a suite asks for, and other tasks, seeds and shots than it has."""
    rows = make_pairs({("dogs", 2): (70, 50), ("birds", 7): (70, 50)})
    cells = product(TASKS, (1, 2, 3))
    rows += make_pairs(dict.fromkeys(cells, (60, 40)), shots=8)
    other = method(info("other", "Other"), 80, 80)
    return make_page(
        make_method(info("coop", "CoOp"), rows),
        method(info("zeroshot", "Zero-shot", "none"), 35, 55),
        *(other, through_words(other)),
        expected=replace(TWO_BY_TWO, seeds=(1, 2, 3)),
    )
