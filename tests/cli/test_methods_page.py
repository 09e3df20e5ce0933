"""docs/methods.md says what the code does."""

from __future__ import annotations

from pathlib import Path

import pytest
from typer.testing import CliRunner

from compatbench.cli.app import app
from compatbench.conformance.methods_page import DRAWS, examine_method, write_size
from compatbench.errors import CompatbenchError
from compatbench.method.registry import builtin_methods

PAGE = Path(__file__).parents[2] / "docs" / "methods.md"

# From the papers and their authors' code, at ViT-B/16.
PUBLISHED = {
    "zeroshot": "0",
    "coop": "8,192",
    "kgcoop": "2,048",
    "prograd": "8,192",
    "cocoop": "35,360",
    "tcp": "331,904",
    "contcoop": "788,480",
    "maple": "3,555,072",
    "promptsrc": "46,080",
    "vpt_deep": "73,728",
    "clip_adapter": "131,072",
    "taskres": "512 · C",
    "clap": "512 · C",
    "gda": "513 · C",
    "tip_adapter_f": "512 · N",
    "rosetta": "C · N",
}


@pytest.mark.slow
@pytest.mark.parametrize("name", PUBLISHED)
def test_modules_have_the_published_number_of_parameters(name: str) -> None:
    assert examine_method(builtin_methods().get(name)).parameters == PUBLISHED[name]


def test_what_is_measured_of_methods_that_are_known() -> None:
    taskres = examine_method(builtin_methods().get("taskres"))
    assert taskres.trained == ["residual: C × 512"]
    assert taskres.stored == []
    assert taskres.derived == ["zero-shot text features", "logit scale"]
    assert taskres.needs == ["feature size", "classes"]
    coop = examine_method(builtin_methods().get("coop"))
    assert coop.trained == ["context: 16 × 512"]
    assert coop.derived == ["token embeddings", "text tower", "logit scale"]
    assert coop.needs == ["token width"]


@pytest.mark.parametrize(
    ("fixed", "per_class", "per_image", "per_both", "words"),
    [
        (0, 0, 0, 0, "0"),
        (2048, 513, 1, 0, "2,048 + 513 · C + N"),
        (0, 0, 0, 1, "C · N"),
        (7, 0, 2, 3, "7 + 2 · N + 3 · C · N"),
    ],
)
def test_sizes_in_words(
    fixed: int, per_class: int, per_image: int, per_both: int, words: str
) -> None:
    draws = [(classes, classes * shots) for classes, shots in DRAWS]
    sizes = [fixed + per_class * c + per_image * n + per_both * c * n for c, n in draws]
    assert write_size(sizes) == words


@pytest.mark.slow
def test_the_committed_page_is_current() -> None:
    # A run within this process may have added a method from a file.
    builtin_methods.cache_clear()
    result = CliRunner().invoke(app, ["list", "methods", "--markdown"])
    assert result.exit_code == 0
    assert result.output == PAGE.read_text(encoding="utf-8")


def test_markdown_is_for_methods_alone() -> None:
    result = CliRunner().invoke(app, ["list", "tasks", "--markdown"])
    assert isinstance(result.exception, CompatbenchError)
    assert "--markdown is for methods, not for tasks" in str(result.exception)
