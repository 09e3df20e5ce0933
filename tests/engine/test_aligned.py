"""Aligned names: chosen, planned, run from the plain method's fit, published and evaluated."""

from __future__ import annotations

import io
from pathlib import Path

import pytest
from rich.console import Console

from compatbench.cli.evaluate import describe, evaluate_command
from compatbench.data.cards import suite_cards
from compatbench.data.feature_cache import FeatureCache
from compatbench.engine import aligned_cells
from compatbench.engine import evaluate as evaluating
from compatbench.engine.aligned import AlignedWorker
from compatbench.engine.aligned_cells import AlignedCell, aligned_names
from compatbench.engine.configs import select_methods
from compatbench.engine.plan import plan, plan_cells
from compatbench.engine.publish import publish
from compatbench.engine.store import RunStore
from compatbench.errors import CompatbenchError
from compatbench.method.registry import MethodRegistry, builtin_methods
from compatbench.results.store import read_results

SUITE = suite_cards.read("smoke")


def chosen(wanted: str) -> list[str]:
    return select_methods(SUITE, builtin_methods(), wanted)


def cell_of(name: str):
    [cell] = plan_cells(SUITE, builtin_methods(), [name])
    return cell


def test_a_glob_means_plain_methods_unless_it_ends_in_aligned() -> None:
    assert chosen("*tip*") == ["tip_adapter", "tip_adapter_f"]
    assert chosen("*tip*+aligned") == ["tip_adapter+aligned", "tip_adapter_f+aligned"]
    assert chosen("taskres,taskres+aligned") == ["taskres", "taskres+aligned"]
    assert "tip_adapter+aligned" not in chosen("all")
    every = chosen("*aligned")
    assert every == chosen("*+aligned") == aligned_names(SUITE, builtin_methods())
    assert set(chosen("all,*+aligned")) == {*chosen("all"), *every}
    assert set(every) - set(chosen("*aligned,!ape*+aligned")) == {"ape+aligned", "ape_t+aligned"}


def test_what_acts_in_the_towers_is_aligned_only_by_its_own_name() -> None:
    assert "cocoop+aligned" not in chosen("*aligned")
    assert chosen("cocoop+aligned") == ["cocoop+aligned"]


@pytest.mark.parametrize(
    ("wanted", "message"),
    [
        ("zeroshot+aligned", "zeroshot has no module to align"),
        ("taskers+aligned", r"did you mean taskres\+aligned"),
    ],
)
def test_a_name_that_cannot_be_aligned_is_refused(wanted: str, message: str) -> None:
    with pytest.raises(CompatbenchError, match=message):
        chosen(wanted)


def test_a_method_from_a_file_can_be_aligned(tmp_path: Path) -> None:
    source = Path(__file__).parents[2] / "methods" / "simpleshot.py"
    text = source.read_text().replace('name="simpleshot"', 'name="mine"')
    path = tmp_path / "mine.py"
    path.write_text(text)
    registry = MethodRegistry(dict(builtin_methods().classes))
    names = select_methods(SUITE, registry, f"{path},mine+aligned")
    assert names == ["mine", "mine+aligned"]
    plain, aligned = plan_cells(SUITE, registry, names)
    assert isinstance(aligned, AlignedCell)
    assert aligned.plain == plain
    assert aligned.plugin == str(path.resolve())


def test_an_aligned_cell_has_the_plain_cells_fit_and_a_key_of_its_own(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    plain, aligned = cell_of("simpleshot"), cell_of("simpleshot+aligned")
    assert isinstance(aligned, AlignedCell)
    assert aligned.plain == plain
    assert aligned.key != plain.key
    assert (aligned.name, aligned.method) == ("simpleshot+aligned", "simpleshot")
    assert str(aligned).startswith("simpleshot+aligned ·")
    monkeypatch.setattr(aligned_cells, "words_hash", lambda: "another")
    other = cell_of("simpleshot+aligned")
    assert other.key != aligned.key
    assert other.plain.key == plain.key


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory, cache: Path) -> RunStore:
    """The store of a run of one aligned method, and then of the plain one."""
    store = RunStore(tmp_path_factory.mktemp("aligned") / "runs")
    worker = AlignedWorker(store, FeatureCache(cache))
    worker.run(cell_of("simpleshot+aligned"))
    worker.run(cell_of("simpleshot"))
    return store


def test_one_fit_serves_both_and_their_records_are_apart(
    store: RunStore, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain, aligned = cell_of("simpleshot"), cell_of("simpleshot+aligned")
    assert all(item.done for item in plan([plain, aligned], store))
    one, other = store.read(plain.key), store.read(aligned.key)
    assert one is not None
    assert other is not None
    assert one.module == other.module
    assert one.fit_seconds == other.fit_seconds
    assert [path.stem for path in store.folder.glob("modules/*/*.safetensors")] == [plain.key]
    records = {
        (way, r.backbone): r for way, c in (("plain", one), ("aligned", other)) for r in c.records
    }
    source, target = plain.backbones
    assert records["plain", source].correct == records["aligned", source].correct
    assert records["plain", target].correct != records["aligned", target].correct
    assert (
        records["plain", target].zero_shot_correct == records["aligned", target].zero_shot_correct
    )
    # A second run, whatever is asked for first, fits and measures nothing.
    monkeypatch.setattr(AlignedWorker, "_measure", None)
    worker = AlignedWorker(store, FeatureCache(cache))
    assert worker.run(aligned) == other
    assert worker.run(plain) == one


def test_results_of_both_ways_are_apart(store: RunStore, tmp_path: Path) -> None:
    cells = [cell_of("simpleshot"), cell_of("simpleshot+aligned")]
    publish(SUITE, builtin_methods(), plan(cells, store), tmp_path)
    results = read_results(tmp_path / "results" / "smoke")
    [copied], [aligned] = results.methods.values(), results.transferred["words"].values()
    assert (aligned.info, aligned.config) == (copied.info, copied.config)
    assert aligned.title == "SimpleShot + aligned"
    by_key = {row.key: row.transfer for row in (*copied.rows, *aligned.rows)}
    assert by_key == dict(zip((cell.key for cell in cells), ("copied", "words"), strict=True))


def module_path(store: RunStore) -> Path:
    return store.module_path(cell_of("simpleshot").key)


def test_a_saved_module_is_evaluated_through_words(store: RunStore, cache: Path) -> None:
    aligned = cell_of("simpleshot+aligned")
    record = store.read(aligned.key)
    assert record is not None
    found = evaluating.evaluate(
        module_path(store),
        aligned.backbones[1],
        None,
        builtin_methods(),
        FeatureCache(cache),
        aligned=True,
    )
    assert found.source is not None
    assert found.target is not None
    corrects = {r.backbone: r.correct for r in record.records}
    assert int(found.source.right.sum()) == corrects[aligned.source]
    assert int(found.target.right.sum()) == corrects[aligned.backbones[1]]


def test_beside_its_words_a_module_needs_no_source(
    store: RunStore, cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    aligned = cell_of("simpleshot+aligned")
    load = evaluating.load_backbone

    def without_source(name: str, device: str = "cpu"):
        if name == aligned.source:
            raise CompatbenchError(f"no weights of {name}")
        return load(name, device)

    monkeypatch.setattr(evaluating, "load_backbone", without_source)
    monkeypatch.setenv("COMPATBENCH_CACHE", str(cache))
    out = io.StringIO()
    options = dict(
        backbone=aligned.backbones[1], task=None, methods=None, device="cpu", as_json=False
    )
    evaluate_command(
        Console(file=out, width=200), module=module_path(store), aligned=True, **options
    )
    assert "aligned by words" in out.getvalue()
    assert f"{aligned.source} is not here" in out.getvalue()
    found = evaluating.evaluate(
        module_path(store),
        aligned.backbones[1],
        None,
        builtin_methods(),
        FeatureCache(cache),
        aligned=True,
    )
    assert found.h is None
    assert describe(found)["source"] == {"backbone": aligned.source}
    # Alone in a folder, there is nothing to find the turn from.
    lonely = tmp_path / "a" / "b" / "module.safetensors"
    lonely.parent.mkdir(parents=True)
    lonely.write_bytes(module_path(store).read_bytes())
    with pytest.raises(CompatbenchError, match="no weights of mini-clip"):
        evaluate_command(Console(file=out), module=lonely, aligned=True, **options)
