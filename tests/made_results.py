"""Results made up for the tests: rows, methods, suites."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import pandas as pd

from compatbench.data.cards import SuiteCard
from compatbench.engine.cell import shorten_key
from compatbench.files.hashes import sha256_json
from compatbench.results.expected import Expected
from compatbench.results.rows import Cost, Row, to_frame
from compatbench.results.stored_method import MethodInfo, StoredMethod
from compatbench.results.suite_results import SuiteResults, gather_results
from compatbench.tables.pages.sections import list_sections
from compatbench.tables.suite_page import SuitePage

ZERO_SHOT = {"old": 40, "new": 60, "mini-clip": 40}
COOP = MethodInfo("coop", "CoOp", "arXiv:2109.01134", "shallow", ("text-input",))
PROBE = MethodInfo("linear_probe", "Linear probe", "arXiv:2103.00020", "deep", ("classifier",))
ZEROSHOT = MethodInfo("zeroshot", "Zero-shot", "arXiv:2103.00020", "none", ("none",), learns=False)
UPGRADE = ("old", "new")
TWO_BY_TWO = Expected(("cats", "dogs"), shots=(4,), seeds=(1, 2), upgrades=(UPGRADE,))
CELLS = [("cats", 1), ("dogs", 1), ("cats", 2), ("dogs", 2)]


def make_row(correct: int | None = 50, **changes: Any) -> Row:
    """A row of 100 images; with ``correct=None``, pass ``status``."""
    values: dict[str, Any] = dict(method="coop", task="cats", source="old", backbone="old")
    values |= dict(shots=4, seed=1, status="ok", parameters=8192, module_bytes=32768) | changes
    fit = [values[part] for part in ("method", "task", "source", "shots", "seed")]
    values = {"test_set": values["task"], "key": shorten_key(sha256_json(fit))} | values
    data = sha256_json([values["backbone"], values["test_set"]])
    values.setdefault("data", shorten_key(data))
    if correct is not None:
        zero_shot = ZERO_SHOT.get(values["backbone"], 50)
        values |= {"correct": correct, "total": 100, "zero_shot_correct": zero_shot}
    return Row(**values)


def make_pairs(
    figures: Mapping[tuple[str, int], tuple[int, int]], method: str = "coop", **changes: Any
) -> list[Row]:
    """Source and target rows from (task, seed) -> (source correct, target correct) of 100."""
    return [
        make_row(correct, method=method, task=task, seed=seed, backbone=backbone, **changes)
        for (task, seed), both in figures.items()
        for backbone, correct in zip(("old", "new"), both, strict=True)
    ]


def make_method(
    info: MethodInfo, rows: Iterable[Row], seconds: float = 0.4, **changes: Any
) -> StoredMethod:
    """A method's results, with a cost for every row."""
    frame = to_frame(rows, Row)
    costs = frame[Cost.place].assign(fit_seconds=seconds, evaluate_seconds=0.1)
    costs["peak_memory"] = to_frame([], Cost)["peak_memory"]
    results = StoredMethod(info, {"lr": 0.002}, {}, {"torch": ("2.6",)}, frame, costs)
    return replace(results, **changes)


def flat(info: MethodInfo, source: int, target: int, step: int = 0) -> StoredMethod:
    """A method that is as good on both tasks; the second seed has some more images right."""
    seeds = {1: (source, target), 2: (source + step, target + step)}
    cells = {cell: seeds[cell[1]] for cell in (CELLS if info.learns else CELLS[:2])}
    return make_method(info, make_pairs(cells, method=info.name))


def on_tasks(name: str, values: Sequence[int], info: MethodInfo = COOP) -> StoredMethod:
    """A method whose accuracies, and so H, are these on tasks a, b, …; seed 2 has two more."""
    cells = {
        (task, seed): (value + 2 * (seed - 1),) * 2
        for task, value in zip("abcdefgh", values, strict=False)
        for seed in ((1, 2) if info.learns else (1,))
    }
    return make_method(replace(info, name=name, title=name), make_pairs(cells, method=name))  # type: ignore[arg-type]


def by_task(name: str, info: MethodInfo, figures: Mapping[str, tuple[int, int]]) -> StoredMethod:
    """A method with these accuracies on source and target by task; both seeds are alike."""
    cells = {(task, seed): both for task, both in figures.items() for seed in (1, 2)}
    return make_method(replace(info, name=name, title=name), make_pairs(cells, method=name))


def refuse(results: StoredMethod, reason: str) -> StoredMethod:
    """The same results, but the module cannot be attached to the target."""
    where = results.rows["backbone"] == "new"
    counts = ("correct", "total", "zero_shot_correct")
    rows = results.rows.assign(status=results.rows["status"].mask(where, "not transferable"))
    rows = rows.assign(reason=rows["reason"].mask(where, reason))
    return replace(results, rows=rows.assign(**{n: rows[n].mask(where) for n in counts}))


def lines_of(results: StoredMethod) -> list[Row]:
    """The rows of a method one by one."""
    records = results.rows.astype(object).to_dict("records")
    return [
        Row(**{name: value for name, value in one.items() if value == value and value is not None})
        for one in records
    ]


def by_transfer(transfer: str, copied: StoredMethod) -> StoredMethod:
    """Return the same results, of modules that were moved by a transfer."""
    rows = copied.rows.assign(transfer=transfer).astype(copied.rows.dtypes)
    return replace(copied, rows=rows)


def through_words(copied: StoredMethod) -> StoredMethod:
    """The same results, of modules that are brought along through words."""
    return by_transfer("words", copied)


def coop_by_way(transfer: str, target: int) -> StoredMethod:
    """CoOp's modules brought along this way; the target's zero-shot is 60."""
    return by_transfer(transfer, flat(COOP, 50, target))


def make_suite(*methods: StoredMethod) -> SuiteResults:
    """Return the results of a suite; methods of one name are several transfers of it."""
    joined: dict[str, StoredMethod] = {}
    for method in methods:
        name = method.info.name
        if name in joined:
            known = joined[name]
            rows = pd.concat([known.rows, method.rows])
            costs = pd.concat([known.costs, method.costs]).drop_duplicates(Cost.place)
            method = replace(known, rows=rows, costs=costs)
        joined[name] = method
    return gather_results("tiny", joined)


def with_more(page: SuitePage, *methods: StoredMethod) -> SuitePage:
    """Return the page with further methods, or with others of the same names."""
    joined = {**page.results.methods, **make_suite(*methods).methods}
    return replace(page, results=gather_results("tiny", joined))


def make_page(*methods: StoredMethod, expected: Expected = TWO_BY_TWO, **changes: Any) -> SuitePage:
    """A suite's page with these methods."""
    asked = {name: getattr(expected, name) for name in ("upgrades", "tasks", "shots", "seeds")}
    page = SuitePage(
        # Some of the names that tests give are none of a card.
        card=SuiteCard.model_construct(
            name="tiny", title="Tiny suite", note="Invented figures.", **asked
        ),
        tasks={"cats": "Cats", "dogs": "Dogs"},
        backbones={"old": "Old model", "new": "New model"},
        expected=expected,
        results=make_suite(*methods),
    )
    return replace(page, **changes)


def with_card(page: SuitePage, **fields: Any) -> SuitePage:
    """The page of a suite whose card has these fields."""
    return replace(page, card=page.card.model_copy(update=fields))


def render_sections(page: SuitePage) -> str:
    """The tables of a suite's own, as the site has them before they are HTML."""
    sections = list_sections("suite", page)
    return "".join(f"\n## {section.title}\n\n{section.render(page)}\n" for section in sections)
