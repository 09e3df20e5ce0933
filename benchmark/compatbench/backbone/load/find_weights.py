"""Find the weights of a backbone on this machine, or download them from where they are published.

Environment variables are read at each call, so that worker processes obey them too.
"""

from __future__ import annotations

import lzma
import os
import socket
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from urllib.parse import urlsplit
from urllib.request import getproxies

from compatbench.backbone.load.backbone_names import release_facts
from compatbench.backbone.load.hub_errors import explain_hub_error
from compatbench.data.cache_files import default_cache_folder
from compatbench.data.cards import BackboneCard, backbone_cards
from compatbench.data.cards.yaml_file import WEIGHTS_FOLDER, check_place
from compatbench.errors import BackboneError, MissingWeights
from compatbench.files.atomic import write_atomic
from compatbench.files.project_folders import tasks_folder

OFFLINE = "HF_HUB_OFFLINE"

_SUFFIXES = (".safetensors", ".pt", ".pth", ".bin")
_IN_REPOSITORY = ("open_clip_model.safetensors", "open_clip_pytorch_model.bin")
_IN_FOLDER = (
    "open_clip_model.safetensors",
    "open_clip_pytorch_model.safetensors",
    "open_clip_pytorch_model.bin",
    "model.safetensors",
    "pytorch_model.bin",
)
_OF_TRANSFORMERS = ("model.safetensors", "pytorch_model.bin")
BESIDE = ("*.json", "*.txt", "*.model")
_TIMEOUT = 10  # seconds


def is_set(variable: str) -> bool:
    """Return True if an environment variable is 1, on, yes or true."""
    return os.environ.get(variable, "").upper() in ("1", "ON", "YES", "TRUE")


def is_offline() -> bool:
    """Return True if ``HF_HUB_OFFLINE`` or ``TRANSFORMERS_OFFLINE`` forbids downloads."""
    return is_set(OFFLINE) or is_set("TRANSFORMERS_OFFLINE")


def hub_cache() -> Path:
    """Return the folder of the Hugging Face hub's cache, from the hub's own variables."""
    base = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    home = os.environ.get("HF_HOME") or f"{base}/huggingface"
    return Path(os.environ.get("HF_HUB_CACHE") or f"{home}/hub").expanduser()


@dataclass(frozen=True)
class Published:
    """The place of published weights: a repository of the hub, an address, or both."""

    repository: str
    files: tuple[str, ...]  # their names in the repository, the preferred one first
    url: str = ""


def published_weights(card: BackboneCard) -> Published:
    """Return the place where a card's weights are published."""
    if card.provider == "hf":
        return Published(card.repository, _OF_TRANSFORMERS)
    facts = release_facts(card)
    # open_clip writes OWNER/NAME, or OWNER/NAME/FILE.
    owner, _, rest = facts.get("hf_hub", "").partition("/")
    name, _, file = rest.partition("/")
    repository = f"{owner}/{name}" if name else card.repository
    files = _IN_REPOSITORY
    if file:
        safetensors = str(Path(file).with_suffix(".safetensors"))
        files = tuple(dict.fromkeys((safetensors, file)))
    return Published(repository, files, facts.get("url", ""))


def fetch_command(card: BackboneCard) -> str:
    """Return the command that downloads a card's weights from the hub; '' if they are not there."""
    published = published_weights(card)
    if not published.repository:
        return ""
    file = "" if card.provider == "hf" else f" {published.files[0]}"
    commit = f" --revision {card.revision}" if card.revision else ""
    return f"hf download {published.repository}{file}{commit}"


def beside_own_card(card: BackboneCard, file: str) -> Path | None:
    """Return the path of a file beside a custom card; None for a card that ships."""
    folder = backbone_cards.own_folder(card.name)
    if folder is None:
        return None
    try:
        return Path(check_place(str(folder / file), folder))
    except ValueError as error:
        raise BackboneError(f"backbone '{card.name}'", str(error)) from None


def find_weights(card: BackboneCard, download: bool = False) -> Path:
    """Return the file that holds a card's weights.

    The search order is: the card's own file or path; ``COMPATBENCH_WEIGHTS``; the cache of the
    Hugging Face hub; ``~/.cache/clip``; and, if ``download`` is set and the user is not offline,
    the network.

    Raises:
        MissingWeights: the file is in none of these places, or the download failed.
        BackboneError: a folder holds several checkpoints, or a card's path leaves its folder.
    """
    if card.weights is not None:
        return _find_shipped(card, card.weights)
    if card.path is not None:
        return _find_in_path(card, Path(card.path).expanduser())
    published = published_weights(card)
    places = _places(card, published)
    for path in chain(*places.values()):
        if path.is_file():
            return path
    title = Path(published.url).name
    if published.repository:
        title = f"{published.files[0]} of {published.repository}"
    command = fetch_command(card)
    get = f"where there is a network: {command};" if command else f"fetch {published.url},"
    missing = f"backbone '{card.name}': {title} is not on this machine"
    fix = f"{get} or put it into a folder that {WEIGHTS_FOLDER} names"
    if not download or is_offline():
        why = f", and nothing may be fetched ({OFFLINE})" if download else ""
        raise MissingWeights(f"{missing}{why}; looked in {', '.join(places)}", fix)
    try:
        return _download(card, published)
    # The hub raises the errors of its HTTP library, which differs between versions.
    except Exception as error:
        reason = explain_hub_error(error, published.repository, " or ".join(published.files))
        raise MissingWeights(f"{missing} and cannot be fetched: {reason}", fix) from None


def _find_shipped(card: BackboneCard, weights: str) -> Path:
    """Return the weights file beside a card; unpack it into the cache if a wheel has it packed."""
    path = tasks_folder() / weights
    for place in (beside_own_card(card, weights), path):
        if place is not None and place.is_file():
            return place
    packed = path.with_suffix(".xz")
    if packed.is_file():  # the program was installed from a wheel
        path = default_cache_folder() / "weights" / f"{card.sha256}{path.suffix}"
        if not path.is_file():
            write_atomic(path, lzma.decompress(packed.read_bytes()))
        return path
    raise _missing(card, f"weights {path} are", "put them there, or install compatbench again")


def _missing(card: BackboneCard, what: str, fix: str = "correct the path") -> MissingWeights:
    return MissingWeights(f"backbone '{card.name}': {what} missing", fix)


def _find_in_path(card: BackboneCard, path: Path) -> Path:
    """Return the path itself if it is a file, or the weights in it if it is a model's folder."""
    if path.is_file():
        return path
    if not path.is_dir():
        raise _missing(card, f"{path} is")
    names = _OF_TRANSFORMERS if card.provider == "hf" else _IN_FOLDER
    for name in names:
        if (path / name).is_file():
            return path / name
    files = []
    if card.provider == "open_clip":
        files = sorted(file for file in path.iterdir() if file.suffix in _SUFFIXES)
    if len(files) > 1:
        raise BackboneError(
            f"backbone '{card.name}': {path} holds several checkpoints, "
            f"{', '.join(file.name for file in files)}",
            f"rename the right one to {names[0]}",
        )
    if not files:
        problem = f"backbone '{card.name}': {path} holds no weights"
        raise MissingWeights(problem, f"put {names[0]} there")
    return files[0]


def _places(card: BackboneCard, published: Published) -> dict[str, list[Path]]:
    """Return the places to search, by their description for messages, each with its files."""
    places = {}
    # People keep the authors' own names of the file.
    authors = list(card.files)
    url_name = Path(published.url).name
    if url_name:
        authors.insert(0, url_name)
    folder = os.environ.get(WEIGHTS_FOLDER)
    if folder:
        root = Path(folder).expanduser()
        files = [root / name for name in _names_in_folder(card, published)]
        files += _in_hub_cache(root, card, published)
        files += [root / name for name in authors]
        places[f"{WEIGHTS_FOLDER}={root}"] = files
    if published.repository:
        places[str(hub_cache())] = _in_hub_cache(hub_cache(), card, published)
    if authors:
        cache = Path.home() / ".cache" / "clip"
        places[str(cache)] = [cache / name for name in authors]
    return places


def _names_in_folder(card: BackboneCard, published: Published) -> list[str]:
    """Return the names that a weights file may have in the user's folder, the preferred first."""
    stems = []
    if card.config:
        if "/" not in card.name:
            stems.append(card.name)
        stems.append(f"{card.config}-{card.tag}")
    names = [f"{stem}{suffix}" for stem in stems for suffix in _SUFFIXES]
    repository = published.repository
    if repository:
        for file in published.files:
            names.append(f"{repository}/{file}")
            names.append(f"{repository.rpartition('/')[-1]}/{file}")
    return names


def _in_hub_cache(cache: Path, card: BackboneCard, published: Published) -> list[Path]:
    """Return a release's files in a cache of the hub: of the card's commit, then the newest."""
    from huggingface_hub import try_to_load_from_cache

    if not published.repository:
        return []
    paths = []
    for commit in dict.fromkeys((card.revision, None)):
        for name in published.files:
            path = try_to_load_from_cache(
                published.repository, name, cache_dir=cache, revision=commit
            )
            if isinstance(path, str):
                paths.append(Path(path))
    return paths


def _download(card: BackboneCard, published: Published) -> Path:
    """Download weights into the cache in which they are searched for."""
    from huggingface_hub import hf_hub_download, snapshot_download
    from huggingface_hub.errors import EntryNotFoundError, LocalEntryNotFoundError
    from open_clip.pretrained import download_pretrained_from_url

    repository = published.repository
    commit = card.revision
    if not repository:
        return Path(download_pretrained_from_url(published.url))
    check_network()
    cache = hub_cache()
    if card.provider == "hf":
        snapshot_download(repository, revision=commit, cache_dir=cache, allow_patterns=[*BESIDE])
    *preferred, last = published.files
    for file in preferred:
        try:
            return Path(hf_hub_download(repository, file, revision=commit, cache_dir=cache))
        except LocalEntryNotFoundError:  # the Hub does not answer
            raise
        except EntryNotFoundError:
            continue
    return Path(hf_hub_download(repository, last, revision=commit, cache_dir=cache))


def check_network() -> None:
    """Connect to the hub once and raise ``OSError`` if that fails.

    The hub's own client would retry for half a minute.
    """
    from huggingface_hub.constants import ENDPOINT

    place = urlsplit(ENDPOINT)
    # Behind a proxy a direct connection proves nothing.
    if place.hostname and not getproxies():
        default_port = 80 if place.scheme == "http" else 443
        port = place.port or default_port
        socket.create_connection((place.hostname, port), timeout=_TIMEOUT).close()
