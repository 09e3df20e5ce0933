"""Trials of the mini suite: what a source with smaller patches sees, and which classes join."""

from __future__ import annotations

import likeness_trials
import pytest
import torch
import torch.nn.functional as F

from compatbench.tasks.mini.build import towers
from compatbench.tasks.mini.build.sets import MINI_FOLDER


@pytest.mark.parametrize("patch", [6, 12])
def test_a_patch_of_another_size_is_seen_as_the_old_kernel_sees_it_enlarged(tmp_path, patch):
    old = towers.load(towers.SOURCE, MINI_FOLDER / f"{towers.SOURCE}.safetensors").visual
    new = likeness_trials.create_source(tmp_path, patch).visual
    pixels = torch.randn(5, 3, patch, patch)
    with torch.no_grad():
        enlarged = old.conv1(F.interpolate(pixels, size=(12, 12), mode="bilinear"))
        torch.testing.assert_close(new.conv1(pixels), enlarged, atol=1e-5, rtol=1e-4)
    assert len(new.positional_embedding) == 1 + (48 // patch) ** 2
    last = F.cosine_similarity(new.positional_embedding[[-1]], old.positional_embedding)
    assert int(last.argmax()) == 16


@pytest.mark.parametrize("names", likeness_trials.JOINED, ids="-".join)
def test_no_two_classes_of_a_joined_task_show_the_same(names):
    spec = likeness_trials.join_specs(names)
    parts = [likeness_trials.concepts(parts) for parts in spec.classes.values()]
    assert len(parts) >= likeness_trials.CLASSES
    first = len(likeness_trials.join_specs(names[:1]).classes)
    assert not set().union(*parts[:first]) & set().union(*parts[first:])
