"""On a terminal: a ranking in the making, and tables that lose nothing on 80 columns."""

from __future__ import annotations

from io import StringIO
from typing import Any

import pytest
from made_results import make_page, on_tasks
from made_up_suites import info
from rich.console import Console

from compatbench.cli import output
from compatbench.results.expected import Expected
from compatbench.runs.ranking_so_far import finished_part
from compatbench.tables.console import SafeConsole
from compatbench.tables.table import plain_table, sentence
from compatbench.tables.terminal import render_table


def test_a_partial_ranking_uses_only_tasks_that_all_shown_methods_have_finished() -> None:
    expected = Expected(tuple("abcd"), (4,), (1, 2), (("old", "new"),))
    done = {"quick": (60, 60, 60, 90), "late": (50, 70, 70), "slow": (90,)}
    methods = {n: on_tasks(n, values, info(n, n)) for n, values in done.items()}
    part = finished_part(make_page(*methods.values(), expected=expected))
    # Two methods on three tasks, not one on four, nor three on one, which is less than half.
    assert part.expected.tasks == ("a", "b", "c")
    assert part.part == "3 of 4 tasks"
    ranking = part.ranking(("old", "new"), 4)
    h = dict(zip(ranking["method"], ranking["h"].round(4), strict=True))
    # Both seeds are done; the second has two more, and source and target are equal.
    assert h == {"quick": 61.0, "late": round((50 + 70 + 70) / 3 + 1, 4)}
    # Of the first moments whatever is most: three methods on a task, or one on two.
    first = {"quick": (60,), "late": (50,), "slow": (90,)}
    page = make_page(*(on_tasks(n, v, info(n, n)) for n, v in first.items()), expected=expected)
    assert len(finished_part(page).results.methods) == 3  # type: ignore[union-attr]
    assert finished_part(make_page(expected=expected)) is None


LONG = "visual.transformer.resblocks.11.attn.out_proj.lora_A.default.weight"
RECALL = ["target", "queries", "way", "pairs", "recall@1", "recall@5", "recall@10", "map"]


@pytest.mark.parametrize(
    ("columns", "row", "whole"),
    [
        # A name is whole as long as the other columns have ten characters.
        (["tensor", "shape", "type"], [LONG, "768 × 768", "float32"], ["768 × 768", "float32"]),
        (["tensor", "shape"], [LONG, "4"], [LONG]),
        (RECALL, ["ViT-L-14/datacomp_xl", "images", "old model", 0, *[99.9] * 4], ["old model"]),
        (["name", "what it does", "n"], ["a", "some words " * 20, 12345], ["12345"]),
        (["", "ViT-B-16-quickgelu/openai (source)", "ViT-L-14/datacomp_xl_s13b_b90k"],
         ["with the module", "93.8", "94.1"], ["with the module", "93.8"]),
    ],
)  # fmt: skip
def test_a_table_of_long_names_loses_nothing_on_80_columns(
    columns: list[str], row: list[Any], whole: list[str]
) -> None:
    left = []
    for place, value in enumerate(row):
        if isinstance(value, str) and value not in ("93.8", "94.1"):
            left.append(place)
    console = Console(width=80, file=StringIO(), record=True)
    console.print(render_table(plain_table(columns, [row], left), 80))
    text = console.export_text()
    assert max(map(len, text.splitlines())) <= 80
    assert text.count("\n") <= 6  # of columns that are squeezed to letters there are more
    letters = "".join(map(str, [*columns, *row]))
    assert sorted("".join(text.split())) == sorted("".join(letters.split()))
    assert all(value in text for value in whole)


@pytest.mark.parametrize(("terminal", "longest"), [(True, 80), (False, 199)])
def test_a_caption_is_wrapped_on_a_terminal_and_not_in_a_file(
    monkeypatch: pytest.MonkeyPatch, terminal: bool, longest: int
) -> None:
    written = StringIO()
    console = SafeConsole(width=80, force_terminal=terminal, color_system=None, file=written)
    monkeypatch.setattr(output, "console", console)
    output.show_table(plain_table(["a"], [["1"]], caption=sentence(" ".join(["word"] * 40))))
    lines = [line.rstrip() for line in written.getvalue().splitlines()]
    assert max(map(len, lines)) <= longest
    assert (len(lines) == 3) is not terminal
