"""Methods whose code runs in other processes, as planning, workers and checks use them."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Mapping
from importlib.metadata import entry_points
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from pydantic import TypeAdapter, ValidationError
from torch import Tensor

from compatbench.backbone import Backbone, ImageInput, Labels
from compatbench.engine.cell import Cell
from compatbench.engine.confined.child import LOAD_SECONDS, Child
from compatbench.engine.keys import find_teacher
from compatbench.engine.method_settings import SettingsRefused
from compatbench.errors import CompatbenchError
from compatbench.files.hashes import canonical_json
from compatbench.files.project_folders import content_files
from compatbench.method import Classifier, FewShotData, Method, MethodCard, Module
from compatbench.method.identity import declared_files, local_files
from compatbench.method.registry import MethodRegistry

_CARD, _INPUT = TypeAdapter(MethodCard), TypeAdapter(ImageInput)
MOST_EPOCHS = 100_000
LIBRARIES = "compatbench.engine.confined.server:import_libraries"
_NAMES = {field.name for field in dataclasses.fields(MethodCard)}


class ConfinedSettings:
    """What a method's ``Config`` is asked by planning, answered by its process."""

    def __init__(self, child: Child, method: str, defaults: dict[str, Any]) -> None:
        self.model_fields = defaults
        self._child, self._method = child, method
        self._known: dict[str, dict[str, Any]] = {}

    def __call__(self) -> SimpleNamespace:
        return SimpleNamespace(model_dump=lambda **_: dict(self.model_fields))

    def model_validate(self, values: dict[str, Any]) -> SimpleNamespace:
        """Settings with ``model_dump``; raises ``SettingsRefused``."""
        if (key := canonical_json(values)) not in self._known:
            self._known[key] = self._child.ask("settings", method=self._method, values=values)
        found = self._known[key]
        if "wrong" in found:
            raise SettingsRefused(found["wrong"])

        def dump(mode: str = "json", exclude_defaults: bool = False) -> dict[str, Any]:
            return dict(found["changed" if exclude_defaults else "all"])

        return SimpleNamespace(model_dump=dump)


@dataclasses.dataclass(frozen=True, eq=False)
class ConfinedClass:
    """What the class of a method is for planning, of a class in another process.

    Attributes:
        card, Config: the class's own.
        identity: what stands for its code in keys.
        plugin: its file, if that is not among the methods.
        files: the Python files that make it, found here without running them.
        origin: how ``Child`` finds it.
    """

    card: MethodCard
    Config: ConfinedSettings
    identity: str
    plugin: str | None
    files: frozenset[Path]
    origin: tuple[str, str]


class ConfinedRegistry(MethodRegistry):
    """The methods in a folder and in installed packages, each file loaded in its own process."""

    def __init__(self, files: Iterable[Path] | None = None) -> None:
        """Files of ``methods/``, by default all, and what installed packages have."""
        super().__init__()
        own = content_files("methods") if files is None else files
        found = [("method", str(path), path) for path in own]
        entries = entry_points(group="compatbench.methods")
        found += [("entry", entry.value, Path(entry.name)) for entry in entries]
        # All begin before the first is waited for.
        started = [(kind, value, path, _start(kind, value)) for kind, value, path in found]
        for kind, value, path, child in started:
            try:
                self._take(kind, value, child)
            except CompatbenchError as error:
                self.broken[path.stem] = str(error)

    def add_file(self, path: Path) -> list[str]:
        """Has a file loaded, and returns the names of the methods that it defines."""
        if not path.is_file():
            raise CompatbenchError(f"method file {path} does not exist")
        return self._take("file", str(path.resolve()), _start("file", str(path.resolve())))

    def open(self, name: str, config: Mapping[str, Any], **options: Any) -> ConfinedMethod:
        """A method with these settings in a new process; ``options`` are those of ``Child``."""
        cls: Any = self.get(name)
        child = _start(*cls.origin, **options)
        child.name = f"method '{name}'"
        child.receive(LOAD_SECONDS)
        return ConfinedMethod(child, cls.card, config)

    def identify(self, name: str) -> tuple[str, str | None]:
        cls: Any = self.get(name)
        return cls.identity, cls.plugin

    def file_of(self, name: str) -> Path:
        cls: Any = self.classes[name]
        return Path(cls.origin[1])

    def _take(self, kind: str, value: str, child: Child) -> list[str]:
        answer = child.receive(LOAD_SECONDS)
        files = frozenset() if kind == "entry" else frozenset(local_files(Path(value)))
        names = []
        for one in answer["methods"]:
            try:
                known = {name: one["card"][name] for name in _NAMES}
                card = _CARD.validate_python(known)
                identity, defaults = str(one["identity"]), dict(one["defaults"])
            except (KeyError, TypeError, ValidationError) as error:
                raise CompatbenchError(f"{value}: its card cannot be read: {error}") from None
            settings = ConfinedSettings(child, card.name, defaults)
            plugin = value if kind == "file" else None
            child.name = f"method '{card.name}'"
            cls = ConfinedClass(card, settings, identity, plugin, files, (kind, value))
            self.put(cls, Path(value), Path(value))  # type: ignore[arg-type]
            names.append(card.name)
        return names


def _start(kind: str, value: str, **options: Any) -> Child:
    path = Path(value)
    files = local_files(path) | declared_files(path) if kind == "file" else ()
    return Child(kind, value, files=files, **options)


class ConfinedMethod(Method):
    """A method with its settings in a process of its own, which ends with it.

    Its classifiers are handed images without labels, and answer with logits.
    """

    def __init__(self, child: Child, card: MethodCard, config: Mapping[str, Any]) -> None:
        """The child must have loaded the method's code and all backbones that it will meet."""
        super().__init__()
        self.card = card  # type: ignore[misc]
        self.child = child
        self.child.ask("build", method=card.name, config=dict(config))

    def count_epochs(self, shots: int, images: int) -> int:
        answer = self.child.ask("epochs", shots=shots, images=images)
        return min(max(int(answer["epochs"]), 1), MOST_EPOCHS)

    def image_input(self, backbone: Backbone) -> ImageInput:
        return _INPUT.validate_python(self.child.ask("input", backbone=backbone))

    def fit(self, backbone: Backbone, data: FewShotData, rng: torch.Generator) -> Module:
        """As a method; the tokens of training views are sent whole."""
        found = self.child.ask("fit", backbone=backbone, data=data, rng=rng.get_state())
        return Module(*(_require_tensors(found[part]) for part in ("trained", "stored")))

    def attach(self, module: Module, backbone: Backbone, labels: Labels) -> Classifier:
        answer = self.child.ask("attach", module=module, backbone=backbone, labels=labels)
        number = int(answer["classifier"])

        def classify(images: Tensor) -> Tensor:
            answer = self.child.ask("classify", classifier=number, images=images)
            return _require_tensors(answer)["logits"].to(images.device)

        return classify

    def contexts(self, module: Module, backbone: Backbone, labels: Labels) -> Tensor | None:
        answer = self.child.ask("contexts", module=module, backbone=backbone, labels=labels)
        return _require_tensors(answer).get("contexts")


def _require_tensors(found: dict[str, Any]) -> dict[str, Tensor]:
    """Named tensors of an answer; of anything else a ValueError."""
    if any(not isinstance(one, Tensor) for one in found.values()):
        raise ValueError("the process of the method answers with other things than tensors")
    return found


def confined_builder(registry: ConfinedRegistry, device: str) -> Callable[[Cell], ConfinedMethod]:
    """Makes the method of a cell in a new process, as ``Worker`` takes it."""

    def build(cell: Cell) -> ConfinedMethod:
        how = {"device": device, "precision": cell.training.precision}
        teacher = find_teacher(registry.get(cell.method).card, cell.config)
        names = (*cell.backbones, *([] if teacher is None else [teacher]))
        backbones = dict.fromkeys(names, how)
        options = {"backbones": backbones, "preload": LIBRARIES}
        return registry.open(cell.method, cell.config, **options)

    return build
