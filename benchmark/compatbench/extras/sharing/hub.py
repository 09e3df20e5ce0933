"""Modules and results on the Hugging Face Hub: ``hf://owner/name``, ``hf://datasets/owner/name``."""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from compatbench.backbone.load.find_weights import OFFLINE, check_network, hub_cache, is_offline
from compatbench.engine.single_module import read_fitted
from compatbench.errors import CompatbenchError
from compatbench.extras.sharing.readme import describe_module, describe_results
from compatbench.files.atomic import cannot_write
from compatbench.files.kinds import require, require_new
from compatbench.files.scratch import scratch_folder
from compatbench.files.sizes import format_bytes
from compatbench.messages import first_line
from compatbench.method import Module, load_module
from compatbench.plugins import open_address
from compatbench.results.result_files import NO_SUITES, RESULTS, read_results

if TYPE_CHECKING:
    from huggingface_hub import HfApi

MODULE_FILE, README = "module.safetensors", "README.md"
_ADDRESS = re.compile(r"hf://?(datasets/)?((?!datasets/)[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*)/?")
# Of a suite's folder; other files of a repository are not taken.
_RESULT_FILE = re.compile(
    r"results/([A-Za-z0-9][\w.+-]*)/(tuning/)?[A-Za-z0-9][\w.+-]*\.(csv|json)"
)


class Address(NamedTuple):
    """A repository of the hub; modules are in those of models, results in those of datasets."""

    kind: str  # model or dataset
    repository: str

    def __str__(self) -> str:
        return f"hf://{'datasets/' * (self.kind == 'dataset')}{self.repository}"


# What an address of each kind looks like, and what is there.
_PLACES = {
    "model": ("hf://OWNER/NAME", "a module"),
    "dataset": ("hf://datasets/OWNER/NAME", "results"),
}


def read_address(text: str | Path, *kinds: str) -> Address:
    """Reads an address, which has to be of one of the ``kinds``, if any are given."""
    match = _ADDRESS.fullmatch(str(text))
    kind = match and ("dataset" if match[1] else "model")
    kinds = kinds or tuple(_PLACES)
    if not match or kind not in kinds:
        place, thing = (" or ".join(words) for words in zip(*map(_PLACES.get, kinds), strict=True))
        raise CompatbenchError(f"'{text}' is not a place of {thing} on the hub; write {place}")
    return Address(str(kind), match[2])


@dataclass(frozen=True)
class Upload:
    """What is to be sent to the hub, and where. Nothing is sent before ``send``."""

    address: Address
    files: Mapping[str, bytes]  # by their paths in the repository
    private: bool = False

    def __repr__(self) -> str:
        return f"<Upload of {len(self.files)} files to {self.address}, not sent before send()>"

    def __str__(self) -> str:
        """All that would be sent, the text of the README in full."""
        who = "private" if self.private else "public"
        lines = [f"to {self.address}, a {self.address.kind} ({who} if it has to be made):"]
        lines += [f"  {name} ({format_bytes(len(data))})" for name, data in self.files.items()]
        return "\n".join([*lines, "", f"{README}:", self.files[README].decode()])

    def send(self) -> str:
        """Sends the files, as one commit; those of the same names are replaced.

        Returns:
            The address of the commit.

        Raises:
            CompatbenchError: no token, no right to write, a public repository where a private
                one was asked for, or a hub that cannot be reached.
        """
        from huggingface_hub import CommitOperationAdd, get_token

        if is_offline():
            raise CompatbenchError(f"nothing can be sent to {self.address}: {OFFLINE} is set")
        if get_token() is None:
            raise CompatbenchError(
                f"nothing can be sent to {self.address} without your token of the hub: "
                "'hf auth login' saves it, or set HF_TOKEN"
            )
        place, kind = self.address.repository, self.address.kind
        with _asking(self.address, "written to") as api:
            api.create_repo(place, repo_type=kind, private=self.private, exist_ok=True)
            if self.private and not api.repo_info(place, repo_type=kind).private:
                raise CompatbenchError(f"{self.address} is public; give another name")
            files = [CommitOperationAdd(name, data) for name, data in self.files.items()]
            done = api.create_commit(
                place, files, commit_message="Upload with compatbench", repo_type=kind
            )
        return str(done.commit_url)


def push_module(
    module: Module | str | Path,
    to: str,
    *,
    licence: str | None = None,
    private: bool = False,
    out: str | Path = ".",
) -> Upload:
    """Prepares a module for the hub, with a README.md that is made from its own facts.

    Args:
        module: of ``fit``, ``port`` or ``import_module``, or the file of one.
        to: ``hf://OWNER/NAME``.
        licence: that you give the module, as the hub names it, such as ``mit``.
        private: whether only you may see the repository, if it has to be made.
        out: the folder of ``results/``, from which the README has the module's accuracies.

    Returns:
        What would be sent: ``print`` shows it, ``send()`` sends it with your token of the hub.

    Raises:
        CompatbenchError: a damaged module, or an address that is none.
    """
    address = read_address(to, "model")
    fitted, _ = read_fitted(open_address(module))
    readme = describe_module(fitted, str(address), Path(out), licence)
    with scratch_folder() as folder:
        path = Path(folder, MODULE_FILE)
        fitted.save(path)
        return Upload(address, {README: readme.encode(), path.name: path.read_bytes()}, private)


def push_results(folder: str | Path, to: str, *, private: bool = False) -> Upload:
    """Prepares ``results/<suite>`` for the hub; images, cards and modules stay here.

    Args:
        folder: of the suite, as ``run`` leaves it.
        to: ``hf://datasets/OWNER/NAME``.
        private: as of ``push_module``, and so what is returned.

    Raises:
        CompatbenchError: no results, a broken results file, or an address that is none.
    """

    folder, address = Path(folder), read_address(to, "dataset")
    results = read_results(folder)
    if not results.all:
        raise CompatbenchError(f"{folder} holds no results; give a folder results/SUITE")
    files = {README: describe_results(results, str(address)).encode()}
    for path in sorted(folder.rglob("*")):
        name = f"results/{folder.name}/{path.relative_to(folder).as_posix()}"
        if _RESULT_FILE.fullmatch(name):
            files[name] = path.read_bytes()
    return Upload(address, files, private)


def pull_module(address: str | Path) -> Module:
    """A module of the hub, by way of the hub's cache.

    Args:
        address: ``hf://OWNER/NAME``. ``evaluate``, ``port``, ``advise`` and ``export_module`` take
            it, too, in place of a file.

    Raises:
        CompatbenchError: no such repository, one without a module, a damaged module, or a hub
            that cannot be reached.
    """
    place = read_address(address, "model")
    with _asking(place, "read") as api:
        file = api.hf_hub_download(place.repository, MODULE_FILE, **_from_cache())
    try:
        return load_module(Path(file))
    except CompatbenchError as error:
        raise CompatbenchError(f"{place}: {error}") from None


def pull_results(address: str, out: str | Path = ".") -> list[Path]:
    """Results of the hub as folders ``results/<suite>/``, or nothing if any cannot be read.

    Args:
        address: ``hf://datasets/OWNER/NAME``.
        out: the folder of ``results/``. Nothing in it is replaced.

    Raises:
        CompatbenchError: as ``pull_module``; or results of such a suite are there already.
    """
    place, out = read_address(address, "dataset"), Path(out)
    with _asking(place, "read") as api:
        wanted = {"repo_type": place.kind, "allow_patterns": f"{RESULTS}/*", **_from_cache()}
        folder = Path(api.snapshot_download(place.repository, **wanted))
    names = (path.relative_to(folder).as_posix() for path in sorted(folder.rglob("*")))
    files = {name: match[1] for name in names if (match := _RESULT_FILE.fullmatch(name))}
    suites = sorted({*files.values()} - {*NO_SUITES})
    if not suites:
        raise CompatbenchError(f"{place} holds no results: no {RESULTS}/SUITE/METHOD.csv")
    targets = [require(out / RESULTS, "folder") / suite for suite in suites]
    for target in targets:
        require_new(target)
    try:
        (out / RESULTS).mkdir(parents=True, exist_ok=True)
        with scratch_folder(inside=out) as staging:
            for name in files:
                (staging / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(folder / name, staging / name)
            try:
                for target in targets:
                    read_results(staging / RESULTS / target.name)
            except CompatbenchError as error:
                why = str(error).replace(f"{staging}/", "")
                raise CompatbenchError(f"{place}: {why}") from None
            for target in targets:
                (staging / RESULTS / target.name).rename(target)
    except OSError as error:
        raise cannot_write(out / RESULTS, error) from None
    return targets


def _from_cache() -> dict[str, Any]:
    return {"cache_dir": hub_cache(), "local_files_only": is_offline()}


@contextmanager
def _asking(address: Address, done: str) -> Iterator[HfApi]:
    """The hub's client; what goes wrong while it is asked is one line."""
    from huggingface_hub import HfApi

    try:
        if not is_offline():
            check_network()
        yield HfApi(library_name="compatbench")
    except CompatbenchError:
        raise
    # The hub raises the errors of its HTTP library, which differs between versions.
    except Exception as error:
        raise CompatbenchError(f"{address} cannot be {done}: {_reason(error)}") from None


def _reason(error: Exception) -> str:
    from huggingface_hub import errors

    if isinstance(error, (errors.LocalEntryNotFoundError, errors.OfflineModeIsEnabled)):
        if is_offline():
            return f"it is not on this machine, and nothing may be fetched ({OFFLINE})"
        if isinstance(error.__cause__, Exception):
            return _reason(error.__cause__)
    if isinstance(error, errors.RepositoryNotFoundError):
        return "there is no such repository, or your token may not see it"
    if isinstance(error, errors.EntryNotFoundError):
        return f"the repository holds no {MODULE_FILE}"
    status = getattr(getattr(error, "response", None), "status_code", None)
    if status in (401, 403):
        return f"the hub refuses your token ({status})"
    of_network = isinstance(error, OSError) or type(error).__module__.startswith("httpx")
    why = "the hub cannot be reached: " if of_network and status is None else ""
    return why + first_line(error).strip(" .")
