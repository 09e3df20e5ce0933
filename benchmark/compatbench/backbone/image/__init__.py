"""The image towers, run from any block on."""
