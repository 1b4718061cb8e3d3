"""The whole of it, offline: render videos, extract, index, search, write the page."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from vmae_embed.encoder import Encoder
from vmae_embed.errors import UsageError
from vmae_embed.extractor import Observer, run
from vmae_embed.index import Index
from vmae_embed.library import Library
from vmae_embed.query import Hits, search
from vmae_embed.report import write_report
from vmae_embed.synthetic import write_demo_videos

RANDOM_WEIGHTS = (
    "This demo's encoder is a small VideoMAE with random weights: it shows that everything works, "
    "not what VideoMAE finds. Hits are alike in colour and texture at best."
)
_QUERY = "slide_checkered-ball.mp4"
_SEED = 0


@dataclass(frozen=True)
class Demo:
    """What the demo made.

    Attributes:
        library: of its videos.
        hits: of one of them.
        page: that shows the hits.
        query: clip id that was searched for.
    """

    library: Library
    hits: Hits
    page: Path
    query: str


def run_demo(folder: Path, *, say: Callable[[str], None], observe: Observer | None = None) -> Demo:
    """Make a demo in a directory, or finish one that was interrupted.

    Args:
        folder: new, empty, or an earlier demo's.
        say: called with a line before each step.
        observe: of the extraction.

    Raises:
        UsageError: there is something else in the directory.
    """
    marker = folder / "demo.json"
    if folder.exists() and (not folder.is_dir() or (any(folder.iterdir()) and not marker.exists())):
        raise UsageError(f"{folder}: not empty, and no demo; give another directory")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        marker.write_text(json.dumps({"made_by": "vmae-embed demo", "seed": _SEED}) + "\n", encoding="utf-8")
    except OSError as error:
        raise UsageError(f"{folder}: cannot be written ({error.strerror}); give another directory") from error

    videos, checkpoint, library = folder / "videos", folder / "random-videomae", folder / "library"
    if not (videos / "labels.csv").exists():
        say("rendering and encoding videos")
        write_demo_videos(videos, seed=_SEED)
    if not (checkpoint / "preprocessor_config.json").exists():
        say("making a small VideoMAE with random weights")
        save_random_checkpoint(checkpoint)
    say(f"vmae-embed extract {videos / 'labels.csv'} -o {library} --model {checkpoint}")
    summary = run([videos / "labels.csv"], library, encoder=Encoder.from_pretrained(checkpoint), observe=observe)
    say(f"vmae-embed index {library}")
    index = Index.open(summary.library)
    query = next(name for name in index.clips["clip_id"].to_pylist() if name.startswith(_QUERY))
    page = folder / "hits.html"
    say(f"vmae-embed search {library} '{query}' -k 8 --group-by video --html {page} --overwrite")
    hits = search(index, query, k=8, group_by="video")
    write_report(page, hits, title=f"What looks like {query}", notes=[RANDOM_WEIGHTS], overwrite=True)
    return Demo(summary.library, hits, page, query)


def save_random_checkpoint(folder: Path) -> None:
    """Write a small seeded VideoMAE in the hub's layout."""
    import torch
    from transformers import VideoMAEConfig, VideoMAEForPreTraining, VideoMAEImageProcessorPil
    from transformers.utils import logging

    config = VideoMAEConfig(
        image_size=112,
        hidden_size=192,
        num_hidden_layers=4,
        num_attention_heads=3,
        intermediate_size=768,
        decoder_hidden_size=96,
        decoder_num_hidden_layers=1,
        decoder_num_attention_heads=3,
        decoder_intermediate_size=384,
        use_mean_pooling=False,
    )
    logging.disable_progress_bar()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(_SEED)
        VideoMAEForPreTraining(config).save_pretrained(folder)
    VideoMAEImageProcessorPil(
        size={"shortest_edge": 112},
        crop_size={"height": 112, "width": 112},
        image_mean=[0.485, 0.456, 0.406],
        image_std=[0.229, 0.224, 0.225],
    ).save_pretrained(folder)
