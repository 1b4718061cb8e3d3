"""The library on disk: ``library.json``, shards of clips and of failures, always whole."""

from vmae_embed.library.config import LibraryConfig
from vmae_embed.library.files import (
    exclusive,
    remove_leftovers,
    require_own_place,
    sync_directory,
    temporary_name,
    write_atomically,
)
from vmae_embed.library.shards import LABEL_COLUMNS, RESERVED, STORED, clip_rows, to_matrix
from vmae_embed.library.store import Held, Library
from vmae_embed.library.tokens import Tokens, TokenSpool, bytes_of_tokens
from vmae_embed.library.verify import verify

__all__ = [
    "LABEL_COLUMNS",
    "RESERVED",
    "STORED",
    "Held",
    "Library",
    "LibraryConfig",
    "TokenSpool",
    "Tokens",
    "bytes_of_tokens",
    "clip_rows",
    "exclusive",
    "remove_leftovers",
    "require_own_place",
    "sync_directory",
    "temporary_name",
    "to_matrix",
    "verify",
    "write_atomically",
]
