"""What is asked of a pull request: its methods are run here, and the rows are those of that run.

There are two jobs. The untrusted one runs the contributed methods and leaves modules and
predictions (``untrusted.py``). The trusted one, here, imports nothing of the change: it scores the
predictions with labels that the other never saw, and compares the rows with those that are sent.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cache, partial
from itertools import product
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError

from compatbench.backbone import load_backbone
from compatbench.backbone.device import resolve_device
from compatbench.data.cache_files import default_cache_folder
from compatbench.data.cards import SuiteCard, TrainingCard, suite_cards, suite_tasks
from compatbench.data.draws import load_test_set
from compatbench.data.feature_cache import FeatureCache
from compatbench.engine.cell import Cell, CellRecord, Where
from compatbench.engine.keys import data_key
from compatbench.engine.predict import predict_zero_shot
from compatbench.engine.store import RunStore
from compatbench.errors import CompatbenchError
from compatbench.extras.audit.change import (
    Change,
    compare_with_base,
    find_change,
    read_base_results,
)
from compatbench.extras.audit.untrusted import JOB, Order, run_untrusted
from compatbench.files.project_folders import in_clone
from compatbench.files.scratch import scratch_folder
from compatbench.method.identity import local_files
from compatbench.method.predictions import Predictions
from compatbench.results.collect import costs_of, score_cell
from compatbench.results.method_results import (
    MethodInfo,
    MethodResults,
    SuiteResults,
    join_provenance,
    split_results,
)
from compatbench.results.result_files import RESULTS, read_results, write_results
from compatbench.results.rows import Cost, Row, to_frame
from compatbench.tables.markdown import code, escape, link_definitions, render_table
from compatbench.tables.ranking import ranking_table
from compatbench.tables.suite_page import read_suite_page

# What a measurement rests on, besides methods and what keys name.
HARNESS = ("benchmark/compatbench/", "tasks/mini/", "tasks/__init__.py", "setup.cfg", "pyproject")
SHOWN = 20  # problems in the summary
# The floor, the strongest plain method, and the method of the founding paper.
REFERENCES = ("zeroshot", "kgcoop", "contcoop")


@dataclass
class PullRequest:
    """What was found of a change.

    Attributes:
        problems: each keeps the change from being merged.
        lines: the summary without its verdict, as Markdown.
        rows: of the methods that changed, by the project's own run.
    """

    problems: list[str] = field(default_factory=list)
    lines: list[str] = field(default_factory=list)
    rows: SuiteResults | None = None

    @property
    def summary(self) -> str:
        """The whole summary, the verdict first."""
        count = len(self.problems)
        verdict = f"**Failed**: {count} problem{'s' * (count != 1)}." if count else "**Passed.**"
        lines = ["# compatbench ci", "", verdict, ""]
        lines += [f"- {escape(problem, longest=600)}" for problem in self.problems[:SHOWN]]
        if count > SHOWN:
            lines.append(f"- and {count - SHOWN} more")
        return "\n".join([*lines, *self.lines]) + "\n"


def check_pull_request(
    out: Path | str = ".",
    base: str | None = None,
    *,
    suite: str = "mini",
    work: Path | str | None = None,
    job: str = "both",
    device: str = "auto",
    progress: Callable[[str], object] = lambda _: None,
) -> PullRequest:
    """Does all that is asked of a pull request.

    The methods that changed are checked and run on all tasks and seeds of a suite, by the
    installed harness, best that of the base: in a container without network and without the labels
    of test images, where there is bubblewrap, and otherwise in a plain process, which the summary
    says. Their predictions are scored here, by code that imports nothing of the change. Rows that
    the change brings along have to be these rows; rows of other methods have to stay.

    Args:
        out: a folder of the clone.
        base: a branch, tag or commit to compare with; by default what ``GITHUB_BASE_REF`` names
            on the remote ``origin``, then ``origin/main``, then ``main``.
        suite: that methods are run on.
        work: folder of what the untrusted job leaves, and of the rows; by default one that is
            removed.
        job: ``untrusted`` runs the methods alone, ``trusted`` scores what that has left in
            ``work``, and ``both`` does one after the other.
        device: where to compute.
        progress: called with a line before each step.

    Returns:
        ``problems``, each of which keeps the change from being merged, ``rows``, and ``summary``,
        a page in Markdown.

    Raises:
        CompatbenchError: the clone, its base or the installation cannot be used.
    """
    device = resolve_device(device)  # a wrong one is refused before minutes of work
    if job not in ("untrusted", "trusted", "both"):
        raise CompatbenchError(f"--job '{job}': choose untrusted, trusted or both")
    if job != "both" and work is None:
        raise CompatbenchError(f"--job {job} needs --work, the folder that both jobs use")
    change = find_change(Path(out), base)
    with scratch_folder() as place:
        folder = Path(work).resolve() if work is not None else place
        folder.mkdir(parents=True, exist_ok=True)
        order = Order(change.root.resolve(), folder, find_methods(change), suite, device)
        found = PullRequest([*_check_files(change)], _describe_change(change, order.methods))
        if order.methods and job != "trusted":
            found.lines += ["", run_untrusted(order, progress)]
        if job != "untrusted":
            progress("scores predictions, compares rows")
            with in_clone(change.root):
                _judge(found, change, order)
    return found


def find_methods(change: Change) -> tuple[str, ...]:
    """The method files that a change touches, or whose local imports it touches."""
    touched = {(change.root / name).resolve() for name in change.changed}
    files = sorted((change.root / "methods").glob("[!_]*.py"))
    return tuple(
        path.relative_to(change.root).as_posix() for path in files if local_files(path) & touched
    )


def _check_files(change: Change) -> Iterator[str]:
    """What a change may not bring along: its own weights or splits, links, compiled methods."""
    for name in sorted(change.changed | change.deleted):
        path = change.root / name
        top, suffix = Path(name).parts[0], path.suffix
        if top in ("methods", "tasks") and path.is_symlink():
            yield f"{name}: is a link; put what it leads to in its place"
        elif top == "methods" and suffix != ".py":
            yield f"{name}: methods are Python files, and nothing else belongs there"
        elif top == "tasks" and suffix not in (".yaml", ".py", ".md"):
            what = "ships with the project, and a change cannot be judged by its own files"
            yield f"{name}: {what}; the project's owner has to add it"


def _describe_change(change: Change, methods: tuple[str, ...]) -> list[str]:
    against = f"Against {code(change.name)} at {code(change.base[:12])}:"
    lines = [f"- methods: {', '.join(map(code, methods))}"] if methods else []
    if any(name.startswith(HARNESS) for name in change.changed | change.deleted):
        lines.append("- the harness, or what it measures with: methods ran by the base's")
    return ["", "## What changed", "", against, "", *(lines or ["- no method"])]


def _judge(found: PullRequest, change: Change, order: Order) -> None:
    """Adds what the untrusted job's predictions give, and how results differ from the base's."""
    card = suite_cards.read(order.suite)
    made: dict[str, MethodResults] = {}
    if order.methods:
        try:
            job = json.loads((order.work / JOB).read_text("utf-8"))
            made = score_job(job, card, order)
        except (OSError, ValueError, KeyError, TypeError, ValidationError) as error:
            raise CompatbenchError(
                f"{order.work / JOB} is not what the job writes: {error}"
            ) from None
        _report_checks(found, job)
        _report_gaps(found, card, made)
    folder = change.root / RESULTS / card.name
    sent = read_results(folder) if folder.is_dir() else split_results(card.name, [])
    base = read_base_results(change, card.name)
    for results in made.values():
        write_results(order.work / RESULTS / card.name, results)
    found.rows = split_results(card.name, made.values())
    _compare(found, sent, base, found.rows, set(made))
    others = [each for each in sent.all if each.info.name not in made]
    whole = split_results(card.name, [*others, *found.rows.all])
    page = read_suite_page(card, change.root, whole)
    for upgrade in page.expected.upgrades if made else ():
        shots = max(page.expected.shots)
        ranks = page.restrict(methods={*made, *REFERENCES}).ranks(upgrade, shots)
        title = f"{' → '.join(map(code, upgrade))}:"
        found.lines += ["", title, "", render_table(ranking_table(ranks)), ""]
        found.lines += link_definitions(row.standing.info.paper for row in ranks)


def score_job(job: Mapping[str, Any], card: SuiteCard, order: Order) -> dict[str, MethodResults]:
    """The results of the methods that an untrusted job has run, by name.

    Of the job's files, keys, settings and predictions are taken; labels and zero-shot are ours.
    """
    store = RunStore(order.work / "runs")
    features = FeatureCache(default_cache_folder())
    load = cache(partial(load_backbone, device=order.device))
    zero_shot = cache(
        lambda backbone, test_set: predict_zero_shot(
            load(backbone, precision=card.training.precision), load_test_set(test_set), features
        )
    )
    lines: dict[str, list[Any]] = {name: [] for name in job["methods"]}
    costs: dict[str, list[Cost]] = {name: [] for name in job["methods"]}
    provenances: dict[str, list[Any]] = {name: [] for name in job["methods"]}
    known = {*suite_tasks(card)}, {name for upgrade in card.upgrades for name in upgrade}
    for values in job["cells"]:
        cell = _read_cell(values, known)
        if (record := store.read(cell.key)) is None:
            continue
        record, predictions = _with_our_data(record, store.read_predictions(cell.key), cell)
        rows = score_cell(cell, record, predictions, lambda w: zero_shot(w[0], w[1]))
        lines[cell.name] += rows
        costs[cell.name] += costs_of(cell, record)
        provenances[cell.name].append(record.provenance)
    info = TypeAdapter(MethodInfo)
    return {
        name: MethodResults(
            info.validate_python(about["info"]),
            about["config"],
            {key: tuple(pair) for key, pair in about["differs"].items()},  # type: ignore[misc]
            join_provenance(provenances[name]),
            to_frame(lines[name], Row),
            to_frame(costs[name], Cost),
            transfer=None,
        )
        for name, about in job["methods"].items()
    }


def _read_cell(values: Mapping[str, Any], known: tuple[set[str], set[str]]) -> Cell:
    """A cell as a job describes it, with the hashes of our test sets and weights."""
    tasks, backbones = known
    sequences = {name: tuple(values[name]) for name in ("backbones", "test_sets")}
    if values["task"] not in tasks or not {*sequences["backbones"]} <= backbones:
        raise ValueError(f"{values['task']} and {sequences['backbones']} are not the suite's")
    places = tuple((*pair, data_key(*pair)) for pair in product(*sequences.values()))
    training = TrainingCard.model_validate(values["training"])
    return Cell(**{**values, **sequences, "training": training}, places=places)


def _with_our_data(
    record: CellRecord, predictions: Mapping[Where, Predictions], cell: Cell
) -> tuple[CellRecord, dict[Where, Predictions]]:
    """A record and predictions at our places: a test set without labels has another hash."""
    ours = {where[:2]: where for where in cell.places}
    outcomes = tuple(
        outcome.model_copy(update={"data": ours[outcome.where[:2]][2]})
        for outcome in record.records
        if outcome.where[:2] in ours
    )
    moved = {ours[where[:2]]: value for where, value in predictions.items() if where[:2] in ours}
    return record.model_copy(update={"records": outcomes}), moved


def _report_checks(found: PullRequest, job: Mapping[str, Any]) -> None:
    for name, why in job["broken"].items():
        found.problems.append(f"method '{name}' cannot be loaded: {why}")
    failed = [outcome for outcome in job["checks"] if outcome["status"] == "fail"]
    passed = sum(outcome["status"] == "pass" for outcome in job["checks"])
    found.lines += ["", f"Checks of the conformance kit: {passed} passed, {len(failed)} failed."]
    for outcome in failed:
        where = f"check '{outcome['check']}' of method '{outcome['method']}'"
        found.problems.append(f"{where} fails: {outcome['reason']}")


def _report_gaps(found: PullRequest, card: SuiteCard, made: Mapping[str, MethodResults]) -> None:
    """Names methods that failed somewhere, or did not run."""
    for name, results in made.items():
        rows = results.rows
        failed = rows.loc[rows["status"] == "failed"]
        for row in failed.head(1).to_dict("records"):
            where = f"{row['task']}, seed {row['seed']}, on {row['backbone']}"
            found.problems.append(
                f"method '{name}' failed in {len(failed)} rows, the first at {where}: "
                f"{row['reason']}"
            )
        wanted = {*suite_tasks(card)}
        if missing := sorted(wanted - {*rows["task"]}):
            found.problems.append(f"method '{name}' has no predictions for {', '.join(missing)}")


def _compare(
    found: PullRequest,
    sent: SuiteResults,
    base: SuiteResults,
    made: SuiteResults,
    methods: set[str],
) -> None:
    """Rows that are sent must be those that were made here, and all others those of the base."""
    found.lines += ["", "## Rows", ""]
    both = compare_with_base(made, sent)
    wrong = both.loc[both["method"].isin(methods) & (both["change"] == "moved")]
    for name in sorted(methods):
        rows, own = made.frame.query("method == @name"), wrong.query("method == @name")
        compared = both.query("method == @name and change != 'removed'")
        said = f"{len(rows)} rows made here"
        said += f", {len(compared)} sent, {len(own)} of them differ" if len(compared) else ""
        found.lines.append(f"- {code(name)}: {said}")
        if len(own):
            found.problems.append(
                f"results of '{name}': {len(own)} rows are not what the run here gives, the first "
                f"of {_place(own.iloc[0])}; leave results out, they are made after the merge"
            )
    both = compare_with_base(base, sent)
    both = both.loc[~both["method"].isin(methods)]
    moved = both.loc[both["same_key"] & (both["change"] == "moved")]
    gone = both.loc[both["change"] == "removed"]
    for rows, what in ((moved, "changed under an unchanged key"), (gone, "were removed")):
        if len(rows):
            names = ", ".join(sorted(set(rows["method"])))
            first = _place(rows.iloc[0])
            found.problems.append(f"{len(rows)} rows of {names} {what}, the first of {first}")


def _place(row: Any) -> str:
    return (
        f"{row['task']} from {row['source']}, {row['shots']} shots, seed {row['seed']}, at "
        f"{row['backbone']} on {row['test_set']}"
    )
