"""Cards and names: what is read, and errors that name the file, the line and the field."""

from __future__ import annotations

import os
import re
from pathlib import Path

import pytest
import yaml
from command_line import invoke

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
from compatbench.data.cards.schemas import Descriptions, TrainingCard, TuningCard
from compatbench.data.cards.sources import Download
from compatbench.data.cards.yaml_file import CardModel, read_card
from compatbench.errors import CompatbenchError
from compatbench.files import yaml_text
from compatbench.files.yaml_text import dump_yaml, load_yaml
from compatbench.results.rows import Row

HASH = f"sha256: {'ab' * 32}\n"
WEIGHTS = f"weights: mini/tiny.safetensors\n{HASH}"
BACKBONE = f"name: tiny\ntitle: Tiny\nconfig: tiny-config\n{WEIGHTS}licence: MIT\n"

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


def write(folder: Path, text: str, name: str = "card") -> Path:
    path = folder / f"{name}.yaml"
    path.write_text(text, encoding="utf-8")
    return path


@pytest.mark.parametrize(
    ("model", "old", "new", "line", "message"),
    [
        (BackboneCard, "title: Tiny\n", "", 1, "field 'title' is missing; add it"),
        (BackboneCard, "MIT", "MIT\ncolour: red", 7, "field 'colour' is not known"),
        (BackboneCard, "title: Tiny", "title: [Tiny]", 2, "field 'title': .*string"),
        (BackboneCard, HASH, "sha256: abc\n", 5, "field 'sha256'"),
        (BackboneCard, "config: tiny-config\n", "", 1, ".*needs 'config'"),
        (BackboneCard, WEIGHTS, "", 1, ".*need 'tag', 'path' or 'weights'"),
        (BackboneCard, WEIGHTS, "provider: hf\n", 1, ".*needs 'repository' or 'path'"),
        (BackboneCard, HASH, "", 1, ".*need their 'sha256'"),
        (BackboneCard, "config: tiny-config", "colour: red\nsize: 3", 3, r"\(and 1 more\)"),
        (SuiteCard, "shots: [1, 4]", "shots: [1, 0]", 7, "field 'shots.1'"),
        (SuiteCard, "seeds: [1, 2, 3]", "seeds: [1, -1]", 8, "field 'seeds.1': .* 0"),
        (SuiteCard, "seeds: [1, 2, 3]", "seeds: [4294967296]", 8, "'seeds.0': .* 4294967295"),
        (SuiteCard, "seeds: [1, 2, 3]", "seeds: [1]\nplugins: [3]", 9, "field 'plugins.0'"),
        (SuiteCard, "  views: 2", "  views: two", 10, "field 'training.views': Input"),
        (SuiteCard, "  views: 2", "  view: 2", 10, "field 'training.view' is not known"),
        (SuiteCard, "- [a, b]\n", "- [a]\n", 1, r"upgrade \[a\] has no target"),
        (SuiteCard, "- [a, b]\n", "- [a, a]\n", 1, "names a backbone twice"),
        (SuiteCard, "methods:", "protocol: base-to-new\nvariants: [x]\nmethods:", 1, "test sets"),
        (SuiteCard, "methods:", "protocol: cross-dataset\nmethods:", 1, "needs 'train_on'"),
        (SuiteCard, "methods:", "train_on: [pets]\nmethods:", 1, "only protocol 'cross"),
        (SuiteCard, "methods:", "compare: []\nmethods:", 12, "field 'compare'"),
        (SuiteCard, "methods:", "protocol: old-to-new\nmethods:", 12, "'protocol': .* 'few-shot'"),
        (TaskCard, "- a photo of a {}.", "- a photo", 7, "field 'templates.0'"),
        (TaskCard, "- dog", "- cat", 1, "'namesakes' lists the names .* see 'cat'"),
        (TaskCard, "train: 4, ", "", 1, "counts lack train"),
        (TaskCard, "train: 4", "trian: 4", 11, "field 'counts.trian"),
        (TaskCard, "kind: drawings", "kind: paintings", 9, "field 'source.kind'"),
        (TaskCard, "licence: MIT", "licence: MIT\nparent: birds", 1, "a variant inherits"),
    ],
)
def test_card_error_names_file_line_and_field(
    tmp_path: Path, model: type[CardModel], old: str, new: str, line: int, message: str
) -> None:
    text = {BackboneCard: BACKBONE, SuiteCard: SUITE, TaskCard: TASK}[model]
    assert old in text
    with pytest.raises(CompatbenchError, match=message) as error:
        read_card(write(tmp_path, text.replace(old, new)), model)
    assert str(error.value).startswith(f"{tmp_path / 'card.yaml'}:{line}: ")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("name: tiny\ntitle: [Tiny\n", "3: not valid YAML"),
        ("name: tiny\n\ttitle: Tiny\n", "2: not valid YAML"),
        ("a: 1\n---\nb: 2\n", "2: not valid YAML"),
        ("a: 1\na: 2\n", "2: not valid YAML: 'a' is given twice; drop one"),
        ("a: &a [1]\nb: *a\n", "1: .*aliases .* are not read; write the values out"),
        ("a: 1\nb: !!python/object/apply:os.system [x]\n", "2: not valid YAML"),
        ("a: \x00\n", "1: not valid YAML"),
        ("a: 2001-09-09\n", "1: not valid YAML"),
        ("a: !!int ''\n", "1: not valid YAML"),
        ("a: !!set {1, 2}\n", "1: not valid YAML"),
        ("? [a]\n: 1\n", "1: not valid YAML"),
        ("[" * 3000, "[12]: not valid YAML"),  # versions of libyaml differ
        (f"a: {'9' * 5000}\n", "1: not valid YAML"),
        ("a: {b: [.nan, 1]}\n", "1: not valid YAML"),
        ('a: {b: "\\ud800"}\n', "1: not valid YAML"),
        ("", "1: a card is a mapping"),
    ],
)
def test_invalid_yaml_is_refused_with_its_line(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(CompatbenchError, match=f"card.yaml:{message}"):
        read_card(write(tmp_path, text), SuiteCard)


def test_unreadable_card_files_are_refused(tmp_path: Path) -> None:
    (tmp_path / "bytes.yaml").write_bytes(b"name: \xff\xfe")
    for path in (tmp_path / "bytes.yaml", tmp_path / "none.yaml", tmp_path):
        with pytest.raises(CompatbenchError, match="cannot read card"):
            read_card(path, BackboneCard)


SECOND = pytest.mark.timeout(20)  # without a bound, each of these takes minutes
BOMB = "a: &a [x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"{after}: &{after} [{', '.join(9 * [f'*{before}'])}]\n"
    for before, after in zip("abcdefghi", "bcdefghij", strict=True)
)
HARMFUL = [
    (BOMB, "aliases .* are not read"),
    ("a: " + "1:" * 400_000 + "1\n", "field 'name' is missing"),
    ("a: !!int '" + "1:" * 400_000 + "1'\n", "not valid YAML"),
    ("a: !!float '" + "1:" * 400_000 + "1'\n", "not valid YAML"),
    ("a: " + "9" * 900_000, "not valid YAML"),
    ("- " * 200_000, "not valid YAML"),
    ("a: b\n" + "#" * (1 << 20), "it is larger than 1.0 MiB"),
]


@SECOND
@pytest.mark.parametrize(("text", "message"), HARMFUL, ids=[case[0][:12] for case in HARMFUL])
def test_card_that_would_take_much_memory_or_time_is_refused(
    tmp_path: Path, text: str, message: str
) -> None:
    with pytest.raises(CompatbenchError, match=message):
        read_card(write(tmp_path, text), SuiteCard)


@SECOND
def test_malicious_cards_cannot_hang_a_listing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Only the lines of 'name' and 'parent' are read, and these can be harmful, too."""
    inner = "x"
    for anchor in "abcdefghij":
        inner = f"[&{anchor} {inner}, {', '.join(9 * [f'*{anchor}'])}]"
    for number, name in enumerate((inner, "1:" * 400_000 + "1", "[" * 300_000)):
        card = TASK.replace("name: pets", f"name: {name}")
        assert card != TASK
        (tmp_path / f"card{number}.yaml").write_text(card)
    monkeypatch.chdir(tmp_path)
    assert {"card0", "card2"} <= set(task_cards.names())


@SECOND
@pytest.mark.parametrize("kind", ["pipe", "device", "folder"])
def test_card_must_be_a_plain_file(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "card.yaml"
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "device":
        path.symlink_to("/dev/zero")
    else:
        path.mkdir()
    with pytest.raises(CompatbenchError, match=r"cannot read card .*it is not a plain file"):
        read_card(path, SuiteCard)


def test_all_yaml_is_read_by_the_bounded_reader() -> None:
    package = Path(yaml_text.__file__).parents[1]
    readers = set()
    for path in package.rglob("*.py"):
        if re.search(r"yaml\.(safe_|full_|unsafe_)?load", path.read_text(encoding="utf-8")):
            readers.add(path)
    assert readers == {Path(yaml_text.__file__)}


@pytest.mark.parametrize(
    ("written", "value"),
    [("010", 10), ("0o17", 15), ("0x1F", 31), ("1e-3", 0.001), ("1.", 1.0), ("+5", 5)],
)
def test_numbers_are_those_of_yaml_1_2(written: str, value: float) -> None:
    found = load_yaml(written)
    assert (found, type(found)) == (value, type(value))


@pytest.mark.parametrize("text", ["1:30", "1_000", "0b11", "1e5", "010", "0o17", ".5", ".inf"])
def test_texts_that_look_like_numbers_are_quoted(text: str) -> None:
    assert load_yaml(dump_yaml({"a": [text]}, width=80)) == {"a": [text]}
    assert yaml.safe_load(dump_yaml({"a": [text]}, width=80)) == {"a": [text]}


@SECOND
@pytest.mark.parametrize("field", ["views", "most_views"])
def test_number_of_views_of_a_suite_is_bounded(tmp_path: Path, field: str) -> None:
    text = SUITE.replace("  views: 2\n", f"  {field}: 100000000\n")
    with pytest.raises(CompatbenchError, match=f"training.{field}.*less than or equal to 10000"):
        read_card(write(tmp_path, text), SuiteCard)
    with pytest.raises(CompatbenchError, match="100,000,000 epochs with a fresh view each"):
        TrainingCard(views="fresh").list_views(100_000_000)


@pytest.mark.parametrize("name", ["../../etc", "a/b/c", "/etc", "a--b/c", "a/b.git", "-a/b"])
def test_hub_repository_names_must_be_valid(tmp_path: Path, name: str) -> None:
    text = f"name: tiny\ntitle: Tiny\nprovider: hf\nrepository: {name}\nlicence: MIT\n"
    with pytest.raises(CompatbenchError, match=r"card.yaml:4: field 'repository'.*OWNER/NAME"):
        read_card(write(tmp_path, text), BackboneCard)


OUTSIDE = ["../x", "/etc/x", "a/../x", "a\\b", "..", ".hidden", "", "a b", "a\nb", "a\0b", "ä"]
OUTSIDE += ["a/b", "-x", "x" * 101]


@pytest.mark.parametrize("name", OUTSIDE)
def test_name_that_could_leave_its_folder_is_refused(name: str) -> None:
    values = dict(name="tiny", title="t", config="c", weights="w", sha256="ab" * 32, licence="MIT")
    BackboneCard.model_validate(values)
    fields = ["name", "config"]
    if name not in ("a/b", "-x", "x" * 101):  # a path may be like this
        fields.append("weights")
    for field in fields:
        with pytest.raises(ValueError, match=field):
            BackboneCard.model_validate(values | {field: name})
    row = dict(method="m", task="t", test_set="t", source="a", backbone="b", shots=1, seed=1)
    row |= dict(status="failed", key="0" * 16, data="0" * 16)
    Row.model_validate(row)
    for field in ("method", "task", "test_set", "key", "data"):
        with pytest.raises(ValueError, match=field):
            Row.model_validate(row | {field: name})
    suite = dict(name="s", title="t", upgrades=[["a", "b"]], tasks=["t"], shots=[1], seeds=[1])
    SuiteCard.model_validate(suite)
    if name != "a/b":  # a model and a tag
        with pytest.raises(ValueError, match="upgrades"):
            SuiteCard.model_validate(suite | {"upgrades": [["a", name]]})


@pytest.fixture
def catalog(tmp_path: Path) -> Catalog[BackboneCard]:
    for name in ("tiny", "small"):
        write(tmp_path, BACKBONE.replace("name: tiny", f"name: {name}"), name)
    write(tmp_path, "name: [", "broken")
    write(tmp_path, BACKBONE, "misnamed")
    (tmp_path / "notes.md").write_text("not a card")
    return Catalog("backbone", BackboneCard, lambda: tmp_path)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("broken", "not valid YAML"),
        ("misnamed", r"misnamed\.yaml.*'name' is 'tiny'"),
        ("tinny", "no backbone named 'tinny'; did you mean tiny"),
        ("../tiny", "no backbone named"),
        ("", "no backbone named"),
        ("*", "no backbone named"),
    ],
)
def test_broken_card_raises_only_when_it_is_read(
    catalog: Catalog[BackboneCard], name: str, message: str
) -> None:
    assert catalog.names() == ["broken", "misnamed", "small", "tiny"]
    assert [card.name for card in catalog.select("tiny,small")] == ["small", "tiny"]
    with pytest.raises(CompatbenchError, match=message):
        catalog.read(name)


@pytest.mark.parametrize("folder", ["nowhere", ""])
def test_error_about_empty_card_folder_names_the_variable(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, folder: str
) -> None:
    monkeypatch.setenv("COMPATBENCH_TASKS", str(tmp_path / folder))
    message = f"^COMPATBENCH_TASKS: there are no task cards in {tmp_path / folder}; name a folder"
    with pytest.raises(CompatbenchError, match=message):
        task_cards.read("mini-food")
    with pytest.raises(CompatbenchError, match=message):
        invoke("list", "tasks")


EXTENDING = "name: smaller\ntitle: Smaller\nextends: small\nshots: [2]\n"
OWN = {"name": "smaller", "title": "Smaller", "shots": (2,)}


def test_suite_inherits_missing_fields_from_the_extended_one(tmp_path: Path) -> None:
    base = read_card(write(tmp_path, SUITE, "small"), SuiteCard)
    card = read_card(write(tmp_path, EXTENDING), SuiteCard)
    assert card == base.model_copy(update=OWN | {"extends": "small"})
    path = write(tmp_path, EXTENDING.replace("small\n", "mini\n"))  # a built-in one
    mini = suite_cards.read("mini")
    not_inherited = {"likeness": "", "about": "", "tuning": None, "run_seeds": ()}
    more = set(mini.more_upgrades)
    upgrades = tuple(path for path in mini.upgrades if path not in more)
    groups = {title: paths for title, paths in mini.groups.items() if more.isdisjoint(paths)}
    not_inherited |= {"upgrades": upgrades, "more_upgrades": (), "groups": groups}
    changes = OWN | not_inherited | {"extends": "mini"}
    assert suite_cards.read(str(path)) == mini.model_copy(update=changes)


@pytest.mark.parametrize(
    ("base", "message"),
    [
        ("", r"card.yaml:3: field 'extends': no suite named 'small'; did you mean paper-small"),
        (SUITE + "extends: other\n", "card.yaml:3: field 'extends': small extends a card itself"),
        (SUITE.replace("seeds", "seed"), "small.yaml:8: .* not known|'seeds' is missing"),
    ],
)
def test_error_in_extended_suite_is_located(tmp_path: Path, base: str, message: str) -> None:
    if base:
        write(tmp_path, base, "small")
    with pytest.raises(CompatbenchError, match=message):
        suite_cards.read(str(write(tmp_path, EXTENDING)))


def test_plugin_paths_are_relative_to_their_card(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir("/")
    base = write(tmp_path, SUITE + "plugins: [./a.py, sub/b.py, /c.py]\n", "small")
    expected = (tmp_path / "a.py", tmp_path / "sub" / "b.py", Path("/c.py"))
    for path in (base, write(tmp_path, EXTENDING)):
        assert suite_cards.read(str(path)).plugins == expected


KNOWN = ["zeroshot", "clip_adapter", "coop", "kgcoop", "tip_adapter", "tip_adapter_f"]


@pytest.mark.parametrize(
    ("wanted", "chosen"),
    [
        (["kgcoop", "coop"], ["coop", "kgcoop"]),
        (" coop , kgcoop ", ["coop", "kgcoop"]),
        ("all,!coop", ["zeroshot", "clip_adapter", "kgcoop", "tip_adapter", "tip_adapter_f"]),
        ("!*adapter*", ["zeroshot", "coop", "kgcoop"]),
        ("tip_*,!tip_adapter_f", ["tip_adapter"]),
        ("tip_*,*coop,tip_adapter", ["coop", "kgcoop", "tip_adapter", "tip_adapter_f"]),
        ("!all", []),
    ],
)
def test_selection_keeps_the_known_order(wanted: str | list[str], chosen: list[str]) -> None:
    assert select_names(wanted, KNOWN, "method") == chosen


@pytest.mark.parametrize(
    ("wanted", "message"),
    [
        ("kgcop", "no method named 'kgcop'; did you mean kgcoop"),
        ("nonsense!", "no method named 'nonsense!'; known: zeroshot, clip_adapter"),
        ("coop,!kgcop", "no method named 'kgcop'"),
    ],
)
def test_unknown_name_is_refused_with_a_suggestion(wanted: str, message: str) -> None:
    with pytest.raises(CompatbenchError, match=message):
        select_names(wanted, KNOWN, "method")
    many_names = [f"name{number:02}" for number in range(40)]
    message = unknown_name("zz", many_names, "task")
    assert message.endswith("name10, name11, ...")


@pytest.mark.parametrize("selection", ["", " , ", [], [""]])
def test_empty_selection_is_refused(selection: str | list[str]) -> None:
    """A variable that is not set in a script must not select everything."""
    with pytest.raises(CompatbenchError, match="'' names no method; 'all' selects every one"):
        select_names(selection, KNOWN, "method")


def test_upgrade_groups_are_read_from_their_titles() -> None:
    suite = suite_cards.read("families")
    assert len(suite.groups) == 2
    first, second = suite.groups.values()
    assert [*first, *second] == list(suite.upgrades)
    pair = ["mini-clip", "mini-eva-clip"]
    with pytest.raises(ValueError, match="is in two groups: 'a' and 'b'"):
        SuiteCard.model_validate(suite.model_dump() | {"upgrades": {"a": [pair], "b": [pair]}})


def test_more_upgrades_are_measured_and_known_apart_and_not_inherited(tmp_path: Path) -> None:
    groups = {"a": [["mini-clip", "mini-eva-clip"]]}
    more = {"b": [["mini-clip", "mini-clip-next"]]}
    card = {"name": "own", "title": "Own", "tasks": ["mini-food"], "shots": [4], "seeds": [1]}
    suite = SuiteCard.model_validate(card | {"upgrades": groups, "more_upgrades": more})
    first, second = ("mini-clip", "mini-eva-clip"), ("mini-clip", "mini-clip-next")
    assert suite.upgrades == (first, second)
    assert suite.more_upgrades == (second,)
    assert suite.groups == {"a": (first,), "b": (second,)}
    # A card that was read is the same if it is read again.
    assert SuiteCard.model_validate(suite.model_dump()) == suite
    values = card | {"upgrades": groups, "more_upgrades": more}
    (tmp_path / "own.yaml").write_text(yaml.safe_dump(values))
    extending = {"name": "of", "title": "Of", "extends": "own"}
    (tmp_path / "of.yaml").write_text(yaml.safe_dump(extending))
    assert read_card(tmp_path / "of.yaml", SuiteCard).upgrades == (first,)


@pytest.mark.parametrize(
    ("section", "cards"),
    [
        ("A suite", (SuiteCard, TrainingCard, TuningCard)),
        ("A task", (TaskCard, Descriptions, Download)),
        ("A backbone", (BackboneCard,)),
    ],
)
def test_page_of_cards_names_every_field(section: str, cards: tuple[type[CardModel], ...]) -> None:
    page = (Path(__file__).parents[2] / "docs" / "cards.md").read_text(encoding="utf-8")
    text = page.split(f"\n## {section}\n")[1].split("\n## ")[0]
    described = set(re.findall(r"\w+", text)) | {"groups"}  # made from 'upgrades'
    for card in cards:
        assert set(card.model_fields) <= described
