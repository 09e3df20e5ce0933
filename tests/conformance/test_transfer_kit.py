"""The conformance kit of transfers."""

from __future__ import annotations

from compatbench.conformance import check_transfers
from compatbench.conformance.transfer_checks import CHECKS


def test_a_copied_module_keeps_every_rule_of_transfers() -> None:
    found = check_transfers("copied")
    assert found["check"].tolist() == list(CHECKS)
    assert found["status"].tolist() == ["pass"] * len(CHECKS), found["reason"].tolist()
