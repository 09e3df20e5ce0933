"""Each mistake of an author fails one check, with one line: what, the fix, and where it is."""

from __future__ import annotations

import inspect
import re
from pathlib import Path

import mistaken_methods
import pandas as pd
import pytest
from mistaken_methods import MISTAKES

from compatbench.extras.check.run_checks import check_methods
from compatbench.method.registry import builtin_methods

pytestmark = pytest.mark.slow  # a process starts that imports everything


@pytest.fixture(scope="module")
def failures() -> pd.DataFrame:
    """Of every check of every method in the file, those that are failed."""
    builtin_methods.cache_clear()
    outcomes = check_methods(mistaken_methods.__file__)
    builtin_methods.cache_clear()
    return outcomes.loc[outcomes["status"] == "fail"]


@pytest.mark.parametrize("method", MISTAKES)
def test_a_mistake_has_a_line_of_its_own(method: str, failures: pd.DataFrame) -> None:
    check, pattern = MISTAKES[method]
    told = failures.loc[failures["method"] == method].set_index("check")["reason"].to_dict()
    assert told.keys() == {check} - {""}
    if check:
        assert re.search(pattern, told[check])
        lines, start = inspect.getsourcelines(getattr(mistaken_methods, method))
        file = Path(mistaken_methods.__file__).name
        named = re.search(rf"\({re.escape(file)}:(\d+)\)", told[check])
        assert named is not None
        assert start <= int(named[1]) < start + len(lines)
