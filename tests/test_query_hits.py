"""Which clips become hits: conditions, grouping, merging, least scores, several query clips; against an oracle."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.libraries import PREPROCESSING, clustered, identity, make_library
from vmae_embed.errors import QueryError, UsageError
from vmae_embed.index import Effort, Index, IndexSpec
from vmae_embed.library import Library, LibraryConfig, clip_rows
from vmae_embed.query import search
from vmae_embed.query.asked import Asked
from vmae_embed.query.rank import Ranked
from vmae_embed.query.spans import Times, choose
from vmae_embed.query.wanted import Wanted
from vmae_embed.records import ClipSpan, Timeline, Video
from vmae_embed.sampling import Sampling


def index_of(folder, vectors, spans, columns=None, kinds=None):
    """An index of one clip a vector; spans are (video, start, end), columns those of each video."""
    config = LibraryConfig(identity(vectors.shape[1]), Sampling(), PREPROCESSING, "float32", kinds or {}, {})
    library = Library.create(folder, config)
    tables = []
    for vector, (name, start, end) in zip(vectors, spans, strict=True):
        video = Video(name, f"/videos/{name}", 1, 1, (columns or {}).get(name, {}))
        timeline = Timeline(np.zeros(1), 100, 30, 64, 48, "h264")
        tables.append(clip_rows(video, timeline, [ClipSpan(start, end, ())], vector[None], library.schema))
    library.write_unit("0" * 16, pa.concat_tables(tables), [])
    return Index.build(library)


def without(index, rows):
    """The index, some of whose rows are of clips that were removed."""
    index.live = np.setdiff1d(index.live, rows)
    return index


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    vectors = clustered(200, 16)
    return vectors, Index.build(make_library(tmp_path_factory.mktemp("plain") / "lib", vectors))


@pytest.fixture(scope="module")
def approximate(tmp_path_factory):
    """An IVF-PQ in which one video has most of the clips, all near to the first."""
    vectors = clustered(3000, 16)
    vectors[:2400] = vectors[0] + 0.001 * vectors[:2400]
    index = Index.build(
        make_library(tmp_path_factory.mktemp("ivf") / "lib", vectors, clips_a_video=300), IndexSpec("IVF16,PQ4x4fsr")
    )
    assert index.effort is not None
    return vectors, index


@pytest.fixture(scope="module")
def labelled(tmp_path_factory):
    """Six videos of three clips; a's clips are nearest to a's first, and so on."""
    names = [f"{letter}.mp4" for letter in "abcdef"]
    spans = [(name, 2.0 * i, 2.0 * i + 2) for name in names for i in range(3)]
    columns = {
        name: {"label": "even" if i % 2 == 0 else "odd", "shots": i, "night": i > 3, "weird name": "x", "limit": i}
        for i, name in enumerate(names)
    }
    columns["f.mp4"] = {**columns["f.mp4"], "label": None}
    kinds = {"label": "string", "shots": "int64", "night": "bool", "weird name": "string", "limit": "int64"}
    return index_of(tmp_path_factory.mktemp("labelled") / "lib", clustered(18, 8), spans, columns, kinds)


def cosines(vectors, query):
    unit = vectors.astype(np.float64) / np.linalg.norm(vectors.astype(np.float64), axis=1, keepdims=True)
    return unit @ (query.astype(np.float64) / np.linalg.norm(query.astype(np.float64)))


def video_of(hits):
    return [hit.video_id for hit in hits]


# --where ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("where", "letters"),
    [
        ("label = 'even'", "ace"),
        ("label != 'even'", "bd"),
        ("label IS NULL", "f"),
        ("shots BETWEEN 1 AND 2 AND NOT night", "bc"),
        ("night", "ef"),
        ("video_id LIKE 'c%' OR path = '/videos/d.mp4'", "cd"),
        ('"weird name" = \'x\' AND "limit" > 4', "f"),
        ("clip_id = 'b.mp4#t=0.000,2.000'", "b"),
        ("start_s >= 4 AND end_s <= 6 -- the last of each", "abcdef"),
        ("shots = (SELECT max(shots) FROM clips)", "f"),
        ("(label = 'even') OR (label = 'odd')", "abcde"),
    ],
)
def test_only_what_a_condition_is_true_of_is_found(labelled, where, letters):
    hits = search(labelled, np.ones(8), k=50, where=where)
    assert {hit.video_id[0] for hit in hits} == set(letters)
    everything = search(labelled, np.ones(8), k=50)
    assert [hit.clip_id for hit in hits] == [
        hit.clip_id for hit in everything if hit.clip_id in {one.clip_id for one in hits}
    ]
    assert hits.among == len(hits)


def test_a_condition_that_fits_nothing_or_one_clip(labelled):
    none = search(labelled, np.ones(8), where="label = 'grey'")
    assert (list(none), none.among) == ([], 0)
    (hit,) = search(labelled, np.ones(8), where="clip_id = 'b.mp4#t=2.000,4.000'")
    assert hit.clip_id == "b.mp4#t=2.000,4.000"
    with pytest.raises(QueryError, match="neither a file nor a clip"):
        search(labelled, "nothing.mp4", where="label = 'grey'")


@pytest.mark.parametrize(
    ("where", "message"),
    [
        ("colour = 'red'", r'"colour" not found.*; give an SQL condition on columns clip_id, .*night, weird name'),
        ('label = "even"', r"\"even\" not found.*text in 'single quotes'"),
        ("shots", "gives BIGINT, not true or false"),
        ("label", "gives VARCHAR, not true or false"),
        ("NULL", "not true or false"),
        ("*", "not true or false"),
        ("count(*) > 1", "aggregates"),
        ("row_number() OVER () > 1", "window functions"),
        ("", "is empty"),
        (" \n", "is empty"),
        ("label =", "syntax error"),
        ("label = 'even", "unterminated"),
        ("true; DROP TABLE clips", "several statements"),
        ("true) UNION SELECT 1 FROM clips WHERE (true", "syntax error"),
        ("true LIMIT 1", "syntax error"),
        ("true FROM clips", "syntax error"),
        ("true AS x", "syntax error"),
        ("true, false", "not true or false"),
        ("shots = ?", "parameter"),
        ("EXISTS (SELECT * FROM read_csv('/etc/passwd'))", "Permission Error"),
        ("EXISTS (SELECT * FROM '/etc/passwd')", "does not exist"),
        ("EXISTS (SELECT * FROM labelled)", "does not exist"),
        ("CAST(label AS int) = 1", "Could not convert string 'even'"),
        ("label ~ '('", "missing"),
        ("label = '\udcff'", "not text in UTF-8"),
    ],
)
def test_what_is_no_condition_is_one_line(labelled, where, message):
    with pytest.raises(UsageError, match=message) as caught:
        search(labelled, np.ones(8), where=where)
    assert "\n" not in str(caught.value)


def test_a_condition_loads_duckdb_and_nothing_else_does(labelled):
    import subprocess
    import sys

    program = (
        "import sys, numpy as np; from vmae_embed import Index, Library, search;"
        f"index = Index.open(Library.open({str(labelled.library.path)!r}));"
        "search(index, np.ones(8), k=1); assert 'duckdb' not in sys.modules;"
        "search(index, np.ones(8), k=1, where='night'); assert 'duckdb' in sys.modules"
    )
    subprocess.run([sys.executable, "-c", program], check=True)


# --group-by and what is dropped -------------------------------------------------------------------


@pytest.mark.parametrize("include_self", [False, True])
@pytest.mark.parametrize("where", [None, "start_s < 400"])
def test_as_many_videos_as_there_are_under_an_approximate_index(approximate, include_self, where):
    _, index = approximate
    options = {"group_by": "video", "include_self": include_self, "where": where}
    for k in (3, 10):
        hits = search(index, "v00000.mp4#t=0.000,2.000", k=k, **options)
        assert len(hits) == k
        assert len(set(video_of(hits))) == k
    assert len(search(index, "v00000.mp4#t=0.000,2.000", k=50, **options)) == 10
    assert len(search(index, "v00000.mp4", k=50, **options)) == (10 if include_self else 9)


def test_the_last_look_is_exact(approximate, monkeypatch):
    """However an index is tuned, all videos are found."""
    vectors, index = approximate
    looks = []

    def noting(self, queries, k, *, exact=False, among=None):
        looks.append((k, exact))
        return search_index(self, queries, k, exact=exact, among=among)

    search_index = Index.search
    monkeypatch.setattr(Index, "search", noting)
    monkeypatch.setattr(index, "effort", Effort(1, 1))
    hits = search(index, "v00000.mp4#t=0.000,2.000", k=11, group_by="video", include_self=True)
    scores = cosines(vectors, vectors[0])
    assert sorted(hit.score for hit in hits) == pytest.approx(sorted(scores.reshape(10, 300).max(axis=1)), abs=1e-6)
    assert looks == [(11, False), (44, False), (176, False), (704, False), (2816, False), (3000, True)]


def test_dropped_clips_do_not_let_others_in_out_of_turn(tmp_path):
    """Of the neighbours of two query clips, one's may all be dropped: the other's are not the next best."""
    axes = np.eye(8)
    noise = 0.001 * np.random.default_rng(0).normal(size=(60, 8))
    near = np.stack([*[axes[0]] * 19, axes[1], *[axes[0] + 0.1 * axes[2]] * 20, *[axes[1] + 0.5 * axes[2]] * 20])
    vectors = (near + noise).astype(np.float32)
    index = Index.build(make_library(tmp_path / "lib", vectors, clips_a_video=20))
    hits = search(index, "v00000.mp4", k=5)
    assert {hit.video_id for hit in hits} == {"v00001.mp4"}
    best = np.max([cosines(vectors[20:], query) for query in vectors[:20]], axis=0)
    assert [hit.score for hit in hits] == pytest.approx(np.sort(best)[::-1][:5], abs=1e-6)


# --min-score and ranges ---------------------------------------------------------------------------


@pytest.mark.parametrize("which", ["plain", "approximate"])
def test_a_range_is_all_that_score_enough(which, request):
    vectors, index = request.getfixturevalue(which)
    scores = np.sort(cosines(vectors, vectors[7]))[::-1]
    for least in (0.9, 0.5, -1):
        hits = search(index, vectors[7], k=None, min_score=least, exact=True)
        assert [hit.score for hit in hits] == pytest.approx(scores[scores >= least], abs=1e-6)
        asked = search(index, vectors[7], k=None, min_score=least)
        assert len(asked) >= 0.98 * len(hits)
    assert not search(index, vectors[7], k=None, min_score=1.1)
    assert len(search(index, vectors[7], k=5, min_score=-1)) == 5
    # Deeper than the first look, and where scores are farther apart than float32 tells.
    number = 199 - 50 if which == "plain" else 2999 - 50
    between = float(scores[number : number + 2].mean())
    assert len(search(index, vectors[7], k=None, min_score=between, exact=True)) == number + 1


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"k": None}, "k=None: give a number of hits, or a min-score"),
        ({"k": 0}, "k=0: give at least 1"),
        ({"k": -3, "min_score": 0.5}, "k=-3: give at least 1"),
        ({"min_score": float("nan")}, "min-score=nan: give a number"),
        ({"merge_gap": -0.1}, "merge-gap=-0.1: give seconds, from 0 on"),
        ({"merge_gap": float("nan")}, "merge-gap=nan: give seconds"),
        ({"combine": "sum"}, "combine='sum': choose one of max, mean"),
        ({"group_by": "look"}, "group-by='look': choose one of clip, video"),
    ],
)
def test_wrong_options(plain, options, message):
    with pytest.raises(UsageError, match=message):
        search(plain[1], plain[0][0], **options)


# --combine ----------------------------------------------------------------------------------------


def test_the_mean_is_that_of_the_cosines(plain):
    vectors, index = plain
    queries = vectors[[3, 50, 120]]
    expected = np.mean([cosines(vectors, query) for query in queries], axis=0)
    hits = search(index, queries, k=200, combine="mean")
    assert [hit.score for hit in hits] == pytest.approx(np.sort(expected)[::-1], abs=1e-6)
    assert hits[0].clip_id == index.clips["clip_id"][int(expected.argmax())].as_py()
    assert {hit.query for hit in hits} == {"vector"}
    assert len(hits.queries) == 3
    enough = search(index, queries, k=None, min_score=float(np.sort(expected)[-20]) - 1e-6, combine="mean")
    assert len(enough) == 20


def test_the_mean_of_a_video_and_of_one_clip(plain):
    vectors, index = plain
    expected = np.mean([cosines(vectors, query) for query in vectors[:4]], axis=0)[4:].max()
    assert search(index, "v00000.mp4", k=1, combine="mean")[0].score == pytest.approx(expected, abs=1e-6)
    (hit,) = search(index, vectors[9], k=1, combine="mean")
    assert (hit.score, hit.query) == (pytest.approx(1, abs=1e-6), "vector")


def test_the_mean_of_opposites_scores_nothing(plain):
    hits = search(plain[1], np.stack([np.ones(16), -np.ones(16)]), k=200, combine="mean")
    assert [hit.score for hit in hits] == pytest.approx([0] * 200, abs=1e-6)


def test_the_mean_of_inner_products_is_that_with_the_mean(tmp_path):
    vectors = clustered(60, 16)
    index = Index.build(make_library(tmp_path / "lib", vectors), IndexSpec(metric="ip"))
    expected = np.sort((vectors.astype(np.float64) @ vectors[:3].T).mean(axis=1))[::-1]
    hits = search(index, vectors[:3], k=60, combine="mean")
    assert [hit.score for hit in hits] == pytest.approx(expected, rel=1e-5, abs=1e-4)
    assert hits.metric == "ip"
    longest = search(index, vectors[:3], k=60)
    assert longest[0].score == pytest.approx((vectors @ vectors[:3].T).max(), rel=1e-5)


def test_distances(tmp_path):
    vectors = clustered(60, 16)
    index = Index.build(make_library(tmp_path / "lib", vectors), IndexSpec(metric="l2"))
    distances = np.linalg.norm(vectors.astype(np.float64) - vectors[5], axis=1)
    hits = search(index, vectors[5], k=None, min_score=-float(np.sort(distances)[10]) - 1e-5)
    assert [-hit.score for hit in hits] == pytest.approx(np.sort(distances)[:11], abs=1e-4)
    with pytest.raises(UsageError, match=r"combine=mean: the scores of this index are of metric l2.*choose max"):
        search(index, vectors[:3], combine="mean")


# --merge-gap --------------------------------------------------------------------------------------


def naive_merge(ranked, gap, k):
    """The oracle: after each clip, all spans anew."""
    spans = []
    for count in range(1, len(ranked) + 1):
        longer = []
        for place, (video, start, end) in sorted(enumerate(ranked[:count]), key=lambda one: one[1]):
            last = longer[-1] if longer else None
            if last and last[0] == video and start - last[2] <= gap + 0.0005:
                last[2], last[3], last[4] = max(last[2], end), min(last[3], place), last[4] + 1
            else:
                longer.append([video, start, end, place, 1])
        if k is not None and len(longer) > k:
            break
        spans = longer
    return sorted((tuple(span) for span in spans), key=lambda span: span[3])


moments = st.lists(
    st.tuples(st.integers(0, 2), st.integers(0, 40), st.integers(1, 8)), min_size=0, max_size=25, unique=True
)


@given(moments, st.sampled_from([0.0, 0.5, 1.0, 3.0]), st.one_of(st.none(), st.integers(1, 8)))
def test_spans_are_those_of_the_oracle(clips, gap, k):
    clips = [(video, start / 2, (start + length) / 2) for video, start, length in clips]
    count = len(clips)
    ranked = Ranked(
        np.linspace(1, 0, count, dtype=np.float32), np.arange(count), np.zeros(count, np.int64), floor=-np.inf
    )
    times = Times(*(np.array([clip[i] for clip in clips], dtype=kind) for i, kind in enumerate((int, float, float))))
    asked = Asked("q", [], np.zeros((1, 2), np.float32))
    wanted = Wanted(k=k, merge_gap=gap, min_score=-1)
    spans, are_all = choose(asked, np.empty(0, np.int64), ranked, times, wanted)
    assert are_all
    found = [(span.video, span.start_s, span.end_s, span.best, span.clips) for span in spans]
    assert found == naive_merge(clips, gap, k)


@pytest.fixture(scope="module")
def film(tmp_path_factory):
    """Clips of two films, their cosines with the first axis falling from clip to clip as listed."""
    spans = [
        ("a.mp4", 2, 4),
        ("b.mp4", 10, 12),
        ("a.mp4", 4, 6),
        ("a.mp4", 7, 9),
        ("b.mp4", 11, 13),
        ("a.mp4", 20, 22),
        ("b.mp4", 0, 2),
        ("a.mp4", 5.9, 7.1),
    ]
    angles = np.linspace(0.1, 1.2, len(spans))
    vectors = np.stack([np.cos(angles), np.sin(angles), *[0 * angles] * 6], axis=1).astype(np.float32)
    return np.cos(angles), index_of(tmp_path_factory.mktemp("film") / "lib", vectors, spans)


AXIS = np.eye(8)[0]


def test_neighbours_become_one_hit(film):
    scores, index = film
    hits = search(index, AXIS, k=3, merge_gap=0)
    assert [hit.clip_id for hit in hits] == ["a.mp4#t=2.000,6.000", "b.mp4#t=10.000,13.000", "a.mp4#t=7.000,9.000"]
    assert [hit.score for hit in hits] == pytest.approx(scores[[0, 1, 3]], abs=1e-6)
    assert [(hit.rank, hit.clips, hit.start_s, hit.end_s) for hit in hits] == [
        (1, 2, 2, 6),
        (2, 2, 10, 13),
        (3, 1, 7, 9),
    ]
    (first,) = search(index, AXIS, k=1, merge_gap=0)
    assert first.clip_id == "a.mp4#t=2.000,4.000"  # the next best is of another film


def test_a_gap_is_bridged_up_to_its_length(film):
    _, index = film
    hits = search(index, AXIS, k=2, merge_gap=1)
    assert [hit.clip_id for hit in hits] == ["a.mp4#t=2.000,9.000", "b.mp4#t=10.000,13.000"]
    hits = search(index, AXIS, k=3, merge_gap=1)
    assert [(hit.clip_id, hit.clips) for hit in hits] == [
        ("a.mp4#t=2.000,9.000", 3),
        ("b.mp4#t=10.000,13.000", 2),
        ("a.mp4#t=20.000,22.000", 1),
    ]


def test_all_there_is_when_there_are_fewer_spans(film):
    _, index = film
    hits = search(index, AXIS, k=50, merge_gap=0)
    assert sorted((hit.clip_id, hit.clips) for hit in hits) == [
        ("a.mp4#t=2.000,9.000", 4),
        ("a.mp4#t=20.000,22.000", 1),
        ("b.mp4#t=0.000,2.000", 1),
        ("b.mp4#t=10.000,13.000", 2),
    ]
    assert len(search(index, AXIS, k=50, merge_gap=float("inf"))) == 2


def test_merging_with_grouping_and_a_least_score(film):
    scores, index = film
    hits = search(index, AXIS, k=5, merge_gap=1, group_by="video", min_score=float(scores[4]) - 1e-6)
    assert [hit.clip_id for hit in hits] == ["a.mp4#t=2.000,9.000", "b.mp4#t=10.000,13.000"]
    hits = search(index, AXIS, k=None, merge_gap=1, min_score=float(scores[2]) - 1e-6)
    assert [hit.clip_id for hit in hits] == ["a.mp4#t=2.000,6.000", "b.mp4#t=10.000,12.000"]


def test_merging_leaves_the_query_out_of_spans(film):
    _, index = film
    hits = search(index, "a.mp4#t=4.000,6.000", k=50, merge_gap=0)
    assert "a.mp4#t=2.000,4.000" in [hit.clip_id for hit in hits]
    assert not [hit for hit in hits if hit.video_id == "a.mp4" and hit.start_s < 6 and hit.end_s > 4]


def test_clips_of_no_length_or_without_times_never_merge(tmp_path):
    spans = [("a.mp4", 0, 0), ("a.mp4", 0, 0), ("b.mp4", np.nan, np.nan), ("b.mp4", np.nan, np.nan), ("a.mp4", 0, 2)]
    index = index_of(tmp_path / "lib", clustered(5, 8), spans)
    hits = search(index, np.ones(8), k=50, merge_gap=5)
    assert [hit.clips for hit in hits] == [1] * 5
    assert len(search(index, np.ones(8), k=50, merge_gap=5, group_by="video")) == 2


def test_spans_beyond_the_first_look_are_asked_for(tmp_path):
    """The nearest hundreds are one span: others lie deeper."""
    vectors = clustered(600, 16)
    turn = np.linspace(0, 0.01, 300)[:, None]
    vectors[:300] = np.cos(turn) * np.eye(16)[0] + np.sin(turn) * np.eye(16)[1]
    index = Index.build(make_library(tmp_path / "lib", vectors, clips_a_video=300))
    hits = search(index, vectors[0], k=4, merge_gap=0)
    assert (hits[0].clips, hits[0].start_s, hits[0].end_s) == (300, 0, 600)
    assert len(hits) == 4


# Edges --------------------------------------------------------------------------------------------


def test_k_beyond_the_library(plain):
    vectors, index = plain
    assert len(search(index, vectors[0], k=10**12)) == 200
    assert len(search(index, "v00000.mp4#t=0.000,2.000", k=10**12)) == 199


def test_a_library_of_one_clip(tmp_path):
    index = Index.build(make_library(tmp_path / "lib", clustered(1, 8)))
    name = "v00000.mp4#t=0.000,2.000"
    assert [hit.clip_id for hit in search(index, name, include_self=True)] == [name]
    for options in ({}, {"group_by": "video"}, {"merge_gap": 1}, {"k": None, "min_score": 0}):
        assert list(search(index, name, **options)) == []
        assert len(search(index, np.ones(8), **{**options, "min_score": -1})) == 1


def test_vectors_that_are_all_alike(tmp_path):
    index = Index.build(make_library(tmp_path / "lib", np.ones((40, 8), np.float32)))
    hits = search(index, "v00003.mp4#t=2.000,4.000", k=39)
    assert len({hit.clip_id for hit in hits}) == 39
    assert [hit.score for hit in hits] == pytest.approx([1] * 39, abs=1e-6)
    assert len(search(index, "v00003.mp4", k=50, group_by="video")) == 9
    assert len(search(index, np.ones(8), k=None, min_score=0.999)) == 40
    assert [hit.clips for hit in search(index, np.ones(8), k=10, merge_gap=0)] == [4] * 10


@pytest.mark.parametrize("width", [0, 7, 17])
def test_vectors_of_another_width(plain, width):
    with pytest.raises(QueryError, match=r"this library takes numbers of shape \(16,\) or \(Q, 16\)"):
        search(plain[1], np.ones((2, width)))


def test_numbers_that_float32_cannot_hold(plain):
    with pytest.raises(QueryError, match="not finite"):
        search(plain[1], np.full(16, 1e300))


def test_removed_clips_are_neither_shown_nor_matched(tmp_path):
    vectors = clustered(40, 16)
    library = make_library(tmp_path / "lib", vectors)
    index = without(Index.build(library), [0, 1, 2, 3, 5, 38])
    everything = {"k": 100, "include_self": True}
    alive = set(np.array(index.clips["clip_id"].to_pylist())[index.live])
    assert {hit.clip_id for hit in search(index, vectors[0], **everything)} == alive
    assert len(search(index, vectors[0], k=100, where="start_s < 4")) == 17
    assert {hit.video_id for hit in search(index, vectors[0], group_by="video", **everything)} == {
        f"v{i:05}.mp4" for i in range(1, 10)
    }
    assert search(index, vectors[0], where="video_id = 'v00000.mp4'").among == 0
    for name in ("v00000.mp4#t=0.000,2.000", "v00000.mp4", "v00001.mp4#t=2.000,4.000"):
        with pytest.raises(QueryError, match=r"neither a file|the library knows this video, but"):
            search(index, name)
    assert len(search(index, "v00001.mp4").queries) == 3
    assert len(search(index, "v00009.mp4").queries) == 3


def test_videos_that_were_taken_out_of_a_library_are_not_found(tmp_path):
    vectors = clustered(2400, 16)
    library = make_library(tmp_path / "lib", vectors)
    Index.build(library)
    with library.lock():
        library.remove_videos(["v00000.mp4"])
    index = Index.open(library)
    assert index.clips.num_rows > len(index.live) == 2396
    hits = search(index, vectors[0], k=5000, where="start_s >= 0")
    assert len({hit.clip_id for hit in hits}) == len(hits) == hits.among == 2396
    assert len(search(index, "v00001.mp4").queries) == 4
    with pytest.raises(QueryError, match=r"neither a file nor a clip.*look like v\d+\.mp4#t="):
        search(index, "v00000.mp4#t=0.000,2.000")


def test_files_of_removed_clips_are_not_the_librarys(tmp_path):
    (tmp_path / "v.mp4").write_bytes(b"no video")
    status = (tmp_path / "v.mp4").stat()
    config = LibraryConfig(identity(8), Sampling(), PREPROCESSING, "float32", {}, {})
    library = Library.create(tmp_path / "lib", config)
    video = Video("v.mp4", str(tmp_path / "v.mp4"), status.st_size, status.st_mtime_ns)
    timeline = Timeline(np.zeros(1), 100, 30, 64, 48, "h264")
    spans = [ClipSpan(0, 2, ()), ClipSpan(2, 4, ())]
    library.write_unit("0" * 16, clip_rows(video, timeline, spans, clustered(2, 8), library.schema), [])
    index = Index.build(library)
    assert len(search(index, tmp_path / "v.mp4").queries) == 2
    index = without(index, [0, 1])
    with pytest.raises(QueryError, match="not a readable video"):
        search(index, tmp_path / "v.mp4")


def test_a_library_whose_clips_are_all_gone(tmp_path):
    index = without(Index.build(make_library(tmp_path / "lib", clustered(4, 8))), np.arange(4))
    assert list(search(index, np.ones(8))) == []
    with pytest.raises(QueryError, match="none: it holds no clips"):
        search(index, "v00000.mp4")


def test_imported_libraries_are_searched_by_id_and_by_vector(tmp_path):
    spans = [("one", 0, 0), ("folder/two.npy", 0, 0), ("three#t=x", 0, 0)]
    vectors = clustered(3, 8)
    config = LibraryConfig(identity(8, imported=True), None, None, "float32", {}, {})
    library = Library.create(tmp_path / "lib", config)
    timeline = Timeline(np.zeros(1), 100, 30, 64, 48, "h264")
    rows = pa.concat_tables(
        clip_rows(Video(name, "", 0, 0), timeline, [ClipSpan(a, b, ())], vector[None], library.schema)
        for vector, (name, a, b) in zip(vectors, spans, strict=True)
    )
    rows = rows.set_column(0, "clip_id", pa.array([name for name, _, _ in spans]))
    library.write_unit("0" * 16, rows, [])
    index = Index.build(library)
    for row, (name, _, _) in enumerate(spans):
        assert search(index, name, k=1, include_self=True)[0].clip_id == name
        assert name not in {hit.clip_id for hit in search(index, name)}
        assert search(index, vectors[row], k=1)[0].clip_id == name
    (tmp_path / "v.mp4").write_bytes(b"x")
    for query in (tmp_path / "v.mp4", "one#t=0,2"):
        with pytest.raises(
            QueryError, match=r"its vectors were imported: search for one of its ids, or a \.npy vector"
        ):
            search(index, query)
