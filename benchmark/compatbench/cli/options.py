"""Commands and their options: a command is a function, and its docstring is its help."""

from __future__ import annotations

import functools
import inspect
import os
import re
from collections.abc import Callable
from copy import copy
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar, get_args

import typer

from compatbench.data.cards import backbone_cards, suite_cards, task_cards
from compatbench.errors import CompatbenchError
from compatbench.files.project_folders import content_files

Function = TypeVar("Function", bound=Callable[..., None])
Precision = Literal["fp32", "tf32", "bf16", "fp16"]


def command(
    app: typer.Typer, name: str | None = None, panel: str | None = None
) -> Callable[[Function], Function]:
    """Registers a function as a command, whose help is the function's docstring.

    A parameter without a default is an argument, any other an option. Its help is its entry below
    ``Args:``, or what ``SHARED`` says of an option that several commands have. A command that takes
    names of cards has the option ``--cards``, too.
    """

    def register(function: Function) -> Function:
        text, _, entries = (inspect.getdoc(function) or "").partition("\nArgs:\n")
        helps = dict(re.findall(r"^    (\w+): (.*(?:\n {8}.*)*)", entries, re.MULTILINE))
        signature = inspect.signature(function, eval_str=True)
        parameters = []
        for parameter in signature.parameters.values():
            settings = dict(SHARED.get(parameter.name, {}))
            names = settings.pop("names", ())
            if parameter.name in helps:
                settings["help"] = " ".join(helps[parameter.name].split())
            kind, *given = get_args(parameter.annotation) or (None,)
            if given and isinstance(given[0], typer.models.ParameterInfo):
                info = copy(given[0])
                info.help = settings.get("help", info.help)
            else:
                kind = parameter.annotation
                if kind is bool and not parameter.default:
                    names = names or (f"--{parameter.name.replace('_', '-')}",)  # and no --no-
                required = parameter.default is parameter.empty
                info = typer.Argument(**settings) if required else typer.Option(*names, **settings)
            parameters.append(parameter.replace(annotation=Annotated[kind, info]))
        run: Any = function
        if not CARD_NAMES.isdisjoint(signature.parameters):
            run = _takes_cards(function)
            parameters.append(_CARDS)
        run.__signature__ = signature.replace(parameters=parameters)
        paragraphs = [" ".join(paragraph.split()) for paragraph in text.split("\n\n")]
        default = function.__name__.strip("_").replace("_", "-")
        help_text = "\n\n".join(paragraphs)
        app.command(name or default, help=help_text, rich_help_panel=panel)(run)
        return function

    return register


def _takes_cards(function: Callable[..., None]) -> Callable[..., None]:
    """The function with an argument that its option has dealt with."""

    @functools.wraps(function)
    def run(*given: Any, cards: object = None, **named: Any) -> None:
        function(*given, **named)

    return run


def _completes(names: Callable[[], list[str]]) -> Callable[[str], list[str]]:
    def complete(incomplete: str) -> list[str]:
        return [name for name in names() if name.startswith(incomplete)]

    return complete


complete_suites = _completes(suite_cards.names)
complete_tasks = _completes(lambda: ["all", *task_cards.names()])
complete_methods = _completes(
    lambda: ["all", *sorted(path.stem for path in content_files("methods"))]
)
complete_backbones = _completes(lambda: [*backbone_cards.names(), "local-dir:", "hf:"])


def _sets(variable: str) -> Callable[[bool], bool]:
    """Sets an environment variable, which worker processes inherit."""

    def set_if_wanted(wanted: bool) -> bool:
        if wanted:
            os.environ[variable] = "1"
        return wanted

    return set_if_wanted


def _add_cards(places: list[Path] | None) -> list[Path] | None:
    from compatbench.data.cards.own_cards import look_at, why_no_card
    from compatbench.files.project_folders import add_own_place

    for place in places or ():
        if not place.is_dir() and look_at(place) is None:
            raise CompatbenchError(f"--cards '{place}': {why_no_card(place)}")
        add_own_place(place)
    return places


def _set_data_roots(folders: list[str] | None) -> list[str] | None:
    from compatbench.data.dataset_folders import set_data_roots

    set_data_roots(folders or [])
    return folders


# Parameters that hold names of cards.
CARD_NAMES = {"suite", "task", "tasks", "backbone", "source", "target", "to", "names"}
SHARED: dict[str, dict[str, Any]] = {
    "cards": {
        "help": "Folder with cards of your own, or a card; may be repeated. They are found by "
        "name, like the built-in ones and those of this folder and of COMPATBENCH_CARDS.",
        "metavar": "FOLDER | FILE",
        "callback": _add_cards,
        "is_eager": True,
    },
    "suite": {
        "help": "Suite: a name (see 'compatbench list suites') or a YAML file.",
        "autocompletion": complete_suites,
    },
    "methods": {
        "help": "Methods: names, globs, 'all', comma lists, exclusions ('all,!coop'), or the path "
        "of a method file ('./mine.py'), which is run as code.",
        "autocompletion": complete_methods,
    },
    "tasks": {
        "help": "Tasks: names, globs, 'all', comma lists, exclusions, or the path of a card. A "
        "task stands for its variants, too, which can also be named alone.",
        "autocompletion": complete_tasks,
    },
    "task": {"autocompletion": complete_tasks},
    "backbone": {"autocompletion": complete_backbones},
    "source": {
        "help": "The old model (see 'compatbench list backbones').",
        "autocompletion": complete_backbones,
    },
    "target": {"help": "The new model.", "autocompletion": complete_backbones},
    "seeds": {
        "help": "Seeds, such as '1,2'; by default the suite's, or those that its card names for a "
        "first run ('run_seeds')."
    },
    "shots": {"help": "Shots, such as '4,8' or 'all'; by default the suite's."},
    "transfers": {
        "help": "How modules reach the targets, such as 'copied,words' (see 'list transfers'); by "
        "default the suite's, most often 'copied'."
    },
    "out": {"help": "Folder for runs/, results/ and leaderboard.md."},
    "shots_file": {
        "help": "File of 'data shots' with the images to train on, in place of the draw of its "
        "task, shots and seed; may be repeated.",
    },
    "shard": {
        "help": "The I-th of N parts of the work, about equal in time, such as '3/8': one for each "
        "job of an array. The results of all parts add up.",
        "metavar": "I/N",
    },
    "jobs": {
        "help": "Worker processes; by default one per core, and one on a GPU.",
        "names": ("--jobs", "-j"),
        "min": 1,
    },
    "forged": {
        "help": "Draw as many cells as it takes to find one, if this share of them is forged ..."
    },
    "power": {"help": "... with this probability. 0.1 and 0.9 are 22 cells of thousands."},
    "minutes": {"help": "Begin no other cell after this time; it is said what was run by then."},
    "unverified": {
        "help": "Suite whose rows may stand unchecked where its weights or images are not here; "
        "may be repeated."
    },
    "device": {
        "help": "Where to compute: auto, cpu, cuda, cuda:1, mps; for the cells of a suite also "
        "cuda:all, which has workers on every card."
    },
    "data_root": {
        "help": "Folder of all datasets, or of one task's; may be repeated. By default "
        "COMPATBENCH_DATA and COMPATBENCH_DATA_<TASK>.",
        "metavar": "FOLDER | TASK=FOLDER",
        "callback": _set_data_roots,
    },
    "offline": {
        "help": "Fetch nothing: weights must be on this machine. HF_HUB_OFFLINE=1 says the same.",
        "callback": _sets("HF_HUB_OFFLINE"),
    },
    "trust_pickle": {
        "help": "Read checkpoints even if that runs code in them; only for files from people you "
        "trust.",
        "callback": _sets("COMPATBENCH_TRUST_PICKLE"),
    },
    "as_json": {"help": "Print JSON.", "names": ("--json",)},
    "as_csv": {"help": "Print CSV.", "names": ("--csv",)},
    "figure": {"help": "Write the figure to this SVG file."},
    "steps": {"help": "Most optimiser steps of a fit.", "min": 1},
    "threads": {"min": 1},
    "decoders": {"min": 1},
    "jobs_per_gpu": {"min": 1},
    **{name: {"min": 0} for name in ("cells", "days", "gpus_per_cell", "seed", "tolerance")},
}


_CARDS = inspect.Parameter(
    "cards",
    inspect.Parameter.KEYWORD_ONLY,
    default=None,
    annotation=Annotated[list[Path] | None, typer.Option(**SHARED["cards"])],
)


def split(text: str | None) -> list[Any] | None:
    """The parts of a comma list; what they may be is checked by what they are given to."""
    if text is None:
        return None
    return list(dict.fromkeys(part.strip() for part in text.split(",") if part.strip()))


def read_seconds(text: str) -> float:
    """A time from the command line, in seconds: ``90``, ``90s``, ``10m``, ``1.5h``."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([smh]?)", text.strip())
    if match is None:
        raise CompatbenchError(f"--timeout '{text}': give a time such as 90s, 10m or 2h")
    return float(match[1]) * {"": 1, "s": 1, "m": 60, "h": 3600}[match[2]]
