"""Models of transformers as backbones: CLIP, SigLIP, ALIGN, FLAVA and BLIP."""
