"""``compatbench doctor``, ``list`` and ``data``: what is here, and what can be fetched."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer
from rich.markup import escape

from compatbench.cli import options
from compatbench.cli.output import console, print_facts, print_frame, say
from compatbench.data.cards import backbone_cards, suite_cards, task_cards
from compatbench.data.cards.shots import LARGEST_SEED
from compatbench.errors import CompatbenchError

if TYPE_CHECKING:
    from compatbench.extras.doctor.published_zero_shot import Comparison

WIDE = 120
HIDDEN = {  # in a terminal narrower than WIDE
    "methods": ["paper", "idea"],
    "suites": ["title"],
    "transfers": ["settings", "takes", "title", "paper"],
}
data_app = typer.Typer(
    name="data", no_args_is_help=True, help="Fetch datasets and weights, and share few-shot draws."
)
MARKS = {"found": "[green]found[/]", "missing": "[yellow]missing[/]", "wrong": "[red]wrong[/]"}
Tasks = Annotated[list[str] | None, typer.Argument(autocompletion=options.complete_tasks)]
Backbones = Annotated[list[str] | None, typer.Argument(autocompletion=options.complete_backbones)]
STYLES = {"not compared": "dim", "agrees": "green", "disagrees": "red", "differs": "yellow"}


def doctor(
    suite: str | None = None,
    task: list[str] | None = None,
    backbone: list[str] | None = None,
    out: Path = Path(),
    data_root: list[str] | None = None,
    verify: bool = False,
    deep: bool = False,
    device: str = "auto",
    trust_pickle: bool = False,
) -> None:
    """Check whether a suite can run here, and say how to fix what is missing.

    Shows, for every dataset, what was found, what is missing and how to fix it; for every
    backbone, its weights, activation, preprocessing and sizes; and the machine. Works offline and
    fetches nothing. Exits with 1 if something is missing or wrong.

    Args:
        suite: Look at all that a suite needs: its name or a YAML file; by default mini, if
            neither a task nor a backbone is given.
        task: Look at a task's images: a name or a glob; may be repeated.
        backbone: Look at a backbone: a card's name, MODEL/TAG, or a file; may be repeated.
        verify: Also run zero-shot on every pair of a task and a backbone that are here, and
            compare it with published figures.
        deep: Also decode every image, and name each that is broken.
    """
    import compatbench as api

    with console.status("") as status:
        found = api.diagnose(
            suite,
            task or (),
            backbone or (),
            out=out,
            verify=verify,
            deep=deep,
            device=device,
            progress=status.update,
        )
    for each in (*found.tasks, *found.backbones):
        say(f"{MARKS[each.state]} [bold]{escape(each.name)}[/] ")
        print_facts({k: v for k, v in asdict(each).items() if k not in ("name", "state")})
    say("[bold]Machine[/]")
    print_facts(found.machine)
    if verify:
        say("[bold]Zero-shot[/], top-1 or mean per-class recall in percent")
        for one in found.comparisons:
            say(f"  {_describe_comparison(one)}")
        if not found.comparisons:
            say("  no task and backbone are both here, so nothing was run")
    what = escape(f"suite '{found.suite}'" if found.suite else "what was asked for")
    if found.ready:
        say(f"[green]Ready[/]: {what} can run here.")
        return
    bad, total = len(found.unusable), len(found.tasks) + len(found.backbones)
    why = f"cannot run here as it is; {bad} of {total} parts are missing or wrong"
    if not bad:
        disagreeing = f"{len(found.disagreeing)} figures disagree with what is published"
        why = f"can run, but must not be trusted yet; {disagreeing}"
    say(f"[red]Not ready[/]: {what} {why}.")
    raise typer.Exit(1)


def _describe_comparison(one: Comparison) -> str:
    where = f"{escape(one.task)} on {escape(one.backbone)}"
    if one.published is None:
        return f"{where}: {one.measured:.2f}; {one.reason}"
    metric = "top-1" if one.metric == "top1" else "recall"
    mark = f"[{STYLES[one.verdict]}]{one.verdict}[/]"
    limit = "" if one.verdict == "not compared" else f" (within {one.within:g})"
    published = f"published {one.published:.2f} by {one.source}"
    return f"{where}: {metric} {one.measured:.2f}, {published}: {mark}{limit}; {one.reason}"


def _complete(context: typer.Context, incomplete: str) -> list[str]:
    cards = {"tasks": task_cards, "backbones": backbone_cards, "suites": suite_cards}
    if (chosen := cards.get(str(context.params.get("kind")))) is None:
        return options.complete_methods(incomplete)
    return [name for name in chosen.names() if name.startswith(incomplete)]


def list_(
    kind: Annotated[
        Literal["methods", "tasks", "backbones", "suites", "transfers", "modules"],
        typer.Argument(),
    ],
    names: Annotated[str, typer.Argument(autocompletion=_complete)] = "all",
    out: Path = Path(),
) -> None:
    """List methods, tasks, backbones, suites, transfers or the modules in runs/.

    A terminal of 120 columns or more shows papers and ideas of the methods, too.

    Args:
        kind: What to list.
        names: Names, globs, comma lists.
    """
    import compatbench as api

    if kind == "modules":
        print_frame(api.modules(names, out), whole=250)
    else:
        frame = api.transfers() if kind == "transfers" else getattr(api, kind)(names)
        print_frame(frame.drop(columns=HIDDEN.get(kind, []) if console.width < WIDE else []))


@options.command(data_app, "shots")
def export_shots(
    task: str,
    shots: int = 16,
    seed: Annotated[int, typer.Option(min=0, max=LARGEST_SEED)] = 1,
    out: Annotated[Path | None, typer.Option(dir_okay=False)] = None,
    compare: Annotated[Path | None, typer.Option(dir_okay=False)] = None,
    read: Annotated[Path | None, typer.Option("--from", dir_okay=False)] = None,
    data_root: list[str] | None = None,
) -> None:
    """Export a few-shot draw, computed from the task's split as CoOp's code does.

    The file lists each image's path and label, and the hash of the split that they were drawn
    from. 'compatbench run --shots-file FILE' trains on the images of a file, so that two labs use
    the same ones even if their folders would give other draws.

    Args:
        task: The task to draw from.
        shots: Images of every class.
        seed: Seed of the draw.
        out: File to write; by default the draw is printed.
        compare: Another lab's file: is it the same draw?
        read: Instead of drawing, read a draw of other code: CoOp's shot_K-seed_S.pkl, in which
            nothing is run, or 2SFS's shot_K-seed_S_train.jsonl with its _val.jsonl.
    """
    from compatbench.data.draws import draw_shots, export_draw
    from compatbench.data.foreign_draws import read_foreign_draw
    from compatbench.data.task import load_task
    from compatbench.files.atomic import write_atomic

    loaded = load_task(task)
    if loaded.parent is not None:
        raise CompatbenchError(
            f"'{task}' is a variant, from which nothing is learned; draw from '{loaded.parent}'"
        )
    if read is None:
        draw = draw_shots(loaded, shots, seed)
    else:
        draw = read_foreign_draw(read, loaded, shots, seed)
    about = f"{len(draw.train)} training and {len(draw.val)} validation images, {draw.sha256[:12]}"
    if compare is not None:
        theirs = draw_shots(loaded, shots, seed, compare)
        if theirs != draw:
            hashes = f"{theirs.sha256[:12]}, here {draw.sha256[:12]}"
            say(escape(f"{compare} is another draw ({hashes}), of images that are all here"))
            raise typer.Exit(1)
        say(escape(f"{compare} is the same draw: {about}"))
    elif out is None:
        print(export_draw(loaded, draw, shots, seed), end="")  # the console would wrap it
    else:
        write_atomic(out, export_draw(loaded, draw, shots, seed).encode())
        say(escape(f"wrote {out}: {about}"))


@options.command(data_app, "fetch")
def fetch_data(
    task: Tasks = None,
    suite: str | None = None,
    agree: bool = False,
    keep: bool = False,
    data_root: list[str] | None = None,
) -> None:
    """Download datasets into the folders in which their cards look for them.

    Complete files are kept, and interrupted downloads are continued. Files are checked against
    published hashes; where there is none, the first download writes its own to downloads.json in
    the dataset's folder, and later ones are checked against that. Exits with 1 if something is
    still missing, and says for each file what to do.

    Args:
        task: Tasks: names, globs, or the path of a card.
        suite: Fetch all that a suite needs: its name or a YAML file.
        agree: Agree to the licences that ask for it.
        keep: Keep archives that were unpacked.
    """
    import compatbench as api

    with console.status("") as status:
        found = api.fetch_data(
            task or (),
            suite,
            agree=agree,
            keep=keep,
            tell=lambda line: say(escape(line)),
            progress=lambda line: status.update(escape(line)),
        )
    for one in found:
        say(f"{MARKS[one.report.state]} [bold]{escape(one.task)}[/] ")
        facts = {"fetched": ", ".join(one.files), "folder": one.report.folder}
        facts |= {"images": one.report.found, "message": one.report.message}
        facts |= {} if one.ready or one.problems else {"fix": one.report.fix}
        print_facts(facts)
        for problem in () if one.ready else one.problems:
            say(f"  [red]problem[/]: {escape(problem)}")
    if not all(one.ready for one in found):
        raise typer.Exit(1)


@options.command(data_app, "weights")
def fetch_backbones(backbone: Backbones = None, suite: str | None = None) -> None:
    """Download the weights of backbones into the hub's cache, and check them.

    Weights that are on this machine are not fetched again (see docs/backbones.md for the places).
    Exits with 1 if something could not be fetched, and says what to do.

    Args:
        backbone: Backbones: names of cards, or MODEL/TAG.
        suite: Fetch those of all upgrades of a suite: its name or a YAML file.
    """
    import compatbench as api

    with console.status("") as status:
        found = api.fetch_backbones(
            backbone or (), suite, progress=lambda line: status.update(escape(line))
        )
    for one in found:
        mark = MARKS["found" if one.file else "missing"]
        say(f"{mark} [bold]{escape(one.name)}[/] ")
        print_facts({"file": one.file, "licence": one.licence, "problem": one.problem})
    if not all(one.file for one in found):
        raise typer.Exit(1)
