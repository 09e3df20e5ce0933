"""What a process with contributed code can reach: what was declared, and its own folder.

On Linux the kernel refuses everything else (Landlock), for code of any language. An audit hook of
Python refuses the same, by name, so that it can be said what was reached for; where there is no
Landlock the hook is all there is.
"""

from __future__ import annotations

import ctypes
import os
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import lru_cache
from glob import glob
from pathlib import Path

# Of linux/landlock.h, by bit: execute 0, write to a file 1, read a file 2, read a folder 3, ...
_READ_FILE, _READ_FOLDER, _WRITE_FILE = 1 << 2, 1 << 3, 1 << 1
_ONLY_FILE = _READ_FILE | _WRITE_FILE | 1 << 0 | 1 << 14 | 1 << 15
_RIGHTS = {1: 13, 2: 14, 3: 15, 4: 15, 5: 16}  # how many bits each version of the kernel knows
_CREATE, _ADD, _RESTRICT = 444, 445, 446
_NO_NEW_PRIVILEGES = 38
# What libraries ask the system for is refused without a word.
SYSTEM = ("/proc", "/sys", "/dev", "/etc")
DEVICES = ("/dev/null", "/dev/zero", "/dev/urandom", "/proc/cpuinfo", "/proc/meminfo")
DEVICES += tuple(glob("/dev/nvidia*"))  # a GPU's driver may open more of them later
LIBRARIES = ("/lib", "/lib64", "/usr/lib", "/usr/lib64", "/usr/local/lib", "/etc/ld.so.cache")
_OUTSIDE = ("socket.", "subprocess.", "os.exec", "os.fork", "os.posix_spawn", "os.system", "pty.")
_OUTSIDE += ("os.kill", "ftplib.", "urllib.")
_WRITES = {"os.remove": 1, "os.rename": 2, "os.mkdir": 1, "os.rmdir": 1, "os.link": 2}
_WRITES |= {"os.symlink": 2, "os.truncate": 1, "os.chmod": 1, "os.chown": 1, "os.utime": 1}
_READS = ("os.listdir", "os.scandir", "os.chdir")


def landlock_version() -> int:
    """The version of Landlock that the kernel has; 0 if it has none."""
    if sys.platform != "linux":
        return 0
    return max(ctypes.CDLL(None).syscall(_CREATE, None, ctypes.c_size_t(0), 1), 0)


class Reached(PermissionError):
    """Contributed code reached for what is not its own."""


class Sandbox:
    """What may be read and written, and what else was reached for.

    Attributes:
        reached: a line for each thing that was refused, such as ``reads tasks/x.csv while it is
            attached``.
        doing: what the method is at, for these lines.
    """

    def __init__(
        self, readable: Iterable[Path], forbidden: Sequence[Path], own: Path, shown: Path
    ) -> None:
        """Folders within readable ones may be forbidden; names are shown below a folder."""
        self.own, self._shown = own.resolve(), shown.resolve()
        self._forbidden = [path.resolve() for path in forbidden]
        readable = (*readable, *map(Path, LIBRARIES))
        self._readable = [path.resolve() for path in readable if path.exists()]
        # Python lists the folders that it imports files from.
        self._listable = {path.parent for path in self._readable if path.is_file()}
        self.reached: list[str] = []
        self.doing = "it is loaded"

    def close(self) -> None:
        """Confines this process to it, for good."""
        if version := landlock_version():
            self._close_landlock(version)
        sys.addaudithook(self._make_hook())

    def _close_landlock(self, version: int) -> None:
        libc = ctypes.CDLL(None, use_errno=True)
        every = (1 << _RIGHTS[min(version, 5)]) - 1
        net = 3 if version >= 4 else 0
        scoped = 3 if version >= 6 else 0
        fields = (every, *([net] if version >= 4 else []), *([scoped] if version >= 6 else []))
        attributes = (ctypes.c_uint64 * len(fields))(*fields)
        size = ctypes.c_size_t(ctypes.sizeof(attributes))
        rules = libc.syscall(_CREATE, attributes, size, 0)

        def allow(path: Path | str, rights: int) -> None:
            try:
                place = os.open(path, os.O_PATH | os.O_CLOEXEC)
            except OSError:
                return
            if not os.path.isdir(path):
                rights &= _ONLY_FILE
            rule = (rights & every).to_bytes(8, "little") + place.to_bytes(4, "little")
            libc.syscall(_ADD, rules, 1, rule, 0)
            os.close(place)

        for path in self._readable:
            for part, rights in self._without_forbidden(path):
                allow(part, rights)
        for path in self._listable:
            allow(path, _READ_FOLDER)
        for name in DEVICES:
            allow(name, _READ_FILE | _WRITE_FILE)
        allow(self.own, every)
        libc.prctl(_NO_NEW_PRIVILEGES, 1, 0, 0, 0)
        if rules < 0 or libc.syscall(_RESTRICT, rules, 0):
            raise OSError(ctypes.get_errno(), "Landlock cannot be used")
        os.close(rules)

    def _without_forbidden(self, path: Path) -> Iterator[tuple[Path, int]]:
        """The path, or what of it lies beside forbidden folders, with the rights to it."""
        if any(path.is_relative_to(one) for one in self._forbidden):
            return
        if not any(one.is_relative_to(path) for one in self._forbidden):
            yield path, _READ_FILE | _READ_FOLDER | 1
            return
        yield path, _READ_FOLDER
        for part in path.iterdir():
            if not part.is_symlink():
                yield from self._without_forbidden(part)

    def _make_hook(self) -> Callable[[str, tuple[object, ...]], None]:
        @lru_cache(maxsize=4096)
        def may_read(path: str) -> bool:
            real = Path(os.path.realpath(path))
            if real.is_relative_to(self.own) or path in DEVICES:
                return True
            inside = any(real.is_relative_to(one) for one in self._readable)
            return inside and not any(real.is_relative_to(one) for one in self._forbidden)

        def may_write(path: str) -> bool:
            real = Path(os.path.realpath(path))
            return real.is_relative_to(self.own) or path in DEVICES[:2]

        def refuse(what: str, path: object = "") -> None:
            name = os.fspath(path) if isinstance(path, str | bytes | os.PathLike) else str(path)
            name = os.path.abspath(os.fsdecode(name)) if name else ""
            if not name.startswith(SYSTEM):
                near = Path(name).is_relative_to(self._shown)
                shown = os.path.relpath(name, self._shown) if near else name
                line = f"{what}{' ' if shown else ''}{shown} while {self.doing}"
                if line not in self.reached and len(self.reached) < 20:
                    self.reached.append(line)
            raise Reached(f"a method has no business there: it {what} {name}")

        def hook(event: str, arguments: tuple[object, ...]) -> None:
            if event == "open":
                path, _, flags = arguments[:3]
                if not isinstance(path, str | bytes | os.PathLike):
                    return  # a file that is open
                name = os.fsdecode(path)
                writes = isinstance(flags, int) and flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT)
                if writes and not may_write(name):
                    refuse("writes", name)
                if not writes and not may_read(os.path.abspath(name)):
                    refuse("reads", name)
            elif event in _READS:
                path = arguments[0]
                name = "." if path is None else path
                if isinstance(name, str | bytes | os.PathLike):
                    name = os.path.abspath(os.fsdecode(name))
                    if Path(name) not in self._listable and not may_read(name):
                        refuse("lists", name)
            elif event in _WRITES:
                for path in arguments[: _WRITES[event]]:
                    named = isinstance(path, str | bytes | os.PathLike)
                    if named and not may_write(os.fsdecode(path)):
                        refuse("changes", path)
            elif event.startswith(_OUTSIDE):
                refuse(f"calls {event}")

        return hook
