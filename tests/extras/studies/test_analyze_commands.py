"""``compatbench study``: from the command line to tables, files and mistakes."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest
from command_line import output_of

REPOSITORY = Path(__file__).parents[3]
PAIR = ("mini-clip", "mini-eva-clip")


@pytest.mark.slow
def test_layers_as_json_csv_table_and_figure(tmp_path: Path) -> None:
    figure = tmp_path / "figures" / "layers.svg"
    command = ("study analyze layers", *PAIR, "--tasks", "mini-weather", "--images", 8)
    found = json.loads(output_of(*command, "--json", "--figure", figure))
    text = {one["layer"]: one for one in found if one["tower"] == "text"}
    # The target's text tower began as the source's, and the further up, the more has changed.
    assert text["input"]["feature_relative"] < text["block 1"]["feature_relative"]
    assert text["block 1"]["feature_relative"] < text["output"]["feature_relative"]
    assert figure.read_text().startswith("<svg")
    rows = [*csv.DictReader(output_of(*command, "--csv").splitlines())]
    assert [row["layer"] for row in rows] == [one["layer"] for one in found]
    assert rows[-1]["parameter_change"] == ""


@pytest.mark.slow
def test_depth_is_fitted_once_and_kept(tmp_path: Path) -> None:
    options = ("--tasks", "mini-weather", "--suite", "smoke", "--shots", 1, "--steps", 2)
    command = ("study analyze depth", *PAIR, *options, "--lr", 0.01, "--out", tmp_path, "--jobs", 1)
    first = json.loads(output_of(*command, "--json"))
    assert {(one["kind"], one["parameters"]) for one in first} == {("bias", 192), ("map", 768)}
    files = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.json")}
    assert len(files) == len(first) == 16
    assert "bias, H:" in output_of(*command, "--figure", tmp_path / "depth.svg")
    assert (tmp_path / "depth.svg").is_file()
    assert files == {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.json")}


@pytest.mark.slow
def test_embeddings_are_held_against_the_committed_results(tmp_path: Path) -> None:
    command = ("study analyze embeddings", *PAIR, "--tasks", "mini-weather,mini-food")
    found = json.loads(output_of(*command, "--out", REPOSITORY, "--json"))
    assert [one["task"] for one in found["geometry"]] == ["mini-food", "mini-weather"]
    assert any(one["method"] == "contcoop" for one in found["predictions"])
    nothing = output_of(*command, "--out", tmp_path)
    assert "holds no complete method for this upgrade" in nothing


@pytest.mark.slow
def test_claims_as_table_markdown_and_json() -> None:
    command = ("study claims", "--suite", "mini-price", "--out", REPOSITORY)
    reports = json.loads(output_of(*command, "--json"))
    markdown = output_of(*command, "--markdown")
    assert {one["claim"] for one in reports[0]["findings"]} == {1, 2, 3, 4, 5}
    assert all(f"**{one['verdict']}**" in markdown for one in reports[0]["findings"])
    assert "methods with all of their cells" in output_of(*command)
