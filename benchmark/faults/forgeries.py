"""Forged results, each of which an audit must find, and say what it must say.

    python benchmark/faults/forgeries.py [NAME ...]

A forgery is a function that changes a copy of a small honest project, and a line in a table.
Those in ``LIMITS`` are not found, and docs/security.md says why.
"""

from __future__ import annotations

import re
import sys
import tempfile
from pathlib import Path

import forgers as f
from forged_project import METHODS, Project, make_honest
from forgers import OTHER, ROWS, SIMPLESHOT, WIDE
from plain_forgeries import ABOUT, COST, DRIFT, PLAIN, Forgery

TASKRES, SIMPLE, COOPS = ("taskres",), ("simpleshot",), ("coop",)
AGAIN = "the cell was run again and gave another number"

# All that needs no training agrees; cells of a method are run again, and give another number.
OTHER_NUMBERS = {
    TASKRES: {
        "one more right on a target": (f.one_more(ROWS, 3), "taskres.csv:3: 'correct'"),
        "one more right, through words": (f.one_more(ROWS, 7), "taskres.csv:7: 'correct'"),
        "fewer flips both ways": (f.fewer_flips(), "taskres.csv:3: 'negative_flips'"),
        "fewer errors that differ": (
            f.add(ROWS, "inconsistent_errors", -1, 3),
            "'inconsistent_errors'",
        ),
    },
    SIMPLE: {
        "a target in the second suite of a cell": (
            f.one_more(WIDE, 3),
            "wide/simpleshot.csv:3: 'correct'",
        ),
        "a better calibration": (f.halve(SIMPLESHOT, "ece", 2), "simpleshot.csv:2: 'ece'"),
        "fewer parameters": (f.add(SIMPLESHOT, "parameters", -100), "csv:2: 'parameters'"),
        "a smaller module": (f.add(SIMPLESHOT, "module_bytes", -400), "csv:2: 'module_bytes'"),
        "seeds swapped under their keys": (f.swap_seeds(*f.COUNTED), "csv:2: 'correct'"),
        "figures of another method": (f.copy_rows(*f.COUNTED), "csv:2: 'correct'"),
        "numbers of blank images": (f.blank_images, "tiny/simpleshot.csv:3: 'correct'"),
        "one image beside a file of another processor": (
            f.together(f.claim("wide", "taskres"), f.one_more(WIDE, 3)),
            "wide/simpleshot.csv:3: 'correct'",
        ),
    },
    COOPS: {"a method's results invented": (f.invent_rows, "tiny/coop.csv:2: 'correct'")},
}
AGREES = {
    name: Forgery(forge, f"{place}: {AGAIN}", methods)
    for methods, forged in OTHER_NUMBERS.items()
    for name, (forge, place) in forged.items()
} | {
    "not transferable, in place of a bad number": Forgery(
        f.hide("not transferable"), f"simpleshot.csv:3: 'status': {AGAIN}; expected ok", SIMPLE
    ),
    "failed, in place of a bad number": Forgery(
        f.hide("failed"), f"simpleshot.csv:3: 'status': {AGAIN}; expected ok", SIMPLE
    ),
    "one percent everywhere, by another processor": Forgery(
        f.every_count("correct", 3, OTHER), f"'correct': .*{DRIFT}", METHODS
    ),
    "two percent everywhere, by another processor": Forgery(
        f.every_count("correct", 5, OTHER), f"'correct': .*{DRIFT}", METHODS
    ),
    "another unit of time": Forgery(
        f.change("results/tiny/coop.cost.csv", "fit_seconds", lambda _: 7200.0),
        r"coop.cost.csv:\d: 'fit_seconds': .*run again and took .*, found 7.2e\+03",
        COOPS,
    ),
    "a thousandth of the memory": Forgery(
        f.change(COST, "peak_memory", lambda v: int(v) // 1000),
        r"taskres.cost.csv:\d: 'peak_memory': .*run again and took",
        TASKRES,
    ),
}

FORGERIES = PLAIN | AGREES

# Forged in code, a method's or the harness's, and found by a test of its own below tests/.
PULLS, KIT = "audit/test_pull_request.py", "conformance/test_kit.py"
OTHER_PROCESS = "conformance/test_other_process.py"
IN_CODE = {
    "a method that patches the audit when it is imported": (
        PULLS,
        "test_a_method_that_patches_its_judge_patches_its_own_process",
    ),
    "a method that reaches for results or the network": (
        PULLS,
        "test_a_method_that_reaches_beyond_itself_is_named",
    ),
    "another method's compiled file": (
        "engine/test_confined.py",
        "test_compiled_files_are_not_run",
    ),
    "a harness that praises itself": (
        PULLS,
        "test_a_harness_is_judged_by_the_one_that_is_installed",
    ),
    "a decoder that blanks images": (PULLS, "test_images_that_the_harness_blanks_are_seen"),
    "features that lie about": (PULLS, "test_a_new_method_is_checked_run_again_and_compared"),
    "an attach that reads labels": (OTHER_PROCESS, "test_a_method_that_reads_labels_is_found"),
    "a method that follows the hour": (OTHER_PROCESS, "test_what_depends_on_the_machine_is_found"),
    "a method that keeps images": (
        KIT,
        "test_a_broken_method_fails_the_check_that_it_breaks_and_no_other",
    ),
}

# Not found. What is expected is the reason, as docs/security.md gives it.
LIMITS: dict[str, Forgery] = {
    "one image, by another processor": Forgery(
        f.together(f.claim("tiny", "taskres"), f.one_more(ROWS, 3)),
        "cannot be distinguished from rounding",
        TASKRES,
    ),
    "a version that it was not made with": Forgery(
        f.replace(ABOUT, r'("compatbench": \[\s*)"[^"]*"', r'\g<1>"9.9.9"'),
        "what a file says of its versions cannot be verified",
        TASKRES,
    ),
    "a short fit that takes no time": Forgery(
        f.change(COST, "fit_seconds", lambda _: 0.0), "below 0.2 s may be written as 0", TASKRES
    ),
    "a suite that asks for less": Forgery(f.fewer_seeds, "a suite is what its card says", METHODS),
    "a published figure": Forgery(
        lambda project: project.write("results/published/few_shot.csv", b"mine\n"),
        "only the paper can tell",
    ),
    "prose in the README": Forgery(
        f.replace("README.md", "The best of all", "Ten points better"), "nobody computes prose"
    ),
    "a figure that names another vl-convert": Forgery(
        f.draw_by_hand("results/figures/tiny-scatter-1.svg", vl_convert="0.1"),
        "another version of vl-convert draws otherwise",
    ),
}


def try_forgery(name: str, honest: Project, folder: Path) -> list[str]:
    """What an audit says of a forgery that it was expected to say; of a limit, all that it says."""
    forgery, project = (FORGERIES | LIMITS)[name], honest.copy(folder)
    forgery.forge(project)
    if forgery.again:
        project.publish()
    found = list(map(str, project.audit(forgery.again, forgery.zero_shot).findings))
    return [line for line in found if name in LIMITS or re.search(forgery.expected, line)]


def main(names: list[str]) -> int:
    """Tries forgeries, by default all; 1 if one is not found, or a limit is."""
    wrong = 0
    with tempfile.TemporaryDirectory() as place:
        honest = make_honest(Path(place) / "honest")
        for number, name in enumerate(names or FORGERIES | LIMITS):
            lines = try_forgery(name, honest, Path(place) / str(number))
            wrong += bool(lines) == (name in LIMITS)
            print(f"{name}: {lines[0] if lines else 'NOT FOUND'}{' (limit)' * (name in LIMITS)}")
    return int(wrong > 0)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
