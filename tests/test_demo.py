"""The demo: whole, honest about its weights, finished when it was interrupted."""

from __future__ import annotations

import json

import pytest

from vmae_embed.demo import RANDOM_WEIGHTS, run_demo, save_random_checkpoint
from vmae_embed.encoder import Encoder
from vmae_embed.errors import UsageError
from vmae_embed.library import verify


@pytest.mark.slow
def test_demo_shows_all_of_it(tmp_path):
    said = []
    made = run_demo(tmp_path / "demo", say=said.append)
    assert verify(made.library) == []
    assert len(made.library.failures()) == 0
    assert len(set(made.library.column("video_id"))) == 28
    page = made.page.read_text()
    assert RANDOM_WEIGHTS.split(":")[0].replace("'", "&#x27;") in page
    assert page.count("data:image/jpeg") == 1 + len(made.hits)
    assert {hit.columns["look"] for hit in made.hits[:6]} == {"checkered-ball"}
    assert any("extract" in line for line in said)

    made.page.unlink()
    before = made.library.state()
    again = run_demo(tmp_path / "demo", say=said.append)
    assert again.library.state() == before  # nothing was done twice
    assert again.page.exists()


@pytest.mark.parametrize("content", ["file", "folder with something else"])
def test_nothing_of_others_is_touched(tmp_path, content):
    target = tmp_path / "mine"
    if content == "file":
        target.write_text("mine")
    else:
        target.mkdir()
        (target / "thesis.txt").write_text("mine")
    with pytest.raises(UsageError, match="not empty, and no demo; give another directory"):
        run_demo(target, say=lambda _: None)


def test_the_random_checkpoint_is_the_same_every_time(tmp_path):
    for name in ("a", "b"):
        save_random_checkpoint(tmp_path / name)
    a, b = (Encoder.from_pretrained(tmp_path / name, device="cpu") for name in ("a", "b"))
    assert a.identity["weights_sha256"] == b.identity["weights_sha256"]
    assert a.preprocessing.mean == (0.485, 0.456, 0.406)
    assert json.loads((tmp_path / "a/config.json").read_text())["architectures"] == ["VideoMAEForPreTraining"]
