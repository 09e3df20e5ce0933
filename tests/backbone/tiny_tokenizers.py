"""Tokenizers of transformers that know eight words, in a model's folder."""

from __future__ import annotations

from pathlib import Path

WORDS = ["a", "photo", "of", "dog", "tree", "red", "apple", "."]
STARTS = {"siglip": ""}
PADS = {"clip": "[SEP]", "siglip": "[MASK]"}


def write_tokenizer(folder: Path, kind: str) -> None:
    """The files of a tokenizer whose special tokens are those of a kind of model."""
    import transformers
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
