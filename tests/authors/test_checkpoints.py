"""Checkpoints of the authors' trainers: imported, they classify alike; exported, they load."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from checkout import Checkout, under
from test_inside_towers import PROMPTING, VIT_B, WORDS
from test_prompt_learners import PRECISE, make
from whole_fits import Problem, difference, fit, pose

from compatbench.formats import convert
from compatbench.method import Module
from compatbench.method.registry import builtin_methods
from compatbench.methods.coop import CoOp

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
        return convert.import_checkpoint(kind, path, "things", "random", settings)

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
    convert.export_checkpoint(kind, module, path, "float32")
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
# The format, the trainer, its settings, and what of the problem and the checkout it needs.
TRAINERS: dict[str, tuple[str, str, dict[str, Any], Any, Any]] = {
    "coop": ("KaiyangZhou/CoOp", "trainers.coop:CoOp", PLAIN, {}, {}),
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
    more = dict(template="{}.", teacher="a photo of a {}.") if kind == "tcp" else {}
    with checkout.trainer(name, problem, ours, settings, **where) as trainer:
        round_trip(kind, trainer, problem, tmp_path, import_file, **more)
