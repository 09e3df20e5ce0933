"""The backbones and test sets of a suite, and which of them are not on this machine."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace

from compatbench.backbone.load import locate_weights, planning, read_backbone
from compatbench.data.cards import SuiteCard, suite_test_sets
from compatbench.data.images.dataset_files import BrokenImages
from compatbench.data.task import load_task
from compatbench.errors import CompatbenchError


@dataclass(frozen=True)
class Missing:
    """Backbones and test sets that cannot be used: name -> why, and what to do."""

    backbones: Mapping[str, str] = field(default_factory=dict)
    test_sets: Mapping[str, str] = field(default_factory=dict)
    broken: frozenset[str] = frozenset()  # of these test sets, those that are here and broken

    @property
    def absent(self) -> dict[str, str]:
        """What is not here at all: name -> why, and what to do."""
        absent = {name: why for name, why in self.test_sets.items() if name not in self.broken}
        return absent | {**self.backbones}

    def __bool__(self) -> bool:
        return bool(self.backbones or self.test_sets)

    def __str__(self) -> str:
        kinds = {"images": self.test_sets, "weights": self.backbones}
        return "; ".join(f"{kind} of {', '.join(names)}" for kind, names in kinds.items() if names)


def suite_backbones(suite: SuiteCard) -> list[str]:
    """The backbones of a suite's upgrades, each once."""
    return list(dict.fromkeys(name for upgrade in suite.upgrades for name in upgrade))


def fit_backbones(suite: SuiteCard) -> list[str]:
    """The backbones that modules are fitted on: the sources and, if asked for, the targets."""
    if suite.retrained:
        return suite_backbones(suite)
    return list(dict.fromkeys(upgrade[0] for upgrade in suite.upgrades))


def find_missing(
    suite: SuiteCard, test_sets: Iterable[str] | None = None, teachers: Iterable[str] = ()
) -> Missing:
    """Which backbones and test sets of a suite are not here, or are wrong; nothing is fetched.

    Without ``test_sets`` all of the suite's are looked for. The ``teachers`` are backbones of
    methods, beside those of the suite.
    """

    def find_images(name: str) -> None:
        task = load_task(name)
        task.fingerprint(task.split("test"))

    with planning():
        models = dict.fromkeys([*suite_backbones(suite), *teachers])
        weights = _errors(models, lambda name: locate_weights(read_backbone(name, suite)))
        names = suite_test_sets(suite) if test_sets is None else test_sets
        images = _errors(names, find_images)
        broken = frozenset(name for name in images if isinstance(images[name], BrokenImages))
        return Missing(_texts(weights), _texts(images), broken)


def fetch_missing(suite: SuiteCard, missing: Missing) -> Missing:
    """Fetch the missing weights of a suite; return what is still missing."""
    left = dict(missing.backbones)
    for name in missing.backbones:
        if error := _errors([name], lambda name: locate_weights(read_backbone(name, suite))):
            left |= _texts(error)
            break  # without a network none can be had
        del left[name]
    return replace(missing, backbones=left)


def _errors(names: Iterable[str], find: Callable[[str], object]) -> dict[str, CompatbenchError]:
    errors = {}
    for name in names:
        try:
            find(name)
        except CompatbenchError as error:
            errors[name] = error
    return errors


def _texts(errors: Mapping[str, CompatbenchError]) -> dict[str, str]:
    return {name: str(error) for name, error in errors.items()}
