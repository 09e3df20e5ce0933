"""Methods that a larger model teaches, beside their authors' trainers."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import open_clip
import pytest
import torch
from checkout import Checkout, under
from test_inside_towers import Parts, give, image_parts, independent_parts, take
from test_prompt_learners import PRECISE
from whole_fits import NAMES, Compare, Problem, fit, make, pose

from compatbench.method import FewShotData, Method, Teacher
from compatbench.methods.kdpl import KDPL
from compatbench.methods.promptkd import PromptKD
from compatbench.methods.promptsrc import PromptSRC


@dataclass(frozen=True)
class Taught(Problem):
    """A problem with a teacher, and its training images as the unlabelled ones."""

    teacher: Problem

    def data(self, method: Method) -> FewShotData:
        own: dict[str, Any] = {one.name: getattr(self, one.name) for one in fields(Problem)}
        own["backbone"] = self.teacher.backbone
        given, taught = (
            replace(few, unlabelled=replace(few.train, targets=few.train.targets * 0 - 1))
            for few in (super().data(method), Problem(**own).data(method))
        )
        return replace(given, teacher=Teacher(self.teacher.backbone, taught))


def teach(problem: Problem, teacher: Problem) -> Taught:
    own = {field.name: getattr(problem, field.name) for field in fields(Problem)}
    return Taught(**own, teacher=teacher)


@pytest.mark.authors("miccunifi/KDPL")
def test_kdpl(checkout: Checkout, compare: Compare, monkeypatch: pytest.MonkeyPatch) -> None:
    problem = teach(pose(), pose(seed=5, embed_dim=24))
    ours, teacher = fit(make(KDPL), problem), problem.teacher.backbone.model
    monkeypatch.setattr(open_clip, "create_model_and_transforms", lambda *_, **__: (teacher, 0, 0))
    settings = under("COOP", **PRECISE | dict(N_CTX=4, CTX_INIT="a photo of a"))
    settings |= under("KDPL", TEACHER="ViT-H-14-quickgelu", CLASS_AGNOSTIC=False, PREC="fp32")
    where: Any = dict(inside="src", absent=["pandas"])
    name = "trainers.coop_kdpl:CoOp_KDPL"
    with checkout.trainer(name, problem, ours, settings, **where) as theirs:
        student = theirs.student_model
        student.prompt_learner.ctx.data.copy_(ours.start["context"])  # type: ignore[index]
        theirs.train()
        compare(ours, {"context": student.prompt_learner.ctx}, student.eval()(problem.queries))


@pytest.mark.authors("zhengli97/PromptKD")
def test_promptkd(
    checkout: Checkout, compare: Compare, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Their teacher has the prompts that PromptSRC has found for ours."""
    sizes: Any = dict(names=NAMES[:3])
    problem = teach(pose(embed_dim=512, **sizes), pose(seed=5, embed_dim=768, **sizes))
    tuned, tune = [], PromptSRC.fit
    monkeypatch.setattr(PromptSRC, "fit", lambda *a: tuned.append(tune(*a)) or tuned[0])
    recipe = PromptSRC.Config().recipe.model_copy(update=dict(epochs=2, batch_size=4))
    ours = fit(make(PromptKD, dict(epochs=3, batch_size=4), teacher_recipe=recipe), problem)
    (tmp_path / "clip").mkdir()
    torch.save(problem.weights, tmp_path / "clip/ViT-B-16.pt")
    torch.save(problem.teacher.weights, tmp_path / "clip/ViT-L-14.pt")
    folder = tmp_path / "teacher_model/Caltech101/VLPromptLearner"
    folder.mkdir(parents=True)
    torch.save({"state_dict": {}, "epoch": 1}, folder / "model-best.pth.tar")
    monkeypatch.chdir(tmp_path)
    settings = under("PROMPTKD", N_CTX_VISION=4, N_CTX_TEXT=4, CTX_INIT="a photo of a")
    settings |= under("PROMPTKD", PROMPT_DEPTH_VISION=9, PROMPT_DEPTH_TEXT=9, PREC="fp32")
    settings |= under("PROMPTKD", KD_WEIGHT=1000.0, TEMPERATURE=1.0, TEACHER_NAME="ViT-L/14")
    settings |= {"TRAINER.NAME": "PromptKD", "TRAINER.MODAL": "base2novel"}

    def find(model: Any) -> Parts:
        down, norm, _, up = model.VPT_image_trans.conv1
        found: Parts = {"down": [*down.weight[..., 0, 0]], "down_bias": [*down.bias]}
        found |= {"up": [*up.weight[..., 0, 0]], "up_bias": [*up.bias]}
        found |= image_parts(model)
        found |= {"gain": [*norm.weight], "shift": [*norm.bias]}
        return found

    with checkout.trainer("trainers.promptkd:PromptKD", problem, ours, settings) as theirs:
        give(independent_parts(theirs.model_teacher), tuned[0])
        give(find(theirs.model), ours.start)
        theirs.train()
        norm = theirs.model.VPT_image_trans.conv1[1]
        _, texts, _ = theirs.model_teacher(problem.queries)
        features, scale = theirs.model.eval()(problem.queries)
        found = take(find(theirs.model))
    found |= dict(mean=norm.running_mean, variance=norm.running_var)
    parameters = {name: ours.module[name] for name in found}
    compare(ours, found, scale * features @ texts.T, parameters=parameters)
