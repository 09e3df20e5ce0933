"""``compatbench push`` and ``pull``: modules and results to and from the Hugging Face Hub."""

from __future__ import annotations

from pathlib import Path

import typer
from rich.markup import escape

from compatbench.cli.output import say, write_module
from compatbench.errors import CompatbenchError


def push(
    what: Path,
    to: str,
    yes: bool = False,
    private: bool = False,
    licence: str | None = None,
    out: Path = Path(),
) -> None:
    """Send a module, or the results of a suite, to the Hugging Face Hub.

    Shows first what would be sent, the text of the README in full, and asks. For example:
    compatbench push mine.safetensors hf://me/coop-dtd

    Args:
        what: A module's file, or a folder results/SUITE.
        to: hf://OWNER/NAME for a module, hf://datasets/OWNER/NAME for results.
        yes: Send it without asking.
        private: If the repository is new, make it private.
        licence: The licence that you give the module, as the hub names it, such as 'mit'.
        out: The folder of results/, from which the README has the module's accuracies.
    """
    import compatbench as api

    if what.is_dir():
        if licence is not None:
            raise CompatbenchError("--licence is for modules; leave it out for results")
        upload = api.push_results(what, to, private=private)
    else:
        upload = api.push_module(what, to, licence=licence, private=private, out=out)
    say(escape(str(upload)))
    if not yes and not typer.confirm("send this?"):
        raise typer.Exit(1)
    say(escape(f"sent: {upload.send()}"))


def pull(address: str, out: Path | None = None, offline: bool = False) -> None:
    """Fetch a module, or results, from the Hugging Face Hub.

    A module need not be fetched to be evaluated: 'evaluate', 'predict', 'port', 'advise' and
    'export' take its address in place of a file.

    Args:
        address: hf://OWNER/NAME of a module, hf://datasets/OWNER/NAME of results.
        out: The module to write, by default NAME.safetensors in this folder; of results, the
            folder of results/.
    """
    import compatbench as api
    from compatbench.extras.sharing.hub import read_address

    place = read_address(address)
    if place.kind == "dataset":
        for folder in api.pull_results(address, out or Path()):
            say(escape(f"wrote {folder}"))
        return
    path = out or Path(f"{place.repository.rpartition('/')[2]}.safetensors")
    write_module(api.pull_module(address), path)
    say(escape(f"  compatbench evaluate {path} --backbone NEW_MODEL"))
