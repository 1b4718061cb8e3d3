"""Ranking candidates against similarities in float64, one by one."""

from __future__ import annotations

import numpy as np
import pytest

from tests.libraries import clustered
from vmae_embed.index import ann, similarity


def oracle(query, vectors, metric):
    exact, asked = vectors.astype(np.float64), query.astype(np.float64)
    if metric == "l2":
        return -np.linalg.norm(exact - asked, axis=1)
    lengths = np.linalg.norm(exact, axis=1) * np.linalg.norm(asked) if metric == "cosine" else 1
    return exact @ asked / lengths


@pytest.fixture
def candidates():
    """Forty queries, 200 candidates each, of which every third query has but seven."""
    rng = np.random.default_rng(0)
    rows = np.sort(np.stack([rng.permutation(1000)[:200] for _ in range(40)]), axis=1)
    rows[::3, :193] = -1
    return rows


@pytest.mark.parametrize("stored", ["float32", "float16"])
@pytest.mark.parametrize("metric", ["cosine", "ip", "l2"])
def test_the_best_candidates_come_first(candidates, metric, stored):
    vectors, queries = clustered(1000, 48, spread=0.05), clustered(40, 48, spread=0.05)
    if metric == "cosine":
        vectors = similarity.normalise(vectors)
    vectors = vectors.astype(stored)
    products = [None]
    if metric == "cosine" and stored == "float32":
        products.append(ann._products(queries, vectors, candidates))
    for known in products:
        scores, rows = similarity.rank(queries, vectors, candidates, 10, metric, known)
        for query, near, found, score in zip(queries, candidates, rows, scores, strict=True):
            near = near[near >= 0]
            truth = oracle(query, vectors[near], metric)
            best = np.argsort(-truth, kind="stable")[:10]
            assert np.array_equal(found[: len(best)], near[best])
            assert score[: len(best)] == pytest.approx(truth[best], rel=1e-6)
            assert (found[len(best) :] == -1).all()
            assert np.isneginf(score[len(best) :]).all()


def test_what_float32_cannot_tell_apart_is_told_apart():
    """Cosines that differ in the tenth digit; the products in float32 are those of a common mean."""
    rng = np.random.default_rng(0)
    vectors = similarity.normalise(rng.normal(size=768) + 1e-4 * rng.normal(size=(300, 768))).astype(np.float32)
    every = np.tile(np.arange(300), (300, 1))
    products = ann._products(vectors, vectors, every)
    assert not np.array_equal(products.argmax(axis=1), np.arange(300))
    assert np.array_equal(similarity.rank(vectors, vectors, every, 1, "cosine", products)[1][:, 0], np.arange(300))


def test_equal_scores_come_in_the_order_of_the_rows():
    vectors = np.tile(np.float32([0.6, 0.8]), (50, 1))
    scores, rows = similarity.rank(vectors[:3], vectors, np.tile(np.arange(50), (3, 1)), 7, "cosine")
    assert np.array_equal(rows, np.tile(np.arange(7), (3, 1)))
    assert scores == pytest.approx(1, abs=1e-6)


def test_more_candidates_than_fit_together_are_ranked_part_by_part(monkeypatch, candidates):
    vectors, queries = clustered(1000, 48), clustered(40, 48, seed=1)
    whole = similarity.rank(queries, vectors, candidates, 10, "ip")
    monkeypatch.setattr(similarity, "_BLOCK", 64)
    assert np.array_equal(similarity.rank(queries, vectors, candidates, 10, "ip")[1], whole[1])
