"""Duplicates: pairs against brute force, offsets against what was encoded, clusters that delete nothing unique."""

from __future__ import annotations

import itertools
from fractions import Fraction

import av
import numpy as np
import pyarrow as pa
import pytest

import vmae_embed as ve
from tests.checkpoints import save_checkpoint
from tests.libraries import PREPROCESSING, clustered, identity, make_library
from vmae_embed.duplicates import find_duplicates
from vmae_embed.duplicates.page import MOST_SHOWN, write_page
from vmae_embed.errors import UsageError
from vmae_embed.index import Index, IndexSpec
from vmae_embed.library import Library, LibraryConfig, clip_rows
from vmae_embed.records import ClipSpan, Timeline, Video
from vmae_embed.sampling import Sampling

HOP_S = 16 / 7.5


def library_of(folder, videos, *, hop_s=2.0, length_s=2.0, size=None):
    """A library of videos by name, each a list of vectors; ``size`` gives width and height by name."""
    width = len(next(iter(videos.values()))[0])
    library = Library.create(folder, LibraryConfig(identity(width), Sampling(), PREPROCESSING, "float32", {}, {}))
    tables = []
    for name, vectors in videos.items():
        spans = [ClipSpan(hop_s * i, hop_s * i + length_s, ()) for i in range(len(vectors))]
        wide, high = (size or {}).get(name, (64, 48))
        timeline = Timeline(np.zeros(1), hop_s * (len(vectors) - 1) + length_s, 30, wide, high, "h264")
        video = Video(name, f"/videos/{name}", 1, 1)
        tables.append(clip_rows(video, timeline, spans, np.asarray(vectors, np.float32), library.schema))
    library.write_unit("0" * 16, pa.concat_tables(tables), [])
    return Index.build(library)


@pytest.fixture
def scenes():
    """Vectors that are all unlike each other."""
    return np.random.default_rng(0).normal(size=(200, 64)).astype(np.float32)


def told(found):
    return [(p.kind, p.video_a, p.video_b, p.offset_s, p.clips) for p in found.pairs]


# Pairs of clips ----------------------------------------------------------------------------------


def brute_force(index, threshold, mean):
    vectors = index.vectors(index.live).astype(np.float64) - mean
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    table = index.clips.take(pa.array(index.live)).to_pylist()
    pairs = {}
    for i, j in itertools.combinations(range(len(vectors)), 2):
        score = vectors[i] @ vectors[j]
        if score >= threshold and table[i]["video_id"] != table[j]["video_id"]:
            pairs[frozenset((table[i]["clip_id"], table[j]["clip_id"]))] = score
    return pairs


@pytest.mark.parametrize("center", [False, True])
def test_pairs_of_clips_are_those_of_brute_force(tmp_path, center):
    index = Index.build(make_library(tmp_path / "lib", clustered(400, 16, clusters=20, spread=0.3)))
    mean = index.vectors(index.live).astype(np.float64).mean(axis=0) if center else 0
    expected = brute_force(index, 0.9, mean)
    found = find_duplicates(index, threshold=0.9, scope="between", center=center)
    scores = {frozenset((row["clip_a"], row["clip_b"])): row["score"] for row in found.clip_pairs}
    assert len(found.clip_pairs) == len(scores) > 1000  # each once
    assert scores.keys() == expected.keys()
    assert all(scores[pair] == pytest.approx(score, abs=1e-5) for pair, score in expected.items())
    assert found.crowded == 0
    assert found.cut_at is None
    ranked = [row["score"] for row in found.clip_pairs]
    assert ranked == sorted(ranked, reverse=True)
    assert found.clip_pairs[0] == next(iter(found.clip_pairs))
    assert found.clip_pairs[-1] == found.clip_pairs[len(ranked) - 1 :][0]


def test_an_index_is_asked_until_neighbours_are_no_longer_alike(tmp_path):
    """Clusters of 75: more than the first 32 neighbours. The index alone may miss a few."""
    index = Index.build(
        make_library(tmp_path / "lib", clustered(1500, 16, clusters=20, spread=0.1)), IndexSpec(factory="IVF16,Flat")
    )
    assert index.effort is not None
    asked, compared = (find_duplicates(index, threshold=0.8, exact=exact, scope="between") for exact in (False, True))
    every = {(row["clip_a"], row["clip_b"]) for row in compared.clip_pairs}
    some = {(row["clip_a"], row["clip_b"]) for row in asked.clip_pairs}
    assert some <= every
    assert len(some) > 0.97 * len(every) > 40_000


def test_clips_keep_their_best_pairs_and_say_so(tmp_path):
    index = Index.build(make_library(tmp_path / "lib", clustered(300, 16, clusters=3, spread=0.2)))
    every = find_duplicates(index, threshold=0.5, scope="between", center=False, max_per_clip=300)
    some = find_duplicates(index, threshold=0.5, scope="between", center=False, max_per_clip=5)
    assert every.crowded == 0
    assert some.crowded == 300
    best = {}
    for row in every.clip_pairs:
        for clip in (row["clip_a"], row["clip_b"]):
            best.setdefault(clip, []).append((row["clip_a"], row["clip_b"]))
    wanted = {pair for pairs in best.values() for pair in pairs[:5]}
    assert {(row["clip_a"], row["clip_b"]) for row in some.clip_pairs} == wanted


def test_too_many_pairs_are_cut_to_the_best(tmp_path):
    index = Index.build(make_library(tmp_path / "lib", clustered(300, 16, clusters=3, spread=0.2)))
    every = find_duplicates(index, threshold=0.5, scope="between", center=False, max_per_clip=300)
    some = find_duplicates(index, threshold=0.5, scope="between", center=False, max_per_clip=300, max_pairs=1000)
    assert len(every.clip_pairs) > 10_000
    assert list(some.clip_pairs) == every.clip_pairs[:1000]
    assert some.cut_at == pytest.approx(every.clip_pairs[999]["score"])


def test_clips_of_one_moment_are_no_pair(tmp_path, scenes):
    """Windows that overlap by three quarters look alike; so do all the clips of a picture that stands still."""
    sliding = [scenes[i : i + 4].mean(axis=0) for i in range(40)]
    index = library_of(tmp_path / "lib", {"slide.mp4": sliding, "still.mp4": [scenes[50]] * 30}, hop_s=0.5)
    found = find_duplicates(index, threshold=0.6, min_clips=1)
    assert found.pairs == []
    assert len(found.clip_pairs) == 0


def test_a_library_of_one_clip_and_one_of_equal_clips(tmp_path, scenes):
    alone = find_duplicates(library_of(tmp_path / "one", {"a.mp4": scenes[:1]}))
    assert (alone.pairs, alone.members, len(alone.clip_pairs)) == ([], [], 0)
    same = {f"{n:02}.mp4": [scenes[0]] * 3 for n in range(30)}
    found = find_duplicates(library_of(tmp_path / "same", same))
    assert found.centered
    assert {pair.offset_s for pair in found.pairs} == {0}
    assert {pair.kind for pair in found.pairs} == {"copy"}
    assert len(found.pairs) == 30 * 29 / 2
    assert [member.video_id for member in found.members if member.copy_of is None] == ["00.mp4"]
    assert len(found.extras) == 29


def test_clips_that_left_the_library_are_left_alone(tmp_path):
    library = make_library(tmp_path / "lib", clustered(1700, 16, clusters=20, spread=0.1))
    Index.build(library, IndexSpec(factory="IVF16,Flat"))
    library.remove_videos(["v00410.mp4"])
    index = Index.open(library)
    assert index.clips.num_rows > len(index.live) == 1696
    for exact in (False, True):
        found = find_duplicates(index, threshold=0.8, exact=exact, scope="between")
        assert (found.clips, found.videos) == (1696, 424)
        shown = {row[side].partition("#")[0] for row in found.clip_pairs for side in ("clip_a", "clip_b")}
        assert len(shown) > 300
        assert "v00410.mp4" not in shown


def test_clips_without_times_are_compared_all_the_same(tmp_path, scenes):
    """As imported: each a video of its own; or many rows of one."""
    alone = {f"{n}": [scenes[n % 3]] for n in range(6)}
    found = find_duplicates(library_of(tmp_path / "alone", alone, length_s=0))
    assert told(found) == [("copy", f"{n}", f"{n + 3}", 0, 1) for n in range(3)]
    together = {"a": [scenes[0], scenes[1], scenes[2], scenes[0], scenes[1]], "b": scenes[5:8]}
    found = find_duplicates(library_of(tmp_path / "together", together, hop_s=0, length_s=0))
    assert told(found) == [("repeat", "a", "a", 0, 2)]


# Votes -------------------------------------------------------------------------------------------


def test_offsets_spans_and_covers_of_an_excerpt(tmp_path, scenes):
    index = library_of(tmp_path / "lib", {"film.mp4": scenes[:100], "excerpt.mp4": scenes[40:50]})
    (pair,) = find_duplicates(index).pairs
    assert (pair.kind, pair.video_a, pair.video_b) == ("a in b", "excerpt.mp4", "film.mp4")
    assert (pair.offset_s, pair.clips) == (80, 10)
    assert (pair.start_a_s, pair.end_a_s, pair.start_b_s, pair.end_b_s) == (0, 20, 80, 100)
    assert (pair.cover_a, pair.cover_b) == (1, 0.1)
    assert pair.best == pytest.approx(1)
    assert pair.mean == pytest.approx(1)


def test_a_scene_that_comes_twice_has_two_offsets(tmp_path, scenes):
    film, twice = scenes[:40], [*scenes[10:15], *scenes[100:110], *scenes[10:15], *scenes[30:35]]
    found = find_duplicates(library_of(tmp_path / "lib", {"a.mp4": film, "b.mp4": twice}))
    between = [(p.offset_s, p.start_a_s, p.start_b_s, p.clips) for p in found.pairs if p.kind != "repeat"]
    assert sorted(between) == [(-20, 20, 0, 5), (-20, 60, 40, 5), (10, 20, 30, 5)]
    assert {(p.cover_a, p.cover_b) for p in found.pairs if p.kind != "repeat"} == {(10 / 40, 15 / 25)}
    (within,) = [p for p in found.pairs if p.kind == "repeat"]
    assert (within.video_a, within.offset_s, within.cover_a) == ("b.mp4", 30, 10 / 25)


def test_a_loop_has_its_period_once(tmp_path, scenes):
    found = find_duplicates(library_of(tmp_path / "lib", {"loop.mp4": [*scenes[:6]] * 5}))
    assert told(found) == [("repeat", "loop.mp4", "loop.mp4", 12, 24)]
    assert found.pairs[0].cover_a == 1


def test_chance_that_is_spread_out_is_no_stretch(tmp_path, scenes):
    a, b = scenes[:60].copy(), scenes[100:160].copy()
    b[[5, 35]] = a[[5, 35]]
    b[50:54], b[52] = a[50:54], scenes[190]  # with a clip missing in between
    index = library_of(tmp_path / "lib", {"a.mp4": a, "b.mp4": b})
    assert [(p.start_a_s, p.end_a_s, p.clips) for p in find_duplicates(index).pairs] == [(100, 108, 3)]
    assert len(find_duplicates(index, min_clips=1).pairs) == 3
    assert find_duplicates(index, min_clips=4).pairs == []


def test_short_videos_need_only_all_of_their_clips(tmp_path, scenes):
    index = library_of(tmp_path / "lib", {"a.mp4": scenes[:1], "b.mp4": scenes[:1], "c.mp4": scenes[:9]})
    assert [pair.clips for pair in find_duplicates(index, min_clips=5).pairs] == [1, 1, 1]


def test_scopes(tmp_path, scenes):
    videos = {"a.mp4": [*scenes[:5], *scenes[:5]], "b.mp4": scenes[:5]}
    index = library_of(tmp_path / "lib", videos)
    kinds = {scope: {p.kind for p in find_duplicates(index, scope=scope).pairs} for scope in ("within", "between")}
    assert kinds == {"within": {"repeat"}, "between": {"copy"}}
    assert {p.kind for p in find_duplicates(index).pairs} == {"repeat", "copy"}


# Clusters ----------------------------------------------------------------------------------------


def members(found):
    return [(m.cluster, m.video_id, m.copy_of) for m in found.members]


def test_the_longest_is_kept_then_the_largest_then_the_first(tmp_path, scenes):
    videos = {
        "small.mp4": scenes[:20],
        "large.mp4": scenes[:20],
        "excerpt.mp4": scenes[5:10],
        "x.mp4": scenes[50:60],
        "w.mp4": scenes[50:60],
        "other.mp4": scenes[100:120],
    }
    index = library_of(tmp_path / "lib", videos, size={"large.mp4": (640, 480)})
    found = find_duplicates(index)
    assert members(found) == [
        (1, "large.mp4", None),
        (1, "small.mp4", "large.mp4"),
        (1, "excerpt.mp4", "large.mp4"),
        (2, "w.mp4", None),
        (2, "x.mp4", "w.mp4"),
    ]
    large = found.members[0]
    assert (large.duration_s, large.width, large.height, large.path) == (40, 640, 480, "/videos/large.mp4")
    assert [member.video_id for member in found.extras] == ["small.mp4", "excerpt.mp4", "x.mp4"]


def test_what_two_films_share_makes_neither_an_extra(tmp_path, scenes):
    """Their common excerpt joins them in a cluster; deleting one of them would lose what only it holds."""
    videos = {"a.mp4": scenes[:30], "b.mp4": [*scenes[50:70], *scenes[:5]], "excerpt.mp4": scenes[:5]}
    found = find_duplicates(library_of(tmp_path / "lib", videos))
    assert members(found) == [(1, "a.mp4", None), (1, "excerpt.mp4", "a.mp4"), (1, "b.mp4", None)]


def test_a_common_intro_joins_nothing(tmp_path, scenes):
    videos = {f"e{n}.mp4": [*scenes[:5], *scenes[20 * n + 20 : 20 * n + 40]] for n in range(4)}
    index = library_of(tmp_path / "lib", videos)
    found = find_duplicates(index)
    assert {(p.kind, p.clips, p.cluster) for p in found.pairs} == {("part", 5, None)}
    assert len(found.pairs) == 6
    assert found.members == []
    assert len(find_duplicates(index, min_cover=0.2).extras) == 3


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"threshold": 1.5}, "threshold=1.5: give a cosine similarity, from -1 to 1"),
        ({"scope": "beside"}, "scope='beside': choose one of both, between, within"),
        ({"min_cover": 0}, "min-cover=0: give a share, above 0 and at most 1"),
        ({"min_clips": 0}, "min-clips=0: give at least 1"),
        ({"max_per_clip": 0}, "max-per-clip=0: give at least 1"),
        ({"max_pairs": 0}, "max-pairs=0: give at least 1"),
    ],
)
def test_arguments_out_of_range(tmp_path, scenes, arguments, message):
    with pytest.raises(UsageError, match=f"^{message}$"):
        find_duplicates(library_of(tmp_path / "lib", {"a.mp4": scenes[:2]}), **arguments)


# Real encoded videos -----------------------------------------------------------------------------


def picture(source, time_s):
    """Coarse blocks of colour, others every second and a half, one fading into the next."""
    at = time_s / 1.5
    grids = [np.random.default_rng((source, int(at) + n)).uniform(0, 255, (6, 8, 3)) for n in (0, 1)]
    blocks = grids[0] + (at % 1) * (grids[1] - grids[0])
    return np.kron(blocks, np.ones((20, 20, 1))).astype(np.uint8)


def encode(path, parts, *, codec="libx264", size=(160, 120), fps=30, **options):
    """Encode parts of sources: (source, from, to) in seconds."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=fps, options=options)
        stream.width, stream.height = size
        stream.pix_fmt = "yuv420p"
        times = [(s, start + i / fps) for s, start, end in parts for i in range(round((end - start) * fps))]
        for number, (source, time_s) in enumerate(times):
            frame = av.VideoFrame.from_ndarray(picture(source, time_s), format="rgb24").reformat(*size, "yuv420p")
            frame.pts, frame.time_base = number, Fraction(1, fps)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())


@pytest.fixture(scope="module")
def filmed(tmp_path_factory):
    root = tmp_path_factory.mktemp("duplicates")
    folder = root / "videos"
    folder.mkdir()
    fast = {"preset": "ultrafast"}
    encode(folder / "film.mp4", [(0, 0, 30)], crf="18", **fast)
    encode(folder / "film_small.avi", [(0, 0, 30)], codec="mpeg4", size=(96, 72), fps=24, b="100k")
    encode(folder / "film_vp9.webm", [(0, 0, 30)], codec="libvpx-vp9", size=(128, 96), b="80k", **{"cpu-used": "8"})
    encode(folder / "excerpt.mp4", [(0, 11.3, 20.1)], crf="30", **fast)
    encode(folder / "second.mp4", [(1, 0, 20)], **fast)
    encode(folder / "compilation.mp4", [(1, 4, 12), (2, 0, 9), (0, 20.5, 28)], crf="28", **fast)
    encode(folder / "loop.mp4", [(3, 0, 7)] * 3, crf="28", **fast)
    encode(folder / "other.mp4", [(4, 0, 20)], **fast)
    library = ve.extract(folder, root / "lib", encoder=ve.Encoder.from_pretrained(save_checkpoint(root / "checkpoint")))
    return Index.build(library)


# For a small encoder with random weights: clips that are cut half a hop apart score lower than copies.
THRESHOLD = 0.75


@pytest.fixture(scope="module")
def found(filmed):
    return find_duplicates(filmed, threshold=THRESHOLD, center=True)


@pytest.mark.parametrize(
    ("video_a", "video_b", "offset_s"),
    [
        ("film.mp4", "film_small.avi", 0),
        ("film.mp4", "film_vp9.webm", 0),
        ("film_small.avi", "film_vp9.webm", 0),
        ("excerpt.mp4", "film.mp4", 11.3),
        ("excerpt.mp4", "film_small.avi", 11.3),
        ("compilation.mp4", "second.mp4", 4),
        ("compilation.mp4", "film.mp4", 20.5 - 17),
        ("loop.mp4", "loop.mp4", 7),
    ],
)
def test_offsets_of_encoded_videos_are_right_to_half_a_hop(found, video_a, video_b, offset_s):
    pairs = [p for p in found.pairs if (p.video_a, p.video_b) == (video_a, video_b)]
    assert pairs[0].offset_s == pytest.approx(offset_s, abs=HOP_S / 2 + 0.01)
    if offset_s == 0:
        assert pairs[0].offset_s == pytest.approx(0, abs=0.05)


def test_encoded_videos_that_share_nothing_are_no_pair(found):
    sources = {
        "film.mp4": {0},
        "film_small.avi": {0},
        "film_vp9.webm": {0},
        "excerpt.mp4": {0},
        "second.mp4": {1},
        "compilation.mp4": {0, 1, 2},
        "loop.mp4": {3},
        "other.mp4": {4},
    }
    assert {p.video_a for p in found.pairs if p.kind == "repeat"} == {"loop.mp4"}
    for pair in found.pairs:
        assert sources[pair.video_a] & sources[pair.video_b], pair


def test_extras_of_encoded_videos(found):
    assert members(found)[:2] == [(1, "film.mp4", None), (1, "film_vp9.webm", "film.mp4")]
    assert {member.video_id for member in found.extras} == {"film_vp9.webm", "film_small.avi", "excerpt.mp4"}


# The page ----------------------------------------------------------------------------------------


def test_the_page_shows_pairs_and_loads_nothing(filmed, found, tmp_path):
    page = write_page(tmp_path / "p.html", filmed, found, title="A <title>", notes=["look & see"])
    text = page.read_text()
    assert "http" not in text
    assert "<script" not in text
    assert "A &lt;title&gt;" in text
    assert "look &amp; see" in text
    assert "<h2>Cluster 1</h2>" in text
    assert text.count("class='strip'") == 2 * text.count("class='pair'")
    assert "repeats itself" in text
    with pytest.raises(UsageError, match="exists; give another name, or --overwrite"):
        write_page(page, filmed, found, title="again")
    write_page(page, filmed, found, title="again", overwrite=True)
    assert "<title>again</title>" in page.read_text()


def test_the_page_is_capped_and_says_what_it_cannot_show(tmp_path, scenes):
    videos = {f"{n:03}<b>.mp4": scenes[2 * (n // 2) : 2 * (n // 2) + 2] for n in range(150)}
    index = library_of(tmp_path / "lib", videos)
    found = find_duplicates(index)
    text = write_page(tmp_path / "p.html", index, found, title="t").read_text()
    assert len(found.pairs) == 75
    assert text.count("class='pair'") == MOST_SHOWN
    assert f"Shown are {MOST_SHOWN}" in text
    assert "/videos/000&lt;b&gt;.mp4 is gone" in text
    assert "<b>.mp4" not in text


def test_the_page_of_nothing(tmp_path, scenes):
    index = library_of(tmp_path / "lib", {"a": scenes[:2]}, hop_s=0, length_s=0)
    found = find_duplicates(index)
    assert "nothing occurs twice" in write_page(tmp_path / "p.html", index, found, title="t").read_text()
    with pytest.raises(UsageError, match="cannot be written"):
        write_page(tmp_path / "none/p.html", index, found, title="t")
