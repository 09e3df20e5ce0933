"""Transfers give the results of their authors' code, on random features and weights."""

from __future__ import annotations

import copy
import logging
import re
import shlex
import sys
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from checkout import Checkout
from random_matrices import draw
from torch import Tensor, nn
from whole_fits import OurFit, pose, recording

from compatbench.method import Module
from compatbench.method.registry import builtin_transfers
from compatbench.method.transfer import OldAnswers, TransferData, Unlabelled
from compatbench.methods.clip_lora import CLIPLoRA
from compatbench.methods.clipood import CLIPood
from compatbench.methods.zeroshot import ZeroShot
from compatbench.transfers import transmiter
from compatbench.transfers.delta import LogitDelta
from compatbench.transfers.gradfix import mask_by_gradient

EXTRACTION = "run_scripts/base2novel/knowledge_extraction/ket.sh"
SMALLER = "--source_model S --dataset DTD --seed 1 --proj_dim 32 --tot_logit_dim 32 --epochs 3"
SMALLER += " --batch-size 16"
CLASSES = 5
VOCABULARY = 32


def result(module: Module, logits: Tensor) -> OurFit:
    """Return our result in the form of a fit, though the training loop has not run."""
    return OurFit(ZeroShot(), None, module, logits, [])


@pytest.mark.authors("jihwanp/TransMiter")
@pytest.mark.parametrize("images", [70, 20])  # more than the words of the vocabulary, and fewer
def test_transmiter(
    checkout: Checkout, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, images: int
) -> None:
    """With the same start, batches and noise, both sides learn and turn the change of logits."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(transmiter, "BATCH", 16)
    monkeypatch.setattr(transmiter, "EPOCHS", 3)
    features = nn.functional.normalize(draw(images, 40, seed=1), dim=-1)
    heads = 0.3 * draw(2, VOCABULARY, 40, seed=2)
    source = 30 * features @ heads[0].T
    target = 30 * features @ heads[1].T
    teacher = source[:, :CLASSES] + 2 * draw(images, CLASSES, seed=3)

    drawn: dict[str, list[Tensor]] = {"randperm": [], "rand": [], "randn": []}
    with monkeypatch.context() as patch, ExitStack() as stack:
        begin = transmiter.start_change
        start = begin(VOCABULARY, torch.Generator().manual_seed(9))
        first = copy.deepcopy(start)
        for name, kept in drawn.items():
            stack.enter_context(recording(torch, name, kept))
        patch.setattr(transmiter, "start_change", lambda *_: start)
        change = transmiter.learn_change(source, teacher, torch.Generator().manual_seed(1))
    turned = change.turned(source, target)

    steps = -(-len(source) // 16)
    plan = iter([[None] * steps, *(order.split(16) for order in drawn["randperm"])])

    def load_batches(*_: Any, **__: Any) -> list[Any]:
        batches = []
        for rows in next(plan):
            batch = None
            if rows is not None:
                batch = dict(S_features=features[rows], S_ft_logits=[teacher[rows]], labels=rows)
            batches.append(batch)
        return batches

    coins = iter(drawn["rand"])
    noises = iter(drawn["randn"])

    def add_noise(logits: Tensor, args: Any) -> Tensor:
        if next(coins) >= 0.5:
            return logits
        return logits + args.noise_alpha * logits.std(-1, keepdim=True) * next(noises)

    def fill(head: Any) -> None:
        head.in_proj.weight = first.projection.double()
        weights = {}
        for name, tensor in first.net.double().state_dict().items():
            weights[name.replace("3.", "4.")] = tensor
        head.mlp_layers[0].load_state_dict(weights)

    absent = ["wandb", "datasets", "nltk", "pandas", "transformers", "geotorch", "engine.eval"]
    absent += [f"models.{name}" for name in ("modeling", "heads", "stats", "negative_class")]
    script = (checkout.path("jihwanp/TransMiter") / EXTRACTION).read_text()
    options = script.partition("src/knowledge_extraction.py")[2].replace("\\\n", " ")
    # Leave out options whose values are arguments of the script. Of two values, the last counts.
    words = shlex.split(re.sub(r'--\w+ "?\$\w+"?', "", options))
    monkeypatch.setattr(sys, "argv", ["", *words, *SMALLER.split()])
    models: list[Any] = []
    with checkout.open(absent=absent) as load:
        extraction: Any = load("src.knowledge_extraction")
        align: Any = load("engine.ortho_proc")
        # torch now has the parametrisation of geotorch.
        orthogonal = nn.utils.parametrizations.orthogonal
        sys.modules["geotorch"].orthogonal = lambda layer, name: orthogonal(  # type: ignore[attr-defined]
            layer, name, orthogonal_map="matrix_exp"
        )
        args = extraction.parse_arguments(
            extraction.add_extraction_arguments(load("engine.args").get_base_parser())
        )
        args.seed_log_path = str(tmp_path)
        args.eval_datasets = ""
        args.num_classes = CLASSES
        args.setting = None  # the authors' is for base and new classes
        build = extraction.ProxyModel

        def start_theirs(*given: Any) -> Any:
            models.append(build(*given))
            fill(models[0].network[0])
            return models[0]

        extraction.ProxyModel = start_theirs
        zero_shot = nn.Module()
        zero_shot.classification_head = nn.Linear(40, VOCABULARY, bias=False)
        zero_shot.classification_head.weight.data = 30 * heads[0]
        extraction.build_models = lambda *_: (zero_shot, [nn.Identity()])
        extraction.negative_class_selection = lambda _, args, __: args
        names = SimpleNamespace(classnames=list(range(CLASSES)))
        vars(extraction).update(get_dataset=lambda *_, **__: names, get_dataloader=load_batches)
        vars(extraction).update(add_noise=add_noise, maybe_dictionarize=lambda one: one)
        extraction.eval_single_dataset = lambda *_: {}
        extraction.extract_knowledge(args, "", logging.getLogger(__name__))
        model = models[0].eval()
        head = model.network[0]
        projection = head.in_proj.weight.detach()
        learned = model(None, source)["logits"]
        seen = [head.transform_logits(values)[0] @ projection.T for values in (target, source)]
        args.device = "cpu"
        found = align.orthogonal_procrutes(*seen, projection, args)
        head.in_proj = nn.Linear(1, 1, bias=False)
        head.in_proj.weight.data = found["W_in"]
        head.transfer_out_proj = nn.Linear(1, 1)
        head.transfer_out_proj.weight.data = found["W_out"]
        logits = model(None, target)["logits"]
    ours = result(Module({}), torch.cat([change(source), turned(target)]))
    checkout.compare(
        ours, {}, torch.cat([learned, logits]), name=f"transmiter, {images} images", steps=3 * steps
    )


@pytest.mark.authors("alisawuffles/proxy-tuning")
def test_delta(checkout: Checkout) -> None:
    """Our logits stand in for the authors' language models and their logits of the next word."""
    problem = pose()
    tuned = 5 * draw(5, 5, seed=1)
    plain = 5 * draw(5, 5, seed=2)
    backbone = problem.backbone
    labels = problem.labels
    features = backbone.encode_images(problem.queries)
    attached: Any = LogitDelta().attach(ZeroShot(), Module({}), backbone, labels, None)  # type: ignore[arg-type]
    ours = attached(features, OldAnswers(tuned, plain))

    class Words:
        """A language model that always gives the same logits."""

        def __init__(self, logits: Tensor) -> None:
            self.answer = SimpleNamespace(logits=logits[:, None], past_key_values=None)

        def __call__(self, **_: Any) -> Any:
            return self.answer

        def prepare_inputs_for_generation(self, *_: Any, **__: Any) -> dict[str, Any]:
            return {}

    zero_shot = ZeroShot().attach(Module({}), backbone, labels)(features)
    with checkout.open(absent=["transformers"]) as load:
        experts: Any = load("modeling.dexperts").DExpertsLlama
        mixed = experts.__new__(experts)
        mixed.base = Words(zero_shot)
        mixed.expert = Words(tuned)
        mixed.antiexpert = Words(plain)
        mixed.use_chat_format_for_expert = False
        mixed.alpha = 1.0
        mixed.tokenizer = SimpleNamespace(pad_token_id=0, eos_token_id=-1)
        mixed.update_analysis_data = lambda _, __, answers: answers
        ids = torch.zeros(5, 1, dtype=torch.long)
        _, kept = mixed.generate(ids, max_new_tokens=1, return_logits_for_analysis=True)
    checkout.compare(result(Module({}), ours), {}, kept["dexperts"], name="delta")


@pytest.mark.authors("fillo-rinaldi/GradFix")
def test_gradfix(checkout: Checkout) -> None:
    """All weights of an image tower except key biases, whose gradient is zero."""
    problem = pose(templates=("a photo of a {}.",), views=1)
    method = CLIPood()
    backbone = problem.backbone
    data = problem.data(method)
    start = method.init(backbone, data, torch.Generator())
    change = {}
    for seed, (name, tensor) in enumerate(start.trained.items()):
        change[name] = 0.01 * draw(*tensor.shape, seed=seed)
    without = replace(data.val, targets=data.val.targets[:0])
    ours = mask_by_gradient(method, Module(change), backbone, replace(data, val=without))
    with checkout.open(absent=["wandb", "sklearn", "torchvision"]) as load:
        module: Any = load("grad_sign.gradient_sign_common")
        model: Any = copy.deepcopy(backbone.model).requires_grad_(True)
        names = list(problem.labels.names)
        task = SimpleNamespace(templates=[lambda c: f"a photo of a {c}."], class_names=names)
        batches = [*zip(problem.images[0].split(7), problem.targets.split(7), strict=True)]
        signs, _ = module.compute_real_gradient_signs(
            model, task, nn.CrossEntropyLoss(), "cpu", batches, vote="max"
        )
        own = module.TaskVector(vector={n.removeprefix("image."): t for n, t in change.items()})
        theirs = module.taskvector_from_gradient_signs(signs, own).vector
    mine = {n.removeprefix("image."): t for n, t in ours.trained.items()}
    for name in theirs:
        if name.endswith("in_proj_bias"):
            for biases in (mine[name], theirs[name]):
                biases.chunk(3)[1].zero_()  # of the keys
    no_logits = torch.zeros(1)
    checkout.compare(result(Module(mine), no_logits), theirs, no_logits, name="gradfix")


@pytest.mark.authors("apanariello4/merge-and-rebase")
@pytest.mark.parametrize("name", ["theseus", "bico", "orthogonal-shift"])
def test_merge_and_rebase(checkout: Checkout, name: str) -> None:
    """Updates of an image tower, for a wider one if possible. Images span its gradients."""
    problem = pose(views=8)
    other = pose(seed=5, image_width=128 if "shift" in name else 192)
    models = (problem.backbone, other.backbone)
    images = problem.images.flatten(0, 1)
    method = CLIPLoRA()
    transfer = builtin_transfers().get(name)()
    start = method.init(problem.backbone, problem.data(method), torch.Generator())
    names = ("image_a", "image_b")
    module = Module({n: draw(*start[n].shape, seed=i) for i, n in enumerate(names)})
    tokens = [one.encode_images(images, method.image_input(one)) for one in models]
    features = [one.encode_images(images) for one in models]
    logits = draw(len(images), len(problem.labels), seed=3)
    seen = Unlabelled(*features, tokens[1], OldAnswers(logits, logits), 1.0, tokens[0])
    data = TransferData(transfer, unlabelled=seen, source=problem.backbone)
    ours: Any = transfer.carry(method, module, other.backbone, problem.labels, data)  # type: ignore[attr-defined]
    batches = [*zip(images.split(32), logits.argmax(-1).split(32), strict=True)]
    source, target = (copy.deepcopy(one.model).requires_grad_(True) for one in models)
    texts = {id(copied): one for copied, one in zip((source, target), models, strict=True)}

    def lose(model: Any, batch: Any) -> Any:
        x, y = batch
        backbone = texts[id(model)]
        features = nn.functional.normalize(model.encode_image(x), dim=-1)
        cosines = features @ backbone.zero_shot(problem.labels).T
        return nn.functional.cross_entropy(backbone.logit_scale * cosines, y), None

    with checkout.open(inside="src") as load:
        theirs = load("merge_and_rebase.rebase").get_method(name.replace("-", "_")).transport(
            source_base=source.state_dict(), target_base=target.state_dict(),
            delta=updates_of(module),
            source_model=source, target_model=target, source_dataloader=batches,
            target_dataloader=batches, source_recipe=lose, target_recipe=lose, device="cpu",
            verbose=False, show_progress=False,
        )  # fmt: skip
    no_logits = torch.zeros(1)
    ours_by_name = Module(updates_of(ours))
    checkout.compare(result(ours_by_name, no_logits), theirs, no_logits, name=name)


def updates_of(module: Module) -> dict[str, Tensor]:
    """Return the updates of weights that a module of CLIP-LoRA holds, by open_clip's names."""
    updates = {}
    for block, update in enumerate(module["image_b"] @ module["image_a"]):
        name = f"visual.transformer.resblocks.{block}.attn.in_proj_weight"
        updates[name] = update.flatten(0, 1)
    return updates
