"""The index against an exact search in float64, and against every way its files can be wrong."""

from __future__ import annotations

import json

import numpy as np
import pytest

from tests.libraries import clustered, make_library
from vmae_embed.errors import LibraryError, SearchIndexError, UsageError
from vmae_embed.index import Index, build


def exact(vectors, queries, k):
    """The oracle: cosine similarities in float64."""
    unit = vectors.astype(np.float64) / np.linalg.norm(vectors.astype(np.float64), axis=1, keepdims=True)
    asked = queries.astype(np.float64) / np.linalg.norm(queries.astype(np.float64), axis=1, keepdims=True)
    scores = asked @ unit.T
    rows = np.argsort(-scores, axis=1, kind="stable")[:, :k]
    return np.take_along_axis(scores, rows, 1), rows


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    vectors = clustered(500, 16)
    return vectors, Index.build(make_library(tmp_path_factory.mktemp("small") / "lib", vectors))


@pytest.fixture(scope="module")
def large(tmp_path_factory):
    vectors = clustered(12_000, 32, clusters=300)
    return vectors, Index.build(make_library(tmp_path_factory.mktemp("large") / "lib", vectors))


def test_small_libraries_are_searched_exactly(small):
    vectors, index = small
    assert index.about["factory"] == "Flat"
    queries = clustered(20, 16, seed=1)
    scores, rows = index.search(queries, 10)
    truth_scores, truth = exact(vectors, queries, 10)
    assert np.array_equal(rows, truth)
    assert np.allclose(scores, truth_scores, atol=1e-6)


def test_every_clip_finds_itself_at_score_1(small):
    vectors, index = small
    scores, rows = index.search(vectors, 1)
    assert np.array_equal(rows[:, 0], np.arange(500))
    assert scores[:, 0] == pytest.approx(1, abs=1e-6)


def test_near_duplicates_do_not_outrank_the_clip_itself(tmp_path):
    """Encoders with a strong common mean give cosines that differ in the seventh digit only."""
    rng = np.random.default_rng(0)
    vectors = (rng.normal(size=768) + 1e-4 * rng.normal(size=(700, 768))).astype(np.float32)
    index = Index.build(make_library(tmp_path / "lib", vectors))
    unit = index.vectors(np.arange(700))
    assert not np.array_equal((unit @ unit.T).argmax(axis=1), np.arange(700))  # what float32 alone would find
    scores, rows = index.search(unit, 1)
    assert np.array_equal(rows[:, 0], np.arange(700))
    assert scores.min() == 1


def test_large_libraries_get_an_ivfpq_that_reaches_its_recall(large):
    vectors, index = large
    assert index.about["factory"].startswith("IVF256,PQ8x4fsr")
    queries = clustered(200, 32, clusters=300, seed=0)  # the same centres, other points
    queries += 0.05 * np.random.default_rng(7).normal(size=queries.shape).astype(np.float32)
    scores, rows = index.search(queries, 10)
    truth_scores, truth = exact(vectors, queries, 10)
    recall = np.mean([len(np.intersect1d(a, b)) / 10 for a, b in zip(rows, truth, strict=True)])
    assert recall >= 0.98
    assert index.about["recall_at_10"] >= 0.99
    found = rows == truth
    assert np.allclose(scores[found], truth_scores[found], atol=1e-6)  # re-ranked by the stored vectors


def test_exact_overrides_the_index(large):
    vectors, index = large
    queries = clustered(10, 32, seed=3)
    assert np.array_equal(index.search(queries, 25, exact=True)[1], exact(vectors, queries, 25)[1])


def test_more_hits_than_the_visited_cells_hold(large):
    vectors, index = large
    scores, rows = index.search(vectors[:2], 9000)
    assert (rows >= 0).all()
    assert np.isfinite(scores).all()
    assert all(len(set(row)) == 9000 for row in rows)


@pytest.mark.parametrize("which", ["small", "large"])
def test_among_some_rows_only(which, request):
    vectors, index = request.getfixturevalue(which)
    among = np.arange(3, len(vectors), 7)
    scores, rows = index.search(vectors[:5], 10, among=among)
    truth_scores, truth = exact(vectors[among], vectors[:5], 10)
    assert np.array_equal(rows, among[truth])
    assert np.allclose(scores, truth_scores, atol=1e-6)
    assert index.search(vectors[:2], 10, among=among[:4])[1].shape == (2, 4)


def test_k_beyond_the_library_returns_all_of_it(small):
    _, index = small
    assert index.search(clustered(3, 16), 10_000)[1].shape == (3, 500)


def test_half_precision_libraries_keep_half_precision_vectors(tmp_path):
    vectors = clustered(100, 16)
    index = Index.build(make_library(tmp_path / "lib", vectors, stored="float16"))
    assert np.load(index.library.index_path / "vectors.npy").dtype == np.float16
    assert index.search(vectors, 1)[0][:, 0] == pytest.approx(1, abs=1e-3)
    assert index.verify() == []


def test_the_stored_index_is_the_one_built(large):
    _, index = large
    again = Index.open(index.library)
    queries = clustered(20, 32, seed=5)
    assert np.array_equal(again.search(queries, 10)[1], index.search(queries, 10)[1])
    assert again.about == index.about


def test_building_twice_gives_the_same_answers(tmp_path):
    vectors = clustered(10_500, 16)
    library = make_library(tmp_path / "lib", vectors)
    first = Index.build(library).search(vectors[:50], 10)
    second = Index.build(library).search(vectors[:50], 10)
    assert np.array_equal(first[1], second[1])


def test_it_follows_its_library(tmp_path):
    vectors = clustered(40, 16)
    library = make_library(tmp_path / "lib", vectors)
    assert len(Index.open(library)) == 40
    assert Index.is_current(library)
    with library.lock():
        library.remove_videos(["v00000.mp4"])
    assert not Index.is_current(library)
    assert "behind the shards" in Index(library, library.index_path).verify()[0]
    index = Index.open(library)
    assert len(index) == 36
    assert Index.is_current(library)
    assert index.verify() == []


def test_a_library_in_use_is_searched_all_the_same(tmp_path):
    library = make_library(tmp_path / "lib", clustered(40, 16))
    with library.lock():
        with pytest.raises(LibraryError, match="another run is writing to it"):
            Index.build(library)
        index = Index.open(library)
        assert len(index.search(clustered(1, 16), 3)[1][0]) == 3
    assert not library.index_path.exists()


def test_the_kind_asked_for_is_kept_when_brought_up_to_date(tmp_path):
    library = make_library(tmp_path / "lib", clustered(10_500, 16))
    Index.build(library, kind="exact")
    with library.lock():
        library.remove_videos(["v00000.mp4"])
    assert Index.open(library).about["factory"] == "Flat"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"kind": "hnsw"}, "factory='hnsw': choose one of auto, exact, ivfpq"),
        ({"nlist": 4096}, r"nlist=4096 needs at least 159,744 training vectors \(39 a cell\); the library holds 500"),
        ({"nlist": 0}, "nlist=0 needs"),
        ({"kind": "ivfpq"}, "needs at least 624 training vectors for its codes; the library holds 500"),
        ({"kind": "exact", "nlist": 4}, "an exact index has no cells"),
    ],
)
def test_what_cannot_be_built_says_why(small, arguments, message):
    with pytest.raises(UsageError, match=message) as caught:
        Index.build(small[1].library, **arguments)
    assert "\n" not in str(caught.value)


def test_an_ivfpq_can_be_asked_for_early(tmp_path):
    vectors = clustered(700, 16)
    index = Index.build(make_library(tmp_path / "lib", vectors), kind="ivfpq", nlist=8)
    assert index.about["factory"].startswith("IVF8,")
    assert np.array_equal(index.search(vectors, 1)[1][:, 0], np.arange(700))


def test_an_empty_library_is_refused(tmp_path):
    library = make_library(tmp_path / "lib", np.empty((0, 16), np.float32))
    with pytest.raises(SearchIndexError, match="holds no clips to index"):
        Index.open(library)


@pytest.mark.parametrize(
    ("queries", "message"),
    [
        (np.zeros((1, 3)), r"this library takes \(Q, 16\)"),
        (np.zeros(16), r"this library takes \(Q, 16\)"),
        (np.full((1, 16), np.nan), "not finite"),
    ],
)
def test_bad_queries(small, queries, message):
    with pytest.raises(UsageError, match=message):
        small[1].search(queries, 5)


def test_k_below_1(small):
    with pytest.raises(UsageError, match="k=0: give at least 1"):
        small[1].search(np.ones((1, 16)), 0)


@pytest.mark.parametrize("name", ["vectors.npy", "clips.arrow", "index.json"])
def test_damaged_files_are_one_line_that_helps(tmp_path, name):
    library = make_library(tmp_path / "lib", clustered(40, 16))
    Index.build(library)
    path = library.index_path / name
    path.write_bytes(path.read_bytes()[:20])
    with pytest.raises(SearchIndexError, match="--rebuild") as caught:
        Index(library, library.index_path)
    assert "\n" not in str(caught.value)


def test_a_damaged_faiss_file_is_one_line_that_helps(tmp_path):
    library = make_library(tmp_path / "lib", clustered(700, 16))
    Index.build(library, kind="ivfpq", nlist=8)
    (library.index_path / "index.faiss").write_bytes(b"garbage")
    with pytest.raises(SearchIndexError, match="--rebuild"):
        Index(library, library.index_path)


def test_a_build_that_is_cut_off_leaves_no_index(tmp_path, monkeypatch):
    library = make_library(tmp_path / "lib", clustered(40, 16))
    Index.build(library)
    monkeypatch.setattr("vmae_embed.index.store._write_faiss", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        Index.build(library)
    assert not Index.is_current(library)
    monkeypatch.undo()
    assert Index.open(library).verify() == []


def test_verify_compares_every_vector(tmp_path):
    library = make_library(tmp_path / "lib", clustered(40, 16))
    Index.build(library)
    vectors = np.load(library.index_path / "vectors.npy")
    vectors[7] *= -1
    np.save(library.index_path / "vectors.npy", vectors)
    assert any("other vectors" in line for line in Index(library, library.index_path).verify())


def test_index_json_of_another_format_is_rebuilt(tmp_path):
    library = make_library(tmp_path / "lib", clustered(40, 16))
    Index.build(library)
    path = library.index_path / "index.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "format": 99}))
    assert Index.open(library).about["format"] == 1


def test_both_faiss_wheels_are_refused(monkeypatch):
    monkeypatch.setattr(build, "_is_installed", lambda wheel: wheel in ("faiss-cpu", "faiss-gpu"))
    with pytest.raises(SearchIndexError, match="faiss-cpu and faiss-gpu are both installed and overwrite each other"):
        build.import_faiss()


def test_no_faiss_says_how_to_get_it(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "faiss", None)
    with pytest.raises(SearchIndexError, match=r"pip install 'vmae-embed\[cpu\]'"):
        build.import_faiss()


def test_an_index_that_is_rebuilt_leaves_open_ones_as_they_were(tmp_path):
    vectors = clustered(60, 16)
    library = make_library(tmp_path / "lib", vectors)
    opened = Index.build(library)
    names = opened.clips["clip_id"].to_pylist()
    with library.lock():
        library.remove_videos(["v00000.mp4", "v00001.mp4"])
    assert len(Index.build(library)) == 52
    assert opened.clips["clip_id"].to_pylist() == names
    assert np.array_equal(opened.search(vectors, 1)[1][:, 0], np.arange(60))


def test_clusters_too_tight_for_codes_are_searched_exactly(tmp_path):
    vectors = clustered(10_500, 64, clusters=6, spread=0.02)
    index = Index.build(make_library(tmp_path / "lib", vectors))
    assert index.about["factory"] == "Flat"
    assert index.about["recall_at_10"] < 0.99
    asked = Index.build(index.library, kind="ivfpq")
    assert asked.about["factory"].startswith("IVF")
    assert 0 < asked.about["recall_at_10"] < 0.99


def test_few_cells_are_measured_too(tmp_path):
    index = Index.build(make_library(tmp_path / "lib", clustered(2000, 16)), kind="ivfpq", nlist=2)
    assert index.about["nprobe"] == 2
    assert index.about["recall_at_10"] > 0.9


def test_shards_that_come_while_it_builds_wait_for_the_next(tmp_path, monkeypatch):
    library = make_library(tmp_path / "lib", clustered(40, 16))
    shards = library.shards

    def growing(*arguments):
        shard = next(iter(library._clips.glob("*.parquet")))
        (library._clips / "ffffffffffffffff.parquet").write_bytes(shard.read_bytes())
        return shards(*arguments)

    monkeypatch.setattr(library, "shards", growing)
    assert len(Index.build(library)) == 40
