"""Finds transfers: in this folder, in a file anywhere, in an installed package."""

from __future__ import annotations

import importlib
from collections.abc import Iterable
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from compatbench.errors import CompatbenchError
from compatbench.files.project_folders import content_files
from compatbench.method.registry import Registry
from compatbench.method.transfer import Transfer, TransferCard


class TransferRegistry(Registry[Transfer]):
    """The transfer classes by name; a transfer with its settings is written ``name+setting``."""

    kind = "transfer"
    root = Transfer
    mark_type = TransferCard

    def build(self, label: str) -> Transfer:
        """The transfer that a label means, such as ``copied``, ``words+raw`` or ``retrained+4``.

        After the name come names of the card's ``settings``, and a number for ``shots``.
        """
        name, *given = label.split("+")
        cls = self.get(name)
        known, values = cls.card.settings, dict[str, Any]()
        takes_shots = "shots" in cls.Config.model_fields
        order = [one for one in known if one in given]
        for setting in given:
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
        try:
            return cls(cls.Config.model_validate(values))
        except ValidationError as error:
            first = error.errors()[0]
            raise CompatbenchError(
                f"transfer '{label}': {first['loc'][0]}: {first['msg']}"
            ) from None

    def choose(self, wanted: Iterable[str]) -> list[str]:
        """The labels that are asked for, each once; ``.py`` files are loaded."""
        found = list[str]()
        for part in filter(None, (part.strip() for part in wanted)):
            if part.endswith(".py"):
                found += self.add_file(Path(part))
            elif part == "all" or "*" in part:  # those that need no number
                names = self.select(part)
                found += [one for one in names if "shots" not in self.get(one).Config.model_fields]
            else:
                found.append(part)
        for label in found:
            self.build(label)
        return list(dict.fromkeys(found))


@lru_cache(maxsize=1)
def builtin_transfers() -> TransferRegistry:
    """The transfers in this folder and in installed packages (``compatbench.transfers``)."""
    registry = TransferRegistry()
    registry.add_all(
        (path.stem, path, partial(importlib.import_module, f"compatbench.transfers.{path.stem}"))
        for path in content_files("transfers")
    )
    return registry


def find_transfer(label: str, plugin: str | None = None) -> Transfer:
    """The transfer with its settings that a label means, from the file that it is from, if any."""
    registry = builtin_transfers()
    if plugin is not None and label.partition("+")[0] not in registry.classes:
        registry.add_file(Path(plugin))
    return registry.build(label)


def gate_transfer(transfer: str) -> str:
    """The name of a transfer behind a gate; ``CompatbenchError`` if there is none."""
    classes = builtin_transfers().classes.values()
    gates = {cls.card.gates: cls.card.name for cls in classes if cls.card.gates}
    if transfer not in gates:
        known = " and ".join(f"'{name}'" for name in sorted(gates))
        raise CompatbenchError(
            f"--gate works with the transfers {known}, not with '{transfer}'; choose one of them, "
            "or leave --gate out"
        )
    return gates[transfer]


def is_transfer(label: str) -> bool:
    """Whether there is a transfer of this label here."""
    try:
        return bool(find_transfer(label))
    except CompatbenchError:
        return False


def describe_transfer(transfer: Transfer) -> dict[str, Any]:
    """What stands for a transfer in keys beside its name and version, data of the task aside.

    The settings that are no defaults; and the code of one that is from outside, or the versions of
    those that it is a subclass of.
    """
    card, found = transfer.card, dict[str, Any]()
    if changed := transfer.config.model_dump(mode="json", exclude_defaults=True):
        found["settings"] = changed
    code, _ = builtin_transfers().identify(card.name)
    if code != f"{card.name}.{card.version}":
        found["code"] = code
    return found
