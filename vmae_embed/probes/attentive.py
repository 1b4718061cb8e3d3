"""An attentive probe: a query that learns which tokens to listen to, and a linear classifier."""

# ruff: noqa: N803 - X and y are what every scikit-learn user types

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from vmae_embed.errors import ProbeError
from vmae_embed.probes.arrays import Labels, Predicting, as_labels, check_pairs
from vmae_embed.probes.threads import threads
from vmae_embed.splits import hold_out

if TYPE_CHECKING:
    import torch

# V-JEPA's recipe (configs/evals/vitl16_k400_16x8x3.yaml of facebookresearch/jepa): AdamW, a learning rate of
# 1e-3 that falls to nothing along a cosine, weight decay 0.01, 20 epochs.
LEARNING_RATES = (1e-3, 3e-3, 3e-4, 1e-4)
WEIGHT_DECAYS = (0.01,)


class AttentiveProbe(Predicting):
    """Cross-attention pooling over frozen tokens, as V-JEPA judges them (Bardes et al., arXiv:2404.08471).

    One learned query attends to a clip's normed tokens; a two-layer network and a linear classifier
    follow, each beside what it adds to. A probe for each learning rate and weight decay is trained in
    one pass: every batch is read once and shown to all of them. The one of the best accuracy on a
    fifth of the groups, which are held out for that, is kept as it is. Where no group can be held
    out, as of one clip a class, the first setting is.

    Args:
        learning_rates: to choose from, above zero.
        weight_decays: to choose from, zero or above.
        epochs: passes over the clips.
        batch_size: clips of a step.
        device: that computes, in torch's words.
        seed: of first weights, the order of clips, and the groups that are held out.

    Attributes:
        classes_: ``(K,)`` the distinct labels, sorted.
        learning_rate_: the one that was chosen.
        weight_decay_: the one that was chosen.
        validation_: accuracy on what was held out, by learning rate and weight decay.

    Raises:
        ProbeError: an argument is out of range.
    """

    reads: ClassVar[str] = "tokens"
    classes_: NDArray[Any]
    learning_rate_: float
    weight_decay_: float
    validation_: dict[tuple[float, float], float]

    def __init__(
        self,
        *,
        learning_rates: Sequence[float] = LEARNING_RATES,
        weight_decays: Sequence[float] = WEIGHT_DECAYS,
        epochs: int = 20,
        batch_size: int = 64,
        device: str = "cpu",
        seed: int = 0,
    ) -> None:
        if not learning_rates or not weight_decays or min(learning_rates) <= 0 or min(weight_decays) < 0:
            raise ProbeError(f"learning_rates={learning_rates}, weight_decays={weight_decays}: give rates above 0")
        if epochs < 1 or batch_size < 1:
            raise ProbeError(f"epochs={epochs}, batch_size={batch_size}: give whole numbers above 0")
        self.learning_rates, self.weight_decays = tuple(learning_rates), tuple(weight_decays)
        self.epochs, self.batch_size = epochs, batch_size
        self.device, self.seed = device, seed

    def fit(self, X: NDArray[Any], y: Labels, groups: Sequence[str] | None = None) -> AttentiveProbe:
        """Fit to ``(B, N, D)`` tokens and B labels; returns the probe itself.

        Args:
            X: of any floating type; read batch by batch, so it may lie on disk (`numpy.memmap`).
            y: strings or integers.
            groups: B names, of which no two sides of the choice share one; None: each clip by itself.

        Raises:
            ProbeError: the tokens are of another shape, the labels are not B strings or B integers
                of two classes or more.
        """
        import torch

        clips = _as_tokens(X)
        labels = as_labels(y)
        if clips.ndim != 3 or len(clips) != len(labels):
            raise ProbeError(f"tokens {clips.shape} and {len(labels)} labels; give (B, N, D) and one label a clip")
        classes, codes = check_pairs(clips, labels)
        train, held_out = hold_out(codes, groups, seed=self.seed)

        settings = self._settings()
        networks = [self._network(clips.shape[2], len(classes)) for _ in settings]
        self._train(networks, settings, clips, codes, train)
        right = np.zeros(len(settings))
        with torch.inference_mode():
            for rows in np.array_split(held_out, math.ceil(len(held_out) / self.batch_size) or 1):
                tokens = self._tokens(clips, rows)
                for number, network in enumerate(networks):
                    right[number] += (network(tokens).argmax(1).cpu().numpy() == codes[rows]).sum()
        self.validation_ = dict(zip(settings, (right / max(len(held_out), 1)).tolist(), strict=True))
        best = int(right.argmax())
        self.learning_rate_, self.weight_decay_ = settings[best]
        self.classes_, self._best, self._width = classes, networks[best].eval(), clips.shape[2]
        return self

    def _settings(self) -> list[tuple[float, float]]:
        return [(rate, decay) for rate in self.learning_rates for decay in self.weight_decays]

    def _network(self, width: int, n_classes: int) -> torch.nn.Module:
        import torch

        from vmae_embed.probes.pooler import AttentivePooler

        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.seed)  # the same first weights for every setting
            return AttentivePooler(width, n_classes).to(self.device)

    def _train(
        self,
        networks: list[torch.nn.Module],
        settings: list[tuple[float, float]],
        X: NDArray[Any],
        codes: NDArray[np.intp],
        train: NDArray[np.intp],
    ) -> None:
        import torch

        rng = np.random.default_rng(self.seed)
        optimizers = [
            torch.optim.AdamW(network.parameters(), lr=rate, weight_decay=decay)
            for network, (rate, decay) in zip(networks, settings, strict=True)
        ]
        batches = math.ceil(len(train) / self.batch_size)
        total = self.epochs * batches
        with _side_by_side(len(networks) if self.device == "cpu" else 1) as pool:
            for step in range(total):
                if step % batches == 0:
                    parts = np.array_split(rng.permutation(train), batches)
                rows = np.sort(parts[step % batches])  # in the order in which they lie on disk
                tokens = self._tokens(X, rows)
                truth = torch.from_numpy(codes[rows]).to(self.device)
                for optimizer, (rate, _) in zip(optimizers, settings, strict=True):
                    for group in optimizer.param_groups:
                        group["lr"] = rate * (1 + math.cos(math.pi * step / total)) / 2
                list(pool.map(partial(_step, tokens, truth), networks, optimizers))

    def _tokens(self, X: NDArray[Any], rows: NDArray[np.intp]) -> torch.Tensor:
        """Tokens of some clips, each of mean 0 and variance 1: normed once for all networks."""
        import torch

        tokens = torch.from_numpy(np.asarray(X[rows])).to(self.device, torch.float32)
        if not torch.isfinite(tokens).all():
            raise ProbeError("tokens that hold NaN or infinity; drop those clips")
        return torch.nn.functional.layer_norm(tokens, tokens.shape[2:])

    def predict_proba(self, X: NDArray[Any]) -> NDArray[np.float64]:
        """Give ``(B, K)`` float64 probabilities, in the order of ``classes_``; rows sum to 1.

        Raises:
            ProbeError: the probe is not fitted, or the tokens are not ``(B, N, D)`` of its width.
        """
        import torch

        if not hasattr(self, "classes_"):
            raise ProbeError("this AttentiveProbe is not fitted; call fit(X, y) first")
        clips = _as_tokens(X)
        if clips.ndim != 3 or clips.shape[2] != self._width:
            raise ProbeError(f"tokens {clips.shape}; the probe was fitted to (B, N, {self._width})")
        found = [np.empty((0, len(self.classes_)))]
        with torch.inference_mode():
            for start in range(0, len(clips), self.batch_size):
                rows = np.arange(start, min(start + self.batch_size, len(clips)))
                found.append(self._best(self._tokens(clips, rows)).cpu().double().softmax(1).numpy())
        return np.concatenate(found)

    def to_dict(self) -> dict[str, Any]:
        """Return the settings and what was chosen, ready for JSON."""
        chosen = {f"{rate:g}, {decay:g}": share for (rate, decay), share in self.validation_.items()}
        return {
            "learning_rate": self.learning_rate_,
            "weight_decay": self.weight_decay_,
            "epochs": self.epochs,
            "validation": chosen,
        }

    def move_to(self, device: str) -> None:
        """Compute on another device from now on."""
        self.device, self._best = device, self._best.to(device)

    def arrays(self) -> dict[str, NDArray[np.float32]]:
        """Return what was learned, by name."""
        return {name: weights.cpu().numpy() for name, weights in self._best.state_dict().items()}

    @classmethod
    def from_parts(cls, about: Mapping[str, Any], arrays: Mapping[str, NDArray[Any]]) -> AttentiveProbe:
        """Make one of what `to_dict` and `arrays` gave; KeyError, TypeError or ValueError if it is not that."""
        import torch

        probe = cls(learning_rates=[about["learning_rate"]], weight_decays=[about["weight_decay"]])
        probe.epochs, probe.learning_rate_, probe.weight_decay_ = about["epochs"], *probe._settings()[0]
        probe.validation_ = {
            (float(rate), float(decay)): share
            for (rate, decay), share in ((name.split(", "), share) for name, share in about["validation"].items())
        }
        (probe._width,) = arrays["query"].shape
        network = probe._network(probe._width, len(about["classes"]))
        try:
            network.load_state_dict({name: torch.from_numpy(weights) for name, weights in arrays.items()})
        except RuntimeError as error:
            raise ValueError(str(error)) from None
        probe._best = network.eval()
        return probe


@contextlib.contextmanager
def _side_by_side(count: int) -> Iterator[ThreadPoolExecutor]:
    """So many threads, which share the cores out."""
    import torch

    each = max(torch.get_num_threads() // count, 1)
    with threads(None), ThreadPoolExecutor(count, initializer=torch.set_num_threads, initargs=(each,)) as pool:
        yield pool


def _step(
    tokens: torch.Tensor, truth: torch.Tensor, network: torch.nn.Module, optimizer: torch.optim.Optimizer
) -> None:
    import torch

    optimizer.zero_grad()
    torch.nn.functional.cross_entropy(network(tokens), truth).backward()  # type: ignore[no-untyped-call]
    torch.nn.utils.clip_grad_norm_(network.parameters(), 1.0)
    optimizer.step()


def _as_tokens(values: Any) -> Any:
    """What has a shape is read batch by batch, and may lie on disk; all else is made an array."""
    return values if hasattr(values, "ndim") else np.asarray(values)
