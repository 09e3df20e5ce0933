"""Options that several commands share, with the functions that complete and read their values.

A command writes an option of its own where it is used. Options that act on the whole process
(``--cards``, ``--data-root``, ``--offline``, ``--trust-pickle``) act while the command line is
read, through their callbacks: worker processes inherit what they set. The commands that have them
do not use their values.
"""

import json
import os
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from compatbench.cli.completion import (
    complete_backbones,
    complete_methods,
    complete_suites,
    complete_tasks,
    complete_transfers,
)
from compatbench.errors import CompatbenchError


def add_cards(places: list[Path] | None) -> None:
    """Make cards of your own known by name."""
    if not places:
        return
    from compatbench.data.cards.own_cards import look_at, why_no_card
    from compatbench.files.project_folders import add_own_place

    for place in places:
        if not place.is_dir() and look_at(place) is None:
            raise CompatbenchError(f"--cards '{place}': {why_no_card(place)}")
        add_own_place(place)


def add_data_roots(folders: list[str] | None) -> None:
    """Set the folders of datasets."""
    if not folders:
        return
    from compatbench.data.dataset_folders import set_data_roots

    set_data_roots(folders)


def go_offline(is_offline: bool) -> None:
    """Fetch nothing from now on."""
    if is_offline:
        os.environ["HF_HUB_OFFLINE"] = "1"


def trust_pickle(is_trusted: bool) -> None:
    """Read checkpoints from now on even if that runs code in them."""
    if is_trusted:
        os.environ["COMPATBENCH_TRUST_PICKLE"] = "1"


def split(values: Iterable[str] | None) -> list[str]:
    """Return the parts of comma lists, each once."""
    parts = []
    for value in values or ():
        for part in value.split(","):
            part = part.strip()
            if part and part not in parts:
                parts.append(part)
    return parts


def read_size(text: str | None) -> int | None:
    """Return a size such as ``2G`` in bytes."""
    if text is None:
        return None
    from compatbench.files.sizes import parse_bytes

    return parse_bytes(text)


def read_seconds(text: str | None) -> float | None:
    """Return a time such as ``90``, ``90s``, ``10m`` or ``1.5h`` in seconds."""
    if text is None:
        return None
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([smh]?)", text.strip())
    if match is None:
        raise CompatbenchError(f"--timeout '{text}': give a time such as 90s, 10m or 2h")
    number, unit = match.groups()
    seconds_per_unit = {"": 1, "s": 1, "m": 60, "h": 3600}
    return float(number) * seconds_per_unit[unit]


def read_settings(texts: Iterable[str] | None) -> dict[str, Any] | None:
    """Return the settings of ``--set NAME=VALUE``; a value that is JSON is read as such.

    ``recipe.lr=1`` is the part ``lr`` of the setting ``recipe``.
    """
    if not texts:
        return None
    settings: dict[str, Any] = {}
    for text in texts:
        name, equals, value = text.partition("=")
        *outer, name = name.strip().split(".")
        place: Any = settings
        for part in outer:
            if isinstance(place, dict):
                place = place.setdefault(part, {})
        if not name or not equals or not isinstance(place, dict):
            raise CompatbenchError(f"--set '{text}': write it as NAME=VALUE, such as alpha=1")
        try:
            place[name] = json.loads(value)
        except ValueError:
            place[name] = value
    return settings


# What to measure.
Suite = Annotated[
    str,
    typer.Option(
        help="A suite: a name (see 'list suites') or the path of a YAML file.",
        autocompletion=complete_suites,
    ),
]
METHODS_HELP = (
    "Methods: a name, a comma list, a glob, or 'all' that the suite compares, also without some "
    "('all,!coop'); or the path of a method file ('./mine.py'), which is run as code."
)
Methods = Annotated[str, typer.Option(help=METHODS_HELP, autocompletion=complete_methods)]
MethodFile = Annotated[
    str | None,
    typer.Option(
        help="The method's file, if the method is not in 'list methods'; it is run as code.",
        autocompletion=complete_methods,
    ),
]
Tasks = Annotated[
    str,
    typer.Option(
        help="Tasks of the suite: a name, a comma list, a glob, 'all', also without some "
        "('all,!mini-food'), or the path of a card. A task includes its variants; you can also "
        "name a variant alone.",
        autocompletion=complete_tasks,
    ),
]
Transfers = Annotated[
    str | None,
    typer.Option(
        help="How modules reach the targets, such as 'copied,words' (see 'list transfers'); by "
        "default the suite's, most often 'copied'.",
        autocompletion=complete_transfers,
    ),
]
Seeds = Annotated[
    str | None,
    typer.Option(
        help="Seeds, such as '1,2'; by default the suite's, or those that its card names for a "
        "first run ('run_seeds')."
    ),
]
Shots = Annotated[
    str | None, typer.Option(help="Shots, such as '4,8' or 'all'; by default the suite's.")
]
PrecisionName = Literal["fp32", "tf32", "bf16", "fp16"]
Shard = Annotated[
    str | None,
    typer.Option(
        metavar="I/N",
        help="The I-th of N parts of the work, about equal in time, such as '3/8': one for each "
        "job of an array. The results of all parts add up.",
    ),
]
TrialSettings = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        metavar="NAME=VALUE",
        help="Settings to try: each method is run as the suite sets it, and with these, as "
        "'METHOD+NAME-VALUE'. A trial writes nothing to 'results/' and its pages.",
    ),
]
Target = Annotated[
    str,
    typer.Option(
        "--target",
        help="The new model: a name (see 'list backbones'), or 'MODEL/TAG' of open_clip, "
        "'MODEL@FILE', 'local-dir:FOLDER', 'hf:FOLDER'.",
        autocompletion=complete_backbones,
    ),
]

# Where to compute, and where files are.
Out = Annotated[Path, typer.Option(help="The folder of 'runs/', 'results/' and 'leaderboard.md'.")]
Device = Annotated[
    str,
    typer.Option(
        help="Where to compute: 'auto' (a GPU, if there is one), 'cpu', 'cuda', 'cuda:1', 'mps'; "
        "for the cells of a suite also 'cuda:all', which has workers on every card."
    ),
]
Jobs = Annotated[
    int | None,
    typer.Option(
        "--jobs",
        "-j",
        help="Workers; by default one per core, one on a GPU, and on Ray all that fit.",
    ),
]
Cards = Annotated[
    list[Path] | None,
    typer.Option(
        metavar="FOLDER | FILE",
        # Other options may name these cards, so they are made known first.
        callback=add_cards,
        is_eager=True,
        help="Folder with cards of your own, or a card; may be repeated. They are found by name, "
        "like the built-in ones and those of this folder and of COMPATBENCH_CARDS.",
    ),
]
DataRoot = Annotated[
    list[str] | None,
    typer.Option(
        metavar="FOLDER | TASK=FOLDER",
        callback=add_data_roots,
        help="Folder of all datasets, or of one task's; may be repeated. By default "
        "COMPATBENCH_DATA and COMPATBENCH_DATA_<TASK>.",
    ),
]
Offline = Annotated[
    bool,
    typer.Option(
        "--offline",
        callback=go_offline,
        help="Fetch nothing: weights must be on this machine. HF_HUB_OFFLINE=1 does the same.",
    ),
]
TrustPickle = Annotated[
    bool,
    typer.Option(
        "--trust-pickle",
        callback=trust_pickle,
        help="Read checkpoints even if that runs code in them; only for files from people you "
        "trust.",
    ),
]

# What to print.
Verbose = Annotated[bool, typer.Option("--verbose", help="Show every number, too.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]
