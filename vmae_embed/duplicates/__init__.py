"""Near-duplicates: which videos repeat each other or themselves, where, and which of them could go."""

from vmae_embed.duplicates.clusters import Member as Member
from vmae_embed.duplicates.find import CENTER_FROM as CENTER_FROM
from vmae_embed.duplicates.find import find_duplicates as find_duplicates
from vmae_embed.duplicates.pairs import SCOPES as SCOPES
from vmae_embed.duplicates.results import Background as Background
from vmae_embed.duplicates.results import Duplicates as Duplicates
from vmae_embed.duplicates.results import VideoPair as VideoPair
from vmae_embed.duplicates.voting import MOST_OFFSETS as MOST_OFFSETS
