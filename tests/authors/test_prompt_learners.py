"""CoOp and its relatives beside their authors' trainers, which are Dassl's."""

from __future__ import annotations

import pytest
from checkout import Checkout, under
from whole_fits import Compare, fit, pose

from compatbench.method.trained import Recipe
from compatbench.methods.coop import CoOp

RECIPE = dict(epochs=6, batch_size=8)


@pytest.mark.authors("KaiyangZhou/CoOp")
@pytest.mark.parametrize(("position", "own"), [("end", False), ("middle", True), ("front", False)])
def test_coop(checkout: Checkout, compare: Compare, position: str, own: bool) -> None:
    problem = pose()
    config = dict(context_length=4, position=position, class_specific=own)
    ours = fit(CoOp(CoOp.Config(recipe=Recipe(**RECIPE), **config)), problem)
    settings = under("COOP", N_CTX=4, CTX_INIT="", PREC="fp32", CSC=own)
    settings |= under("COOP", CLASS_TOKEN_POSITION=position)
    with checkout.trainer("trainers.coop:CoOp", problem, ours, settings) as trainer:
        learner = trainer.model.prompt_learner
        learner.ctx.data.copy_(ours.start["context"])
        trainer.train()
        logits = trainer.model.eval()(problem.queries)
    row = f"coop, {position}{' per class' if own else ''}"
    compare(ours, {"context": learner.ctx}, logits, name=row)
