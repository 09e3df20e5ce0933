"""``leaderboard.md``: the same results give the same bytes."""

from __future__ import annotations

from collections.abc import Sequence

from compatbench.leaderboard.gaps import find_disagreements, find_gaps
from compatbench.leaderboard.groups import rank_group
from compatbench.leaderboard.markdown import code, escape, link_definitions
from compatbench.leaderboard.measures import Upgrade
from compatbench.leaderboard.results import check_name
from compatbench.leaderboard.tables import (
    SuitePage,
    breakage_table,
    dataset_table,
    differs_table,
    gap_table,
    main_table,
    provenance_table,
    ranking_table,
    task_table,
    unranked_lines,
    variant_table,
)
from compatbench.shots import count_shots, show_shots

INTRODUCTION = """\
A small module is trained **once**, on a few images, for a *source* model. The model is then
upgraded, and the **same module, untouched**, is attached to the *target* model. Methods are
ranked by **H**, the harmonic mean of the accuracies on source and target, taken per dataset
and averaged: only a module that works on both scores high.
"""

HOW_TO_READ = """\
- **Source**, **Target**: top-1 accuracy in percent of the module on the model that it was
  trained for, and of the same module on the upgraded model; mean over datasets.
- **±**: sample standard deviation over seeds (each draws other training images).
- **H**: 2 · source · target / (source + target), per dataset and seed, then averaged over
  datasets, then over seeds. It is not the H of the two averages.
- **Gain**: target accuracy minus the target's own zero-shot accuracy, in points. Below 0,
  dropping the old module would have been better than keeping it.
- **Floor**: zero-shot, which trains nothing; its H is that of the two zero-shot accuracies.
- **Rank**: a place with `=` is shared: H differs from that of the first method with this
  rank by no more than chance (the 95 % interval of the mean difference, by a paired bootstrap
  over datasets and seeds, contains 0).
- **Depth**: *shallow* modules act at the text encoder's input; *deep* ones in its layers, on
  features, or on the classifier.
- **NFR**, **PFR**: negative and positive flip rate, the share of test images that the module has
  right on the source and wrong on the target, and the other way round: target − source = PFR − NFR.
  **Relative NFR** is 1 where the two models' errors are independent, and less where the module
  keeps what it had right. **Inconsistent**: images wrong on both, with another class each time.
- **ECE**: expected calibration error in percent, 15 bins of equal mass, source → target, of the
  softmax of the classifier's logits.
- **Harmed**: datasets whose mean gain is below 0. **Worst**: the least gain, and where.
- **Parameters**: numbers that the fit determined; least and most if datasets differ.
- **Fit**: mean wall-clock seconds of one fit on one core; image features are made before.
- **–**: no figure. No mean is taken over what happens to be there: one missing or failed
  cell, and the method has no mean and no rank.
- **Not transferable**: the module cannot be attached to the target at all, for example
  because the sizes of the features differ. A result, not an error.
- **Bold**: the best of a column.
"""


def render_page(suites: Sequence[SuitePage]) -> str:
    """The whole of ``leaderboard.md``.

    Raises:
        CompatbenchError: a suite's name is not safe to print in a command.
    """
    lines = ["# Leaderboard", "", *INTRODUCTION.splitlines()]
    lines += ["", "The columns are explained [at the end](#how-to-read-it)."]
    for page in suites:
        check_name(page.name, "suite")
        lines += ["", *_suite_section(page)]
    lines += ["", "## How to reproduce it", ""]
    lines += ["Finished cells are never run twice; the page is written anew from `results/`.", ""]
    lines += ["```sh", *[f"compatbench run --suite {page.name} --methods all" for page in suites]]
    lines += ["```", "", "## How to read it", "", *HOW_TO_READ.splitlines()]
    papers = [one.info.paper for page in suites for one in page.results.methods.values()]
    if definitions := link_definitions(papers):
        lines += ["", *definitions]
    return "\n".join(lines) + "\n"


def _suite_section(page: SuitePage) -> list[str]:
    expected = page.expected
    lines = [f"## {escape(page.title)}", ""]
    if page.note:
        lines += [f"> **Note.** {escape(page.note, longest=2000)}", ""]
    shots = ", ".join(str(show_shots(count)) for count in expected.shots)
    lines += [
        f"Suite {code(page.name)}: {_count(len(expected.tasks), 'task')}, {shots} shots per class, "
        f"{_count(len(expected.seeds), 'seed')}, {_count(len(expected.upgrades), 'upgrade')}, "
        f"{_count(len(page.results.methods), 'method')}."
    ]
    if not page.results.methods:
        return [*lines, "", "There are no results yet."]
    for upgrade in expected.upgrades:
        for count in sorted(expected.shots, reverse=True):
            lines += ["", *_main_section(page, upgrade, count)]
    return [
        *lines,
        *_group_sections(page),
        *_gap_section(page),
        *_breakage_sections(page),
        *_dataset_sections(page),
        *_variant_sections(page),
        *_setting_section(page),
        *_section(
            "Test sets",
            "The licence is that of the images.",
            task_table(page),
        ),
        *_section("Made with", "Read from the result files.", provenance_table(page)),
    ]


def _main_section(page: SuitePage, upgrade: Upgrade, shots: int) -> list[str]:
    source, target = upgrade
    lines = [f"### {_arrow(page, upgrade)}, {count_shots(shots)}", ""]
    lines += [f"Trained on {code(source)}, attached to {code(target)}. Ranked by H.", ""]
    lines += main_table(page, upgrade, shots)
    if notes := unranked_lines(page, upgrade, shots):
        lines += ["", *notes]
    return lines


def _breakage_sections(page: SuitePage) -> list[str]:
    shots = max(page.expected.shots)
    lines = ["", "### What breaks", ""]
    lines += [
        f"The same module before and after the upgrade, image by image; {shots} shots, means over "
        "datasets and seeds, in percent of the test images."
    ]
    for upgrade in page.expected.upgrades:
        lines += ["", f"#### {_arrow(page, upgrade)}", "", *breakage_table(page, upgrade, shots)]
    return lines


def _group_sections(page: SuitePage) -> list[str]:
    if not page.groups:
        return []
    lines = ["", "### By kind of upgrade", ""]
    lines += ["Means over the upgrades of one kind and their datasets; never across kinds."]
    for title, upgrades in page.groups.items():
        named = "; ".join(_arrow(page, upgrade) for upgrade in upgrades)
        for count in sorted(page.expected.shots, reverse=True):
            lines += ["", f"#### {escape(title)}, {count_shots(count)}", "", f"{named}.", ""]
            lines += ranking_table(rank_group(page, upgrades, count))
    return lines


def _dataset_sections(page: SuitePage) -> list[str]:
    shots = max(page.expected.shots)
    lines = ["", "### By dataset", ""]
    lines += [f"Means over seeds, {count_shots(shots)}; methods in the order of the main table."]
    shown: set[str] = set()
    for upgrade in page.expected.upgrades:
        source, target = upgrade
        if source not in shown:
            shown.add(source)
            lines += ["", f"#### Source accuracy: {escape(page.backbone_title(source))}", ""]
            lines += dataset_table(page, upgrade, shots, "source")
        lines += ["", f"#### Target accuracy: {escape(page.backbone_title(target))}", ""]
        lines += ["The old module on the upgraded model.", ""]
        lines += dataset_table(page, upgrade, shots, "target")
        lines += ["", f"#### H: {_arrow(page, upgrade)}", ""]
        lines += dataset_table(page, upgrade, shots, "h")
    return lines


def _variant_sections(page: SuitePage) -> list[str]:
    expected = page.expected
    parents = [task for task in expected.tasks if expected.variants.get(task)]
    if not parents:
        return []
    shots = max(expected.shots)
    lines = ["", "### Style shift", ""]
    lines += [
        f"Trained on the first column, {count_shots(shots)}; tested on the others: source → target."
    ]
    for task in parents:
        for upgrade in expected.upgrades:
            title = escape(page.task_title(task))
            lines += ["", f"#### {title}: {_arrow(page, upgrade)}", ""]
            lines += variant_table(page, upgrade, shots, task)
    return lines


def _setting_section(page: SuitePage) -> list[str]:
    views = (
        "the plain view of each training image alone"
        if page.views == 1
        else f"{page.views} cached augmentations per training image"
    )
    steps = "" if page.max_steps is None else f", and at most {page.max_steps:,} optimiser steps"
    text = f"Every trained method: {views}{steps}."
    differs = any(method.differs for method in page.results.methods.values())
    rows = differs_table(page) if differs else []
    return _section("Settings that differ from the published recipes", text, rows)


def _gap_section(page: SuitePage) -> list[str]:
    lines: list[str] = []
    if gaps := find_gaps(page.results, page.expected):
        text = "One row is one module on one model and one test set."
        lines += _section("Failed and missing", text, gap_table(page, gaps))
    if places := find_disagreements(page.results):
        named = "; ".join(f"{code(backbone)} on {code(test_set)}" for backbone, test_set in places)
        lines += _section(
            "Rows that disagree",
            "Zero-shot accuracy does not depend on the method, yet result files differ in it "
            f"(other weights, images, or another machine): {named}.",
            [],
        )
    return lines


def _section(title: str, text: str, table: list[str]) -> list[str]:
    return ["", f"### {title}", "", text, *(["", *table] if table else [])]


def _arrow(page: SuitePage, upgrade: Upgrade) -> str:
    source, target = upgrade
    return f"{escape(page.backbone_title(source))} → {escape(page.backbone_title(target))}"


def _count(number: int, what: str) -> str:
    return f"{number} {what}" + ("" if number == 1 else "s")
