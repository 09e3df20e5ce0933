"""The backbones and test sets of a suite, and those that are missing on this machine."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, field, replace

from compatbench.backbone.load import locate_tokenizer, locate_weights, read_backbone
from compatbench.data.cards import SuiteCard, suite_test_sets
from compatbench.data.images.dataset_files import BrokenImages
from compatbench.data.task import load_task
from compatbench.errors import CompatbenchError
from compatbench.messages import count

MOST_NAMED = 3  # of what is missing, in a message


@dataclass(frozen=True)
class Missing:
    """The backbones and test sets that cannot be used, with the reason and a remedy by name."""

    backbones: Mapping[str, str] = field(default_factory=dict)
    test_sets: Mapping[str, str] = field(default_factory=dict)
    broken: frozenset[str] = frozenset()  # of these test sets, those that are here and broken

    @property
    def absent(self) -> dict[str, str]:
        """Everything that is not here at all, with the reason and a remedy by name."""
        absent = {name: why for name, why in self.test_sets.items() if name not in self.broken}
        return absent | dict(self.backbones)

    def __bool__(self) -> bool:
        return bool(self.backbones or self.test_sets)

    def __str__(self) -> str:
        parts = []
        if self.test_sets:
            parts.append(f"the images of {_name_or_count(self.test_sets, 'test set')}")
        if self.backbones:
            parts.append(f"the weights of {_name_or_count(self.backbones, 'backbone')}")
        return " and ".join(parts)


def _name_or_count(names: Collection[str], noun: str) -> str:
    """Return a few names, or how many they are."""
    if len(names) > MOST_NAMED:
        return count(len(names), noun)
    return ", ".join(names)


def suite_backbones(suite: SuiteCard) -> list[str]:
    """Return the backbones of a suite's upgrades, each once."""
    return list(dict.fromkeys(name for upgrade in suite.upgrades for name in upgrade))


def fit_backbones(suite: SuiteCard) -> list[str]:
    """Return the backbones that modules are fitted on: the sources, and with ``retrained`` all."""
    if suite.retrained:
        return suite_backbones(suite)
    return list(dict.fromkeys(upgrade[0] for upgrade in suite.upgrades))


def find_missing(
    suite: SuiteCard, test_sets: Iterable[str] | None = None, teachers: Iterable[str] = ()
) -> Missing:
    """Return the backbones and test sets that are missing here or broken. Fetch nothing.

    Args:
        test_sets: names of test sets; by default all of the suite's.
        teachers: backbones that methods learn from, beside those of the suite.
    """

    def find_weights(name: str) -> None:
        card = read_backbone(name, suite)
        locate_weights(card, download=False)
        locate_tokenizer(card, download=False)

    names = suite_test_sets(suite) if test_sets is None else test_sets
    weights = _collect_errors([*suite_backbones(suite), *teachers], find_weights)
    images = _collect_errors(names, _find_images)
    broken = frozenset(name for name, error in images.items() if isinstance(error, BrokenImages))
    return Missing(_messages(weights), _messages(images), broken)


def fetch_missing(suite: SuiteCard, missing: Missing) -> Missing:
    """Fetch the missing weights of a suite. Return what is still missing."""

    def fetch_weights(name: str) -> None:
        card = read_backbone(name, suite)
        locate_weights(card)
        locate_tokenizer(card)

    left = dict(missing.backbones)
    for name in missing.backbones:
        error = _collect_errors([name], fetch_weights)
        if error:
            left |= _messages(error)
            break  # without a network none can be had
        del left[name]
    return replace(missing, backbones=left)


def _find_images(test_set: str) -> None:
    """Raise CompatbenchError unless all test images are here and as their card says."""
    task = load_task(test_set)
    task.fingerprint(task.split("test"))


def _collect_errors(
    names: Iterable[str], find: Callable[[str], None]
) -> dict[str, CompatbenchError]:
    """Return the errors that ``find`` raises, by name."""
    errors = {}
    for name in dict.fromkeys(names):
        try:
            find(name)
        except CompatbenchError as error:
            errors[name] = error
    return errors


def _messages(errors: Mapping[str, CompatbenchError]) -> dict[str, str]:
    return {name: str(error) for name, error in errors.items()}
