"""Runs in a process with contributed code: loads it, and answers what it is asked.

``main`` is the fork server: it has imported the harness once, and forks a process for each piece of
contributed code. It runs none itself, and has nothing to hide.
"""

from __future__ import annotations

import ctypes
import gc
import importlib
import os
import shutil
import signal
import socket
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import suppress
from importlib.metadata import EntryPoint
from itertools import count
from pathlib import Path
from typing import Any, BinaryIO

import torch
from pydantic import ValidationError
from torch import Tensor

import compatbench
from compatbench.backbone import Backbone, DroppingBackbone, ImageInput, Labels, load_backbone
from compatbench.backbone.rotated import RotatedBackbone
from compatbench.engine.confined.sandbox import Sandbox
from compatbench.engine.confined.wire import read_message, write_message
from compatbench.engine.failures import describe_exception
from compatbench.errors import CompatbenchError, NotTransferable
from compatbench.files.processes import silence
from compatbench.files.project_folders import use_folders
from compatbench.files.scratch import PREFIX
from compatbench.method import Classifier, FeatureSet, FewShotData, Method, Module, Teacher
from compatbench.method.identity import method_identity, plugin_file
from compatbench.method.outside_files import FromSource
from compatbench.method.registry import MethodRegistry

_DIE_WITH_PARENT = 1  # prctl's PR_SET_PDEATHSIG
Given = dict[str, Any]  # a record, as ``write_message`` sends it


def import_libraries() -> None:
    """Imports, once for all processes, what models and fits import as they need it."""
    import open_clip  # noqa: F401
    import sklearn.linear_model  # noqa: F401
    import timm.models  # noqa: F401
    import torch._dynamo  # noqa: F401


def main(preload: str = "") -> None:
    """Forks a process for every connection that comes, until the other side is gone.

    Before, it imports libraries and calls a function of the harness, if one is given: all of them
    share that. A message is the number of a process that is to end, or 0 with a connection for a
    new one.
    """
    control = socket.socket(fileno=os.dup(0))
    if preload:
        import_libraries()
        _find(preload)()
        gc.freeze()  # a collection in a fork would look through all of that, and copy its memory
    processes: dict[int, int] = {}
    for number in count(1):
        while True:
            message, connections, _, _ = socket.recv_fds(control, 8, 1)
            if connections or not message:
                break
            ended = int.from_bytes(message, "little")
            code = _end(processes.pop(ended)) if ended in processes else 0
            control.send(code.to_bytes(8, "little", signed=True))
        if not message:
            break
        pid = os.fork()
        if pid == 0:
            control.close()
            _serve(connections[0])
        os.close(connections[0])
        processes[number] = pid
        control.send(number.to_bytes(8, "little"))
    for pid in processes.values():
        _end(pid)
    if Path.cwd().name.startswith(PREFIX):  # who started this one may be dead
        shutil.rmtree(Path.cwd(), ignore_errors=True)


def _find(function: str) -> Callable[..., Any]:
    """A function of the harness, ``module:function``."""
    module, _, name = function.partition(":")
    return getattr(importlib.import_module(module), name)


def alone(_: str = "") -> None:
    """Serves the standard streams, where nothing can be forked."""
    reader, writer = os.fdopen(os.dup(0), "rb"), os.fdopen(os.dup(1), "wb")
    silence(0, 1, 2)
    with tempfile.TemporaryDirectory() as own:
        MethodServer(Path(own)).serve(reader, writer)


def _end(pid: int) -> int:
    """Ends a process, unless it has ended, and returns its exit code, negative for a signal."""
    ended, status = os.waitpid(pid, os.WNOHANG)
    for _ in range(100):
        if ended:
            break
        time.sleep(0.005)  # it may be about to end
        ended, status = os.waitpid(pid, os.WNOHANG)
    # Those that it has started in its session end, too.
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(pid, signal.SIGKILL)
    if not ended:
        _, status = os.waitpid(pid, 0)
    shutil.rmtree(_own_folder(pid), ignore_errors=True)
    return os.waitstatus_to_exitcode(status)


def _own_folder(pid: int) -> Path:
    return Path(tempfile.gettempdir()) / str(pid)


def _serve(connection: int) -> None:
    """Serves a connection, which is all that the new process keeps, and ends it."""
    try:
        os.setsid()
        ctypes.CDLL(None).prctl(_DIE_WITH_PARENT, signal.SIGKILL)
        silence(0, 1, 2)
        os.dup2(connection, 3)
        os.closerange(4, 1 << 16)
        own = _own_folder(os.getpid())
        own.mkdir()
        streams = socket.socket(fileno=3)
        MethodServer(own).serve(*(streams.makefile(mode) for mode in ("rb", "wb")))  # type: ignore[arg-type]
    finally:
        os._exit(1)


class MethodServer:
    """What a process with contributed code knows: backbones, the methods, and one that is built.

    Every function whose name begins with ``do_`` answers a message; ``remote.py`` says which.
    """

    def __init__(self, own: Path) -> None:
        self._own = own
        self._sandbox: Sandbox | None = None
        self._backbones: dict[str, Backbone] = {}
        self.registry = MethodRegistry()
        self.memory: dict[str, Any] = {}  # of functions that ``do_call`` calls
        self._method: Method | None = None
        self._classifiers: list[Classifier] = []

    def serve(self, reader: BinaryIO, writer: BinaryIO) -> None:
        """Answers until the other side is gone."""
        os.chdir(self._own)
        torch.set_num_threads(1)
        while True:
            try:
                asked = read_message(reader)
            except EOFError:
                return
            try:
                answer = getattr(self, f"do_{asked.pop('ask')}")(**asked)
            except Exception as error:
                answer = {"error": _describe(error)}
            reached = self._sandbox.reached if self._sandbox else []
            write_message(writer, {"answer": answer, "reached": reached})

    @property
    def method(self) -> Method:
        assert self._method is not None
        return self._method

    def do_load(self, **header: Any) -> dict[str, Any]:
        """Loads backbones, closes the sandbox, and then loads the contributed code."""
        os.environ.update(header["environment"])
        folders = {name: Path(header[name]) for name in ("methods", "tasks")}
        use_folders([*map(Path, header["cards"])], **folders)
        for name, options in header["backbones"].items():
            loader = _find(header["loader"]) if header["loader"] else load_backbone
            self._backbones[name] = loader(name, **options)
            self._backbones[name].text_features(("a",))
        os.environ.update(HOME=str(self._own), TMPDIR=str(self._own))
        tempfile.tempdir = str(self._own)
        sys.dont_write_bytecode = True
        sys.meta_path.insert(0, _Contributed)  # type: ignore[arg-type]
        importlib.import_module("compatbench.methods").__path__ = [header["methods"]]
        readable = [*sys.path[1:], sys.prefix, sys.base_prefix, *compatbench.__path__]
        readable += [header["methods"], *header["files"]]
        forbidden, shown = map(Path, header["forbidden"]), Path(header["shown"])
        sandbox = Sandbox(map(Path, filter(None, readable)), [*forbidden], self._own, shown)
        sandbox.close()
        self._sandbox = sandbox
        path = Path(header["path"])
        load: Callable[[], object]
        if header["kind"] == "file":
            self.registry.add_file(path)
        elif header["kind"] == "method":
            load = lambda: importlib.import_module(f"compatbench.methods.{path.stem}")  # noqa: E731
            self.registry.add(path, load)
        else:
            entry = EntryPoint(path.name, header["path"], "compatbench.methods")
            self.registry.add(path, entry.load)
        return {"methods": [self._describe(name) for name in self.registry.classes]}

    def _describe(self, name: str) -> dict[str, Any]:
        cls = self.registry.get(name)
        return {
            "card": cls.card,
            "identity": method_identity(cls),
            "plugin": plugin_file(cls),
            "defaults": cls.Config().model_dump(mode="json"),
        }

    def do_call(self, function: str, **values: Any) -> Any:
        """What a function of the harness gives in this process."""
        return _find(function)(self, **values)

    def do_settings(self, method: str, values: dict[str, Any]) -> dict[str, Any]:
        """Settings, all of them and those that are no defaults, or what is wrong with them."""
        try:
            config = self.registry.get(method).Config.model_validate(values)
        except ValidationError as error:
            first = error.errors()[0]
            return {"wrong": {"loc": first["loc"], "type": first["type"], "msg": first["msg"]}}
        changed = config.model_dump(mode="json", exclude_defaults=True)
        return {"all": config.model_dump(mode="json"), "changed": changed}

    def do_build(self, method: str, config: dict[str, Any]) -> dict[str, Any]:
        """A new instance of a method with these settings."""
        cls = self.registry.get(method)
        self._method = cls(cls.Config.model_validate(config))
        return {}

    def do_epochs(self, shots: int, images: int) -> dict[str, int]:
        """Epochs of a fit."""
        return {"epochs": self.method.count_epochs(shots, images)}

    def do_input(self, backbone: Given) -> ImageInput:
        """What the method takes of an image on a backbone."""
        return self.method.image_input(self._backbone(backbone))

    def do_fit(self, backbone: Given, data: Given, rng: Tensor) -> Module:
        """A module of few-shot data."""
        self._say("it is fitted")
        drawing, on = torch.Generator(), self._backbone(backbone)
        drawing.set_state(rng)
        if backbone["mlp_drop"]:
            on = DroppingBackbone(on, backbone["mlp_drop"], drawing)
        few_shot = self._few_shot(data, on.device)
        with torch.enable_grad():
            return self.method.fit(on, few_shot, drawing).detach()

    def _few_shot(self, data: Given, device: torch.device) -> FewShotData:
        """Few-shot data, on a device."""
        sets = {
            part: FeatureSet(
                **{name: given[name].to(device) for name in ("plain", "views", "targets")},
                view_inputs=given["view_inputs"] and [x.to(device) for x in given["view_inputs"]],
            )
            for part in ("train", "val", "unlabelled")
            if (given := data[part]) is not None
        }
        teacher = None
        if (own := data["teacher"]) is not None:
            backbone = self._backbone(own["backbone"])
            teacher = Teacher(backbone, self._few_shot(own["data"], device))
        return FewShotData(_labels(data["labels"]), data["shots"], **sets, teacher=teacher)

    @torch.no_grad()
    def do_attach(self, module: Given, backbone: Given, labels: Given) -> dict[str, int]:
        """The number of a new classifier."""
        self._say("it is attached")
        on = self._backbone(backbone)
        classify = self.method.attach(Module(**module).to(on.device), on, _labels(labels))
        self._classifiers.append(lambda images: classify(images.to(on.device)))
        return {"classifier": len(self._classifiers) - 1}

    @torch.no_grad()
    def do_classify(self, classifier: int, images: Tensor) -> dict[str, Tensor]:
        """Logits."""
        self._say("it classifies")
        return {"logits": self._classifiers[classifier](images)}

    @torch.no_grad()
    def do_contexts(self, module: Given, backbone: Given, labels: Given) -> dict[str, Tensor]:
        """Contexts, if the method has any."""
        on = self._backbone(backbone)
        found = self.method.contexts(Module(**module).to(on.device), on, _labels(labels))
        return {} if found is None else {"contexts": found}

    def _say(self, doing: str) -> None:
        if self._sandbox is not None:
            self._sandbox.doing = doing

    def _backbone(self, given: Given) -> Backbone:
        backbone = self._backbones[given["name"]]
        rotation = given["rotation"]
        return backbone if rotation is None else RotatedBackbone(backbone, rotation)


def _labels(given: Given) -> Labels:
    descriptions = tuple(map(tuple, given["descriptions"]))
    names, templates = tuple(given["names"]), tuple(given["templates"])
    return Labels(names, templates, given["teacher_template"], descriptions)


def _describe(error: Exception) -> dict[str, Any]:
    if isinstance(error, NotTransferable):
        return {"kind": "not transferable", "text": error.reason}
    if isinstance(error, CompatbenchError):
        return {"kind": "input", "text": str(error)}
    found = describe_exception(error)
    return {"kind": "error", "text": found.error, "trace": found.trace}


class _Contributed(FromSource):
    """Finds the methods: a compiled file beside one may be another's."""

    prefix = "compatbench.methods."
