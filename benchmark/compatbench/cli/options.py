"""The options of a command: what a shell needs to know of parameters of one name, wherever."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import typer

from compatbench.errors import CompatbenchError
from compatbench.plugins import Option

# Parameters that hold names of cards.
CARD_NAMES = {"suite", "task", "tasks", "backbone", "source", "target", "targets", "names"}
HERE = "compatbench.cli.options"
SET = Option(
    "--set", annotation="str", repeated=True, metavar="NAME=VALUE", read=f"{HERE}:read_settings"
)
SHARED = {
    # Those that a command wants beside what its function takes.
    "cards": Option(
        help="Folder with cards of your own, or a card; may be repeated. They are found by name, "
        "like the built-in ones and those of this folder and of COMPATBENCH_CARDS.",
        annotation="Path",
        repeated=True,
        metavar="FOLDER | FILE",
        at_once=f"{HERE}:add_cards",
    ),
    "data_root": Option(
        help="Folder of all datasets, or of one task's; may be repeated. By default "
        "COMPATBENCH_DATA and COMPATBENCH_DATA_<TASK>.",
        repeated=True,
        metavar="FOLDER | TASK=FOLDER",
        at_once="compatbench.data.dataset_folders:set_data_roots",
    ),
    "offline": Option(
        help="Fetch nothing: weights must be on this machine. HF_HUB_OFFLINE=1 says the same.",
        annotation="bool",
        default=False,
        at_once=f"{HERE}:go_offline",
    ),
    "trust_pickle": Option(
        help="Read checkpoints even if that runs code in them; only for files from people you "
        "trust.",
        annotation="bool",
        default=False,
        at_once=f"{HERE}:trust_pickle",
    ),
    "as_json": Option("--json", "Print JSON.", "bool", False),
    # Those of functions and records.
    "jobs": Option(("--jobs", "-j")),
    "steps": Option(least=1),
    "seed": Option(least=0),
    "memory_budget": Option(
        help="Most memory that each tower of a worker keeps for a backward pass, and for the "
        "images that are classified at once, such as '2G'; by default half of what is free, and "
        "1 GiB. Less is slower: batches of images run in micro-batches.",
        annotation="str",
        read="compatbench.files.sizes:parse_bytes",
    ),
    "cache_limit": Option(
        help="Most disk for image features and tokens, such as '200G': those unused longest are "
        "deleted, and tokens that do not fit are computed whenever they are needed.",
        annotation="str",
        read="compatbench.files.sizes:parse_bytes",
    ),
    "timeout": Option(
        help="End an attempt at a cell that takes longer, such as '90s' or '10m'; the encoding of "
        "its images does not count. It becomes a failed row, and the other cells continue.",
        annotation="str",
        read=f"{HERE}:read_seconds",
    ),
    "shard": Option(metavar="I/N"),
    "settings": SET,
    "config": SET,
    "suite": Option(completes="suites"),
    "methods": Option(completes="methods"),
    "task": Option(completes="tasks"),
    "tasks": Option(completes="tasks"),
    "backbone": Option(completes="backbones"),
    "source": Option(completes="backbones"),
    "target": Option(completes="backbones"),
    "transfer": Option(completes="transfers"),
    "transfers": Option(completes="transfers"),
}


def complete(kind: str) -> Callable[..., list[str]]:
    """Completes names of a kind, or of what ``list`` is asked for."""

    def completer(context: typer.Context, incomplete: str) -> list[str]:
        wanted = context.params.get("kind") if kind == "listed" else kind
        return [name for name in known_names(wanted) if name.startswith(incomplete)]

    return completer


def known_names(kind: str | None) -> list[str]:
    """The names that a shell completes, found without loading what they name."""
    from compatbench.data.cards import backbone_cards, suite_cards, task_cards
    from compatbench.files.project_folders import content_files

    if kind == "suites":
        return suite_cards.names()
    if kind == "tasks":
        return ["all", *task_cards.names()]
    if kind == "backbones":
        return [*backbone_cards.names(), "local-dir:", "hf:"]
    several = ["all"] if kind == "methods" else []
    return several + sorted(path.stem for path in content_files(kind or "methods"))


def add_cards(places: Iterable[Path]) -> None:
    """Has cards of one's own found by name."""
    from compatbench.data.cards.own_cards import look_at, why_no_card
    from compatbench.files.project_folders import add_own_place

    for place in places:
        if not place.is_dir() and look_at(place) is None:
            raise CompatbenchError(f"--cards '{place}': {why_no_card(place)}")
        add_own_place(place)


def go_offline(wanted: bool) -> None:
    """Has nothing fetched, in worker processes, too."""
    if wanted:
        os.environ["HF_HUB_OFFLINE"] = "1"


def trust_pickle(wanted: bool) -> None:
    """Has checkpoints read that run code, in worker processes, too."""
    if wanted:
        os.environ["COMPATBENCH_TRUST_PICKLE"] = "1"


def split(listed: str | Iterable[str]) -> list[Any]:
    """The parts of comma lists; what they may be is checked by what they are given to."""
    text = listed if isinstance(listed, str) else ",".join(listed)
    return list(dict.fromkeys(part.strip() for part in text.split(",") if part.strip()))


def read_numbers(text: str) -> list[int]:
    """A comma list of whole numbers below a billion."""
    parts = split(text)
    if wrong := [part for part in parts if not part.isdecimal() or len(part) > 9]:
        raise CompatbenchError(f"'{wrong[0]}' is no number below a billion; write such as 64,256")
    return [int(part) for part in parts]


def read_seconds(text: str) -> float:
    """A time from the command line, in seconds: ``90``, ``90s``, ``10m``, ``1.5h``."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([smh]?)", text.strip())
    if match is None:
        raise CompatbenchError(f"--timeout '{text}': give a time such as 90s, 10m or 2h")
    return float(match[1]) * {"": 1, "s": 1, "m": 60, "h": 3600}[match[2]]


def read_settings(texts: Iterable[str]) -> dict[str, Any]:
    """Settings of the command line, ``NAME=VALUE``; a value that is JSON is read as such.

    ``recipe.lr=1`` is the part ``lr`` of the setting ``recipe``.
    """
    settings: dict[str, Any] = {}
    for text in texts:
        name, equals, value = text.partition("=")
        *outer, name = name.strip().split(".")
        place: Any = settings
        for part in outer:
            place = place.setdefault(part, {}) if isinstance(place, dict) else None
        if not name or not equals or not isinstance(place, dict):
            raise CompatbenchError(f"--set '{text}': write it as NAME=VALUE, such as alpha=1")
        try:
            place[name] = json.loads(value)
        except ValueError:
            place[name] = value
    return settings
