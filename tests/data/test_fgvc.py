"""FGVC-Aircraft's text files."""

from __future__ import annotations

from pathlib import Path

import pytest
from data.conftest import SetUp
from hypothesis import given
from hypothesis import strategies as st

from compatbench.data.image_check import inspect_task
from compatbench.data.sources.fgvc import parse_images
from compatbench.data.task import load_task
from compatbench.errors import CompatbenchError

VARIANTS = {"707-320": 0, "BAE 146-200": 1, "F/A-18": 2, "Model B200": 3}
WHERE = Path("images_variant_train.txt")


@given(st.lists(st.tuples(st.integers(0, 10**7 - 1), st.sampled_from(sorted(VARIANTS)))))
def test_every_line_is_read(images: list[tuple[int, str]]) -> None:
    lines = [f"{number:07} {variant}" for number, variant in images]
    samples = parse_images([*lines, ""], VARIANTS, WHERE)
    expected = [(f"{number:07}.jpg", VARIANTS[variant]) for number, variant in images]
    assert [(sample.id, sample.label) for sample in samples] == expected


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("1025794", "a line holds an image's number and its variant"),
        ("../../1 707-320", "a line holds an image's number"),
        ("1025794 707-321", "'707-321' is not in variants.txt"),
    ],
)
def test_a_wrong_line_is_named_by_its_number(line: str, message: str) -> None:
    with pytest.raises(CompatbenchError, match=f"{WHERE}:2: {message}"):
        parse_images(["0034309 707-320", line], VARIANTS, WHERE)


@pytest.mark.parametrize("name", ["variants.txt", "images_variant_val.txt", "images"])
def test_a_missing_file_is_named(name: str, set_up: SetUp) -> None:
    folder = set_up("fgvc_aircraft")["fgvc_aircraft"].folder
    (folder / name).rename(folder / "gone")
    with pytest.raises(CompatbenchError, match=f"{folder / name} is missing"):
        load_task("fgvc_aircraft")
    assert inspect_task("fgvc_aircraft").missing_file == folder / name


def test_variants_in_another_order_are_refused(set_up: SetUp) -> None:
    path = set_up("fgvc_aircraft")["fgvc_aircraft"].folder / "variants.txt"
    lines = path.read_text().splitlines()
    path.write_text("\n".join([lines[1], lines[0], *lines[2:]]))
    with pytest.raises(CompatbenchError, match=r"label 0 is '727-200', .* '707-320'"):
        load_task("fgvc_aircraft")
    assert inspect_task("fgvc_aircraft").class_order is False


def test_torchvision_s_folder_serves_as_it_is(
    set_up: SetUp, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tree = set_up("fgvc_aircraft")["fgvc_aircraft"]
    elsewhere = tmp_path / "torchvision" / "fgvc-aircraft-2013b" / "data"
    elsewhere.parent.mkdir(parents=True)
    tree.folder.rename(elsewhere)
    monkeypatch.setenv("COMPATBENCH_DATA_FGVC_AIRCRAFT", str(elsewhere))
    assert inspect_task("fgvc_aircraft").state == "found"
