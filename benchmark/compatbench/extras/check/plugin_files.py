"""Where plug-ins were loaded from in this process, for another that is to have the same."""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from pathlib import Path

from compatbench.files.project_folders import other_folder, own_places, use_folders
from compatbench.method.identity import plugin_file
from compatbench.method.registry import builtin_methods, builtin_transfers


@dataclass(frozen=True)
class PluginFiles:
    """The files that methods and transfers are loaded from."""

    methods: tuple[Path, ...] = ()  # beside those of ``methods/``
    transfers: tuple[Path, ...] = ()
    folder: Path | None = None  # in place of the installed ``methods/``

    @classmethod
    def known(cls) -> PluginFiles:
        """Those of the registries of this process."""
        files = []
        for registry in (builtin_methods(), builtin_transfers()):
            paths = map(plugin_file, registry.classes.values())
            files.append(tuple(dict.fromkeys(Path(path) for path in paths if path)))
        return cls(*files, folder=other_folder("methods"))

    def load(self) -> None:
        """Loads them into the registries of this process."""
        if self.folder is not None:
            use_folders(own_places(), methods=self.folder)
            importlib.import_module("compatbench.methods").__path__ = [str(self.folder)]
        for path in self.methods:
            builtin_methods().add_file(path)
        for path in self.transfers:
            builtin_transfers().add_file(path)
