"""Method files are checked, this one too: sound methods, and one for each way to break a rule."""

from __future__ import annotations

import itertools
import os
import random
import time
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

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
from compatbench.method.trained import Batch, Recipe, TrainedMethod


class Fault(NamedTuple):
    """The only check that a method must fail, what the reason must say, and if it has the line."""

    check: str
    pattern: str
    has_line: bool


FAULTS: dict[str, Fault] = {}


def note(cls: type[Method], breaks: str, has_line: bool) -> None:
    """Names a method as its class, and notes what it breaks: ``check: reason``."""
    cls.card = replace(cls.card, name=cls.__name__)
    check, _, reason = breaks.partition(": ")
    if check:
        FAULTS[cls.__name__] = Fault(check, reason, has_line)


def describe(**changes: Any) -> MethodCard:
    values: dict[str, Any] = dict(
        name="Sound",
        title="Sound",
        paper="none",
        inserts="classifier",
        summary="a residual on the class weights towards the mean of the shots",
        zero_shot_at={"residual": 0},
    )
    return MethodCard(**values | changes)


class Sound(Method):
    """w_c = t_c + x_c, with x_c a little of the mean feature of class c, and noise."""

    card = describe()

    def __init_subclass__(cls, breaks: str = "") -> None:
        note(cls, breaks, has_line=False)

    def fit(self, backbone: Backbone, data: FewShotData, rng: torch.Generator) -> Module:
        self.begin(backbone, data, rng)
        residual = 0.01 * torch.randn(len(data.labels), backbone.embed_dim, generator=rng)
        for c in range(len(data.labels)):
            own = data.train.plain[data.train.targets == c]
            if len(own):
                residual[c] += 0.1 * F.normalize(own.mean(0), dim=0)
        return self.end(Module(trained={"residual": residual}), backbone, data)

    def attach(self, module: Module, backbone: Backbone, labels: Labels) -> Classifier:
        require_shape(module, "residual", backbone.embed_dim, "image features of size")
        residual = require_shape(module, "residual", len(labels), "a number of classes of", dim=0)
        weights = backbone.zero_shot(labels) + residual
        return self.classifier(self.weigh(weights, module, backbone, labels), backbone.logit_scale)

    def classifier(self, weights: Tensor, scale: float) -> Classifier:
        def classify(features: Tensor) -> Tensor:
            features = F.normalize(self.see(features), dim=-1)
            return self.answer(scale * features @ weights.T)

        return classify

    # What a faulty method does besides, or instead.
    def begin(self, backbone: Backbone, data: FewShotData, rng: torch.Generator) -> None: ...

    def end(self, module: Module, backbone: Backbone, data: FewShotData) -> Module:
        return module

    def weigh(self, weights: Tensor, module: Module, backbone: Backbone, labels: Labels) -> Tensor:
        return weights

    def see(self, features: Tensor) -> Tensor:
        return features

    def answer(self, logits: Tensor) -> Any:
        return logits


class Free(Sound):
    """At no setting it is zero-shot."""

    card = describe(zero_shot_at={})


def break_rule(name: str, breaks: str, of: type[Sound] = Sound, **members: Any) -> None:
    """A method that is sound but for these members."""
    members = {"__module__": __name__, **members}
    globals()[name] = type(name, (of,), members, breaks=breaks)


def raise_error(error: Exception) -> None:
    raise error


def look_at_one_image(self: Any, weights: Tensor, module: Any, backbone: Any, *_: Any) -> Tensor:
    backbone.encode_images(torch.zeros(1, 3, 48, 48))
    return weights


break_rule("NoSummary", "card: 'summary' is empty", card=describe(summary=""))
break_rule(
    "ExcusedFromNothing",
    "card: excuses it from 'beauty', which is no check",
    card=describe(excused={"beauty": "it is not pretty"}),
)
break_rule(
    "NeedlesslyExcused",
    "class-order: but it passes",
    card=describe(excused={"class-order": "its classes have an order"}),
)
break_rule(
    "NotFinite",
    "fit: 'unused' has numbers that are not finite",
    end=lambda _, module, *__: Module(module.trained | {"unused": torch.tensor([torch.nan])}),
)
break_rule(
    "RaisesInFit",
    r"fit: ZeroDivisionError: one over nought \(faulty_methods.py:\d+\)",
    begin=lambda *_: raise_error(ZeroDivisionError("one over nought")),
)
break_rule(
    "CountsItsFits",
    "same-seed: 'residual' differ",
    fits=itertools.count(),
    end=lambda self, module, *_: Module({"residual": module["residual"] + 1e-6 * next(self.fits)}),
)
break_rule(
    "LearnsNothing",
    "other-seed: gave the same module",
    end=lambda _, module, *__: Module({"residual": torch.zeros_like(module["residual"])}),
)
break_rule(
    "SeedsTheWorld",
    "global-randomness: draw from `rng`",
    begin=lambda _, __, ___, rng: random.seed(rng.initial_seed()),
)
break_rule(
    "TrainsTheBackbone",
    "backbone-unchanged: of the source backbone changed",
    begin=lambda _, backbone, *__: next(backbone.model.parameters()).data.add_(0.01),
)
break_rule(
    "LeavesGradients",
    "backbone-unchanged: left with gradients",
    begin=lambda _, backbone, *__: backbone.model.requires_grad_(True),
)
break_rule(
    "NormalisesItsData",
    "data-unchanged: were written to",
    begin=lambda _, __, data, ___: data.train.plain.copy_(F.normalize(data.train.plain, dim=-1)),
)
break_rule(
    "WantsValidationImages",
    "odd-draws: no validation images: ",
    begin=lambda _, __, data, ___: data.val.plain.max(),
)
break_rule(
    "LoadsATask",
    "needs: it loads a backbone or a task itself",
    begin=lambda *_: load_task("mini-food"),
)
break_rule(
    "NeedsForNothing",
    "needs: needs 'stream', but another makes no difference",
    card=describe(needs={"stream"}),
)
break_rule(
    "LooksAtImages",
    "no-image: gave the source's image tower an image",
    weigh=look_at_one_image,
)
break_rule(
    "CarriesTheScale",
    "derived-not-stored: 'scale' is the source's logit scale",
    end=lambda _, module, backbone, __: Module(
        module.trained, {"scale": torch.tensor(backbone.logit_scale)}
    ),
)
break_rule(
    "CarriesTextFeatures",
    "derived-not-stored: 'text' holds zero-shot weights of the source",
    Free,
    end=lambda _, module, backbone, data: Module(
        module.trained, {"text": backbone.zero_shot(data.labels)}
    ),
    weigh=lambda _, __, module, *___: module["text"] + module["residual"],
)
break_rule(
    "DoublePrecision",
    "logits: torch.float64, not float32",
    Free,
    answer=lambda _, logits: logits.double(),
)
break_rule(
    "CentresTheBatch",
    "batch-size: one by one on the source, logits differ",
    Free,
    see=lambda _, features: features - 0.5 * features.mean(0),
)
break_rule(
    "NormalisesInPlace",
    "inputs-unchanged: writes to the features it is given",
    see=lambda _, features: features.div_(features.norm(dim=-1, keepdim=True)),
)
break_rule(
    "ClaimsToBeZeroShot",
    "zero-shot-setting: away from zero-shot",
    card=describe(zero_shot_at={"residual": 1}),
)
break_rule(
    "ClaimsAPrompt",
    "place: acts at output, undeclared; declares text-input",
    card=describe(inserts="text-input"),
)
break_rule(
    "ClaimsAPromptToo",
    "place: declares text-input, where nothing changes",
    card=describe(inserts=("text-input", "classifier")),
)
# What the logits of a method depend on, which the machine says.
QUESTIONS = {
    "AsksForItsHome": lambda: len(str(Path.home())) / 1000,
    "AsksForTheFolder": lambda: len(str(Path.cwd())) / 1000,
    "AsksForTheProcess": lambda: os.getpid() / 1e6,
    "AsksForTheHour": lambda: time.localtime().tm_hour / 100,
    "AsksForAHash": lambda: hash("boost") % 1000 / 1000,
}
for name, ask in QUESTIONS.items():
    breaks = "other-process: a new process gives other logits on the source"
    break_rule(name, breaks, Free, answer=lambda _, logits, ask=ask: logits * (2 + ask()))


class TakesAnySetting(Sound, breaks="settings: unknown setting is accepted"):
    class Config(Sound.Config):
        model_config = ConfigDict(extra="ignore")


class KeepsImages(Sound, breaks="same-seed: a fit changes 'seen' of its class, which the next"):
    """Its shots are all that any fit of this process was given."""

    seen: dict[float, Tensor] = {}

    def end(self, module: Module, backbone: Backbone, data: FewShotData) -> Module:
        self.seen[float(data.train.plain.sum())] = data.train.plain.mean(0)
        kept = torch.stack([self.seen[total] for total in sorted(self.seen)]).mean(0)
        return Module(trained={"residual": module["residual"] + 1e-3 * kept})


class WantsTwoShots(Sound, breaks="few-shots: one shot: ValueError: a variance needs two images"):
    def begin(self, backbone: Backbone, data: FewShotData, rng: torch.Generator) -> None:
        if torch.bincount(data.train.targets, minlength=len(data.labels)).min() < 2:
            raise ValueError("a variance needs two images")


class TakesTheFirstTensor(Free, breaks="round-trip: other logits than the fitted one"):
    """The order of tensors is not kept in a file; their names are."""

    def end(self, module: Module, backbone: Backbone, data: FewShotData) -> Module:
        return Module(trained={"the one": module["residual"], "another": -module["residual"]})

    def attach(self, module: Module, backbone: Backbone, labels: Labels) -> Classifier:
        first = next(iter(module.trained.values()))
        return super().attach(Module({"residual": first}), backbone, labels)


class RemembersItsFit(Sound, breaks="source-classifier: keep all that attach needs in the module"):
    shift = 0.0

    def begin(self, backbone: Backbone, data: FewShotData, rng: torch.Generator) -> None:
        self.shift = float(data.train.plain.mean())

    def see(self, features: Tensor) -> Tensor:
        return features + self.shift


class UsesNoTeacher(Sound, breaks="needs: needs 'teacher', but another makes no difference"):
    card = describe(needs={"teacher"})

    class Config(Sound.Config):
        teacher: str = "another"


class ShrinksTheModule(Sound, breaks="module-unchanged: writes to the module's tensors"):
    def attach(self, module: Module, backbone: Backbone, labels: Labels) -> Classifier:
        module["residual"].mul_(0.5)
        return super().attach(module, backbone, labels)


class CrashesOnOtherSizes(
    Sound, breaks="other-sizes: another joint space: raise NotTransferable, not Runtime"
):
    def attach(self, module: Module, backbone: Backbone, labels: Labels) -> Classifier:
        residual = require_shape(module, "residual", len(labels), "a number of classes of", dim=0)
        return self.classifier(backbone.zero_shot(labels) + residual, backbone.logit_scale)


class CrashesOnFewerClasses(Sound, breaks="class-subset: RuntimeError: The size of tensor"):
    def attach(self, module: Module, backbone: Backbone, labels: Labels) -> Classifier:
        residual = require_shape(module, "residual", backbone.embed_dim, "image features of size")
        return self.classifier(backbone.zero_shot(labels) + residual, backbone.logit_scale)


class CutsToFit(Sound, breaks="other-sizes: nothing is cut or padded to fit"):
    def attach(self, module: Module, backbone: Backbone, labels: Labels) -> Classifier:
        residual = module["residual"]
        padded = F.pad(residual, (0, backbone.embed_dim - residual.shape[1]))
        return super().attach(Module({"residual": padded}), backbone, labels)


class KeepsItsStream(Sound, breaks="batch-size: a call is a stream of its own"):
    card = describe(zero_shot_at={}, needs={"stream"})

    def classifier(self, weights: Tensor, scale: float) -> Classifier:
        classify, seen = super().classifier(weights, scale), list[Tensor]()

        def centre(features: Tensor) -> Tensor:
            seen.append(features)
            return classify(features - 0.5 * torch.cat(seen).mean(0) * len(seen))

        return centre


class SortsTheNames(Free, breaks="class-order: do not follow the order of the class names"):
    def attach(self, module: Module, backbone: Backbone, labels: Labels) -> Classifier:
        ordered = Labels(tuple(sorted(labels.names)), labels.templates, labels.teacher_template)
        return super().attach(module, backbone, ordered)


class Excused(SortsTheNames):
    card = describe(zero_shot_at={}, excused={"class-order": "its classes have an order"})


class ReadsTheModel(Sound, breaks="turned-space: ask the backbone for features, not its model"):
    def weigh(self, weights: Tensor, module: Module, backbone: Backbone, labels: Labels) -> Tensor:
        with torch.no_grad():
            text = backbone.model.encode_text(backbone.tokenizer(list(labels.fill())))  # type: ignore[operator]
        return F.normalize(text, dim=-1) + module["residual"]


class Told(Sound):
    """It uses everything that a card can ask for."""

    card = describe(needs={"unlabelled", "teacher", "stream"}, zero_shot_at={})

    class Config(Sound.Config):
        teacher: str = "another"

    def end(self, module: Module, backbone: Backbone, data: FewShotData) -> Module:
        assert data.teacher is not None
        assert data.unlabelled is not None
        assert data.unlabelled.targets.unique().tolist() == [-1]
        told = data.teacher.data
        assert told.unlabelled is not None
        assert told.train.plain.shape[1] != backbone.embed_dim
        seen = data.unlabelled.plain.mean(0) + told.unlabelled.plain.mean()
        residual = module["residual"] + 0.01 * seen + told.train.plain.mean()
        return Module({"residual": residual})

    def see(self, features: Tensor) -> Tensor:
        return features - 0.5 * features.mean(0)


class Untold(Told, breaks="fit: AssertionError"):
    card = describe()


class ReadsDescriptions(Sound):
    card = describe(needs={"descriptions"}, zero_shot_at={})

    def weigh(self, weights: Tensor, module: Module, backbone: Backbone, labels: Labels) -> Tensor:
        described = torch.stack([rows.mean(0) for rows in backbone.describe(labels)])
        return module["residual"] + described


class ReadsThemUndeclared(ReadsDescriptions):
    card = describe()


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


class Scales(TrainedMethod):
    """f' = γ ⊙ f, then zero-shot classification; of mistakes in it a reason names the line."""

    card = MethodCard("Scales", "Scales", "none", "feature", "a scale of every channel")

    def __init_subclass__(cls, told: str = "") -> None:
        note(cls, told, has_line=True)

    def init(self, backbone: Backbone, data: FewShotData, rng: torch.Generator) -> Module:
        return Module(trained={"scale": 1 + 0.1 * torch.randn(backbone.embed_dim, generator=rng)})

    def attach(self, module: Module, backbone: Backbone, labels: Labels) -> Classifier:
        scale = require_shape(module, "scale", backbone.embed_dim, "image features of size")
        compare = CosineClassifier(backbone.zero_shot(labels), backbone.logit_scale)
        return lambda features: compare(scale * features)


class ForgetsAClass(Scales, told=r"fit: logits have shape \[15, 4\], not \[15, 5\]"):
    def attach(self, module: Module, backbone: Backbone, labels: Labels) -> Classifier:
        classify = super().attach(module, backbone, labels)
        return lambda features: classify(features)[:, 1:]


class ForgetsAClassInItsLoss(
    Scales, told=r"fit: IndexError: Target 4 is out of bounds.; logits need a column for each class"
):
    def loss(self, classifier: Any, batch: Batch) -> Tensor:
        return F.cross_entropy(classifier(batch.inputs)[:, :4], batch.targets)


class LeaksAGradient(Scales, told="fit: trained tensor 'scale' has a gradient of its own: .*det"):
    def init(self, backbone: Backbone, data: FewShotData, rng: torch.Generator) -> Module:
        return Module(trained={"scale": 1.0 * torch.ones(backbone.embed_dim, requires_grad=True)})


class TrainsIntegers(Scales, told="fit: trained tensor 'scale' is torch.int64; .* of float32"):
    def init(self, backbone: Backbone, data: FewShotData, rng: torch.Generator) -> Module:
        return Module(trained={"scale": torch.arange(backbone.embed_dim)})


class TrainsNothing(Scales, told="fit: the module has no trained tensors"):
    def init(self, backbone: Backbone, data: FewShotData, rng: torch.Generator) -> Module:
        return Module(stored={"scale": torch.ones(backbone.embed_dim)})


class TrainsElsewhere(Scales, told="fit: tensor 'scale' is on meta and the backbone on cpu; give"):
    def init(self, backbone: Backbone, data: FewShotData, rng: torch.Generator) -> Module:
        return Module(trained={"scale": torch.ones(backbone.embed_dim, device="meta")})


class ComputesElsewhere(Scales, told="fit: .* make tensors with device=backbone.device"):
    def attach(self, module: Module, backbone: Backbone, labels: Labels) -> Classifier:
        classify = super().attach(module, backbone, labels)
        shift = torch.zeros(backbone.embed_dim, device="meta")
        return lambda features: classify(torch.cat([features, shift[None]]))


class HasALossForEachImage(
    Scales, told=r"fit: the loss is shape \[15\], not a tensor of one number; take its"
):
    def loss(self, classifier: Any, batch: Batch) -> Tensor:
        return F.cross_entropy(classifier(batch.inputs), batch.targets, reduction="none")


class HasNoLoss(Scales, told=r"fit: the loss is nothing \(None\), not a tensor of one"):
    def loss(self, classifier: Any, batch: Batch) -> Any:
        F.cross_entropy(classifier(batch.inputs), batch.targets)


class HasNoGradient(Scales, told=r"fit: the loss has no gradient for what is trained \(scale\)"):
    def attach(self, module: Module, backbone: Backbone, labels: Labels) -> Classifier:
        return torch.no_grad()(super().attach(module, backbone, labels))


class RefusesItsOwnRecipe(Scales, told="fit: Recipe: field 'lr': Input should be greater than 0"):
    def fit(self, backbone: Backbone, data: FewShotData, rng: torch.Generator) -> Module:
        recipe = Recipe(lr=-0.1)
        assert recipe.lr > 0
        return super().fit(backbone, data, rng)


class ReturnsNoModule(Scales, told="fit: fit returned a dict, not a Module"):
    def fit(self, backbone: Backbone, data: FewShotData, rng: torch.Generator) -> Any:
        return super().fit(backbone, data, rng).tensors


class BeginsWithoutAModule(Scales, told="fit: init returned a dict, not a Module"):
    def init(self, backbone: Backbone, data: FewShotData, rng: torch.Generator) -> Any:
        return super().init(backbone, data, rng).tensors


class ReturnsATuple(Scales, told="fit: the classifier returned a tuple, not a tensor of logits"):
    def attach(self, module: Module, backbone: Backbone, labels: Labels) -> Any:
        classify = super().attach(module, backbone, labels)
        return lambda features: (classify(features), features)


class Untrained(Scales):
    """It trains nothing, so what attach returns is first looked at afterwards."""

    def fit(self, backbone: Backbone, data: FewShotData, rng: torch.Generator) -> Module:
        shift = 0.1 * data.train.plain.mean(0)
        return Module({"scale": 1 + shift + 0.1 * torch.randn(shift.shape, generator=rng)})


class ReturnsNothing(Untrained, told=r"attach: the classifier returned nothing \(None\), not a"):
    def attach(self, module: Module, backbone: Backbone, labels: Labels) -> Any:
        classify = super().attach(module, backbone, labels)

        def answer(features: Tensor) -> None:
            classify(features)

        return answer


class KeepsItsFitOnSelf(
    Untrained, told="attach: .*no attribute 'shift'; another instance has .* not on self"
):
    def fit(self, backbone: Backbone, data: FewShotData, rng: torch.Generator) -> Module:
        self.shift = data.train.plain.mean(0)
        return super().fit(backbone, data, rng)

    def attach(self, module: Module, backbone: Backbone, labels: Labels) -> Classifier:
        classify = super().attach(module, backbone, labels)
        return lambda features: classify(features + self.shift)


class Prints(Untrained, told="attach: 'fitted 5 classes' is printed|is printed; leave it out"):
    def fit(self, backbone: Backbone, data: FewShotData, rng: torch.Generator) -> Module:
        print(f"fitted {len(data.labels)} classes")
        return super().fit(backbone, data, rng)


class TakesLong(Untrained, told="attach: the classifier takes [34] s for seven images"):
    def attach(self, module: Module, backbone: Backbone, labels: Labels) -> Classifier:
        classify, end = super().attach(module, backbone, labels), time.process_time() + 3.1

        def answer(features: Tensor) -> Tensor:
            while time.process_time() < end:
                classify(features)
            return classify(features)

        return answer


class ListsASetting(Untrained, told="settings: 'layers' is a list, which .*; make it a tuple"):
    class Config(Untrained.Config):
        layers: list[int] = [1, 2]


class DefaultsToADictionary(Untrained, told="settings: a default of 'fit' is kept from call to"):
    def fit(self, backbone, data, rng, seen={}):  # type: ignore[no-untyped-def]  # noqa: B006
        return super().fit(backbone, data, rng)
