"""Numbers of shots (one of them is *all*) and seeds, as cards and files store them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

from pydantic import BeforeValidator, Field, PlainSerializer, TypeAdapter, ValidationError

from compatbench.errors import CompatbenchError

# More images than any class has, so that a draw takes all. It is a number, so that shots
# sort and compare; people and files see the word.
ALL_SHOTS = 1_000_000
MOST_VALIDATION_SHOTS = 4  # per class, the default of suites
LARGEST_SEED = 2**32 - 1  # the largest that numpy, torch and Python all accept


def read_shots(value: object) -> object:
    """Return the number for ``all``; return anything else unchanged."""
    if isinstance(value, str) and value.strip().lower() == "all":
        return ALL_SHOTS
    return value


def show_shots(shots: int) -> int | str:
    """Return a number of shots as files store it: the number, or ``all``."""
    return "all" if shots == ALL_SHOTS else shots


def count_shots(shots: int) -> str:
    """Return a number of shots in words: ``16 shots``, ``1 shot``, ``all shots``."""
    noun = "shot" if shots == 1 else "shots"
    return f"{show_shots(shots)} {noun}"


Shots = Annotated[
    int,
    Field(ge=1, le=ALL_SHOTS),
    BeforeValidator(read_shots),
    PlainSerializer(show_shots, return_type=int | str),
]
Seed = Annotated[int, Field(ge=0, le=LARGEST_SEED)]
_SHOTS = TypeAdapter[int](Shots)
_SEED = TypeAdapter[int](Seed)


# Seeds or shots as people write them: ``1``, ``"1,2"`` or ``[1, 2]``; for shots also ``all``.
Numbers = int | str | Sequence[int | str]


def check_draws(shots: Numbers, seeds: Numbers) -> tuple[list[int], list[int]]:
    """Return numbers of shots and seeds as lists of integers, each number once.

    Raises:
        CompatbenchError: a list is empty, or a value is not a valid number.
    """
    shots_expected = "positive whole numbers or 'all', such as 4 or 1,4,16"
    seeds_expected = f"whole numbers from 0 to {LARGEST_SEED:,}, such as 1 or 1,2,3"
    checked_shots = _check_numbers("shots", shots, _SHOTS, shots_expected)
    return checked_shots, _check_numbers("seeds", seeds, _SEED, seeds_expected)


def _check_numbers(
    argument: str, numbers: Numbers, kind: TypeAdapter[int], expected: str
) -> list[int]:
    place = f"--{argument} (in Python: {argument})"
    if isinstance(numbers, (int, float)):
        numbers = [numbers]
    values = numbers.split(",") if isinstance(numbers, str) else numbers
    if not len(values):
        raise CompatbenchError(f"{place}: the list is empty; give at least one number")
    try:
        checked = [kind.validate_python(value) for value in values]
    except ValidationError as error:
        given = error.errors()[0]["input"]
        raise CompatbenchError(f"{place}: {given!r} is not valid; give {expected}") from None
    return list(dict.fromkeys(checked))
