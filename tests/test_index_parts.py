"""Building an index in parts: the same as in one, whoever dies."""

from __future__ import annotations

import threading

import numpy as np
import pytest

from tests.libraries import clustered, make_library
from vmae_embed.errors import UsageError
from vmae_embed.index import Index, IndexSpec, import_faiss, parts
from vmae_embed.index.ann import add
from vmae_embed.index.spec import parse_factory
from vmae_embed.index.train import pack, train, unpack

SPEC = IndexSpec(factory="IVF16,PQ8x4fsr")


@pytest.fixture
def library(tmp_path):
    return make_library(tmp_path / "lib", clustered(4000, 16), clips_a_video=2)  # ten shards


def test_parts_make_what_one_build_makes(library):
    assert Index.build_part(library, 2, 3, SPEC) is None
    assert Index.build_part(library, 1, 3, SPEC) is None
    assert not Index.exists(library)
    made = Index.build_part(library, 3, 3, SPEC)
    assert (made.how, made.why, made.added) == ("built", "from 3 parts", 4000)
    index = Index(library, library.index_path)
    assert Index.is_current(library)
    assert index.verify() == []
    assert index.about["recall"]["measured"] >= 0.95
    assert not (library.index_path / "parts").exists()
    names = index.clips["clip_id"].to_pylist()
    assert names == library.column("clip_id")
    queries = clustered(4050, 16)[4000:]
    truth = index.search(queries, 10, exact=True)[1]
    found = index.search(queries, 10)[1]
    assert np.mean([len(np.intersect1d(a, b)) / 10 for a, b in zip(truth, found, strict=True)]) > 0.93


@pytest.mark.parametrize("factory", ["IVF16,PQ8x4fsr", "IVF16,PQ8x4fs", "IVF16_HNSW8,PQ8x4fsr", "IVF16,SQ8"])
@pytest.mark.parametrize("metric", ["cosine", "l2"])
def test_merged_codes_are_those_of_one_index(tmp_path, factory, metric):
    faiss = import_faiss()
    vectors = clustered(3000, 16)
    trained = train(parse_factory(factory), vectors, metric)
    faiss.write_index(unpack(trained), str(tmp_path / "trained"))
    add(trained, vectors, np.arange(3000))
    merged = faiss.read_index(str(tmp_path / "trained"))
    for first, last in ((0, 1), (1, 1700), (1700, 1700), (1700, 3000)):
        part = faiss.read_index(str(tmp_path / "trained"))
        add(part, vectors[first:last], np.arange(last - first))
        merged.merge_from(part, first)
    packed = pack(merged, factory)
    del merged
    parameters = faiss.SearchParametersIVF(nprobe=16)
    distances, rows = trained.search(vectors[:100], 40, params=parameters)
    again, found = packed.search(vectors[:100], 40, params=parameters)
    assert type(packed) is type(trained)
    assert np.allclose(again, distances, rtol=1e-5)
    assert np.mean(found == rows) > 0.99  # equal codes come in any order


def test_parts_at_once(library):
    made = []
    threads = [
        threading.Thread(target=lambda number=number: made.append(Index.build_part(library, number, 4, SPEC)))
        for number in range(1, 5)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sum(each is not None for each in made) == 1
    assert Index(library, library.index_path).verify() == []


def test_a_part_that_died_is_run_again(library, monkeypatch):
    Index.build_part(library, 1, 2, SPEC)
    monkeypatch.setattr(parts, "add_rows", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        Index.build_part(library, 2, 2, SPEC)
    monkeypatch.undo()
    assert not Index.exists(library)
    assert Index.build_part(library, 1, 2, SPEC) is None  # is there already
    assert Index.build_part(library, 2, 2, SPEC) is not None
    assert Index(library, library.index_path).verify() == []


def test_what_changed_meanwhile_follows(library):
    Index.build_part(library, 1, 2, SPEC)
    with library.lock():
        library.remove_videos(["v00000.mp4", "v01999.mp4"])
    Index.build_part(library, 2, 2, SPEC)
    assert not Index.is_current(library)
    index = Index.open(library)
    assert len(index) == 3996
    assert index.verify() == []


@pytest.mark.parametrize(
    ("number", "of", "spec", "message"),
    [
        (0, 2, SPEC, "part=0/2: give 1/2 to 2/2"),
        (3, 2, SPEC, "part=3/2: give 1/2 to 2/2"),
        (1, 2, IndexSpec(), "4,000 clips need no parts: run `vmae-embed index .*` without --part"),
        (1, 2, IndexSpec("IVF500,Flat"), "nlist=500 needs at least 19,500 training vectors"),
    ],
)
def test_parts_that_cannot_be(library, number, of, spec, message):
    with pytest.raises(UsageError, match=message):
        Index.build_part(library, number, of, spec)


@pytest.mark.parametrize(("of", "spec"), [(3, SPEC), (2, IndexSpec("IVF16,SQ8"))])
def test_parts_of_another_plan_are_refused(library, of, spec):
    Index.build_part(library, 1, 2, SPEC)
    with pytest.raises(UsageError, match="another plan: 2, with factory IVF16,PQ8x4fsr; give the options"):
        Index.build_part(library, 2, of, spec)
