"""What probes read, for the verbs that use probes."""

from __future__ import annotations

import contextlib
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from vmae_embed.cli.output import StageProgress, count_of, say, tell_unmatched
from vmae_embed.errors import UsageError

if TYPE_CHECKING:
    from vmae_embed.library import LibraryConfig
    from vmae_embed.probes import SavedProbe
    from vmae_embed.probing import Rows
    from vmae_embed.views import Views


@contextlib.contextmanager
def features_for(kinds: Sequence[str], views: Views, rows: Rows, *, device: str | None) -> Iterator[Rows]:
    """Give rows what probes of these kinds read: attentive ones read tokens, of the library or of a temporary file."""
    if "attentive" not in kinds:
        yield rows
        return
    from vmae_embed.encoder import Encoder
    from vmae_embed.library import bytes_of_tokens
    from vmae_embed.probing import stores_tokens, with_stored_tokens, with_tokens

    if stores_tokens(views):
        yield with_stored_tokens(views, rows)
        return
    encoder = Encoder.from_identity(views.config.encoder, device=device)
    size, clips = bytes_of_tokens((len(rows.truth), *encoder.token_shape)), count_of(len(rows.truth), "clip")
    with tempfile.TemporaryDirectory(prefix="vmae-embed-") as folder:
        say(f"computing {encoder.tokens:,} tokens of {clips}: {size / 1e9:.2f} GB in {folder}")
        if size > (free := shutil.disk_usage(folder).free):
            raise UsageError(
                f"{folder}: {free / 1e9:.2f} GB free; set TMPDIR to a larger disk, or extract with --store tokens"
            )
        with StageProgress() as progress:
            found, skipped = with_tokens(views, rows, encoder, Path(folder), observe=progress)
        tell_unmatched([clip.clip_id for clip in skipped], "clips could not be decoded again, and are left out")
        yield found


def tell_difference(saved: SavedProbe, views: Views) -> None:
    """Say where clips were cut otherwise than those that a probe was fitted to: that is allowed, and seldom wanted."""
    ours = _ways(saved.fitted_to.get("preset"), saved.config)
    theirs = _ways(None if views.preset is None else views.preset.name, views.config)
    if ours != theirs:
        say(f"the probe was fitted to {ours}; {views.path} has {theirs}")


def _ways(preset: str | None, config: LibraryConfig) -> str:
    return f"views of {preset}" if preset else f"clips of {config.sampling}"
