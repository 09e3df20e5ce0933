"""The findings on embedding spaces: what a rotation explains, and the files behind the tables."""

from __future__ import annotations

import embedding_spaces
import pandas as pd
import pytest
import torch

from compatbench.backbone import load_backbone
from compatbench.backbone.joint_maps import fit_rotation


def test_a_rotation_and_a_scale_leave_nothing_unexplained() -> None:
    generator = torch.Generator().manual_seed(1)
    old = torch.randn(50, 8, generator=generator, dtype=torch.float64)
    rotation = torch.linalg.qr(torch.randn(8, 8, generator=generator, dtype=torch.float64))[0]
    new = 3 * old @ rotation + 1
    assert embedding_spaces.unexplained(old, new) > 0.5
    found = fit_rotation(old, new).rotation
    assert embedding_spaces.unexplained(old, new @ found.T) == pytest.approx(0, abs=1e-9)
    assert embedding_spaces.unexplained(old, -old) == 1


@pytest.mark.slow
def test_the_committed_rotations_are_those_of_the_models() -> None:
    spaces = embedding_spaces.Spaces()
    old = spaces.words(load_backbone(embedding_spaces.SOURCE))
    new = spaces.words(load_backbone("mini-clip-next"))
    rows = pd.read_csv(embedding_spaces.ROTATIONS).set_index("target")
    left = embedding_spaces.unexplained(old, new)
    assert rows.loc["mini-clip-next", "words"] == pytest.approx(left, abs=1e-3)


def test_both_files_have_every_target_of_the_tables() -> None:
    rotations = pd.read_csv(embedding_spaces.ROTATIONS)
    indexes = pd.read_csv(embedding_spaces.INDEXES)
    assert tuple(rotations["target"]) == embedding_spaces.TARGETS
    assert tuple(dict.fromkeys(indexes["target"])) == embedding_spaces.TARGETS
    assert indexes.groupby("target").size().eq(4).all()
