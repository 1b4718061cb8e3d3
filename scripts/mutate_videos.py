"""Damage videos in every way that disks, networks and hostile senders do, the same way for the same seed.

    python scripts/mutate_videos.py VIDEO... -o DIR [--count 500] [--seed 0]

Each file is named after its number, the kind of damage and the video that it was.
"""

from __future__ import annotations

import argparse
import random
from collections.abc import Callable
from pathlib import Path

# Where containers keep sizes, counts and offsets: MP4's and Matroska's headers, or MP4's at the end.
_HEADER_BYTES = 4096
_LIES = (b"\x00\x00\x00\x00", b"\xff\xff\xff\xff", b"\x7f\xff\xff\xff", b"\x00\x00\x00\x01", b"\x80\x00\x00\x00")


def flip_bits(data: bytearray, rng: random.Random) -> None:
    for _ in range(rng.choice((1, 3, 10, 100, 1000))):
        data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)


def truncate(data: bytearray, rng: random.Random) -> None:
    del data[rng.randrange(len(data)) :]


def zero_range(data: bytearray, rng: random.Random) -> None:
    length = rng.randrange(1, max(len(data) // 4, 2))
    start = rng.randrange(max(len(data) - length, 1))
    data[start : start + length] = bytes(min(length, len(data) - start))


def lie_in_headers(data: bytearray, rng: random.Random) -> None:
    header = rng.choice((0, max(len(data) - _HEADER_BYTES, 0)))
    for _ in range(rng.choice((1, 2, 8))):
        place = header + rng.randrange(min(_HEADER_BYTES, len(data)))
        lie = rng.choice((*_LIES, rng.randbytes(4)))
        data[place : place + 4] = lie[: max(min(4, len(data) - place), 0)]


def lose_range(data: bytearray, rng: random.Random) -> None:
    start = rng.randrange(len(data))
    del data[start : start + rng.randrange(1, max(len(data) // 4, 2))]


def repeat_range(data: bytearray, rng: random.Random) -> None:
    start = rng.randrange(len(data))
    data[start:start] = data[start : start + rng.randrange(1, max(len(data) // 4, 2))]


def insert_garbage(data: bytearray, rng: random.Random) -> None:
    place = rng.randrange(len(data))
    data[place:place] = rng.randbytes(rng.choice((1, 188, 5000)))


MUTATIONS: tuple[Callable[[bytearray, random.Random], None], ...] = (
    flip_bits,
    truncate,
    zero_range,
    lie_in_headers,
    lose_range,
    repeat_range,
    insert_garbage,
)


def mutate(videos: list[Path], folder: Path, count: int, seed: int) -> None:
    """Write so many damaged videos to a folder."""
    folder.mkdir(parents=True, exist_ok=True)
    contents = [(video, video.read_bytes()) for video in sorted(videos)]
    for i in range(count):
        rng = random.Random(f"{seed} {i}")
        video, whole = contents[i % len(contents)]
        kind = MUTATIONS[i // len(contents) % len(MUTATIONS)]
        data = bytearray(whole)
        kind(data, rng)
        (folder / f"{i:04}_{kind.__name__}_{video.stem}{video.suffix}").write_bytes(data)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("videos", nargs="+", type=Path)
    parser.add_argument("-o", "--output", required=True, type=Path)
    parser.add_argument("--count", type=int, default=500)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    mutate(arguments.videos, arguments.output, arguments.count, arguments.seed)
    print(f"{arguments.count} damaged videos in {arguments.output}")


if __name__ == "__main__":
    main()
