"""What ``library.json`` says: which encoder made a library, and how."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from vmae_embed.errors import IdentityMismatch
from vmae_embed.library.shards import CARRIED, LABEL_COLUMNS, RESERVED, STORED
from vmae_embed.preprocess import Preprocessing
from vmae_embed.sampling import Sampling

FORMAT = 1

# Two embeddings can be compared when these agree; precision only has to within a library.
_COMPARABLE = ("weights_sha256", "pooling", "norm", "frames", "width")


@dataclass(frozen=True)
class LibraryConfig:
    """What ``library.json`` holds.

    Attributes:
        encoder: identity of the encoder, as `vmae_embed.encoder.Encoder.identity` gives it.
        sampling: how videos were cut into clips; None of an imported library.
        preprocessing: the checkpoint's; None of an imported library.
        stored: type of the stored embeddings, ``float32`` or ``float16``.
        columns: carried columns and their types.
        versions: of the packages that made it.
        exact_pixels: whether frames were converted whole before they were resized.
        classifier: SHA-256 of the one that labelled the clips; None where none did.
        tokens: N, stored beside each embedding; None where none are.
        runs: what the latest runs did, the last of them last; see `vmae_embed.summary`.
    """

    encoder: Mapping[str, Any]
    sampling: Sampling | None
    preprocessing: Preprocessing | None
    stored: str
    columns: Mapping[str, str]
    versions: Mapping[str, str]
    exact_pixels: bool = False
    classifier: str | None = None
    tokens: int | None = None
    runs: tuple[Mapping[str, Any], ...] = ()

    @property
    def imported(self) -> bool:
        """Whether its embeddings were made elsewhere: nothing is known of an encoder, of sampling, of pixels."""
        return _is_imported(self.encoder)

    def to_json(self) -> bytes:
        """Return the bytes of ``library.json``."""
        fields = {
            "format": FORMAT,
            "encoder": dict(self.encoder),
            "sampling": self.sampling and self.sampling.to_dict(),
            "preprocessing": self.preprocessing and self.preprocessing.to_dict(),
            "stored": self.stored,
            "columns": dict(self.columns),
            "versions": dict(self.versions),
            "exact_pixels": self.exact_pixels,
            "classifier": self.classifier,
            "tokens": self.tokens,
            "runs": [dict(run) for run in self.runs],
        }
        return (json.dumps(fields, indent=2) + "\n").encode()

    @classmethod
    def from_json(cls, data: bytes) -> LibraryConfig:
        """Read back what `to_json` wrote; any of KeyError, TypeError, ValueError if it is not that."""
        fields = json.loads(data)
        if fields["format"] != FORMAT:
            raise ValueError(f"format {fields['format']}; this version reads format {FORMAT}")
        imported = _is_imported(fields["encoder"])
        if imported and (fields["sampling"] is not None or fields["preprocessing"] is not None):
            raise ValueError("imported vectors, and yet a sampling or preprocessing")
        config = cls(
            encoder=fields["encoder"],
            sampling=None if imported else Sampling.from_dict(fields["sampling"]),
            preprocessing=None if imported else Preprocessing.from_dict(fields["preprocessing"]),
            stored=fields["stored"],
            columns=fields["columns"],
            versions=fields["versions"],
            exact_pixels=bool(fields.get("exact_pixels", True)),  # early versions knew nothing else
            classifier=fields.get("classifier"),
            tokens=fields.get("tokens"),
            runs=tuple(fields.get("runs", ())),
        )
        missing = [key for key in _COMPARABLE if key not in config.encoder]
        if missing or config.stored not in STORED or not set(config.columns.values()) <= set(CARRIED):
            raise ValueError("fields of the encoder, or types, that it does not know")
        width = config.encoder["width"]
        if not isinstance(width, int) or width < 1 or not isinstance(config.encoder["weights_sha256"], str):
            raise ValueError("an encoder without a width, or without the hash of its weights")
        if set(config.columns) & RESERVED or not isinstance(config.versions, dict):
            raise ValueError("carried columns by names of its own, or versions that are none")
        if config.classifier is not None and (
            not isinstance(config.classifier, str) or not LABEL_COLUMNS.items() <= config.columns.items()
        ):
            raise ValueError("a classifier without a hash, or without the columns of its labels")
        if config.tokens is not None and (imported or type(config.tokens) is not int or config.tokens < 1):
            raise ValueError("tokens that are no number, or of imported vectors")
        if not all(isinstance(run, dict) for run in config.runs):
            raise ValueError("runs that are none")
        return config

    def check_comparable(self, name: str, encoder: Mapping[str, Any], preprocessing: Preprocessing | None) -> None:
        """Refuse an encoder whose embeddings cannot be compared with this one's, of the library ``name``.

        Raises:
            IdentityMismatch: naming both.
        """
        ours = self.encoder
        if self.imported or _is_imported(encoder):
            _check_imported(name, ours, encoder)
            return
        for key in _COMPARABLE:
            if encoder[key] != ours[key]:
                raise IdentityMismatch(
                    f"{name} was made with {_describe(ours)}, this is {_describe(encoder)}: "
                    f"their {key} differ; embeddings of one cannot be compared with those of the other"
                )
        if preprocessing != self.preprocessing:
            before, now = (one and one.to_dict() for one in (self.preprocessing, preprocessing))
            raise IdentityMismatch(f"{name} was made with preprocessing {before}, this is {now}")

    def check_continuable(self, name: str, config: LibraryConfig) -> None:
        """Refuse to add rows that another configuration would make, to the library ``name``.

        Raises:
            IdentityMismatch: naming both.
        """
        self.check_comparable(name, config.encoder, config.preprocessing)
        wanted = {
            "sampling": (str(self.sampling), str(config.sampling)),
            "precision (--dtype)": (self.encoder.get("precision"), config.encoder.get("precision")),
            "stored type (--store)": (self.stored, config.stored),
            "pixels (--exact-pixels, --fast-pixels)": (_pixels(self), _pixels(config)),
            "labels (--with-labels)": (_labels(self), _labels(config)),
            "tokens (--store tokens)": (_tokens(self), _tokens(config)),
        }
        for what, (before, now) in wanted.items():
            if before != now:
                raise IdentityMismatch(
                    f"{name} was made with {what} '{before}', this run asks for '{now}'; "
                    "give the same options, or another directory"
                )


def _pixels(config: LibraryConfig) -> str:
    return "exact" if config.exact_pixels else "fast"


def _labels(config: LibraryConfig) -> str:
    return "none" if config.classifier is None else f"of classifier {config.classifier[:12]}"


def _tokens(config: LibraryConfig) -> str:
    return "none" if config.tokens is None else f"{config.tokens:,} a clip"


def _is_imported(encoder: Mapping[str, Any]) -> bool:
    return encoder.get("imported") is True


def _check_imported(name: str, ours: Mapping[str, Any], theirs: Mapping[str, Any]) -> None:
    if not _is_imported(theirs):
        raise IdentityMismatch(
            f"{name} was imported: nobody here knows what made its vectors, so that no encoder's can be compared with "
            "them; search it by a clip id or a .npy file, or give another library"
        )
    if not _is_imported(ours):
        raise IdentityMismatch(
            f"{name} was extracted with {_describe(ours)}: vectors made elsewhere cannot be compared with its "
            "embeddings; import them into a directory of their own"
        )
    for what, key in {"vectors of width": "width", "vectors named (--name)": "checkpoint"}.items():
        if ours.get(key) != theirs.get(key):
            raise IdentityMismatch(
                f"{name} holds {what} {ours.get(key)}, these are {theirs.get(key)}; give another directory"
            )


def _describe(encoder: Mapping[str, Any]) -> str:
    return f"{encoder.get('checkpoint')} ({encoder['weights_sha256'][:12]}, {encoder['pooling']} pooling)"
