"""``compatbench store doctor``, ``store runs`` and ``store cache``."""

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.markup import escape

from compatbench.cli.completion import (
    complete_backbones,
    complete_methods,
    complete_suites,
    complete_tasks,
)
from compatbench.cli.groups import store
from compatbench.cli.output import MARKS, print_facts, print_frame, print_json, say, status_line
from compatbench.cli.shared_options import AsJson, Cards, DataRoot, Out, TrustPickle, split
from compatbench.messages import count, format_seconds

if TYPE_CHECKING:
    from compatbench.extras.doctor.diagnosis import Diagnosis

COLUMNS = ["task", "backbone", "metric", "measured"]
COLUMNS += ["published", "within", "source", "verdict", "reason"]

runs = store.add_group("runs", "The store of a run: list what it holds, and delete what is old.")
cache = store.add_group(
    "cache", "The cache of image features: list what it holds, and delete what is old."
)


@store.command("doctor")
def doctor(
    suite: Annotated[
        str | None,
        typer.Option(
            help="Look at all that a suite needs: its name or YAML file; by default 'mini', if "
            "neither tasks nor backbones are given.",
            autocompletion=complete_suites,
        ),
    ] = None,
    tasks: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME",
            help="Look at the images of these, too: names, globs, comma lists.",
            autocompletion=complete_tasks,
        ),
    ] = None,
    backbones: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME",
            help="Look at these, too: names of cards, 'MODEL/TAG', or files; comma lists.",
            autocompletion=complete_backbones,
        ),
    ] = None,
    out: Annotated[
        Path,
        typer.Option(
            help="The folder that 'run' would write to; the room on its disk is measured."
        ),
    ] = Path(),
    verify: Annotated[
        bool,
        typer.Option(
            "--verify",
            help="Also measure zero-shot accuracy for every pair of a task and a backbone that are "
            "here, and compare it with published numbers.",
        ),
    ] = False,
    deep: Annotated[
        bool,
        typer.Option(
            "--deep", help="Also decode every image, in as many threads as there are cores."
        ),
    ] = False,
    device: Annotated[str, typer.Option(help="Where to measure, with '--verify'.")] = "auto",
    data_root: DataRoot = None,
    as_json: AsJson = False,
    trust_pickle: TrustPickle = False,
    cards: Cards = None,
) -> None:
    """Find out whether a suite can run on this machine; nothing is fetched.

    Exits with 1 if something is missing or wrong.
    """
    from compatbench.engine.request import check_names

    check_names(suite)
    import compatbench

    with status_line() as progress:
        diagnosis = compatbench.diagnose(
            suite,
            split(tasks),
            split(backbones),
            out=out,
            verify=verify,
            deep=deep,
            device=device,
            progress=progress,
        )
    if as_json:
        print_json(diagnosis)
    else:
        _print_diagnosis(diagnosis, verify)
    if not diagnosis.ready:
        raise typer.Exit(1)


def _print_diagnosis(diagnosis: "Diagnosis", verify: bool) -> None:
    """Show what is missing or wrong with its fix, then what is here.

    What a suite needs and is here is counted; what was named is shown.
    """
    from compatbench.files.sizes import format_bytes

    parts = [*diagnosis.tasks, *diagnosis.backbones]
    here = [part for part in parts if part.state == "found"]
    shown = list(diagnosis.unusable)
    if diagnosis.suite is None:
        shown += here
    for part in shown:
        say(f"{MARKS[part.state]} [bold]{escape(part.name)}[/] ")
        facts = asdict(part)
        del facts["name"], facts["state"]
        if part.state == "missing":
            facts.pop("expected", None)
        # The size of weights is shown as ``size``.
        download = facts.pop("download")
        if download and "size" not in facts:
            facts["size"] = f"about {format_bytes(download)}"
        print_facts(facts)
    if diagnosis.suite is not None:
        backbones = sum(part in diagnosis.backbones for part in here)
        tasks = count(len(here) - backbones, "task")
        say(f"{MARKS['found']} {tasks} and {count(backbones, 'backbone')}")
    downloads = diagnosis.downloads
    if any(downloads.values()):
        listed = ", ".join(f"{what} {format_bytes(size)}" for what, size in downloads.items())
        say(f"To download: about {format_bytes(sum(downloads.values()))} ({listed})")
        if diagnosis.suite is not None and downloads["images"]:
            fetch = f"compatbench store data fetch --suite {diagnosis.suite}"
            say(escape(f"  '{fetch}' gets images, and 'run' weights"))
    say("[bold]Machine[/]")
    print_facts(diagnosis.machine)
    if verify:
        _print_comparisons(diagnosis)
    what = "what was asked for"
    if diagnosis.suite:
        what = escape(f"suite '{diagnosis.suite}'")
    if diagnosis.ready:
        say(f"[green]Ready[/]: {what} can run here.")
        return
    bad = len(diagnosis.unusable)
    if bad:
        why = f"cannot run here as it is; {bad} of {len(parts)} parts are missing or wrong"
    else:
        disagreeing = f"{len(diagnosis.disagreeing)} figures disagree with what is published"
        why = f"can run, but must not be trusted yet; {disagreeing}"
    say(f"[red]Not ready[/]: {what} {why}.")


def _print_comparisons(diagnosis: "Diagnosis") -> None:
    import pandas as pd

    say("[bold]Zero-shot[/], top-1 or mean per-class recall in percent")
    if diagnosis.comparisons:
        comparisons = pd.DataFrame(diagnosis.comparisons).reindex(columns=COLUMNS)
        print_frame(comparisons.round(2), narrow=("reason", "metric"))
    else:
        say("  no task and backbone are both here, so nothing was run")


@runs.command("ls")
def list_runs(
    methods: Annotated[
        str, typer.Option(help="Names, globs, comma lists.", autocompletion=complete_methods)
    ] = "all",
    tasks: Annotated[
        str, typer.Option(help="Names, globs, comma lists.", autocompletion=complete_tasks)
    ] = "all",
    state: Annotated[
        str,
        typer.Option(help="Of ok, not transferable, failed: names, globs, exclusions."),
    ] = "all",
    out: Out = Path(),
    as_json: AsJson = False,
    cards: Cards = None,
) -> None:
    """List cells: how each ended, its size on disk, its age, and its error.

    Damaged records are left out; the next run that needs one sets it aside.
    """
    from compatbench.data.cards.shots import show_shots
    from compatbench.extras.doctor import stores
    from compatbench.files.sizes import format_bytes

    cells = stores.list_runs(methods, tasks, state, out)
    if as_json:
        print_json(cells)
        return
    shown = cells.assign(
        key=cells["key"].str[:12],
        shots=cells["shots"].map(show_shots),
        size=cells["size"].map(format_bytes),
        age=cells["age"].map(format_seconds),
    )
    print_frame(
        shown.drop(columns="error"), right=("shots", "size", "age"), narrow=("source", "size")
    )
    for key, error in zip(shown["key"], cells["error"], strict=True):
        if error:
            say(f"[red]{key}[/] {escape(error)}")
    size = format_bytes(cells["size"].sum())
    say(escape(f"{len(cells)} cells, {size}, in {out / 'runs'}"))


@runs.command("prune")
def prune_runs(
    methods: Annotated[
        str,
        typer.Option(
            help="Cells of these methods: names, globs, comma lists.",
            autocompletion=complete_methods,
        ),
    ] = "all",
    tasks: Annotated[
        str,
        typer.Option(
            help="Cells of these tasks: names, globs, comma lists.", autocompletion=complete_tasks
        ),
    ] = "all",
    state: Annotated[
        str,
        typer.Option(
            help="Cells that are ok, not transferable or failed: names, globs, exclusions."
        ),
    ] = "all",
    days: Annotated[
        float, typer.Option(min=0, help="Keep files of cells that are younger than this.")
    ] = 30,
    delete: Annotated[
        bool, typer.Option("--delete", help="Delete the files; without this, only count them.")
    ] = False,
    out: Out = Path(),
    cards: Cards = None,
) -> None:
    """Find modules and predictions of old cells, and what damage and killed processes left.

    Records stay: they are small, and are results. A run that needs such a cell makes it again.
    """
    from compatbench.extras.doctor import stores
    from compatbench.files.sizes import format_bytes

    found = stores.prune_runs(methods, tasks, state, days, delete, out)
    for kind, sizes in found.items():
        say(f"{len(sizes)} files {kind}, {format_bytes(sum(sizes))}")
    say("deleted" if delete else "nothing was deleted; --delete does")


@cache.command("ls")
def list_cache(as_json: AsJson = False) -> None:
    """List what the cache holds, by backbone and task."""
    from compatbench.data.cache_files import default_cache_folder
    from compatbench.extras.doctor import stores
    from compatbench.files.sizes import format_bytes

    groups = stores.list_cache()
    if as_json:
        print_json(groups)
        return
    print_frame(groups.assign(size=groups["size"].map(format_bytes)), right=("size",))
    total = f"{groups['entries'].sum()} entries, {format_bytes(groups['size'].sum())}"
    say(escape(f"{total}, in {default_cache_folder()}"))


@cache.command("prune")
def prune_cache(
    size: Annotated[str | None, typer.Option(help="Keep at most this much, such as '10G'.")] = None,
    days: Annotated[float | None, typer.Option(min=0, help="Delete what is older.")] = None,
    everything: Annotated[bool, typer.Option("--all", help="Delete every entry.")] = False,
) -> None:
    """Delete entries, the oldest first. Nothing is lost: they are computed again when needed."""
    from compatbench.extras.doctor import stores
    from compatbench.files.sizes import format_bytes

    deleted = stores.prune_cache(size, days, everything)
    say(f"deleted {len(deleted)} entries, {format_bytes(sum(deleted))}")
