"""What FAISS 1.15 gets wrong or leaves to its caller, as tests of what we make of it."""

from __future__ import annotations

import threading

import faiss
import numpy as np
import pytest

from tests.libraries import add_clips, break_embedding, clustered, make_library
from vmae_embed.errors import SearchIndexError, UsageError
from vmae_embed.index import Effort, Index, IndexSpec, store
from vmae_embed.index.ann import add, candidates, remove
from vmae_embed.index.similarity import exact_search
from vmae_embed.index.spec import METRICS, parse_factory
from vmae_embed.index.train import train

CODES = ["PQ8x4fsr", "PQ8x4fs", "PQ8x4", "PQ2", "SQ8", "SQ6", "SQ4", "SQfp16", "Flat", "RaBitQ", "RaBitQfs"]


def true_scores(queries, vectors, metric):
    """In float64, of the vectors as they are."""
    queries, vectors = queries.astype(np.float64), vectors.astype(np.float64)
    if metric == "l2":
        return -np.stack([np.linalg.norm(query - vectors, axis=1) for query in queries])
    if metric == "cosine":
        queries = queries / np.linalg.norm(queries, axis=1, keepdims=True)
        vectors = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    return queries @ vectors.T


def best(scores, k):
    return np.argsort(-scores, axis=1, kind="stable")[:, :k]


def found_share(expected, found):
    """Of the expected rows, those that are among the found."""
    return np.mean([np.isin(a, b).mean() for a, b in zip(expected, found, strict=True)])


@pytest.fixture(scope="module")
def vectors():
    return clustered(2000, 32, clusters=20)


@pytest.fixture(scope="module")
def trained(vectors):
    """Makes an empty index; trained once, for codes of 8 bits take seconds."""
    made = {}

    def make(code, metric):
        key = code, metric == "l2"
        if key not in made:
            made[key] = train(parse_factory(f"IVF8,{code}"), vectors, metric)
        return faiss.clone_index(made[key])

    return make


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    """An index whose cells are small, over a library of a thousand clips."""
    vectors = clustered(1000, 16)
    library = make_library(tmp_path_factory.mktemp("small") / "lib", vectors)
    return vectors, Index.build(library, IndexSpec(factory="IVF16,PQ4x4fsr"))


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("code", CODES)
def test_clips_removed_and_put_back_are_found_as_before(vectors, trained, code, metric):
    """Packed codes stay behind when FAISS removes; what was added over them was mixed with them."""
    index = trained(code, metric)
    everything = np.arange(len(vectors))
    add(index, vectors, everything)
    nearest = best(true_scores(vectors[:400], vectors, metric), 10)
    before = found_share(nearest, candidates(index, vectors[:400], 30, 8))
    gone = np.random.default_rng(0).permutation(everything)[:200]
    remove(index, np.sort(gone))
    assert index.ntotal == len(vectors) - 200
    assert not np.isin(candidates(index, vectors[:64], 40, 8), gone).any()
    add(index, vectors, gone)
    # Codes of few bits tie, and ties go by the order in which clips were added.
    assert found_share(nearest, candidates(index, vectors[:400], 30, 8)) > before - 0.01


@pytest.mark.parametrize("code", CODES)
def test_a_selector_is_honoured_after_a_removal(vectors, trained, code):
    index = trained(code, "cosine")
    add(index, vectors, np.arange(len(vectors)))
    remove(index, np.arange(0, len(vectors), 10))
    among = np.arange(1, len(vectors), 10)
    found = candidates(index, vectors[:64], 40, 8, among)
    assert np.isin(found, among).all()
    expected = among[best(true_scores(vectors[:64], vectors[among], "cosine"), 5)]
    assert found_share(expected, found) > 0.9


@pytest.mark.parametrize("factory", ["IVF16,PQ4x4fsr", "IVF16,SQ8", "IVF16,Flat", "IVF16,RaBitQ", "exact"])
def test_hits_are_of_clips_that_are_there(tmp_path, monkeypatch, factory):
    """Through the library: ids after removals and additions, all hits among those allowed, none missing."""
    monkeypatch.setattr(store, "_FEW", 0)
    vectors = clustered(2000, 16)
    library = make_library(tmp_path / "lib", vectors)
    Index.build(library, IndexSpec(factory=factory))
    with library.lock():
        library.remove_videos([f"v{number:05}.mp4" for number in range(0, 200, 3)])
        add_clips(library, clustered(90, 16, seed=1), prefix="n", first_unit=50)
    index = Index.open(library)
    assert index.about["made"]["how"] == "updated"
    assert index.verify() == []
    truth = dict(zip(library.column("clip_id"), library.embeddings(), strict=True))
    of_rows = np.stack([truth.get(clip, np.full(16, np.nan)) for clip in index.clips["clip_id"].to_pylist()])
    queries = clustered(40, 16, seed=2)
    for among in (None, index.live[::5], index.live[:12], index.live[:1], index.live[:0]):
        scores, rows = index.search(queries, 15, among=among)
        allowed = index.live if among is None else among
        assert rows.shape == (40, min(15, len(allowed)))
        assert np.isin(rows, allowed).all()
        assert all(len(set(row)) == len(row) for row in rows.tolist())
        for i, query in enumerate(queries):
            expected = true_scores(query[None], of_rows[rows[i]], "cosine")[0] if len(rows[i]) else []
            assert np.allclose(scores[i], expected, atol=1e-6)


@pytest.mark.parametrize("k", [1, 50, 400, 1000, 5000])
def test_short_results_are_made_whole(small, k):
    vectors, index = small
    scores, rows = index.search(vectors[:7], k, effort=Effort(1, 1))
    assert rows.shape == (7, min(k, 1000))
    assert rows.min() >= 0
    assert np.isfinite(scores).all()
    assert (np.diff(scores, axis=1) <= 0).all()
    assert all(len(set(row)) == len(row) for row in rows.tolist())


@pytest.mark.parametrize("factory", ["exact", "IVF8,PQ4x4fsr", "IVF8,Flat"])
@pytest.mark.parametrize("broken", [np.nan, np.inf])
def test_embeddings_that_are_not_finite_are_refused(tmp_path, factory, broken):
    vectors = clustered(800, 16)
    library = make_library(tmp_path / "lib", vectors)
    index = Index.build(library, IndexSpec(factory=factory))
    add_clips(library, clustered(8, 16, seed=1), prefix="bad", first_unit=9)
    break_embedding(library, f"{9:016x}", 5, broken)
    message = r"clips/0{15}9\.parquet holds embeddings that are not finite \(1 of 8, the first of bad00001\.mp4#t=2"
    with pytest.raises(SearchIndexError, match=message):
        Index.update(library)
    with pytest.raises(SearchIndexError, match=message):
        Index.build(library, IndexSpec(factory=factory))
    again = Index(library, library.index_path)
    assert again.about == index.about
    assert len(list(library.index_path.glob("[!.]*"))) == 2


@pytest.mark.parametrize("factory", ["exact", "IVF4,PQ4x4fsr", "IVF4,SQ8", "IVF4,RaBitQ", "auto"])
@pytest.mark.parametrize("metric", METRICS)
def test_clips_that_are_all_the_same(tmp_path, factory, metric):
    vectors = np.repeat(clustered(1, 16), 700, axis=0)
    index = Index.build(make_library(tmp_path / "lib", vectors), IndexSpec(factory=factory, metric=metric))
    scores, rows = index.search(vectors[:2], 300)
    assert all(len(set(row)) == 300 for row in rows.tolist())
    assert np.allclose(scores, true_scores(vectors[:2], vectors[:300], metric))
    assert index.about["recall"]["measured"] == 1  # any of them is as near as any other


@pytest.mark.parametrize("metric", METRICS)
def test_clips_that_occur_many_times_do_not_spoil_the_measurement(tmp_path, metric):
    """A third of a library may show nothing but black."""
    vectors = clustered(3000, 16, clusters=30)
    vectors[np.random.default_rng(0).permutation(3000)[:1000]] = vectors[0]
    library = make_library(tmp_path / "lib", vectors, clips_a_video=1)
    index = Index.build(library, IndexSpec(factory="IVF16,Flat", metric=metric, target_recall=0.99))
    assert index.about["recall"]["measured"] >= 0.99
    assert index.effort.nprobe < 16


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("factory", ["exact", "IVF8,Flat", "IVF8,SQ8", "IVF8,PQ8x4fsr"])
def test_lengths_count_as_the_metric_says(tmp_path, metric, factory):
    """Unnormalised vectors have other neighbours under each metric."""
    vectors = clustered(1000, 16) * np.random.default_rng(1).uniform(0.2, 5, (1000, 1)).astype(np.float32)
    queries = clustered(50, 16, seed=3)
    truth = {which: best(true_scores(queries, vectors, which), 10) for which in METRICS}
    assert found_share(truth["ip"], truth["cosine"]) < 0.7 > found_share(truth["l2"], truth["cosine"])
    index = Index.build(make_library(tmp_path / "lib", vectors), IndexSpec(factory=factory, metric=metric))
    scores, rows = index.search(queries, 10, effort=Effort(8, 64))
    assert found_share(truth[metric], rows) > 0.99
    expected = np.take_along_axis(true_scores(queries, vectors, metric), rows, axis=1)
    assert np.allclose(scores, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("stored", ["float32", "float16"])
@pytest.mark.parametrize("width", [1, 2, 3, 64])
def test_exact_search_is_exact(metric, stored, width):
    """Where float32 cannot tell: a strong common mean, few numbers, several blocks."""
    rng = np.random.default_rng(width)
    vectors = (3 + 1e-3 * rng.normal(size=(40_000, width))).astype(stored)
    if metric == "cosine":
        wide = vectors.astype(np.float64)
        vectors = (wide / np.linalg.norm(wide, axis=1, keepdims=True)).astype(stored)
    queries = 3 + 1e-3 * rng.normal(size=(5, width))
    scores, rows = exact_search(vectors, queries, 20, metric)
    truth = true_scores(queries, vectors, metric) if width > 1 or metric != "cosine" else np.ones((5, 40_000))
    expected = np.sort(truth, axis=1)[:, ::-1][:, :20]
    assert np.allclose(np.take_along_axis(truth, rows, axis=1), expected, rtol=0, atol=1e-12)
    assert np.allclose(scores, expected, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("size", [1e-30, 1e15])
@pytest.mark.parametrize("metric", ["cosine", "ip"])
def test_the_length_of_a_query_moves_no_hit(small, tmp_path, metric, size):
    vectors = small[0]
    index = Index.build(make_library(tmp_path / "lib", vectors), IndexSpec(factory="IVF8,SQ8", metric=metric))
    queries = clustered(5, 16, seed=4).astype(np.float64)
    for exact in (False, True):
        assert np.array_equal(index.search(queries * size, 5, exact=exact)[1], index.search(queries, 5, exact=exact)[1])


def test_queries_that_are_finite_in_float64_only(small):
    with pytest.raises(UsageError, match="queries hold numbers that are not finite"):
        small[1].search(np.full((1, 16), 1e300), 5)


def test_two_threads_search_at_once(small):
    _, index = small
    queries = clustered(300, 16, seed=5)
    expected = [index.search(queries[i::4], 10) for i in range(4)]
    wrong = []

    def search(which):
        for _ in range(5):
            scores, rows = index.search(queries[which::4], 10)
            if not (np.array_equal(rows, expected[which][1]) and np.array_equal(scores, expected[which][0])):
                wrong.append(which)
        done.append(which)

    done = []
    threads = [threading.Thread(target=search, args=(i,)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert sorted(done) == [0, 1, 2, 3]
    assert wrong == []


@pytest.mark.parametrize("factory", ["PQ8x8fs", "PQ8x8fsr", "PQ8x5", "PQ7"])
def test_codes_that_faiss_has_not_are_refused_in_our_words(small, factory):
    with pytest.raises(UsageError, match=factory) as caught:
        Index.build(small[1].library, IndexSpec(factory=f"IVF2,{factory}"), folder=small[1].library.path / "other")
    assert "\n" not in str(caught.value)
