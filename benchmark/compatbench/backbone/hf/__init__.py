"""Models of transformers as backbones: CLIP, SigLIP, ALIGN, FLAVA and BLIP."""

from __future__ import annotations

from compatbench.backbone.hf.build import (
    build_hugging_face,
    build_hugging_face_tokenizer,
    describe_hugging_face,
)

__all__ = ["build_hugging_face", "build_hugging_face_tokenizer", "describe_hugging_face"]
