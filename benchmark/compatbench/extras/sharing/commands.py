"""``compatbench module push`` and ``pull``, each of a module, or of results."""

from __future__ import annotations

from pathlib import Path

import typer
from rich.markup import escape

from compatbench.cli.output import say, write_module
from compatbench.errors import CompatbenchError
from compatbench.extras.sharing import hub


def push(
    what: Path,
    to: str,
    yes: bool = False,
    private: bool = False,
    licence: str | None = None,
    out: str | Path = ".",
) -> int:
    """Sends a module, or the results of a suite, to the Hugging Face Hub.

    Shows first what would be sent, the text of the README in full, and asks. For example:
    compatbench module push mine.safetensors hf://me/coop-dtd

    Args:
        what: A module's file, or a folder results/SUITE.
        to: hf://OWNER/NAME for a module, hf://datasets/OWNER/NAME for results.
        yes: Send it without asking.
        private: If the repository is new, make it private.
        licence: The licence that you give the module, as the hub names it, such as 'mit'.
        out: The folder of results/, from which the README has the module's accuracies.
    """
    if what.is_dir():
        if licence is not None:
            raise CompatbenchError("--licence is for modules; leave it out for results")
        upload = hub.push_results(what, to, private=private)
    else:
        upload = hub.push_module(what, to, licence=licence, private=private, out=out)
    say(escape(str(upload)))
    if not yes and not typer.confirm("send this?"):
        return 1
    say(escape(f"sent: {upload.send()}"))
    return 0


def pull(address: str, out: Path | None = None) -> None:
    """Fetches a module, or results, from the Hugging Face Hub.

    A module need not be fetched to be evaluated: 'evaluate', 'predict', 'advise', 'module port' and
    'module export' take its address in place of a file.

    Args:
        address: hf://OWNER/NAME of a module, hf://datasets/OWNER/NAME of results.
        out: The module to write, by default NAME.safetensors in this folder; of results, the
            folder of results/.
    """
    place = hub.read_address(address)
    if place.kind == "dataset":
        for folder in hub.pull_results(address, out or Path()):
            say(escape(f"wrote {folder}"))
        return
    path = out or Path(f"{place.repository.rpartition('/')[2]}.safetensors")
    write_module(hub.pull_module(address), path)
    say(escape(f"  compatbench evaluate {path} --target NEW_MODEL"))
