"""Methods, transfers and formats by name: among ours, in a file anywhere, in installed packages."""

from __future__ import annotations

import importlib
import re
import warnings
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from functools import cache, partial
from importlib.metadata import entry_points
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any, ClassVar, Generic, TypeGuard, TypeVar

from compatbench.data.cards import select_names, unknown_name
from compatbench.data.cards.names import NAME
from compatbench.errors import CompatbenchError, CompatbenchWarning
from compatbench.files.project_folders import content_files
from compatbench.method import Method, MethodCard, read_settings
from compatbench.method.format import Format
from compatbench.method.identity import class_file, method_identity, plugin_file
from compatbench.method.mistakes import explain_import
from compatbench.method.outside_files import load_file
from compatbench.method.transfer import Transfer, TransferCard

if TYPE_CHECKING:
    from typing import Self

T = TypeVar("T", bound=Any)


@dataclass
class Registry(Generic[T]):
    """The classes of one kind of content by name, and the files that could not be loaded.

    A broken file is remembered with its error and harms only those who ask for it.
    """

    kind: ClassVar[str]  # what people call such a class
    root: ClassVar[type]  # what every such class is a subclass of
    # What makes a subclass content: a card of its own, or a name alone.
    mark: ClassVar[str] = "card"
    mark_type: ClassVar[type]

    classes: dict[str, type[T]] = field(default_factory=dict)
    broken: dict[str, str] = field(default_factory=dict)

    def names(self) -> list[str]:
        """All names in order."""
        return sorted(self.classes)

    def get(self, name: str, file: str | None = None) -> type[T]:
        """The class of this name, if there is one, from the ``file`` that it may be in."""
        if file is not None and name not in self.classes:
            self.add_file(Path(file))
        if name in self.broken:
            raise CompatbenchError(self.broken[name])
        if name not in self.classes:
            raise CompatbenchError(unknown_name(name, self.names(), self.kind))
        return self.classes[name]

    def select(self, wanted: str, also: Sequence[str] = ()) -> list[str]:
        """The names that a selection means, ``also`` among them; ``.py`` files are loaded."""
        names: list[str] = []
        for part in filter(None, (part.strip() for part in wanted.split(","))):
            if part.endswith(".py"):
                names += self.add_file(Path(part))
            elif part in self.broken:
                raise CompatbenchError(self.broken[part])
            else:
                names.append(part)
        return select_names(names, [*self.names(), *also], self.kind)

    @classmethod
    def installed(cls) -> Self:
        """Those of compatbench and of installed packages; what is broken is remembered.

        An entry point names a class, or a module or package with classes.
        """
        registry, package = cls(), f"compatbench.{cls.kind}s"
        ours = [
            (path.stem, path, partial(importlib.import_module, f"{package}.{path.stem}"))
            for path in content_files(f"{cls.kind}s")
        ]
        others = [
            (entry.name, Path(entry.value), entry.load) for entry in entry_points(group=package)
        ]
        for name, path, load in [*ours, *others]:
            try:
                registry.add(path, load)
            except CompatbenchError as error:
                registry.broken[name] = str(error)
        return registry

    def add_file(self, path: Path) -> list[str]:
        """Loads a file, running its code, and returns the names it defines."""
        if not path.is_file():
            raise CompatbenchError(f"{self.kind} file {path} does not exist")
        return self.add(path, partial(load_file, path))

    def add(self, path: Path, load: Callable[[], object]) -> list[str]:
        """Adds the classes of what is loaded from a path, and returns their names."""
        try:
            loaded = load()
        except Exception as error:
            raise CompatbenchError(explain_import(error, path)) from None
        values = [loaded]
        if isinstance(loaded, ModuleType):  # what it imports is another's
            inside = f"{loaded.__name__}."
            values = [
                value
                for value in vars(loaded).values()
                if f"{getattr(value, '__module__', '')}.".startswith(inside)
            ]
        names = [self._add_class(value, path) for value in values if self._is_marked(value, path)]
        if not names:
            what = f"a {self.root.__name__} subclass with a {self.mark}"
            raise CompatbenchError(f"{path} defines no {self.kind}: {what}")
        return names

    def _add_class(self, cls: type[T], path: Path) -> str:
        if missing := ", ".join(sorted(getattr(cls, "__abstractmethods__", ()))):
            raise CompatbenchError(f"{path}: {self.kind} class {cls.__name__} has no {missing}")
        mark = getattr(cls, self.mark)
        name = mark if isinstance(mark, str) else mark.name
        good = isinstance(name, str) and re.fullmatch(NAME, name)
        if not good or name in ("all", "costs") or name.endswith(".py"):
            raise CompatbenchError(
                f"{path}: a {self.kind} cannot be named {str(name)[:100]!r}: a name consists of "
                "letters, digits, '_', '.' and '-', a letter or digit first, 100 at most; 'all', "
                "'costs' and names that end in '.py' mean something else"
            )
        file = class_file(cls)
        if name in self.classes and (other := self.file_of(name)) != file:
            raise CompatbenchError(
                f"{self.kind} name '{name}' is taken twice: by {other} and by {file}; rename one"
            )
        self.classes[name] = cls
        return name

    def identify(self, name: str) -> tuple[str, str | None]:
        """What stands for a class's code in keys, and its file if that is not among ours."""
        cls = self.get(name)
        return method_identity(cls), plugin_file(cls)

    def file_of(self, name: str) -> Path:
        """The file that defines a class."""
        return class_file(self.classes[name])

    def _is_marked(self, value: object, path: Path) -> TypeGuard[type[T]]:
        if not isinstance(value, type):
            return False
        if not issubclass(value, self.root) or (mark := vars(value).get(self.mark)) is None:
            return False
        if not isinstance(mark, self.mark_type):
            raise CompatbenchError(
                f"{path}: the {self.mark} of {self.kind} class {value.__name__} is a "
                f"{type(mark).__name__}, not a {self.mark_type.__name__}"
            )
        return True


class MethodRegistry(Registry[Method]):
    """The method classes by name."""

    kind = "method"
    root = Method
    mark_type = MethodCard

    def names(self) -> list[str]:
        """All names: zero-shot first, as the floor of every comparison, then by name.

        What else learns nothing, but is given more, is between them.
        """

        def place(name: str) -> tuple[bool, int, str]:
            card = self.classes[name].card
            return card.learns, 0 if card.learns else len(card.needs), name

        return sorted(self.classes, key=place)


class FormatRegistry(Registry[Format]):
    """The format classes by name; one without a name of its own serves others."""

    kind = "format"
    root = Format
    mark, mark_type = "name", str


class TransferRegistry(Registry[Transfer]):
    """The transfer classes by name; a transfer with its settings is written ``name+setting``."""

    kind = "transfer"
    root = Transfer
    mark_type = TransferCard

    def build(self, label: str) -> Transfer:
        """The transfer that a label means, such as ``copied``, ``words+raw`` or ``retrained+4``.

        After the name come names of the card's ``settings``, and a number for ``shots``.
        """
        name, *listed = label.split("+")
        cls = self.get(name)
        known, values = cls.card.settings, dict[str, Any]()
        takes_shots = "shots" in cls.Config.model_fields
        order = [setting for setting in known if setting in listed]
        for setting in listed:
            if setting in known:
                values |= known[setting]
            elif takes_shots and setting.isdecimal():
                values["shots"] = int(setting)
                order.append(str(int(setting)))
            else:
                what = [*known, *["a number of images per class"] * takes_shots]
                raise CompatbenchError(
                    f"transfer '{label}': '{setting}' is not a setting of '{name}', which has "
                    f"{' and '.join(what) or 'none'}"
                )
        if (written := "+".join([name, *order])) != label:
            raise CompatbenchError(f"transfer '{label}': write '{written}'")
        if takes_shots and "shots" not in values:
            raise CompatbenchError(
                f"transfer '{label}' needs a number of images per class: '{label}+4'"
            )
        return cls(read_settings(cls.Config, values, f"transfer '{label}'"))

    def choose(self, wanted: Iterable[str]) -> list[str]:
        """The labels that are asked for, each once.

        Files are loaded; settings follow their paths as they do names: ``./mine.py+4``.
        """
        labels = list[str]()
        for part in filter(None, (part.strip() for part in wanted)):
            path, of_file, settings = part.partition(".py")
            if of_file and settings[:1] in ("", "+"):
                labels += [name + settings for name in self.add_file(Path(path + of_file))]
            elif part == "all" or "*" in part:  # those that need no number
                labels += [
                    name
                    for name in self.select(part)
                    if "shots" not in self.get(name).Config.model_fields
                ]
            else:
                labels.append(part)
        for label in labels:
            self.build(label)
        return list(dict.fromkeys(labels))


@cache
def builtin_methods() -> MethodRegistry:
    """The methods in ``methods/`` and in installed packages (``compatbench.methods``)."""
    return MethodRegistry.installed()


@cache
def builtin_transfers() -> TransferRegistry:
    """The transfers in ``transfers/`` and in installed packages (``compatbench.transfers``)."""
    return TransferRegistry.installed()


@cache
def builtin_formats() -> FormatRegistry:
    """The formats in ``formats/`` and in installed packages (``compatbench.formats``).

    There is a warning of each that cannot be loaded.
    """
    registry = FormatRegistry.installed()
    for name, why in registry.broken.items():
        what = f"format '{name}' cannot be loaded: {why}"
        warnings.warn(what, CompatbenchWarning, stacklevel=2)
    return registry


def find_format(name: str) -> Format:
    """The format of this name, or the one that a ``.py`` file defines, which is run.

    Raises:
        CompatbenchError: there is none, or the file cannot be loaded.
    """
    if not name.endswith(".py"):
        return builtin_formats().get(name.replace("-", "_"))()
    registry = FormatRegistry()
    if len(names := registry.add_file(Path(name))) > 1:
        raise CompatbenchError(f"{name} defines {len(names)} formats; it should be one")
    return registry.get(names[0])()


def find_transfer(label: str, plugin: str | None = None) -> Transfer:
    """The transfer with its settings that a label means, from the file that it is from, if any."""
    builtin_transfers().get(label.partition("+")[0], plugin)
    return builtin_transfers().build(label)


def known_transfer(label: str) -> Transfer | None:
    """The transfer of this label, if there is one here."""
    try:
        return find_transfer(label)
    except CompatbenchError:
        return None


def describe_transfer(transfer: Transfer) -> dict[str, Any]:
    """What stands for a transfer in keys beside its name and version, data of the task aside.

    The settings that are no defaults; and the code of one that is from outside, or the versions of
    those that it is a subclass of.
    """
    card, facts = transfer.card, dict[str, Any]()
    if changed := transfer.config.model_dump(mode="json", exclude_defaults=True):
        facts["settings"] = changed
    code, _ = builtin_transfers().identify(card.name)
    if code != f"{card.name}.{card.version}":
        facts["code"] = code
    return facts
