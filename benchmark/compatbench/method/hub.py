"""Modules on the Hugging Face Hub, ``hf://OWNER/NAME``: a safetensors file and a model card."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from compatbench.backbone.load.backbone_names import read_backbone
from compatbench.backbone.load.find_weights import (
    OFFLINE,
    check_network,
    hub_cache,
    is_offline,
    published_weights,
)
from compatbench.backbone.load.hub_errors import explain_hub_error
from compatbench.data.cards import task_cards
from compatbench.errors import CompatbenchError
from compatbench.messages import one_line

if TYPE_CHECKING:
    from huggingface_hub import HfApi

MODULE_FILE = "module.safetensors"
_ADDRESS = re.compile(r"(?:hf://?)?([A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*)/?")
Loaded = TypeVar("Loaded")


def local_file(module: Loaded | str | Path) -> Loaded | Path:
    """Return the path of a module's file. One at ``hf://OWNER/NAME`` is downloaded to the cache.

    Anything that is neither a path nor an address is returned as it is.
    """
    if not isinstance(module, (str, Path)):
        return module
    # pathlib makes hf:/ of hf://.
    if not str(module).startswith("hf:/"):
        return Path(module)
    repository = _read_address(str(module))
    with _connection(repository, "read") as hub:
        file = hub.hf_hub_download(
            repository, MODULE_FILE, cache_dir=hub_cache(), local_files_only=is_offline()
        )
    return Path(file)


def upload_module(
    repository: str,
    content: bytes,
    about: Mapping[str, Any],
    *,
    licence: str | None = None,
    private: bool = False,
) -> str:
    """Upload a module's file with a model card in one commit, and return the commit's address."""
    from huggingface_hub import CommitOperationAdd

    repository = _read_address(repository)
    address = f"hf://{repository}"
    if is_offline():
        raise CompatbenchError(f"cannot write to {address}: {OFFLINE} is set; unset it")
    card = write_model_card(repository, about, licence)
    files = [
        CommitOperationAdd("README.md", card.encode()),
        CommitOperationAdd(MODULE_FILE, content),
    ]
    with _connection(repository, "write to") as hub:
        hub.create_repo(repository, private=private, exist_ok=True)
        if private and not hub.repo_info(repository).private:
            raise CompatbenchError(f"{address} exists and is public; choose another name")
        commit = hub.create_commit(repository, files, commit_message="Upload with compatbench")
    return str(commit.commit_url)


def write_model_card(repository: str, about: Mapping[str, Any], licence: str | None) -> str:
    """Return the text of a model card, from what the module's file says about its fit."""
    from huggingface_hub import ModelCardData

    facts = _list_facts(about)
    base_model = None
    try:
        backbone = read_backbone(str(about.get("source")))
        base_model = published_weights(backbone).repository or None
        facts["licence of the backbone"] = backbone.licence
    except CompatbenchError:
        pass  # the backbone's card is not on this machine
    header = ModelCardData(
        library_name="compatbench",
        license=licence,
        tags=["compatbench", "clip", str(about.get("method"))],
        base_model=base_model,
        base_model_relation="adapter" if base_model else None,
    )
    lines = [f"* {name}: `{_plain(value)}`" for name, value in facts.items() if value]
    return f"""---
{header.to_yaml()}
---

# {repository.partition("/")[2]}

A module for a frozen vision-language model. The file does not contain the model itself.

{chr(10).join(lines)}

```py
import compatbench as cb

module = cb.load("hf://{repository}")
cb.evaluate(module, "NEW_MODEL")  # does it survive this model?
```
"""


def _list_facts(about: Mapping[str, Any]) -> dict[str, Any]:
    """Return what is known about a fit, by the words of the model card."""
    facts = {name: about.get(name) for name in ("method", "source", "task", "shots", "seed")}
    facts["settings"] = about.get("config")
    if facts["task"] in task_cards.names():
        facts["licence of the images"] = task_cards.read(facts["task"]).licence
    classes = (about.get("labels") or {}).get("names", ())
    facts["classes"] = ", ".join(classes)
    for name in ("imported", "ported"):
        facts[name] = about.get(name)
    return facts


def _plain(value: Any) -> str:
    """Return a value as a single line that can stand in backticks."""
    return one_line(str(value), 400).replace("`", "'")


def _read_address(text: str) -> str:
    match = _ADDRESS.fullmatch(text)
    if match is None:
        raise CompatbenchError(f"'{text}' is not a repository of the Hub; write OWNER/NAME")
    return match[1]


@contextmanager
def _connection(repository: str, action: str) -> Iterator[HfApi]:
    """Provide the Hub's client, and turn its errors into one line: ``cannot ACTION ...``."""
    from huggingface_hub import HfApi

    try:
        if not is_offline():
            check_network()
        yield HfApi(library_name="compatbench")
    except CompatbenchError:
        raise
    # The client raises the errors of its HTTP library, which differs between versions.
    except Exception as error:
        reason = f"it is not in the cache of this machine, and {OFFLINE} is set"
        if not is_offline():
            reason = explain_hub_error(error, repository, MODULE_FILE)
        raise CompatbenchError(f"cannot {action} hf://{repository}: {reason}") from None
