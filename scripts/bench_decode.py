"""Decoding alone: CPU time for a clip, against decord, a plain PyAV loop and torchcodec.

Every side gets the same frames of the same files, on one thread, in one process, in alternation;
what counts is the process's CPU time, opening the file included. The files are made from the video
that is given, in every codec and height: 640 frames, played forwards and backwards, for clips that touch, and
the same packets twelve times over for 8 sparse clips. Clips are 16 frames at stride 4.

Peers hand over whole RGB frames. Ours hands over what the encoder takes (224 x 224), and so does
"decord, resized" (Pillow, as transformers does): that pair does the same work.

    python scripts/bench_decode.py VIDEO --cache DIR [--codecs h264,hevc] [--heights 240,720] [--rounds 3]
"""

from __future__ import annotations

import argparse
import os
import platform
import sys
import time
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path

import av
import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from vmae_embed.decode import cropping, decode_clips, open_video
from vmae_embed.preprocess import Preprocessing
from vmae_embed.sampling import Sampling, plan_spans

# SVT-AV1 greets on stderr at any level above 1.
os.environ.setdefault("SVT_LOG", "1")

FRAMES, LOOPS, SPARSE = 640, 12, 8
PREPROCESSING = Preprocessing(224, None, (224, 224), 2, 1 / 255, (0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
# Each encoder at its own default quality, as most files are made.
ENCODERS = {
    "h264": ("libx264", ".mp4", {"preset": "medium", "bf": "3"}),
    "hevc": ("libx265", ".mp4", {"preset": "fast", "x265-params": "log-level=error"}),
    "vp9": ("libvpx-vp9", ".webm", {"crf": "32", "b": "0", "deadline": "realtime", "cpu-used": "6"}),
    "av1": ("libsvtav1", ".mp4", {"preset": "9", "crf": "35"}),
}
Clips = list[list[int]]


def encode(source: str, codec: str, height: int, folder: Path) -> Path:
    """Re-encode a video, scaled, played forwards and backwards."""
    name, suffix, options = ENCODERS[codec]
    path = folder / f"{Path(source).stem}_{codec}_{height}{suffix}"
    if path.exists():
        return path
    with av.open(source) as container:
        frames = [frame for frame, _ in zip(container.decode(video=0), range(FRAMES), strict=False)]
    both_ways = [*frames, *frames[-2:0:-1]]
    width = round(height * frames[0].width / frames[0].height / 2) * 2
    part = path.with_suffix(f".part{suffix}")
    with av.open(str(part), "w") as container:
        stream = container.add_stream(name, rate=30, options=options)
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        for i in range(FRAMES):
            frame = both_ways[i % len(both_ways)].reformat(width, height, "yuv420p", interpolation="BICUBIC")
            frame.pts, frame.time_base, frame.pict_type = i, Fraction(1, 30), 0
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    part.rename(path)
    return path


def repeat(path: Path) -> Path:
    """Write the packets of a video over and over."""
    longer = path.with_stem(f"{path.stem}_long")
    if longer.exists():
        return longer
    part = longer.with_suffix(f".part{longer.suffix}")
    with av.open(str(part), "w") as to:
        stream = None
        for loop in range(LOOPS):
            with av.open(str(path)) as container:
                video = container.streams.video[0]
                stream = stream or to.add_stream_from_template(video, opaque=True)
                shift = round(loop * Fraction(FRAMES, 30) / video.time_base)
                for packet in container.demux(video):
                    if packet.size:
                        packet.pts, packet.dts = packet.pts + shift, packet.dts + shift
                        packet.stream = stream
                        to.mux(packet)
    part.rename(longer)
    return longer


def ours(path: str, clips: Clips, sampling: Sampling, exact_pixels: bool = False) -> int:
    crop = cropping(PREPROCESSING, exact_pixels=exact_pixels)
    # A worker's slot, which it copies every clip to.
    slot = np.empty((16, 224, 224, 3), np.uint8)
    return sum(
        len(batch.frames)
        for batch in decode_clips(
            path,
            lambda timeline: plan_spans(timeline, sampling),
            crop,
            stack=lambda frames: np.stack(frames, out=slot),
        )
    )


def by_decord(path: str, clips: Clips, sampling: Sampling, resize: bool = False) -> int:
    import decord

    reader, count = decord.VideoReader(path, num_threads=1), 0
    for clip in clips:
        frames = reader.get_batch(clip).asnumpy()
        count += len(np.stack([PREPROCESSING(frame) for frame in frames]) if resize else frames)
    return count


def by_pyav(path: str, clips: Clips, sampling: Sampling) -> int:
    wanted, count = {index for clip in clips for index in clip}, 0
    with av.open(path) as container:
        container.streams.video[0].codec_context.thread_count = 1
        for index, frame in enumerate(container.decode(video=0)):
            if index in wanted:
                count += len(frame.to_ndarray(format="rgb24", threads=1)) > 0
    return count


def by_torchcodec(path: str, clips: Clips, sampling: Sampling, seek_mode: str = "exact") -> int:
    from torchcodec.decoders import VideoDecoder

    decoder = VideoDecoder(path, dimension_order="NHWC", num_ffmpeg_threads=1, seek_mode=seek_mode)
    return sum(len(decoder.get_frames_at(clip).data.numpy()) for clip in clips)


def sides() -> dict[str, Callable[[str, Clips, Sampling], int]]:
    found: dict[str, Callable[[str, Clips, Sampling], int]] = {
        "ours": ours,
        "ours, exact pixels": lambda *a: ours(*a, exact_pixels=True),
        "decord": by_decord,
        "decord, resized": lambda *a: by_decord(*a, resize=True),
        "PyAV loop": by_pyav,
    }
    try:
        import torchcodec  # noqa: F401
    except (ImportError, OSError, RuntimeError):
        print("torchcodec cannot be imported: left out", file=sys.stderr)
    else:
        found["torchcodec"] = by_torchcodec
        found["torchcodec, approximate"] = lambda *a: by_torchcodec(*a, seek_mode="approximate")
    return found


def measure(path: str, sampling: Sampling, rounds: int, left_out: str = "") -> dict[str, float | None]:
    """Milliseconds of CPU time for a clip, the least of some rounds; None for a side that fails or is left out."""
    timeline = open_video(path).timeline
    clips = [list(span.frames) for span in plan_spans(timeline, sampling)]
    least: dict[str, float | None] = dict.fromkeys(sides(), float("inf"))
    for _ in range(rounds):
        for name, side in sides().items():
            if name == left_out:
                least[name] = None
                continue
            begun = time.process_time()
            try:
                count = side(path, clips, sampling)
            except Exception as error:  # a peer that cannot read a codec is a dash in the table
                print(f"{name} on {path}: {error}", file=sys.stderr)
                least[name] = None
                continue
            taken = (time.process_time() - begun) * 1000 / len(clips)
            if count != sum(map(len, clips)):
                sys.exit(f"{name} gave {count} frames of {path}")
            least[name] = min(taken, least[name] or taken)
    return least


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("video", help="what the files are made from")
    parser.add_argument("--cache", type=Path, required=True, help="folder that keeps them")
    parser.add_argument("--codecs", default=",".join(ENCODERS))
    parser.add_argument("--heights", default="240,720,1080")
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    arguments.cache.mkdir(parents=True, exist_ok=True)
    machine = platform.processor() or platform.machine()
    print(f"{time.strftime('%Y-%m-%d')}, {machine}, av {av.__version__}; CPU ms a clip, least of {arguments.rounds}")
    print("| clips | file | " + " | ".join(sides()) + " | ours / decord | ours / best peer |")
    print("|---" * (len(sides()) + 4) + "|")
    for height in map(int, arguments.heights.split(",")):
        for codec in arguments.codecs.split(","):
            path = encode(arguments.video, codec, height, arguments.cache)
            for what, file, sampling, left_out in (
                ("touching", path, Sampling(stride=4), ""),
                # The loop decodes all 7,680 frames for 8 clips: no peer, and it would take most of the time.
                (f"{SPARSE} sparse", repeat(path), Sampling(stride=4, clips_per_video=SPARSE), "PyAV loop"),
            ):
                least = measure(str(file), sampling, arguments.rounds, left_out)
                peers = [value for name, value in least.items() if value and not name.startswith("ours")]
                against = [least["ours"] / value if value else float("nan") for value in (least["decord"], min(peers))]
                cells = ["—" if value is None else f"{value:.1f}" for value in least.values()]
                cells += [f"**{ratio:.2f}**" for ratio in against]
                print(f"| {what} | {codec} {height}p | " + " | ".join(cells) + " |", flush=True)


if __name__ == "__main__":
    main()
