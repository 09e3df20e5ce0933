"""A plan as JSON, which the process that plans a run sends to the one that scores it.

JSON cannot carry code, and what is read is checked against the types of the plan.
"""

from __future__ import annotations

from functools import cache
from typing import Any

from pydantic import TypeAdapter, ValidationError

from compatbench.engine.plan import Plan
from compatbench.errors import CompatbenchError


@cache
def _adapter() -> TypeAdapter[Plan]:
    return TypeAdapter(Plan)


def write_plan(plan: Plan) -> dict[str, Any]:
    """Return a plan as JSON values."""
    return _adapter().dump_python(plan, mode="json")


def read_plan(values: Any) -> Plan:
    """Return the plan that these JSON values describe."""
    try:
        return _adapter().validate_python(values)
    except ValidationError as error:
        field = ".".join(map(str, error.errors()[0]["loc"]))
        raise CompatbenchError(f"a method has changed how runs are planned: '{field}'") from None
