"""What of a suite is not on this machine: images and weights."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from compatbench.backbone.load import locate_weights, planning, read_backbone
from compatbench.data.cards import SuiteCard, select_names, suite_tasks, suite_variants
from compatbench.data.task import load_task
from compatbench.errors import CompatbenchError


@dataclass(frozen=True)
class Missing:
    """Backbones and test sets that cannot be used: name -> why, and what to do."""

    backbones: Mapping[str, str] = field(default_factory=dict)
    test_sets: Mapping[str, str] = field(default_factory=dict)

    def __bool__(self) -> bool:
        return bool(self.backbones or self.test_sets)

    def __str__(self) -> str:
        parts = []
        if self.test_sets:
            parts.append(f"images of {', '.join(self.test_sets)}")
        if self.backbones:
            parts.append(f"weights of {', '.join(self.backbones)}")
        return "; ".join(parts)


def suite_test_sets(suite: SuiteCard, tasks: str | Sequence[str] = "all") -> list[str]:
    """The chosen tasks of a suite, each followed by its variants.

    Raises:
        CompatbenchError: an unknown task, or a broken card.
    """
    chosen = select_names(tasks, suite_tasks(suite), "task in this suite")
    return [name for task in chosen for name in (task, *suite_variants(suite, task))]


def suite_backbones(suite: SuiteCard) -> list[str]:
    """The backbones of a suite's upgrades, each once."""
    return list(dict.fromkeys(name for upgrade in suite.upgrades for name in upgrade))


def fit_backbones(suite: SuiteCard) -> list[str]:
    """The backbones that modules are fitted on: the sources and, if asked for, the targets."""
    if suite.retrained:
        return suite_backbones(suite)
    return list(dict.fromkeys(upgrade[0] for upgrade in suite.upgrades))


def find_missing(suite: SuiteCard, tasks: str | Sequence[str] = "all") -> Missing:
    """Which backbones and test sets of a suite are not here, or are wrong; nothing is fetched.

    Raises:
        CompatbenchError: an unknown task, or a broken card.
    """
    with planning():
        return Missing(
            _failures(suite_backbones(suite), _probe_weights),
            _failures(suite_test_sets(suite, tasks), _probe_images),
        )


def fetch_missing(missing: Missing) -> Missing:
    """Fetches the weights that are missing, and tells what is still not here.

    The first that cannot be fetched ends it: without a network none can.
    """
    left = dict(missing.backbones)
    for name in missing.backbones:
        try:
            _probe_weights(name)
        except CompatbenchError as error:
            left[name] = str(error)
            break
        del left[name]
    return Missing(left, missing.test_sets)


def _probe_weights(name: str) -> object:
    return locate_weights(read_backbone(name))


def _probe_images(name: str) -> object:
    task = load_task(name)
    return task.fingerprint(task.split("test"))


def _failures(names: Iterable[str], probe: Callable[[str], object]) -> dict[str, str]:
    failures = {}
    for name in names:
        try:
            probe(name)
        except CompatbenchError as error:
            failures[name] = str(error)
    return failures
