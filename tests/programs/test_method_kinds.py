"""Every method is of one kind, which follows from its card."""

from __future__ import annotations

import method_kinds
import pytest

from compatbench.method.registry import builtin_methods


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("coop", method_kinds.TEXT_INPUT),
        ("contcoop+literal", method_kinds.TEXT_INPUT),
        ("tcp", method_kinds.IN_TOWERS),
        ("vpt_deep", method_kinds.IN_TOWERS),
        ("promptkd", method_kinds.IN_TOWERS),
        ("tip_adapter", method_kinds.ADDED),
        ("clip_adapter", method_kinds.ADDED),
        ("linear_probe", method_kinds.OWN_WEIGHTS),
        ("zeroshot", None),
        ("tda", None),
    ],
)
def test_the_kind_of_a_method_follows_its_card(name: str, kind: str | None) -> None:
    assert method_kinds.kind_of(name) == kind


def test_groups_have_every_method_with_a_module_once() -> None:
    names = sorted(builtin_methods().names())
    groups = method_kinds.group_methods(names)
    assert list(groups) == list(method_kinds.KINDS)
    grouped = [name for methods in groups.values() for name in methods]
    assert sorted(grouped) == [name for name in names if method_kinds.kind_of(name)]
