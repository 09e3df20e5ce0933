"""ATPrompt beside its authors' trainer."""

from __future__ import annotations

from typing import Any

import pytest
from checkout import Checkout, under
from test_inside_towers import compare_fits
from test_prompt_learners import PRECISE, make
from torch import Tensor
from whole_fits import Compare, fit, pose

from compatbench.methods.atprompt import ATPrompt


@pytest.mark.authors("zhengli97/ATPrompt")
def test_atprompt(checkout: Checkout, compare: Compare) -> None:
    problem = pose()
    ours = fit(make(ATPrompt, attributes=("color", "habitat", "growth")), problem)
    words = dict(USE_ATPROMPT=True, ATT_NUM=3, N_ATT1=2, N_ATT2=2, N_ATT3=2)
    words |= dict(ATT1_TEXT="color", ATT2_TEXT="habitat", ATT3_TEXT="growth")
    settings = under("COOP", **PRECISE | dict(N_CTX=2)) | under("ATPROMPT", **words)

    def find(model: Any) -> dict[str, Tensor | list[Tensor]]:
        learner = model.prompt_learner
        attributes = [learner.ctx_att1, learner.ctx_att2, learner.ctx_att3]
        return {"context": [*learner.ctx], "attribute_context": attributes}

    trainer = "trainers.coop_atp:CoOp_ATP"
    compare_fits(checkout, compare, trainer, ours, problem, settings, find)
