"""Search: a file, a moment of one, a clip of the library or a vector, to its nearest clips."""

from vmae_embed.query.answer import Hits
from vmae_embed.query.arrays import load_array
from vmae_embed.query.find import search, search_many
from vmae_embed.query.lists import open_queries
from vmae_embed.query.wanted import COMBINATIONS, GROUPINGS

__all__ = ["COMBINATIONS", "GROUPINGS", "Hits", "load_array", "open_queries", "search", "search_many"]
