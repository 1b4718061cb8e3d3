"""Figures against what is computed anew here, in float64 and one query at a time, and against scikit-learn."""

from __future__ import annotations

import csv
import io
import itertools
import json
import re
from dataclasses import astuple

import numpy as np
import pyarrow as pa
import pytest
from sklearn.metrics import average_precision_score

from tests.libraries import PREPROCESSING, clustered, identity, make_library
from vmae_embed.errors import ProbeError, UsageError
from vmae_embed.evaluation import (
    agreement,
    answer,
    estimate,
    evaluate_index,
    factories,
    matched_labels,
    of_vectors,
    sample_queries,
    sweep,
    write_sweep,
)
from vmae_embed.evaluation.labelled import _chance, _measure
from vmae_embed.evaluation.retrieval import measure_speed, recall, true_scores
from vmae_embed.index import Effort, Index, IndexSpec
from vmae_embed.labels import carried_labels
from vmae_embed.library import Library, LibraryConfig, clip_rows
from vmae_embed.query import search
from vmae_embed.records import ClipSpan, Timeline, Video
from vmae_embed.sampling import Sampling


def cosines(vectors):
    unit = vectors.astype(np.float64) / np.linalg.norm(vectors.astype(np.float64), axis=1, keepdims=True)
    return unit @ unit.T


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    vectors = clustered(300, 16, clusters=20)
    return vectors, Index.build(make_library(tmp_path_factory.mktemp("small") / "lib", vectors))


@pytest.fixture(scope="module")
def coarse(tmp_path_factory):
    """An IVF-PQ of 64 cells, of which it visits one."""
    vectors = clustered(3000, 16, clusters=400, spread=0.8)
    index = Index.build(make_library(tmp_path_factory.mktemp("coarse") / "lib", vectors), IndexSpec("IVF64,PQ4x4fsr"))
    index.effort = Effort(1, 16)
    return vectors, index


# Recall


def share_found(index, scores, row, own, k, **how):
    """Of the k nearest to a row, the share that a search gives, asked again until k are not its own."""
    truth = [int(r) for r in np.argsort(-scores[row]) if int(r) not in own][:k]
    wanted, found = k, []
    while len(found) < k:
        (answers,) = index.search(index.vectors(np.array([row])), wanted, **how)[1]
        found = [int(r) for r in answers if int(r) not in own][:k]
        wanted *= 4
    return len(set(truth) & set(found)) / k


def rows_of(index, queries):
    vectors = index.vectors(np.arange(len(index.clips)))
    return [int(np.flatnonzero((vectors == query).all(axis=1))[0]) for query in queries.vectors]


@pytest.mark.parametrize("leave_out", ["video", "clip"])
def test_recall_is_what_brute_force_says(coarse, leave_out):
    vectors, index = coarse
    queries = sample_queries(index, 80, leave_out=leave_out)
    scores = cosines(vectors)
    for k in (1, 10):
        expected = []
        for row in rows_of(index, queries):
            own = range(row // 4 * 4, row // 4 * 4 + 4) if leave_out == "video" else [row]
            expected.append(share_found(index, scores, row, own, k))
        shares = recall(index, queries, true_scores(index, queries, 10), k)
        assert shares == pytest.approx(expected)
        assert 0.1 < np.mean(shares) < 0.9


def test_an_exact_index_finds_everything(small):
    _, index = small
    measured = evaluate_index(index, sample_queries(index, 50))
    assert {k: value.value for k, value in measured.recall.items()} == {1: 1, 10: 1, 100: 1}
    assert measured.there == 296
    for speed in (measured.speed, measured.exact_speed):
        assert 0 < speed.p50_ms <= speed.p99_ms
        assert speed.timed == 50
        assert speed.per_s > 0


def test_slow_searches_are_timed_ten_times_at_least(small):
    _, index = small
    assert measure_speed(index, sample_queries(index, 50), most_s=0).timed == 10
    assert measure_speed(index, sample_queries(index, 3), most_s=0).timed == 3


def test_an_index_that_visits_more_finds_more(coarse, monkeypatch):
    _, index = coarse
    queries = sample_queries(index, 100)
    few = evaluate_index(index, queries, at=[10]).recall[10]
    monkeypatch.setattr(index, "effort", Effort(64, 64))
    many = evaluate_index(index, queries, at=[10]).recall[10]
    assert few.high < 0.9 < 0.95 < many.low


def test_answers_are_those_of_search(tmp_path):
    """With one clip a video, search leaves out what we do: this is what its users get."""
    vectors = clustered(900, 16, clusters=100, spread=0.8)
    index = Index.build(make_library(tmp_path / "lib", vectors, clips_a_video=1), IndexSpec("IVF16,PQ4x4fsr"))
    index.effort = Effort(1, 4)
    queries = sample_queries(index, 30)
    for k in (1, 10):
        for i, rows in enumerate(answer(index, queries, k)):
            row = rows_of(index, queries)[i]
            hits = search(index, index.clips["clip_id"][row].as_py(), k=k)
            assert [hit.clip_id for hit in hits] == index.clips["clip_id"].take(pa.array(rows)).to_pylist()


def test_no_more_is_asked_for_than_was_wanted(small, monkeypatch):
    """More candidates would be compared exactly, and a recall measured that no search has."""
    _, index = small
    asked = []
    ask = index.search
    monkeypatch.setattr(index, "search", lambda queries, k, **how: asked.append(k) or ask(queries, k, **how))
    answer(index, of_vectors(index, clustered(20, 16, seed=1)), 10)
    assert asked == [10]
    answer(index, sample_queries(index, 20), 10)
    assert asked == [10, 10, 40]


def test_any_of_equally_near_clips_will_do(tmp_path, monkeypatch):
    vectors = np.repeat(clustered(60, 16), 5, axis=0)  # each vector in five videos
    index = Index.build(make_library(tmp_path / "lib", vectors, clips_a_video=1))
    queries = sample_queries(index, 60)
    truth, first_of_equals = true_scores(index, queries, 10), answer(index, queries, 2)
    exact = index.search

    def backwards(queries, k, **how):
        """The same scores, the last of equals first."""
        scores, rows = exact(queries, 300, exact=True)
        order = np.lexsort((-rows, -scores), axis=1)[:, :k]
        return np.take_along_axis(scores, order, 1), np.take_along_axis(rows, order, 1)

    monkeypatch.setattr(index, "search", backwards)
    assert (answer(index, queries, 2) != first_of_equals).any(axis=1).all()
    for k in (1, 2, 10):
        assert recall(index, queries, truth, k).tolist() == [1] * 60


def test_identical_vectors_are_all_nearest(tmp_path):
    index = Index.build(make_library(tmp_path / "lib", np.ones((40, 16), np.float32)))
    assert evaluate_index(index, sample_queries(index)).recall[10].value == 1


def test_vectors_that_are_not_in_the_library_leave_nothing_out(small):
    vectors, index = small
    queries = of_vectors(index, vectors[:20])
    assert answer(index, queries, 1)[:, 0].tolist() == list(range(20))
    assert evaluate_index(index, queries).there == 300


def test_the_seed_decides_the_queries(small):
    _, index = small
    first, again, other = (sample_queries(index, 50, seed=seed).vectors for seed in (0, 0, 1))
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"count": 0}, "queries=0, seed=0: give queries from 1"),
        ({"seed": -1}, "seed=-1"),
        ({"leave_out": "nobody"}, "self='nobody': choose one of video, clip"),
    ],
)
def test_queries_that_cannot_be_drawn(small, arguments, message):
    with pytest.raises(UsageError, match=message):
        sample_queries(small[1], **arguments)


def test_libraries_with_nothing_left_to_find(tmp_path):
    one = Index.build(make_library(tmp_path / "one", clustered(1, 16)))
    with pytest.raises(UsageError, match="holds one clip, and without itself none is left"):
        sample_queries(one)
    video = Index.build(make_library(tmp_path / "video", clustered(4, 16)))
    with pytest.raises(UsageError, match=r"its clips are of one video.*--self clip"):
        sample_queries(video)
    assert evaluate_index(video, sample_queries(video, leave_out="clip")).there == 3


@pytest.mark.parametrize(
    ("vectors", "message"),
    [
        (np.ones((2, 3)), r"queries: float64 of shape \(2, 3\); this library takes numbers of shape \(Q, 16\)"),
        (np.ones(16), r"of shape \(16,\)"),
        (np.empty((0, 16)), r"of shape \(0, 16\)"),
        (np.full((1, 16), np.inf), "not finite"),
    ],
)
def test_vectors_that_fit_no_library(small, vectors, message):
    with pytest.raises(UsageError, match=message):
        of_vectors(small[1], vectors)


# Intervals


def test_an_interval_of_two_videos_is_known():
    """Both drawn alike in half of the cases: a quarter of the means is 0, a quarter 1."""
    found = estimate(np.array([0.0, 1.0]), np.array([3, 7]))
    assert (found.value, found.low, found.high) == (0.5, 0, 1)


def test_an_interval_of_many_videos_is_the_normal_one():
    values = (np.random.default_rng(0).random(1000) < 0.3).astype(float)
    found = estimate(values, np.arange(1000))
    half = 1.96 * values.std() / np.sqrt(1000)
    assert found.value == values.mean()
    assert found.low == pytest.approx(values.mean() - half, abs=0.003)
    assert found.high == pytest.approx(values.mean() + half, abs=0.003)


def test_clips_of_one_video_are_no_new_evidence():
    values = np.random.default_rng(1).random(60)
    videos = np.arange(60)
    once, nine_times = estimate(values, videos), estimate(np.repeat(values, 9), np.repeat(videos, 9))
    assert astuple(nine_times) == pytest.approx(astuple(once))


def test_one_video_has_no_interval():
    found = estimate(np.array([0.2, 0.4]), np.array([5, 5]))
    assert found.value == pytest.approx(0.3)
    assert found.low is found.high is None


def test_many_videos_are_resampled_in_blocks(monkeypatch):
    values, videos = np.random.default_rng(2).random(50), np.arange(50)
    whole = estimate(values, videos)
    monkeypatch.setattr("vmae_embed.intervals._BLOCK", 1000)
    assert estimate(values, videos) == whole


# Labels


def brute_force(scores, labels, videos):
    """Each measure of each labelled clip that another video has the label of."""
    found = []
    for i, label in enumerate(labels):
        others = [j for j, other in enumerate(labels) if other is not None and videos[j] != videos[i]]
        right = np.array([labels[j] == label for j in others])
        if label is None or not right.any():
            continue
        order = right[np.argsort(-scores[i, others])]
        ap = average_precision_score(right, scores[i, others])
        r = right.sum()
        at_r = sum(order[: n + 1].mean() for n in range(r) if order[n]) / r
        found.append((i, [order[:1].mean(), order[:5].mean(), order[:10].mean(), ap, at_r]))
    return found


@pytest.fixture(scope="module")
def labelled(tmp_path_factory):
    rng = np.random.default_rng(4)
    names = ["a", "b", 3]
    videos = np.arange(240) // 4
    by_video = rng.integers(0, 3, 60)
    vectors = clustered(240, 16, clusters=1, spread=1.0)
    vectors += 0.7 * rng.normal(size=(3, 16)).astype(np.float32)[by_video][videos]
    labels = [names[by_video[video]] for video in videos]
    labels[5] = labels[17] = None
    labels[8:12] = ["lone"] * 4
    return vectors, labels, videos, Index.build(make_library(tmp_path_factory.mktemp("labelled") / "lib", vectors))


def test_precision_and_map_are_what_scikit_learn_says(labelled):
    vectors, labels, videos, index = labelled
    expected = brute_force(cosines(vectors), labels, videos)
    found = agreement(index, labels, queries=10_000)
    assert found.overall.queries == len(expected) == 234
    assert found.clips == 238
    assert found.alone == ("lone",)
    means = np.mean([values for _, values in expected], axis=0)
    assert [value.value for value in found.overall.measured.values()] == pytest.approx(means.tolist())
    assert list(found.by_label) == [3, "a", "b"]
    for label, measured in found.by_label.items():
        means = np.mean([values for i, values in expected if labels[i] == label], axis=0)
        assert [value.value for value in measured.measured.values()] == pytest.approx(means.tolist())
        assert all(value.low < value.value < value.high for value in measured.measured.values())


def test_blocks_change_nothing(labelled, monkeypatch):
    _, labels, _, index = labelled
    whole = agreement(index, labels)
    monkeypatch.setattr("vmae_embed.evaluation.labelled._BLOCK", 1000)
    monkeypatch.setattr("vmae_embed.evaluation.labelled._ROWS", 37)
    assert agreement(index, labels) == whole


def test_a_sample_of_queries_is_of_different_videos(labelled):
    _, labels, _, index = labelled
    found = agreement(index, labels, queries=20)
    assert found.overall.queries == 20
    assert found.clips == 238
    assert sum(measured.queries for measured in found.by_label.values()) == 20


@pytest.mark.parametrize(("right", "there"), [(1, 1), (1, 5), (2, 5), (3, 6), (6, 6)])
def test_chance_is_the_mean_over_all_orders(right, there):
    orders = itertools.combinations(range(1, there + 1), right)
    expected = np.mean([_measure(np.array(ranks), there) for ranks in orders], axis=0)
    harmonic = np.cumsum(1 / np.arange(1, there + 1))
    assert _chance(right, there, harmonic) == pytest.approx(expected.tolist())


def test_identical_vectors_agree_by_chance(tmp_path):
    """Their order is no evidence, though it is the labels' own on disk."""
    index = Index.build(make_library(tmp_path / "lib", np.full((400, 16), 0.1, np.float32), clips_a_video=1))
    found = agreement(index, [row // 100 for row in range(400)]).overall
    for name, value in found.measured.items():
        assert value.value == pytest.approx(found.chance[name], abs=0.03), name
    assert found.chance["precision@1"] == pytest.approx(99 / 399)


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        ([None] * 240, "no clip has a label"),
        (["x"] * 240, "every labelled clip is 'x': neighbours cannot agree or differ"),
        ([*["x"] * 4, *["y"] * 4, *[None] * 232], "no label is on two videos"),
    ],
)
def test_labels_that_say_nothing(labelled, labels, message):
    with pytest.raises(ProbeError, match=message):
        agreement(labelled[3], labels)


def test_agreement_of_no_queries(labelled):
    with pytest.raises(UsageError, match="queries=0, seed=0: give queries from 1"):
        agreement(labelled[3], labelled[1], queries=0)


def test_labels_of_a_file(labelled, tmp_path):
    *_, index = labelled
    table = tmp_path / "labels.csv"
    table.write_text("video_id,kind\nv00001.mp4,x\nv00003.mp4,y\nelsewhere.mp4,x\n")
    labels, matched = matched_labels(index, table, "kind")
    assert labels == [None] * 4 + ["x"] * 4 + [None] * 4 + ["y"] * 4 + [None] * 224
    assert matched.unmatched_keys == ("elsewhere.mp4",)
    assert len(matched.unlabelled_videos) == 58
    table.write_text("video_id,kind\nelsewhere.mp4,x\n")
    with pytest.raises(ProbeError, match="none of its rows fits a clip"):
        matched_labels(index, table, "kind")


def test_a_column_that_is_not_carried(labelled):
    with pytest.raises(UsageError, match="column 'kind': the library carries no columns of a manifest"):
        carried_labels(labelled[3].clips, labelled[3].library.config.columns, "kind")


def carrying(folder, vectors, columns):
    """A library of one clip a video, with columns of a manifest."""
    types = {name: "double" if isinstance(values[0], float) else "string" for name, values in columns.items()}
    config = LibraryConfig(identity(vectors.shape[1]), Sampling(), PREPROCESSING, "float32", types, {})
    library = Library.create(folder, config)
    timeline = Timeline(np.zeros(1), 2.0, 30, 64, 48, "h264")
    rows = [
        clip_rows(
            Video(f"v{i}.mp4", f"/videos/v{i}.mp4", 1, 1, {name: values[i] for name, values in columns.items()}),
            timeline,
            [ClipSpan(0.0, 2.0, ())],
            vectors[i : i + 1],
            library.schema,
        )
        for i in range(len(vectors))
    ]
    library.write_unit("0" * 16, pa.concat_tables(rows), [])
    return library


# The command


@pytest.fixture(scope="module")
def library(tmp_path_factory):
    columns = {"kind": ["even", "odd"] * 23 + ["", "", "odd", "even"], "weight": [0.5] * 50}
    library = carrying(tmp_path_factory.mktemp("command") / "lib", clustered(50, 16, clusters=2), columns)
    Index.build(library)
    return library.path


def test_the_table_says_all(library, run):
    code, out, err = run("evaluate", library, "--label", "kind")
    assert (code, err) == (0, "")
    names = [line.split("  ")[0] for line in out.splitlines()]
    assert names == [
        *("index", "bytes a vector", "queries", "recall@1", "recall@10", "recall@100", "one query", "exact search", ""),
        *("labels", "precision@1", "precision@5", "precision@10", "mAP", "mAP@R", "", "label", "even", "odd"),
    ]
    assert "50 of 50 videos; their own videos left out" in out
    assert "recall@100          1.0000 (1.0000 to 1.0000)   (there are 49)" in out
    assert "48 queries among 48 labelled clips" in out


def test_json_holds_the_same(library, run):
    code, out, _ = run("evaluate", library, "--label", "kind", "--queries", 20, "--format", "json")
    found = json.loads(out)
    assert code == 0
    assert (found["clips"], found["queries"], found["query_videos"], found["left_out"]) == (50, 20, 20, "video")
    assert found["recall"]["100"] == {"value": 1, "low": 1, "high": 1, "of": 49}
    assert found["speed"]["timed"] == found["exact_speed"]["timed"] == 20
    assert found["labels"]["clips"] == 48
    assert found["labels"]["queries"] == 20
    assert set(found["labels"]["by_label"]) == {"even", "odd"}
    assert found["labels"]["chance"]["precision@1"] == pytest.approx(23 / 47)


def test_labels_of_a_file_and_what_fits_nothing(library, run, tmp_path):
    rows = "".join(f"v{i}.mp4,{'low' if i < 20 else 'high'}\n" for i in range(40))
    (tmp_path / "labels.csv").write_text(f"path,label\n{rows}gone.mp4,low\nv41.mp4,lone\n")
    code, out, err = run("evaluate", library, "--labels", tmp_path / "labels.csv", "--format", "json")
    assert code == 0
    assert json.loads(out)["labels"]["queries"] == 40
    assert json.loads(out)["labels"]["on_one_video_only"] == ["lone"]
    assert err.splitlines() == [
        "1 rows of the labels fit no clip of the library: gone.mp4",
        "9 videos of the library have no label: v40.mp4, v42.mp4, v43.mp4, ...",
        "1 labels are on one video only: their clips can be found, but not asked for: lone",
    ]


def test_fresh_vectors_of_a_file(library, run, tmp_path):
    np.save(tmp_path / "fresh.npy", clustered(7, 16, seed=1))
    code, out, _ = run("evaluate", library, "--queries", tmp_path / "fresh.npy", "--format", "json")
    found = json.loads(out)
    assert (code, found["queries"], found["left_out"]) == (0, 7, "nothing")
    assert found["recall"]["100"]["of"] == 50
    assert "queries             7\n" in run("evaluate", library, "--queries", tmp_path / "fresh.npy")[1]


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["--queries", "few"], 2, "--queries few: give a whole number from 1 on, or a .npy file"),
        (["--queries", "0"], 2, "--queries 0: give a whole number"),
        (["--queries", "gone.npy"], 2, "gone.npy: no such file"),
        (["--queries", "a.npy", "--label", "kind"], 2, "--queries a.npy are no clips of the library: judge by labels"),
        (["--sweep", "--label", "kind"], 2, "--sweep compares indexes: judge by labels in a call of its own"),
        (["--html", "page.html"], 2, "--html: only of a --sweep; add it"),
        (["--format", "csv"], 2, "--format csv: only of a --sweep; add it"),
        (["--sweep", "--html", "nowhere/page.html"], 2, "nowhere/page.html: cannot be written"),
        (["--label", "colour"], 2, "column 'colour': the library carries kind, weight"),
        (["--label", "weight"], 2, "column 'weight': holds fractions"),
        (["--labels", "gone.csv"], 2, "gone.csv: no such file"),
        (["--seed", "-1"], 2, "seed=-1"),
    ],
)
def test_misuse_is_one_line(library, run, arguments, code, message):
    found, out, err = run("evaluate", library, *arguments)
    assert (found, out) == (code, "")
    assert err.startswith("error: ")
    assert message in err
    assert err.count("\n") == 1


# Sweeps


@pytest.fixture(scope="module")
def swept(tmp_path_factory):
    vectors = clustered(1500, 16, clusters=400, spread=0.8)
    library = make_library(tmp_path_factory.mktemp("swept") / "lib", vectors)
    Index.build(library)
    before = {path: path.stat().st_mtime_ns for path in library.path.rglob("*")}
    found = sweep(library, lambda index: sample_queries(index, 40))
    assert {path: path.stat().st_mtime_ns for path in library.path.rglob("*")} == before
    return library, found


def test_a_sweep_goes_from_one_cell_to_everything(swept):
    _, found = swept
    assert (found.clips, found.queries) == (1500, 40)
    assert list(dict.fromkeys(point.kind for point in found.points)) == [
        "exact",
        "IVF + PQ, 4 bits (FastScan)",
        "IVF + SQ, 8 bits",
        "IVF, uncompressed",
    ]
    assert list(found.left_out) == ["IVF + PQ, 8 bits"]
    assert "PQ2 needs at least 9,984 training vectors" in found.left_out["IVF + PQ, 8 bits"]
    assert found.points[0].recall.value == 1
    assert found.points[0].nprobe is None
    flat = [point for point in found.points if point.kind == "IVF, uncompressed"]
    assert [point.nprobe for point in flat] == [2**power for power in range(len(flat))]
    recalls = [point.recall.value for point in flat]
    assert recalls == sorted(recalls)
    assert recalls[0] < 0.7
    assert recalls[-1] > 0.99
    coded, bytes_, whole = (
        next(point.bytes_per_vector for point in found.points if point.kind.startswith(kind))
        for kind in ("IVF + PQ", "IVF + SQ", "IVF, un")
    )
    assert coded < bytes_ < whole


def test_a_sweep_measures_what_brute_force_says(swept, tmp_path):
    library, found = swept
    (point,) = (point for point in found.points if point.kind == "IVF, uncompressed" and point.nprobe == 4)
    index = Index.build(library, IndexSpec(point.factory), folder=tmp_path)
    queries = sample_queries(index, 40)
    scores = cosines(index.vectors(np.arange(1500)))
    shares = [
        share_found(index, scores, row, range(row // 4 * 4, row // 4 * 4 + 4), 10, effort=Effort(4, point.candidates))
        for row in rows_of(index, queries)
    ]
    assert point.recall.value == pytest.approx(np.mean(shares))


def test_the_page_needs_no_other_file(swept, tmp_path):
    _, found = swept
    page = write_sweep(tmp_path / "page.html", found, title="<of> a test")
    text = page.read_text("utf-8")
    assert "<title>&lt;of&gt; a test</title>" in text
    assert text.count("<svg") == 1
    assert not re.search(r"(?:src|href)=['\"](?!#)", text)
    assert text.count("<tr") == 1 + len(found.points)
    for kind in ("IVF + SQ, 8 bits", "IVF, uncompressed"):
        assert text.count(kind) > 1  # in the table, and in the plot's legend as text
    assert "IVF + PQ, 8 bits is left out: PQ2 needs" in text
    assert "below 20,000 clips every index is fast and these curves mean little; the library holds 1,500" in text
    assert write_sweep(tmp_path / "again.html", found, title="<of> a test").read_text("utf-8") == text
    with pytest.raises(UsageError, match=r"page\.html: exists; give another name, or --overwrite"):
        write_sweep(page, found, title="")
    assert write_sweep(page, found, title="new", overwrite=True).read_text("utf-8") != text


def test_sweep_from_the_command_line(library, run, tmp_path):
    asked = ("evaluate", library, "--sweep", "--queries", 9)
    code, out, err = run(*asked, "--html", tmp_path / "p.html", "--format", "csv")
    assert code == 0
    (row,) = csv.DictReader(io.StringIO(out))
    assert (row["factory"], row["nprobe"], row["recall@10"]) == ("exact", "", "1.0")
    assert "IVF is left out: PQ4x4fsr needs at least 624 training vectors" in err
    assert f"page: {tmp_path / 'p.html'}" in err
    code, _, err = run("evaluate", library, "--sweep", "--html", tmp_path / "p.html")
    assert code == 2
    assert "exists; give another name, or --overwrite" in err
    _, out, _ = run(*asked, "--format", "json")
    assert json.loads(out)[0]["queries_per_s"] > 0
    _, out, _ = run(*asked)
    assert out.split()[:3] == ["factory", "nprobe", "recall@10"]


def test_kinds_of_the_same_size_have_the_same_bytes():
    found = factories(100_000, 768)
    assert list(found.values()) == ["IVF1024,PQ192x4fsr", "IVF1024,PQ96", "IVF1024,SQ8", "IVF1024,Flat"]
    assert factories(10_000, 10)["IVF + PQ, 8 bits"].endswith(",PQ1")
    with pytest.raises(UsageError, match="needs at least 624 training vectors"):
        factories(50, 768)


# Other metrics, and libraries that changed


@pytest.mark.parametrize("metric", ["ip", "l2"])
def test_other_metrics_rank_otherwise(tmp_path, metric):
    vectors = clustered(400, 16, clusters=5)
    videos, labels = np.arange(400) // 4, [row // 4 % 3 for row in range(400)]
    index = Index.build(make_library(tmp_path / "lib", vectors), IndexSpec(metric=metric))
    exact = vectors.astype(np.float64)
    scores = exact @ exact.T if metric == "ip" else -((exact[:, None] - exact[None]) ** 2).sum(axis=2)
    expected = np.mean([values for _, values in brute_force(scores, labels, videos)], axis=0)
    found = agreement(index, labels).overall
    assert [value.value for value in found.measured.values()] == pytest.approx(expected.tolist())
    assert evaluate_index(index, sample_queries(index, 40), at=[10]).recall[10].value == 1


def test_clips_that_are_gone_are_not_asked_for_and_not_found(tmp_path):
    library = make_library(tmp_path / "lib", clustered(1200, 16, clusters=5))
    Index.build(library)
    with library.lock():
        library.remove_videos([f"v{i:05}.mp4" for i in range(200, 220)])
    index = Index.open(library)
    assert len(index) == 1120 < len(index.clips)  # the rows of what was removed are still there
    assert len(sample_queries(index, 10_000)) == 1120
    measured = evaluate_index(index, sample_queries(index, 20), at=[10, 2000])
    assert measured.there == 1116
    assert measured.recall[2000].value == 1
    labels = [row % 2 for row in range(len(index.clips))]
    assert agreement(index, labels, queries=10).clips == 1120
    table = tmp_path / "labels.csv"
    table.write_text("video_id,label\nv00201.mp4,x\nv00050.mp4,y\n")
    labels, matched = matched_labels(index, table)
    assert matched.unmatched_keys == ("v00201.mp4",)
    assert np.flatnonzero([label is not None for label in labels]).tolist() == [200, 201, 202, 203]


def test_labels_that_match_nothing_fail(library, run, tmp_path):
    (tmp_path / "labels.csv").write_text("path,label\ngone.mp4,low\n")
    code, _, err = run("evaluate", library, "--labels", tmp_path / "labels.csv")
    assert code == 1
    assert "none of its rows fits a clip" in err


def test_an_empty_library_fails(run, tmp_path):
    library = make_library(tmp_path / "lib", np.empty((0, 16), np.float32))
    code, _, err = run("evaluate", library.path)
    assert code == 1
    assert "holds no clips to index" in err
