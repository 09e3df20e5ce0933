"""What upgrades cost on other classes, from results written for the test."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from synthetic_results import COOP, PROBE, make_method, make_row

import compatbench as cb
from compatbench.data.cards import suite_cards, suite_tasks
from compatbench.errors import CompatbenchError
from compatbench.results.method_results import MethodResults
from compatbench.results.result_files import write_results

SUITE = suite_cards.read("mini-base-to-new")
# Right of 100: base and new on the source (zero-shot: 40), then on a target (zero-shot: 50).
SHALLOW, DEEP = (70, 60, 65, 50), (75, 55, 50, 45)


def of(name: str, depth: str, right: tuple[int, ...], applies: bool = True) -> MethodResults:
    info = replace(COOP if depth == "shallow" else PROBE, name=name, title=name)
    rows = []
    for number, task in enumerate(suite_tasks(SUITE)):
        for i, name_of in enumerate((task, task.replace(".base", ".new"))):
            for model, backbone in enumerate(("mini-clip", "mini-eva-clip", "mini-eva-clip-anew")):
                where = dict(method=name, task=task, test_set=name_of, source="mini-clip")
                where |= dict(backbone=backbone, shots=16)
                if i and not applies:
                    reason = "not applicable: it knows its own"
                    rows.append(make_row(None, **where, status="not transferable", reason=reason))
                else:
                    rows.append(make_row(right[2 * min(model, 1) + i] + number, **where))
    return make_method(info, rows)


def test_the_report_says_what_each_kind_loses(tmp_path: Path) -> None:
    assert "`mini-base-to-new` has not been run." in cb.analyze_classes(out=tmp_path).markdown()
    with pytest.raises(CompatbenchError, match="suite 'mini' tests no other classes"):
        cb.analyze_classes("mini", tmp_path)
    folder = tmp_path / "results" / SUITE.name
    for number in range(3):
        shifted = [tuple(value + number for value in one) for one in (SHALLOW, DEEP)]
        write_results(folder, of(f"prompt{number}", "shallow", shifted[0]))
        write_results(folder, of(f"tower{number}", "deep", shifted[1]))
    write_results(folder, of("probe", "deep", DEEP, applies=False))
    report = cb.analyze_classes(out=tmp_path)
    found = report.kinds.drop_duplicates("depth").set_index("depth")
    assert found["apply"].to_dict() == {"shallow": "3 of 3", "deep": "3 of 4", "deep − shallow": ""}
    assert found.loc["shallow", "own_lost"] == pytest.approx(70 - 40 - (65 - 50))
    assert found.loc["shallow", "other_lost"] == pytest.approx(60 - 40 - (50 - 50))
    assert found.loc["deep", "forgotten"] == pytest.approx((55 - 45) - (75 - 50))
    assert found.loc["deep − shallow", "forgotten"] == pytest.approx(-15 - 5)
    assert [*found["verdict"]] == ["more on others", "less on others", "shallow forget more"]
    few = cb.analyze_classes(SUITE.model_copy(update={"tasks": SUITE.tasks[:5]}), tmp_path)
    assert {*few.kinds["verdict"]} == {"not decided"}  # modules of five tasks
    assert {*report.methods["method"]} == {f"{a}{i}" for a in ("prompt", "tower") for i in range(3)}
    assert np.isfinite(report.methods.filter(like="_").to_numpy(float)).all()
    text = report.markdown()
    assert "3 of 4" in text
    assert len(report.picture()["datasets"]["rows"]) == len(report.methods)
    assert b"zero-shot" in (report.svg() or b"")
