"""Methods that each break one rule: a sound method with another body."""

from __future__ import annotations

import re
from pathlib import Path
from typing import NamedTuple

import sound_methods

IMPORTS = """

import itertools, os, random, time
from pathlib import Path
from pydantic import ConfigDict
from safetensors.torch import load_file
from compatbench.data.task import load_task
from compatbench.method import Labels
from compatbench.method.trained import Recipe
"""
# Each entry is ``NAME of BASE breaks CHECK: PATTERN`` and the body of the class. The reason of the
# failure must match the pattern. If the base is a trained method, it must also name the line.
FAULTS = r"""
NoSummary of Sound breaks card: 'summary' is empty
    card = describe(summary="")
ExcusedFromNothing of Sound breaks card: excuses it from 'beauty', which is no check
    card = describe(excused={"beauty": "it is not pretty"})
NeedlesslyExcused of Sound breaks class-order: but it passes
    card = describe(excused={"class-order": "its classes have an order"})
TakesAnySetting of Sound breaks settings: unknown setting is accepted
    class Config(Sound.Config):
        model_config = ConfigDict(extra="ignore")
NotFinite of Sound breaks fit: 'unused' has numbers that are not finite
    end = lambda self, module, *_: Module(module.trained, {"unused": torch.tensor(torch.nan)})
RaisesInFit of Sound breaks fit: ZeroDivisionError: division by zero \(methods.py:\d+\)
    begin = lambda *_: 1 / 0
HasOnlyNaN of Sound breaks fit: 'residual' has numbers that are not finite
    end = lambda self, module, *_: Module({"residual": module["residual"] * torch.nan})
StoresALot of Sound breaks fit: has 120 MB on a tiny model, more than 100 MB
    end = lambda self, module, *_: Module(module.trained, {"images": torch.zeros(30_000_000)})
UsesUnlabelledImages of Sound breaks fit: 'NoneType' .* with 'unlabelled' it works: add it to 'need
    begin = lambda self, backbone, data, rng: data.unlabelled.plain.mean()
OpensAFile of Sound breaks fit: it opens .*/unlisted.txt, which is not among the 'files' of its card
    begin = lambda *_: (Path(__file__).parent / "unlisted.txt").read_text()
LoadsTensors of Sound breaks fit: it opens .*/unlisted.safetensors, which is not among the 'files'
    begin = lambda *_: load_file(Path(__file__).parent / "unlisted.safetensors")
OpensAFileInSilence of Sound breaks needs: it opens .*/unlisted.txt, which is not among
    def begin(self, *_):
        try:
            (Path(__file__).parent / "unlisted.txt").read_text()
        except:
            pass
ExitsInFit of Sound breaks fit: SystemExit \(methods.py:\d+\)
    def begin(self, backbone, data, rng):
        raise SystemExit
CountsItsFits of Sound breaks same-seed: 'residual' differ
    fits = itertools.count()
    end = lambda self, module, *_: Module({"residual": module["residual"] + 1e-6 * next(self.fits)})
ListsItsFits of Sound breaks same-seed: a fit changes 'fits' of its class, which the next
    fits = []
    begin = lambda self, *_: self.fits.append(1)
LearnsNothing of Sound breaks other-seed: gave the same module
    end = lambda self, module, *_: Module({"residual": torch.zeros_like(module["residual"])})
SeedsTheWorld of Sound breaks global-randomness: draw from `rng`
    begin = lambda self, backbone, data, rng: random.seed(rng.initial_seed())
TrainsTheBackbone of Sound breaks backbone-unchanged: of the source backbone changed
    begin = lambda self, backbone, *_: next(backbone.model.parameters()).data.add_(0.01)
LeavesGradients of Sound breaks backbone-unchanged: left with gradients
    begin = lambda self, backbone, *_: backbone.model.requires_grad_(True)
IsCutForFewClasses of Sound breaks odd-draws: forty classes: RuntimeError: .*rank
    def begin(self, backbone, data, rng):
        if len(data.labels) > backbone.embed_dim:
            raise RuntimeError("the rank is too low")
NormalisesItsData of Sound breaks data-unchanged: were written to
    begin = lambda self, _, data, rng: data.train.plain.copy_(F.normalize(data.train.plain, dim=-1))
WantsTwoShots of Sound breaks few-shots: one shot: ValueError: a variance needs two images
    def begin(self, backbone, data, rng):
        if torch.bincount(data.train.targets, minlength=len(data.labels)).min() < 2:
            raise ValueError("a variance needs two images")
WantsValidationImages of Sound breaks odd-draws: no validation images:
    begin = lambda self, _, data, rng: data.val.plain.max()
LoadsATask of Sound breaks needs: it loads a backbone or a task itself
    begin = lambda *_: load_task("mini-food")
NeedsForNothing of Sound breaks needs: needs 'stream', but another makes no difference
    card = describe(needs={"stream"})
Untold of Told breaks fit: AttributeError: 'NoneType'
    card = describe()
ReadsDescriptions of Told breaks attach: no descriptions
    card = describe(needs={"unlabelled", "teacher", "stream"}, zero_shot_at={})
EndsItsProcess of Sound breaks attach: its process ended with exit code 0
    weigh = lambda *_: os._exit(0)
LooksAtImages of Sound breaks no-image: gave the source's image tower an image
    def weigh(self, text, module, backbone, labels):
        backbone.encode_images(torch.zeros(1, 3, 48, 48))
        return text + module["residual"]
CarriesTheScale of Sound breaks derived-not-stored: 'scale' is the source's logit scale
    def end(self, module, backbone, data):
        return Module(module.trained, {"scale": torch.tensor(backbone.logit_scale)})
CarriesText of Free breaks derived-not-stored: 'text' holds zero-shot weights of the source
    def end(self, module, backbone, data):
        return Module(module.trained, {"text": backbone.zero_shot(data.labels)})
    weigh = lambda self, text, module, *_: module["text"] + module["residual"]
TakesTheFirstTensor of Free breaks round-trip: other logits than the fitted one
    def end(self, module, *_):  # the order of tensors is not kept in a file; their names are
        return Module({"the one": module["residual"], "another": -module["residual"]})
    def attach(self, module, *given):
        return super().attach(Module({"residual": next(iter(module.trained.values()))}), *given)
RemembersItsFit of Sound breaks source-classifier: keep all that attach needs in the module
    shift = 0.0
    def begin(self, backbone, data, rng):
        self.shift = float(data.train.plain.mean())
    see = lambda self, features: features + self.shift
ShrinksTheModule of Sound breaks module-unchanged: writes to the module's tensors
    def attach(self, module, *given):
        module["residual"].mul_(0.5)
        return super().attach(module, *given)
CrashesOnOtherSizes of Sound breaks other-sizes: another joint space: raise NotTransferable, not R
    fixed = (0,)
CrashesOnFewerClasses of Sound breaks class-subset: RuntimeError: The size of tensor
    fixed = (-1,)
CutsToFit of Sound breaks other-sizes: nothing is cut or padded to fit
    def attach(self, module, backbone, labels):
        padded = F.pad(module["residual"], (0, backbone.embed_dim - module["residual"].shape[1]))
        return super().attach(Module({"residual": padded}), backbone, labels)
FailsOnTheTarget of Free breaks logits: ^on the target: RuntimeError: not here
    def weigh(self, text, module, backbone, labels):
        if "eva" in backbone.name:
            raise RuntimeError("not here")
        return text + module["residual"]
ExitsOnTheTarget of Free breaks logits: ^on the target: SystemExit
    def weigh(self, text, module, backbone, labels):
        if "eva" in backbone.name:
            raise SystemExit
        return text + module["residual"]
HasNoLogits of Free breaks logits: logits on the source are not finite
    answer = lambda self, logits: logits * torch.nan
DoublePrecision of Free breaks logits: torch.float64, not float32
    answer = lambda self, logits: logits.double()
CentresTheBatch of Free breaks batch-size: one by one on the source, logits differ
    see = lambda self, features: features - 0.5 * features.mean(0)
CentresLargeBatches of Free breaks batch-size: batches of 31 and of 71 images give logits that
    see = lambda self, x: x - 0.5 * x.mean(0) if len(x) > 32 else x
ReadsTheOrder of Free breaks batch-size: on the source logits depend on the order of 71 images
    def answer(self, logits):
        count, classes = logits.shape
        if count < 2 * classes:
            return logits
        return logits + 5 * F.one_hot(torch.arange(count) * classes // count, classes)
KeepsItsStream of Sound breaks batch-size: a call is a stream of its own
    card, calls = describe(zero_shot_at={}, needs={"stream"}), 0
    def see(self, features):
        self.calls += 1
        return features - 0.5 * self.calls * features.mean(0)
NormalisesInPlace of Sound breaks inputs-unchanged: writes to the features it is given
    see = lambda self, features: features.div_(features.norm(dim=-1, keepdim=True))
ClaimsToBeZeroShot of Sound breaks zero-shot-setting: away from zero-shot
    card = describe(zero_shot_at={"residual": 1})
ClaimsAPrompt of Sound breaks place: acts at output, undeclared; declares text-input
    card = describe(inserts="text-input")
UpdatesUndeclared of UpdatesBlocks breaks place: ^acts at text-layers, undeclared$
    card = describe(inserts="image-layers", zero_shot_at={})
MixesRows of UpdatesBlocks breaks place: ^the update of 'mlp' in block 1 mixes rows
    change = lambda self, output, shift: output + shift * output.mean(-2, keepdim=True)
SortsTheNames of Free breaks class-order: do not follow the order of the class names
    def attach(self, module, backbone, labels):
        ordered = Labels(tuple(sorted(labels.names)), labels.templates, labels.teacher_template)
        return super().attach(module, backbone, ordered)
ReadsTheModel of Sound breaks turned-space: ask the backbone for features, not its model
    def weigh(self, text, module, backbone, labels):
        with torch.no_grad():
            text = backbone.model.encode_text(backbone.tokenizer(list(labels.fill())))
        return F.normalize(text, dim=-1) + module["residual"]
AsksForItsHome of Free breaks other-process: a new process gives other logits on the source
    answer = lambda self, logits: logits * (2 + len(os.path.expanduser("~")) / 1000)
AsksForTheFolder of Free breaks other-process: a new process gives other logits on the source
    answer = lambda self, logits: logits * (2 + len(os.getcwd()) / 1000)
AsksForTheProcess of Free breaks other-process: a new process gives other logits on the source
    answer = lambda self, logits: logits * (2 + os.getpid() / 1e6)
AsksForTheHour of Free breaks other-process: a new process gives other logits on the source
    answer = lambda self, logits: logits * (2 + time.localtime().tm_hour / 100)
AsksForAHash of Free breaks other-process: a new process gives other logits on the source
    answer = lambda self, logits: logits * (2 + hash("boost") % 1000 / 1000)
ForgetsAClass of Scales breaks fit: logits have shape \[15, 4\], not \[15, 5\]
    attach = lambda *given: lambda features: Scales.attach(*given)(features)[:, 1:]
ForgetsAClassInItsLoss of Scales breaks fit: IndexError: .* out of bounds.; logits need a column for
    def loss(self, classifier, batch):
        return F.cross_entropy(classifier(batch.inputs)[:, :4], batch.targets)
LeaksAGradient of Scales breaks fit: trained tensor 'scale' has a gradient of its own: .*det
    def init(self, backbone, data, rng):
        return Module({"scale": 1.0 * torch.ones(backbone.embed_dim, requires_grad=True)})
TrainsIntegers of Scales breaks fit: trained tensor 'scale' is torch.int64; .* of float32
    init = lambda self, backbone, *_: Module({"scale": torch.arange(backbone.embed_dim)})
TrainsNothing of Scales breaks fit: the module has no trained tensors
    init = lambda self, backbone, *_: Module(stored={"scale": torch.ones(backbone.embed_dim)})
TrainsElsewhere of Scales breaks fit: tensor 'scale' is on meta and the backbone on cpu; give
    init = lambda self, backbone, *_: Module({"scale": torch.ones(backbone.embed_dim).to("meta")})
ComputesElsewhere of Scales breaks fit: .* make tensors with device=backbone.device
    def attach(self, *given):
        classify = super().attach(*given)
        return lambda features: classify(features + torch.ones(1, device="meta"))
HasALossForEachImage of Scales breaks fit: the loss is shape \[15\], not a tensor of one number
    def loss(self, classifier, batch):
        return F.cross_entropy(classifier(batch.inputs), batch.targets, reduction="none")
HasNoLoss of Scales breaks fit: the loss is nothing \(None\), not a tensor of one
    loss = lambda *_: None
HasNoGradient of Scales breaks fit: the loss has no gradient for what is trained \(scale\)
    attach = lambda *given: torch.no_grad()(Scales.attach(*given))
ReturnsNoModule of Scales breaks fit: fit returned a dict, not a Module
    def fit(self, *given):
        return super().fit(*given).tensors
BeginsWithoutAModule of Scales breaks fit: init returned a dict, not a Module
    def init(self, *given):
        return super().init(*given).tensors
ReturnsNothing of Untrained breaks attach: the classifier returned nothing \(None\), not a
    attach = lambda *_: lambda features: None
KeepsItsFitOnSelf of Untrained breaks attach: .*no attribute 'shift'; another instance .* on self
    def fit(self, backbone, data, rng):
        self.shift = data.train.plain.mean(0)
        return super().fit(backbone, data, rng)
    attach = lambda self, *given: lambda x: Scales.attach(self, *given)(x + self.shift)
Prints of Untrained breaks attach: 'fitted 5 classes' is printed|is printed; leave it out
    def fit(self, backbone, data, rng):
        print(f"fitted {len(data.labels)} classes")
        return super().fit(backbone, data, rng)
TakesLong of Untrained breaks attach: the classifier takes [34] s for seven images
    def attach(self, *given):
        classify, end = super().attach(*given), time.process_time() + 3.1
        def answer(features):
            while time.process_time() < end:
                classify(features)
            return classify(features)
        return answer
SetsAFunction of Untrained breaks settings: 'rule' holds a function, .* a name or a number
    class Config(Untrained.Config):
        rule: object = lambda x: x
ListsASetting of Untrained breaks settings: 'layers' is a list, which .*; make it a tuple
    class Config(Untrained.Config):
        layers: list[int] = [1, 2]
DefaultsToADictionary of Untrained breaks settings: a default of 'fit' is kept from call to
    def fit(self, backbone, data, rng, seen={}):
        return super().fit(backbone, data, rng)
"""
EXCUSED = """
class OpensAListedFile(Sound):
    card = describe(files=("listed.txt",))
    begin = lambda *_: float((Path(__file__).parent / "listed.txt").read_text())
class Excused(SortsTheNames):
    card = describe(zero_shot_at={}, excused={"class-order": "its classes have an order"})
"""


class Fault(NamedTuple):
    """A fault of a method."""

    check: str  # the only one that must fail
    pattern: str  # of the reason
    lines: range  # of the method in the file
    names_line: bool  # True if the reason must name one of them


TEXT = "# ruff: noqa\n" + Path(sound_methods.__file__).read_text(encoding="utf-8") + IMPORTS
METHODS: dict[str, Fault] = {}
for name, base, check, pattern, body in re.findall(
    r"(?m)^(\w+) of (\w+) breaks ([\w-]+): (.*)\n((?:    .*\n)+)", FAULTS
):
    start = TEXT.count("\n") + 1
    TEXT += f"class {name}({base}):\n{body}"
    lines = range(start, TEXT.count("\n") + 1)
    METHODS[name] = Fault(check, pattern, lines, names_line=base in ("Scales", "Untrained"))
TEXT += EXCUSED
