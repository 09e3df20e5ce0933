"""Names, paths and texts from strangers cannot leave their folder or control a terminal."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path

import pytest
from command_line import output_of

from compatbench.backbone.load.checkpoint import read_tensors
from compatbench.cli import main
from compatbench.cli.new_method import fill_template
from compatbench.cli.output import console, print_facts, print_frame, print_json, say
from compatbench.data.cards import backbone_cards, suite_cards
from compatbench.errors import CompatbenchError
from compatbench.method.registry import MethodRegistry, builtin_methods
from compatbench.results.rows import Row, parse_csv, to_frame, write_csv

SECRET = "classified:0"


def refused(read: Callable[[], object], message: str) -> str:
    with pytest.raises(CompatbenchError, match=message) as error:
        read()
    assert SECRET[:8] not in str(error.value)
    return str(error.value)


BACKBONE = "name: mine\ntitle: Mine\nconfig: ViT-B-32\nlicence: MIT\npath: {}\n"
SUITE = (
    "name: mine\ntitle: Mine\nupgrades:\n  - [mini-clip, '{}']\n"
    "tasks: [mini-food]\nshots: [4]\nseeds: [1]\n"
)


@pytest.mark.parametrize(
    ("text", "given"),
    [
        (BACKBONE, "{}/secret"),
        (BACKBONE, "../secret"),
        (BACKBONE, "link"),
        (BACKBONE, "~/secret"),
        (SUITE, "ViT-B-32@{}/secret"),
        (SUITE, "ViT-B-32@../secret"),
        (SUITE, "ViT-B-32/openai@link"),
        (SUITE, "ViT-B-32@~/secret"),
        (SUITE, "local-dir:{}"),
        (SUITE, "hf:{}"),
    ],
)
def test_card_may_name_only_files_in_its_folder_or_the_weights_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str, given: str
) -> None:
    cards = tmp_path / "cards"
    cards.mkdir()
    (tmp_path / "secret").write_text(SECRET)
    (cards / "link").symlink_to(tmp_path / "secret")
    (cards / "mine.yaml").write_text(text.format(given.format(tmp_path)))
    monkeypatch.chdir(cards)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("COMPATBENCH_WEIGHTS", raising=False)
    read = backbone_cards.read if text == BACKBONE else suite_cards.read
    refused(lambda: read("mine.yaml"), "mine.yaml:[35]: field .* neither in the card's folder")
    monkeypatch.setenv("COMPATBENCH_WEIGHTS", str(tmp_path))
    assert read("mine.yaml").name == "mine"


def test_file_beside_a_card_is_found_from_any_folder(tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text(BACKBONE.format("w.pt"))
    assert backbone_cards.read(f"{tmp_path}/mine.yaml").path == str(tmp_path / "w.pt")


def test_error_about_another_kind_of_file_shows_none_of_its_content(tmp_path: Path) -> None:
    (tmp_path / "secret").write_text(SECRET)
    refused(lambda: read_tensors(tmp_path / "secret"), "is not a checkpoint")


BAD_NAMES = ["", "../x", "a/b", "a b", "a\nb", "é", "x" * 101, None, 5, "all", "!x", "*", "=x"]
BAD_NAMES += [".x", "-x", "+x", "@x", "x.py", "\x1b[31mred", "a|b", "a,b", "costs", "a\0b"]


@pytest.mark.parametrize("name", BAD_NAMES, ids=ascii)
def test_unsafe_method_name_is_refused(tmp_path: Path, name: object) -> None:
    text = fill_template("good").replace('name="good"', f"name={name!r}")
    assert repr(name) in text
    (tmp_path / "m.py").write_text(text)
    message = refused(lambda: MethodRegistry().add_file(tmp_path / "m.py"), "cannot be named")
    assert message.isprintable()


@pytest.mark.parametrize("mark", "=+-@\t\r")
def test_texts_in_result_files_are_never_formulas(tmp_path: Path, mark: str) -> None:
    values = dict(backbone="b", test_set="t", data="d" * 16, status="not transferable")
    reason = f"{mark}cmd|' /C calc'!A0"
    cell = dict(method="coop", task="t", source="s", shots=4, seed=1, key="5" * 16)
    row = Row.model_validate({**cell, **values, "reason": reason})
    assert row.reason == "cmd|' /C calc'!A0"
    path = tmp_path / "coop.csv"
    text = write_csv(to_frame([row], Row))
    assert parse_csv(text.encode(), path, Row)["reason"].tolist() == ["cmd|' /C calc'!A0"]
    formula = text.replace("cmd", f'"{mark}cmd').replace("A0", 'A0"').encode()
    refused(lambda: parse_csv(formula, path, Row), "'reason'")


HARMFUL = "\x1b]0;title\x07\x1b[2J\x9b31m\u202eevil\x08"
OBEYED = re.compile("[\0-\x09\x0b-\x1f\x7f-\x9f\u202e]")


def test_printed_texts_contain_no_control_characters(capsys: pytest.CaptureFixture[str]) -> None:
    import pandas as pd
    from rich.markup import escape

    with console.capture() as capture:
        print_frame(pd.DataFrame({HARMFUL: [HARMFUL]}))
        print_facts({"title": HARMFUL, "list": [HARMFUL]})
        say(escape(HARMFUL))
    shown = capture.get()
    print_json({"title": HARMFUL})
    printed = capsys.readouterr().out
    assert json.loads(printed) == {"title": HARMFUL}
    for text in (shown, printed):
        assert "evil" in text
        assert not OBEYED.search(text)


def test_titles_and_errors_are_printed_without_control_characters(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    text = fill_template("good").replace('title="Good"', f"title={HARMFUL!r}")
    assert repr(HARMFUL) in text
    (tmp_path / "good.py").write_text(text)
    builtin_methods.cache_clear()
    output = output_of("list", "methods", tmp_path / "good.py")
    assert "evil" in output
    builtin_methods.cache_clear()  # the file is not there for other tests
    assert not OBEYED.search(output)
    monkeypatch.setattr(CompatbenchError, "__init__", Exception.__init__)  # the name has two lines
    monkeypatch.setattr("sys.argv", ["compatbench", "check", f"a{HARMFUL}\nb"])
    with pytest.raises(SystemExit) as end:
        main()
    assert end.value.code == 2
    error = capsys.readouterr().err
    assert len(error.splitlines()) == 1
    assert not OBEYED.search(error)
