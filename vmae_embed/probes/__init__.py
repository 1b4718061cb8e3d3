"""Probes: small estimators that say what frozen features are worth, with scikit-learn's methods."""

from vmae_embed.probes.attentive import AttentiveProbe as AttentiveProbe
from vmae_embed.probes.knn import NEIGHBOURS as NEIGHBOURS
from vmae_embed.probes.knn import KNNProbe as KNNProbe
from vmae_embed.probes.linear import NORMS as NORMS
from vmae_embed.probes.linear import STRENGTHS as STRENGTHS
from vmae_embed.probes.linear import LinearProbe as LinearProbe
from vmae_embed.probes.store import SavedProbe as SavedProbe
from vmae_embed.probes.store import check_folder as check_folder
from vmae_embed.probes.store import load_probe as load_probe
from vmae_embed.probes.store import save_probe as save_probe
