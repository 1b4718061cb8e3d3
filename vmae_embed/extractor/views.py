"""Extraction of each view of a preset."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from vmae_embed.encoder import Encoder
from vmae_embed.errors import UsageError
from vmae_embed.extractor.extraction import run
from vmae_embed.presets import Preset
from vmae_embed.summary import Summary
from vmae_embed.views import begin_views


def run_views(
    sources: Sequence[str | Path], folder: str | Path, preset: Preset, *, encoder: Encoder, **options: Any
) -> Iterator[Summary]:
    """Do what `run` does for each view of a preset, each into a library of its own.

    Args:
        sources: files, folders, lists and manifests; no ``-``: they are read once for each view.
        folder: of the views, to make or to go on with.
        preset: says how clips are cut and cropped.
        encoder: loaded.
        **options: those of `run`, but ``sampling``.

    Yields:
        What was done, of one view after the other.

    Raises:
        UsageError, CheckpointError, LibraryError: as `extract` does.
    """
    if "-" in sources:
        raise UsageError("-: standard input cannot be read once for each view; give a list in a file")
    begin_views(Path(folder), preset)
    for view in preset.views:
        sampling = replace(view.sampling, frames=encoder.frames)
        cropping = encoder.cropping_at(view.crop_at)
        yield run(sources, Path(folder, view.name), encoder=cropping, sampling=sampling, **options)
