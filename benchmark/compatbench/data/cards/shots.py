"""Numbers of shots, one of which is *all*, and seeds: how cards and files hold them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

from pydantic import BeforeValidator, Field, PlainSerializer, TypeAdapter, ValidationError

from compatbench.errors import CompatbenchError

# More images than any class has: a draw of so many takes all. It is a number, so that shots
# sort and compare; people and files see the word.
ALL_SHOTS = 1_000_000
MOST_VALIDATION_SHOTS = 4  # per class, where a suite does not say
LARGEST_SEED = 2**32 - 1  # what numpy's, torch's and Python's generators all take


def read_shots(value: object) -> object:
    """The number that ``all`` stands for; anything else as it is."""
    return ALL_SHOTS if isinstance(value, str) and value.strip().lower() == "all" else value


def show_shots(shots: int) -> int | str:
    """A number of shots as files hold it: itself, or ``all``."""
    return "all" if shots == ALL_SHOTS else shots


def count_shots(shots: int) -> str:
    """A number of shots in words: ``16 shots``, ``1 shot``, ``all shots``."""
    return f"{show_shots(shots)} shot{'' if shots == 1 else 's'}"


Shots = Annotated[
    int,
    Field(ge=1, le=ALL_SHOTS),
    BeforeValidator(read_shots),
    PlainSerializer(show_shots, return_type=int | str),
]
Seed = Annotated[int, Field(ge=0, le=LARGEST_SEED)]
_SHOTS, _SEED = TypeAdapter[int](Shots), TypeAdapter[int](Seed)


# Seeds or shots as people give them: ``1``, ``"1,2"`` or ``[1, 2]``; the word ``all`` of shots.
Numbers = int | str | Sequence[int | str]


def check_draws(shots: Numbers, seeds: Numbers) -> tuple[list[int], list[int]]:
    """Return numbers of shots, perhaps the word ``all``, and seeds, as lists of numbers.

    Raises:
        CompatbenchError: an empty list, or no such number.
    """
    return _check_numbers("shots", shots, _SHOTS), _check_numbers("seeds", seeds, _SEED)


def _check_numbers(argument: str, given: Numbers, kind: TypeAdapter[int]) -> list[int]:
    if isinstance(given, str):
        given = given.split(",")
    values = [given] if isinstance(given, int) else given
    place = f"--{argument} (in Python: {argument})"
    if not len(values):
        raise CompatbenchError(f"{place}: the list is empty; give at least one number")
    try:
        return [kind.validate_python(value) for value in values]
    except ValidationError as error:
        first = error.errors()[0]
        raise CompatbenchError(f"{place}: {first['input']!r}: {first['msg']}") from None
