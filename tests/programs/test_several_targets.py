"""The page on several targets keeps sources apart, and says how far they differ."""

from __future__ import annotations

import numpy as np
import pandas as pd
import several_targets

from compatbench.data.cards import SuiteCard

METHODS = ("gda", "maple", "taskres")
TASKS = tuple(f"t{i}" for i in range(8))
KINDS = {
    "keeps the old embedding space": {
        "mini-clip": ["mini-eva-clip", "mini-eva-clip-5"],
        "mini-clip-2": ["mini-clip-2-eva-7", "mini-clip-2-eva-8"],
    }
}


def make_gains(added: float) -> pd.DataFrame:
    """Return gains on all targets; those of the second source are higher for one method."""
    rng = np.random.default_rng(1)
    index = pd.MultiIndex.from_product([METHODS, TASKS], names=["method", "task"])
    gains = {}
    for source, targets in KINDS["keeps the old embedding space"].items():
        for target in targets:
            values = pd.Series(rng.normal(size=len(index)) / 10, index)
            values["maple"] += 3
            if source == "mini-clip-2":
                values["gda"] += added
            gains[target] = values
    return pd.DataFrame(gains)


def test_targets_are_grouped_by_kind_then_source() -> None:
    names = [
        ("mini-clip", "mini-eva-clip"),
        ("mini-clip", "mini-eva-clip-anew"),
        ("mini-clip", "mini-eva-clip-anew-5"),
        ("mini-clip", "mini-eva-clip-anew-5-anchored-1"),
        ("mini-clip", "mini-eva-clip-anew-5-compatible"),
        ("mini-clip-2", "mini-clip-2-eva-7"),
        ("mini-clip-2", "mini-clip-2-eva-anew-7"),
    ]
    suite = SuiteCard.model_construct(upgrades=tuple(names))
    assert several_targets.find_kinds(suite) == {
        "keeps the old embedding space": {
            "mini-clip": ["mini-eva-clip"],
            "mini-clip-2": ["mini-clip-2-eva-7"],
        },
        "has a new embedding space": {
            "mini-clip": ["mini-eva-clip-anew", "mini-eva-clip-anew-5"],
            "mini-clip-2": ["mini-clip-2-eva-anew-7"],
        },
    }


def test_two_sources_are_compared() -> None:
    gains = make_gains(added=6)
    table = several_targets.show_sources(gains, KINDS)
    assert "opposite order on another, % | 0.0 |" not in table
    equal = several_targets.show_sources(make_gains(added=0), KINDS)
    assert "opposite order on another, % | 0.0 |" in equal
    assert "points: median | 0.0 |" in table
    assert "largest | 6.0 |" in table
    titles = {name: name for name in METHODS}
    [methods] = several_targets.show_methods(gains, KINDS, titles)
    assert (
        "| mean of 4 targets | interval over tasks | from mini-clip | from mini-clip-2 |" in methods
    )
    [row] = [line for line in methods.splitlines() if line.startswith("| gda |")]
    assert row.split("|")[-2].strip().startswith("+6.0 (")


def test_the_text_says_why_a_share_has_no_interval() -> None:
    titles = {name: name for name in METHODS}
    shown = several_targets.describe_targets(make_gains(0), KINDS, titles, ["gda"])
    assert "gda collapses on at least one kind of target" in shown
    both = several_targets.describe_targets(make_gains(0), KINDS, titles, list(METHODS[:2]))
    assert f"{METHODS[0]} and {METHODS[1]} collapse on at least one kind of target" in both
    assert "leaves it out" in shown
    assert shown.endswith("becomes 0 without one of the targets, has no interval.")
    far_apart = 100 * np.arange(3)[:, None, None] + draw_cells()
    assert several_targets.show(far_apart, several_targets.reversed_orders, 100) == "0.0"


def test_targets_are_counted_in_words() -> None:
    assert several_targets.count_targets([1]) == "1 target"
    assert several_targets.count_targets([6, 6]) == "6 targets"
    assert several_targets.count_targets([6, 1]) == "1 or 6 targets"


def test_one_source_is_named_as_a_limit() -> None:
    one = {title: {"mini-clip": of_kind["mini-clip"]} for title, of_kind in KINDS.items()}
    assert "same source" in several_targets.describe_statistics(make_gains(0), one)
    both = several_targets.describe_statistics(make_gains(0), KINDS)
    assert "same source" not in both
    assert "between sources" in both


def test_three_targets_have_an_interval() -> None:
    shown = several_targets.show(draw_cells(), several_targets.spread_of_means, np.inf)
    assert " to " in shown


def draw_cells() -> np.ndarray:
    """Return gains of methods on tasks and three targets that differ."""
    rng = np.random.default_rng(4)
    return rng.normal(size=(3, 8, 1)) + rng.normal(size=(3, 1, 3))
