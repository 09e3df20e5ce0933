"""What is asked of a pull request: its methods are run here, and the rows are those of that run.

There are two jobs. The untrusted one runs the contributed methods and leaves modules and
predictions (``untrusted.py``). The trusted one, here, imports nothing of the change: it scores the
predictions with labels that the other never saw, and says what they rank.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field, replace
from functools import cache, lru_cache, partial
from pathlib import Path
from typing import Any

import pandas as pd

from compatbench.backbone import load_backbone
from compatbench.backbone.device import resolve_device
from compatbench.data.cache_files import default_cache_folder
from compatbench.data.cards import SuiteCard, suite_cards, suite_tasks
from compatbench.data.draws import load_test_set
from compatbench.data.feature_cache import FeatureCache
from compatbench.engine.keys import data_key
from compatbench.engine.predict import predict_zero_shot
from compatbench.engine.store import RunStore
from compatbench.errors import CompatbenchError
from compatbench.extras.audit.change import (
    Change,
    check_change,
    find_change,
    find_methods,
    is_made,
    read_base_results,
    touches_harness,
)
from compatbench.extras.audit.suite_checks import find_moved
from compatbench.extras.audit.untrusted import CLAIMED, JOB, JOBS, Job, Order, run_untrusted
from compatbench.files.project_folders import in_clone
from compatbench.files.scratch import scratch_folder
from compatbench.method.predictions import Predictions
from compatbench.results.measures import Answers, score
from compatbench.results.method_results import (
    MethodResults,
    SuiteResults,
    split_results,
)
from compatbench.results.result_files import (
    RESULTS,
    read_methods,
    read_results,
    write_results,
)
from compatbench.results.rows import Row, to_frame
from compatbench.tables.markdown import code, define_links, escape, render_table
from compatbench.tables.ranking import ranking_table
from compatbench.tables.suite_page import read_suite_page
from compatbench.tables.table import records

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
        lines = ["# compatbench maintain ci", "", verdict, ""]
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
    says. Their predictions are scored here, by code that imports nothing of the change. What
    follows from methods, rows and pages, is made after the merge (``submit``), so a change brings
    nothing of it; beside one of the harness, rows of other methods have to stay.

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
        pull = PullRequest([*check_change(change)], _describe_change(change, order.methods))
        if order.methods and job != "trusted":
            pull.lines += ["", run_untrusted(order, progress)]
        if job != "untrusted":
            progress("scores predictions, compares rows")
            with in_clone(change.root):
                _judge(pull, change, order)
    return pull


def _describe_change(change: Change, methods: tuple[str, ...]) -> list[str]:
    against = f"Against {code(change.name)} at {code(change.base[:12])}:"
    lines = [f"- methods: {', '.join(map(code, methods))}"] if methods else []
    if touches_harness(change):
        lines.append("- the harness, or what it measures with: methods ran by the base's")
        if made := sum(map(is_made, change.changed)):
            lines.append(f"- {made} files of results and pages, which 'maintain audit' judges")
    lines = lines or ["- no method"]
    if change.uncommitted:
        lines.append(f"- files that are not committed are judged, too: {change.uncommitted}")
    return ["", "## What changed", "", against, "", *lines]


def _judge(pull: PullRequest, change: Change, order: Order) -> None:
    """Adds what the untrusted job's predictions give, and how results differ from the base's."""
    card = suite_cards.read(order.suite)
    made: dict[str, MethodResults] = {}
    if order.methods:
        try:
            job = JOBS.validate_json((order.work / JOB).read_bytes())
            for name, claimed in read_methods(order.work / CLAIMED / card.name).items():
                made[name] = replace(claimed, rows=score_rows(claimed.rows, card, order))
        except (OSError, ValueError, KeyError) as error:
            raise CompatbenchError(
                f"{order.work / JOB} is not what the job writes: {error}"
            ) from None
        _report_checks(pull, job)
        _report_gaps(pull, card, made)
    folder = change.root / RESULTS / card.name
    sent, base = read_results(folder), read_base_results(change, card.name)
    for results in made.values():
        write_results(order.work / RESULTS / card.name, results)
    pull.rows = split_results(card.name, made.values())
    _compare(pull, sent, base, sorted(made))
    others = [each for each in sent.all if each.info.name not in made]
    whole = split_results(card.name, [*others, *pull.rows.all])
    page = read_suite_page(card, change.root, whole)
    for upgrade in page.expected.upgrades if made else ():
        shots = max(page.expected.shots)
        ranks = page.restrict(methods={*made, *REFERENCES}).ranks(upgrade, shots)
        title = f"{' → '.join(map(code, upgrade))}:"
        table = render_table(ranking_table(ranks))
        pull.lines += ["", title, "", table, "", *define_links(table).splitlines()]


def score_rows(claimed: pd.DataFrame, card: SuiteCard, order: Order) -> pd.DataFrame:
    """Rows of an untrusted job with the counts that its predictions give.

    Of its files, keys, settings and predictions are taken; labels, zero-shot and hashes are ours.
    """
    store, features = RunStore(order.work / "runs"), FeatureCache(default_cache_folder())
    known = {*suite_tasks(card)}, {name for upgrade in card.upgrades for name in upgrade}
    load = cache(partial(load_backbone, device=order.device, precision=card.training.precision))
    read = lru_cache(maxsize=1)(store.read_predictions)

    @cache
    def zero_shot(backbone: str, test_set: str) -> Predictions:
        return predict_zero_shot(load(backbone), load_test_set(test_set), features)

    def count(row: dict[str, Any]) -> Row:
        source, backbone, test_set = row["source"], row["backbone"], row["test_set"]
        if row["task"] not in known[0] or not {source, backbone} <= known[1]:
            raise ValueError(f"{row['task']} on {source} and {backbone} is not of the suite")
        figures: dict[str, Any] = {"data": data_key(backbone, test_set)}
        if row["status"] == "ok":
            predictions = {where[:2]: each for where, each in read(row["key"]).items()}
            before = None if backbone == source else predictions.get((source, test_set))
            labels = [sample.label for sample in load_test_set(test_set).split("test")]
            ours = zero_shot(backbone, test_set)
            figures |= score(Answers(predictions[backbone, test_set], before, ours, labels))
        return Row.model_validate(row | figures)

    return to_frame(map(count, records(claimed)), Row)


def _report_checks(pull: PullRequest, job: Job) -> None:
    for name, why in job.broken.items():
        pull.problems.append(f"method '{name}' cannot be loaded: {why}")
    failed = [outcome for outcome in job.checks if outcome.status == "fail"]
    passed = sum(outcome.status == "pass" for outcome in job.checks)
    pull.lines += ["", f"Checks of the conformance kit: {passed} passed, {len(failed)} failed."]
    for outcome in failed:
        where = f"check '{outcome.check}' of method '{outcome.method}'"
        pull.problems.append(f"{where} fails: {outcome.reason}")


def _report_gaps(pull: PullRequest, card: SuiteCard, made: Mapping[str, MethodResults]) -> None:
    """Names methods that failed somewhere, or did not run."""
    for name, results in made.items():
        rows = results.rows
        failed = rows.loc[rows["status"] == "failed"]
        if len(failed):
            first = failed.iloc[0]
            pull.problems.append(
                f"method '{name}' failed in {len(failed)} rows, the first of {_place(first)}: "
                f"{first['reason']}"
            )
        if missing := sorted({*suite_tasks(card)} - {*rows["task"]}):
            pull.problems.append(f"method '{name}' has no predictions for {', '.join(missing)}")


def _compare(
    pull: PullRequest, sent: SuiteResults, base: SuiteResults, methods: Collection[str]
) -> None:
    """Counts the rows that were made here; rows of other methods must be those of the base."""
    assert pull.rows is not None
    pull.lines += ["", "## Rows", ""]
    counts = pull.rows.frame["method"].value_counts()
    pull.lines += [f"- {code(name)}: {counts.get(name, 0)} rows made here" for name in methods]
    on, sides = ["method", *Row.place], ("_base", "")
    both = base.frame.merge(sent.frame, "outer", on, suffixes=sides, indicator=True)
    both = both.loc[~both["method"].isin([*methods])].sort_values([*Row.place])
    same_key = (both["key"] == both["key_base"]) & (both["data"] == both["data_base"])
    kinds = {
        "changed under an unchanged key": same_key & find_moved(both, "_base").any(axis=1),
        "were removed": both["_merge"] == "left_only",
    }
    for what, chosen in kinds.items():
        if len(rows := both.loc[chosen]):
            names, first = ", ".join(sorted(set(rows["method"]))), _place(rows.iloc[0])
            pull.problems.append(f"{len(rows)} rows of {names} {what}, the first of {first}")


def _place(row: Any) -> str:
    return (
        f"{row['task']} from {row['source']}, {row['shots']} shots, seed {row['seed']}, at "
        f"{row['backbone']} on {row['test_set']}"
    )
