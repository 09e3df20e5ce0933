"""Sentences with numbers that are written by hand agree with the tables of the results."""

from __future__ import annotations

import re
from pathlib import Path

REPOSITORY = Path(__file__).parents[2]
FILES = {
    "readme": "README.md",
    "findings": "docs/findings.md",
}
PAGES = {name: (REPOSITORY / path).read_text(encoding="utf-8") for name, path in FILES.items()}


def read_tables(page: str, section: str) -> list[list[list[str]]]:
    """Return the tables of a section as rows of cells; the first row has the headings."""
    [text] = re.findall(rf"(?s)<!-- {section}:begin -->(.*?)<!-- {section}:end -->", PAGES[page])
    tables = []
    for block in re.findall(r"(?m)(?:^\|.*\n)+", text):
        rows = []
        for line in block.splitlines():
            cells = re.split(r"(?<!\\)\|", line)[1:-1]
            rows.append([cell.strip(" `*") for cell in cells])
        del rows[1]  # the line below the headings
        tables.append(rows)
    return tables


def assert_says(page: str, sentence: str) -> None:
    """Assert that a page has a sentence, however its lines are broken."""
    assert sentence in " ".join(PAGES[page].split())


def read_findings(start: str) -> list[tuple[str, str]]:
    """Return the effects and verdicts of the claims that start so, one for each upgrade."""
    found = []
    [table] = read_tables("findings", "claims")
    for _, claim, *cells in table[1:]:
        if f"{claim}:".startswith(start):
            for cell in cells:
                verdict, effect = cell.split("; ")[0].split(" \\[")[0].split("** ")
                found.append((effect, verdict))
    return found


def test_the_readme_has_the_effects_and_verdicts_of_the_claims() -> None:
    deep = read_findings("a third or more of the deep methods")
    assert [verdict for _, verdict in deep] == ["not decided", "supported"]
    assert_says("readme", f"{deep[0][0]} have a mean below zero-shot on the first target")
    assert_says("readme", f"On the second, {deep[1][0]} do: supported")
    shallow = read_findings("a third or more of the shallow methods")
    assert {verdict for _, verdict in shallow} == {"not decided"}
    target = "ContCoOp gains +3.57 points of target accuracy or more: over the mean of CoOp"
    published = read_findings(f"{target}, ")
    short = read_findings(f"{target} with 4")
    assert {verdict for _, verdict in published} == {"supported"}
    assert {verdict for _, verdict in short} == {"not decided"}
    for first, second in (published, short):
        assert_says("readme", f"{first[0]} and {second[0]}")
    best = read_findings("ContCoOp has the highest H:")
    assert [verdict for _, verdict in best] == ["contradicted", "not decided"]
    points, high, low = re.findall(r"-([0-9.]+)", best[0][0])
    # The first p value of the table is that of this claim on the first target.
    [p_value] = re.findall(r"p = ([0-9.]+) by Holm", PAGES["findings"])[:1]
    assert_says("readme", f"ProKeR is {points} points better ({low} to {high}; p = {p_value} after")
    assert {verdict for _, verdict in read_findings("shallow modules")} == {"not decided"}


def read_rows(section: str, number: int = 0) -> list[dict[str, str]]:
    """Return the rows of a table of the findings, by heading; equal headings are numbered."""
    headings, *rows = read_tables("findings", section)[number]
    names = [f"{name} {headings[:place].count(name)}" for place, name in enumerate(headings)]
    return [dict(zip(names, row, strict=True)) for row in rows]


def sign_of(shown: str) -> int:
    """Return the sign of an interval such as ``+1.2 (-0.3 to +2.5)``; 0 if it contains 0."""
    low, high = re.findall(r"[-+]?[0-9.]+", shown)[1:]
    return int(float(low) > 0) - int(float(high) < 0)


def test_words_recover_the_new_embedding_space_for_every_kind_of_method() -> None:
    rows = [row for row in read_rows("words-kinds") if row["Target 0"] == "mini-eva-clip-anew"]
    assert len(rows) > 2
    assert {sign_of(row["difference 0"]) for row in rows} == {1}
    assert sign_of(rows[-1]["through words 0"]) <= 0
    assert_says("findings", "Most of the loss comes back, but the mean module is then not shown")
    copied, through = (
        float(rows[-1][f"{name} 0"].split()[0]) for name in ("copied", "through words")
    )
    assert through > copied / 2


def test_words_bring_no_module_to_the_model_that_was_trained_apart() -> None:
    rows = [row for row in read_rows("words-kinds") if row["Target 0"] == "mini-clip-other"]
    assert {sign_of(row["through words 0"]) for row in rows} == {-1}
    assert sign_of(rows[-1]["difference 0"]) == 1
    assert_says("findings", "On a model that was trained apart, words help too, but modules still")


def test_two_features_predict_losses_better_than_chance_on_tasks_and_targets_left_out() -> None:
    row = read_rows("survival", 1)[0]
    assert row["Predictor 0"].startswith("ridge regression")
    for place in ("within a task 0", "AUROC within a target 0"):
        low = re.findall(r"[0-9.]+", row[place])[1]
        assert float(low) > 0.5, place


def test_a_penalty_keeps_modules_on_features_and_no_prompts_at_no_shown_cost() -> None:
    rows = {row["Change, points 0"]: row for row in read_rows("anchoring")}
    zero_shot = rows["zero-shot accuracy"]
    penalties = [name for name in zero_shot if name.startswith("penalty, weight 1")]
    assert penalties
    for penalty in penalties:
        assert sign_of(rows["adapters and caches on features"][penalty]) == 1
        assert sign_of(rows["prompts at the text input"][penalty]) == 0
        assert sign_of(zero_shot[penalty]) == 0
    assert_says("findings", "Modules on features gain; for prompts, no gain is shown.")
