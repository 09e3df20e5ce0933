"""Method files are checked, this one too: a sound method, and one that breaks each rule alone."""

from __future__ import annotations

import itertools
import os
import random
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from pydantic import ConfigDict
from torch import Tensor

from compatbench.backbone import PIXELS, BlockUpdates, ImageInput
from compatbench.data.task import load_task
from compatbench.method import (
    Backbone,
    Classifier,
    CosineClassifier,
    FewShotData,
    Labels,
    Method,
    MethodCard,
    Module,
    require_shape,
)


def describe(**changes: Any) -> MethodCard:
    values: dict[str, Any] = dict(
        name="",
        title="Sound",
        paper="none",
        inserts="classifier",
        summary="a residual on the class weights towards the mean of the shots",
        zero_shot_at={"residual": 0},
    )
    return MethodCard(**values | changes)


# By method: the only check that it must fail, and what the reason must say.
BROKEN: dict[str, tuple[str, str]] = {}


class Sound(Method):
    """w_c = t_c + x_c, with x_c a little of the mean feature of class c, and noise."""

    card = describe(name="Sound")

    def __init_subclass__(cls, breaks: str = "") -> None:
        cls.card = replace(cls.card, name=cls.__name__)
        check, _, reason = breaks.partition(": ")
        if check:
            BROKEN[cls.__name__] = check, reason

    def fit(self, backbone: Backbone, data: FewShotData, rng: torch.Generator) -> Module:
        residual = 0.01 * torch.randn(len(data.labels), backbone.embed_dim, generator=rng)
        for c in range(len(data.labels)):
            own = data.train.plain[data.train.targets == c]
            if len(own):
                residual[c] += 0.1 * F.normalize(own.mean(0), dim=0)
        return Module(trained={"residual": residual})

    def attach(self, module: Module, backbone: Backbone, labels: Labels) -> Classifier:
        require_shape(module, "residual", backbone.embed_dim, "image features of size")
        residual = require_shape(module, "residual", len(labels), "a number of classes of", dim=0)
        return self.classifier(backbone.zero_shot(labels) + residual, backbone.logit_scale)

    def classifier(self, weights: Tensor, scale: float) -> Classifier:
        return lambda features: scale * F.normalize(features, dim=-1) @ weights.T


class Free(Sound):
    """At no setting it is zero-shot."""

    card = describe(zero_shot_at={})


class NoSummary(Sound, breaks="card: 'summary' is empty"):
    card = describe(summary="")


class ExcusedFromNothing(Sound, breaks="card: excuses it from 'beauty', which is no check"):
    card = describe(excused={"beauty": "it is not pretty"})


class NeedlesslyExcused(Sound, breaks="class-order: but it passes"):
    card = describe(excused={"class-order": "its classes have an order"})


class TakesAnySetting(Sound, breaks="settings: unknown setting is accepted"):
    class Config(Sound.Config):
        model_config = ConfigDict(extra="ignore")


class NotFinite(Sound, breaks="fit: 'unused' has numbers that are not finite"):
    def fit(self, backbone: Backbone, data: FewShotData, rng: torch.Generator) -> Module:
        module = super().fit(backbone, data, rng)
        return Module(module.trained | {"unused": torch.tensor([torch.nan])})


class RaisesInFit(
    Sound, breaks=r"fit: ZeroDivisionError: one over nought \(broken_methods.py:\d+\)"
):
    def fit(self, backbone: Backbone, data: FewShotData, rng: torch.Generator) -> Module:
        raise ZeroDivisionError("one over nought")


class AnswersNothing(Sound, breaks=r"attach: the classifier returned nothing \(None\)"):
    def classifier(self, weights: Tensor, scale: float) -> Any:
        return lambda features: None


class CountsItsFits(Sound, breaks="same-seed: 'residual' differ"):
    fits = itertools.count()

    def fit(self, backbone: Backbone, data: FewShotData, rng: torch.Generator) -> Module:
        residual = super().fit(backbone, data, rng)["residual"]
        return Module(trained={"residual": residual + 1e-6 * next(self.fits)})


class KeepsImages(Sound, breaks="same-seed: a fit changes 'seen' of its class, which the next"):
    """Its shots are all that any fit of this process was given."""

    seen: dict[float, Tensor] = {}

    def fit(self, backbone: Backbone, data: FewShotData, rng: torch.Generator) -> Module:
        module = super().fit(backbone, data, rng)
        self.seen[float(data.train.plain.sum())] = data.train.plain.mean(0)
        kept = torch.stack([self.seen[total] for total in sorted(self.seen)]).mean(0)
        return Module(trained={"residual": module["residual"] + 1e-3 * kept})


class LearnsNothing(Sound, breaks="other-seed: gave the same module"):
    def fit(self, backbone: Backbone, data: FewShotData, rng: torch.Generator) -> Module:
        return Module(trained={"residual": torch.zeros(len(data.labels), backbone.embed_dim)})


class SeedsTheWorld(Sound, breaks="global-randomness: draw from `rng`"):
    def fit(self, backbone: Backbone, data: FewShotData, rng: torch.Generator) -> Module:
        random.seed(rng.initial_seed())
        return super().fit(backbone, data, rng)


class TrainsTheBackbone(Sound, breaks="backbone-unchanged: of the source backbone changed"):
    def fit(self, backbone: Backbone, data: FewShotData, rng: torch.Generator) -> Module:
        next(backbone.model.parameters()).data.add_(0.01)
        return super().fit(backbone, data, rng)


class LeavesGradients(Sound, breaks="backbone-unchanged: left with gradients"):
    def fit(self, backbone: Backbone, data: FewShotData, rng: torch.Generator) -> Module:
        backbone.model.requires_grad_(True)
        return super().fit(backbone, data, rng)


class NormalisesItsData(Sound, breaks="data-unchanged: were written to"):
    def fit(self, backbone: Backbone, data: FewShotData, rng: torch.Generator) -> Module:
        data.train.plain.copy_(F.normalize(data.train.plain, dim=-1))
        return super().fit(backbone, data, rng)


class WantsTwoShots(Sound, breaks="few-shots: one shot: ValueError: a variance needs two images"):
    def fit(self, backbone: Backbone, data: FewShotData, rng: torch.Generator) -> Module:
        if torch.bincount(data.train.targets, minlength=len(data.labels)).min() < 2:
            raise ValueError("a variance needs two images")
        return super().fit(backbone, data, rng)


class WantsValidationImages(Sound, breaks="odd-draws: no validation images: "):
    def fit(self, backbone: Backbone, data: FewShotData, rng: torch.Generator) -> Module:
        data.val.plain.max()
        return super().fit(backbone, data, rng)


class TakesTheFirstTensor(Free, breaks="round-trip: other logits than the fitted one"):
    """The order of tensors is not kept in a file; their names are."""

    def fit(self, backbone: Backbone, data: FewShotData, rng: torch.Generator) -> Module:
        residual = super().fit(backbone, data, rng)["residual"]
        return Module(trained={"the one": residual, "another": -residual})

    def attach(self, module: Module, backbone: Backbone, labels: Labels) -> Classifier:
        first = next(iter(module.trained.values()))
        return super().attach(Module({"residual": first}), backbone, labels)


class RemembersItsFit(Sound, breaks="source-classifier: keep all that attach needs in the module"):
    shift = 0.0

    def fit(self, backbone: Backbone, data: FewShotData, rng: torch.Generator) -> Module:
        self.shift = float(data.train.plain.mean())
        return super().fit(backbone, data, rng)

    def attach(self, module: Module, backbone: Backbone, labels: Labels) -> Classifier:
        classify = super().attach(module, backbone, labels)
        return lambda features: classify(features + self.shift)


class LoadsATask(Sound, breaks="needs: it loads a backbone or a task itself"):
    def fit(self, backbone: Backbone, data: FewShotData, rng: torch.Generator) -> Module:
        load_task("mini-food")
        return super().fit(backbone, data, rng)


class NeedsForNothing(Sound, breaks="needs: needs 'stream', but another makes no difference"):
    card = describe(needs={"stream"})


class UsesNoTeacher(Sound, breaks="needs: needs 'teacher', but another makes no difference"):
    card = describe(needs={"teacher"})

    class Config(Sound.Config):
        teacher: str = "another"


class Machine(Free):
    """Its logits depend on what the machine says."""

    def classifier(self, weights: Tensor, scale: float) -> Classifier:
        return super().classifier(weights, scale * (2 + self.ask()))

    @staticmethod
    def ask() -> float:
        return 0.0


QUESTIONS = {
    "AsksForItsHome": lambda: len(str(Path.home())) / 1000,
    "AsksForTheFolder": lambda: len(str(Path.cwd())) / 1000,
    "AsksForTheProcess": lambda: os.getpid() / 1e6,
    "AsksForTheHour": lambda: time.localtime().tm_hour / 100,
    "AsksForAHash": lambda: hash("boost") % 1000 / 1000,
}
for name, ask in QUESTIONS.items():
    breaks = "other-process: a new process gives other logits on the source"
    members = {"ask": staticmethod(ask), "__module__": __name__}
    globals()[name] = type(name, (Machine,), members, breaks=breaks)


class LooksAtImages(Sound, breaks="no-image: gave the source's image tower an image"):
    def attach(self, module: Module, backbone: Backbone, labels: Labels) -> Classifier:
        backbone.encode_images(torch.zeros(1, 3, 48, 48))
        return super().attach(module, backbone, labels)


class ShrinksTheModule(Sound, breaks="module-unchanged: writes to the module's tensors"):
    def attach(self, module: Module, backbone: Backbone, labels: Labels) -> Classifier:
        module["residual"].mul_(0.5)
        return super().attach(module, backbone, labels)


class CarriesTextFeatures(
    Sound, breaks="derived-not-stored: 'text' holds zero-shot weights of the source"
):
    card = describe(zero_shot_at={})

    def fit(self, backbone: Backbone, data: FewShotData, rng: torch.Generator) -> Module:
        module = super().fit(backbone, data, rng)
        return Module(module.trained, {"text": backbone.zero_shot(data.labels)})

    def attach(self, module: Module, backbone: Backbone, labels: Labels) -> Classifier:
        super().attach(module, backbone, labels)
        return self.classifier(module["text"] + module["residual"], backbone.logit_scale)


class CarriesTheScale(Sound, breaks="derived-not-stored: 'scale' is the source's logit scale"):
    def fit(self, backbone: Backbone, data: FewShotData, rng: torch.Generator) -> Module:
        module = super().fit(backbone, data, rng)
        return Module(module.trained, {"scale": torch.tensor(backbone.logit_scale)})


class CrashesOnOtherSizes(
    Sound, breaks="other-sizes: another joint space: raise NotTransferable, not Runtime"
):
    def attach(self, module: Module, backbone: Backbone, labels: Labels) -> Classifier:
        residual = require_shape(module, "residual", len(labels), "a number of classes of", dim=0)
        return self.classifier(backbone.zero_shot(labels) + residual, backbone.logit_scale)


class CutsToFit(Sound, breaks="other-sizes: nothing is cut or padded to fit"):
    def attach(self, module: Module, backbone: Backbone, labels: Labels) -> Classifier:
        residual = module["residual"]
        padded = F.pad(residual, (0, backbone.embed_dim - residual.shape[1]))
        return super().attach(Module({"residual": padded}), backbone, labels)


class DoublePrecision(Free, breaks="logits: torch.float64, not float32"):
    def classifier(self, weights: Tensor, scale: float) -> Classifier:
        classify = super().classifier(weights, scale)
        return lambda features: classify(features).double()


class CentresTheBatch(Free, breaks="batch-size: one by one on the source, logits differ"):
    def classifier(self, weights: Tensor, scale: float) -> Classifier:
        classify = super().classifier(weights, scale)
        return lambda features: classify(features - 0.5 * features.mean(0))


class KeepsItsStream(Sound, breaks="batch-size: a call is a stream of its own"):
    card = describe(zero_shot_at={}, needs={"stream"})

    def classifier(self, weights: Tensor, scale: float) -> Classifier:
        classify, seen = super().classifier(weights, scale), list[Tensor]()

        def centre(features: Tensor) -> Tensor:
            seen.append(features)
            return classify(features - 0.5 * torch.cat(seen).mean(0) * len(seen))

        return centre


class NormalisesInPlace(Sound, breaks="inputs-unchanged: writes to the features it is given"):
    def classifier(self, weights: Tensor, scale: float) -> Classifier:
        def classify(features: Tensor) -> Tensor:
            features.div_(features.norm(dim=-1, keepdim=True))
            return scale * features @ weights.T

        return classify


class SortsTheNames(Free, breaks="class-order: do not follow the order of the class names"):
    def attach(self, module: Module, backbone: Backbone, labels: Labels) -> Classifier:
        ordered = Labels(tuple(sorted(labels.names)), labels.templates, labels.teacher_template)
        return super().attach(module, backbone, ordered)


class CrashesOnFewerClasses(Sound, breaks="class-subset: RuntimeError: The size of tensor"):
    def attach(self, module: Module, backbone: Backbone, labels: Labels) -> Classifier:
        residual = require_shape(module, "residual", backbone.embed_dim, "image features of size")
        return self.classifier(backbone.zero_shot(labels) + residual, backbone.logit_scale)


class ClaimsToBeZeroShot(Sound, breaks="zero-shot-setting: away from zero-shot"):
    card = describe(zero_shot_at={"residual": 1})


class ClaimsAPrompt(Sound, breaks="place: acts at output, undeclared; declares text-input"):
    card = describe(inserts="text-input")


class ClaimsAPromptToo(Sound, breaks="place: declares text-input, where nothing changes"):
    card = describe(inserts=("text-input", "classifier"))


class ReadsTheModel(Sound, breaks="turned-space: ask the backbone for features, not its model"):
    def attach(self, module: Module, backbone: Backbone, labels: Labels) -> Classifier:
        super().attach(module, backbone, labels)
        with torch.no_grad():
            text = backbone.model.encode_text(backbone.tokenizer(list(labels.fill())))  # type: ignore[operator]
        weights = F.normalize(text, dim=-1) + module["residual"]
        return self.classifier(weights, backbone.logit_scale)


class Told(Sound):
    """It uses everything that a card can ask for."""

    card = describe(needs={"unlabelled", "teacher", "stream"}, zero_shot_at={})

    class Config(Sound.Config):
        teacher: str = "another"

    def fit(self, backbone: Backbone, data: FewShotData, rng: torch.Generator) -> Module:
        assert data.teacher is not None
        assert data.unlabelled is not None
        assert data.unlabelled.targets.unique().tolist() == [-1]
        told = data.teacher.data
        assert told.unlabelled is not None
        assert told.train.plain.shape[1] != backbone.embed_dim
        residual = super().fit(backbone, data, rng)["residual"]
        seen = data.unlabelled.plain.mean(0) + told.unlabelled.plain.mean()
        return Module({"residual": residual + 0.01 * seen + told.train.plain.mean()})

    def classifier(self, weights: Tensor, scale: float) -> Classifier:
        classify = super().classifier(weights, scale)
        return lambda features: classify(features - 0.5 * features.mean(0))


class Untold(Told, breaks="fit: AssertionError"):
    card = describe()


class ReadsDescriptions(Sound):
    card = describe(needs={"descriptions"}, zero_shot_at={})

    def attach(self, module: Module, backbone: Backbone, labels: Labels) -> Classifier:
        super().attach(module, backbone, labels)  # which refuses other sizes
        described = torch.stack([rows.mean(0) for rows in backbone.describe(labels)])
        return self.classifier(module["residual"] + described, backbone.logit_scale)


class ReadsThemUndeclared(ReadsDescriptions):
    card = describe()


class Excused(SortsTheNames):
    card = describe(zero_shot_at={}, excused={"class-order": "its classes have an order"})


class UpdatesBlocks(Sound):
    """It acts inside both towers."""

    card = describe(inserts=("text-layers", "image-layers"), zero_shot_at={})

    def image_input(self, backbone: Backbone) -> ImageInput:
        return PIXELS

    def change(self, output: Tensor, shift: Tensor) -> Tensor:
        return output + shift

    def attach(self, module: Module, backbone: Backbone, labels: Labels) -> Classifier:
        shift = module["residual"].mean()

        def update(output: Tensor, entering: Tensor) -> Tensor:
            return self.change(output, shift)

        updates: BlockUpdates = {(1, "mlp"): update}
        prompts = backbone.text_prompts(labels.fill())
        compare = CosineClassifier(backbone.encode_prompts(prompts, block_updates=updates), 1.0)
        return lambda x: compare(backbone.image.encode(x, block_updates=updates))


class MixesRows(UpdatesBlocks):
    def change(self, output: Tensor, shift: Tensor) -> Tensor:
        return output + shift * output.mean(-2, keepdim=True)


class UpdatesUndeclared(UpdatesBlocks):
    card = describe(inserts="image-layers", zero_shot_at={})
