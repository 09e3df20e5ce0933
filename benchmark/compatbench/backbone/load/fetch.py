"""Fetches weights from the network, with a bar that shows how far it is."""

from __future__ import annotations

import socket
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit
from urllib.request import getproxies

from compatbench.data.cards import BackboneCard
from compatbench.errors import MissingWeights

if TYPE_CHECKING:
    from compatbench.backbone.load.find import Source


TIMEOUT = 10  # seconds


def fetch_weights(card: BackboneCard, source: Source, cache: Path) -> Path:
    """Downloads a release into the cache where it would have been looked for.

    Raises:
        MissingWeights: there is no network, or no such file.
    """
    if not source.repository:
        return _fetch_url(card, source)
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import EntryNotFoundError, LocalEntryNotFoundError

    try:
        check_network()
    except OSError as error:
        raise _failure(card, f"{source.files[0]} of {source.repository}", source, error) from None
    for file in source.files:
        try:
            return Path(hf_hub_download(source.repository, file, cache_dir=cache))
        except LocalEntryNotFoundError as error:
            raise _failure(card, f"{file} of {source.repository}", source, error) from None
        except EntryNotFoundError:
            continue
        # The hub raises what its transport raises, which differs between its versions.
        except Exception as error:
            raise _failure(card, f"{file} of {source.repository}", source, error) from None
    missing = FileNotFoundError("the repository has no such file")
    raise _failure(card, f"{source.files[0]} of {source.repository}", source, missing)


def check_network() -> None:
    """Tries to reach the hub once; the hub's client would try for half a minute, and say so.

    Raises:
        OSError: there is no network.
    """
    from huggingface_hub.constants import ENDPOINT

    place = urlsplit(ENDPOINT)
    if place.hostname and not getproxies():
        port = place.port or (80 if place.scheme == "http" else 443)
        socket.create_connection((place.hostname, port), timeout=TIMEOUT).close()


def _fetch_url(card: BackboneCard, source: Source) -> Path:
    from open_clip.pretrained import download_pretrained_from_url

    try:
        return Path(download_pretrained_from_url(source.url))
    except (OSError, RuntimeError) as error:
        raise _failure(card, source.url, source, error) from None


def _failure(card: BackboneCard, what: str, source: Source, error: Exception) -> MissingWeights:
    from compatbench.backbone.load.find import how_to_get

    text = str(error).splitlines()[0].strip(" .") if str(error) else type(error).__name__
    return MissingWeights(
        f"backbone '{card.name}': {what} is not on this machine and cannot be fetched: {text}",
        how_to_get(source),
    )
