"""A plan as JSON, which the process that plans a run sends to the one that scores it.

JSON cannot carry code, and what is read is checked against the types of the plan.
"""

from __future__ import annotations

from functools import cache
from typing import Any, TypeVar

from pydantic import TypeAdapter, ValidationError

from compatbench.errors import CompatbenchError

T = TypeVar("T")


@cache
def _adapter(kind: type[T]) -> TypeAdapter[T]:
    return TypeAdapter(kind)


def write_data(plan: object) -> Any:
    """Return a plan, or another dataclass, as JSON values."""
    return _adapter(type(plan)).dump_python(plan, mode="json")


def read_data(kind: type[T], values: Any) -> T:
    """Return the plan, or a value of another type, that these JSON values describe.

    Raises:
        CompatbenchError: they are not of that type.
    """
    try:
        return _adapter(kind).validate_python(values)
    except ValidationError as error:
        field = ".".join(map(str, error.errors()[0]["loc"]))
        where = f" (at '{field}')" if field else ""
        raise CompatbenchError(
            f"a method has changed what its process sends{where}; nothing of it was used"
        ) from None
