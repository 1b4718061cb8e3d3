"""The demo: whole, honest about its weights, finished when it was interrupted."""

from __future__ import annotations

import pytest

from vmae_embed.demo import SMALL_MODEL, run_demo
from vmae_embed.errors import UsageError
from vmae_embed.index import Index
from vmae_embed.library import verify
from vmae_embed.query import search


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    said = []
    return run_demo(tmp_path_factory.mktemp("made") / "demo", say=said.append), said


@pytest.mark.slow
def test_demo_shows_all_of_it(made):
    demo, said = made
    assert verify(demo.library) == []
    assert len(demo.library.failures()) == 0
    assert len(set(demo.library.column("video_id"))) == 112
    for page, hits in ((demo.page, demo.hits), (demo.other_looks_page, demo.other_looks)):
        text = page.read_text()
        assert SMALL_MODEL.split("'")[0] in text
        assert text.count("data:image/jpeg") == len(hits.queries) + len(hits)
    assert any("extract" in line for line in said)


@pytest.mark.slow
def test_an_interrupted_demo_is_finished(made):
    demo, _ = made
    demo.page.unlink()
    before = demo.library.state()
    again = run_demo(demo.page.parent, say=lambda _: None)
    assert again.library.state() == before  # nothing was done twice
    assert again.page.exists()


@pytest.mark.slow
@pytest.mark.parametrize("label", ["motion", "look"])
def test_the_first_hit_shares_motion_and_look(made, label):
    """Of ten queries of all motions and looks, and of all 112."""
    demo, _ = made
    index = Index.open(demo.library)
    videos = sorted(set(demo.library.column("video_id")))
    first = {video: search(index, video, k=1, group_by="video")[0] for video in videos}
    assert all(hit.video_id != video for video, hit in first.items())
    place = ["motion", "look"].index(label)
    shared = {video: hit.columns[label] == video.split("_")[place] for video, hit in first.items()}
    assert sum(shared[video] for video in videos[::11][:10]) >= 8
    assert sum(shared.values()) >= 0.8 * len(videos)


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
