"""``leaderboard.md``: the same results give the same bytes."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from compatbench.pages.answers import question_order
from compatbench.pages.markdown import link_definitions, one_line
from compatbench.pages.sections import suite_section
from compatbench.pages.suitepage import SuitePage
from compatbench.results.store import check_name

INTRODUCTION = """\
A small module is trained **once**, on a few images, for a *source* model; the model is then
upgraded, and the **same module, untouched**, is attached to the *target* model. Methods are
ranked by **H**, the harmonic mean of the accuracies on source and target, per dataset and then
averaged, so that only a module that works on both scores high.
"""

HOW_TO_READ = """\
- **Source**, **Target**: top-1 accuracy in percent of the module on the model that it was
  trained for, and of the same module on the upgraded model; mean over datasets.
- **±**: sample standard deviation over seeds (each draws other training images).
- **H**: 2 · source · target / (source + target), per dataset and seed, then averaged over
  datasets, then over seeds. It is not the H of the two averages.
- **95 %**: a bootstrap interval over datasets: what the mean could have been on others of their
  kind. A task counts once, whatever its variants. It is wide because datasets differ in how hard
  they are; methods are compared dataset by dataset, and their *rank* can be sure all the same.
- **Rank**: a place with `=` is shared: H differs from that of the first method with this
  rank by no more than chance (the 95 % interval of the mean difference, by a paired bootstrap
  over datasets and seeds, contains 0).
- **Average rank**: a method's mean place over datasets, with Friedman's test of whether methods
  differ at all. Two that share a **group** letter are closer than Nemenyi's critical difference,
  which allows for all comparisons at once and is stricter than *Rank*.
- **Gain**: target accuracy minus the target's own zero-shot accuracy, in points. Below 0,
  dropping the old module would have been better than keeping it.
- **Floor**: zero-shot, which trains nothing; its H is that of the two zero-shot accuracies.
- **Depth**: *shallow* modules act at the text encoder's input; *deep* ones in its layers, on
  features, or on the classifier.
- **NFR**, **PFR**: negative and positive flip rate, the share of test images that the module has
  right on the source and wrong on the target, and the other way round: target − source = PFR − NFR.
  **Relative NFR** is 1 where the two models' errors are independent, and less where the module
  keeps what it had right. **Inconsistent**: images wrong on both, with another class each time.
- **ECE**: expected calibration error in percent, 15 bins of equal mass, source → target, of the
  softmax of the classifier's logits.
- **Harmed**: datasets whose mean gain is below 0. **Worst**: the least gain, and where.
- **Per step**: the mean change of a step along an upgrade path, in points; in parentheses, what
  each step changed. **Gain** there is over the zero-shot accuracy of the model of each step.
- **Kept**: the old module's gain as a share of the gain of one retrained on the target, a ratio of
  two means over datasets and seeds: a mean of ratios would be decided by the dataset on which
  retraining gains least. Below 0, the old module is worse than none. No share is given where
  retraining does not clearly gain: the 95 % interval of its mean gain is not above 0.
- **Aligned** methods attach the module through a map between the two models, and are not ranked
  with modules that are attached untouched; shown is untouched → through the map.
- **Parameters**: numbers that the fit determined; least and most if datasets differ. **Module**:
  the largest module's tensors.
- **Fit**, **Evaluate**: mean wall-clock seconds of one fit, and of one test set on the target, on
  one core; image features are made before. **Peak memory**: the most that the process of a cell
  held, the models and features that it keeps at hand included; on a GPU, the tensors there.
- **–**: no figure. No mean is taken over what happens to be there: one missing or failed
  cell, and the method has no mean and no rank.
- **Not transferable**: the module cannot be attached to the target at all, for example
  because the sizes of the features differ. A result, not an error.
- **Bold**: the best of a column; in an ablation, a difference whose 95 % interval does not hold 0.
"""


def render_page(suites: Sequence[SuitePage], figures: Collection[str] = ()) -> str:
    """The whole of ``leaderboard.md``.

    Args:
        figures: names of the pictures in ``results/figures/`` that there are.

    Raises:
        CompatbenchError: a suite's name is not safe to print in a command.
    """
    lines = ["# Leaderboard", "", *INTRODUCTION.splitlines()]
    lines += [
        "",
        "[How to read it](#how-to-read-it) · [How to reproduce a row](#how-to-reproduce-a-row)",
    ]
    for page in suites:
        lines += ["", *suite_section(page, figures)]
    lines += ["", *_reproduction(suites), "", "## How to read it", "", *HOW_TO_READ.splitlines()]
    shown = [one for page in suites for one in (page, *page.sections)]
    papers = [one.info.paper for page in shown for one in page.results.all]
    if definitions := link_definitions(papers):
        lines += ["", *definitions]
    return "\n".join(lines) + "\n"


def _reproduction(suites: Sequence[SuitePage]) -> list[str]:
    """The commands that make every row again, and one row, and one cell of it."""
    lines = ["## How to reproduce a row", ""]
    lines += [
        "A row is one method on one upgrade. The name that commands know it by stands in the table "
        "*What it costs*; the counts that its figures are made of, with the key of each module, in "
        "`results/<suite>/<name>.csv`. Finished cells are never run twice, and the page is written "
        "anew from `results/`.",
        "",
        "```sh",
    ]
    for page in suites:
        run = f"compatbench run --suite {check_name(page.name, 'suite')} --methods"
        commands = [(f"{run} all", "every row")]
        if (name := _example(page)) is not None:
            task, seed = page.expected.tasks[0], page.expected.seeds[0]
            commands.append((f"{run} {name}", "one row"))
            commands.append((f"{run} {name} --tasks {task} --seeds {seed}", "one cell of it"))
        for section in sorted(page.sections, key=question_order):
            suite = check_name(section.name, "suite")
            commands.append(
                (f"compatbench run --suite {suite} --methods all", one_line(section.title))
            )
        width = max(len(command) for command, _ in commands)
        lines += [f"{command.ljust(width)}  # {what}" for command, what in commands]
    return [*lines, "```"]


def _example(page: SuitePage) -> str | None:
    """The first of the ranking that learns something."""
    ranks = page.ranks(page.expected.upgrades[0], max(page.expected.shots))
    return next((one.standing.info.name for one in ranks if one.standing.info.learns), None)
