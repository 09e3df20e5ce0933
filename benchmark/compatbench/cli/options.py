"""Options that several commands share, and how the shell completes them."""

from __future__ import annotations

import os
import re
from enum import Enum
from pathlib import Path
from typing import Annotated

import typer

from compatbench.data.cards import backbone_cards, suite_cards, task_cards
from compatbench.data.shots import LARGEST_SEED, read_shots
from compatbench.errors import CompatbenchError
from compatbench.files.project_folders import method_files


class Precision(str, Enum):
    """What frozen towers can compute in."""

    fp32 = "fp32"
    bf16 = "bf16"


class ExecutorName(str, Enum):
    """What can run cells."""

    local = "local"
    ray = "ray"


def complete_methods(incomplete: str) -> list[str]:
    names = sorted(path.stem for path in method_files())
    return [name for name in ["all", *names] if name.startswith(incomplete)]


def complete_suites(incomplete: str) -> list[str]:
    return [name for name in suite_cards.names() if name.startswith(incomplete)]


def complete_tasks(incomplete: str) -> list[str]:
    return [name for name in ["all", *task_cards.names()] if name.startswith(incomplete)]


def complete_backbones(incomplete: str) -> list[str]:
    model, slash, _ = incomplete.partition("/")
    names = [*backbone_cards.names(), "local-dir:", "hf:"]
    if slash:
        from compatbench.backbone.load.open_clip_models import tags_of

        names = [f"{model}/{tag}" for tag in tags_of(model)]
    return [name for name in names if name.startswith(incomplete)]


SuiteOption = Annotated[
    str,
    typer.Option(
        "--suite",
        help="Suite: a name (see 'compatbench list suites') or a YAML file.",
        autocompletion=complete_suites,
    ),
]
MethodsOption = Annotated[
    str,
    typer.Option(
        "--methods",
        help="Methods: names, globs, 'all', comma lists, exclusions ('all,!coop'), or the path "
        "of a method file ('./mine.py'), which is run as code.",
        autocompletion=complete_methods,
    ),
]
TasksOption = Annotated[
    str,
    typer.Option(
        "--tasks",
        help="Tasks of the suite: names, globs, 'all', comma lists, exclusions.",
        autocompletion=complete_tasks,
    ),
]
SeedsOption = Annotated[
    str | None,
    typer.Option("--seeds", help="Seeds, such as '1,2'.", show_default="the suite's"),
]
ShotsOption = Annotated[
    str | None,
    typer.Option("--shots", help="Shots, such as '4,8' or 'all'.", show_default="the suite's"),
]
TransfersOption = Annotated[
    str | None,
    typer.Option(
        "--transfers",
        help="How modules reach the targets, such as 'copied,words' (see 'list transfers').",
        show_default="the suite's: copied",
    ),
]
OutOption = Annotated[
    Path,
    typer.Option("--out", help="Folder for runs/, results/ and leaderboard.md.", file_okay=False),
]


ShotsFileOption = Annotated[
    list[Path] | None,
    typer.Option(
        "--shots-file",
        help="File of 'data shots' with the images to train on, in place of the draw of its "
        "task, shots and seed; may be repeated.",
        dir_okay=False,
    ),
]
ShardOption = Annotated[
    str | None,
    typer.Option(
        "--shard",
        metavar="I/N",
        help="The I-th of N parts of the work, about equal in time, such as '3/8': one for each "
        "job of an array. The results of all parts add up.",
    ),
]
DeviceOption = Annotated[
    str, typer.Option("--device", help="Where to compute: auto, cpu, cuda, cuda:1, mps.")
]


def _set(variable: str, wanted: bool) -> bool:
    """Sets an environment variable, which worker processes inherit."""
    if wanted:
        os.environ[variable] = "1"
    return wanted


OfflineOption = Annotated[
    bool,
    typer.Option(
        "--offline",
        help="Fetch nothing: weights must be on this machine. HF_HUB_OFFLINE=1 says the same.",
        callback=lambda wanted: _set("HF_HUB_OFFLINE", wanted),
    ),
]
TrustPickleOption = Annotated[
    bool,
    typer.Option(
        "--trust-pickle",
        help="Read checkpoints even if that runs code in them; only for files from people you "
        "trust.",
        callback=lambda wanted: _set("COMPATBENCH_TRUST_PICKLE", wanted),
    ),
]


def _take_roots(options: list[str] | None) -> list[str]:
    from compatbench.data.roots import set_data_roots

    set_data_roots(options or [])
    return options or []


DataRootOption = Annotated[
    list[str] | None,
    typer.Option(
        "--data-root",
        metavar="FOLDER | TASK=FOLDER",
        help="Folder of all datasets, or of one task's; may be repeated.",
        show_default="COMPATBENCH_DATA, COMPATBENCH_DATA_<TASK>",
        callback=_take_roots,
    ),
]


def read_numbers(
    option: str, text: str | None, least: int, most: int | None = None
) -> tuple[int, ...] | None:
    """A comma list of numbers from the command line."""
    if text is None:
        return None
    try:
        numbers = tuple(dict.fromkeys(int(part) for part in text.split(",") if part.strip()))
    except ValueError:
        numbers = ()
    if not numbers or min(numbers) < least:
        raise CompatbenchError(
            f"{option} '{text}': give numbers of at least {least}, separated by commas"
        )
    if most is not None and max(numbers) > most:
        raise CompatbenchError(f"{option} '{text}': give numbers of at most {most}")
    return numbers


def read_seeds_option(text: str | None) -> tuple[int, ...] | None:
    """Seeds from the command line."""
    return read_numbers("--seeds", text, least=0, most=LARGEST_SEED)


def read_names(text: str | None) -> list[str] | None:
    """A comma list of names from the command line."""
    return None if text is None else [part.strip() for part in text.split(",") if part.strip()]


def read_seconds(option: str, text: str | None) -> float | None:
    """A time from the command line, in seconds: ``90``, ``90s``, ``10m``, ``1.5h``."""
    if text is None:
        return None
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([smh]?)", text.strip())
    seconds = float(match[1]) * {"": 1, "s": 1, "m": 60, "h": 3600}[match[2]] if match else 0.0
    if not seconds:
        raise CompatbenchError(f"{option} '{text}': give a time such as 90s, 10m or 2h")
    return seconds


def read_shots_option(text: str | None) -> tuple[int, ...] | None:
    """Numbers of shots from the command line, of which one may be ``all``."""
    if text is None:
        return None
    numbers = ",".join(str(read_shots(part)) for part in text.split(","))
    return read_numbers("--shots", numbers, least=1)
