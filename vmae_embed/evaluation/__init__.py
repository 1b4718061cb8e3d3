"""How good a library's search is: against an exact one (`retrieval`), and against labels (`labelled`)."""

from vmae_embed.evaluation.intervals import Estimate, estimate
from vmae_embed.evaluation.labelled import MEASURES, Agreement, Measured, agreement, carried_labels, matched_labels
from vmae_embed.evaluation.queries import Queries, of_vectors, sample_queries
from vmae_embed.evaluation.retrieval import Retrieval, Speed, answer, evaluate_index

__all__ = [
    "MEASURES",
    "Agreement",
    "Estimate",
    "Measured",
    "Queries",
    "Retrieval",
    "Speed",
    "agreement",
    "answer",
    "carried_labels",
    "estimate",
    "evaluate_index",
    "matched_labels",
    "of_vectors",
    "sample_queries",
]
