"""Small models that open_clip knows by name, with made-up releases, for tests of loading."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import open_clip
import pytest
import torch
from open_clip import pretrained
from tiny_models import randomise
from torch import Tensor, nn

from compatbench.backbone.load import backbone_names
from compatbench.backbone.load.mini_towers import register_mini_towers
from compatbench.data.cards import BackboneCard
from compatbench.files.project_folders import tasks_folder

TEXT = dict(context_length=16, vocab_size=49408, width=16, heads=2, layers=2)
IMAGE = dict(image_size=32, patch_size=16, width=16, head_width=8, layers=2)
EVA = dict(image_size=48, timm_model_name="eva02_mini_patch12_clip_48", timm_pool="token")
EVA |= dict(timm_proj="none", timm_model_pretrained=False)
CLIP = dict(embed_dim=8, vision_cfg=IMAGE, text_cfg=TEXT)
CONFIGS: dict[str, dict[str, Any]] = {
    "Small": CLIP,
    "Small-quickgelu": CLIP | dict(quick_gelu=True),
    "Small-wide": CLIP | dict(text_cfg=TEXT | dict(width=24)),
    "Small-siglip2": CLIP | dict(text_cfg=TEXT | dict(hf_tokenizer_name="us/words")),
    "Small-eva": CLIP | dict(vision_cfg=EVA, custom_text=True),
}
HALF = (0.5, 0.5, 0.5)
RELEASES = {
    "Small": {
        "openai": dict(hf_hub="us/small.openai/"),
        "plain": dict(hf_hub="us/small.plain/"),
        "half": dict(hf_hub="us/small.half/", mean=HALF, std=HALF, interpolation="bilinear"),
    },
    "Small-siglip2": {"webli": dict(hf_hub="us/small.siglip2/")},
    "Small-wide": {"one": dict(hf_hub="us/small-wide.one/", mean=HALF, std=HALF)},
}
RELEASES["Small"]["openai"]["quick_gelu"] = True  # type: ignore[assignment]
RELEASES["Small-quickgelu"] = {"openai": RELEASES["Small"]["openai"]}


def make(name: str, seed: int = 1) -> nn.Module:
    """Return a model of random weights, as if it had been trained."""
    register_mini_towers(tasks_folder())
    return randomise(open_clip.create_model(name), seed)


def publish(monkeypatch: pytest.MonkeyPatch, digest: str, by: str = "card") -> str:
    """Publish the hash of a file on a card or in an address, and return the file's name."""
    cards = {}
    if by == "card":
        file = "Small.pt"
        url = ""
        facts = dict(name="small", title="Small", config="Small-quickgelu", tag="openai")
        facts |= dict(licence="MIT", files=(file,), hashes={file: digest})
        cards["Small-quickgelu", "openai"] = BackboneCard.model_validate(facts)
    else:
        file = f"s-{digest[:8]}.pt"
        url = f"https://x/open_clip/releases/{file}"
    release = dict(url=url, hf_hub="us/small.openai/", quick_gelu=True)
    monkeypatch.setitem(pretrained._PRETRAINED, "Small-quickgelu", {"openai": release})
    monkeypatch.setattr(backbone_names, "cards_by_release", lambda _: cards)
    return file


def put_in_hub_cache(root: Path, repository: str, file: str) -> Path:
    """Make the folder of a file in the hub's cache, and return the file's path."""
    folder = root / f"models--{repository.replace('/', '--')}"
    snapshot = folder / "snapshots" / ("0" * 40)
    snapshot.mkdir(parents=True, exist_ok=True)
    (folder / "refs").mkdir(exist_ok=True)
    (folder / "refs" / "main").write_text("0" * 40)
    return snapshot / file


def same_weights(found: nn.Module, expected: nn.Module) -> bool:
    """Return True if all tensors are equal."""
    tensors = found.state_dict()
    wanted = expected.state_dict()
    if tensors.keys() != wanted.keys():
        return False
    return all(torch.equal(wanted[name], tensor) for name, tensor in tensors.items())


State = dict[str, Tensor]


def with_openais_numbers(state: State) -> State:
    numbers = dict(input_resolution=32, context_length=16, vocab_size=49408)
    return state | {name: torch.tensor(number) for name, number in numbers.items()}


def save_torchscript(state: State, path: Path) -> None:
    """Write a TorchScript archive with OpenAI's names, numbers included."""

    class Archive(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x

    archive = Archive()
    for name, tensor in with_openais_numbers(state).items():
        owner: nn.Module = archive
        *path_to, last = name.split(".")
        for part in path_to:
            if part not in dict(owner.named_children()):
                owner.add_module(part, Archive())
            owner = owner.get_submodule(part)
        owner.register_buffer(last, tensor.clone())
    torch.jit.save(torch.jit.script(archive), path)


def eva_names(state: State) -> State:
    """Rename tensors from open_clip's names to those of EVA-CLIP's authors."""
    pairs = {
        "visual.trunk.": "visual.",
        "attn.q_proj.bias": "attn.q_bias",
        "attn.v_proj.bias": "attn.v_bias",
        "attn.norm.": "attn.inner_attn_ln.",
        "mlp.norm.": "mlp.ffn_ln.",
        "mlp.fc1_g.": "mlp.w1.",
        "mlp.fc1_x.": "mlp.w2.",
        "mlp.fc2.": "mlp.w3.",
    }
    renamed = {"visual.rope.freqs_cos": torch.randn(16, 32)}
    renamed["visual.blocks.0.attn.rope.freqs_sin"] = torch.randn(16, 32)
    for name, tensor in state.items():
        for ours, theirs in pairs.items():
            name = name.replace(ours, theirs)
        renamed[name] = tensor
    return renamed


# The tokenizers of transformers know eight words.
WORDS = ["a", "photo", "of", "dog", "tree", "red", "apple", "."]
STARTS = {"siglip": ""}
PADS = {"clip": "[SEP]", "siglip": "[MASK]"}


def write_tokenizer(folder: Path, kind: str) -> None:
    """Write the files of a tokenizer with the special tokens of a kind of model."""
    transformers = pytest.importorskip("transformers")
    from tokenizers import Tokenizer, models, pre_tokenizers, processors

    special = ["[PAD]", "[CLS]", "[MASK]", "[SEP]"]
    vocabulary = {word: i for i, word in enumerate([*special, *WORDS])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="[MASK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    start = STARTS.get(kind, "[CLS]")
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{start} $A [SEP]".strip(),
        special_tokens=[(token, vocabulary[token]) for token in special],
    )
    transformers.PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token=PADS.get(kind, "[PAD]"), sep_token="[SEP]"
    ).save_pretrained(folder)


def write_model(folder: Path, kind: str, seed: int = 1) -> Any:
    """Write a small CLIP or SigLIP as transformers does, with its processor, and return it."""
    import transformers

    torch.manual_seed(seed)
    sizes = dict(hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=2)
    vision = sizes | dict(image_size=64, patch_size=16)
    text = sizes | dict(vocab_size=16, max_position_embeddings=20)
    model: Any
    if kind == "clip":
        ends = dict(pad_token_id=0, bos_token_id=1, eos_token_id=3)
        config = transformers.CLIPConfig(
            text_config=text | ends, vision_config=vision, projection_dim=16
        )
        model = transformers.CLIPModel(config)
    else:
        ends = dict(pad_token_id=2, eos_token_id=3, projection_size=32)
        config = transformers.SiglipConfig(text_config=text | ends, vision_config=vision)
        model = transformers.SiglipModel(config)
    model.save_pretrained(folder)
    write_tokenizer(folder, kind)
    processor = dict(size={"height": 64, "width": 64}, do_center_crop=False, resample=3)
    processor |= dict(image_mean=[0.5] * 3, image_std=[0.5] * 3, rescale_factor=1 / 255)
    (folder / "preprocessor_config.json").write_text(json.dumps(processor))
    return model.eval()
