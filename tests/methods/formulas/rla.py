"""RLA: its logits and its first step, written out from the paper, without the harness."""

from __future__ import annotations

from torch import Tensor

from formulas import Case, Formula, adam, logits_test, step_test


def logits(at: Case) -> Tensor:
    """Return s · cos(f (I + D), t_c), ``[images, classes]``."""
    return at.cosines(at.photos, at.images + at.images @ at.own["projection"])


def loss(at: Case) -> Tensor:
    """Return cross-entropy + ½ ‖D‖², with two shots a class."""
    return at.entropy(logits(at)) + at.own["projection"].square().sum() / 2


FORMULA = Formula("rla", logits, loss, adam(eps=1e-4))
test_logits_equal_the_formula = logits_test([FORMULA])
test_first_step_follows_the_gradient_of_the_formula = step_test([FORMULA])
