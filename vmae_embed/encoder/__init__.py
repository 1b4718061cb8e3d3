"""The frozen encoder, frames to embeddings.

`model` is what callers hold; `forward` the network over a checkpoint's weights, with `attention`;
`choices` what can be asked for; `batches` how many clips at once; `transfer` to the device and back.
"""

from vmae_embed.encoder.choices import DTYPES, POOLINGS, check_device
from vmae_embed.encoder.model import Encoder
from vmae_embed.encoder.transfer import Pending

__all__ = ["DTYPES", "POOLINGS", "Encoder", "Pending", "check_device"]
