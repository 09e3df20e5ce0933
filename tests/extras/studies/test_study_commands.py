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
    command = ("study layers", *PAIR, "--tasks", "mini-weather", "--images", 8)
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
def test_claims_as_table_markdown_and_json() -> None:
    command = ("study claims", "--suite", "mini-price", "--out", REPOSITORY)
    reports = json.loads(output_of(*command, "--json"))
    markdown = output_of(*command, "--markdown")
    assert {one["claim"] for one in reports[0]["findings"]} == {1, 2, 3, 4, 5}
    assert all(f"**{one['verdict']}**" in markdown for one in reports[0]["findings"])
    assert "methods with all of their cells" in output_of(*command)
