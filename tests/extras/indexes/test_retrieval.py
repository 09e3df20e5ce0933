"""Retrieval from stored indexes: the committed figures, and the files that they are in."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

import compatbench as cb
from compatbench.errors import CompatbenchError
from compatbench.extras.indexes.retrieval_files import (
    FIGURES,
    KEY,
    POOLED,
    find_expected,
    make_again,
    read_retrieval,
    write_retrieval,
)

COMMITTED = Path(__file__).parents[3] / "results" / "retrieval"


@pytest.fixture(scope="module")
def measured():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("compatbench.extras.indexes.galleries.TIMED", 16)
        return cb.retrieve("mini", tasks="mini-arrows", targets="mini-eva-clip", pairs=[8])


@pytest.mark.slow
def test_committed_figures_are_what_the_code_gives(measured) -> None:
    """Those of one gallery by what does not depend on a draw from other tasks."""
    frame, _ = read_retrieval(COMMITTED)["mini"]
    plain = measured.frame[(measured.frame["pairs"] == 0) & (measured.frame["gallery"] != POOLED)]
    joined = plain.merge(frame, on=KEY, suffixes=("", "_committed"))
    assert len(joined) == len(plain) == 8
    for name in ("images", "asked", "seeds"):
        assert joined[name].tolist() == joined[f"{name}_committed"].tolist()
    for name in FIGURES:
        assert np.allclose(joined[name], joined[f"{name}_committed"], atol=0.5)


def test_a_gallery_of_one_task_is_all_and_pairs_are_drawn(measured, tmp_path: Path) -> None:
    frame = measured.frame.set_index(["gallery", "queries", "way"])[list(FIGURES)]
    pd.testing.assert_frame_equal(frame.loc[POOLED], frame.loc["mini-arrows"])
    assert {"images", "low-rank", "ridge"} == set(measured.frame.query("pairs == 8")["way"])
    path = measured.save(tmp_path)
    again, about = read_retrieval(path.parent)["mini"]
    pd.testing.assert_frame_equal(again, measured.frame, rtol=0, atol=1e-4)
    assert about == json.loads(json.dumps(measured.about))
    command = "compatbench study retrieve --suite mini --source mini-clip --target mini-eva-clip"
    assert about["command"] == f"{command} --tasks mini-arrows --pairs 8"
    assert min(about["cpu_seconds_per_million"]["encoded"].values()) > 0


def test_rows_of_several_commands_stand_side_by_side(tmp_path: Path) -> None:
    frame, about = read_retrieval(COMMITTED)["mini"]
    parts = [of for _, of in frame.groupby("target", sort=False)]
    few = parts[0].loc[parts[0]["gallery"] != "mini-food"]
    few.loc[few["gallery"] == POOLED, ["images", "map"]] = 1, 0
    fresh = parts[1].assign(map=1)
    texts = set()
    for number, order in enumerate(([parts[0], few, fresh], [fresh, parts[0], few])):
        for i, part in enumerate(order):
            facts = about | {"command": f"retrieve {len(part)} {part['target'].iloc[0]}"}
            facts["cpu_seconds_per_million"] = {"encoded": {"a": i % 2}, "mapped": 0}
            path = write_retrieval(tmp_path / str(number), "mini", part, facts)
        texts.add(path.read_bytes())
    assert len(texts) == 1
    rows, facts = read_retrieval(path.parent)["mini"]
    wanted = pd.concat([parts[0], fresh]).set_index([*KEY])
    # A smaller pooled gallery does not take the place of the whole one.
    pd.testing.assert_frame_equal(rows.set_index([*KEY]).sort_index(), wanted.sort_index())
    assert facts["command"].count("\n") == 2
    assert facts["cpu_seconds_per_million"]["encoded"] == {"a": 0}
    path.with_suffix(".json").write_text("{}")
    with pytest.raises(CompatbenchError, match=r"mini\.json holds no facts of 'compatbench study"):
        write_retrieval(tmp_path / "1", "mini", fresh, about)


def test_files_are_made_again_from_their_rows_and_facts(tmp_path: Path) -> None:
    for path, (made, _) in make_again(COMMITTED).items():
        assert made == path.read_bytes()
    frame, about = read_retrieval(COMMITTED)["mini"]
    path = write_retrieval(tmp_path, "mini", frame, about)
    path.write_text(path.read_text() + "\n")
    made, why = make_again(path.parent)[path]
    assert made != path.read_bytes()
    assert "is not as" in why
    path.with_suffix(".json").unlink()
    with pytest.raises(CompatbenchError, match="cannot be read"):
        make_again(path.parent)


def test_what_to_expect_is_of_the_nearest_number_of_images(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    upgrade = "mini-clip", "mini-eva-clip"
    frame, _ = read_retrieval(COMMITTED)["mini"]
    for images, nearest in ((10, 64), (64, 64), (300, 256), (10**6, 1024)):
        found = find_expected(*upgrade, "ridge", images)
        assert found["pairs"] == nearest
        row = frame[(frame["way"] == "ridge") & (frame["pairs"] == nearest)]
        row = row[(row["target"] == upgrade[1]) & (row["gallery"] == POOLED)]
        wanted = row.set_index("queries")["map"].round(1).to_dict()
        assert {kind: one["map"] for kind, one in found["ported"].items()} == wanted
    assert find_expected("mini-clip", "eva02-b16", "words", 0) == {}
    # One's own measurement comes first.
    own = frame.assign(map=12.34)
    folder = tmp_path / "results" / "retrieval"
    folder.mkdir(parents=True)
    own.to_csv(folder / "mine.csv", index=False)
    (folder / "mine.json").write_text("{}")
    monkeypatch.chdir(tmp_path)
    assert find_expected(*upgrade, "words", 0)["ported"]["texts"]["map"] == 12.3
    own.drop(columns="way").to_csv(folder / "mine.csv", index=False)
    with pytest.raises(CompatbenchError, match="no column 'way'"):
        find_expected(*upgrade, "words", 0)
