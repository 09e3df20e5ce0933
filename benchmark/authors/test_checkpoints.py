"""Checkpoints of the authors' trainers: imported, they classify alike; exported, they load."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from checkout import Checkout, under
from feature_loaders import Accuracy, at_scale, epochs
from test_feature_caches import CACHE, CACHE_VIEWS, EPOCHS, SHORT, prepare_tip, script, settings_of
from test_inside_towers import PROMPTING, VIT_B, WORDS
from test_prompt_learners import PRECISE
from whole_fits import Problem, difference, fit, make, pose

from compatbench.method import Module, convert
from compatbench.method.registry import builtin_methods
from compatbench.methods.clip_lora import PROJECTIONS
from compatbench.methods.coop import CoOp
from compatbench.methods.tip_adapter_f import TipAdapterF

CLOSE = 1e-9


def logits_of(module: Module, problem: Problem) -> torch.Tensor:
    cls: Any = builtin_methods().get(module.about["method"])
    method = cls(cls.Config.model_validate(module.about["config"]))
    inputs = problem.backbone.encode_images(problem.queries, method.image_input(problem.backbone))
    with torch.no_grad():
        return method.attach(module, problem.backbone, problem.labels)(inputs)


@pytest.fixture
def import_file(monkeypatch: pytest.MonkeyPatch) -> Callable[..., Module]:
    def import_file(kind: str, path: Path, problem: Problem, **settings: Any) -> Module:
        monkeypatch.setattr(convert, "load_backbone", lambda *_: problem.backbone)
        monkeypatch.setattr(convert, "task_labels", lambda _: problem.labels)
        return convert.import_module(kind, path, "things", "random", settings=settings)

    return import_file


def round_trip(
    kind: str,
    trainer: Any,
    problem: Problem,
    folder: Path,
    import_file: Callable[..., Module],
    **settings: Any,
) -> None:
    """Random weights where the trainer learns, saved by it, imported, exported, loaded by it."""
    generator = torch.Generator().manual_seed(5)
    learned = [p for p in trainer.model.parameters() if p.requires_grad]
    assert learned
    for parameter in learned:
        parameter.data.copy_(0.3 * torch.randn(parameter.shape, generator=generator))
    trainer.save_model(0, str(folder))
    wanted = classify(trainer, problem)
    module = import_file(kind, folder, problem, **settings)
    found = logits_of(module, problem)
    assert difference({"": found}, {"": wanted}) < CLOSE
    for parameter in learned:
        parameter.data.zero_()
    [name] = trainer.get_model_names()
    path = folder / "back" / name / "model.pth.tar-1"
    convert.export_module(kind, module, path, dtype="float32")
    trainer.load_model(str(folder / "back"), epoch=1)
    again = import_file(kind, path, problem, **settings)
    assert difference({"": classify(trainer, problem)}, {"": logits_of(again, problem)}) < CLOSE


@torch.no_grad()
def classify(trainer: Any, problem: Problem) -> torch.Tensor:
    found = trainer.model.eval()(problem.queries)
    return found[0] if isinstance(found, tuple) else found


TCP_SIZES: Any = dict(names=("dog", "red apple"), width=512, text_layers=12)
PLAIN = under("COOP", **PRECISE | dict(N_CTX=4, W=1.0)) | {"TRAINER.COCOOP.PREC": "fp32"}
KG = dict(inside="KgCoOp", dassl="htyao89/KgCoOp/Dassl.ProGrad.pytorch")
PRO = dict(inside="ProGrad.public", dassl="BeierZhu/Prompt-align/Dassl.ProGrad.pytorch")
LOSS = {"LOSS.NAME": "prograd", "LOSS.LAMBDA": 1.0, "LOSS.T": 1.0}
DEPT = {
    **under("LINEAR_PROBE", TYPE="linear", WEIGHT=0.7, TEST_TIME_FUSION=True),
    "TRAINER.FILM.LINEAR_PROBE": True,
    "DATASET.SUBSAMPLE_CLASSES": "base",
    "TRAINER.NAMES_TO_UPDATE": ["prompt_learner", "linear_probe", "film"],
    "OPTIM.STAGED_LR": True,
    "OPTIM.LR_EXP": 6.5,
    "OPTIM.BASE_LR_MULT": 1.0,
    "OPTIM.NEW_LAYERS": ["linear_probe", "film"],
}
MORE: dict[str, dict[str, Any]] = {  # what an import asks for
    "tcp": dict(template="{}.", teacher="a photo of a {}."),
    "atprompt": dict(attributes=["color", "habitat", "growth"]),
    "taskres": dict(alpha=0.7),
}
# The format, the trainer, its settings, and what of the problem and the checkout it needs.
TRAINERS: dict[str, tuple[str, str, dict[str, Any], Any, Any]] = {
    "coop": ("KaiyangZhou/CoOp", "trainers.coop:CoOp", PLAIN, {}, {}),
    "atprompt": (
        "zhengli97/ATPrompt",
        "trainers.coop_atp:CoOp_ATP",
        under("COOP", **PRECISE | dict(N_CTX=2))
        | under("ATPROMPT", USE_ATPROMPT=True, ATT_NUM=3, N_ATT1=2, N_ATT2=2, N_ATT3=2)
        | under(
            "ATPROMPT",
            **{f"ATT{i}_TEXT": word for i, word in enumerate(MORE["atprompt"]["attributes"], 1)},
        ),
        {},
        {},
    ),
    "clip_adapter": (
        "gaopengcuhk/CLIP-Adapter",
        "clip_adapter:CLIP_Adapter",
        {},
        dict(embed_dim=1024),  # their adapter has no other size
        dict(beside=["KaiyangZhou/CoOp"]),
    ),
    "taskres": (
        "geekyutao/TaskRes",
        "trainers.taskres:TaskRes",
        under("TaskRes", PREC="fp32", RESIDUAL_SCALE=0.7, ENHANCED_BASE="none"),
        {},
        {},
    ),
    "cocoop": (
        "KaiyangZhou/CoOp",
        "trainers.cocoop:CoCoOp",
        under("COCOOP", N_CTX=4, CTX_INIT="a photo of a", PREC="fp32"),
        {},
        {},
    ),
    "kgcoop": ("htyao89/KgCoOp", "trainers.kgcoop:KgCoOp", PLAIN, {}, KG),
    "prograd": ("BeierZhu/Prompt-align", "trainers.prograd:ProGrad", PLAIN | LOSS, {}, PRO),
    "tcp": (
        "htyao89/Textual-based_Class-aware_prompt_tuning",
        "trainers.tcp:TCP",
        PLAIN,
        TCP_SIZES,
        {},
    ),
    "dept": (
        "Koorye/DePT",
        "trainers.elp_coop:ExtrasLinearProbeCoOp",
        PLAIN | DEPT,
        {},
        dict(absent=["plotnine"]),
    ),
    "maple": (
        PROMPTING,
        "trainers.maple:MaPLe",
        under("MAPLE", **WORDS, N_CTX=2, PROMPT_DEPTH=2),
        VIT_B,
        {},
    ),
    "ivlp": (
        PROMPTING,
        "trainers.independentVL:IVLP",
        under("IVLP", **WORDS, N_CTX_VISION=2, N_CTX_TEXT=2)
        | under("IVLP", PROMPT_DEPTH_VISION=3, PROMPT_DEPTH_TEXT=2),
        {},
        {},
    ),
    "vpt": (
        PROMPTING,
        "trainers.vpt:VPT",
        under("VPT", **WORDS, N_CTX_VISION=8, PROMPT_DEPTH_VISION=2),
        {},
        {},
    ),
    "promptsrc": (
        "muzairkhattak/PromptSRC",
        "trainers.promptsrc:PromptSRC",
        under("PROMPTSRC", **WORDS, N_CTX_VISION=4, N_CTX_TEXT=4)
        | under("PROMPTSRC", PROMPT_DEPTH_VISION=2, PROMPT_DEPTH_TEXT=2)
        | under("PROMPTSRC", TEXT_LOSS_WEIGHT=25, IMAGE_LOSS_WEIGHT=10, GPA_MEAN=1, GPA_STD=1),
        {},
        {},
    ),
}


@pytest.mark.parametrize(
    "kind", [pytest.param(k, marks=pytest.mark.authors(v[0])) for k, v in TRAINERS.items()]
)
def test_a_trainers_checkpoint(
    kind: str, checkout: Checkout, tmp_path: Path, import_file: Callable[..., Module]
) -> None:
    _, name, settings, sizes, where = TRAINERS[kind]
    problem = pose(**sizes)

    ours = fit(make(CoOp, dict(epochs=1), context_length=2), problem)
    with checkout.trainer(name, problem, ours, settings, **where) as trainer:
        round_trip(kind, trainer, problem, tmp_path, import_file, **MORE.get(kind, {}))


@pytest.mark.authors("gaopengcuhk/Tip-Adapter")
@pytest.mark.parametrize("kind", ["tip_adapter", "tip_adapter_f"])
def test_tip_adapter(
    kind: str, checkout: Checkout, tmp_path: Path, import_file: Callable[..., Module]
) -> None:
    """Its script saves a cache, classifies with it, and later reads the one that we write."""
    problem, found = at_scale(pose(views=EPOCHS + CACHE_VIEWS)), []
    ours = fit(make(TipAdapterF, SHORT, **CACHE), problem)
    settings = settings_of(ours, tmp_path, train_epoch=EPOCHS, lr=ours.recipe.lr)
    with script(checkout, problem) as (load, clip):
        main: Any = load("main")
        arguments = prepare_tip(load("utils"), clip, problem, settings)
        search = main.search_hp
        main.search_hp = lambda *args, **kwargs: found.append(search(*args, **kwargs)) or found[-1]
        if kind == "tip_adapter":
            main.cls_acc = Accuracy()
            main.run_tip_adapter(settings, *arguments)
        else:
            main.cls_acc = Accuracy(growing=ours.steps + EPOCHS)
            main.run_tip_adapter_F(settings, *arguments, clip, epochs(ours.batches))
        logits = main.cls_acc.logits
        start = "keys" if kind == "tip_adapter" else "best_F"
        path, (beta, alpha) = tmp_path / f"{start}_4shots.pt", found[-1]
        chosen: Any = dict(alpha=alpha, beta=beta, templates="all")
        module = import_file(kind, path, problem, **chosen)
        assert difference({"": logits_of(module, problem)}, {"": logits}) < CLOSE
        convert.export_module(kind, module, tmp_path / "back", dtype="float32")
        again = settings | dict(load_cache=True, cache_dir=str(tmp_path / "back"))
        keys, values = load("utils").build_cache_model(again, clip, None)
    both = dict(keys=arguments[0], values=arguments[1])
    if kind == "tip_adapter":
        assert difference(both, dict(keys=keys, values=values)) == 0
    trained = torch.load(tmp_path / "back" / path.name)
    same = module["keys"] if kind == "tip_adapter_f" else module["keys"].T
    assert difference({"": same}, {"": trained}) == 0


@pytest.mark.authors("MaxZanella/CLIP-LoRA")
@pytest.mark.parametrize("encoder", ["both", "vision", "text"])
def test_clip_lora(
    encoder: str, checkout: Checkout, tmp_path: Path, import_file: Callable[..., Module]
) -> None:
    """A tower of 12 blocks, as its table of positions has."""
    problem = pose(layers=12)
    arguments = dict(encoder=encoder, backbone="ViT-B/16", position="all", params=[*PROJECTIONS])
    arguments |= dict(r=2, alpha=3, dropout_rate=0.0, save_path=str(tmp_path), filename="lora")
    arguments |= dict(dataset="things", shots=4, seed=1)
    given = SimpleNamespace(**arguments)
    generator = torch.Generator().manual_seed(3)
    with checkout.open(problem) as load:
        utils, clip = load("loralib.utils"), load("clip")
        model, _ = clip.load("ViT-B/16", device="cpu")
        layers = utils.apply_lora(given, model)
        learned = [p for name, p in model.named_parameters() if "lora_" in name]
        for parameter in learned:
            parameter.data.copy_(0.1 * torch.randn(parameter.shape, generator=generator))
        utils.save_lora(given, layers)

        @torch.no_grad()
        def classify() -> torch.Tensor:
            texts = model.encode_text(clip.tokenize(problem.labels.fill()))
            images = model.encode_image(problem.queries)
            unit = torch.nn.functional.normalize
            return problem.backbone.logit_scale * unit(images) @ unit(texts).T

        wanted = classify()
        path = tmp_path / "vitb16" / "things" / "4shots" / "seed1" / "lora.pt"
        module = import_file("clip_lora", path, problem)
        assert difference({"": logits_of(module, problem)}, {"": wanted}) < CLOSE
        for parameter in learned:
            parameter.data.zero_()
        convert.export_module("clip_lora", module, path, dtype="float32")
        utils.load_lora(given, layers)
        again = import_file("clip_lora", path, problem)
        assert difference({"": classify()}, {"": logits_of(again, problem)}) < CLOSE
