"""One interface for all tokenizers: a text's own tokens, and the special ones around them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from compatbench.errors import BackboneError


@dataclass(frozen=True)
class TextTokens:
    """How texts become token ids.

    Attributes:
        encode: the ids of a text, without special tokens.
        start: ids before every text; none for towers such as SigLIP's.
        end: ids after it.
        pad: id that fills the context.
    """

    encode: Callable[[str], list[int]]
    start: tuple[int, ...]
    end: tuple[int, ...]
    pad: int


def examine_tokenizer(tokenizer: Any, name: str) -> TextTokens:
    """Finds out how one of open_clip's tokenizers works.

    Raises:
        BackboneError: it puts tokens elsewhere than before and after a text.
    """
    from open_clip.tokenizer import HFTokenizer, SimpleTokenizer

    if isinstance(tokenizer, SimpleTokenizer):
        start, end = (tokenizer.sot_token_id,), (tokenizer.eot_token_id,)
        return TextTokens(lambda text: list(tokenizer.encode(text)), start, end, pad=0)
    if not isinstance(tokenizer, HFTokenizer) or tokenizer.tokenizer_mode:
        kind = getattr(tokenizer, "tokenizer_mode", "") or type(tokenizer).__name__
        raise _refusal(name, f"'{kind}' is not supported")
    inner: Any = tokenizer.tokenizer

    def encode(text: str, around: bool = False) -> list[int]:
        return list(inner(tokenizer.clean_fn(text), add_special_tokens=around).input_ids)

    bare, whole = encode("a"), encode("a", around=True)
    places = [i for i in range(len(whole)) if whole[i : i + len(bare)] == bare]
    if not bare or len(places) != 1 or inner.pad_token_id is None:
        raise _refusal(name, "special tokens change how it splits a text, or it has no padding")
    around = [
        0 if tokenizer.strip_sep_token and token == inner.sep_token_id else token for token in whole
    ]
    before, behind = around[: places[0]], around[places[0] + len(bare) :]
    return TextTokens(encode, tuple(before), tuple(behind), inner.pad_token_id)


def _refusal(name: str, reason: str) -> BackboneError:
    return BackboneError(
        f"backbone '{name}': its tokenizer cannot be used: {reason}",
        "use a model with CLIP's tokenizer or one of transformers'",
    )
