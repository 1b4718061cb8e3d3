"""Extraction: videos in, a library out. Resuming, growing and repairing are the same call.

`extraction` does it, for a loaded encoder; `views` for each view of a preset; `loading` finds the encoder that a
library was made with; `checks` refuses what cannot be done before anything is.
"""

from vmae_embed.extractor.checks import check_limits
from vmae_embed.extractor.extraction import Observer, extract, run
from vmae_embed.extractor.loading import load_encoder
from vmae_embed.extractor.views import check_views, run_views

__all__ = ["Observer", "check_limits", "check_views", "extract", "load_encoder", "run", "run_views"]
