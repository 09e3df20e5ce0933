"""``compatbench check``."""

from typing import TYPE_CHECKING, Annotated

import typer

from compatbench.cli.completion import complete_methods
from compatbench.cli.groups import AUTHORS, app
from compatbench.cli.output import print_frame, print_json, say, status_line
from compatbench.cli.shared_options import AsJson

if TYPE_CHECKING:
    import pandas as pd

STYLES = {"pass": "green", "fail": "bold red", "skip": "yellow"}
WORDS = {"pass": "passed", "fail": "failed", "skip": "skipped"}


@app.command("check", rich_help_panel=AUTHORS)
def check(
    methods: Annotated[
        str,
        typer.Argument(
            help="Names, globs, 'all', exclusions ('!coop'), or the path of a method file, which "
            "is run as code.",
            autocompletion=complete_methods,
        ),
    ],
    only: Annotated[str, typer.Option(help="Names, globs or exclusions of checks.")] = "all",
    as_json: AsJson = False,
) -> None:
    """Check that methods keep the rules, by name, on small random models.

    The rules make results comparable: a fit depends on its data and its seed alone, nothing but the
    module is carried over, and it acts where the card says. Every method is fitted and attached in
    its own process, with a few optimiser steps, which takes seconds on one core; no data set and no
    weights are needed. A check that fails shows what is wrong and, of an error, in which line. What
    a method cannot keep by its nature its card excuses, with the reason: 'excused={"class-order":
    "its classes have an order"}'. 'run' measures a method from outside that fails, but does not
    rank it.

    For one method the output is a table of its checks; for several, one line each, and their
    failures at the end. To try one rule again: compatbench check ./mine.py --only class-order.
    Exits with 1 if a check fails.
    """
    from compatbench.engine.request import check_names

    check_names(methods=methods)
    import compatbench

    with status_line() as show_line:
        outcomes = compatbench.check(
            methods,
            only,
            progress=lambda outcome: show_line(f"{outcome.method}: {outcome.check}"),
        )
    failed = outcomes["status"] == "fail"
    if as_json:
        print_json(outcomes)
    else:
        _print_outcomes(outcomes, failed)
    if failed.any():
        raise typer.Exit(1)


def _print_outcomes(outcomes: "pd.DataFrame", failed: "pd.Series") -> None:
    """Show the checks of one method, or the failures of several; then a line for each method."""
    import pandas as pd

    from compatbench.extras.check.outcome import FOLLOWS
    from compatbench.tables.table import Span, TableCell

    names = outcomes["method"].unique()
    is_alone = len(names) == 1
    # A check that is passed is shown with its rule, another with its reason.
    reasons = outcomes["reason"].map(lambda reason: f" ({reason})" if reason else "")
    rules = outcomes["rule"] + reasons
    marks = []
    for status in outcomes["status"]:
        marks.append(TableCell((Span(status, tone=STYLES[status]),)))
    shown = {
        "": marks,
        "rule, or reason": outcomes["reason"].where(outcomes["status"] != "pass", rules),
        "seconds": outcomes["seconds"].round(1),
    }
    columns = ["check"] if is_alone else ["method", "check"]
    lines = outcomes[columns].assign(**shown)
    if is_alone:
        follows = outcomes["reason"].str.startswith(FOLLOWS)
        print_frame(lines.loc[~follows])
        if follows.any():
            cause = outcomes.loc[follows, "reason"].iloc[0].removeprefix(FOLLOWS).split(":")[0]
            say(f"{follows.sum()} more checks were skipped: first fix{cause}")
    elif failed.any():
        print_frame(lines.loc[failed])
    counts = pd.crosstab(outcomes["method"], outcomes["status"]).reindex(names)
    counts = counts.reindex(columns=list(STYLES), fill_value=0).rename(columns=WORDS)
    counts["seconds"] = outcomes.groupby("method")["seconds"].sum()
    print_frame(counts.round({"seconds": 1}).reset_index())
    good = len(names) - outcomes.loc[failed, "method"].nunique()
    say(f"{good} of {len(names)} methods pass")
