"""What ``benchmark/authors`` reads of authors' scripts, and what recipes say of their files."""

from __future__ import annotations

from pathlib import Path

import pytest
from configurations import FILES, expressions_of, functions, list_read, load, script_options
from recipes_page import PublishedRecipe, Setting, read_recipes

RECIPES = {name: recipe for name, recipe in read_recipes().items() if recipe.files}


@pytest.mark.parametrize("name", RECIPES)
def test_what_a_recipe_says_of_files_can_be_read(name: str) -> None:
    recipe = RECIPES[name]
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
    exec(compile(functions(path), "", "exec"), space := {})
    assert space["half"](3) == 1.5


def test_options_of_a_shell_script_are_read_but_for_its_own_arguments(tmp_path: Path) -> None:
    path = tmp_path / "main.sh"
    path.write_text(
        "NCTX=4  # tokens\nWEIGHT=$1\nDATA=/data\n"
        "python train.py --root ${DATA} \\\n TRAINER.COOP.N_CTX ${NCTX} \\\n"
        ' TRAINER.COOP.W ${WEIGHT} \\\n LOSS.T 1.5\\\n OPTIM.NAME "sgd"\n'
    )
    assert script_options(path) == ["TRAINER.COOP.N_CTX", "4", "LOSS.T", "1.5", "OPTIM.NAME", "sgd"]


def test_only_what_stands_in_a_file_that_is_read_counts_as_read() -> None:
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
