"""``compatbench analyze`` and ``claims``: from the command line to tables, files and mistakes."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from compatbench.cli.app import app
from compatbench.errors import CompatbenchError
from compatbench.transfer.words import load_words

REPOSITORY = Path(__file__).parents[2]
PAIR = ("mini-clip", "mini-eva-clip")


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(tmp_path_factory.mktemp("cache"))


def invoke(*arguments: object, cache: str = "") -> str:
    environment = {"COLUMNS": "150", "COMPATBENCH_CACHE": cache or None}
    result = CliRunner().invoke(app, [str(one) for one in arguments], env=environment)
    if result.exception and not isinstance(result.exception, SystemExit):
        raise result.exception
    assert result.exit_code == 0, result.output
    return result.stdout


def test_layers_of_the_mini_pair_as_json_and_figure(tmp_path: Path) -> None:
    figure = tmp_path / "figures" / "layers.svg"
    options = ("--task", "mini-weather", "--images", 8)
    found = json.loads(invoke("analyze", "layers", *PAIR, *options, "--json", "--figure", figure))
    text = {one["layer"]: one for one in found if one["tower"] == "text"}
    assert len(text) == 8
    # The target's text tower began as the source's, and the further up, the more has changed.
    assert text["input"]["feature_relative"] < text["block 1"]["feature_relative"]
    assert text["block 1"]["feature_relative"] < text["output"]["feature_relative"]
    assert text["input"]["cka"] > text["output"]["cka"]
    assert figure.read_text().startswith("<?xml")
    table = invoke("analyze", "layers", *PAIR, *options)
    assert "block 6" in table
    assert "image towers: no parameters of the same name and shape" in table


def test_layers_as_csv_have_a_line_for_each_layer() -> None:
    out = invoke("analyze", "layers", *PAIR, "--task", "mini-weather", "--images", 4, "--csv")
    rows = list(csv.DictReader(io.StringIO(out)))
    assert len(rows) == 16
    assert rows[-1]["parameter_change"] == ""
    assert float(rows[0]["feature_change"]) > 0


def test_depth_is_fitted_once_and_kept(tmp_path: Path, cache: str) -> None:
    options = ("--task", "mini-weather", "--suite", "smoke", "--shots", 1, "--steps", 2)
    command = ("analyze", "depth", *PAIR, *options, "--lr", 0.01, "--out", tmp_path, "--jobs", 1)
    first = json.loads(invoke(*command, "--json", cache=cache))
    assert [one["place"] for one in first[:8]] == [
        "input",
        *[f"block {i}" for i in range(1, 7)],
        "output",
    ]
    assert {one["kind"] for one in first} == {"bias", "map"}
    assert {one["parameters"] for one in first} == {192, 768}
    files = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.json")}
    assert len(files) == 16
    assert {path.parts[len(tmp_path.parts)] for path in files} == {"runs"}
    rows = list(csv.DictReader(io.StringIO(invoke(*command, "--csv", cache=cache))))
    assert [float(row["h"]) for row in rows] == [one["h"] for one in first]
    assert {(row["h_std"], row["rates"]) for row in rows} == {("", "0.01")}
    table = invoke(*command, "--figure", tmp_path / "depth.svg", cache=cache)
    assert "bias, H:" in table
    assert (tmp_path / "depth.svg").is_file()
    assert files == {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.json")}


def test_embeddings_are_held_against_the_committed_results(tmp_path: Path, cache: str) -> None:
    command = ("analyze", "embeddings", *PAIR, "--task", "mini-weather,mini-food")
    found = json.loads(invoke(*command, "--out", REPOSITORY, "--json", cache=cache))
    assert [one["task"] for one in found["geometry"]] == ["mini-food", "mini-weather"]
    assert 0.9 < found["geometry"][0]["token_cosine"] <= 1
    assert set(found["cosines"]) == {"mini-food", "mini-weather"}
    assert any(one["method"] == "contcoop" for one in found["predictions"])
    nothing = invoke(*command, "--out", tmp_path, cache=cache)
    assert "holds no complete method for this upgrade" in nothing


def test_claims_are_told_as_table_markdown_and_json() -> None:
    table = invoke("claims", "--out", REPOSITORY)
    found: list[dict[str, Any]] = json.loads(invoke("claims", "--out", REPOSITORY, "--json"))
    markdown = invoke("claims", "--out", REPOSITORY, "--markdown")
    (report, *_) = found
    assert {one["claim"] for one in report["findings"]} == {1, 2, 3, 4, 5}
    for one in report["findings"]:
        assert one["verdict"] in ("supported", "contradicted", "not decided")
        assert f"**{one['verdict']}**" in markdown
    assert "methods complete" in table


def test_a_page_gets_the_sections_it_has_marks_for(tmp_path: Path) -> None:
    page = tmp_path / "why.md"
    page.write_text("# Why\n<!-- claims:begin -->\n<!-- claims:end -->\nEnd\n")
    invoke("analyze", "page", page, "--out", REPOSITORY)
    text = page.read_text()
    assert text.startswith("# Why\n<!-- claims:begin -->\nSuite mini")
    assert text.endswith("<!-- claims:end -->\nEnd\n")
    invoke("analyze", "page", page, "--out", REPOSITORY)
    assert page.read_text() == text


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("layers", "mini-clp", "mini-eva-clip"), "did you mean mini-clip"),
        (("layers", *PAIR, "--task", "weather"), "no task named 'weather'"),
        (("layers", *PAIR, "--json", "--csv"), "give one of the two"),
        (("layers", *PAIR, "--figure", "a.png"), "end the name in .svg"),
        (("depth", "mini-clip", "mini-clip", "--task", "mini-food"), "an upgrade needs two"),
        (("depth", *PAIR, "--task", "mini-objects-mono"), "no task to learn from"),
        (("depth", *PAIR, "--task", "mini-food", "--seeds", "x"), "give numbers of at least 0"),
        (("embeddings", *PAIR, "--suite", "mni"), "did you mean mini"),
        (("page", "no-such-page.md"), "cannot read no-such-page.md"),
    ],
)
def test_mistakes_are_told_in_a_line(
    arguments: tuple[str, ...], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(CompatbenchError, match=message):
        invoke("analyze", *arguments)
    assert list(tmp_path.iterdir()) == []


def test_claims_without_results_say_how_to_get_them(tmp_path: Path) -> None:
    with pytest.raises(CompatbenchError, match="holds no results; start with 'compatbench run"):
        invoke("claims", "--out", tmp_path)


@pytest.mark.parametrize("command", ["layers", "depth", "embeddings", "page"])
def test_help_teaches(command: str) -> None:
    assert "Usage" in invoke("analyze", command, "--help")


def test_the_gauge_of_the_mini_pair_and_what_a_turn_does(
    tmp_path: Path, cache: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = load_words()[::8]
    monkeypatch.setattr("compatbench.transfer.words.load_words", lambda: words)
    options = ("--suite", "smoke", "--methods", "simpleshot,zeroshot", "--turns", 2)
    options += ("--angles", "0,random", "--jobs", 1, "--out", tmp_path)
    figure = tmp_path / "stress.svg"
    out = invoke("analyze", "gauge", *PAIR, *options, "--json", "--figure", figure, cache=cache)
    found = json.loads(out)
    as_it_is, by_words, by_images = found["gauge"]["maps"]
    assert by_words["word_residual"] < as_it_is["word_residual"]
    assert by_images["image_residual"] < by_words["image_residual"]
    assert found["gauge"]["sizes"] == [128, 128]
    points = {(one["method"], one["change"]): one for one in found["stress"]}
    assert {one["flipped"] for one in found["stress"]} == {0}
    unturned = points["simpleshot+aligned", "0"]["target"]
    assert abs(points["simpleshot+aligned", "random"]["target"] - unturned) <= 0.5
    copied = [points["simpleshot", change]["target"] for change in ("0", "random")]
    assert copied[1] < copied[0] - 20
    zero_shot = [points["zeroshot", change]["target"] for change in ("0", "random")]
    assert zero_shot[0] == zero_shot[1]
    assert figure.read_text().startswith("<?xml")
    table = invoke(
        "analyze", "gauge", *PAIR, *options, "--sizes", "64", "--task", "mini-weather", cache=cache
    )
    assert "simpleshot+aligned" in table
    assert "turned by words" in table
    csv_out = invoke("analyze", "gauge", *PAIR, "--suite", "smoke", "--csv", cache=cache)
    assert [row["map"] for row in csv.DictReader(io.StringIO(csv_out))] == [
        "none",
        "words",
        "images",
    ]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--methods", "simpleshot", "--angles", "200"), "'200': give degrees from 0 to 180"),
        (("--methods", "simpleshot", "--angles", "right"), "'right': give degrees"),
        (("--methods", "simpleshot", "--angles", ","), "',': give degrees"),
        (("--methods", "simpleshot", "--sizes", "8", "--words"), "give one of the two"),
        (("--figure", "a.svg"), "give --methods, too"),
    ],
)
def test_a_stress_test_that_cannot_be_is_refused(options: tuple[str, ...], message: str) -> None:
    with pytest.raises(CompatbenchError, match=message):
        invoke("analyze", "gauge", *PAIR, "--suite", "smoke", *options)
