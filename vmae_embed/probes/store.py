"""A fitted probe on disk: numbers as safetensors, all else as JSON, bound to the encoder of its features."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np

from vmae_embed.errors import ProbeError, UsageError
from vmae_embed.library import Library, LibraryConfig
from vmae_embed.probes.attentive import AttentiveProbe
from vmae_embed.probes.knn import KNNProbe
from vmae_embed.probes.linear import LinearProbe

FORMAT = 1
AnyProbe: TypeAlias = LinearProbe | KNNProbe | AttentiveProbe
_KINDS: Mapping[str, type[AnyProbe]] = {"linear": LinearProbe, "knn": KNNProbe, "attentive": AttentiveProbe}


@dataclass(frozen=True, slots=True)
class SavedProbe:
    """A probe, and how the features were made that it was fitted to.

    Attributes:
        probe: fitted.
        config: of the library that it was fitted to.
        fitted_to: what it was fitted to, in words and numbers.
        videos: hashes of the ids of the videos that it was fitted to, and of their files' sizes and times.
    """

    probe: AnyProbe
    config: LibraryConfig
    fitted_to: Mapping[str, Any]
    videos: frozenset[int]

    @property
    def kind(self) -> str:
        """``linear``, ``knn`` or ``attentive``."""
        return _kind_of(self.probe)

    def seen(self, ids: Sequence[str], fingerprints: Sequence[str]) -> int:
        """Count the videos that it was fitted to: of the same id, or of a file of the same size and time.

        Args:
            ids: of the videos of some clips.
            fingerprints: of their files.
        """
        videos = set(zip(ids, fingerprints, strict=True))
        names = {name: _hash(name) in self.videos for video in videos for name in video if name}
        return sum(any(names.get(name, False) for name in video) for video in videos)

    def check(self, library: Library) -> None:
        """Refuse a library of another encoder's embeddings.

        Raises:
            IdentityMismatch: naming both.
        """
        self.config.check_comparable("the probe", library.config.encoder, library.config.preprocessing)


def save_probe(
    folder: str | Path,
    probe: AnyProbe,
    config: LibraryConfig,
    *,
    fitted_to: Mapping[str, Any],
    videos: Iterable[tuple[str, str]] = (),
    overwrite: bool = False,
) -> Path:
    """Write a probe into a directory: ``probe.json`` and ``probe.safetensors``.

    Args:
        folder: new or empty; with ``overwrite``, also an earlier probe's.
        probe: fitted.
        config: of the library that it was fitted to.
        fitted_to: what to say of that, ready for JSON.
        videos: ids and fingerprints of the videos that it was fitted to.
        overwrite: replace an earlier probe.

    Raises:
        UsageError: there is something else, or it cannot be written.
    """
    from safetensors.numpy import save_file

    path = check_folder(folder, overwrite=overwrite)
    about = {
        "format": FORMAT,
        "kind": _kind_of(probe),
        "classes": probe.classes_.tolist(),
        **probe.to_dict(),
        "library": json.loads(replace(config, runs=(), columns={}).to_json()),
        "fitted_to": dict(fitted_to),
    }
    try:
        path.mkdir(parents=True, exist_ok=True)
        arrays = {name: np.ascontiguousarray(array) for name, array in probe.arrays().items()}
        arrays["videos"] = np.array(
            sorted({_hash(name) for video in videos for name in video if name}), dtype=np.uint64
        )
        save_file(arrays, path / "probe.safetensors.new")
        (path / "probe.json.new").write_text(json.dumps(about, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
        # Complete when, and only when, the JSON is in place.
        (path / "probe.json").unlink(missing_ok=True)
        for name in ("probe.safetensors", "probe.json"):
            (path / f"{name}.new").replace(path / name)
    except OSError as error:
        raise UsageError(f"{path}: cannot be written ({error.strerror or error}); give another name") from error
    return path


def _hash(name: str) -> int:
    return int.from_bytes(hashlib.blake2b(name.encode(), digest_size=8).digest())


def _kind_of(probe: AnyProbe) -> str:
    return next(name for name, of in _KINDS.items() if isinstance(probe, of))


def check_folder(folder: str | Path, *, overwrite: bool) -> Path:
    """Say what is wrong with a probe's directory, before anything takes its time.

    Raises:
        UsageError: there is something else in it, or a probe that is not to be overwritten.
    """
    path = Path(folder)
    if path.exists() and not path.is_dir():
        raise UsageError(f"{path}: a file, not a directory; give another name")
    if path.is_dir() and any(path.iterdir()):
        if not (path / "probe.safetensors").exists():
            raise UsageError(f"{path}: not empty, and no probe; give another name")
        if not overwrite:
            raise UsageError(f"{path}: exists; give another name, or --overwrite")
    return path


def load_probe(folder: str | Path, *, device: str = "cpu") -> SavedProbe:
    """Read a probe back.

    Args:
        folder: that it was written to.
        device: for an attentive one to compute on, in torch's words.

    Raises:
        ProbeError: the directory holds none, or a damaged one.
    """
    from safetensors import SafetensorError
    from safetensors.numpy import load_file

    path = Path(folder)
    try:
        about = json.loads((path / "probe.json").read_bytes())
        if about["format"] != FORMAT:
            raise ValueError(f"format {about['format']}; this version reads format {FORMAT}")
        arrays = load_file(path / "probe.safetensors")
        videos = frozenset(arrays.pop("videos").tolist())
        probe = _KINDS[about["kind"]].from_parts(about, arrays)
        probe.classes_ = np.asarray(about["classes"])
        if isinstance(probe, AttentiveProbe):
            probe.move_to(device)
        config = LibraryConfig.from_json(json.dumps(about["library"]).encode())
        return SavedProbe(probe, config, about["fitted_to"], videos)
    except (FileNotFoundError, NotADirectoryError):
        hint = "no such directory" if not path.exists() else "it has no probe.json and probe.safetensors"
        raise ProbeError(f"{path}: not a probe ({hint}); make one with `vmae-embed probe fit LIB -o {path}`") from None
    except OSError as error:
        raise ProbeError(f"{path}: cannot be read ({error.strerror or error})") from error
    except (KeyError, TypeError, ValueError, AttributeError, UsageError, SafetensorError) as error:
        raise ProbeError(f"{path}: not what this version writes ({' '.join(str(error).split())[:200]})") from error
