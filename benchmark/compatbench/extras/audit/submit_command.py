"""``compatbench maintain submit``."""

import shlex
from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape

from compatbench.cli.completion import complete_suites
from compatbench.cli.groups import maintain
from compatbench.cli.output import print_json, say
from compatbench.cli.shared_options import AsJson, Cards, DataRoot, Offline
from compatbench.messages import count


@maintain.command("submit")
def submit(
    by: Annotated[
        str,
        typer.Option(
            "--name", help="Your name as it will be shown, such as 'Ada (github.com/ada)'."
        ),
    ],
    suite: Annotated[
        str, typer.Option(help="The suite that was run.", autocompletion=complete_suites)
    ] = "paper-small",
    out: Annotated[
        Path, typer.Option(help="The clone of the project, which contains the rows.")
    ] = Path(),
    again: Annotated[
        Path | None,
        typer.Option(
            help="The folder of a run (its '--out') that measured reported rows again. Its rows "
            "are compared with those of the clone, and only the comparison is stored."
        ),
    ] = None,
    data_root: DataRoot = None,
    as_json: AsJson = False,
    offline: Offline = False,
    cards: Cards = None,
) -> None:
    """Prepare a pull request with the rows of a suite of real models.

    Names you, the hardware, the versions and the hashes of the weights in
    'results/<suite>/reported.json', and makes the pages again. The rows must be those that this
    version gives with the weights and images of this machine. Nothing is sent.

    For example: compatbench maintain submit --name 'Ada (github.com/ada)'
    """
    import compatbench

    made = compatbench.submit_rows(suite, by, out=out, again=again)
    if as_json:
        print_json(made)
        return
    what = "reported" if again is None else "measured again"
    say(escape(f"{what}: {count(len(made.methods), 'method')} of suite '{made.suite}'"))
    for name, difference in made.differences.items():
        say(escape(f"  {name}: at most {difference:.1f} points apart"))
    for name in made.left_out:
        say(escape(f"  {name}: left out, because not all of its reported rows are here"))
    paths = " ".join(shlex.quote(str(path)) for path in made.paths)
    say("To send the rows, commit these files on a branch, and open a pull request:")
    say(escape(f"  git add {paths}"))
