from __future__ import annotations

import numpy as np
import pytest

from tests.test_linear_probe import clusters
from vmae_embed.errors import ProbeError
from vmae_embed.probes import KNNProbe, knn


def brute_force(x, y, queries, k, temperature):
    """Each query by itself, in plain Python: cosines, the first of equal ones first, weighted votes."""
    rows = x.astype(np.float64) / np.linalg.norm(x.astype(np.float64), axis=1, keepdims=True)
    shares = []
    for query in queries.astype(np.float64):
        cosines = rows @ (query / np.linalg.norm(query))
        order = sorted(range(len(rows)), key=lambda row: (-cosines[row], row))[:k]
        votes = dict.fromkeys(sorted(set(y.tolist())), 0.0)
        for row in order:
            votes[y[row]] += np.exp(cosines[row] / temperature)
        shares.append([vote / sum(votes.values()) for vote in votes.values()])
    return np.array(shares)


@pytest.mark.parametrize("shape", [(300, 20, 2), (400, 12, 5), (90, 256, 7)])
@pytest.mark.parametrize(("k", "temperature"), [(1, 0.07), (20, 0.07), (1000, 0.5)])
def test_equals_brute_force(shape, k, temperature, monkeypatch):
    monkeypatch.setattr(knn, "_BLOCK", 1000)  # several blocks
    x, y = clusters(*shape)
    queries, _ = clusters(50, *shape[1:], seed=1)
    probe = KNNProbe(k=k, temperature=temperature).fit(x, y)
    expected = brute_force(x, y, queries, k, temperature)
    np.testing.assert_allclose(probe.predict_proba(queries), expected, rtol=1e-9, atol=1e-12)
    assert probe.predict(queries).tolist() == expected.argmax(axis=1).tolist()


def test_of_equally_near_ones_the_first_vote():
    x = np.array([[1.0, 0], [2, 0], [3, 0], [0, 1]])
    assert KNNProbe(k=1).fit(x, ["b", "a", "a", "c"]).predict([[5.0, 0]]).tolist() == ["b"]
    assert KNNProbe(k=3).fit(x, ["b", "a", "a", "c"]).predict([[5.0, 0]]).tolist() == ["a"]


def test_k_is_chosen_by_rows_of_other_groups():
    """Each group repeats one row: with its own, one neighbour is always right, and says nothing."""
    x, y = clusters(60, 8, 3, spread=2.5)
    rows, labels = np.repeat(x, 5, axis=0), np.repeat(y, 5)
    probe = KNNProbe(k=(1, 15)).fit(rows, labels, [str(i // 5) for i in range(300)])
    others = [
        KNNProbe(k=k).fit(np.delete(x, i, 0), np.delete(y, i)).predict(x[i : i + 1])[0] for k in (1,) for i in range(60)
    ]
    assert probe.validation_[1] == pytest.approx(np.mean(np.array(others) == y))
    assert KNNProbe(k=(1, 15)).fit(rows, labels).validation_[1] == 1.0
    assert probe.k_ == max(probe.validation_, key=probe.validation_.get)


def test_refusals():
    for options in ({"k": 0}, {"k": ()}, {"k": (5, -1)}):
        with pytest.raises(ProbeError, match="whole numbers from 1 on"):
            KNNProbe(**options)
    with pytest.raises(ProbeError, match="temperature=0"):
        KNNProbe(temperature=0)
    with pytest.raises(ProbeError, match="not fitted"):
        KNNProbe().predict(np.ones((1, 2)))
    probe = KNNProbe().fit(np.eye(3), ["a", "b", "c"])
    with pytest.raises(ProbeError, match="embeddings 2 wide; the probe was fitted to 3"):
        probe.predict(np.ones((1, 2)))
    assert probe.predict_proba(np.empty((0, 3))).shape == (0, 3)
    assert probe.score(np.eye(3), ["a", "b", "x"]) == pytest.approx(2 / 3)
