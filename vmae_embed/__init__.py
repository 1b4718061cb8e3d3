"""vmae-embed: point it at videos, and it finds the moments that look alike.

    import vmae_embed as ve

    encoder = ve.Encoder.from_pretrained("MCG-NJU/videomae-base-finetuned-kinetics")
    library = ve.extract("videos/", "lib/", encoder=encoder)
    index = ve.Index.build(library)
    hits = ve.search(index, "query.mp4#t=3,5", encoder=encoder, k=5)

Names are loaded when they are first used, so that ``import vmae_embed`` costs nothing.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from vmae_embed.duplicates import find_duplicates as find_duplicates
    from vmae_embed.encoder import Encoder as Encoder
    from vmae_embed.errors import VmaeEmbedError as VmaeEmbedError
    from vmae_embed.exporter import export as export
    from vmae_embed.extractor import extract as extract
    from vmae_embed.importer import import_vectors as import_vectors
    from vmae_embed.index import Index as Index
    from vmae_embed.index import IndexSpec as IndexSpec
    from vmae_embed.library import Library as Library
    from vmae_embed.probes import LinearProbe as LinearProbe
    from vmae_embed.query import search as search
    from vmae_embed.query import search_many as search_many
    from vmae_embed.records import Hit as Hit
    from vmae_embed.report import show as show
    from vmae_embed.report import write_report as write_report
    from vmae_embed.sampling import Sampling as Sampling

__version__ = "0.1.0"

# Each name's module. No module has the name of a function here: importing it would shadow that.
_HOMES = {
    "Encoder": "encoder",
    "Hit": "records",
    "Index": "index",
    "IndexSpec": "index",
    "Library": "library",
    "LinearProbe": "probes",
    "Sampling": "sampling",
    "VmaeEmbedError": "errors",
    "export": "exporter",
    "extract": "extractor",
    "find_duplicates": "duplicates",
    "import_vectors": "importer",
    "search": "query",
    "search_many": "query",
    "show": "report",
    "write_report": "report",
}

__all__ = sorted([*_HOMES, "__version__"])


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'vmae_embed' has no attribute {name!r}")
    return getattr(importlib.import_module(f"vmae_embed.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return list(__all__)
