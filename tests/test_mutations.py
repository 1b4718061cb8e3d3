"""Five hundred damaged videos among twenty good ones: each has its verdict, and the good ones their rows."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pyarrow.compute as pc
import pytest

from tests.test_pipeline import FlatEncoder
from tests.videos import CODECS, write_video
from vmae_embed.extractor import run
from vmae_embed.library import verify

SCRIPT = Path(__file__).parents[1] / "scripts" / "mutate_videos.py"
SEEDS = {
    "h264.mp4": "libx264",
    "h264.mkv": "libx264",
    "h264.ts": "libx264",
    "h264.mov": "libx264",
    "h264.flv": "libx264",
    "hevc.mp4": "libx265",
    "av1.mp4": "libsvtav1",
    "vp8.webm": "libvpx",
    "vp9.webm": "libvpx-vp9",
    "mpeg4.avi": "mpeg4",
    "mpeg2.mpg": "mpeg2video",
    "mjpeg.avi": "mjpeg",
    "ffv1.mkv": "ffv1",
}


def of_good_ones(library):
    table = library.table().drop_columns(["path"])  # they lie in another folder
    return table.filter(pc.starts_with(table["video_id"], "good")).sort_by("clip_id")


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_every_damaged_video_has_its_verdict_and_harms_no_other(tmp_path):
    seeds, mixed, alone = (tmp_path / name for name in ("seeds", "mixed", "alone"))
    for folder in (seeds, mixed, alone):
        folder.mkdir()
    for name, encoder in SEEDS.items():
        write_video(seeds / name, codec=encoder, frames=40, size=(96, 64))
    for i in range(20):
        codec = list(CODECS)[i % len(CODECS)]
        good = alone / f"good{i:02}{CODECS[codec].suffix}"
        write_video(good, codec=codec, frames=70, size=(96, 64), first_index=50 * i)
        os.link(good, mixed / good.name)
    subprocess.run([sys.executable, SCRIPT, *sorted(seeds.iterdir()), "-o", mixed, "--count", "500"], check=True)

    undisturbed = run([alone], tmp_path / "undisturbed", encoder=FlatEncoder(batch_size=8), workers=2)
    assert (undisturbed.videos, undisturbed.failures) == (20, [])
    done = run([mixed], tmp_path / "lib", encoder=FlatEncoder(batch_size=8), workers=2, video_timeout_s=60)

    assert done.videos == 520
    with_clips = set(done.library.column("video_id"))
    failed = {failure.video_id for failure in done.library.failures()}
    assert with_clips | failed == {path.name for path in mixed.iterdir()}
    assert not with_clips & failed
    assert 100 < len(failed) < 500  # damage that shows, and damage that decodes
    assert not any(name.startswith("good") for name in failed)
    assert all(f.reason and f.stage in ("open", "timeline", "decode", "worker", "memory") for f in done.failures)
    assert of_good_ones(done.library).equals(of_good_ones(undisturbed.library))
    assert verify(done.library) == []
