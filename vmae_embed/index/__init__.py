"""The FAISS index over a library: chosen, trained and tuned by measurement, made to follow, and searched.

What is asked for (`spec`), from shards to rows (`rows`) and files (`generation`), training (`train`), measuring
(`tune`, `choose`), building and following (`build`), searching (`similarity`, `ann`, `store`).
"""

from vmae_embed.index.ann import Effort
from vmae_embed.index.backend import import_faiss
from vmae_embed.index.build import Made
from vmae_embed.index.rows import Observer
from vmae_embed.index.spec import FACTORIES, METRICS, IndexSpec
from vmae_embed.index.store import Index

__all__ = ["FACTORIES", "METRICS", "Effort", "Index", "IndexSpec", "Made", "Observer", "import_faiss"]
