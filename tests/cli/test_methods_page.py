"""docs/methods.md says what the code does."""

from __future__ import annotations

from pathlib import Path

import pytest
from typer.testing import CliRunner

from compatbench.cli.app import app
from compatbench.conformance.capabilities import Size, examine_method
from compatbench.errors import CompatbenchError
from compatbench.method.registry import builtin_methods

PAGE = Path(__file__).parents[2] / "docs" / "methods.md"

# From the papers and their authors' code, at ViT-B/16.
PUBLISHED = {
    "zeroshot": Size(0, 0, 0),
    "coop": Size(8_192, 0, 0),
    "kgcoop": Size(2_048, 0, 0),
    "prograd": Size(8_192, 0, 0),
    "cocoop": Size(35_360, 0, 0),
    "tcp": Size(331_904, 0, 0),
    "contcoop": Size(788_480, 0, 0),
    "maple": Size(3_555_072, 0, 0),
    "promptsrc": Size(46_080, 0, 0),
    "vpt_deep": Size(73_728, 0, 0),
    "clip_adapter": Size(131_072, 0, 0),
    "taskres": Size(0, 512, 0),
    "clap": Size(0, 512, 0),
    "gda": Size(0, 513, 0),
    "tip_adapter_f": Size(0, 0, 512),
    "rosetta": Size(0, 0, 0, 1),
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_modules_have_the_published_number_of_parameters(name: str) -> None:
    assert examine_method(builtin_methods().get(name)).parameters == PUBLISHED[name]


def test_what_is_measured_of_methods_that_are_known() -> None:
    taskres = examine_method(builtin_methods().get("taskres"))
    assert taskres.trained == ("residual: C × 512",)
    assert taskres.stored == ()
    assert taskres.derived == ("zero-shot text features", "logit scale")
    assert taskres.needs == ("feature size", "classes")
    coop = examine_method(builtin_methods().get("coop"))
    assert coop.trained == ("context: 16 × 512",)
    assert coop.derived == ("token embeddings", "text tower", "logit scale")
    assert coop.needs == ("token width",)


@pytest.mark.parametrize(
    ("size", "words"),
    [
        (Size(0, 0, 0), "0"),
        (Size(8192, 0, 0), "8,192"),
        (Size(2048, 513, 0), "2,048 + 513 · C"),
        (Size(0, 512, 1024), "512 · C + 1,024 · N"),
        (Size(0, 0, 0, 1), "C · N"),
        (Size(7, 0, 2, 3), "7 + 2 · N + 3 · C · N"),
    ],
)
def test_sizes_in_words(size: Size, words: str) -> None:
    assert str(size) == words


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
