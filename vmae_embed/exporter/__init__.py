"""A library's embeddings, written as other tools take them."""

from vmae_embed.exporter.run import KINDS, Exported, export

__all__ = ["KINDS", "Exported", "export"]
