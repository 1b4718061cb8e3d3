"""The probe suite: labelled clips, splits that do not leak, probes, figures with intervals, a page."""

from vmae_embed.probing.measures import MEASURES, Difference, Judged, compare, measure, of_clips, of_videos
from vmae_embed.probing.page import write_probe_page
from vmae_embed.probing.predictions import predictions
from vmae_embed.probing.protocol import Answers, Probe, Split, ask, few_shot, fit_probe, splits_of
from vmae_embed.probing.rows import FOLDERS, Rows, Unmatched, all_rows, labelled_rows, labelled_views
from vmae_embed.probing.suite import Evaluation, Result, Score, differences, evaluate_probes, score_probe, to_dict
from vmae_embed.probing.tokens import stores_tokens, with_stored_tokens, with_tokens

__all__ = [
    "FOLDERS",
    "MEASURES",
    "Answers",
    "Difference",
    "Evaluation",
    "Judged",
    "Probe",
    "Result",
    "Rows",
    "Score",
    "Split",
    "Unmatched",
    "all_rows",
    "ask",
    "compare",
    "differences",
    "evaluate_probes",
    "few_shot",
    "fit_probe",
    "labelled_rows",
    "labelled_views",
    "measure",
    "of_clips",
    "of_videos",
    "predictions",
    "score_probe",
    "splits_of",
    "stores_tokens",
    "to_dict",
    "with_stored_tokens",
    "with_tokens",
    "write_probe_page",
]
