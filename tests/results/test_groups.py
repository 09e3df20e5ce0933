"""Kinds of upgrades are kept apart in averages."""

from __future__ import annotations

import pytest
from pydantic import ValidationError
from synthetic_results import COOP, make_method, make_page, make_row

from compatbench.data.cards import SuiteCard, suite_cards
from compatbench.pages.suite_page import SuitePage
from compatbench.results.measures import Expected, harmonic_mean
from compatbench.results.ranks import rank_upgrades

KIN, STRANGER = ("old", "kin"), ("old", "stranger")
# Of 100 images, by (backbone, task).
RIGHT = {
    ("old", "cats"): 50,
    ("old", "dogs"): 60,
    ("kin", "cats"): 70,
    ("kin", "dogs"): 40,
    ("cousin", "cats"): 30,
    ("cousin", "dogs"): 20,
    ("stranger", "cats"): 10,
    ("stranger", "dogs"): 5,
}


def lineage(leave_out: str = "") -> SuitePage:
    rows = [
        make_row(correct, task=task, backbone=backbone)
        for (backbone, task), correct in RIGHT.items()
        if backbone != leave_out
    ]
    upgrades = (KIN, ("old", "cousin"), STRANGER)
    expected = Expected(("cats", "dogs"), (4,), (1,), upgrades)
    groups = {"Kin": upgrades[:2], "Strangers": upgrades[2:]}
    return make_page(make_method(COOP, rows), expected=expected, groups=groups)


def test_a_group_s_means_are_over_its_own_upgrades_and_datasets() -> None:
    page = lineage()
    [ranked] = rank_upgrades(page.copied, page.expected, page.groups["Kin"], 4)
    pairs = [(RIGHT["old", t], RIGHT[b, t]) for b in ("kin", "cousin") for t in ("cats", "dogs")]
    h = ranked.standing.mean("h")
    target = ranked.standing.mean("target")
    assert h is not None
    assert target is not None
    assert h.value == pytest.approx(sum(harmonic_mean(*pair) for pair in pairs) / 4)
    assert target.value == pytest.approx(40)


def test_a_group_that_lacks_a_cell_has_no_mean() -> None:
    page = lineage(leave_out="cousin")
    [ranked] = rank_upgrades(page.copied, page.expected, page.groups["Kin"], 4)
    assert ranked.standing.state == "incomplete"
    [other] = rank_upgrades(page.copied, page.expected, page.groups["Strangers"], 4)
    assert other.standing.state == "complete"


def test_groups_are_read_from_the_titles_of_upgrades() -> None:
    suite = suite_cards.read("lineage")
    assert len(suite.groups) == 2
    assert [path for paths in suite.groups.values() for path in paths] == list(suite.upgrades)
    assert SuiteCard.model_validate(suite.model_dump()) == suite


def test_an_upgrade_in_two_groups_is_refused() -> None:
    values = suite_cards.read("smoke").model_dump()
    pair = ["mini-clip", "mini-eva-clip"]
    with pytest.raises(ValidationError, match="is in two groups: 'a' and 'b'"):
        SuiteCard.model_validate(values | {"upgrades": {"a": [pair], "b": [pair]}})
