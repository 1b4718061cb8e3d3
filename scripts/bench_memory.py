"""Peak memory of extraction: does it grow with the length of a video, or with the number of videos?

Repeats one video's packets, without encoding them anew, to files of two minutes and of two hours,
and links one short file many times. Runs `vmae-embed extract` on each with a small seeded encoder,
one decoding process, and samples the resident memory of both processes.

    python scripts/bench_memory.py VIDEO [--minutes 2 120] [--videos 10000] [--folder DIR]
"""

from __future__ import annotations

import argparse
import os
import platform
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import av

from vmae_embed.checkpoint import DEMO_MODEL
from vmae_embed.library import Library

SAMPLE_EVERY_S = 0.25


def repeat(video: Path, output: Path, seconds: float) -> None:
    """Copy a video's packets over and over until they last so long."""
    if output.exists():
        return
    with av.open(str(video)) as source, av.open(str(output), "w") as target:
        stream = source.streams.video[0]
        copy = target.add_stream_from_template(stream)
        packets = [(bytes(p), p.pts, p.dts, p.duration, p.is_keyframe) for p in source.demux(stream) if p.size]
        length = max(pts + duration for _, pts, _, duration, _ in packets) - min(pts for _, pts, *_ in packets)
        for turn in range(max(round(seconds / float(length * stream.time_base)), 1)):
            for data, pts, dts, duration, is_keyframe in packets:
                packet = av.Packet(data)
                packet.stream, packet.time_base = copy, stream.time_base
                packet.pts, packet.dts, packet.duration = pts + turn * length, dts + turn * length, duration
                packet.is_keyframe = is_keyframe
                target.mux(packet)


def link(video: Path, folder: Path, count: int) -> None:
    for i in range(count):
        path = folder / f"{i // 1000:03}" / f"{i:06}{video.suffix}"
        if not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            os.link(video, path)


class Sampler(threading.Thread):
    """Notes the resident bytes of a process and of its decoding processes."""

    def __init__(self, pid: int) -> None:
        super().__init__(daemon=True)
        self.pid = pid
        self.main: list[int] = []
        self.worker: list[int] = []

    def run(self) -> None:
        while (size := resident(self.pid)) is not None:
            self.main.append(size)
            children = Path(f"/proc/{self.pid}/task/{self.pid}/children").read_text().split()
            self.worker += [size for child in children if (size := resident(int(child)))]
            time.sleep(SAMPLE_EVERY_S)


def resident(pid: int) -> int | None:
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except (FileNotFoundError, ProcessLookupError):
        return None
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith("VmRSS")), None)


def measure(name: str, source: Path, model: str, folder: Path) -> None:
    library = folder / f"library {name}"
    command = [sys.executable, "-m", "vmae_embed", "extract", str(source), "-o", str(library)]
    command += ["--model", model, "--device", "cpu", "--workers", "1", "--quiet"]
    begun = time.monotonic()
    run = subprocess.Popen(command, stderr=subprocess.DEVNULL)
    sampler = Sampler(run.pid)
    sampler.start()
    if run.wait():
        sys.exit(f"{name}: extract ended with {run.returncode}")
    seconds = time.monotonic() - begun
    tenths = [max(part) for part in split(sampler.main, 10)]
    row = (name, len(Library.open(library)), seconds, max(sampler.main) / 2**20, max(sampler.worker) / 2**20)
    print("| {} | {:,} | {:.0f} | {:.0f} | {:.0f} |".format(*row), " ".join(f"{s / 2**20:.0f}" for s in tenths), "|")


def split(values: list[int], parts: int) -> list[list[int]]:
    return [values[len(values) * i // parts : len(values) * (i + 1) // parts] or values[-1:] for i in range(parts)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("video", type=Path, help="H.264 or HEVC in MP4, of some seconds")
    parser.add_argument("--minutes", type=float, nargs="*", default=[2.0, 120.0])
    parser.add_argument("--short", type=Path, help="linked many times; VIDEO unless given")
    parser.add_argument("--videos", type=int, nargs="*", default=[100, 10000])
    parser.add_argument("--folder", type=Path, help="keeps what is made; a temporary one unless given")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = arguments.folder or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        print(f"{time.strftime('%Y-%m-%d')}, {platform.processor() or platform.machine()}, resident MiB\n")
        print("| input | clips | seconds | peak, main | peak, decoding process | main by tenths of the run |")
        print("|---|---|---|---|---|---|")
        for minutes in arguments.minutes:
            source = folder / f"{minutes:g}min.mp4"
            repeat(arguments.video, source, minutes * 60)
            measure(f"one video of {minutes:g} min", source, DEMO_MODEL, folder)
        for count in arguments.videos:
            source = folder / f"{count}videos"
            link(arguments.short or arguments.video, source, count)
            measure(f"{count:,} videos", source, DEMO_MODEL, folder)


if __name__ == "__main__":
    main()
