"""Published figures: what the files hold, and when a measurement differs from them."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from math import sqrt
from pathlib import Path

import pandas as pd
import pytest
from scipy.stats import t
from synthetic_results import (
    COOP,
    ZEROSHOT,
    make_method,
    make_page,
    make_row,
    make_suite,
    render_sections,
)

import compatbench as cb
from compatbench.data.cards import backbone_cards, suite_cards, task_cards
from compatbench.method.registry import builtin_methods
from compatbench.results import published
from compatbench.results.expected import Expected
from compatbench.results.method_results import MethodInfo, MethodResults
from compatbench.results.published import compare_published, read_published
from compatbench.results.ranking_table import Results
from compatbench.tables.suite_page import read_suite_page

CLIP = "vit-b16-openai"
PAPER = Expected(("dtd",), shots=(16,), seeds=(1, 2, 3), upgrades=((CLIP, "eva02-b16"),))


def figures(*values: float, method: str = "coop", **more: object) -> pd.DataFrame:
    """Figures on DTD, one from each source."""
    line = dict(method=method, test_set="dtd", backbone=CLIP, shots=16, protocol="all classes")
    line |= {"std": None, "seeds": None} | more
    lines = [line | {"accuracy": x, "source": f"s{i}"} for i, x in enumerate(values)]
    return pd.DataFrame(lines).astype({"shots": "Int64", "seeds": "Int64", "std": "float64"})


def measured(
    *correct: int, info: MethodInfo = COOP, test_set: str = "dtd", task: str = "dtd"
) -> MethodResults:
    """Counts of 2,000 images, one for each seed."""
    where = dict(method=info.name, task=task, test_set=test_set, source=CLIP, shots=16)
    rows = [
        make_row(50, **where, backbone=backbone, seed=seed).model_copy(
            update={"correct": count, "total": 2000, "zero_shot_correct": 1000}
        )
        for seed, count in enumerate(correct, 1)
        for backbone in (CLIP, "eva02-b16")
    ]
    return make_method(info, rows)


def test_every_figure_is_of_what_has_a_card_and_stands_once() -> None:
    found = read_published()
    assert {*found["method"]} <= {*builtin_methods().names()}
    assert {*found["test_set"]} <= {*task_cards.names()}
    assert {*found["backbone"]} <= {*backbone_cards.names()}
    assert found["accuracy"].between(0, 100, inclusive="neither").all()
    assert {*found["protocol"]} == {"all classes", "4 vectors", "cross-dataset", "own prompts"}
    place = ["method", "test_set", "backbone", "shots", "protocol", "metric", "source"]
    assert not found.duplicated(place).any()
    assert found["source"].str.len().gt(3).all()
    assert (found["shots"].isna() == (found["method"] == "zeroshot")).all()


def test_the_averages_are_those_that_the_sources_print() -> None:
    found = read_published().query("protocol == 'all classes' and shots == 16")
    of = found[found["test_set"].isin(suite_cards.read("paper").tasks)]
    means = of.groupby(["source", "method"])["accuracy"].mean()
    printed = {"linear_probe": 78.79, "coop": 79.89, "cocoop": 74.90, "maple": 81.79}
    for method, average in {**printed, "promptsrc": 82.87}.items():
        mean = means["arXiv:2307.06948, Table 13", method]
        assert mean == pytest.approx(average, abs=0.006)
    assert means["HALoRA, Table 5", "clip_lora"] == pytest.approx(83.0, abs=0.05)
    # Sources that disagree are both kept.
    both = read_published().query("method == 'maple' and test_set == 'eurosat' and shots == 4")
    assert sorted(both["accuracy"]) == [54.87, 84.50]


Compare = Callable[..., pd.DataFrame]


@pytest.fixture
def compare(monkeypatch: pytest.MonkeyPatch) -> Compare:
    """Compares what was measured with these figures alone."""

    def compare(
        known: pd.DataFrame, *methods: MethodResults, on: str = CLIP, expected: Expected = PAPER
    ) -> pd.DataFrame:
        monkeypatch.setattr(published, "read_published", lambda: known)
        return compare_published(make_suite(*methods), expected, on, 16)

    return compare


def test_a_difference_counts_beyond_seeds_and_test_images(compare: Compare) -> None:
    seeds, images = t.ppf(0.975, 2) ** 2 * 2 / 3, 1.96**2 * 70 * 30 / 2000
    chance = sqrt(seeds + images)
    for accuracy, verdict in ((70 + chance + 0.01, "differs"), (70 - chance + 0.01, "agrees")):
        [one] = compare(figures(accuracy), measured(1380, 1400, 1420)).to_dict("records")
        assert (one["measured"], one["measured_std"]) == (70, 1)
        assert one["chance"] == pytest.approx(chance)
        assert one["difference"] == pytest.approx(70 - accuracy)
        assert one["verdict"] == verdict


def test_a_figure_s_own_spread_is_taken_and_a_range_is_no_difference(compare: Compare) -> None:
    exact = figures(50.0, 90.0, std=0.5, seeds=5)
    [one] = compare(exact, measured(1380, 1400, 1420)).to_dict("records")
    spread = t.ppf(0.975, 2) ** 2 * (1 / 3 + 0.25 / 5)
    assert one["chance"] == pytest.approx(sqrt(spread + 1.96**2 * 70 * 30 / 2000))
    assert (one["published"], one["low"], one["high"], one["difference"]) == (70, 50, 90, 0)
    assert (one["verdict"], one["sources"]) == ("agrees", "s0; s1")


def test_one_seed_decides_only_for_what_learns_nothing(compare: Compare) -> None:
    both = pd.concat([figures(80.0), figures(80.0, method="zeroshot", shots=None)])
    methods, one_seed = (measured(1400), measured(1400, info=ZEROSHOT)), replace(PAPER, seeds=(1,))
    found = compare(both, *methods, expected=one_seed).set_index("method")
    assert found["verdict"].to_dict() == {"coop": "one seed", "zeroshot": "differs"}


def test_what_is_incomplete_of_another_protocol_or_another_model_is_not_compared(
    compare: Compare,
) -> None:
    whole = measured(1400, 1400, 1400)
    assert len(compare(figures(70.0), whole)) == 1
    assert compare(figures(70.0), measured(1400, 1400)).empty
    assert compare(figures(70.0), whole, on="eva02-b16").empty
    assert compare(figures(70.0, protocol="cross-dataset"), whole).empty


def test_the_leaderboard_of_a_real_suite_shows_them_and_that_of_another_does_not(
    tmp_path: Path,
) -> None:
    page = read_suite_page(suite_cards.read("paper"), tmp_path)
    maple = MethodInfo("maple", "MaPLe", "arXiv:2210.03117", "deep", ("text-input",))
    euro = measured(1100, 1120, 1140, info=maple, task="eurosat", test_set="eurosat")
    rows = pd.concat([measured(1380, 1400, 1420).rows, euro.rows.assign(method="coop")])
    methods = replace(measured(1400), rows=rows), euro, measured(880, info=ZEROSHOT)
    text = render_sections(replace(page, results=make_suite(*methods)))
    shown = text.split("## Beside published figures")[1].split("CLIP ViT-B/16 (OpenAI), 16 shots")[
        1
    ]
    means, dtd, euro_table = tables_in(shown)[:3]
    assert ["[CoOp][2109.01134]", "63.0", "77.4", "-14.4", "1 of 2"] in means
    assert ["[MaPLe][2210.03117]", "56.0", "92.3", "-36.3", "1 of 1"] in means
    assert dtd[0][:4] == ["[CoOp][2109.01134]", "70.0 ± 1.0", "69.7 to 69.9", "+0.2"]
    assert dtd[0][4:] == ["± 4.0", "agrees", "RVP, Table 8; arXiv:2307.06948, Table 13"]
    assert dtd[1][1:6] == ["44.0", "43.6", "+0.4", "± 2.2", "agrees"]
    assert euro_table[1][4:6] == ["± 4.1", "differs"]
    assert "published figures" not in render_sections(make_page(measured(1400)))


def tables_in(text: str) -> list[list[list[str]]]:
    """The lines of the Markdown tables of a text, without their headers, cell by cell."""
    tables = [part.splitlines() for part in text.split("\n\n") if part.startswith("| ")]
    return [[re.split(r" +\| +", line.strip("| ")) for line in one[2:]] for one in tables]


def test_a_notebook_gets_the_frame_and_learns_what_there_is(tmp_path: Path) -> None:
    page = read_suite_page(suite_cards.read("paper"), tmp_path)
    results = Results(make_suite(measured(1398, 1398, 1398)), page.expected)
    [one] = results.published(CLIP).to_dict("records")
    assert (one["method"], one["test_set"], one["shots"]) == ("coop", "dtd", 16)
    assert (one["low"], one["high"]) == (69.70, 69.87)
    with pytest.raises(cb.CompatbenchError, match="'eva02-b16' is not one of vit-b16-openai"):
        results.published("eva02-b16")
