"""Contributed code in processes of its own: the same numbers, and no way out."""

from __future__ import annotations

import io
import os
import shutil
import subprocess
import sys
import textwrap
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from compatbench.backbone import Backbone, load_backbone
from compatbench.data.cards import suite_cards
from compatbench.data.feature_cache import FeatureCache
from compatbench.data.labels import Labels
from compatbench.engine.confined import child
from compatbench.engine.confined.child import MethodFailed
from compatbench.engine.confined.remote import ConfinedMethod, ConfinedRegistry, confined_builder
from compatbench.engine.confined.sandbox import landlock_version
from compatbench.engine.confined.wire import read_message, write_message
from compatbench.engine.plan import plan_cells
from compatbench.engine.store import RunStore
from compatbench.engine.worker import Worker
from compatbench.errors import CompatbenchError, NotTransferable
from compatbench.files.project_folders import tasks_folder
from compatbench.method import FeatureSet, FewShotData, Module
from compatbench.method.registry import builtin_methods

SPLIT = tasks_folder() / "mini" / "splits" / "weather.csv"
OTHER = next(one for one in sorted(SPLIT.parent.glob("*.csv")) if one != SPLIT)
LABELS = Labels(("dog", "tree"), ("a photo of a {}.",), "a photo of a {}.")
METHOD = """\
import ctypes, os, socket, subprocess, sys, time
import torch
import torch.nn.functional as F
from compatbench.method import Method, MethodCard, Module, NotTransferable
{top}
class Mine(Method):
    card = MethodCard("mine", "Mine", "none", "classifier", "A method that tries something.")

    def fit(self, backbone, data, rng):
        {fit}
        return Module(trained={{"w": torch.randn(2, generator=rng)}})

    def attach(self, module, backbone, labels):
        {attach}
        weights = backbone.zero_shot(labels)

        def classify(images):
            {classify}
            return F.normalize(images, dim=-1) @ weights.T + module["w"]

        return classify
"""


@pytest.fixture(scope="module")
def clip_mini() -> Backbone:
    return load_backbone("mini-clip")


@pytest.fixture(scope="module")
def registry() -> ConfinedRegistry:
    return ConfinedRegistry()


@pytest.fixture(scope="module")
def features(cache: Path) -> FeatureCache:
    return FeatureCache(cache)


def write(folder: Path, **parts: str) -> Path:
    """A method file that does something in ``top``, ``fit``, ``attach`` or ``classify``."""
    given = {name: parts.get(name, "pass") for name in ("top", "fit", "attach", "classify")}
    path = folder / "mine.py"
    path.write_text(METHOD.format(**given))
    return path


def load(path: Path) -> ConfinedMethod:
    registry = ConfinedRegistry(())
    assert registry.add_file(path) == ["mine"]
    return registry.open("mine", {}, backbones={"mini-clip": {}})


def use(method: ConfinedMethod, backbone: Backbone) -> torch.Tensor:
    """Fits on noise, and classifies noise."""
    rng = torch.Generator().manual_seed(1)
    draw = lambda *shape: torch.randn(*shape, backbone.embed_dim, generator=rng)  # noqa: E731
    targets = torch.tensor([0, 0, 1, 1])
    data = FeatureSet(draw(4), draw(2, 4), targets)
    module = method.fit(backbone, FewShotData(LABELS, 2, data, data), rng)
    assert set(module.trained) == {"w"}
    return method.attach(module, backbone, LABELS)(draw(3))


def test_a_plan_is_the_same_and_imports_no_method(registry: ConfinedRegistry) -> None:
    builtin_methods.cache_clear()  # without methods that other tests have added
    assert registry.broken == {}
    names = registry.names()
    assert names == builtin_methods().names()
    for suite in map(suite_cards.read, ("mini", "mini-ablation", "mini-paths")):
        chosen = [*names, *suite.configs]
        assert plan_cells(suite, registry, chosen) == plan_cells(suite, builtin_methods(), chosen)


def test_planning_and_an_audit_import_no_method() -> None:
    script = """
        import sys
        from compatbench.data.cards import suite_cards
        from compatbench.engine.confined.remote import ConfinedRegistry
        from compatbench.engine.plan import plan_cells
        import compatbench.extras.audit.pull_request
        assert plan_cells(suite_cards.read("smoke"), ConfinedRegistry(), ["coop", "gda"])
        assert not [name for name in sys.modules if name.startswith("compatbench.methods.")]
    """
    # It is a script without a guard, as users write them.
    subprocess.run([sys.executable, "-c", textwrap.dedent(script)], check=True)


# Of every input: features, tokens of the text, local features, pixels; with closed forms.
KINDS = ["zeroshot", "coop", "tip_adapter", "plot", "maple", "clip_lora"]


@pytest.mark.slow
@pytest.mark.parametrize("name", KINDS)
def test_records_are_the_same_as_in_this_process(
    name: str, registry: ConfinedRegistry, features: FeatureCache, tmp_path: Path
) -> None:
    """Of methods of all kinds, by both transfers where they serve: not one bit differs."""
    suite = suite_cards.read("smoke").model_copy(update={"transfers": ("copied", "words")})
    cells = plan_cells(suite, builtin_methods(), [name])
    here = Worker(RunStore(tmp_path / "here"), features)
    build = confined_builder(registry, "cpu")
    there = Worker(RunStore(tmp_path / "there"), features, build=build)
    for cell in cells:
        one, other = here.run(cell), there.run(cell)
        assert one.errors == []
        loose = {"fit_seconds", "peak_memory", "records"}
        assert one.model_dump(exclude=loose) == other.model_dump(exclude=loose)
        for mine, its in zip(one.records, other.records, strict=True):
            assert mine.model_dump(exclude={"seconds"}) == its.model_dump(exclude={"seconds"})


def test_errors_of_a_method_are_its_own(tmp_path: Path, clip_mini: Backbone) -> None:
    method = load(write(tmp_path, attach="raise NotTransferable('of another size')"))
    with pytest.raises(NotTransferable, match="of another size"):
        use(method, clip_mini)
    method = load(write(tmp_path, attach="labels[1]"))
    with pytest.raises(MethodFailed) as caught:
        use(method, clip_mini)
    assert caught.value.failure.error.startswith("TypeError: 'Labels' object")
    assert caught.value.failure.trace[-1].startswith("mine.py:")


HIDDEN = "try: {}\nexcept BaseException: pass"
REACHES = {
    f"open({str(SPLIT)!r})": "reads tasks/mini/splits/weather.csv",
    f"__import__('numpy').loadtxt({str(OTHER)!r}, str)": f"reads tasks/mini/splits/{OTHER.name}",
    f"os.listdir({str(Path.home())!r})": f"lists {Path.home()}",
    f"open({str(SPLIT.parent / 'new')!r}, 'w')": "writes tasks/mini/splits/new",
    "socket.socket()": "calls socket.__new__",
    "subprocess.run(['true'])": "calls subprocess.Popen",
    "os.fork()": "calls os.fork",
}


@pytest.mark.parametrize(("place", "doing"), child.DOING.items())
def test_what_a_method_reaches_for_is_refused_and_named(
    place: str, doing: str, tmp_path: Path, clip_mini: Backbone
) -> None:
    """One reach alone, which is not hidden; then all, each of them hidden."""
    place = "top" if place == "load" else place
    for codes, said in (
        [[f"open({str(SPLIT)!r})"], ["reads tasks/mini/splits/weather.csv"]],
        [[f"exec({HIDDEN.format(code)!r})" for code in REACHES], REACHES.values()],
    ):
        with pytest.raises(CompatbenchError) as caught:
            use(load(write(tmp_path, **{place: "; ".join(codes)})), clip_mini)
        message = str(caught.value)
        assert [one for one in said if f"{one} while {doing}" not in message] == []
        assert "\n" not in message


landlock = pytest.mark.skipif(not landlock_version(), reason="the kernel has no Landlock")


@landlock
def test_the_kernel_refuses_what_python_does_not_see(tmp_path: Path, clip_mini: Backbone) -> None:
    paths = [os.fsencode(one) for one in (SPLIT, __file__, "/etc/passwd", "/proc/1/status")]
    opened = f"[one for one in {paths!r} if ctypes.CDLL(None).open(one, 0) >= 0]"
    method = load(write(tmp_path, attach=f"raise NotTransferable(str({opened}))"))
    with pytest.raises(NotTransferable, match=r"^\[\]$"):
        use(method, clip_mini)


def test_a_method_may_read_what_its_card_names_and_imports(
    tmp_path: Path, clip_mini: Backbone
) -> None:
    (tmp_path / "beside.py").write_text("FACTOR = 2\n")
    (tmp_path / "data.txt").write_text("3")
    (tmp_path / "other.txt").write_text("4")
    reads = "raise NotTransferable(open(os.path.dirname(__file__) + '/data.txt').read())"
    path = write(tmp_path, top="import beside", fit=reads)
    path.write_text(path.read_text().replace('something.")', 'it.", files=("data.txt",))'))
    with pytest.raises(NotTransferable, match="3"):
        use(load(path), clip_mini)
    path = write(tmp_path, top="import beside", fit=reads.replace("data", "other"))
    with pytest.raises(CompatbenchError, match=r"reads .*/other.txt while it is fitted"):
        use(load(path), clip_mini)
    (outside := tmp_path.parent / "outside.txt").write_text("5")
    for name in ("../outside.txt", str(outside)):  # a card names files beside it
        reads = f"raise NotTransferable(open({str(outside)!r}).read())"
        path = write(tmp_path, fit=reads)
        path.write_text(path.read_text().replace('something.")', f'it.", files=({name!r},))'))
        with pytest.raises(CompatbenchError, match=r"reads .*/outside.txt"):
            use(load(path), clip_mini)


def test_a_process_has_no_secret_and_prints_nowhere(
    tmp_path: Path, clip_mini: Backbone, monkeypatch: pytest.MonkeyPatch, capfd: Any
) -> None:
    monkeypatch.setenv("GITHUB_TOKEN", "secret")
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", "/tmp/summary")
    method = load(
        write(
            tmp_path,
            top="print('::error::x'); os.write(1, b'::error::y'); os.write(2, b'z')",
            fit="raise NotTransferable(' '.join(sorted(os.environ)))",
        )
    )
    with pytest.raises(NotTransferable) as caught:
        use(method, clip_mini)
    assert "GITHUB" not in caught.value.reason
    assert "PYTHONHASHSEED" in caught.value.reason
    assert capfd.readouterr() == ("", "")


PATCH = """
import compatbench.engine.measure as measure
import compatbench.method.identity as identity
measure.calibration_error = lambda *_: 0.0
measure.Measured.right = property(lambda self: self.targets == self.targets)
"""


def test_a_patch_of_the_harness_stays_in_its_process(tmp_path: Path, clip_mini: Backbone) -> None:
    from compatbench.engine import measure

    before = measure.calibration_error, measure.Measured.right
    assert use(load(write(tmp_path, top=PATCH)), clip_mini).shape == (3, 2)
    assert (measure.calibration_error, measure.Measured.right) == before


@pytest.mark.parametrize(
    ("place", "code", "message"),
    [
        ("top", "os._exit(0)", "mine.py: WorkerDied: .*exit code 0, while it is loaded"),
        ("top", "sys.exit(0)", "mine.py: WorkerDied: .*exit code 1, while it is loaded"),
        ("fit", "os._exit(0)", "method 'mine': WorkerDied: .*exit code 0, while it is fitted"),
        ("attach", "os.abort()", r"'mine': WorkerDied: .*\(SIGABRT\), while it is attached"),
        ("classify", "os.write(3, b'x' * 999)", "method 'mine': its process answers nonsense"),
        ("classify", "time.sleep(99)", "method 'mine': it takes more than 5 s, while it class"),
    ],
)
def test_a_process_that_ends_or_hangs_is_one_error(
    place: str,
    code: str,
    message: str,
    tmp_path: Path,
    clip_mini: Backbone,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    path = write(tmp_path, **{place: code})
    if "sleep" in code:
        monkeypatch.setattr(child.Child.receive, "__defaults__", (5.0,))
    with pytest.raises(CompatbenchError, match=message):
        use(load(path), clip_mini)


def test_compiled_files_are_not_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import py_compile

    from compatbench.files.project_folders import content_folder, in_clone

    (tmp_path / "tasks").symlink_to(tasks_folder())
    with pytest.raises(CompatbenchError, match="is no folder"), in_clone(tmp_path):
        pass
    (tmp_path / "tasks").unlink()
    (tmp_path / "tasks").mkdir()
    shutil.copytree(content_folder("methods") / "_shared", tmp_path / "methods" / "_shared")
    path = tmp_path / "methods" / "zeroshot.py"
    text = (content_folder("methods") / "zeroshot.py").read_text()
    path.write_text(
        text.replace("version=", "was='other', version=").replace(
            'summary="', 'was="false", summary="'
        )
    )
    py_compile.compile(str(path), invalidation_mode=py_compile.PycInvalidationMode.UNCHECKED_HASH)
    path.write_text(text)
    with in_clone(tmp_path):
        registry = ConfinedRegistry()
    assert registry.names()[0] == "zeroshot"
    assert registry.get("zeroshot").card.was == ""


def session_of(pid: str) -> list[str]:
    """The processes of a parent, and itself, that are not dead."""
    found = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):
            state, parent = path.read_text().rpartition(")")[2].split()[:2]
            found += [path.parts[2]] if pid in (parent, path.parts[2]) and state != "Z" else []
    return found


def test_no_process_outlives_the_one_that_asked(tmp_path: Path) -> None:
    path = write(tmp_path, top="import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN)")
    script = f"""
        import os, signal
        from pathlib import Path
        from compatbench.engine.confined.remote import ConfinedRegistry
        registry = ConfinedRegistry(())
        registry.add_file(Path({str(path)!r}))
        from compatbench.engine.confined import child
        [fork_server] = child._fork_servers.values()
        print(fork_server._folder, fork_server._process.pid, flush=True)
        os.kill(os.getpid(), signal.SIGKILL)
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(script)], capture_output=True, text=True
    )
    folder, pid = done.stdout.split()
    deadline = time.monotonic() + 60
    while (session_of(pid) or os.path.exists(folder)) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert session_of(pid) == []
    assert not os.path.exists(folder)


@pytest.fixture
def no_fork(
    tmp_path: Path, clip_mini: Backbone, monkeypatch: pytest.MonkeyPatch
) -> Iterator[torch.Tensor]:
    """As on a system without fork; the logits of one with it."""
    logits = use(load(write(tmp_path)), clip_mini)
    monkeypatch.setattr(child, "FORKS", False)
    monkeypatch.setattr(child, "_fork_servers", {})
    yield logits
    for one in child._fork_servers.values():
        one.close()


@pytest.mark.slow
def test_processes_start_where_nothing_forks(
    no_fork: torch.Tensor, tmp_path: Path, clip_mini: Backbone
) -> None:
    assert torch.equal(use(load(write(tmp_path)), clip_mini), no_fork)
    with pytest.raises(CompatbenchError, match="exit code 7, while it is fitted"):
        use(load(write(tmp_path, fit="os._exit(7)")), clip_mini)


def test_all_that_labels_hold_is_handed_over(tmp_path: Path, clip_mini: Backbone) -> None:
    method = load(write(tmp_path, attach="raise NotTransferable(repr(labels))"))
    labels = replace(LABELS, descriptions=(("barks", "runs"), ("grows",)))
    with pytest.raises(NotTransferable) as caught:
        method.attach(Module(), clip_mini, labels)
    assert caught.value.reason == repr(labels)


def test_modules_are_told_apart_by_what_was_trained(tmp_path: Path, clip_mini: Backbone) -> None:
    method = load(write(tmp_path))
    module = Module(trained={"w": torch.tensor([0.0, 5.0])}, stored={"other": torch.zeros(0, 3)})
    classify = method.attach(module, clip_mini, LABELS)
    found = classify(torch.ones(2, clip_mini.embed_dim))
    plain = classify(torch.ones(2, clip_mini.embed_dim))
    assert torch.equal(found, plain)
    assert method.contexts(module, clip_mini, LABELS) is None


def test_messages_hold_records_and_nothing_that_was_not_asked_for() -> None:
    file = io.BytesIO()
    module = Module({"w": torch.arange(3.0)}, {"k": torch.zeros(0, 2, dtype=torch.int64)})
    write_message(file, {"labels": LABELS, "module": module, "needs": {"b", "a"}})
    file.seek(0)
    found = read_message(file)
    assert Module(**found["module"]).fingerprint == module.fingerprint
    assert found["labels"]["names"] == [*LABELS.names]
    assert found["needs"] == ["a", "b"]
    file.seek(0)
    with pytest.raises(ValueError, match="nobody asked for"):
        read_message(file, tensors_asked=False)
    vast, none = '["float32", [1e18]]', '{"a": {"$tensor": 0}}'
    for text in (f"[[{vast}], {{}}]", f"[[], {none}]", '[["code", [1]], {}]', "{}", "[[], 5]"):
        sent = len(text).to_bytes(8, "little") + text.encode()
        with pytest.raises(ValueError, match=r"message|tensors|values"):
            read_message(io.BytesIO(sent))
