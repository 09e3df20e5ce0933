"""What a wrong command is told: one line that names the place and the fix, and exit code 2."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from command_line import invoke

from compatbench.data.task import task_labels
from compatbench.errors import CompatbenchError
from compatbench.method import Module

PAIR = "mini-clip mini-eva-clip"
# Of CompatbenchError; below, those that typer finds in the words alone.
MISTAKES = [
    ("study analyze depth mini-clip mini-clip --tasks mini-food", "an upgrade needs two"),
    (f"study analyze depth {PAIR} --tasks mini-food --seeds x", "seeds: .x.: Input should be"),
    (f"study analyze depth {PAIR} --tasks mini-objects-mono", "no task to learn from"),
    (f"study analyze embeddings {PAIR} --suite mni", "did you mean mini"),
    ("study analyze layers mini-clp mini-eva-clip", "did you mean mini-clip"),
    (f"study analyze layers {PAIR} --figure a.png", "end the name in .svg"),
    (f"study analyze layers {PAIR} --json --csv", "give one of the two"),
    (f"study analyze layers {PAIR} --tasks weather", "no task named 'weather'"),
    ("store cache prune", "--size 10G, --days 30, or --all"),
    ("check taskres --only sameseed", "no check named 'sameseed'; did you mean same-seed"),
    ("store data shots mini-objects-mono", "is a variant, from which nothing is learned"),
    ("evaluate . --target mini-eva-clip", "is a folder; give a module's file"),
    ("evaluate gone --target mini-clip --device tpu", "--device 'tpu'"),
    (
        "evaluate module.safetensors --target mini-clip --task mini-fod",
        "no task named 'mini-fod'",
    ),
    ("evaluate module.safetensors --target mini-clip --task mini-food", "was fitted for"),
    ("evaluate module.safetensors --target mini-evaclip", "no backbone named 'mini-evaclip'"),
    ("evaluate module.safetensors --target mini-clip --set alpha", "--set 'alpha': write it as"),
    (
        "module import auto x",
        "import needs --task, --source; 'compatbench module import --inspect FILE'",
    ),
    ("report", "results holds no results; give the folder that holds results/ with"),
    ("list modules", "holds no modules; run a suite first"),
    ("list methods kgcop", "no method named 'kgcop'; did you mean kgcoop"),
    ("new-method ../escape", "cannot be a method's name"),
    ("new-method My-Method", "cannot be a method's name"),
    ("new-method class", "cannot be a method's name"),
    ("new-method coop", "a method is named 'coop' already"),
    ("new-method taken", "taken.py exists"),
    ("new-method torch", "would hide the module 'torch'"),
    ("plan --cards nowhere", "--cards 'nowhere': "),
    ("plan --data-root nowhere", "there is no folder"),
    ("plan --shard 4/3", "4/3"),
    (
        "plan --suite smoke --methods coop --set recipe.lrr=1",
        "setting 'recipe.lrr' of method 'coop",
    ),
    ("plan --suite smoke --methods coop --set method=vpt", "'method': there is no such setting"),
    ("plan --suite smoke --methods coop --set a=1 --set a.b=2", "write it as NAME=VALUE"),
    ("run --suite smoke --methods coop --set context_length=16", "with the same settings; drop"),
    ("plan --suite smke", "no suite named 'smke'; did you mean smoke"),
    ("module port photos.npy --target mini-clip", "give the model that made it with --source"),
    ("module port photos.npy --target mini-clip --methods m.py", "--methods is for modules, and"),
    ("module port module.safetensors --target mini-clip --images .", "--images is for indexes"),
    ("module push results hf://me/mine --licence mit", "--licence is for modules"),
    ("study retrieve --pairs 64,many", "'many' is no number"),
    ("study index nowhere.npy none.npy", "cannot read the index nowhere.npy"),
    ("run --address auto", "are for '--executor ray'"),
    ("run --device gpu", "--device 'gpu' cannot be used here"),
    ("run --executor ray --device tpu", "--device 'tpu'"),
    ("run --jobs 0", "jobs 0: give a number of at least 1"),
    ("run --memory-budget much", "much"),
    ("run --methods ,", "--methods '' names no method"),
    ("run --methods ./nowhere.py", "method file nowhere.py does not exist"),
    ("run --methods all,!*", "leaves no method"),
    ("run --methods coopp", "no method named 'coopp'; did you mean coop"),
    ("run --out taken.py/here", "cannot write taken.py/here"),
    ("run --retry never", "never"),
    ("run smoke", "run: no argument 'smoke'; for a suite write --suite smoke"),
    ("run taskres,coop --suite smoke", "for a method write --methods taskres,coop"),
    ("run ./mine.yaml", "for a suite write --suite ./mine.yaml"),
    ("plan mini-food", "for a task write --tasks mini-food"),
    ("plan words", "for a transfer write --transfers words"),
    ("study claims mini extra", "claims: no argument 'mini'; for a suite write --suite mini"),
    ("store doctor mini-clip", "for a backbone write --backbones mini-clip"),
    ("report smoke", "no argument 'smoke'; see 'compatbench report --help'"),
    ("advise smoke", "advise: no file 'smoke'; for a suite write --suite smoke"),
    ("evaluate coop --target mini-clip", "no file 'coop'; for a method write --methods coop"),
    ("run --seeds one", "seeds: 'one': Input should be a valid integer"),
    ("run --shots 0", "shots: '0': Input should be greater than or equal to 1"),
    ("run --shots 99999", "--shots '99999': no task here has so many images per class"),
    ("run --tasks mini-animal", "no task in this suite named 'mini-animal'"),
    ("run --timeout soon", "--timeout 'soon': give a time such as 90s"),
]
WORDS = [
    ("evaluate module.safetensors", "Missing option '--target'"),
    ("list methodss", "'methodss' is not one of"),
    ("rn", "Did you mean 'run'"),
    ("run --job 3", "--jobs"),
    ("run --precision fp8", "fp32"),
]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder, with a module, a file that is in the way, and empty results."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "taken.py").write_text("mine")
    (tmp_path / "results").mkdir()
    about = {"method": "taskres", "config": {}, "task": "mini-weather", "source": "mini-clip"}
    module = Module(trained={"residual": torch.zeros(5, 64)})
    labels = task_labels("mini-weather").described
    module.save(tmp_path / "module.safetensors", about | {"labels": labels, "shots": 1, "seed": 1})
    return tmp_path


@pytest.mark.parametrize(("command", "message"), MISTAKES)
def test_a_mistake_is_told_in_a_line_and_nothing_is_written(
    command: str, message: str, folder: Path
) -> None:
    with pytest.raises(CompatbenchError, match=message) as raised:
        invoke(*command.split())
    assert "\n" not in str(raised.value)
    files = {path.name for path in folder.rglob("*") if path.is_file()}
    assert files == {"taken.py", "module.safetensors"}
    assert (folder / "taken.py").read_text() == "mine"


@pytest.mark.parametrize(("command", "message"), WORDS)
def test_a_word_that_does_not_fit_is_named(command: str, message: str, folder: Path) -> None:
    result = invoke(*command.split())
    assert result.exit_code == 2
    assert message in " ".join(result.output.split())
