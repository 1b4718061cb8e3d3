"""Classification: videos, or the stored embeddings of a library, to the labels of a fine-tuned checkpoint.

Videos are extracted into libraries that are thrown away, one for each view, and those are classified as any library is.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from vmae_embed.checkpoint import DEFAULT_MODEL, load_checkpoint
from vmae_embed.classifier import Classifier
from vmae_embed.encoder import Encoder, check_device
from vmae_embed.errors import CheckpointError, LibraryError, UsageError, VmaeEmbedError
from vmae_embed.extractor import Observer, run
from vmae_embed.library import Library, to_matrix
from vmae_embed.records import Failure
from vmae_embed.sampling import Sampling

# How VideoMAE was tested (arXiv:2203.12602, A.1; its kinetics.py and ssv2.py): clips along time, three crops of each.
PROTOCOLS: Mapping[str, tuple[Sampling, ...]] = {
    "kinetics": (Sampling(stride=4, clips_per_video=5),),
    "ssv2": (Sampling(uniform=True), Sampling(uniform=True, segment_starts=True)),
}
_CROPS = (0.0, 0.5, 1.0)

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
    library.check_comparable(encoder.identity, encoder.preprocessing)
    try:
        return encoder.classifier()
    except (CheckpointError, UsageError) as error:
        raise type(error)(f"{library.path}: {error}; or give the videos instead of the library") from error


def classify_library(
    library: Library, classifier: Classifier, *, k: int = 5, per_clip: bool = False
) -> Iterator[Classified]:
    """Classify a library's clips by their stored embeddings; no video is decoded.

    Args:
        library: to classify.
        classifier: from `load_classifier`.
        k: how many labels; all, if there are fewer.
        per_clip: each clip instead of each video.

    Yields:
        Videos or clips, shard by shard.

    Raises:
        LibraryError: a shard cannot be read.
    """
    return _classify([library], classifier, k, per_clip)


def classify_videos(
    sources: Sequence[str | Path],
    encoder: Encoder,
    *,
    sampling: Sampling | None = None,
    protocol: str | None = None,
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
        protocol: one of `PROTOCOLS`, three crops of each clip, instead of ``sampling`` and the centre crop.
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
    if protocol is not None and (sampling is not None or protocol not in PROTOCOLS):
        raise UsageError(f"protocol={protocol!r}: give one of {', '.join(PROTOCOLS)}, and no sampling beside it")
    classifier = encoder.classifier()
    ways = (sampling or Sampling(),) if protocol is None else PROTOCOLS[protocol]
    crops = (encoder.preprocessing.crop_at,) if protocol is None else _CROPS
    with tempfile.TemporaryDirectory(prefix="vmae-embed-") as folder:
        libraries = [
            run(
                sources,
                Path(folder, f"{number}-{crop_at}"),
                encoder=encoder.cropping_at(crop_at),
                sampling=replace(way, frames=encoder.frames),
                glob=glob,
                decoder=decoder,
                exact_pixels=exact_pixels,
                workers=workers,
                observe=observe,
            ).library
            for number, way in enumerate(ways)
            for crop_at in crops
        ]
        failures = {failure.video_id: failure for library in libraries for failure in library.failures()}
        # What failed in one view is not passed off as seen in all.
        found = [one for one in _classify(libraries, classifier, k, per_clip) if one.video_id not in failures]
    if not found:
        first = failures[min(failures)]
        raise VmaeEmbedError(
            f"none of the {len(failures):,} videos could be decoded; the first, {first.video_id}: {first.reason}"
        )
    return sorted(found, key=lambda one: (one.video_id, one.start_s)), [failures[name] for name in sorted(failures)]


def _classify(libraries: Sequence[Library], classifier: Classifier, k: int, per_clip: bool) -> Iterator[Classified]:
    """Classify what several libraries hold of the same videos, each in a view of its own."""
    for unit in libraries[0].units():
        clips = pa.concat_tables(table for library in libraries for table in library.shards(_COLUMNS, [unit]))
        embeddings = to_matrix(clips["embedding"], libraries[0].width)
        probabilities = classifier.probabilities(embeddings)
        starts, ends = (clips[name].to_numpy() for name in ("start_s", "end_s"))
        videos, ids = clips["video_id"].to_pylist(), clips["clip_id"].to_pylist()
        for rows in _equal(ids if per_clip else videos):
            yield Classified(
                video_id=videos[rows[0]],
                clip_id=ids[rows[0]] if per_clip else None,
                start_s=float(starts[rows].min()),
                end_s=float(ends[rows].max()),
                views=len(rows),
                best=tuple(classifier.best(probabilities[rows].mean(axis=0, dtype=np.float64), k)),
            )


def _equal(names: Sequence[str]) -> list[NDArray[np.int64]]:
    """Rows of each name, in order of its first."""
    rows: dict[str, list[int]] = {}
    for row, name in enumerate(names):
        rows.setdefault(name, []).append(row)
    return [np.array(several) for several in rows.values()]
