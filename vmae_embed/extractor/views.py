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
from vmae_embed.views import begin_views, check_place


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
    check_views(sources, Path(folder), preset)
    begin_views(Path(folder), preset)
    for number, view in enumerate(preset.views):
        yield run(
            sources,
            Path(folder, view.name),
            encoder=encoder.cropping_at(view.crop_at),
            sampling=replace(view.sampling, frames=encoder.frames),
            like=Path(folder, preset.views[0].name),  # they are looked at together
            alike_to_come=len(preset.views) - number - 1,
            **options,
        )


def check_views(sources: Sequence[str | Path], folder: Path, preset: Preset) -> None:
    """Refuse what `run_views` would refuse, before anything takes its time.

    Raises:
        UsageError: a source cannot be read once for each view.
        LibraryError: the folder holds something else.
    """
    if "-" in sources:
        raise UsageError("-: standard input cannot be read once for each view; give a list in a file")
    check_place(folder, preset)
