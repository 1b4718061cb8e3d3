"""Search: every form of query, what counts as itself, grouping, merging and refusals."""

from __future__ import annotations

import shutil

import numpy as np
import pytest

import vmae_embed as ve
from tests import videos
from tests.checkpoints import save_checkpoint
from tests.libraries import clustered, make_library
from vmae_embed.errors import IdentityMismatch, QueryError, UsageError
from vmae_embed.index import Index
from vmae_embed.query import search


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A library of real encoded videos under a small seeded checkpoint."""
    root = tmp_path_factory.mktemp("query")
    (root / "videos").mkdir()
    for number in range(4):
        videos.write_video(root / f"videos/v{number}.mp4", frames=180, first_index=400 * number)
    encoder = ve.Encoder.from_pretrained(save_checkpoint(root / "checkpoint"), device="cpu")
    library = ve.extract(root / "videos", root / "lib", encoder=encoder, workers=2)
    return root, encoder, Index.build(library)


def forbidden():
    raise AssertionError("a model was loaded for what the library holds")


def test_a_clip_id_needs_no_model(made):
    _, _, index = made
    hits = search(index, "v1.mp4#t=0.000,2.133", encoder=forbidden, k=3)
    assert [hit.rank for hit in hits] == [1, 2, 3]
    assert "v1.mp4#t=0.000,2.133" not in [hit.clip_id for hit in hits]
    assert [hit.score for hit in hits] == sorted((hit.score for hit in hits), reverse=True)
    assert hits[0].query == "v1.mp4#t=0.000,2.133"


def test_every_clip_finds_itself_when_asked_to(made):
    _, _, index = made
    for name in index.clips["clip_id"].to_pylist():
        (hit,) = search(index, name, k=1, include_self=True)
        assert hit.clip_id == name
        assert hit.score == pytest.approx(1, abs=1e-6)


def test_a_video_id_asks_for_all_its_clips(made):
    _, _, index = made
    hits = search(index, "v2.mp4", encoder=forbidden, k=50)
    assert len(hits.queries) == 3
    assert {hit.video_id for hit in hits} == {"v0.mp4", "v1.mp4", "v3.mp4"}
    assert len({hit.clip_id for hit in hits}) == len(hits) == 9
    best = max(search(index, clip.name, k=50, include_self=True)[0].score for clip in hits.queries)
    assert hits[0].score <= best


def test_a_file_of_the_library_is_known_by_its_path(made):
    root, _, index = made
    hits = search(index, root / "videos/v0.mp4", encoder=forbidden, k=3)
    assert all(hit.video_id != "v0.mp4" for hit in hits)
    hits = search(index, f"{root}/videos/v0.mp4#t=0.000,2.133", encoder=forbidden, k=1, include_self=True)
    assert hits[0].clip_id == "v0.mp4#t=0.000,2.133"


def test_a_foreign_file_is_embedded_as_the_library_was(made, tmp_path):
    root, encoder, index = made
    copy = shutil.copy(root / "videos/v3.mp4", tmp_path / "other name.mp4")
    hits = search(index, copy, encoder=encoder, k=3)
    assert {hit.clip_id for hit in hits} == {c for c in index.clips["clip_id"].to_pylist() if c.startswith("v3")}
    assert [hit.score for hit in hits] == pytest.approx([1, 1, 1], abs=1e-5)


def test_a_moment_of_a_file(made):
    root, encoder, index = made
    hits = search(index, f"{root}/videos/v1.mp4#t=2.1,4.3", encoder=encoder, k=1, include_self=True)
    assert hits[0].clip_id == "v1.mp4#t=2.133,4.267"
    (without,) = search(index, f"{root}/videos/v1.mp4#t=2.5,4", encoder=encoder, k=1)
    assert without.video_id != "v1.mp4" or without.end_s <= 2.5 or without.start_s >= 4


def test_a_moment_given_by_video_id(made):
    _, encoder, index = made
    hits = search(index, "v1.mp4#t=2.1,4.3", encoder=encoder, k=1, include_self=True)
    assert hits[0].clip_id == "v1.mp4#t=2.133,4.267"


def test_the_librarys_own_checkpoint_is_loaded_by_default(made, tmp_path):
    root, _, index = made
    copy = shutil.copy(root / "videos/v3.mp4", tmp_path / "x.mp4")
    assert search(index, copy, k=1)[0].video_id == "v3.mp4"


def test_vectors(made, tmp_path):
    _, _, index = made
    vector = index.library.embeddings()[5]
    expected = index.library.column("clip_id")[5]
    np.save(tmp_path / "q.npy", vector)
    assert search(index, vector, k=1)[0].clip_id == expected
    assert search(index, tmp_path / "q.npy", k=1)[0].clip_id == expected
    several = search(index, np.stack([vector, index.library.embeddings()[0]]), k=2)
    assert {hit.clip_id for hit in several} == {expected, index.library.column("clip_id")[0]}


def test_grouping_by_video_keeps_the_best_clip_of_each(made):
    _, _, index = made
    by_clip = search(index, "v1.mp4#t=0.000,2.133", k=50)
    by_video = search(index, "v1.mp4#t=0.000,2.133", k=50, group_by="video")
    assert len({hit.video_id for hit in by_video}) == len(by_video) == 4
    for hit in by_video:
        assert hit.score == max(other.score for other in by_clip if other.video_id == hit.video_id)


def test_dropped_hits_are_made_up_for(tmp_path):
    """A video with very many near-duplicates must not crowd the others out."""
    vectors = clustered(1000, 16)
    vectors[:600] = vectors[0] + 0.001 * vectors[:600]
    index = Index.build(make_library(tmp_path / "lib", vectors, clips_a_video=100))
    hits = search(index, "v00000.mp4#t=0.000,2.000", k=8, group_by="video")
    assert len(hits) == 8
    assert len({hit.video_id for hit in hits}) == 8


def test_a_changed_file_is_not_taken_for_the_librarys(made, tmp_path):
    root, encoder, _ = made
    shutil.copytree(root / "videos", tmp_path / "videos")
    library = ve.extract(tmp_path / "videos", tmp_path / "lib", encoder=encoder, workers=1)
    index = Index.build(library)
    videos.write_video(tmp_path / "videos/v0.mp4", frames=100, first_index=2000)
    asked = []
    search(index, tmp_path / "videos/v0.mp4", encoder=lambda: asked.append(1) or encoder, k=1)
    assert asked


def test_a_file_by_another_path_or_touched_is_still_itself(made, tmp_path):
    root, encoder, _ = made
    shutil.copytree(root / "videos", tmp_path / "videos")
    index = Index.build(ve.extract(tmp_path / "videos", tmp_path / "lib", encoder=encoder, workers=1))
    (tmp_path / "link").symlink_to(tmp_path / "videos")
    by_link = search(index, tmp_path / "link/v1.mp4", encoder=forbidden, k=50)
    assert "v1.mp4" not in {hit.video_id for hit in by_link}
    (tmp_path / "videos/v1.mp4").touch()
    touched = search(index, tmp_path / "videos/v1.mp4", encoder=encoder, k=50)
    assert "v1.mp4" not in {hit.video_id for hit in touched}


@pytest.mark.parametrize("form", ["0,2.133", "npt:0,2.133", "0:00,0:02.133", "0:00:00,0:00:02.133"])
def test_moments_in_every_w3c_form(made, form):
    _, _, index = made
    (hit,) = search(index, f"v1.mp4#t={form}", encoder=forbidden, k=1, include_self=True)
    assert hit.clip_id == "v1.mp4#t=0.000,2.133"


@pytest.mark.parametrize(
    ("query", "message"),
    [
        ("nothing.mp4", r"neither a file nor a clip or video of the library, whose clip ids look like v\d\.mp4#t="),
        ("v1.mp4#t=50,60", "nothing from 50 s on to 60 s: the video shows"),
        ("v1.mp4#t=3,2", "3 to 2 s ends before it starts"),
        ("v1.mp4#t=abc", "not a moment"),
        ("missing.npy", "no such file"),
        ("\udcff.mp4", "neither a file"),
        ("", "neither a file"),
    ],
)
def test_queries_that_name_nothing(made, query, message):
    _, encoder, index = made
    with pytest.raises(QueryError, match=message) as caught:
        search(index, query, encoder=encoder)
    assert "\n" not in str(caught.value)


def test_files_that_are_no_query(made, tmp_path):
    _, _, index = made
    (tmp_path / "garbage.mp4").write_bytes(b"garbage")
    with pytest.raises(QueryError, match=r"garbage\.mp4: not a readable video"):
        search(index, tmp_path / "garbage.mp4", encoder=forbidden)
    (tmp_path / "garbage.npy").write_bytes(b"garbage")
    with pytest.raises(QueryError, match="not a NumPy array"):
        search(index, tmp_path / "garbage.npy")
    np.savez(tmp_path / "archive.npz", a=np.zeros(3))
    (tmp_path / "archive.npz").rename(tmp_path / "archive.npy")
    with pytest.raises(QueryError, match="an archive of arrays"):
        search(index, tmp_path / "archive.npy")
    np.save(tmp_path / "objects.npy", np.array([{}]), allow_pickle=True)
    with pytest.raises(QueryError, match="not a NumPy array"):
        search(index, tmp_path / "objects.npy")


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (np.zeros(7), r"this library takes numbers of shape \(48,\)"),
        (np.zeros((0, 48)), "takes numbers of shape"),
        (np.full(48, np.inf), "not finite"),
        (np.array(["a"] * 48), "takes numbers"),
    ],
)
def test_arrays_that_are_no_query(made, array, message):
    with pytest.raises(QueryError, match=message):
        search(made[2], array)


def test_another_checkpoint_is_refused_with_both_named(made, tmp_path):
    root, _, index = made
    other = ve.Encoder.from_pretrained(save_checkpoint(tmp_path / "other", seed=1), device="cpu")
    with pytest.raises(IdentityMismatch, match=r"was made with .*checkpoint.* this is .*other.* weights_sha256 differ"):
        search(index, f"{root}/videos/v1.mp4#t=1,2", encoder=other)


def test_another_pooling_is_refused_with_both_named(made):
    root, _, index = made
    other = ve.Encoder.from_pretrained(root / "checkpoint", device="cpu", pooling="first-token")
    with pytest.raises(IdentityMismatch, match=r"mean pooling.*first-token pooling.*their pooling differ"):
        search(index, f"{root}/videos/v1.mp4#t=1,2", encoder=other)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [({"k": 0}, "k=0: give at least 1"), ({"group_by": "look"}, "group-by='look': choose one of clip, video")],
)
def test_bad_arguments(made, arguments, message):
    with pytest.raises(UsageError, match=message):
        search(made[2], "v1.mp4", **arguments)
