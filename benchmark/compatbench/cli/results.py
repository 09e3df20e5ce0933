"""The commands over ``results/``: ``report``, ``leaderboard``, ``audit`` and ``ci``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape

from compatbench.cli.output import error_console, print_json, say
from compatbench.errors import CompatbenchError


def report(out: Path = Path(), check: bool = False) -> None:
    """Make the site results/report/ and results/figures/ from results/, byte for byte.

    Open results/report/index.html in a browser, or put the folder on any server; it makes no
    request outside of it. Nothing is trained and no weights are needed. A figure without results is
    left out.

    Args:
        check: Write nothing; fail if a file of the site or a figure is not up to date.
    """
    import compatbench as api

    made = api.report(out, check)
    for line in made.left_out:
        say(escape(line))
    verb = "is up to date" if check else "written"
    page = next(path for path in made.files if path.name == "index.html")
    figures = sum(path.suffix == ".svg" for path in made.files)
    say(escape(f"{page} {verb}, {figures} figures beside it"))


def leaderboard(out: Path = Path(), check: bool = False) -> None:
    """Make leaderboard.md and the pages of every suite again from results/, byte for byte.

    Each suite has results/<suite>/README.md, with every table, and methods.md, with every method.
    The figures and the site of all results are those of 'compatbench report'.

    Args:
        check: Write nothing; fail if a page or figure is not up to date.
    """
    import compatbench as api

    for path in api.leaderboard(out, check):
        say(escape(f"{path} is up to date"))


def audit(
    out: Path = Path(),
    suite: list[str] | None = None,
    cells: int | None = None,
    forged: float = 0.1,
    power: float = 0.9,
    minutes: float | None = None,
    cold: bool = False,
    seed: int | None = None,
    tolerance: int | None = None,
    zero_shot: bool = True,
    methods: str | None = None,
    unverified: list[str] | None = None,
    shots_file: list[Path] | None = None,
    data_root: list[str] | None = None,
    device: str = "auto",
    as_json: bool = False,
    offline: bool = False,
    trust_pickle: bool = False,
) -> None:
    """Check whether this checkout reproduces the results; exit with 1 if not.

    Keys and data of every row are computed again; totals, zero-shot, flips, costs, settings and
    leaderboard.md must agree with each other and with what is computed here. Then randomly drawn
    cells are run again from scratch, enough to find forged ones with the probability that is
    printed. A forged or outdated number is reported with its file, line and field. Of stored
    indexes (results/retrieval/) one gallery is measured again, unless --cells is 0. Only the
    feature cache is written.

    Args:
        suite: Suite to audit: a name, or the YAML file of one that is not installed; may be
            repeated. By default every folder.
        cells: Cells to run again, drawn at random, in place of --forged and --power.
        cold: Encode all images again, as if the feature cache were empty.
        seed: Seed of the draw; by default a new one, which is printed.
        tolerance: Images by which a count may differ when it is computed again; by default none
            for results of this processor; docs/security.md has the rule for others.
        zero_shot: Compute zero-shot again: quick, where the images' features are cached.
        methods: Files of methods that are not among 'list methods' ('./mine.py'), which are run
            as code.
    """
    import compatbench as api
    from compatbench.extras.audit.findings import summarise

    found = api.audit_results(
        out,
        suite,
        cells=cells,
        forged=forged,
        power=power,
        minutes=minutes,
        cold=cold,
        seed=seed,
        tolerance=tolerance,
        zero_shot=zero_shot,
        methods=methods,
        unverified=unverified or (),
        shots_files=shots_file or (),
        device=device,
        progress=lambda line: None if as_json else say(escape(line), style="dim"),
    )
    if as_json:
        print_json(found.to_dict())
    else:
        for line in summarise(found.findings):
            say(f"[bold red]wrong[/] {escape(line)}")
        for note in (*found.notes, *map(str, found.draws)):
            say(f"[yellow]note[/] {escape(note)}")
        say(
            f"suites: {len(found.suites)}, method files: {found.methods}, rows: {found.rows:,}; "
            f"cells run again: {len(found.sample)} (--seed {found.seed}); "
            f"findings: {len(found.findings)}"
        )
        for name, rows in found.unchecked.items():
            say(f"[yellow]not verified[/] {escape(name)}: {rows:,} rows were not checked")
    if found.findings:
        raise typer.Exit(1)


def ci(
    out: Path = Path(),
    base: str | None = None,
    cells: int | None = None,
    forged: float = 0.1,
    power: float = 0.9,
    minutes: float = 10,
    seed: int | None = None,
    unverified: list[str] | None = None,
    summary: Annotated[Path | None, typer.Option(envvar="GITHUB_STEP_SUMMARY")] = None,
    device: str = "auto",
) -> None:
    """Run all checks of a pull request; exit with 1 if it cannot be merged.

    Checks the methods that changed against the base; audits all results; runs again all cells of
    new methods in the mini suites, a sample of changed ones, and, if the harness changed, a cell
    of every method; lists changed figures, and fails if a row is missing; and checks that
    leaderboard.md is up to date. Runs the code of the methods in this clone, and needs neither a
    network nor any token.

    Args:
        base: Branch, tag or commit to compare with; by default origin/$GITHUB_BASE_REF, then
            origin/main, then main.
        cells: Cells of the changed methods to run again, in place of all this.
        seed: Seed of the draw; by default a new one, which is printed.
        summary: File that the Markdown summary is added to; by default the terminal.
    """
    import compatbench as api

    found = api.check_pull_request(
        out,
        base,
        cells=cells,
        forged=forged,
        power=power,
        minutes=minutes,
        seed=seed,
        unverified=unverified or (),
        device=device,
        progress=lambda line: say(escape(line), error_console, "dim"),
    )
    if summary is None:
        print(found.summary, end="")
    else:
        try:
            with summary.open("a", encoding="utf-8") as file:
                file.write(found.summary)
        except OSError as error:
            raise CompatbenchError(f"cannot write {summary}: {error.strerror}") from None
    for problem in found.problems:
        say(f"[bold red]wrong[/] {escape(problem)}", error_console)
    say(f"problems: {len(found.problems)}", error_console)
    if found.problems:
        raise typer.Exit(1)
