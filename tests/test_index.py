"""The index against an exact search in float64, and against every way its files can be wrong."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys

import numpy as np
import pytest

from tests.libraries import break_embedding, clustered, make_library
from vmae_embed.errors import LibraryError, LibraryLocked, SearchIndexError, UsageError
from vmae_embed.index import Effort, Index, IndexSpec, backend, similarity
from vmae_embed.index.generation import writing
from vmae_embed.library import Library


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


@pytest.fixture
def some(tmp_path):
    return make_library(tmp_path / "lib", clustered(700, 16))


def files(index):
    """The folder of its present state."""
    return index.library.index_path / index.about["folder"]


@pytest.fixture(scope="module")
def large(tmp_path_factory):
    vectors = clustered(21_000, 32, clusters=300)
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
    assert index.about["factory"] == "IVF512,PQ8x4fsr"
    queries = clustered(200, 32, clusters=300, seed=0)  # the same centres, other points
    queries += 0.05 * np.random.default_rng(7).normal(size=queries.shape).astype(np.float32)
    scores, rows = index.search(queries, 10)
    truth_scores, truth = exact(vectors, queries, 10)
    recall = np.mean([len(np.intersect1d(a, b)) / 10 for a, b in zip(rows, truth, strict=True)])
    assert recall >= 0.94
    assert index.about["recall"]["measured"] >= 0.95
    assert index.about["recall"]["queries"] == 1000
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
    assert np.load(files(index) / "vectors.npy").dtype == np.float16
    assert index.search(vectors, 1)[0][:, 0] == pytest.approx(1, abs=1e-3)
    assert index.verify() == []


def test_the_stored_index_is_the_one_built(large):
    _, index = large
    again = Index.open(index.library)
    queries = clustered(20, 32, seed=5)
    assert np.array_equal(again.search(queries, 10)[1], index.search(queries, 10)[1])
    assert again.about == index.about


def test_building_twice_gives_the_same_answers(tmp_path):
    library = make_library(tmp_path / "lib", clustered(2000, 16))
    first = Index.build(library, IndexSpec(factory="ivfpq"))
    content = (files(first) / "index.faiss").read_bytes()
    second = Index.build(library, IndexSpec(factory="ivfpq"))
    assert files(first) != files(second)
    assert (files(second) / "index.faiss").read_bytes() == content
    assert second.effort == first.effort
    other = Index.build(library, IndexSpec(factory="ivfpq", seed=1))
    assert (files(other) / "index.faiss").read_bytes() != content


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


def test_a_library_that_grows_is_indexed_all_the_same(tmp_path):
    library = make_library(tmp_path / "lib", clustered(40, 16))
    with library.lock():  # an extraction
        assert len(Index.open(library).search(clustered(1, 16), 3)[1][0]) == 3


def test_while_another_process_indexes_the_index_as_it_is_answers(tmp_path):
    library = make_library(tmp_path / "lib", clustered(40, 16))
    with writing(library.index_path):
        with pytest.raises(LibraryLocked, match="another process is indexing; wait for it or stop it"):
            Index.build(library)
        assert len(Index.open(library)) == 40  # made elsewhere, for now
        assert not Index.exists(library)
    Index.build(library)
    with library.lock():
        library.remove_videos(["v00000.mp4"])
    with writing(library.index_path):
        assert len(Index.open(library)) == 40
    assert len(Index.open(library)) == 36


def test_the_kind_asked_for_is_kept_when_brought_up_to_date(tmp_path):
    library = make_library(tmp_path / "lib", clustered(2000, 16))
    spec = IndexSpec(factory="ivfpq", target_recall=0.9, metric="ip")
    Index.build(library, spec)
    with library.lock():
        library.remove_videos(["v00000.mp4"])
    assert Index.open(library).spec == spec
    with library.lock():
        library.remove_videos([f"v{number:05}.mp4" for number in range(400)])
    few = Index.open(library)  # 400 clips train no codes
    assert few.about["factory"] == "Flat"
    assert (few.metric, few.spec.target_recall) == ("ip", 0.9)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"factory": "HNSW32"}, "factory='HNSW32': give auto, exact, ivfpq, or a bare IVF index"),
        ({"factory": "OPQ8,IVF8,PQ8"}, "others .* cannot remove clips"),
        ({"factory": "IVF0,PQ8x4fsr"}, "give auto, exact, ivfpq"),
        ({"factory": "IVF8,PQ7x4fsr"}, "cuts vectors into 7 parts; their 16 numbers are no multiple of that. Use PQ4"),
        ({"factory": "IVF8,PQ8x5"}, "has codes of 5 bits; use 8 .* or 4"),
        ({"factory": "IVF8,PQ8"}, "PQ8 needs at least 9,984 training vectors for its codes; the library holds 700"),
        ({"factory": "IVF8,Flat", "nlist": 4}, "states its cells"),
        ({"factory": "ivfpq", "train_size": 630, "nlist": 17}, r"nlist=17 needs at least 663 .*--train-size gives 630"),
        ({"metric": "dot"}, "metric='dot': choose one of cosine, ip, l2"),
        ({"target_recall": 0.0}, "target-recall=0: give a share above 0, at most 1"),
        ({"target_recall": 1.01}, "target-recall=1.01: give a share"),
        ({"target_recall": float("nan")}, "target-recall=nan: give a share"),
        ({"at": 0}, "at=0: give at least 1"),
        ({"latency_ms": 0.0}, "latency-ms=0: give milliseconds above 0"),
        ({"seed": -1}, "seed=-1: give 0 or above"),
        (
            {"memory": 100},
            r"memory=100 bytes: the smallest index takes .* for 700 vectors of 16 numbers. Use --memory 1M",
        ),
        ({"factory": "exact", "memory": 1000}, "memory=1,000 bytes: exact takes 44,800"),
        ({"nlist": 4096}, r"nlist=4096 needs at least 159,744 training vectors \(39 a cell\); the library holds 700"),
        ({"nlist": 0}, "nlist=0: give at least 1"),
        ({"factory": "ivfpq", "train_size": 600}, "needs at least 624 training .* --train-size gives 600"),
        ({"factory": "exact", "nlist": 4}, "an exact index has no cells"),
    ],
)
def test_what_cannot_be_built_says_why(some, arguments, message):
    with pytest.raises(UsageError, match=message) as caught:
        Index.build(some, IndexSpec(**arguments))
    assert "\n" not in str(caught.value)
    assert not some.index_path.exists() or [path.name for path in some.index_path.iterdir()] == [".lock"]


def test_an_ivfpq_can_be_asked_for_early(tmp_path):
    vectors = clustered(700, 16)
    index = Index.build(make_library(tmp_path / "lib", vectors), IndexSpec(factory="ivfpq", nlist=8))
    assert index.about["factory"].startswith("IVF8,")
    assert np.mean(index.search(vectors, 1)[1][:, 0] == np.arange(700)) > 0.95


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


@pytest.mark.parametrize("name", ["vectors.npy", "clips.arrow", "units.arrow", "../index.json"])
def test_damaged_files_are_one_line_that_helps(tmp_path, name):
    library = make_library(tmp_path / "lib", clustered(40, 16))
    path = files(Index.build(library)) / name
    path.write_bytes(path.read_bytes()[:20])
    with pytest.raises(SearchIndexError, match="--rebuild") as caught:
        Index(library, library.index_path)
    assert "\n" not in str(caught.value)


def test_a_damaged_faiss_file_is_one_line_that_helps(tmp_path):
    library = make_library(tmp_path / "lib", clustered(700, 16))
    index = Index.build(library, IndexSpec(factory="ivfpq", nlist=8))
    (files(index) / "index.faiss").write_bytes(b"garbage")
    with pytest.raises(SearchIndexError, match="--rebuild"):
        Index(library, library.index_path)


def test_a_build_that_is_cut_off_leaves_the_index_before(tmp_path, monkeypatch):
    library = make_library(tmp_path / "lib", clustered(40, 16))
    before = Index.build(library)
    monkeypatch.setattr("vmae_embed.index.build.choose", lambda *_, **__: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        Index.build(library)
    monkeypatch.undo()
    assert Index.is_current(library)
    assert Index(library, library.index_path).about == before.about
    assert {path.name for path in library.index_path.iterdir()} == {".lock", "index.json", "000001"}


def test_verify_compares_every_vector(tmp_path):
    library = make_library(tmp_path / "lib", clustered(40, 16))
    path = files(Index.build(library)) / "vectors.npy"
    vectors = np.load(path)
    vectors[7] *= -1
    np.save(path, vectors)
    assert any("other vectors" in line for line in Index(library, library.index_path).verify())


def test_index_json_of_another_format_is_rebuilt(tmp_path):
    library = make_library(tmp_path / "lib", clustered(40, 16))
    Index.build(library)
    path = library.index_path / "index.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "format": 99}))
    assert not Index.exists(library)
    assert Index.open(library).about["format"] == 2


def test_the_first_format_is_replaced(tmp_path):
    library = make_library(tmp_path / "lib", clustered(40, 16))
    library.index_path.mkdir()
    for name in ("vectors.npy", "clips.arrow", "index.faiss"):
        (library.index_path / name).write_bytes(b"old")
    (library.index_path / "index.json").write_text(json.dumps({"format": 1, "state": library.state()}))
    assert Index.open(library).verify() == []
    assert {path.name for path in library.index_path.iterdir()} == {".lock", "index.json", "000001"}


def test_both_faiss_wheels_are_refused(monkeypatch):
    backend.import_faiss.cache_clear()
    monkeypatch.setattr(backend, "_is_installed", lambda wheel: wheel in ("faiss-cpu", "faiss-gpu"))
    with pytest.raises(SearchIndexError, match="faiss-cpu and faiss-gpu are both installed and overwrite each other"):
        backend.import_faiss()


@pytest.mark.parametrize(("wheel", "loaded"), [("faiss-cpu", False), ("faiss-gpu", True)])
def test_torch_comes_before_a_faiss_built_for_cuda_12(wheel, loaded):
    program = (
        "import sys; from vmae_embed.index import backend;"
        f"backend._is_installed = lambda wheel: wheel == {wheel!r};"
        f"backend.import_faiss(); assert ('torch' in sys.modules) is {loaded};"
        f"assert not {loaded} or list(sys.modules).index('torch') < list(sys.modules).index('faiss')"
    )
    subprocess.run([sys.executable, "-c", program], check=True)


def test_no_faiss_says_how_to_get_it(monkeypatch):
    backend.import_faiss.cache_clear()
    monkeypatch.setitem(__import__("sys").modules, "faiss", None)
    with pytest.raises(SearchIndexError, match=r"pip install 'vmae-embed\[cpu\]'"):
        backend.import_faiss()


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


def test_clusters_too_tight_for_product_codes_get_finer_ones(tmp_path, monkeypatch):
    monkeypatch.setattr("vmae_embed.index.spec.EXACT_BELOW", 5000)
    library = make_library(tmp_path / "lib", clustered(10_500, 64, clusters=6, spread=0.02))
    index = Index.build(library, IndexSpec(target_recall=0.99))
    assert index.about["factory"] == "IVF256,SQ8"
    assert index.about["recall"]["measured"] >= 0.99
    asked = Index.build(library, IndexSpec(factory="ivfpq", target_recall=0.99))
    assert asked.about["factory"] == "IVF256,PQ16x4fsr"
    assert 0 < asked.about["recall"]["measured"] < 0.99
    # Without a byte a number there is nothing but comparing with each.
    nowhere = make_library(tmp_path / "other", np.random.default_rng(0).normal(size=(10_500, 64)).astype(np.float32))
    assert Index.build(nowhere, IndexSpec(target_recall=1.0)).about["recall"]["measured"] == 1


def test_few_cells_are_measured_too(tmp_path):
    index = Index.build(make_library(tmp_path / "lib", clustered(2000, 16)), IndexSpec(factory="ivfpq", nlist=2))
    assert index.effort.nprobe <= 2
    assert index.about["recall"]["measured"] >= 0.95


def test_memory_decides_about_the_codes(tmp_path):
    library = make_library(tmp_path / "lib", clustered(3000, 64))
    exact = Index.build(library, IndexSpec(memory=2**20))
    assert exact.about["factory"] == "Flat"
    small = Index.build(library, IndexSpec(memory=100_000))
    assert small.about["factory"] == "IVF64,PQ16x4fsr"
    smaller = Index.build(library, IndexSpec(memory=60_000))
    assert smaller.about["factory"] == "IVF64,PQ8x4fsr"
    assert smaller.about["bytes_per_vector"] < small.about["bytes_per_vector"]


def test_latency_goes_before_recall(tmp_path, monkeypatch):
    asked = []

    def by_work(search_one, queries):
        asked.append(search_one(queries[:1]))
        return {"p50": works.pop(0), "p99": 1.0}

    monkeypatch.setattr("vmae_embed.index.choose.time_searches", by_work)
    library = make_library(tmp_path / "lib", clustered(5000, 64))
    works = [1.0]
    free = Index.build(library, IndexSpec(factory="ivfpq", target_recall=1.0))
    works = [1.0, 0.3]
    hurried = Index.build(library, IndexSpec(factory="ivfpq", target_recall=1.0, latency_ms=0.4))
    assert hurried.effort != free.effort
    assert hurried.about["recall"]["measured"] < free.about["recall"]["measured"]
    assert hurried.about["latency_ms"]["p50"] == 0.3
    # What no effort reaches costs no recall.
    works = [1.0] * 5
    impossible = Index.build(library, IndexSpec(factory="ivfpq", target_recall=1.0, latency_ms=0.4))
    assert impossible.effort == free.effort


@pytest.mark.parametrize("metric", ["cosine", "ip", "l2"])
@pytest.mark.parametrize("factory", ["exact", "IVF16,PQ8x4fsr", "IVF16,Flat"])
def test_every_metric_is_what_it_says(tmp_path, metric, factory):
    vectors, queries = np.split(clustered(2050, 32), [2000])
    index = Index.build(make_library(tmp_path / "lib", vectors), IndexSpec(factory, target_recall=1.0, metric=metric))
    x, q = vectors.astype(np.float64), queries.astype(np.float64)
    if metric == "cosine":
        truth = exact(vectors, queries, 2000)
    else:
        similarity = q @ x.T if metric == "ip" else -np.linalg.norm(q[:, None] - x[None], axis=2)
        rows = np.argsort(-similarity, axis=1, kind="stable")
        truth = np.take_along_axis(similarity, rows, 1), rows
    scores, rows = index.search(queries, 10)
    found = [len(np.intersect1d(a, b)) / 10 for a, b in zip(rows, truth[1][:, :10], strict=True)]
    assert np.mean(found) > 0.97
    assert np.array_equal(index.search(queries, 10, exact=True)[1], truth[1][:, :10])
    for score, row, truth_scores, truth_rows in zip(scores, rows, *truth, strict=True):
        assert score == pytest.approx(truth_scores[np.argsort(truth_rows)][row], rel=1e-6)


def test_effort_can_be_said(large):
    _, index = large
    queries = clustered(50, 32, clusters=300, seed=0) + 0.3 * np.random.default_rng(7).normal(size=(50, 32))
    truth = index.search(queries, 10, exact=True)[1]

    def recall(effort):
        rows = index.search(queries, 10, effort=effort)[1]
        return np.mean([len(np.intersect1d(a, b)) / 10 for a, b in zip(rows, truth, strict=True)])

    assert recall(Effort(1, 1)) < recall(Effort(512, 64))
    assert recall(Effort(512, 64)) > 0.99


def test_vectors_that_are_all_the_same(tmp_path):
    library = make_library(tmp_path / "lib", np.ones((1000, 16), np.float32))
    for factory in ("auto", "ivfpq"):
        index = Index.build(library, IndexSpec(factory=factory))
        scores, rows = index.search(np.ones((1, 16)), 5)
        assert scores[0] == pytest.approx(1)
        assert len(set(rows[0])) == 5
        assert index.about["recall"]["measured"] == 1


def test_a_copied_library_keeps_its_index(tmp_path):
    library = make_library(tmp_path / "lib", clustered(2000, 16))
    before = Index.build(library, IndexSpec("IVF8,PQ8x4fsr"))
    shutil.copytree(library.path, tmp_path / "copy", copy_function=shutil.copyfile)  # other times
    copy = Library.open(tmp_path / "copy")
    for shard in (copy.path / "clips").iterdir():
        os.utime(shard, ns=(1, 1))
    assert not Index.is_current(copy)
    made = Index.update(copy)
    assert (made.how, made.why, made.added, made.removed) == ("updated", "", 0, 0)
    assert Index.is_current(copy)
    assert Index.open(copy).verify() == []
    assert Index.update(copy).how == "unchanged"
    assert Index.open(copy).about["trained"] == before.about["trained"]


def test_a_damaged_index_is_built_anew(tmp_path):
    library = make_library(tmp_path / "lib", clustered(1000, 16))
    path = files(Index.build(library, IndexSpec("IVF8,PQ8x4fsr"))) / "index.faiss"
    path.write_bytes(path.read_bytes()[:-100])
    with library.lock():
        library.remove_videos(["v00000.mp4"])
    assert Index.update(library).why == "what was stored of it is damaged"
    assert Index.open(library).verify() == []


def test_no_folder_of_other_things_becomes_an_index(tmp_path):
    library = make_library(tmp_path / "lib", clustered(40, 16))
    (tmp_path / "mine" / "2024").mkdir(parents=True)
    with pytest.raises(UsageError, match="mine: holds something else than an index; give an empty folder"):
        Index.build(library, folder=tmp_path / "mine")
    assert (tmp_path / "mine" / "2024").exists()


def test_an_interrupt_after_the_commit_leaves_the_new_index(tmp_path, monkeypatch):
    library = make_library(tmp_path / "lib", clustered(40, 16))
    Index.build(library)
    monkeypatch.setattr(
        "vmae_embed.index.generation.shutil.rmtree", lambda *_, **__: (_ for _ in ()).throw(KeyboardInterrupt)
    )
    with pytest.raises(KeyboardInterrupt):
        Index.build(library)
    monkeypatch.undo()
    assert Index(library, library.index_path).about["folder"] == "000002"
    assert Index.open(library).verify() == []


def test_one_clip(tmp_path):
    index = Index.build(make_library(tmp_path / "lib", np.ones((1, 16), np.float32)))
    assert index.search(np.ones((1, 16)), 5)[1].tolist() == [[0]]


def test_vectors_that_are_not_finite_are_refused(tmp_path):
    library = make_library(tmp_path / "lib", clustered(40, 16))
    break_embedding(library, f"{0:016x}", 3, np.nan)
    with pytest.raises(
        SearchIndexError, match=r"embeddings that are not finite \(1 of 40, the first of v00000.mp4#t=6"
    ):
        Index.build(library)


def test_a_shard_that_cannot_be_read_is_told(tmp_path):
    library = make_library(tmp_path / "lib", clustered(1000, 16))
    Index.build(library)
    shard = sorted((library.path / "clips").glob("*.parquet"))[0]
    shard.write_bytes(b"garbage")
    with pytest.raises(LibraryError, match=f"{shard}: cannot be read .* delete it and run extract or import again"):
        Index.open(library)


def test_shards_that_come_while_it_builds_wait_for_the_next(tmp_path, monkeypatch):
    library = make_library(tmp_path / "lib", clustered(40, 16))
    shards = library.shards

    def growing(*arguments):
        shard = next(iter(library._clips.glob("*.parquet")))
        (library._clips / "ffffffffffffffff.parquet").write_bytes(shard.read_bytes())
        return shards(*arguments)

    monkeypatch.setattr(library, "shards", growing)
    assert len(Index.build(library)) == 40


@pytest.mark.parametrize("metric", ["cosine", "ip", "l2"])
@pytest.mark.parametrize("rows", [None, np.arange(0, 2000, 3)])
def test_products_made_elsewhere_give_the_same_answers(metric, rows, monkeypatch):
    """The path of a GPU, with FAISS's own search on the CPU in its place."""
    faiss = backend.import_faiss()
    kind = faiss.METRIC_L2 if metric == "l2" else faiss.METRIC_INNER_PRODUCT
    monkeypatch.setattr(similarity, "_KNN_BLOCK", 300)
    vectors, queries = np.split(clustered(2050, 32), [2000])
    if metric == "cosine":
        vectors = similarity.normalise(vectors).astype(np.float32)
    asked = []

    def knn(queries, block, k):
        asked.append(len(block))
        return faiss.knn(queries, block, k, metric=kind)[1]

    scores, found = similarity.exact_search(vectors, queries, 10, metric, rows, knn)
    truth_scores, truth = similarity.exact_search(vectors, queries, 10, metric, rows)
    assert len(asked) == (7 if rows is None else 3)
    assert np.array_equal(found, truth)
    assert np.array_equal(scores, truth_scores)


@pytest.mark.gpu
def test_a_gpu_gives_the_same_answers(tmp_path):
    if backend.why_no_gpu():
        pytest.skip(backend.why_no_gpu())
    vectors, queries = np.split(clustered(25_050, 64, clusters=300), [25_000])
    index = Index.build(make_library(tmp_path / "lib", vectors), gpu=True)
    assert index.about["factory"].startswith("IVF")
    assert index.about["recall"]["measured"] >= 0.95
    truth = exact(vectors, queries, 10)[1]
    found = index.search(queries, 10)[1]
    assert np.mean([len(np.intersect1d(a, b)) / 10 for a, b in zip(truth, found, strict=True)]) > 0.9


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_vectors_are_mapped_and_not_loaded(tmp_path):
    library = make_library(tmp_path / "lib", clustered(60_000, 256), clips_a_video=20)
    Index.build(library, IndexSpec("IVF64,PQ64x4fsr", train_size=5000, target_recall=0.5))
    program = (
        "import re, sys, numpy as np; from pathlib import Path; from vmae_embed.index import Index;"
        "from vmae_embed.library import Library\n"
        "def anonymous():\n"
        "    return int(re.search(r'RssAnon:\\s+(\\d+)', Path('/proc/self/status').read_text())[1]) / 1024\n"
        "index = Index.open(Library.open(sys.argv[1]))\n"
        "index.search(np.ones((1, 256)), 10); before = anonymous()\n"
        "queries = np.random.default_rng(0).normal(size=(200, 256))\n"
        "for query in queries: index.search(query[None], 10)\n"
        "assert anonymous() - before < 6, anonymous() - before\n"  # of 59 MiB of vectors
        "index.search(queries, 10, exact=True)\n"
        "assert anonymous() - before < 59, anonymous() - before\n"
    )
    subprocess.run([sys.executable, "-c", program, str(library.path)], check=True)
