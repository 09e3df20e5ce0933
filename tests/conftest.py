"""Tiny random models and features, made in memory: no weights, no images, no network."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator

import pytest
import torch
from hypothesis import settings
from open_clip.model import CLIP, CustomTextCLIP
from torch import nn

from compatbench.backbone import Backbone
from compatbench.backbone.mini import register_mini_towers
from compatbench.cards import BackboneCard, tasks_folder
from compatbench.labels import Labels
from compatbench.method import FeatureSet, FewShotData

# The same examples on every machine, and no folder of failures left behind.
settings.register_profile("suite", deadline=None, derandomize=True, database=None, max_examples=50)
settings.load_profile("suite")

VOCABULARY = 2514  # of tasks/mini/tokenizer.txt.gz
CONTEXT_LENGTH = 32

MakeData = Callable[..., FewShotData]


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    """Tests share the machine with whatever else runs on it."""
    if torch.get_num_threads() != 1:
        torch.set_num_threads(1)


def randomise(model: nn.Module, seed: int) -> nn.Module:
    """Gives every parameter a value that no shortcut could pass for: no zero bias, no unit norm."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            if name == "logit_scale":
                parameter.fill_(3.0 + 0.1 * seed)
            elif parameter.ndim == 1:
                parameter.copy_(noise * 0.2 + float("bias" not in name))
            elif "embedding" in name:
                parameter.copy_(noise * 0.3)
            else:
                parameter.copy_(noise / parameter.shape[-1] ** 0.5)
    return model.eval().requires_grad_(False)


def text_config(width: int = 32, **changes: object) -> dict[str, object]:
    sizes = dict(context_length=CONTEXT_LENGTH, vocab_size=VOCABULARY, heads=2, layers=3)
    return {**sizes, "width": width, **changes}


def image_config() -> dict[str, object]:
    return dict(image_size=24, patch_size=12, width=32, head_width=16, layers=2)


def tiny_clip(seed: int = 1, width: int = 32, embed_dim: int = 16, **text: object) -> CLIP:
    """A CLIP with QuickGELU, as OpenAI's."""
    model = CLIP(embed_dim, image_config(), text_config(width, **text), quick_gelu=True)  # type: ignore[arg-type]
    model.visual.preprocess_cfg = dict(size=24, mean=(0.5,) * 3, std=(0.25,) * 3)  # type: ignore[assignment]
    return randomise(model, seed)  # type: ignore[return-value]


def tiny_eva_clip(seed: int = 2, width: int = 32, embed_dim: int = 16) -> CustomTextCLIP:
    """A CustomTextCLIP with exact GELU and the mini suite's EVA-02 image tower."""
    register_mini_towers(tasks_folder())
    image = dict(
        image_size=48, timm_model_name="eva02_mini_patch12_clip_48", timm_pool="token"
    )
    image |= dict(timm_proj="linear", timm_model_pretrained=False)
    model = CustomTextCLIP(embed_dim, image, text_config(width))  # type: ignore[arg-type]
    model.visual.preprocess_cfg = dict(size=48, mean=(0.5,) * 3, std=(0.25,) * 3)  # type: ignore[assignment]
    return randomise(model, seed)  # type: ignore[return-value]


def wrap(model: nn.Module, name: str) -> Backbone:
    card = BackboneCard(
        name=name,
        title=name,
        config=name,
        weights="none.safetensors",
        sha256="0" * 64,
        tokenizer="mini/tokenizer.txt.gz",
        licence="none",
    )
    return Backbone(card, model, torch.device("cpu"))


@pytest.fixture(scope="session")
def clip() -> Backbone:
    """The source: a CLIP of token width 32 and embedding size 16."""
    return wrap(tiny_clip(), "tiny-clip")


@pytest.fixture(scope="session")
def eva() -> Backbone:
    """The upgrade: an EVA-CLIP of the source's sizes."""
    return wrap(tiny_eva_clip(), "tiny-eva-clip")


@pytest.fixture(scope="session", params=["clip", "eva"])
def backbone(request: pytest.FixtureRequest) -> Backbone:
    """Either model of the pair."""
    return request.getfixturevalue(request.param)


@pytest.fixture(scope="session")
def clip64(clip: Backbone) -> Backbone:
    """The source in double precision."""
    return wrap(copy.deepcopy(clip.model).double(), "tiny-clip-64")


@pytest.fixture(scope="session")
def eva64(eva: Backbone) -> Backbone:
    """The upgrade in double precision."""
    return wrap(copy.deepcopy(eva.model).double(), "tiny-eva-clip-64")


@pytest.fixture(scope="session", params=["clip64", "eva64"])
def backbone64(request: pytest.FixtureRequest) -> Backbone:
    """Either model of the pair in double precision."""
    return request.getfixturevalue(request.param)


@pytest.fixture(scope="session")
def wider_text() -> Backbone:
    """A target whose token embeddings alone have another width."""
    return wrap(tiny_clip(seed=3, width=48), "wider-text")


@pytest.fixture(scope="session")
def wider_joint() -> Backbone:
    """A target whose joint space alone has another size."""
    return wrap(tiny_clip(seed=4, embed_dim=24), "wider-joint")


@pytest.fixture(scope="session")
def stranger() -> Backbone:
    """A target of which both sizes differ."""
    return wrap(tiny_eva_clip(seed=5, width=48, embed_dim=24), "stranger")


@pytest.fixture(scope="session")
def b16_sized() -> Backbone:
    """A backbone with the widths of ViT-B/16, for published parameter counts."""
    return wrap(tiny_clip(seed=6, width=512, embed_dim=512, heads=8, layers=1), "b16-sized")


@pytest.fixture
def float64() -> Iterator[None]:
    """What a method draws is drawn in double precision, so that a step can be told exactly."""
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


@pytest.fixture(scope="session")
def labels() -> Labels:
    """Five classes; their names have 1, 7, 2, 4 and 1 tokens."""
    return Labels(
        names=("dog", "hippopotamus", "red apple", "xylophone", "tree"),
        templates=("a photo of a {}.", "a drawing of the {}.", "{} texture"),
        teacher_template="a photo of a {}, a type of thing.",
    )


@pytest.fixture(scope="session")
def make_data() -> MakeData:
    """Makes few-shot data from random features, grouped by class as a draw is."""

    def make(
        backbone: Backbone,
        labels: Labels,
        shots: int | list[int] = 3,
        val: int = 2,
        views: int = 2,
        seed: int = 0,
    ) -> FewShotData:
        generator = torch.Generator().manual_seed(seed)
        dtype = next(backbone.model.parameters()).dtype
        centres = torch.randn(len(labels), backbone.embed_dim, generator=generator)

        def features(counts: list[int], views: int) -> FeatureSet:
            targets = torch.repeat_interleave(torch.arange(len(labels)), torch.tensor(counts))

            def draw() -> torch.Tensor:
                noise = torch.randn(len(targets), backbone.embed_dim, generator=generator)
                return (3 * (centres[targets] + 1.5 * noise)).to(dtype)

            return FeatureSet(draw(), torch.stack([draw() for _ in range(views)]), targets)

        counts = [shots] * len(labels) if isinstance(shots, int) else shots
        train, held_out = features(counts, views), features([val] * len(labels), 1)
        return FewShotData(labels, max(counts), train, held_out)

    return make


@pytest.fixture(scope="session")
def data(clip: Backbone, labels: Labels, make_data: MakeData) -> FewShotData:
    """Three shots, two views and two validation images per class on the source."""
    return make_data(clip, labels)


@pytest.fixture(scope="session")
def data64(clip64: Backbone, labels: Labels, make_data: MakeData) -> FewShotData:
    """The same in double precision."""
    return make_data(clip64, labels)


@pytest.fixture(scope="session")
def images() -> torch.Tensor:
    """Seven image features of the pair's size, not normalised."""
    return 3 * torch.randn(7, 16, generator=torch.Generator().manual_seed(9))


@pytest.fixture(scope="session")
def images64(images: torch.Tensor) -> torch.Tensor:
    """The same in double precision."""
    return images.double()
