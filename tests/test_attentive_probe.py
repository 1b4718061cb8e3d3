from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.nn import functional

from vmae_embed.errors import ProbeError
from vmae_embed.probes import AttentiveProbe, LinearProbe
from vmae_embed.probes.pooler import AttentivePooler

QUICK = {"learning_rates": (3e-3, 1e-5), "epochs": 12, "batch_size": 32}


def needles(count, tokens=12, width=16, classes=3, seed=0):
    """One token of many says the class, wherever it is; it is known by its first number. Its mean says little."""
    rng = np.random.default_rng(seed)
    y = np.arange(count) % classes
    x = rng.normal(size=(count, tokens, width))
    x[:, :, 0] = -1
    at = rng.integers(0, tokens, count)
    x[np.arange(count), at, 0] = 4
    x[np.arange(count), at, 1 : 1 + classes] = 3 * np.eye(classes)[y]
    x[:, :, 1 : 1 + classes] += 1.5 * rng.normal(size=(count, tokens, classes)) * (x[:, :, :1] < 0)
    return x.astype(np.float32), y


def test_it_learns_which_token_to_listen_to():
    x, y = needles(600)
    held_out, truth = needles(300, seed=1)
    probe = AttentiveProbe(**QUICK).fit(x, y)
    assert probe.score(held_out, truth) > LinearProbe(l2=10.0).fit(x.mean(1), y).score(held_out.mean(1), truth) + 0.1
    assert probe.learning_rate_ == 3e-3
    assert probe.validation_[3e-3, 0.01] > probe.validation_[1e-5, 0.01]
    probabilities = probe.predict_proba(held_out)
    np.testing.assert_allclose(probabilities.sum(1), 1, rtol=1e-9)
    assert probe.predict(held_out).tolist() == probe.classes_[probabilities.argmax(1)].tolist()


def test_the_same_input_gives_the_same_fit_from_memory_or_disk(tmp_path):
    x, y = needles(90)
    np.save(tmp_path / "x.npy", x)
    fits = [AttentiveProbe(**QUICK).fit(one, y) for one in (x, np.load(tmp_path / "x.npy", mmap_mode="r"))]
    np.testing.assert_array_equal(*(fit.predict_proba(x) for fit in fits))


def test_shuffled_labels_are_at_chance():
    x, y = needles(400)
    labels = np.random.default_rng(0).permutation(y)
    probe = AttentiveProbe(**QUICK).fit(x[:300], labels[:300])
    assert abs(probe.score(x[300:], labels[300:]) - 1 / 3) < 3 * np.sqrt(2 / 9 / 100)


def test_settings_are_chosen_on_other_groups():
    """Five copies of each clip: a group that were on both sides would be known by heart."""
    x, y = needles(40, tokens=4, classes=2)
    y = np.random.default_rng(1).permutation(y)
    rows, labels, groups = np.repeat(x, 5, 0), np.repeat(y, 5), [str(i // 5) for i in range(200)]
    options = {"learning_rates": (3e-3,), "epochs": 40, "batch_size": 32}
    grouped, leaking = AttentiveProbe(**options).fit(rows, labels, groups), AttentiveProbe(**options).fit(rows, labels)
    assert max(leaking.validation_.values()) > 0.95
    assert max(grouped.validation_.values()) < 0.9


@pytest.mark.parametrize(
    "options", [{"learning_rates": ()}, {"learning_rates": (0,)}, {"epochs": 0}, {"batch_size": 0}]
)
def test_arguments_out_of_range_are_refused(options):
    with pytest.raises(ProbeError):
        AttentiveProbe(**options)


def test_refusals():
    x, y = needles(30)
    with pytest.raises(ProbeError, match="one label a clip"):
        AttentiveProbe().fit(x, y[1:])
    with pytest.raises(ProbeError, match=r"give \(B, N, D\)"):
        AttentiveProbe().fit(x[0], y[:12])
    with pytest.raises(ProbeError, match="one class or none"):
        AttentiveProbe().fit(x, np.zeros(30, int))
    with pytest.raises(ProbeError, match="not fitted"):
        AttentiveProbe().predict(x)
    broken = x.copy()
    broken[7, 3, 2] = np.inf
    with pytest.raises(ProbeError, match="NaN or infinity"):
        AttentiveProbe(learning_rates=(1e-3,), epochs=1).fit(broken, y)
    probe = AttentiveProbe(learning_rates=(1e-3,), epochs=1).fit(x.tolist(), y.tolist())
    np.testing.assert_array_equal(probe.predict_proba(x.tolist()), probe.predict_proba(x))
    with pytest.raises(ProbeError, match="fitted to"):
        probe.predict(x[:, :, :5])


@pytest.mark.parametrize("width", [16, 128, 200])
def test_its_network_is_cross_attention_written_out(width):
    """Keys and values of every token, as torch's own attention has them, give the same logits and gradients."""
    torch.manual_seed(0)
    network = AttentivePooler(width, 5)
    with torch.no_grad():  # as after training: nothing is left at one or zero
        for weights in network.parameters():
            weights += 0.1 * torch.randn_like(weights)
    tokens = torch.randn(3, 20, width)
    normed = functional.layer_norm(tokens, (width,))

    def split(rows):
        return rows.view(*rows.shape[:-1], network.heads, -1).transpose(-2, -3)

    scaled = normed * network.gain + network.offset
    asked = network.ask(network.query).expand(3, 1, width)
    attended = functional.scaled_dot_product_attention(
        *(split(rows) for rows in (asked, network.key(scaled), network.value(scaled)))
    )
    pooled = network.query + network.project(attended.transpose(1, 2).reshape(3, width))
    pooled = pooled + network.narrow(functional.gelu(network.widen(network.norm(pooled))))
    expected = network.classify(pooled)
    found = network(normed)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)
    gradients = [torch.autograd.grad(logits.square().sum(), list(network.parameters())) for logits in (expected, found)]
    torch.testing.assert_close(gradients[1], gradients[0], rtol=1e-3, atol=1e-4)
