"""The authors' own configuration files, read as their code reads them, and our settings from them.

The recipe of a method (``benchmark/research/recipes``) says in ``theirs`` of a setting what ours
is, as an expression of the names in their files, and in ``files`` which these are, for all tasks
or by task:
    file: YAML, or a script with arguments; a star is the task's name.
    trainer: which takes it, if it is one of Dassl, by module and class.
    script: of the shell, whose options of ``train.py`` hold, too.
    options: such as only a comment or their README says.
    folder: from which their code runs; ``repository``, ``dassl``: if these are others.
    sections: of ``TRAINER``, which their code fills and does not make.
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
# The optimiser's settings by their names in Dassl, where every trainer of it has them.
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
# Tasks whose files bear other names than ours.
FILE_NAMES = {"flowers102": ["oxford_flowers"], "fgvc_aircraft": ["fgvc_aircraft", "fgvc"]}
READ = (".yaml", "train.py", "defaults.py", "trainers/config.py", "trainers/constants.py")


class Arguments(SimpleNamespace):
    """A command line on which little is said."""

    def __getattr__(self, name: str) -> str:
        return ""

    def __contains__(self, name: str) -> bool:
        return name in vars(self)


@dataclass(frozen=True)
class Published:
    """A method's settings in the authors' files.

    Attributes:
        tree: theirs by their names; a ``CfgNode`` of yacs where they have YAML.
        folder: of their code.
        files: on this task.
    """

    recipe: PublishedRecipe
    task: str
    tree: Any
    folder: Path
    files: dict[str, Any]

    def value(self, expression: str) -> Any:
        """An expression of their names; ``file`` reads another of their files."""

        def file(pattern: str) -> Any:
            return load(find(self.folder, pattern, self.task))

        value = eval(expression, {**self.tree, "file": file})
        return [*value] if isinstance(value, tuple) else value

    def change(self, changes: Mapping[str, Any]) -> None:
        """Sets values by their dotted names, which must be there if their section is."""
        for name, value in changes.items():
            *sections, last = name.split(".")
            node = self.tree
            for section in sections:
                node = node.setdefault(section, type(node)())
            assert last in node or not node, name
            node[last] = value

    def method(self, recipe: Mapping[str, Any] = {}, **more: Any) -> Method:
        """Our method with these settings; ``recipe`` and others are in no file of theirs."""
        cls: Any = builtin_methods().get(self.recipe.method)
        config = cls.Config().model_dump()
        for field, expression in expressions_of(self.recipe).items():
            first, _, inner = field.partition(".")
            if first in config and "." not in inner:
                (config[first] if inner else config)[inner or first] = self.value(expression)
        if recipe:
            config["recipe"] |= recipe
        return cls(cls.Config.model_validate(config | more))

    def mistakes(self) -> Iterator[str]:
        """Settings whose transcription in the recipe differs from the file, one a line."""
        expressions = expressions_of(self.recipe)
        for setting in list_read(self.recipe):
            theirs = self.value(expressions[setting.field])
            if theirs != (ours := value_on(setting.published, self.task)):
                yield f"{setting.name}: {ours!r} in the recipe, {theirs!r} in their file"


def expressions_of(recipe: PublishedRecipe) -> dict[str, str]:
    """What our settings are, as expressions of theirs, by our fields."""
    found = dict(DASSL_NAMES) if "trainer" in recipe.files else {}
    known = found | DASSL_IMAGES if found else {}
    for setting in recipe.settings:
        default = known.get(setting.field, "") if is_read(setting, recipe) else ""
        if expression := setting.theirs or default:
            found[setting.field] = expression
    return found


def list_read(recipe: PublishedRecipe) -> list[Setting]:
    """The settings of which the authors' file is read."""
    fields = expressions_of(recipe)
    return [each for each in recipe.settings if each.field in fields and is_read(each, recipe)]


def is_read(setting: Setting, recipe: PublishedRecipe) -> bool:
    """Whether what the recipe says of a setting stands in a file that is read here."""
    place = re.split(", | of | and ", setting.source)[0]
    read = [*READ, *recipe.files.get("script", {}).values(), *recipe.files.get("file", {}).values()]
    return "file(" in setting.theirs or (bool(recipe.files) and place.endswith(tuple(read)))


def read_published(name: str, checkouts: Path, task: str = "caltech101") -> Published:
    """What a method's authors set on a task, from their files in a folder of checkouts."""
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
    """The file of a task, where the pattern has a star for its name."""
    names = FILE_NAMES.get(task, [task])
    places = [folder / pattern.replace("*", name) for name in names]
    return next((place for place in places if place.is_file()), places[0])


def load(path: Path) -> Any:
    """A YAML file as yacs reads it; of a script, defaults of arguments and literal constants."""
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
                name = next(n for n in names if n.startswith("--") or n == names[-1])
                given = {keyword.arg: keyword.value for keyword in node.keywords}
                values[name.lstrip("-").replace("-", "_")] = ast.literal_eval(given["default"])
        except (KeyError, ValueError):
            continue  # no default, or one that is computed
    return values


def set_up(files: dict[str, Any], folder: Path, dassl: Path, task: str) -> Any:
    """What ``setup_cfg`` of the authors' ``train.py`` makes of their files for a task."""
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
    """A file's functions, without what it imports and runs."""
    module = ast.parse(path.read_text())
    module.body = [node for node in module.body if isinstance(node, ast.FunctionDef)]
    return module


def script_options(path: Path) -> list[str]:
    """The options that a shell script gives to ``train.py``, but for those of its own arguments."""
    text = path.read_text()
    variables = dict(re.findall(r"^\s*(\w+)=([^\s#$]+)", text, re.MULTILINE))
    options = []
    for name, value in re.findall(r"\b((?:TRAINER|OPTIM|LOSS)\.[\w.]+) ([^\s\\]+)", text):
        known = variables.get(value.strip("${}"), None if "$" in value else value.strip('"'))
        options += [name, known] if known is not None else []
    return options
