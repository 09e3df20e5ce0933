"""Read the authors' own configuration files as their code does, and make our settings from them.

The recipe of a method (``benchmark/research/recipes``) gives our value of a setting as an
expression of the names in the authors' files (``theirs``). It lists these files (``files``), for
all tasks or by task:
    file: YAML, or a script with arguments; a star stands for the task's name.
    trainer: module and class of the trainer, if it is one of Dassl's.
    script: a shell script with further options of ``train.py``.
    options: further options, from a comment or from the authors' README.
    folder: the folder from which the code runs.
    repository, dassl: other repositories with the code and with Dassl.
    sections: sections of ``TRAINER`` that the code fills but does not create.
"""

from __future__ import annotations

import ast
import importlib
import re
import shlex
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest import mock

import pytest
from recipes_page import PublishedRecipe, Setting, read_recipes, value_on

from compatbench.method import Method
from compatbench.method.registry import builtin_methods

DASSL = "KaiyangZhou/Dassl.pytorch"
# The settings of the optimiser by their names in Dassl, which are the same for all its trainers.
DASSL_NAMES = {
    "recipe.optimizer": "OPTIM.NAME",
    "recipe.lr": "OPTIM.LR",
    "recipe.momentum": "OPTIM.MOMENTUM",
    "recipe.betas": "[OPTIM.ADAM_BETA1, OPTIM.ADAM_BETA2]",
    "recipe.eps": "1e-8",
    "recipe.weight_decay": "OPTIM.WEIGHT_DECAY",
    "recipe.schedule": "OPTIM.LR_SCHEDULER + '-epoch'",
    "recipe.warmup_epochs": "max(OPTIM.WARMUP_EPOCH, 0)",
    "recipe.warmup_lr": "OPTIM.WARMUP_CONS_LR",
    "recipe.epochs": "OPTIM.MAX_EPOCH",
    "recipe.batch_size": "DATALOADER.TRAIN_X.BATCH_SIZE",
}
DASSL_IMAGES = {
    "training.crop_scale": "INPUT.RRCROP_SCALE",
    "training.views": "'fresh' if INPUT.TRANSFORMS[0].startswith('rand') else 1",
}
FILES = {"file", "trainer", "script", "options", "folder", "repository", "dassl", "sections"}
# Tasks whose files have other names than ours.
FILE_NAMES = {"flowers102": ["oxford_flowers"], "fgvc_aircraft": ["fgvc_aircraft", "fgvc"]}
READ = (".yaml", "train.py", "defaults.py", "trainers/config.py", "trainers/constants.py")


class Arguments(SimpleNamespace):
    """A command line; options that are not given are empty."""

    def __getattr__(self, name: str) -> str:
        return ""

    def __contains__(self, name: str) -> bool:
        return name in vars(self)


@dataclass(frozen=True)
class Published:
    """A method's settings in the authors' files.

    Attributes:
        recipe: the recipe that names the files.
        task: the task whose settings these are.
        tree: the settings by the authors' names; a ``CfgNode`` of yacs if the files are YAML.
        folder: the folder of the authors' code.
        files: the files for this task.
    """

    recipe: PublishedRecipe
    task: str
    tree: Any
    folder: Path
    files: dict[str, Any]

    def value(self, expression: str) -> Any:
        """Return the value of an expression of their names; ``file`` reads another file."""

        def file(pattern: str) -> Any:
            return load(find(self.folder, pattern, self.task))

        value = eval(expression, {**self.tree, "file": file})
        return [*value] if isinstance(value, tuple) else value

    def change(self, changes: Mapping[str, Any]) -> None:
        """Set values by their dotted names, which must exist if their section has any."""
        for name, value in changes.items():
            *sections, last = name.split(".")
            node = self.tree
            for section in sections:
                node = node.setdefault(section, type(node)())
            assert last in node or not node, name
            node[last] = value

    def method(self, recipe: Mapping[str, Any] = {}, **more: Any) -> Method:
        """Return our method with the authors' settings.

        Args:
            recipe: settings of the recipe that are in none of the authors' files.
            more: other such settings.
        """
        cls: Any = builtin_methods().get(self.recipe.method)
        config = cls.Config().model_dump()
        for field, expression in expressions_of(self.recipe).items():
            first, _, inner = field.partition(".")
            if first not in config or "." in inner:
                continue
            if inner:
                config[first][inner] = self.value(expression)
            else:
                config[first] = self.value(expression)
        if recipe:
            config["recipe"] |= recipe
        return cls(cls.Config.model_validate(config | more))

    def mistakes(self) -> Iterator[str]:
        """Yield a line for each setting of the recipe that differs from the authors' file."""
        expressions = expressions_of(self.recipe)
        for setting in list_read(self.recipe):
            theirs = self.value(expressions[setting.field])
            ours = value_on(setting.published, self.task)
            if theirs != ours:
                yield f"{setting.name}: {ours!r} in the recipe, {theirs!r} in their file"


def expressions_of(recipe: PublishedRecipe) -> dict[str, str]:
    """Return our settings as expressions of the authors' names, by our fields."""
    expressions: dict[str, str] = {}
    known: dict[str, str] = {}
    if "trainer" in recipe.files:
        expressions = dict(DASSL_NAMES)
        known = DASSL_NAMES | DASSL_IMAGES
    for setting in recipe.settings:
        expression = setting.theirs
        if not expression and is_read(setting, recipe):
            expression = known.get(setting.field, "")
        if expression:
            expressions[setting.field] = expression
    return expressions


def list_read(recipe: PublishedRecipe) -> list[Setting]:
    """Return the settings that are read from the authors' files."""
    fields = expressions_of(recipe)
    return [each for each in recipe.settings if each.field in fields and is_read(each, recipe)]


def is_read(setting: Setting, recipe: PublishedRecipe) -> bool:
    """Return True if the source of a setting is a file that is read here."""
    if "file(" in setting.theirs:
        return True
    if not recipe.files:
        return False
    place = re.split(", | of | and ", setting.source)[0]
    scripts = recipe.files.get("script", {}).values()
    files = recipe.files.get("file", {}).values()
    return place.endswith((*READ, *scripts, *files))


def read_published(name: str, checkouts: Path, task: str = "caltech101") -> Published:
    """Return the settings of a method's authors on a task, from a folder of checkouts."""
    recipe = read_recipes()[name]
    assert recipe.files.keys() <= FILES, name
    files = {key: value_on(values, task, "") for key, values in recipe.files.items()}
    checkout = checkouts / files.get("repository", recipe.repository)
    if not checkout.is_dir():
        pytest.skip(f"no checkout of {checkout.relative_to(checkouts)}")
    folder = checkout / files.get("folder", "")
    if "trainer" in files:
        tree = set_up(files, folder, checkouts / files.get("dassl", DASSL), task)
    else:
        tree = load(find(folder, files["file"], task))
    return Published(recipe, task, tree, folder, files)


def find(folder: Path, pattern: str, task: str) -> Path:
    """Return the file of a task; the pattern has a star for the task's name."""
    names = FILE_NAMES.get(task, [task])
    places = [folder / pattern.replace("*", name) for name in names]
    return next((place for place in places if place.is_file()), places[0])


def load(path: Path) -> Any:
    """Return a YAML file as yacs reads it; of a script, its constants and defaults of arguments.

    The authors' scripts would train if they were imported, so their text is read.
    """
    if path.suffix == ".yaml":
        with path.open() as file:
            return pytest.importorskip("yacs.config").CfgNode.load_cfg(file)
    values = {}
    for node in ast.walk(ast.parse(path.read_text())):
        try:
            if isinstance(node, ast.Assign):
                values.setdefault(ast.unparse(node.targets[0]), ast.literal_eval(node.value))
            elif isinstance(node, ast.Call) and getattr(node.func, "attr", "") == "add_argument":
                names = [ast.literal_eval(argument) for argument in node.args]
                # As argparse does, take the first long name, or else the last one.
                name = next(n for n in names if n.startswith("--") or n == names[-1])
                given = {keyword.arg: keyword.value for keyword in node.keywords}
                values[name.lstrip("-").replace("-", "_")] = ast.literal_eval(given["default"])
        except (KeyError, ValueError):
            continue  # no default, or one that is computed
    return values


def set_up(files: dict[str, Any], folder: Path, dassl: Path, task: str) -> Any:
    """Return the configuration that ``setup_cfg`` of ``train.py`` makes for a task."""
    node: Any = pytest.importorskip("yacs.config").CfgNode
    options = script_options(folder / files["script"]) if "script" in files else []
    options += shlex.split(files.get("options", ""))
    with mock.patch.dict(sys.modules), mock.patch.object(sys, "path", [str(dassl), *sys.path]):
        for name in [name for name in sys.modules if name.partition(".")[0] == "dassl"]:
            del sys.modules[name]
        space = {**vars(importlib.import_module("dassl.config")), "CN": node}
    defaults = space["get_cfg_default"]()
    defaults.TRAINER.update({section: node() for section in files.get("sections", ())})
    arguments = Arguments(
        config_file=str(find(folder, files["file"], task)),
        dataset_config_file=str(find(folder, "configs/datasets/*.yaml", task)),
        trainer=files["trainer"].partition(":")[2],
        opts=options,
    )
    space |= dict(args=arguments, get_cfg_default=lambda: defaults)
    for path in (folder / name for name in READ if name.startswith("t")):
        if path.is_file():
            exec(compile(functions(path), str(path), "exec"), space)
    tree = space["setup_cfg"](arguments)
    tree.defrost()
    return tree


def functions(path: Path) -> ast.Module:
    """Return a file's functions, without its imports and the code that it runs."""
    module = ast.parse(path.read_text())
    module.body = [node for node in module.body if isinstance(node, ast.FunctionDef)]
    return module


def script_options(path: Path) -> list[str]:
    """Return the options that a shell script gives to ``train.py``, with the script's variables.

    Options whose values are arguments of the script itself are left out.
    """
    text = path.read_text()
    variables = dict(re.findall(r"^\s*(\w+)=([^\s#$]+)", text, re.MULTILINE))
    options = []
    for name, value in re.findall(r"\b((?:TRAINER|OPTIM|LOSS)\.[\w.]+) ([^\s\\]+)", text):
        variable = value.strip("${}")
        if variable in variables:
            options += [name, variables[variable]]
        elif "$" not in value:
            options += [name, value.strip('"')]
    return options
