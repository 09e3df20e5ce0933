"""Suite paper differs from published recipes only with a reason; authors' files are read right."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from configurations import FILES, expressions_of, functions, list_read, load, script_options
from recipes_page import (
    SUITE,
    PublishedRecipe,
    Row,
    Setting,
    compare,
    list_defaults,
    read_recipes,
)

from compatbench.data.cards import suite_cards
from compatbench.method.registry import builtin_methods

PAPER = suite_cards.read(SUITE)
RECIPES = read_recipes()


def problems(rows: list[Row]) -> Iterator[str]:
    """Yield a line for each deviation without a reason, and each reason without a deviation."""
    for row in rows:
        where = f"{row.setting.name} on {row.task}"
        if row.differs and not row.deviation:
            yield f"{where}: published {row.published!r}, ours {row.ours!r}, and no reason"
        elif row.deviation and not row.differs:
            yield f"{where}: ours is as published; drop the reason"


@pytest.mark.parametrize("name", RECIPES)
def test_each_deviation_has_a_reason_and_each_reason_a_deviation(name: str) -> None:
    assert RECIPES[name].method == name
    assert [*problems(compare(RECIPES[name], PAPER, builtin_methods()))] == []


def _coop(**changes: object) -> list[str]:
    """Return the problems of a recipe of CoOp that has one setting, as published by default."""
    values = {"name": "epochs", "field": "recipe.lr", "source": "file", "published": 0.002}
    setting = Setting.model_validate(values | changes)
    recipe = PublishedRecipe(method="coop", repository="", settings=(setting,))
    return [*problems(compare(recipe, PAPER, builtin_methods()))]


def test_problems_are_reported_by_task() -> None:
    assert _coop() == []
    assert _coop(published={"*": 0.002, "dtd,eurosat": 0.1}) == [
        f"epochs on {task}: published 0.1, ours 0.002, and no reason" for task in ("dtd", "eurosat")
    ]
    assert _coop(published={"*": 0.002, "dtd": 0.1}, deviation={"dtd": "why"}) == []
    assert _coop(deviation={"dtd": "why"}) == [
        "epochs on dtd: ours is as published; drop the reason"
    ]
    words = {"field": "", "published": "fp16", "ours": {"imagenet": "fp32"}}
    assert _coop(**words) == ["epochs on imagenet: published 'fp16', ours 'fp32', and no reason"]


def test_defaults_that_differ_from_the_published_recipe_are_listed() -> None:
    def listed(name: str) -> dict[str, tuple[str, str]]:
        defaults = list_defaults(RECIPES[name], builtin_methods())
        return {each["setting"]: (each["published"], each["ours"]) for each in defaults}

    assert listed("promptkd")["learning rate of the teacher's fit"] == ("0.005", "0.0025")
    assert listed("plot") == {"epochs": ("200", "50 (ImageNet's)")}
    assert listed("twosfs")["template"] == ("a photo of a {}.", "not set")
    assert listed("coop") == {}


WITH_FILES = {name: recipe for name, recipe in RECIPES.items() if recipe.files}


@pytest.mark.parametrize("name", WITH_FILES)
def test_files_and_expressions_of_a_recipe_can_be_read(name: str) -> None:
    recipe = WITH_FILES[name]
    assert recipe.files.keys() <= FILES
    for expression in expressions_of(recipe).values():
        compile(expression, name, "eval")


def test_defaults_of_arguments_and_constants_are_read_without_running(tmp_path: Path) -> None:
    path = tmp_path / "main.py"
    path.write_text(
        "import nowhere\n"
        "TEMPLATES = {'Cars': 'a {}'}\n"
        "lr = 3\n"
        "parser.add_argument('-b', '--batch-size', default=36, type=int)\n"
        "parser.add_argument('--lr', '--rate', default=5e-6)\n"
        "parser.add_argument('--root', required=True)\n"
        "parser.add_argument('--cache', default=nowhere.place())\n"
        "def half(x):\n    return x / 2\n"
    )
    found = {"TEMPLATES": {"Cars": "a {}"}, "lr": 5e-6, "batch_size": 36}
    assert load(path) == found
    space: dict[str, Any] = {}
    exec(compile(functions(path), "", "exec"), space)
    assert space["half"](3) == 1.5


def test_options_of_a_shell_script_are_read_except_its_own_arguments(tmp_path: Path) -> None:
    path = tmp_path / "main.sh"
    path.write_text(
        "NCTX=4  # tokens\nWEIGHT=$1\nDATA=/data\n"
        "python train.py --root ${DATA} \\\n TRAINER.COOP.N_CTX ${NCTX} \\\n"
        ' TRAINER.COOP.W ${WEIGHT} \\\n LOSS.T 1.5\\\n OPTIM.NAME "sgd"\n'
    )
    assert script_options(path) == ["TRAINER.COOP.N_CTX", "4", "LOSS.T", "1.5", "OPTIM.NAME", "sgd"]


def test_only_settings_from_files_that_are_read_count_as_read() -> None:
    def setting(field: str, source: str, theirs: str = "") -> Setting:
        values = dict(name=field, field=field, published=1, source=source, theirs=theirs)
        return Setting.model_validate(values)

    settings = (
        setting("recipe.lr", "configs/a.yaml"),
        setting("recipe.epochs", "README.md"),
        setting("weight", "scripts/run.sh", "W"),
        setting("ratio", "scripts/other.sh", "R"),
    )
    files = dict(file={"*": "configs/a.yaml"}, trainer={"*": "a:b"}, script={"*": "scripts/run.sh"})
    recipe = PublishedRecipe(method="coop", repository="", files=files, settings=settings)
    assert [each.field for each in list_read(recipe)] == ["recipe.lr", "weight"]
