"""An index follows its library: clips come and go, and what it answers stays as good as a new one's."""

from __future__ import annotations

import os
import subprocess
import sys

import numpy as np
import pytest

from tests.libraries import add_clips, clustered, make_library
from vmae_embed.index import Effort, Index, IndexSpec, spec
from vmae_embed.index.choose import Rows, choose, tune
from vmae_embed.index.similarity import exact_search, normalise
from vmae_embed.index.store import search

SMALL = IndexSpec(factory="IVF8,PQ8x4fsr", target_recall=0.9)


def remove_unit(library, number):
    (library.path / "clips" / f"{number:016x}.parquet").unlink()


def recall(index, queries, effort=None):
    found, true = index.search(queries, 10, effort=effort)[1], index.search(queries, 10, exact=True)[1]
    return np.mean([len(np.intersect1d(a, b)) / 10 for a, b in zip(found, true, strict=True)])


def assert_resolves(index):
    """Every row is of the clip whose vector it is, and all clips of the library are there, once."""
    library = index.library
    held = dict(zip(library.column("clip_id"), normalise(library.embeddings()), strict=True))
    names = index.clips["clip_id"].take(index.live).to_pylist()
    assert sorted(names) == sorted(held)
    assert np.allclose(index.vectors(index.live), np.stack([held[name] for name in names]), atol=1e-6)


def test_a_tenth_comes_and_a_tenth_goes_twenty_times(tmp_path):
    """Units of 200 clips: the library is another one in the end."""
    vectors = clustered(2000 + 20 * 200, 16, clusters=60)
    queries = clustered(8000, 16, clusters=60)[6000:]  # the same centres, other points
    library = make_library(tmp_path / "lib", np.empty((0, 16), np.float32))
    for unit in range(10):
        add_clips(library, vectors[unit * 200 : unit * 200 + 200], prefix=f"u{unit}-", first_unit=unit)
    Index.build(library, SMALL)
    hows, lost = [], []
    for unit in range(10, 30):
        add_clips(library, vectors[unit * 200 : unit * 200 + 200], prefix=f"u{unit}-", first_unit=unit)
        remove_unit(library, unit - 10)
        hows.append(Index.update(library).how)
        index = Index(library, library.index_path)
        assert index.verify() == []
        assert_resolves(index)
        assert np.isin(index.search(queries, 10)[1], index.live).all()
        assert index.clips.num_rows <= 1.5 * len(index)  # holes do not pile up
        if unit % 5 == 3:
            rebuilt = Index.build(library, SMALL, folder=tmp_path / str(unit))
            assert recall(index, queries) > min(recall(rebuilt, queries), SMALL.target_recall) - 0.01
            # All cells, so that only codes can tell: with one, k-means' luck moves it by 0.02.
            lost.append(recall(rebuilt, queries, Effort(8, 3)) - recall(index, queries, Effort(8, 3)))
    assert np.mean(lost) < 0.01
    assert set(hows) == {"updated", "retrained"}
    assert hows.count("retrained") < 6


def test_growth_trains_anew_and_says_why(tmp_path):
    library = make_library(tmp_path / "lib", clustered(700, 16))
    Index.build(library, SMALL)
    add_clips(library, clustered(2000, 16, seed=1), prefix="n", first_unit=10)
    assert Index.update(library).how == "updated"
    add_clips(library, clustered(200, 16, seed=2), prefix="o", first_unit=20)
    made = Index.update(library)
    assert (made.how, made.why) == ("retrained", "it has grown from 700 to 2,900 clips")


def drifted(count, seed):
    """Far from `clustered`, and close together."""
    rng = np.random.default_rng(seed)
    return (np.linspace(-4, 4, 16) + 0.15 * rng.normal(size=(count, 16))).astype(np.float32)


def test_drift_is_noticed(tmp_path):
    library = make_library(tmp_path / "lib", clustered(1600, 16))
    Index.build(library, IndexSpec(factory="IVF16,PQ4x4fsr", target_recall=0.95))
    add_clips(library, drifted(600, 1), prefix="n", first_unit=10)
    made = Index.update(library)
    index = Index.open(library)
    queries = np.concatenate([clustered(1900, 16)[1600:], drifted(100, 2)])
    assert recall(index, queries) >= 0.94 or (made.how == "retrained" and "left recall@10" in made.why)


def test_drift_is_noticed_after_the_target_was_raised(tmp_path, monkeypatch):
    """What counts is what the index gave at the present target, not what it gave when it was trained."""
    monkeypatch.setattr("vmae_embed.index.tune._CANDIDATES", (1, 2, 4))
    library = make_library(tmp_path / "lib", clustered(1600, 16))
    Index.build(library, IndexSpec(factory="IVF16,PQ4x4fsr", target_recall=0.5))
    assert Index.update(library, IndexSpec(factory="IVF16,PQ4x4fsr", target_recall=0.8)).how == "tuned"
    index = Index.open(library)
    assert index.about["recall"]["measured"] >= 0.8
    assert index.about["trained"]["recall"] >= 0.8
    add_clips(library, drifted(1600, 1), prefix="n", first_unit=10)
    made = Index.update(library)
    assert Index.open(library).about["recall"]["measured"] >= 0.8 or made.how == "retrained"


def test_a_video_that_is_replaced(tmp_path):
    library = make_library(tmp_path / "lib", clustered(700, 16))
    Index.build(library, SMALL)
    again = clustered(700, 16)
    again[200:204] = clustered(4, 16, seed=9)
    with library.lock():
        add_clips(library, again)
    made = Index.update(library)
    assert (made.how, made.added, made.removed) == ("retrained", 700, 0)  # its unit was all there was
    index = Index.open(library)
    assert_resolves(index)
    found = index.search(again[200:204], 1)[1][:, 0]
    assert index.clips["clip_id"].take(found).to_pylist() == library.column("clip_id")[200:204]


def test_exact_indexes_follow_and_give_way_where_clips_are_many(tmp_path, monkeypatch):
    monkeypatch.setattr(spec, "EXACT_BELOW", 1500)
    library = make_library(tmp_path / "lib", clustered(800, 16))
    assert Index.build(library).effort is None
    add_clips(library, clustered(400, 16, seed=1), prefix="n", first_unit=10)
    assert Index.update(library).how == "updated"
    index = Index.open(library)
    assert index.effort is None
    assert_resolves(index)
    remove_unit(library, 10)
    assert Index.update(library).removed == 400
    assert_resolves(Index.open(library))
    add_clips(library, clustered(800, 16, seed=2), prefix="o", first_unit=20)
    made = Index.update(library)
    assert (made.how, made.why) == ("retrained", "1,600 clips are many for comparing with each")
    assert Index.open(library).about["factory"].startswith("IVF")


def test_another_target_is_tuned_without_training(tmp_path):
    library = make_library(tmp_path / "lib", clustered(1600, 16, clusters=8))
    efforts = {}
    for target in (0.9, 0.99, 0.5):
        asked = IndexSpec(factory="IVF16,PQ8x4fsr", target_recall=target)
        assert Index.update(library, asked).how == ("built" if target == 0.9 else "tuned")
        index = Index.open(library)
        assert index.about["recall"]["measured"] >= target
        efforts[target] = index.effort.nprobe * index.effort.candidates
    assert efforts[0.5] < efforts[0.9] < efforts[0.99]
    assert Index.update(library).how == "unchanged"


BUILD = """
import sys
from vmae_embed.index import Index, IndexSpec
from vmae_embed.library import Library

Index.build(Library.open(sys.argv[1]), IndexSpec(factory="IVF16,PQ8x4fsr", seed=7))
"""


def test_the_same_seed_and_shards_give_the_same_bytes_in_every_process(tmp_path):
    library = make_library(tmp_path / "lib", clustered(1600, 16))

    def state():
        index = Index(library, library.index_path)
        files = library.index_path / index.about["folder"]
        return index.effort, [(files / name).read_bytes() for name in ("index.faiss", "vectors.npy", "clips.arrow")]

    Index.build(library, IndexSpec(factory="IVF16,PQ8x4fsr", seed=7))
    first = state()
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    subprocess.run([sys.executable, "-c", BUILD, str(library.path)], check=True, env=environment)
    assert state() == first
    Index.build(library, IndexSpec(factory="IVF16,PQ8x4fsr", seed=8))
    assert state()[1][0] != first[1][0]


def common_mean(rng, count):
    """Near-duplicates: groups of ten around a strong mean."""
    shape = np.random.default_rng(6)
    mean, centres = 3 * shape.normal(size=96), 0.3 * shape.normal(size=(2500, 96))
    return mean + centres[rng.integers(0, 2500, count)] + 0.05 * rng.normal(size=(count, 96))


def groups(rng, count):
    centres = np.random.default_rng(5).normal(size=(400, 96))
    return centres[rng.integers(0, 400, count)] + 0.4 * rng.normal(size=(count, 96))


def manifold(rng, count):
    """No clusters: a smooth surface of 12 dimensions."""
    shape = np.random.default_rng(7)
    inside, outside = shape.normal(size=(2, 12, 64))
    place = rng.uniform(-1, 1, size=(count, 12))
    return np.sin(place @ inside) + np.cos(place @ outside)


@pytest.mark.slow
@pytest.mark.parametrize("shape", [groups, common_mean, manifold])
def test_the_recall_asked_for_is_what_queries_get_that_were_never_seen(shape):
    """Measured with clips left out, of which there are then fewer to confuse: that was 0.02 too hopeful once."""
    count = 25_000
    vectors = normalise(shape(np.random.default_rng(0), count)).astype(np.float32)
    queries = shape(np.random.default_rng(1), 1500).astype(np.float32)
    true = exact_search(vectors, queries, 10)[1]
    rows = Rows(vectors, np.arange(count), (np.arange(count) // 4).astype(np.int32))
    chosen = None
    for target in (0.99, 0.95, 0.9):
        asked = IndexSpec(target_recall=target)
        chosen = choose(rows, asked) if chosen is None else tune(chosen, rows, asked)
        found = search(chosen.index, vectors, queries, 10, "cosine", chosen.effort, 10)[1]
        got = np.mean([len(np.intersect1d(a, b)) / 10 for a, b in zip(found, true, strict=True)])
        assert got >= target - 0.01, (target, got, chosen.measured)
        assert chosen.measured.recall >= target
