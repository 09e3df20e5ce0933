"""docs/methods.md says what the code does."""

from __future__ import annotations

import re

import pytest
from methods_page import DRAWS, write_size
from pages import read_page

PAGE = read_page("methods.md")


@pytest.mark.parametrize(
    ("title", "parameters"),
    [
        *[("Zero-shot", "0"), ("CoOp", "8,192"), ("CoCoOp", "35,360"), ("KgCoOp", "2,048")],
        *[("ProGrad", "8,192"), ("TCP", "331,904"), ("PLOT", "32,768"), ("ProText", "18,432")],
        *[("KDPL (CoOp)", "2,048"), ("ContCoOp", "788,480"), ("ATPrompt (CoOp)", "3,072")],
        *[("CLIP-Adapter", "131,072"), ("TaskRes", "512 · C"), ("CLAP", "512 · C")],
        *[("GDA", "513 · C"), ("Tip-Adapter-F", "512 · N"), ("Rosetta", "C · N")],
        *[("VPT-deep", "73,728"), ("VPT-shallow", "6,144"), ("IVLP", "30,720")],
        *[("MaPLe", "3,555,072"), ("PromptSRC", "46,080"), ("CoPrompt", "3,817,216")],
        *[("CLIP-LoRA", "184,320"), ("BitFit (text)", "68,096"), ("MMA", "674,560")],
        *[("MMRL", "4,992,256"), ("PLOT++", "14,336"), ("ProDA", "262,144")],
    ],
)
def test_modules_have_the_published_number_of_parameters(title: str, parameters: str) -> None:
    """Those in the papers and their authors' code, at ViT-B/16."""
    rows = [line for line in PAGE.splitlines() if line.startswith((f"| [{title}]", f"| {title} "))]
    assert rows[1].split("|")[3].strip() == parameters


def test_what_is_measured_of_methods_that_are_known() -> None:
    rows = re.sub(" +", " ", PAGE)
    needs = "zero-shot text features; logit scale | feature size; classes"
    assert f"| `taskres` | deep | classifier | residual: C × 512 | – | {needs} |" in rows
    needs = "token embeddings; text tower; logit scale | token width"
    assert f"| `coop` | shallow | text-input | context: 16 × 512 | – | {needs} |" in rows


@pytest.mark.parametrize(
    ("factors", "words"),
    [
        ((0, 0, 0, 0), "0"),
        ((2048, 513, 1, 0), "2,048 + 513 · C + N"),
        ((0, 0, 0, 1), "C · N"),
        ((7, 0, 2, 3), "7 + 2 · N + 3 · C · N"),
    ],
)
def test_sizes_in_words(factors: tuple[int, int, int, int], words: str) -> None:
    fixed, per_class, per_image, per_both = factors
    draws = [(classes, classes * shots) for classes, shots in DRAWS]
    sizes = [fixed + per_class * c + per_image * n + per_both * c * n for c, n in draws]
    assert write_size(sizes) == words
