"""How well a pre-trained VideoMAE fills in what it is not shown of a clip, and of a library's clips."""

from vmae_embed.reconstruction.clips import choose_clip, decode_clip
from vmae_embed.reconstruction.masks import tube_mask
from vmae_embed.reconstruction.model import Reconstruction, Reconstructor
from vmae_embed.reconstruction.over import LibraryLosses, measure_library
from vmae_embed.reconstruction.picture import check_picture, write_picture

__all__ = [
    "LibraryLosses",
    "Reconstruction",
    "Reconstructor",
    "check_picture",
    "choose_clip",
    "decode_clip",
    "measure_library",
    "tube_mask",
    "write_picture",
]
