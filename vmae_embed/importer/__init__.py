"""Vectors made elsewhere, taken as a library: searched, probed and judged like any other."""

from vmae_embed.importer.run import Imported, import_vectors

__all__ = ["Imported", "import_vectors"]
