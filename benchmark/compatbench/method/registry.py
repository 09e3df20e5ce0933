"""Find methods, transfers and formats by name: ours, in any file, and in installed packages."""

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

from compatbench.data.cards import COPIED, select_names, unknown_name
from compatbench.data.cards.names import NAME
from compatbench.errors import CompatbenchError, CompatbenchWarning
from compatbench.files.project_folders import content_files
from compatbench.method import Method, MethodCard, read_settings
from compatbench.method.format import Format
from compatbench.method.identity import class_file, method_identity, plugin_file
from compatbench.method.live_class import is_written
from compatbench.method.mistakes import explain_import
from compatbench.method.outside_files import load_file
from compatbench.method.transfer import Transfer, TransferCard

if TYPE_CHECKING:
    from typing import Self

T = TypeVar("T", bound=Any)


@dataclass
class Registry(Generic[T]):
    """The classes of one kind of content by name, and the files that could not be loaded.

    A broken file is kept with its error, which is raised only for users who name it.
    """

    kind: ClassVar[str]  # the word for such a class in messages, and its folder without "s"
    root: ClassVar[type]  # the base class of every such class
    # The attribute that makes a subclass content: a card of its own, or only a name.
    mark: ClassVar[str] = "card"
    mark_type: ClassVar[type]

    classes: dict[str, type[T]] = field(default_factory=dict)
    broken: dict[str, str] = field(default_factory=dict)

    def names(self) -> list[str]:
        """Return all names in order."""
        return sorted(self.classes)

    def get(self, name: str, file: str | None = None, identity: str | None = None) -> type[T]:
        """Return the class of this name; load ``file`` first if the name is not known yet.

        Args:
            identity: the identity of the code that a run was planned with. A file that is loaded
                now must still have it, or results would have the key of other code.

        Raises:
            CompatbenchError: there is no such class, or its file cannot be loaded or was changed.
        """
        if file is not None and name not in self.classes:
            self.add_file(Path(file))
            if identity is not None and self.identify(name)[0] != identity:
                raise CompatbenchError(
                    f"{file} was changed after the run had begun; run the same command again"
                )
        if name in self.broken:
            raise CompatbenchError(self.broken[name])
        if name not in self.classes:
            raise CompatbenchError(unknown_name(name, self.names(), self.kind))
        return self.classes[name]

    def select(self, selection: str, also: Sequence[str] = ()) -> list[str]:
        """Return the names that a comma list of names, globs and ``.py`` files selects.

        The files are loaded. The names in ``also`` can be selected too.

        Raises:
            CompatbenchError: an empty selection, an unknown name, or a file that cannot be loaded.
        """
        names: list[str] = []
        for part in _strip_parts(selection.split(",")):
            if part.endswith(".py"):
                names += self.add_file(Path(part))
            elif part in self.broken:
                raise CompatbenchError(self.broken[part])
            else:
                names.append(part)
        return select_names(names, [*self.names(), *also], self.kind)

    @classmethod
    def installed(cls) -> Self:
        """Return the registry of compatbench's own classes and those of installed packages.

        An entry point names a class, or a module or package with classes. Content that cannot
        be loaded goes to ``broken``.
        """
        registry = cls()
        package = f"compatbench.{cls.kind}s"
        loaders: list[tuple[str, Path, Callable[[], object]]] = []
        for path in content_files(f"{cls.kind}s"):
            load = partial(importlib.import_module, f"{package}.{path.stem}")
            loaders.append((path.stem, path, load))
        for entry in entry_points(group=package):
            loaders.append((entry.name, Path(entry.value), entry.load))
        for name, path, load in loaders:
            try:
                registry.add(path, load)
            except CompatbenchError as error:
                registry.broken[name] = str(error)
        return registry

    def add_file(self, path: Path) -> list[str]:
        """Load a file, running its code, and return the names it defines."""
        if not path.is_file():
            raise CompatbenchError(f"{self.kind} file {path} does not exist")
        return self.add(path, partial(load_file, path))

    def add(self, path: Path, load: Callable[[], object]) -> list[str]:
        """Add the classes that ``load`` returns, alone or in a module, and return their names.

        Raises:
            CompatbenchError: loading fails, there is no class, or a class breaks a rule. ``path``
                is the file for the message.
        """
        try:
            loaded = load()
        except Exception as error:
            raise CompatbenchError(explain_import(error, path)) from None
        values = [loaded]
        if isinstance(loaded, ModuleType):
            # Leave out the classes that the module has imported from elsewhere.
            values = []
            inside = f"{loaded.__name__}."
            for value in vars(loaded).values():
                if f"{getattr(value, '__module__', '')}.".startswith(inside):
                    values.append(value)
        names = [self._add_class(value, path) for value in values if self._is_marked(value, path)]
        if not names:
            what = f"a {self.root.__name__} subclass with a {self.mark}"
            raise CompatbenchError(f"{path} defines no {self.kind}: {what}")
        return names

    def _add_class(self, cls: type[T], path: Path) -> str:
        """Add a class, and return its name."""
        missing = ", ".join(sorted(getattr(cls, "__abstractmethods__", ())))
        if missing:
            raise CompatbenchError(f"{path}: {self.kind} class {cls.__name__} has no {missing}")
        mark = getattr(cls, self.mark)
        name = mark if isinstance(mark, str) else mark.name
        is_name = isinstance(name, str) and re.fullmatch(NAME, name)
        if not is_name or name in ("all", "costs") or name.endswith(".py"):
            raise CompatbenchError(
                f"{path}: a {self.kind} cannot be named {str(name)[:100]!r}: a name consists of "
                "letters, digits, '_', '.' and '-', a letter or digit first, 100 at most; 'all', "
                "'costs' and names that end in '.py' mean something else"
            )
        file = class_file(cls)
        if name in self.classes:
            other = self.file_of(name)
            # A class of a notebook is written again for each folder of results.
            if other != file and not (is_written(other) and is_written(file)):
                raise CompatbenchError(
                    f"{self.kind} name '{name}' is used twice: by {other} and by {file}; rename one"
                )
        self.classes[name] = cls
        return name

    def identify(self, name: str) -> tuple[str, str | None]:
        """Return the identity of a class's code in keys, and its file if that is not ours."""
        cls = self.get(name)
        return method_identity(cls), plugin_file(cls)

    def file_of(self, name: str) -> Path:
        """Return the file that defines a class."""
        return class_file(self.classes[name])

    def _is_marked(self, value: object, path: Path) -> TypeGuard[type[T]]:
        """Return True for a class of this kind with a mark of its own."""
        if not isinstance(value, type) or not issubclass(value, self.root):
            return False
        mark = vars(value).get(self.mark)
        if mark is None:
            return False
        if not isinstance(mark, self.mark_type):
            raise CompatbenchError(
                f"{path}: the {self.mark} of {self.kind} class {value.__name__} is a "
                f"{type(mark).__name__}, not a {self.mark_type.__name__}"
            )
        return True


def _strip_parts(parts: Iterable[str]) -> list[str]:
    """Return parts without the spaces around them; leave out empty ones."""
    stripped = [part.strip() for part in parts]
    return [part for part in stripped if part]


class MethodRegistry(Registry[Method]):
    """The method classes by name."""

    kind = "method"
    root = Method
    mark_type = MethodCard

    def names(self) -> list[str]:
        """Return all names: zero-shot first, as the floor of every comparison, then by name.

        Other methods that learn nothing, but need more than zero-shot, come between them.
        """

        def place(name: str) -> tuple[bool, int, str]:
            card = self.classes[name].card
            needs = 0 if card.learns else len(card.needs)
            return card.learns, needs, name

        return sorted(self.classes, key=place)

    def _add_class(self, cls: type[Method], path: Path) -> str:
        """Add a method; two methods whose keys would begin with the same name are an error."""
        name = super()._add_class(cls, path)
        for other in list(self.classes.values()):
            first_names = {cls.card.was, other.card.was} & {name, other.card.name}
            same = cls.card.identity == other.card.identity
            if other.card.name == name or not (same or first_names):
                continue
            if cls.card.was or plugin_file(cls):
                del self.classes[name]
                raise CompatbenchError(f"{path}: {_describe_clash(cls.card, other.card)}")
            # The files are loaded by name: that of the renamed method came first.
            file = self.file_of(other.card.name)
            del self.classes[other.card.name]
            self.broken[other.card.name] = f"{file}: {_describe_clash(other.card, cls.card)}"
        return name


def _describe_clash(card: MethodCard, other: MethodCard) -> str:
    """Return why a method and another one cannot both be there."""
    if card.was:
        return (
            f"the card of '{card.name}' has was='{card.was}', which is a name of the method "
            f"'{other.name}'; 'was' is the first name of a method that was renamed. Leave it out"
        )
    return (
        f"'{card.name}' is the first name of the method '{other.name}', which its keys keep; "
        "choose another name"
    )


class FormatRegistry(Registry[Format]):
    """The format classes by name; a class without a name is a base of others."""

    kind = "format"
    root = Format
    mark = "name"
    mark_type = str


class TransferRegistry(Registry[Transfer]):
    """The transfer classes by name; a transfer with its settings is written ``name+setting``."""

    kind = "transfer"
    root = Transfer
    mark_type = TransferCard

    def build(self, label: str) -> Transfer:
        """Return the transfer of a label, such as ``copied``, ``words+raw`` or ``retrained+4``.

        After the name come names of the card's ``settings``, and a number for ``shots``.

        Raises:
            CompatbenchError: an unknown name or setting, or another order than the card's.
        """
        name, *listed = label.split("+")
        cls = self.get(name)
        known = cls.card.settings
        values: dict[str, Any] = {}
        takes_shots = "shots" in cls.Config.model_fields
        order = [setting for setting in known if setting in listed]
        for setting in listed:
            if setting in known:
                values |= known[setting]
            elif takes_shots and setting.isdecimal():
                values["shots"] = int(setting)
                order.append(str(int(setting)))
            else:
                choices = list(known)
                if takes_shots:
                    choices.append("a number of images per class")
                raise CompatbenchError(
                    f"transfer '{label}': '{setting}' is not a setting of '{name}', which has "
                    f"{' and '.join(choices) or 'none'}"
                )
        ordered = "+".join([name, *order])
        if ordered != label:
            raise CompatbenchError(f"transfer '{label}': write '{ordered}'")
        if takes_shots and "shots" not in values:
            raise CompatbenchError(
                f"transfer '{label}' needs a number of images per class: '{label}+4'"
            )
        return cls(read_settings(cls.Config, values, f"transfer '{label}'"))

    def choose(self, selection: Iterable[str]) -> list[str]:
        """Return the labels that names, globs and ``.py`` files select, each once.

        Files are loaded; settings follow a path as they follow a name: ``./mine.py+4``.

        Raises:
            CompatbenchError: an unknown label, or a file that cannot be loaded.
        """
        labels: list[str] = []
        for part in _strip_parts(selection):
            path, suffix, settings = part.partition(".py")
            if suffix and settings[:1] in ("", "+"):
                labels += [name + settings for name in self.add_file(Path(path + suffix))]
            elif part == "all" or "*" in part:
                for name in self.select(part):
                    # A transfer with shots needs a number, so it must be named.
                    if "shots" not in self.get(name).Config.model_fields:
                        labels.append(name)
            else:
                labels.append(part)
        for label in labels:
            self.build(label)
        return list(dict.fromkeys(labels))


@cache
def builtin_methods() -> MethodRegistry:
    """Return the methods in ``methods/`` and in installed packages (``compatbench.methods``)."""
    return MethodRegistry.installed()


@cache
def builtin_transfers() -> TransferRegistry:
    """Return the transfers in ``transfers/`` and installed packages (``compatbench.transfers``)."""
    return TransferRegistry.installed()


@cache
def builtin_formats() -> FormatRegistry:
    """Return the formats in ``formats/`` and in installed packages (``compatbench.formats``).

    Each format that cannot be loaded gives a warning.
    """
    registry = FormatRegistry.installed()
    for name, reason in registry.broken.items():
        message = f"format '{name}' cannot be loaded: {reason}"
        warnings.warn(message, CompatbenchWarning, stacklevel=2)
    return registry


def find_format(name: str) -> Format:
    """Return the format of this name, or the one that a ``.py`` file defines; the file is run.

    Raises:
        CompatbenchError: there is none, or the file cannot be loaded.
    """
    if not name.endswith(".py"):
        return builtin_formats().get(name.replace("-", "_"))()
    registry = FormatRegistry()
    names = registry.add_file(Path(name))
    if len(names) > 1:
        raise CompatbenchError(f"{name} defines {len(names)} formats; it should be one")
    return registry.get(names[0])()


def find_transfer(label: str, plugin: str | None = None, identity: str | None = None) -> Transfer:
    """Return the transfer of a label with its settings; load the file ``plugin`` if necessary.

    ``identity`` is as for ``Registry.get``.
    """
    builtin_transfers().get(label.partition("+")[0], plugin, identity)
    return builtin_transfers().build(label)


def find_useful_transfer(label: str, method: MethodCard) -> str:
    """Return the label, or ``copied`` with a warning if the transfer changes nothing for a method.

    Raises:
        CompatbenchError: the transfer cannot take the method's modules.
    """
    transfer = find_transfer(label)
    transfer.require(method)
    if transfer.serves(method):
        return label
    warnings.warn(
        f"{label} changes nothing for a module of '{method.name}': it is copied",
        CompatbenchWarning,
        stacklevel=3,
    )
    return COPIED


def known_transfer(label: str) -> Transfer | None:
    """Return the transfer of this label; None if there is none here."""
    try:
        return find_transfer(label)
    except CompatbenchError:
        return None


def describe_transfer(transfer: Transfer) -> dict[str, Any]:
    """Return the facts that identify a transfer in keys, beside its name and version.

    They are the settings that differ from the defaults, and for a transfer from outside or a
    subclass of another its code's identity. Data of the task is not among them.
    """
    card = transfer.card
    facts: dict[str, Any] = {}
    changed = transfer.config.model_dump(mode="json", exclude_defaults=True)
    if changed:
        facts["settings"] = changed
    code, _ = builtin_transfers().identify(card.name)
    if code != f"{card.name}.{card.version}":
        facts["code"] = code
    return facts
