"""Rosetta is reported on tasks that it was not designed on."""

from __future__ import annotations

import rosetta_page

from compatbench.data.cards import suite_cards


def test_no_task_that_it_was_designed_on_is_reported() -> None:
    suite = suite_cards.read("mini")
    parts = suite_cards.read(str(rosetta_page.HERE / "rosetta-parts.yaml"))
    assert {"mini-animals", "mini-icons", "mini-travel"} == {*suite.development}
    assert not {*parts.tasks} & {*suite.development}
