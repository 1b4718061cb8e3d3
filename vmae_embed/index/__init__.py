"""The FAISS index over a library: chosen and tuned (`build`), kept and searched (`store`)."""

from vmae_embed.index.build import KINDS, import_faiss
from vmae_embed.index.store import Index

__all__ = ["KINDS", "Index", "import_faiss"]
