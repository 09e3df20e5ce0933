"""The finding on digits counts copied modules that can be attached to both new models."""

from __future__ import annotations

import pandas as pd
import real_task


def test_modules_that_cannot_be_attached_or_read_words_are_not_counted() -> None:
    first, second = real_task.TARGETS
    rows = [
        ("coop", "mini-clip", "ok", "copied"),
        ("coop", first, "ok", "copied"),
        ("coop", second, "ok", "copied"),
        ("flyp", first, "not transferable", "copied"),
        ("flyp", second, "not transferable", "copied"),
        ("clipood", first, "ok", "copied"),
        ("clipood", second, "not transferable", "copied"),
        ("rosetta", first, "ok", "words"),
        ("rosetta", second, "ok", "words"),
    ]
    copied = pd.DataFrame(rows, columns=["method", "backbone", "status", "ranked_with"])
    attached = real_task.list_attached(copied)
    assert attached["method"].tolist() == ["coop", "coop"]
    assert attached["backbone"].tolist() == [first, second]


def test_the_number_of_methods_in_the_table_is_that_of_the_answer() -> None:
    sections = real_task.make_sections()
    rows = [line.split(" | ") for line in sections["digits"].splitlines() if line.startswith("| ")]
    methods = sum(int(row[1]) for row in rows if row[1].isdigit())
    assert f" of {methods} copied modules gain" in sections["digits-answer"]
