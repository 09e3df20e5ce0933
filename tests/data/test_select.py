"""Choosing things by name: names, globs, all, exclusions, and a hint when nothing fits."""

from __future__ import annotations

from fnmatch import fnmatchcase

import pytest
from hypothesis import given
from hypothesis import strategies as st

from compatbench.data.cards import select_names, unknown_name
from compatbench.errors import CompatbenchError

KNOWN = ["zeroshot", "clip_adapter", "coop", "kgcoop", "tip_adapter", "tip_adapter_f"]


@pytest.mark.parametrize(
    ("wanted", "chosen"),
    [
        ("coop", ["coop"]),
        ("kgcoop,coop", ["coop", "kgcoop"]),
        (" coop , kgcoop ", ["coop", "kgcoop"]),
        ("coop,,coop", ["coop"]),
        ("all", KNOWN),
        ("*", KNOWN),
        ("*coop", ["coop", "kgcoop"]),
        ("tip_*", ["tip_adapter", "tip_adapter_f"]),
        ("?oop", ["coop"]),
        ("[ck]*oop", ["coop", "kgcoop"]),
        ("all,!coop", ["zeroshot", "clip_adapter", "kgcoop", "tip_adapter", "tip_adapter_f"]),
        ("!*adapter*", ["zeroshot", "coop", "kgcoop"]),
        ("tip_*,!tip_adapter_f", ["tip_adapter"]),
        ("!tip_*,tip_adapter", ["tip_adapter"]),
        ("!all", []),
        ("", KNOWN),
    ],
)
def test_a_selection_is_what_it_says_in_the_known_order(wanted: str, chosen: list[str]) -> None:
    assert select_names(wanted, KNOWN, "method") == chosen


def test_a_list_is_taken_as_it_is() -> None:
    assert select_names(["kgcoop", "coop"], KNOWN, "method") == ["coop", "kgcoop"]


@pytest.mark.parametrize(
    ("wanted", "message"),
    [
        ("kgcop", "no method named 'kgcop'; did you mean kgcoop"),
        ("tip_adapter_g", "did you mean tip_adapter_f or tip_adapter"),
        ("nonsense!", "no method named 'nonsense!'; known: zeroshot, clip_adapter"),
        ("coop,!kgcop", "no method named 'kgcop'"),
        ("x*", r"no method named 'x\*'"),
        ("Coop", "did you mean coop"),
    ],
)
def test_a_name_that_matches_nothing_is_an_error_with_a_hint(wanted: str, message: str) -> None:
    with pytest.raises(CompatbenchError, match=message):
        select_names(wanted, KNOWN, "method")


def test_a_long_list_of_known_names_is_cut() -> None:
    message = unknown_name("zz", [f"name{i:02}" for i in range(40)], "task")
    assert "name11, ..." in message
    assert "name12" not in message


def test_nothing_known_is_said() -> None:
    assert unknown_name("coop", [], "method") == "no method named 'coop'; known: none"


@given(st.lists(st.sampled_from([*KNOWN, "tip_*", "all"]), min_size=1))
def test_names_and_globs_give_their_union(parts: list[str]) -> None:
    chosen = select_names(",".join(parts), KNOWN, "method")
    assert chosen == [n for n in KNOWN if any(p == "all" or fnmatchcase(n, p) for p in parts)]


@given(st.text())
def test_any_text_selects_known_names_or_is_a_plain_error(wanted: str) -> None:
    try:
        chosen = select_names(wanted, KNOWN, "method")
    except CompatbenchError:
        return
    assert set(chosen) <= set(KNOWN)
