"""Processes with contributed code, seen from the one that asks them."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import threading
import weakref
from collections.abc import Iterable, Mapping, Sequence
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any, BinaryIO, cast

from compatbench.data.cache_files import default_cache_folder
from compatbench.engine.confined.wire import read_message, write_message
from compatbench.engine.failures import Failure, describe_death
from compatbench.errors import CompatbenchError, NotTransferable
from compatbench.files.hashes import canonical_json
from compatbench.files.project_folders import (
    content_folder,
    installed_folder,
    own_places,
    tasks_folder,
)
from compatbench.files.scratch import scratch_folder
from compatbench.messages import one_line

LOAD_SECONDS = 300.0  # in which a file is loaded
DOING = {"load": "it is loaded", "fit": "it is fitted", "attach": "it is attached"}
DOING |= {"classify": "it classifies"}
WITH_TENSORS = ("fit", "classify", "contexts")  # what is answered with tensors
FORKS = sys.platform == "linux"  # elsewhere libraries have threads that no fork has
MOST_SECONDS = 6 * 3600.0  # in which a module is fitted, or images are classified
# Of the user's environment; there is no secret among it.
_KEPT = ("PATH", "PYTHONPATH", "LD_LIBRARY_PATH", "SYSTEMROOT", "CUDA_VISIBLE_DEVICES")
_FIXED = {"PYTHONHASHSEED": "0", "LC_ALL": "C.UTF-8", "HF_HUB_OFFLINE": "1"}
_FIXED |= dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1")
# Where weights are looked for, before any contributed code is loaded.
_FOLDERS = ("HOME", "HF_HOME", "HF_HUB_CACHE", "XDG_CACHE_HOME", "COMPATBENCH_WEIGHTS")


class MethodFailed(Exception):
    """An error that was raised in a method, in another process."""

    def __init__(self, failure: Failure) -> None:
        super().__init__(failure.error)
        self.failure = failure


class ProcessEnded(CompatbenchError):
    """A process died, took too long, answered nonsense, or reached for what is not its own."""


class ForkServer:
    """Starts the processes: one that has imported the harness forks them.

    Where there is no fork that can be relied on, each imports the harness itself, which takes
    seconds.
    """

    def __init__(self, environment: Mapping[str, str], preload: str, forks: bool) -> None:
        scratch = ExitStack()
        self._folder = scratch.enter_context(scratch_folder())
        kept = {name: os.environ[name] for name in _KEPT if name in os.environ}
        self._environment = {**kept, **_FIXED, **environment, "TMPDIR": str(self._folder)}
        self._lock, self._preload = threading.Lock(), preload
        self._alone: list[subprocess.Popen[bytes]] = []
        self._control, process = None, None
        if forks:
            self._control, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
            with theirs:
                process = self._start("main", stdin=theirs, stdout=subprocess.DEVNULL)
        self._process = process
        held = self._control, process, self._alone, scratch
        self.close = weakref.finalize(self, _close_fork_server, *held)

    def _start(self, function: str, **streams: Any) -> subprocess.Popen[bytes]:
        module = "compatbench.engine.confined.server"
        code = f"from {module} import {function}; {function}({self._preload!r})"
        options = {"cwd": self._folder, "env": self._environment, "start_new_session": True}
        with (self._folder / "errors").open("wb") as errors:
            streams |= {"stderr": errors, **options}
            return cast(Any, subprocess.Popen([sys.executable, "-c", code], **streams))

    def start(self) -> tuple[int, BinaryIO, BinaryIO]:
        """The number of a new process, and where to read from it and to write to it."""
        if self._control is None:
            one = self._start("alone", stdin=subprocess.PIPE, stdout=subprocess.PIPE)
            self._alone.append(one)
            return len(self._alone) - 1, cast(BinaryIO, one.stdout), cast(BinaryIO, one.stdin)
        ours, theirs = socket.socketpair()
        with ours, theirs, self._lock:
            message = self._tell(bytes(8), [theirs.fileno()])
            if not message:
                text = (self._folder / "errors").read_text(errors="replace")
                why = one_line((text.strip().splitlines() or ["it died"])[-1])
                raise CompatbenchError(f"no process for a method can be started: {why}")
            reader, writer = ours.makefile("rb"), ours.makefile("wb")
            number = int.from_bytes(message, "little")
            return number, cast(BinaryIO, reader), cast(BinaryIO, writer)

    def end(self, number: int) -> int:
        """Ends a process, unless it has ended, and returns its exit code, negative for a signal."""
        if self._control is None:
            with suppress(subprocess.TimeoutExpired):
                return self._alone[number].wait(0.5)
            self._alone[number].kill()
            return self._alone[number].wait()
        with self._lock:
            message = self._tell(number.to_bytes(8, "little"))
            return int.from_bytes(message, "little", signed=True)

    def _tell(self, message: bytes, connections: Sequence[int] = ()) -> bytes:
        assert self._control is not None
        with suppress(OSError):
            socket.send_fds(self._control, [message], connections)
            return self._control.recv(8)
        return b""

    @property
    def alive(self) -> bool:
        """Whether it can start processes."""
        return self.close.alive and (self._process is None or self._process.poll() is None)


def _close_fork_server(
    control: socket.socket | None,
    process: subprocess.Popen[bytes] | None,
    alone: Sequence[subprocess.Popen[bytes]],
    scratch: ExitStack,
) -> None:
    if control is not None and process is not None:
        control.close()  # it ends all that it has forked, and then itself
        process.wait()
    for one in alone:
        one.kill()
        one.wait()
    scratch.close()


_fork_servers: dict[str, ForkServer] = {}
_starting = threading.Lock()


def find_fork_server(environment: Mapping[str, str], preload: str) -> ForkServer:
    """The fork server of this process with these variables; started once, and ended with it."""
    wanted = canonical_json([dict(environment), preload])
    with _starting:
        if wanted not in _fork_servers or not _fork_servers[wanted].alive:
            _fork_servers[wanted] = ForkServer(environment, preload, FORKS)
        return _fork_servers[wanted]


class Child:
    """A process with one piece of contributed code."""

    def __init__(
        self,
        kind: str,
        path: Path | str,
        *,
        files: Iterable[Path] = (),
        backbones: Mapping[str, Mapping[str, Any]] | None = None,
        loader: str = "",
        environment: Mapping[str, str] | None = None,
        preload: str = "",
    ) -> None:
        """Starts the process and has it load the code; ``loaded`` waits for it.

        Args:
            kind: ``method``, a file in the folder of the methods; ``file``, one anywhere; or
                ``entry``, the value of an entry point.
            path: of the file.
            files: what else it may read.
            backbones: that are loaded before the code is, with the options of ``loader``.
            loader: ``module:function`` of the harness that makes a backbone, by default
                ``load_backbone``.
            environment: variables that it starts with.
            preload: ``module:function`` of the harness whose work all such processes share.
        """
        self.name, self._doing = str(path), ""
        self._fork_server = find_fork_server(environment or {}, preload)
        self._number, self._reader, self._writer = self._fork_server.start()
        held = self._fork_server, self._number, self._reader, self._writer
        self.close = weakref.finalize(self, _hang_up, *held)
        folders = {name: os.environ[name] for name in _FOLDERS if name in os.environ}
        tasks = tasks_folder()
        forbidden = tasks, installed_folder("tasks"), default_cache_folder()
        self.send(
            "load",
            {
                "kind": kind,
                "path": str(path),
                "files": list(map(str, files)),
                "methods": str(content_folder("methods")),
                "backbones": dict(backbones or {}),
                "loader": loader,
                "tasks": str(tasks),
                "cards": [str(place) for place in own_places()],
                "environment": folders,
                "forbidden": list(map(str, forbidden)),
                "shown": str(tasks.parent),
            },
        )

    def send(self, what: str, values: Mapping[str, Any]) -> None:
        """Asks for something; ``receive`` has the answer."""
        self._doing = what
        with suppress(OSError):  # it has died, as 'receive' will see
            write_message(self._writer, {"ask": what, **values})

    def receive(self, seconds: float = MOST_SECONDS) -> dict[str, Any]:
        """The answer to what was asked.

        Raises:
            NotTransferable, MethodFailed: as the method raised them.
            ProcessEnded: it is gone.
            CompatbenchError: an error in the input.
        """
        late = threading.Event()

        def stop() -> None:
            late.set()
            self._fork_server.end(self._number)

        timer = threading.Timer(seconds, stop)
        timer.daemon = True
        timer.start()
        try:
            wanted = self._doing in WITH_TENSORS
            message = read_message(self._reader, tensors_asked=wanted)
            answer, reached = dict(message["answer"]), [str(one) for one in message["reached"]]
        except (EOFError, OSError):
            late.wait(0.0 if timer.is_alive() else 1.0)
            code = self._fork_server.end(self._number)
            death = describe_death(code, out_of_memory=False).error
            why = f"it takes more than {seconds:,.0f} s" if late.is_set() else death
            raise self._error(f"{why}, while {DOING.get(self._doing, 'it is asked')}") from None
        except (ValueError, KeyError, TypeError) as error:
            raise self._error(f"its process answers nonsense: {error}") from None
        finally:
            timer.cancel()
        if reached:
            raise self._error("; ".join(reached))
        if "error" in answer:
            raise _raised(answer["error"])
        return answer

    def _error(self, what: str) -> ProcessEnded:
        self.close()
        return ProcessEnded(one_line(f"{self.name}: {what}", 600))

    def ask(self, what: str, **values: Any) -> dict[str, Any]:
        """``send`` and ``receive``."""
        self.send(what, values)
        return self.receive()


def _hang_up(fork_server: ForkServer, number: int, *streams: BinaryIO) -> None:
    for stream in streams:
        with suppress(OSError):
            stream.close()
    if fork_server.alive:
        fork_server.end(number)


def _raised(error: Any) -> Exception:
    """What was raised in the other process."""
    kind, text = (str(error.get(name, "")) for name in ("kind", "text"))
    if kind == "not transferable":
        return NotTransferable(text)
    if kind == "input":
        return CompatbenchError(text)
    return MethodFailed(Failure(text or "Error", tuple(map(str, error.get("trace", ())))))
