"""Query files: decoded and embedded as the library's videos were."""

from __future__ import annotations

import os
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from vmae_embed.decode import check_decoder, cropping, decode_clips
from vmae_embed.encoder import Encoder
from vmae_embed.errors import DecodeError, QueryError
from vmae_embed.library import Library
from vmae_embed.records import ClipSpan, FrameBatch, QueryClip, clip_id
from vmae_embed.sampling import plan_spans


class FileEmbedder:
    """Embeds files as a library's videos were; its encoder is loaded once, for the first that needs it.

    Args:
        library: that is searched.
        encoder: that embeds, or a function that loads one; None loads the library's own checkpoint.
        decoder: one of `vmae_embed.decode.DECODERS`.
    """

    def __init__(self, library: Library, encoder: Encoder | Callable[[], Encoder] | None, decoder: str) -> None:
        self._library = library
        self._given = encoder
        self._decoder = decoder
        self._loaded: Encoder | None = None

    def embed(
        self, name: str, path: str, start_s: float | None, end_s: float | None
    ) -> tuple[list[QueryClip], NDArray[np.float32]]:
        """Embed a file, or a moment of it.

        Args:
            name: of the query, for its clips' names and for messages.
            path: of the file.
            start_s: where the moment begins, in seconds; None for the start of the video.
            end_s: where it ends; None for the end of the video.

        Returns:
            Q clips, and their embeddings ``(Q, D)``.

        Raises:
            QueryError: there is no such file, it cannot be decoded, or the library's vectors were imported.
            IdentityMismatch: the encoder is not the library's.
            CheckpointError: it cannot be loaded.
        """
        config = self._library.config
        sampling, preprocessing = config.sampling, config.preprocessing
        if sampling is None or preprocessing is None:
            raise QueryError(
                f"{name}: cannot be embedded as {self._library.path} was, "
                "its vectors were imported: search for one of its ids, or a .npy vector"
            )
        if not os.path.isfile(path):
            raise QueryError(f"{name}: the library knows this video, but {path} is gone; ask for one of its clip ids")
        check_decoder(self._decoder)
        embedding = _Embedding(self._encoder)
        try:
            for batch in decode_clips(
                path,
                lambda timeline: plan_spans(timeline, sampling, start_s=start_s, end_s=end_s),
                cropping(preprocessing, exact_pixels=config.exact_pixels),
                decoder=self._decoder,
                threads=0,
                on_timeline=lambda _: embedding.begin_anew(),
            ):
                embedding.add(batch)
        except DecodeError as error:
            raise QueryError(f"{name}: {error}") from error
        vectors = embedding.end()
        spans = embedding.spans
        return [QueryClip(clip_id(name, s.start_s, s.end_s), path, s.start_s, s.end_s) for s in spans], vectors

    def _encoder(self) -> Encoder:
        if self._loaded is None:
            given = self._given
            if given is None:
                loaded = Encoder.from_identity(self._library.config.encoder)
            else:
                loaded = given if isinstance(given, Encoder) else given()
            loaded = loaded.cropping_as(self._library.config.preprocessing)
            self._library.check_comparable(loaded.identity, loaded.preprocessing)
            self._loaded = loaded
        return self._loaded


class _Embedding:
    """Embeds clips as they come: of a long video, no more frames are held than one batch has."""

    def __init__(self, load: Callable[[], Encoder]) -> None:
        self._load = load
        self._encoder: Encoder | None = None
        self.begin_anew()

    def begin_anew(self) -> None:
        self.spans: list[ClipSpan] = []
        self._vectors: list[NDArray[np.float32]] = []
        self._frames: list[NDArray[np.uint8]] = []

    def add(self, batch: FrameBatch) -> None:
        # Loaded only now: a file that is no video is told at once.
        self._encoder = self._encoder or self._load()
        self.spans.append(batch.span)
        self._frames.append(batch.frames)
        if len(self._frames) == self._encoder.batch_size:
            self._embed(self._encoder)

    def end(self) -> NDArray[np.float32]:
        if self._encoder is not None and self._frames:
            self._embed(self._encoder)
        return np.concatenate(self._vectors)

    def _embed(self, encoder: Encoder) -> None:
        self._vectors.append(encoder.encode_cropped(np.stack(self._frames)))
        self._frames.clear()
