"""The finding on Rosetta counts a lead only after a correction for all comparisons of its table."""

from __future__ import annotations

import pandas as pd
import rosetta_rivals
from rosetta_rivals import OWN, TargetResults

# The interval over 8 tasks lies just above 0.
NARROW = [3.0, -1, 3, -1, 3, 0, 3, 3]


def make_target(leads: dict[tuple[str, str], list[float]]) -> TargetResults:
    """Return results in which Rosetta leads by so many points of H on each task."""
    h = {OWN: [60.0] * 8}
    for option, lead in leads.items():
        h[option] = [60 - points for points in lead]
    table = pd.DataFrame(h).T
    titles = pd.DataFrame({"title": [name for name, _ in h]}, index=table.index)
    return TargetResults(titles, table)


def test_a_lead_that_one_interval_shows_may_not_be_shown_after_the_correction() -> None:
    narrow = make_target({("proker", "words"): NARROW, ("gda", "copied"): NARROW})
    assert narrow.lead(("proker", "words")).sign == 1
    clear = make_target({("gda", "copied"): [5, 6, 7, 8, 5, 6, 7, 8]})
    said = rosetta_rivals.describe_leads([narrow, clear])
    assert "below, except proker (words) and gda (copied) on `mini-eva-clip` (" in said
    assert "Holm's correction over 3 comparisons" in said


def test_a_method_with_a_higher_h_is_an_exception() -> None:
    above = make_target({("gda", "copied"): [-5, -6, -7, -8, -5, -6, -7, -8]})
    assert "except gda (copied) on `mini-eva-clip`" in rosetta_rivals.describe_leads([above, above])
