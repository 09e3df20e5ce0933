"""Methods with a larger model as a teacher fit as their authors' trainers do."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import open_clip
import pytest
import torch
from checkout import Checkout, Parts, give, named, pace, take
from trainers import Small, image_parts, independent_parts, run
from whole_fits import NAMES, Problem, fit, pose, recording

from compatbench.method import FewShotData, Method, Teacher
from compatbench.methods.promptsrc import PromptSRC


@dataclass(frozen=True)
class Taught(Problem):
    """A problem with a teacher. Its training images are the unlabelled ones, too."""

    teacher: Problem

    def data(self, method: Method) -> FewShotData:
        """Return the images for a method, with those that the teacher has encoded."""
        values = values_of(self)
        values["backbone"] = self.teacher.backbone
        by_teacher = add_unlabelled(Problem(**values).data(method))
        teacher = Teacher(self.teacher.backbone, by_teacher)
        return replace(add_unlabelled(super().data(method)), teacher=teacher)


def values_of(problem: Problem) -> dict[str, Any]:
    """Return the values of a problem's fields, without those of a subclass."""
    return {field.name: getattr(problem, field.name) for field in fields(Problem)}


def add_unlabelled(data: FewShotData) -> FewShotData:
    """Return the data with the training images as unlabelled ones."""
    without_labels = torch.full_like(data.train.targets, -1)
    return replace(data, unlabelled=replace(data.train, targets=without_labels))


def teach(problem: Problem, teacher: Problem) -> Taught:
    """Return a problem with a teacher."""
    return Taught(**values_of(problem), teacher=teacher)


@pytest.mark.authors("miccunifi/KDPL")
def test_kdpl(checkout: Checkout, monkeypatch: pytest.MonkeyPatch) -> None:
    problem = teach(pose(), pose(seed=5, embed_dim=24))
    teacher = problem.teacher.backbone.model
    monkeypatch.setattr(open_clip, "create_model_and_transforms", lambda *_, **__: (teacher, 0, 0))
    small = Small("kdpl", named(context="prompt_learner.ctx"))
    checkout.compare(*run(checkout, small, problem, model="student_model"))


@pytest.mark.authors("zhengli97/PromptKD")
def test_promptkd(checkout: Checkout, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The authors' teacher gets the prompts that PromptSRC has learned for ours."""
    sizes: Any = dict(names=NAMES[:3])
    problem = teach(pose(embed_dim=512, **sizes), pose(seed=5, embed_dim=768, **sizes))
    published = checkout.published("promptkd", pace(3, 4))
    tuned: list[Any] = []
    recipe = PromptSRC.Config().recipe.model_copy(update=dict(epochs=2, batch_size=4))
    with recording(PromptSRC, "fit", tuned):
        ours = fit(published.method(teacher_recipe=recipe), problem)
    (tmp_path / "clip").mkdir()
    torch.save(problem.weights, tmp_path / "clip/ViT-B-16.pt")
    torch.save(problem.teacher.weights, tmp_path / "clip/ViT-L-14.pt")
    folder = tmp_path / "teacher_model/Caltech101/VLPromptLearner"
    folder.mkdir(parents=True)
    torch.save({"state_dict": {}, "epoch": 1}, folder / "model-best.pth.tar")
    monkeypatch.chdir(tmp_path)

    def find(model: Any) -> Parts:
        down, norm, _, up = model.VPT_image_trans.conv1
        found: Parts = {"down": [*down.weight[..., 0, 0]], "down_bias": [*down.bias]}
        found |= {"up": [*up.weight[..., 0, 0]], "up_bias": [*up.bias]}
        found |= image_parts(model)
        return found | {"gain": [*norm.weight], "shift": [*norm.bias]}

    with checkout.trainer(published, problem, ours) as theirs:
        give(independent_parts(theirs.model_teacher), tuned[0])
        give(find(theirs.model), ours.start)
        theirs.train()
        norm = theirs.model.VPT_image_trans.conv1[1]
        _, texts, _ = theirs.model_teacher(problem.queries)
        features, scale = theirs.model.eval()(problem.queries)
        found = take(find(theirs.model))
    found |= dict(mean=norm.running_mean, variance=norm.running_var)
    parameters = {name: ours.module[name] for name in found}
    checkout.compare(ours, found, scale * features @ texts.T, parameters=parameters)
