"""Classification: videos, or the stored embeddings of a library, to the labels of a fine-tuned checkpoint.

Videos are extracted into libraries that are thrown away, one for each view, and those are classified as any library is.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from vmae_embed.checkpoint import DEFAULT_MODEL, load_checkpoint
from vmae_embed.classifier import Classifier
from vmae_embed.encoder import Encoder, check_device
from vmae_embed.errors import CheckpointError, LibraryError, UsageError, VmaeEmbedError
from vmae_embed.extractor import Observer, run, run_views
from vmae_embed.library import Library, to_matrix
from vmae_embed.presets import Preset, find_preset
from vmae_embed.records import Failure
from vmae_embed.sampling import Sampling
from vmae_embed.views import Views, as_views, rows_of_each

_COLUMNS = ["clip_id", "video_id", "start_s", "end_s", "embedding"]


@dataclass(frozen=True, slots=True)
class Classified:
    """A video, or a clip of one, and its likeliest labels.

    Attributes:
        video_id: the video's id.
        clip_id: the clip; None for the whole video.
        start_s: seconds of presentation time; of a video, where its first clip starts.
        end_s: seconds; of a video, where its last clip ends.
        views: forward passes that went into it: clips, times crops.
        best: labels and their probabilities, the likeliest first. They are the mean of the views' probabilities.
    """

    video_id: str
    clip_id: str | None
    start_s: float
    end_s: float
    views: int
    best: tuple[tuple[str, float], ...]


def load_classifying_encoder(
    model: str | Path = DEFAULT_MODEL,
    *,
    revision: str | None = None,
    device: str | None = None,
    dtype: str | None = None,
) -> Encoder:
    """Load a fine-tuned checkpoint with the pooling that its classifier takes.

    Args:
        model: a hub id, or a local directory in the hub's layout.
        revision: of the hub repository.
        device: None takes a GPU where there is one.
        dtype: of the matrix products.

    Raises:
        CheckpointError: it cannot be loaded, or has no classifier.
        UsageError: no such device or dtype.
    """
    check_device(device)
    checkpoint = load_checkpoint(model, revision)
    pooling = "mean" if checkpoint.classifier is None else checkpoint.classifier.pooling
    encoder = Encoder(checkpoint, device=device, dtype=dtype, pooling=pooling)
    encoder.classifier()  # refuses a checkpoint without one
    return encoder


def load_classifier(library: Library, model: str | Path | None = None, *, revision: str | None = None) -> Classifier:
    """Load the classifier that takes a library's embeddings: of the checkpoint that made them, by its hash.

    Args:
        library: whose embeddings are to be classified.
        model: where its checkpoint lies now; None for where it lay.
        revision: of the hub repository; None for the library's.

    Raises:
        LibraryError: its vectors were imported.
        IdentityMismatch: the checkpoint is not the library's.
        CheckpointError: it cannot be loaded, or has no classifier.
        UsageError: the library's pooling is not what the classifier takes.
    """
    if library.config.imported:
        raise LibraryError(
            f"{library.path} was imported: nobody here knows what made its vectors, so that no classifier fits them; "
            "give the videos instead"
        )
    encoder = Encoder.from_identity(library.config.encoder, model, revision=revision, device="cpu", dtype="float32")
    encoder = encoder.cropping_as(library.config.preprocessing)
    library.check_comparable(encoder.identity, encoder.preprocessing)
    try:
        return encoder.classifier()
    except (CheckpointError, UsageError) as error:
        raise type(error)(f"{library.path}: {error}; or give the videos instead of the library") from error


def classify_library(
    library: Library | Views, classifier: Classifier, *, k: int = 5, per_clip: bool = False
) -> Iterator[Classified]:
    """Classify a library's clips by their stored embeddings; no video is decoded.

    Args:
        library: to classify, or several views of the same videos.
        classifier: from `load_classifier`.
        k: how many labels; all, if there are fewer.
        per_clip: each clip instead of each video.

    Yields:
        Videos or clips, shard by shard.

    Raises:
        LibraryError: a shard cannot be read.
    """
    return _classify(as_views(library), classifier, k, per_clip)


def classify_videos(
    sources: Sequence[str | Path],
    encoder: Encoder,
    *,
    sampling: Sampling | None = None,
    preset: str | None = None,
    k: int = 5,
    per_clip: bool = False,
    glob: str | None = None,
    decoder: str = "auto",
    exact_pixels: bool = False,
    workers: int | None = None,
    observe: Observer | None = None,
) -> tuple[list[Classified], list[Failure]]:
    """Classify videos.

    Args:
        sources: files, folders, lists and manifests; see `vmae_embed.sources.list_videos`.
        encoder: from `load_classifying_encoder`.
        sampling: how to cut clips; None for 7.5 frames a second in touching windows.
        preset: one of `vmae_embed.presets.PRESETS`, instead of ``sampling`` and the centre crop.
        k: how many labels; all, if there are fewer.
        per_clip: each clip instead of each video.
        glob: which files of folders to take.
        decoder: one of `vmae_embed.decode.DECODERS`.
        exact_pixels: convert frames whole before they are resized, as transformers would see them.
        workers: decoding processes; None for one a processor.
        observe: called with the plan and with each progress, of one view after the other.

    Returns:
        Videos or clips in order of video and time, and the videos that failed.

    Raises:
        UsageError: a source or an option is wrong.
        VmaeEmbedError: not one of the videos could be decoded.
    """
    if preset is not None and sampling is not None:
        raise UsageError(f"preset={preset!r} says how clips are cut: give no sampling beside it")
    classifier = encoder.classifier()
    with tempfile.TemporaryDirectory(prefix="vmae-embed-") as folder:
        views, failures = embed_videos(
            sources,
            Path(folder),
            encoder=encoder,
            sampling=sampling,
            preset=None if preset is None else find_preset(preset),
            glob=glob,
            decoder=decoder,
            exact_pixels=exact_pixels,
            workers=workers,
            observe=observe,
        )
        found = list(classify_library(views, classifier, k=k, per_clip=per_clip))
    return sorted(found, key=lambda one: (one.video_id, one.start_s)), failures


def embed_videos(
    sources: Sequence[str | Path],
    folder: Path,
    *,
    encoder: Encoder,
    sampling: Sampling | None = None,
    preset: Preset | None = None,
    **options: Any,
) -> tuple[Views, list[Failure]]:
    """Extract videos that somebody only wants named, in one view or in a preset's.

    Args:
        sources: files, folders, lists and manifests.
        folder: to put libraries in; new or empty.
        encoder: loaded.
        sampling: how to cut clips, without a preset; None for 7.5 frames a second in touching windows.
        preset: whose views.
        **options: those of `vmae_embed.extractor.run`.

    Returns:
        What was extracted, and the videos that failed, in any view.

    Raises:
        UsageError: a source or an option is wrong.
        VmaeEmbedError: not one of the videos could be decoded.
    """
    if preset is None:
        cut = replace(sampling or Sampling(), frames=encoder.frames)
        libraries = [run(sources, folder, encoder=encoder, sampling=cut, **options).library]
    else:
        libraries = [done.library for done in run_views(sources, folder, preset, encoder=encoder, **options)]
    failed = {failure.video_id: failure for library in libraries for failure in library.failures()}
    failures = [failed[name] for name in sorted(failed)]
    if failures and not all(map(len, libraries)):
        first = failures[0]
        raise VmaeEmbedError(
            f"none of the {len(failures):,} videos could be decoded; the first, {first.video_id}: {first.reason}"
        )
    return Views(folder, preset, tuple(libraries)), failures


def _classify(views: Views, classifier: Classifier, k: int, per_clip: bool) -> Iterator[Classified]:
    shards = [(library, unit) for library in views.libraries for unit in library.units()]
    everywhere = views.whole_videos() if len(views.libraries) > 1 else None
    # A shard holds whole videos, but another view's may hold others.
    for together in [shards] if len(views.libraries) > 1 else [[shard] for shard in shards]:
        tables, found = [], []
        for library, unit in together:
            (clips,) = library.shards(_COLUMNS, [unit])
            found.append(classifier.probabilities(to_matrix(clips["embedding"], library.width)))
            tables.append(clips.drop_columns("embedding"))
        clips, probabilities = pa.concat_tables(tables), np.concatenate(found)
        starts, ends = (clips[name].to_numpy() for name in ("start_s", "end_s"))
        videos, ids = clips["video_id"].to_pylist(), clips["clip_id"].to_pylist()
        for rows in rows_of_each(ids if per_clip else videos):
            if everywhere is not None and videos[rows[0]] not in everywhere:
                continue
            yield Classified(
                video_id=videos[rows[0]],
                clip_id=ids[rows[0]] if per_clip else None,
                start_s=float(starts[rows].min()),
                end_s=float(ends[rows].max()),
                views=len(rows),
                best=tuple(classifier.best(probabilities[rows].mean(axis=0, dtype=np.float64), k)),
            )
