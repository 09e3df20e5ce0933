"""All that follows from a method's file: its settings, rows, golden outputs and pages."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from compatbench.data.cards import SuiteCard, suite_cards
from compatbench.engine.compute import Compute
from compatbench.engine.plan import plan_cells
from compatbench.errors import CompatbenchError
from compatbench.extras.check.run_checks import check_methods
from compatbench.files.atomic import write_atomic
from compatbench.files.kinds import delete_paths, files_below, kind_of
from compatbench.method.registry import builtin_methods, find_transfer, known_transfer
from compatbench.results.method_results import MethodResults
from compatbench.results.result_files import FILES, RESULTS, read_methods, result_folders
from compatbench.results.tuning_records import read_record, show_record, tuning_path
from compatbench.results.tuning_search import NothingToTune, without_chosen
from compatbench.runs import run, tune
from compatbench.tables.pages.leaderboard import LEADERBOARD, METHOD_PAGES, report

# Where it writes; and programs of a clone that write of methods what no command does.
MADE = (RESULTS, "docs", "tests/golden", "tasks/suites", "benchmark", LEADERBOARD, "README.md")
GOLDEN = "tests/golden/outputs.py"
PAGES = "benchmark/pages.py", "methods", "recipes", "authors", "scale"
# A suite, and the transfers and seeds that a method is run with there.
PlannedRun = tuple[SuiteCard, list[str], list[int]]


@dataclass
class Submission:
    """What was made of methods.

    Attributes:
        methods: those that were run.
        gone: those without a file, whose results were deleted.
        written: the files that were written or deleted, as paths below the clone.
    """

    methods: list[str] = field(default_factory=list)
    gone: list[str] = field(default_factory=list)
    written: list[str] = field(default_factory=list)


def submit(
    methods: str | None = None,
    suite: str = "mini",
    *,
    out: str | Path = ".",
    compute: Compute | None = None,
    progress: Callable[[str], object] = lambda _: None,
) -> Submission:
    """Makes all that follows from the file of a method, as the project does after a merge.

    The method is checked, tuned if the suite says how, and run on all seeds of the suite with every
    transfer that others there have and that takes it; then again on each other suite that has rows
    of it. Golden outputs and pages are written. Nothing that is finished is done again: stop at any
    time, and the same call continues. Results and pages of methods that are gone are deleted.

    Args:
        methods: methods of the repository; by default those whose rows are not of their present
            code, and those that have none.
        suite: on which methods are ranked.
        out: the clone.
        compute: as for ``run``.
        progress: called with a line before each step.

    Returns:
        ``methods``, ``gone``, and the files that were ``written`` or deleted.

    Raises:
        CompatbenchError: as ``run``; or a method breaks a rule, or fails somewhere.
    """
    out, before = Path(out), _look(Path(out))
    card, registry, compute = suite_cards.read(suite), builtin_methods(), compute or Compute()
    gone = [] if methods is not None else _find_gone(out)
    names = [*find_unrecorded(card, out)] if methods is None else registry.select(methods)
    if outside := [name for name in names if ":" in registry.identify(name)[0]]:
        where = registry.file_of(outside[0])
        raise CompatbenchError(f"method '{outside[0]}' is not of this clone, but of {where}")
    if names:
        progress(f"checks {', '.join(names)}")
        for outcome in check_methods(names).to_dict("records"):
            if outcome["status"] == "fail":
                where = f"check '{outcome['check']}' of method '{outcome['method']}'"
                raise CompatbenchError(f"{where} fails: {outcome['reason']}")
    for name in names:
        _measure(name, suite, out, compute, progress)
    for name in gone:
        delete_paths(_files_of(name, out))
        if name in card.methods:
            _write_settings(card, name, {}, out)
    if names or gone:
        progress("golden outputs and pages")
        for program in ((GOLDEN, *names), PAGES):
            if kind_of(out / program[0]) == "file":
                _run_program([sys.executable, *program], out)
        report(out)
    after = _look(out)
    written = {path.as_posix() for path, _ in before.items() ^ after.items()}
    return Submission(names, gone, sorted(written))


def _run_program(command: Sequence[str], folder: Path) -> None:
    """Run a program in a folder; raise an error with its last line if it fails."""
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    if done.returncode:
        last = (done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[-1]
        raise CompatbenchError(f"python {command[1]} failed: {last}")


def _measure(
    name: str, suite: str, out: Path, compute: Compute, progress: Callable[[str], object]
) -> None:
    """Chooses the settings of a method, if the suite says how, and runs it."""
    if (card := suite_cards.read(suite)).tuning is not None:
        progress(f"tunes {name}")
        _tune(name, card, out, compute)
    for each, transfers, seeds in [*_list_runs(name, suite_cards.read(suite), out)]:
        progress(f"runs {name} on {each.name}, {', '.join(transfers)}")
        done = run(each, name, transfers=transfers, seeds=seeds, out=out, compute=compute)
        if done.failures:
            raise CompatbenchError(f"method '{name}' failed on {each.name}: {done.failures[0]}")


def find_unrecorded(card: SuiteCard, out: Path) -> Iterator[str]:
    """The methods of the repository of which a suite has not all rows of their present code."""
    registry, results = builtin_methods(), read_methods(out / RESULTS / card.name)
    known = _known_transfers(card, results)
    for name in registry.names():
        if ":" in registry.identify(name)[0]:
            continue  # an installed package's
        _, transfers, seeds = _own_run(name, card, known)
        cells = plan_cells(card, registry, [name], transfers=transfers, seeds=seeds)
        kept = {*results[name].rows["key"]} if name in results else set()
        if not {cell.key for cell in cells} <= kept:
            yield name


def _list_runs(name: str, card: SuiteCard, out: Path) -> Iterator[PlannedRun]:
    """The suites that a method is run on: the one it is ranked on, and those with rows of it."""
    yield _own_run(name, card, _known_transfers(card, read_methods(out / RESULTS / card.name)))
    for folder in result_folders(out):
        if folder.name in suite_cards.names() and folder.name != card.name:
            of_suite = read_methods(folder)
            if name in of_suite:
                rows = of_suite[name].rows
                transfers, seeds = rows["transfer"].unique(), sorted({*rows["seed"].tolist()})
                yield suite_cards.read(folder.name), [*transfers], seeds


def _known_transfers(card: SuiteCard, results: Mapping[str, MethodResults]) -> list[str]:
    """Those that a suite asks for, and those that it has rows of."""
    labels = dict.fromkeys(card.transfers)
    for method in results.values():
        labels |= dict.fromkeys(filter(known_transfer, method.rows["transfer"].unique()))
    return [*labels]


def _own_run(name: str, card: SuiteCard, transfers: Sequence[str]) -> PlannedRun:
    """The run of a method on the suite that it is ranked on."""
    method = builtin_methods().get(name).card
    return card, [each for each in transfers if find_transfer(each).serves(method)], [*card.seeds]


def _find_gone(out: Path) -> list[str]:
    """Methods that have results, and neither a file nor are configs of their suite."""
    names = set[str]()
    for folder in result_folders(out):
        if folder.name in suite_cards.names():
            known = {*builtin_methods().classes, *suite_cards.read(folder.name).configs}
            names |= {*read_methods(folder)} - known
    return sorted(names)


def _files_of(name: str, out: Path) -> Iterator[Path]:
    """All files of a method in ``results/``, and its page."""
    for folder in result_folders(out):
        yield from (folder / f"{name}{end}" for end in FILES)
        yield tuning_path(out, folder.name, name)
    yield out / METHOD_PAGES / f"{name}.md"


def _tune(name: str, card: SuiteCard, out: Path, compute: Compute) -> None:
    """Chooses a method's settings, unless there is a record of this version, and puts them down.

    A renamed method takes the record and the settings of its first name along.
    """
    method = builtin_methods().get(name).card
    old, path = (tuning_path(out, card.name, each) for each in (method.identity, name))
    if old != path and old.is_file() and not path.is_file():
        renamed = read_record(old).model_copy(update={"method": name})
        write_atomic(path, show_record(renamed).encode())
        _write_settings(card, name, card.methods.get(method.identity, {}), out)
    if path.is_file() and read_record(path).version == method.version:
        return
    with suppress(NothingToTune):
        tune(name, card.name, out=out, compute=compute)
        record = read_record(path)
        chosen = record.settings[record.chosen].changes(builtin_methods().get(name).Config())
        rest = dict(without_chosen(card)).get(name, {})  # what else the card says, which stays
        recipe = {**rest.get("recipe", {}), **chosen.pop("recipe", {})}
        settings = rest | chosen | ({"recipe": recipe} if recipe else {})
        if settings != card.methods.get(name, {}):
            _write_settings(card, name, settings, out)


def _write_settings(card: SuiteCard, name: str, settings: Mapping[str, Any], out: Path) -> None:
    """Writes the settings of a method on the card, if that is of the clone ``out``."""
    path = suite_cards.path(card.name)
    if path.resolve().is_relative_to(out.resolve()):
        text = set_method(path.read_text(encoding="utf-8"), name, settings)
        write_atomic(path, text.encode())


def set_method(text: str, name: str, settings: Mapping[str, Any]) -> str:
    """The text of a card with the settings of a method, on a line of its own in ``methods``.

    A method that has settings keeps its place; without any it is left out.
    """
    shown = yaml.safe_dump({**settings}, default_flow_style=True, sort_keys=False, width=10_000)
    line = f"  {name}: {shown.strip()}\n" if settings else ""
    head, mark, rest = text.partition("\nmethods:\n")
    if not mark:
        return f"{text.rstrip()}\nmethods:\n{line}" if line else text
    block = re.match(r"(?:[ #].*\n|\n)*", rest)
    assert block is not None
    # An entry is its first line and those that are further in.
    entries = re.split(r"(?m)^(?=  [^ #\n])", block[0])
    places = [number for number, entry in enumerate(entries) if entry.startswith(f"  {name}:")]
    if places:
        # Comments that follow are the next entry's.
        comment = re.search(r"(?m)^  #", entries[places[0]])
        entries[places[0]] = line + (entries[places[0]][comment.start() :] if comment else "")
    elif line:
        later = [
            number for number, entry in enumerate(entries) if entry[:2] == "  " and entry > line
        ]
        entries.insert(min(later, default=len(entries)), line)
    return head + mark + "".join(entries) + rest[block.end() :]


def _look(out: Path) -> dict[Path, tuple[int, int]]:
    """When each file was last changed that a submission may write, and its size."""
    looks = dict[Path, tuple[int, int]]()
    for place in (out / name for name in MADE):
        for path in [place] if kind_of(place) == "file" else files_below(place):
            if "__pycache__" not in path.parts:
                about = path.lstat()
                looks[path.relative_to(out)] = about.st_mtime_ns, about.st_size
    return looks
