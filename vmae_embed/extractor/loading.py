"""The encoder that a library was made with, or begins with."""

from __future__ import annotations

import os
from pathlib import Path

from vmae_embed.encoder import Encoder
from vmae_embed.errors import LibraryError
from vmae_embed.library import Library, LibraryConfig


def load_encoder(
    library: str | Path,
    model: str | Path | None = None,
    *,
    revision: str | None = None,
    device: str | None = None,
    dtype: str | None = None,
    pooling: str | None = None,
    compile: bool = False,
) -> Encoder:
    """Load an encoder to go on with a library as it was made, or to begin one.

    Args:
        library: directory of the library, which need not exist.
        model: hub id or directory; None for the library's, else the default.
        revision: of the hub repository.
        device: None takes a GPU where there is one.
        dtype: None for the library's, else what `Encoder.from_pretrained` takes.
        pooling: None for the library's, else the mean of the tokens.
        compile: pass it through ``torch.compile``.

    Raises:
        UsageError, CheckpointError: as `Encoder.from_pretrained` does.
        LibraryError: the library cannot be read.
    """
    before = config_of(library)
    return Encoder.from_identity(
        before.encoder if before else {},
        model,
        revision=revision,
        device=device,
        dtype=dtype,
        pooling=pooling,
        compile=compile,
    )


def config_of(library: str | Path) -> LibraryConfig | None:
    """Return how a library was made that extraction can go on with; None where there is none yet.

    Raises:
        LibraryError: it cannot be read, or was imported.
    """
    if not os.path.exists(os.path.join(library, "library.json")):
        return None
    config = Library.open(library).config
    if config.imported:
        raise LibraryError(
            f"{library} was imported: nobody here knows what made its vectors; extract into another directory"
        )
    return config
