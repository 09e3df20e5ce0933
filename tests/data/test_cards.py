"""Cards and names: what is read, and errors that name the file, the line and the field."""

from __future__ import annotations

from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import pytest
from data.conftest import invoke
from hypothesis import given
from hypothesis import strategies as st

from compatbench.data.cards import (
    BackboneCard,
    Catalog,
    SuiteCard,
    TaskCard,
    select_names,
    suite_cards,
    task_cards,
    unknown_name,
)
from compatbench.data.cards.yaml_file import CardModel, read_card
from compatbench.errors import CompatbenchError

BACKBONE = f"""\
name: tiny
title: Tiny
config: tiny-config
weights: mini/tiny.safetensors
sha256: {"ab" * 32}
licence: MIT
"""

SUITE = """\
name: small
title: Small
upgrades:
- [a, b]
- [a, b, c]
tasks: [pets, birds]
shots: [1, 4]
seeds: [1, 2, 3]
training:
  views: 2
  max_steps: 10
methods:
  coop: {context_length: 4}
"""

TASK = """\
name: pets
title: Pets
classes:
- cat
- dog
templates:
- a photo of a {}.
source:
  kind: drawings
  split: mini/splits/pets.csv
counts: {train: 4, test: 2}
licence: MIT
"""


def write(folder: Path, text: str) -> Path:
    path = folder / "card.yaml"
    path.write_text(text, encoding="utf-8")
    return path


@pytest.mark.parametrize(
    ("text", "model"), [(BACKBONE, BackboneCard), (SUITE, SuiteCard), (TASK, TaskCard)]
)
def test_a_good_card_is_read_and_cannot_be_changed(
    tmp_path: Path, text: str, model: type[CardModel]
) -> None:
    card: Any = read_card(write(tmp_path, text), model)
    assert card.title in {"Tiny", "Small", "Pets"}
    with pytest.raises(ValueError, match="frozen"):
        card.title = "Other"


@pytest.mark.parametrize(
    ("old", "new", "model", "line", "message"),
    [
        ("title: Tiny\n", "", BackboneCard, 1, "field 'title' is missing; add it"),
        ("title:", "titel:", BackboneCard, 1, "field 'title' is missing; add it"),
        (
            "licence: MIT",
            "licence: MIT\ncolour: red",
            BackboneCard,
            7,
            "field 'colour' is not known",
        ),
        ("title: Tiny", "title: [Tiny]", BackboneCard, 2, "field 'title': .*string"),
        (f"sha256: {'ab' * 32}", "sha256: abc", BackboneCard, 5, "field 'sha256'"),
        ("shots: [1, 4]", "shots: [1, 0]", SuiteCard, 7, "field 'shots.1'"),
        ("shots: [1, 4]", "shots: []", SuiteCard, 7, "field 'shots'"),
        ("seeds: [1, 2, 3]", "seeds: 1", SuiteCard, 8, "field 'seeds'"),
        ("seeds: [1, 2, 3]", "seeds: [1, -1]", SuiteCard, 8, "field 'seeds.1': .* 0"),
        ("seeds: [1, 2, 3]", "seeds: [4294967296]", SuiteCard, 8, "'seeds.0': .* 4294967295"),
        ("seeds: [1, 2, 3]", "seeds: [1]\nplugins: [3]", SuiteCard, 9, "field 'plugins.0'"),
        ("- [a, b, c]", "- [a, b, 7]", SuiteCard, 5, "field 'upgrades.1.2'"),
        ("  views: 2", "  views: two", SuiteCard, 10, "field 'training.views'"),
        ("  views: 2", "  view: 2", SuiteCard, 10, "field 'training.view' is not known"),
        ("- [a, b]\n", "- [a]\n", SuiteCard, 1, r"upgrade \[a\] has no target"),
        ("- [a, b]\n", "- [a, a]\n", SuiteCard, 1, "names a backbone twice"),
        ("- a photo of a {}.", "- a photo", TaskCard, 7, "field 'templates.0'"),
        ("- a photo of a {}.", "- a {} of {}", TaskCard, 7, "field 'templates.0'"),
        ("- dog", "- cat", TaskCard, 1, "two classes have the same name"),
        ("train: 4, ", "", TaskCard, 1, "counts lack train"),
        ("train: 4", "train: 0", TaskCard, 11, "field 'counts.train'"),
        ("train: 4", "trian: 4", TaskCard, 11, "field 'counts.trian"),
        ("kind: drawings", "kind: paintings", TaskCard, 9, "field 'source.kind'"),
        ("licence: MIT", "licence: MIT\nparent: birds", TaskCard, 1, "a variant inherits"),
    ],
)
def test_a_mistake_is_named_with_file_line_and_field(
    tmp_path: Path, old: str, new: str, model: type[CardModel], line: int, message: str
) -> None:
    text = {BackboneCard: BACKBONE, SuiteCard: SUITE, TaskCard: TASK}[model]  # type: ignore[index]
    assert old in text
    with pytest.raises(CompatbenchError, match=message) as error:
        read_card(write(tmp_path, text.replace(old, new)), model)
    assert str(error.value).startswith(f"{tmp_path / 'card.yaml'}:{line}: ")


def test_further_mistakes_are_counted(tmp_path: Path) -> None:
    text = BACKBONE.replace("title: Tiny\n", "").replace("licence: MIT\n", "")
    with pytest.raises(CompatbenchError, match=r"\(and 1 more\)"):
        read_card(write(tmp_path, text), BackboneCard)


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("name: tiny\ntitle: [Tiny\n", 3),
        ("name: tiny\n\ttitle: Tiny\n", 2),
        ("name: a: b\n", 1),
        ("a: 1\n---\nb: 2\n", 2),
        ("a: &x 1\nb: *y\n", 2),
        ("a: 1\nb: !!python/object:os.system x\n", 2),
        ("a: \x00\n", 1),
        ("a: 2001-99-99\n", 1),
        ("a: !!int ''\n", 1),
        ("a: !!bool perhaps\n", 1),
        ("a: !!timestamp never\n", 1),
        ("? [a]\n: 1\n", 1),
        ("[" * 3000, 1),
    ],
)
def test_what_is_not_yaml_is_an_error_with_its_line(tmp_path: Path, text: str, line: int) -> None:
    path = write(tmp_path, text)
    with pytest.raises(CompatbenchError) as error:
        read_card(path, BackboneCard)
    assert str(error.value).startswith(f"{path}:{line}: not valid YAML")


@pytest.mark.parametrize("text", ["", "# nothing\n", "- a\n- b\n", "word\n", "3\n", "null\n"])
def test_a_card_that_is_not_a_mapping_is_refused(tmp_path: Path, text: str) -> None:
    path = write(tmp_path, text)
    with pytest.raises(CompatbenchError, match="a card is a mapping") as error:
        read_card(path, BackboneCard)
    assert str(error.value).startswith(f"{path}:1: ")


def test_what_is_no_text_and_what_is_no_file_are_refused(tmp_path: Path) -> None:
    (tmp_path / "bytes.yaml").write_bytes(b"name: \xff\xfe")
    for path in (tmp_path / "bytes.yaml", tmp_path / "none.yaml", tmp_path):
        with pytest.raises(CompatbenchError, match="cannot read card"):
            read_card(path, BackboneCard)


OUTSIDE = ["../x", "/etc/x", "a/b", "a\\b", "..", ".hidden", "-x", "", "a b", "a\n", "ä", "x" * 101]


@pytest.mark.parametrize("name", OUTSIDE)
def test_a_name_that_could_leave_a_folder_is_refused(name: str) -> None:
    values = dict(name="tiny", title="t", config="c", weights="w", sha256="ab" * 32, licence="MIT")
    BackboneCard.model_validate(values)
    for field in ("name", "config"):
        with pytest.raises(ValueError, match=field):
            BackboneCard.model_validate(values | {field: name})
    suite = dict(name="s", title="t", upgrades=[["a", "b"]], tasks=["t"], shots=[1], seeds=[1])
    SuiteCard.model_validate(suite)
    if name == "a/b":  # a model and a tag
        return
    with pytest.raises(ValueError, match="upgrades"):
        SuiteCard.model_validate(suite | {"upgrades": [["a", name]]})


@pytest.fixture
def catalog(tmp_path: Path) -> Catalog[BackboneCard]:
    for name in ("tiny", "small"):
        (tmp_path / f"{name}.yaml").write_text(BACKBONE.replace("name: tiny", f"name: {name}"))
    (tmp_path / "broken.yaml").write_text("name: [")
    (tmp_path / "misnamed.yaml").write_text(BACKBONE)
    (tmp_path / "notes.md").write_text("not a card")
    return Catalog("backbone", BackboneCard, lambda: tmp_path)


def test_a_catalog_lists_the_names_of_its_files(catalog: Catalog[BackboneCard]) -> None:
    assert catalog.names() == ["broken", "misnamed", "small", "tiny"]


def test_a_broken_card_harms_only_those_who_ask_for_it(catalog: Catalog[BackboneCard]) -> None:
    assert [card.name for card in catalog.select("tiny,small")] == ["small", "tiny"]
    with pytest.raises(CompatbenchError, match="not valid YAML"):
        catalog.read("broken")


def test_a_card_bears_the_name_of_its_file(catalog: Catalog[BackboneCard]) -> None:
    with pytest.raises(CompatbenchError, match=r"misnamed\.yaml.*'name' is 'tiny'"):
        catalog.read("misnamed")


def test_an_unknown_card_is_an_error_with_a_hint(catalog: Catalog[BackboneCard]) -> None:
    with pytest.raises(CompatbenchError, match="no backbone named 'tinny'; did you mean tiny"):
        catalog.read("tinny")


@pytest.mark.parametrize("name", ["../tiny", "", "tiny/../tiny", "*"])
def test_a_catalog_does_not_look_outside_its_folder(
    catalog: Catalog[BackboneCard], name: str
) -> None:
    with pytest.raises(CompatbenchError, match="no backbone named"):
        catalog.read(name)


@pytest.mark.parametrize(
    ("folder", "message"),
    [
        ("nowhere", "^COMPATBENCH_TASKS: there is no folder .*nowhere; name a folder of cards"),
        ("", "^folder .* has no task cards; COMPATBENCH_TASKS names it$"),
    ],
)
@pytest.mark.parametrize("names", ["all", "mini-food"])
def test_a_folder_without_cards_is_named_and_so_is_its_variable(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, folder: str, message: str, names: str
) -> None:
    monkeypatch.setenv("COMPATBENCH_TASKS", str(tmp_path / folder))
    with pytest.raises(CompatbenchError, match=message):
        invoke("list", "tasks", names)
    with pytest.raises(CompatbenchError, match=message):
        task_cards.read("mini-food")


def test_a_card_can_be_read_by_its_path(catalog: Catalog[BackboneCard], tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    path = elsewhere / "mine.yaml"
    path.write_text(BACKBONE)
    assert catalog.read(str(path)).name == "tiny"


EXTENDING = "name: smaller\ntitle: Smaller\nextends: small\nshots: [2]\n"


def test_a_suite_takes_what_it_does_not_give_from_the_one_it_extends(tmp_path: Path) -> None:
    (tmp_path / "small.yaml").write_text(SUITE, encoding="utf-8")
    (tmp_path / "smaller.yaml").write_text(EXTENDING, encoding="utf-8")
    base = read_card(tmp_path / "small.yaml", SuiteCard)
    card = read_card(tmp_path / "smaller.yaml", SuiteCard)
    own = {"name": "smaller", "title": "Smaller", "extends": "small", "shots": (2,)}
    assert card == base.model_copy(update=own)


@pytest.mark.parametrize(
    ("base", "message"),
    [
        (None, r"smaller.yaml:3: field 'extends': there is no .*small.yaml"),
        (
            SUITE + "extends: other\n",
            "smaller.yaml:3: field 'extends': small extends a card itself",
        ),
        (
            SUITE.replace("seeds", "seed"),
            "small.yaml:8: field 'seed' is not known|'seeds' is missing",
        ),
    ],
)
def test_a_mistake_in_what_is_extended_is_named(
    tmp_path: Path, base: str | None, message: str
) -> None:
    if base is not None:
        (tmp_path / "small.yaml").write_text(base, encoding="utf-8")
    (tmp_path / "smaller.yaml").write_text(EXTENDING, encoding="utf-8")
    with pytest.raises(CompatbenchError, match=message):
        read_card(tmp_path / "smaller.yaml", SuiteCard)


def test_a_suite_in_any_folder_may_extend_a_built_in_one(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text("name: mine\ntitle: Mine\nextends: mini\nseeds: [7]\n")
    card, mini = suite_cards.read(str(path)), suite_cards.read("mini")
    own = {"name": "mine", "title": "Mine", "extends": "mini", "seeds": (7,)}
    assert card == mini.model_copy(update=own)
    path.write_text("name: mine\ntitle: Mine\nextends: minni\n")
    with pytest.raises(CompatbenchError, match=r"mine.yaml:3: .* no .*suites/minni.yaml$"):
        suite_cards.read(str(path))


def test_plug_ins_are_relative_to_the_file_that_names_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir("/")
    (tmp_path / "small.yaml").write_text(SUITE + "plugins: [./a.py, sub/b.py, /c.py]\n")
    (tmp_path / "smaller.yaml").write_text(EXTENDING)
    expected = (tmp_path / "a.py", tmp_path / "sub" / "b.py", Path("/c.py"))
    for name in ("small", "smaller"):
        assert suite_cards.read(str(tmp_path / f"{name}.yaml")).plugins == expected


KNOWN = ["zeroshot", "clip_adapter", "coop", "kgcoop", "tip_adapter", "tip_adapter_f"]


@pytest.mark.parametrize(
    ("wanted", "chosen"),
    [
        ("coop", ["coop"]),
        ("kgcoop,coop", ["coop", "kgcoop"]),
        (" coop , kgcoop ", ["coop", "kgcoop"]),
        ("coop,,coop", ["coop"]),
        ("all", KNOWN),
        ("*", KNOWN),
        ("*coop", ["coop", "kgcoop"]),
        ("tip_*", ["tip_adapter", "tip_adapter_f"]),
        ("?oop", ["coop"]),
        ("[ck]*oop", ["coop", "kgcoop"]),
        ("all,!coop", ["zeroshot", "clip_adapter", "kgcoop", "tip_adapter", "tip_adapter_f"]),
        ("!*adapter*", ["zeroshot", "coop", "kgcoop"]),
        ("tip_*,!tip_adapter_f", ["tip_adapter"]),
        ("!tip_*,tip_adapter", ["tip_adapter"]),
        ("!all", []),
        ("", KNOWN),
    ],
)
def test_a_selection_is_what_it_says_in_the_known_order(wanted: str, chosen: list[str]) -> None:
    assert select_names(wanted, KNOWN, "method") == chosen


def test_a_list_is_taken_as_it_is() -> None:
    assert select_names(["kgcoop", "coop"], KNOWN, "method") == ["coop", "kgcoop"]


@pytest.mark.parametrize(
    ("wanted", "message"),
    [
        ("kgcop", "no method named 'kgcop'; did you mean kgcoop"),
        ("tip_adapter_g", "did you mean tip_adapter_f or tip_adapter"),
        ("nonsense!", "no method named 'nonsense!'; known: zeroshot, clip_adapter"),
        ("coop,!kgcop", "no method named 'kgcop'"),
        ("x*", r"no method named 'x\*'"),
        ("Coop", "did you mean coop"),
    ],
)
def test_a_name_that_matches_nothing_is_an_error_with_a_hint(wanted: str, message: str) -> None:
    with pytest.raises(CompatbenchError, match=message):
        select_names(wanted, KNOWN, "method")


def test_a_long_list_of_known_names_is_cut() -> None:
    message = unknown_name("zz", [f"name{i:02}" for i in range(40)], "task")
    assert message.endswith("name10, name11, ...")
    assert unknown_name("coop", [], "method") == "no method named 'coop'; known: none"


@given(st.lists(st.sampled_from([*KNOWN, "tip_*", "all"]), min_size=1))
def test_names_and_globs_give_their_union(parts: list[str]) -> None:
    chosen = select_names(",".join(parts), KNOWN, "method")
    assert chosen == [n for n in KNOWN if any(p == "all" or fnmatchcase(n, p) for p in parts)]
