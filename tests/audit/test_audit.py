"""Every way to falsify a result that we could think of is named, with its file and field."""

from __future__ import annotations

import json
import re
from collections.abc import Callable

import pytest
from honest_results import Workplace

from .conftest import Change, set_field


def drop_line(line: int) -> Change:
    return lambda text: "".join(
        part for n, part in enumerate(text.splitlines(keepends=True), 1) if n != line
    )


def flip_hex(value: str) -> str:
    return ("0" if value[0] != "0" else "1") + value[1:]


FLIPS = r"taskres.csv:3: 'negative_flips': the flips do not lead"
STALE = "is not what this checkout computes"
# Of taskres.csv, lines 2 and 3 are seed 1 on source and target, 4 and 5 seed 2; 6 to 9 are the
# same through words.
FORGED_FIELDS: list[tuple[int, str, Callable[[str], object], str]] = [
    (3, "correct", lambda v: int(v) + 3, f"{FLIPS} .* expected correct = \\d+ \\+"),
    (2, "correct", lambda v: int(v) + 3, FLIPS),
    (3, "negative_flips", lambda v: max(0, int(v) - 1), FLIPS),
    (3, "correct", lambda v: f"{int(v) / 2:.1f}", f"taskres.csv:3: .*'correct'|{FLIPS}"),
    (3, "zero_shot_correct", lambda v: int(v) - 5, "3: 'zero_shot.*; expected \\d+, found \\d+"),
    (3, "total", lambda v: int(v) - 20, "is not the number of test images of mini-weather; exp"),
    (3, "key", flip_hex, f"taskres.csv:3: 'key': {STALE}; the row is stale, or forged"),
    (3, "data", flip_hex, f"taskres.csv:3: 'data': {STALE}"),
    (3, "inconsistent_errors", lambda v: int(v) + 60, "taskres.csv:3: .*flipped"),
    (3, "parameters", lambda v: int(v) - 1, "3: 'parameters': is not that of the same module in"),
    (2, "seed", lambda _: 9, "'seed': the suite has no such measurement; expected 1 or 2, found 9"),
    (
        6,
        "transfer",
        lambda _: "wishes",
        "'transfer': .*; expected copied or words, found wishes",
    ),
]
FORGERIES: list[tuple[str, Change, str]] = [
    (
        "taskres.csv",
        drop_line(7),
        r"taskres.csv: a measurement of the suite has no row; expected a row of taskres "
        r"\(words\) · mini-weather · 2 shots · seed 1 at mini-eva-clip on mini-weather, found none",
    ),
    (
        "taskres.json",
        lambda text: text.replace('"lr": ', '"lr": 1'),
        r"taskres.json: 'config.recipe.lr': is not as resolved here; expected [\d.]+, found",
    ),
    (
        "coop.json",
        lambda text: text.replace('"differs": {}', '"differs": {"lr": [1, 2]}'),
        r"coop.json: 'differs.lr': is not as resolved here; expected nothing, found \[1,2\]",
    ),
    (
        "coop.json",
        lambda text: text.replace('"title": "CoOp"', '"title": "ContCoOp"'),
        r"coop.json: 'method.title': .*; expected CoOp, found ContCoOp",
    ),
    (
        "taskres.json",
        lambda text: re.sub(r'"torch": \[[^\]]*\]', '"torch": []', text),
        r"taskres.json: 'provenance.torch': is missing; every result says what it was made with",
    ),
    (
        "taskres.json",
        lambda text: re.sub(r'"numpy": \[[^\]]*\]', '"numpy": ["newest"]', text),
        r"taskres.json: 'provenance.numpy': is no version: newest",
    ),
    (
        "taskres.csv",
        lambda text: text + text.splitlines(keepends=True)[2],
        r"taskres.csv: two lines for copied, mini-weather, mini-clip, 2, 1, mini-eva-clip",
    ),
    (
        "taskres.cost.csv",
        drop_line(2),
        r"taskres.cost.csv: 'key': has no line for line \d of taskres.csv; expected",
    ),
    (
        "taskres.cost.csv",
        set_field(3, "fit_seconds", lambda v: float(v) / 2),
        r"taskres.cost.csv:\d: 'fit_seconds': is not that of the same fit in line",
    ),
    (
        "taskres.cost.csv",
        set_field(2, "key", flip_hex),
        r"taskres.cost.csv:2: 'key': no row is of a cell with this key",
    ),
    (
        "taskres.csv",
        lambda text: "".join(text.splitlines(keepends=True)[n] for n in (0, 2, 1, *range(3, 9))),
        r"taskres.csv:2: is not as 'compatbench run' writes it",
    ),
    *(
        ("taskres.csv", set_field(line, column, change), found)
        for line, column, change, found in FORGED_FIELDS
    ),
]


def test_honest_results_are_found_to_be_honest(forged: Workplace) -> None:
    result = forged.audit()
    assert result.exit_code == 0, result.output
    # Zero-shot has one seed, the others two.
    assert "suites: 1, method files: 4, rows: 18; cells run again: 0 (--seed 7); findings: 0" in (
        result.output
    )


@pytest.mark.parametrize(("file", "change", "message"), FORGERIES)
def test_a_forgery_is_named_with_its_place(
    file: str, change: Change, message: str, forged: Workplace
) -> None:
    forged.edit(file, change)
    result = forged.audit("--no-zero-shot")
    assert result.exit_code == 1, result.output
    assert re.search(f"(?m)^wrong .*{message}", result.output), result.output


def test_rows_copied_under_another_method_are_named(forged: Workplace) -> None:
    """SimpleShot shows CoOp's numbers, keys included."""
    (forged.results / "simpleshot.csv").write_text(
        (forged.results / "coop.csv").read_text().replace("coop,", "simpleshot,")
    )
    result = forged.audit("--no-zero-shot")
    assert result.exit_code == 1
    assert re.search(
        r"simpleshot.csv:2: 'key': is the key of another cell, coop · mini-weather · 2 shots · "
        r"seed 1; expected [0-9a-f]{64}, found [0-9a-f]{64}",
        result.output,
    )


@pytest.mark.slow
def test_zero_shot_that_all_files_agree_on_is_computed_again(forged: Workplace) -> None:
    for name in ("zeroshot", "taskres", "simpleshot", "coop"):
        forged.edit(f"{name}.csv", set_field(None, "zero_shot_correct", lambda v: int(v) - 1))
    assert "zero_shot_correct" not in forged.audit("--no-zero-shot").output
    result = forged.audit()
    assert result.exit_code == 1
    assert "'zero_shot_correct': zero-shot of mini-clip on mini-weather was computed" in (
        result.output
    )


def test_a_leaderboard_that_was_edited_is_named_with_its_line(forged: Workplace) -> None:
    path = forged.folder / "leaderboard.md"
    lines = path.read_text().split("\n")
    number = next(n for n, line in enumerate(lines) if "TaskRes" in line)
    lines[number] = lines[number].replace("TaskRes", "MyMethod")
    path.write_text("\n".join(lines))
    result = forged.audit("--no-zero-shot")
    assert result.exit_code == 1
    assert f"leaderboard.md:{number + 1}: is not what the results give" in result.output
    assert "MyMethod" in result.output


def one_more_right(place: Workplace, line: int) -> None:
    """On the target, and the flips still fit."""
    place.edit("taskres.csv", set_field(line, "correct", lambda v: int(v) + 1))
    place.edit("taskres.csv", set_field(line, "positive_flips", lambda v: int(v) + 1))


@pytest.mark.slow
def test_what_agrees_with_itself_is_found_by_running_it_again(forged: Workplace) -> None:
    """A patient forger: counts, flips and leaderboard all fit; only the truth does not."""
    one_more_right(forged, 3)
    one_more_right(forged, 7)  # through words
    forged.edit("simpleshot.csv", set_field(2, "ece", lambda v: round(float(v) / 2, 4)))
    forged.edit("coop.cost.csv", lambda text: re.sub(r",(\d+\.\d+),", ",7200.0,", text))
    forged.publish()
    assert forged.audit().exit_code == 0
    result = forged.audit(cells=9)
    assert result.exit_code == 1, result.output
    again = "the cell was run again and gave another number; expected"
    assert f"taskres.csv:3: 'correct': {again}" in result.output
    assert f"taskres.csv:3: 'positive_flips': {again}" in result.output
    assert f"taskres.csv:7: 'correct': {again}" in result.output
    assert f"simpleshot.csv:2: 'ece': {again}" in result.output
    took = r"the cell was run again and took [\d.]+ here; expected 0.* to [\d.,]+, found"
    assert re.search(rf"coop.cost.csv:\d: 'fit_seconds': {took} 7.2e\+03", result.output)


@pytest.mark.slow
def test_a_cost_far_below_what_it_takes_here_is_named(
    forged: Workplace, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("compatbench.audit.rerun.LEAST_SECONDS", 0.01)
    forged.edit("coop.cost.csv", set_field(None, "fit_seconds", lambda _: 0.0))
    forged.publish()
    result = forged.audit("--no-zero-shot", cells=9)
    assert re.search(r"(?m)^wrong .*coop.cost.csv:\d: 'fit_seconds': .*, found 0$", result.output)
    assert "findings: 2" in result.output  # two seeds, and no other cell


@pytest.mark.slow
def test_cells_run_again_give_what_is_stored(forged: Workplace) -> None:
    result = forged.audit(cells=9)
    assert result.exit_code == 0, result.output
    assert "cells run again: 9 (--seed 7); findings: 0" in result.output
    assert "made with the versions and processor of this machine: no tolerance" in result.output
    assert "runs again taskres (words) · mini-weather" in result.output


@pytest.mark.slow
def test_another_machines_results_are_allowed_to_round_otherwise(forged: Workplace) -> None:
    for name in ("zeroshot", "taskres", "simpleshot", "coop"):
        forged.edit(
            f"{name}.json", lambda text: text.replace('"torch": [\n   "', '"torch": [\n   "0.1')
        )
    one_more_right(forged, 3)
    forged.publish()
    result = forged.audit(cells=9)
    assert result.exit_code == 0, result.output
    assert (
        "made with another torch, by its file: counts may differ both ways, by 0.1% of"
        in result.output
    )
    strict = forged.audit("--tolerance", "0", cells=9)
    assert strict.exit_code == 1
    assert "taskres.csv:3: 'correct': the cell was run again" in strict.output


@pytest.mark.slow
def test_the_sample_is_told_and_can_be_drawn_again(forged: Workplace) -> None:
    options = ("--no-zero-shot", "--json")
    found = json.loads(forged.audit(*options, cells=2).output)
    assert (found["findings"], found["seed"]) == ([], 7)
    assert [one["suites"] for one in found["sample"]] == [["tiny"]] * 2
    [draw] = found["draws"]
    assert (draw["run"], draw["of"], draw["forged"]) == (2, 9, 0.1)
    assert draw["power"] == pytest.approx(2 / 9)  # that one cell of nine is among two
    assert json.loads(forged.audit(*options, cells=2).output) == found
