"""FGVC-Aircraft's text files."""

from __future__ import annotations

from pathlib import Path

import pytest
from data.conftest import SetUp
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from compatbench.data.image_check import inspect_task
from compatbench.data.sources.split_files import read_variants
from compatbench.data.task import load_task
from compatbench.errors import CompatbenchError

VARIANTS = ["707-320", "BAE 146-200", "F/A-18", "Model B200"]


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(images=st.lists(st.tuples(st.integers(0, 10**7 - 1), st.sampled_from(VARIANTS))))
def test_every_line_is_read(tmp_path: Path, images: list[tuple[int, str]]) -> None:
    path = tmp_path / "images.txt"
    path.write_text("".join(f"{number:07} {variant}\n" for number, variant in images))
    expected = [(f"{number:07}.jpg", VARIANTS.index(variant)) for number, variant in images]
    found = [(sample.id, sample.label) for sample in read_variants(path, VARIANTS)]
    assert found == expected


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("1025794", "'' is not in variants.txt"),
        ("../../1 707-320", "a line holds an image's number"),
        ("1025794 707-321", "'707-321' is not in variants.txt"),
    ],
)
def test_a_wrong_line_is_named(tmp_path: Path, line: str, message: str) -> None:
    (tmp_path / "images.txt").write_text(f"0034309 707-320\n{line}")
    with pytest.raises(CompatbenchError, match=f"images.txt: .*{message}"):
        read_variants(tmp_path / "images.txt", VARIANTS)


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
