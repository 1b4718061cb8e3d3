"""How good a library's search is.

Its index against an exact search (`retrieval`), its neighbours against labels (`labelled`), and kinds
of index against each other (`sweeping`, `page`).
"""

from vmae_embed.evaluation.labelled import MEASURES, Agreement, Measured, agreement, matched_labels
from vmae_embed.evaluation.page import sweep_notes, sweep_rows, write_sweep
from vmae_embed.evaluation.queries import Queries, of_vectors, sample_queries
from vmae_embed.evaluation.retrieval import Retrieval, Speed, answer, evaluate_index
from vmae_embed.evaluation.sweeping import Point, Sweep, factories, sweep
from vmae_embed.intervals import Estimate, estimate

__all__ = [
    "MEASURES",
    "Agreement",
    "Estimate",
    "Measured",
    "Point",
    "Queries",
    "Retrieval",
    "Speed",
    "Sweep",
    "agreement",
    "answer",
    "estimate",
    "evaluate_index",
    "factories",
    "matched_labels",
    "of_vectors",
    "sample_queries",
    "sweep",
    "sweep_notes",
    "sweep_rows",
    "write_sweep",
]
