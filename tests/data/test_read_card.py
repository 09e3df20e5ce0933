"""Reading a card: an error names the file, the line and the field, and is always ours."""

from __future__ import annotations

import contextlib
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from compatbench.data.cards import BackboneCard, CardModel, Catalog, SuiteCard, TaskCard, read_card
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
def test_a_good_card_is_read(tmp_path: Path, text: str, model: type[CardModel]) -> None:
    card = read_card(write(tmp_path, text), model)
    assert card.title in {"Tiny", "Small", "Pets"}  # type: ignore[attr-defined]


def test_a_card_cannot_be_changed(tmp_path: Path) -> None:
    card = read_card(write(tmp_path, BACKBONE), BackboneCard)
    with pytest.raises(ValueError, match="frozen"):
        card.title = "Other"  # type: ignore[misc]


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
        ("- [a, b, c]", "- [a, b, 7]", SuiteCard, 5, "field 'upgrades.1.2'"),
        ("  views: 2", "  views: two", SuiteCard, 10, "field 'training.views'"),
        ("  views: 2", "  view: 2", SuiteCard, 10, "field 'training.view' is not known"),
        ("- [a, b]\n", "- [a]\n", SuiteCard, 1, r"upgrade \[a\] lacks a target"),
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
        ("? [a]\n: 1\n", 1),
        ("[" * 3000, 1),
    ],
)
def test_what_is_not_yaml_is_an_error_with_its_line(tmp_path: Path, text: str, line: int) -> None:
    path = write(tmp_path, text)
    with pytest.raises(CompatbenchError) as error:
        read_card(path, BackboneCard)
    assert str(error.value).startswith(f"{path}:{line}: not valid YAML")


@pytest.mark.parametrize(
    "text",
    [
        "a: !!int ''\n",
        "a: !!float ''\n",
        "a: !!bool perhaps\n",
        "a: !!timestamp never\n",
    ],
)
def test_a_tag_that_does_not_fit_its_value_is_an_error_of_ours(tmp_path: Path, text: str) -> None:
    with pytest.raises(CompatbenchError, match="not valid YAML"):
        read_card(write(tmp_path, text), BackboneCard)


@pytest.mark.parametrize("text", ["", "# nothing\n", "- a\n- b\n", "word\n", "3\n", "null\n"])
def test_a_card_that_is_not_a_mapping_is_refused(tmp_path: Path, text: str) -> None:
    path = write(tmp_path, text)
    with pytest.raises(CompatbenchError, match="a card is a mapping") as error:
        read_card(path, BackboneCard)
    assert str(error.value).startswith(f"{path}:1: ")


def test_keys_that_are_not_words_are_refused(tmp_path: Path) -> None:
    with pytest.raises(CompatbenchError):
        read_card(write(tmp_path, BACKBONE + "3: 4\nnull: 5\n"), BackboneCard)


def test_bytes_that_are_not_text_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "card.yaml"
    path.write_bytes(b"name: \xff\xfe")
    with pytest.raises(CompatbenchError, match="cannot read card"):
        read_card(path, BackboneCard)


def test_a_missing_card_and_a_folder_are_refused(tmp_path: Path) -> None:
    for path in (tmp_path / "none.yaml", tmp_path):
        with pytest.raises(CompatbenchError, match="cannot read card"):
            read_card(path, BackboneCard)


OUTSIDE = [
    "../x",
    "/etc/x",
    "a/b",
    "a\\b",
    "..",
    ".",
    ".hidden",
    "-x",
    "",
    "a b",
    "a\n",
    "ä",
    "x" * 101,
]


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


FRAGMENTS = st.one_of(
    st.sampled_from(
        ["\n", ": ", "- ", "[", "]", "{", "}", "&a ", "*a", "'", '"', "#", "|\n", "? "]
    ),
    st.sampled_from(["<<: ", "!!set ", "---\n", "\t", "\x00", "0x", "1e9", "~", "2020-13-45", "%"]),
    st.text(max_size=4),
)


@st.composite
def mutated_cards(draw: st.DrawFn) -> tuple[str, type[CardModel]]:
    cards = [(BACKBONE, BackboneCard), (SUITE, SuiteCard), (TASK, TaskCard)]
    text, model = draw(st.sampled_from(cards))
    for _ in range(draw(st.integers(1, 4))):
        start = draw(st.integers(0, len(text)))
        stop = draw(st.integers(start, min(len(text), start + 12)))
        text = text[:start] + draw(FRAGMENTS) + text[stop:]
    return text, model


@settings(max_examples=300)
@given(mutated_cards())
def test_a_mutated_card_is_read_or_refused_with_an_error_of_ours(
    tmp_path_factory: pytest.TempPathFactory, card: tuple[str, type[CardModel]]
) -> None:
    text, model = card
    path = tmp_path_factory.getbasetemp() / "mutated.yaml"
    path.write_bytes(text.encode("utf-8", errors="surrogatepass"))
    with contextlib.suppress(CompatbenchError):
        assert isinstance(read_card(path, model), model)


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
