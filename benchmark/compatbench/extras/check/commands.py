"""``compatbench check``: what it prints of the outcomes of checks."""

from __future__ import annotations

from rich.markup import escape

from compatbench.cli.command import Call
from compatbench.cli.output import console, print_frame, say
from compatbench.tables.table import Cell, Span

STYLES = {"pass": "green", "fail": "bold red", "skip": "yellow"}
WORDS = {"pass": "passed", "fail": "failed", "skip": "skipped"}


def check(call: Call) -> int:
    """Shows a method's checks, or a line for each of several and their failures."""
    import pandas as pd

    with console.status("") as status:
        outcomes = call(
            progress=lambda outcome: status.update(escape(f"{outcome.method}: {outcome.check}")),
        )
    if call.prints_json(outcomes):
        return int((outcomes["status"] == "fail").any())
    failed, names = outcomes["status"] == "fail", outcomes["method"].unique()
    alone = len(names) == 1
    # A check that is passed is shown with its rule, another with its reason.
    rules = outcomes["rule"] + outcomes["reason"].map(lambda why: f" ({why})" if why else "")
    shown = {
        "": [Cell((Span(status, tone=STYLES[status]),)) for status in outcomes["status"]],
        "rule, or reason": outcomes["reason"].where(outcomes["status"] != "pass", rules),
        "seconds": outcomes["seconds"].round(1),
    }
    lines = outcomes[["check"] if alone else ["method", "check"]].assign(**shown)
    if alone or failed.any():
        print_frame(lines if alone else lines.loc[failed])
    counts = pd.crosstab(outcomes["method"], outcomes["status"]).reindex(names)
    counts = counts.reindex(columns=list(STYLES), fill_value=0).rename(columns=WORDS)
    counts["seconds"] = outcomes.groupby("method")["seconds"].sum()
    print_frame(counts.round({"seconds": 1}).reset_index())
    good = len(names) - outcomes.loc[failed, "method"].nunique()
    say(f"{good} of {len(names)} methods pass")
    return int(failed.any())
