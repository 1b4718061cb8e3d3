"""Every error this package raises on purpose.

    VmaeEmbedError
    ├── UsageError            the call itself is wrong: a bad value, a missing file
    │   ├── SourceError       a source that names no video, or two videos by one id
    │   └── QueryError        a query that cannot be read, or that names nothing
    ├── CheckpointError       no such checkpoint, not a VideoMAE, weights missing
    ├── DecodeError           a video that cannot be decoded as asked
    │   ├── DecoderRefused    this backend cannot do this file right; another may
    │   └── TimelineMismatch  the decoder's frames are not those that the packets promised
    ├── LibraryError          not a library, unreadable, or in use
    │   ├── LibraryLocked     another run is writing to it
    │   └── IdentityMismatch  made by another checkpoint, pooling, sampling or preprocessing
    ├── SearchIndexError      the index cannot be built or does not fit its library
    └── ProbeError            labels and embeddings that no probe can be fitted to

A message is one line that says what was given, what is accepted, and what to do.
The command line exits with 2 after a `UsageError` and with 1 after any other.
"""


class VmaeEmbedError(Exception):
    """Root of the tree above; catch it to catch them all."""


class UsageError(VmaeEmbedError):
    """The call is wrong; nothing was done."""


class SourceError(UsageError):
    """A source names no video, or two videos by one id."""


class QueryError(UsageError):
    """A query cannot be read, or names nothing."""


class CheckpointError(VmaeEmbedError):
    """A checkpoint is missing, is no VideoMAE, or its weights do not fit."""


class DecodeError(VmaeEmbedError):
    """A video cannot be decoded as asked.

    Attributes:
        stage: where it stopped: ``open``, ``timeline`` or ``decode``.
    """

    def __init__(self, message: str, *, stage: str) -> None:
        super().__init__(message)
        self.stage = stage


class DecoderRefused(DecodeError):
    """The backend cannot do this file right; another backend may."""


class TimelineMismatch(DecodeError):
    """The decoder did not deliver a frame that the packets' timestamps promised."""


class LibraryError(VmaeEmbedError):
    """A directory is not a library, is unreadable, or is in use."""


class LibraryLocked(LibraryError):
    """Another run is writing to the library."""


class IdentityMismatch(LibraryError):
    """The library was made under another checkpoint, pooling, sampling or preprocessing."""


class SearchIndexError(VmaeEmbedError):
    """An index cannot be built, read, or does not fit its library."""


class ProbeError(VmaeEmbedError):
    """Labels and embeddings that no probe can be fitted to."""


def one_line(error: BaseException) -> str:
    """Say what was raised, kind and message, in one line."""
    return " ".join(f"{type(error).__name__}: {error}".split())
