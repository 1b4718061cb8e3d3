"""A small library of real video files, for a demo that needs no network.

Each video shows one object (its look) moving in one way (its motion). Every pair is there in four
takes, each with its own speed, phase, place, size and frame rate, so that neither label follows
from the other and no two videos are copies.
"""

from __future__ import annotations

import csv
import math
from collections.abc import Callable, Iterator
from fractions import Fraction
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import NDArray

from vmae_embed.errors import UsageError

if TYPE_CHECKING:
    from PIL import Image

Plane = NDArray[np.float64]
Picture = NDArray[np.float64]
Colour = tuple[int, int, int]

# Edges are drawn this much larger and averaged down.
SUPERSAMPLE = 3
# At rest an object is this much of the frame's shorter side.
OBJECT_SIDE = 0.44
# The square that an object is drawn on leaves this much room for its shadow.
MARGIN = 1.2
# Backdrops are out of focus, so that the object is what one looks at: in parts of the shorter side.
BACKDROP_BLUR = 0.02
FRAME_RATES = (30, 25, 24)
TAKES = 4


class _Pose(NamedTuple):
    """Where an object is: place in parts of the frame, tilt in radians, and stretch."""

    x: float = 0.0
    y: float = 0.0
    tilt: float = 0.0
    wide: float = 1.0
    tall: float = 1.0


def _wave(turns: float) -> float:
    return math.sin(2 * math.pi * turns)


def _slide(turns: float) -> _Pose:
    return _Pose(x=0.22 * _wave(turns))


def _lift(turns: float) -> _Pose:
    return _Pose(y=0.21 * _wave(turns))


def _circle(turns: float) -> _Pose:
    return _Pose(x=0.19 * _wave(turns + 0.25), y=0.21 * _wave(turns))


def _bounce(turns: float) -> _Pose:
    air = (2 * turns) % 1
    squash = 0.5 * max(0.0, 1 - 9 * min(air, 1 - air))
    height = 4 * air * (1 - air)
    # As an object flattens, its middle comes down and its foot stays.
    y = 0.21 - 0.42 * height + 0.22 * squash
    return _Pose(y=y, wide=1 + squash, tall=1 - squash)


def _pulse(turns: float) -> _Pose:
    side = 1.0 + 0.45 * _wave(turns)
    return _Pose(wide=side, tall=side)


def _spin(turns: float) -> _Pose:
    return _Pose(tilt=2 * math.pi * turns)


def _shake(turns: float) -> _Pose:
    return _Pose(0.035 * _wave(11 * turns), 0.025 * _wave(7 * turns), 0.12 * _wave(9 * turns))


# One turn takes about two seconds: about what a clip of 16 frames sees.
MOTIONS: dict[str, Callable[[float], _Pose]] = {
    "slide": _slide,
    "lift": _lift,
    "circle": _circle,
    "bounce": _bounce,
    "pulse": _pulse,
    "spin": _spin,
    "shake": _shake,
}


def _mix(part: Plane, low: Colour, high: Colour) -> Picture:
    """Blend two colours: 0 gives the first, 1 the second."""
    return np.asarray(low) + part[..., None] * (np.asarray(high, float) - low)


def _noise(rng: np.random.Generator, size: tuple[int, int], grain: tuple[float, float]) -> Plane:
    """Smooth noise, 0 to 1, with bumps of about ``grain`` pixels in x and y."""
    from PIL import Image

    cells = (max(2, round(size[1] / grain[1])), max(2, round(size[0] / grain[0])))
    bumps = Image.fromarray(rng.random(cells, dtype=np.float32))
    return np.asarray(bumps.resize(size, Image.Resampling.BICUBIC), float)


def _lawn(rng: np.random.Generator, size: tuple[int, int]) -> Picture:
    mown = np.floor(np.arange(size[0]) / (size[0] / 8) + rng.random()) % 2
    blades = 0.45 * _noise(rng, size, (1.5, 5)) + 0.35 * _noise(rng, size, (28, 28))
    return _mix(blades + 0.3 * mown, (38, 96, 36), (128, 190, 74))


def _tiles(rng: np.random.Generator, size: tuple[int, int]) -> Picture:
    side = min(size) / 6
    x, y = (np.arange(length) / side + rng.random() for length in size)
    tint = rng.random((int(y[-1]) + 1, int(x[-1]) + 1))[np.ix_(y.astype(int), x.astype(int))]
    picture = _mix(0.7 * tint + 0.3 * _noise(rng, size, (40, 40)), (24, 104, 142), (112, 196, 206))
    grout = (x % 1 < 0.05)[None, :] | (y % 1 < 0.05)[:, None]
    picture[grout] = (222, 232, 226)
    return picture


def _sky(rng: np.random.Generator, size: tuple[int, int]) -> Picture:
    cloud = 0.6 * _noise(rng, size, (90, 70)) + 0.4 * _noise(rng, size, (30, 24))
    picture = _mix(cloud**2, (10, 12, 44), (124, 70, 168))
    for _ in range(size[0] * size[1] // 900):
        row, column = rng.integers(size[1] - 1), rng.integers(size[0] - 1)
        glow = 90 + 165 * rng.random()
        picture[row : row + 2, column : column + 1 + rng.integers(2)] += glow
    return picture


def _planks(rng: np.random.Generator, size: tuple[int, int]) -> Picture:
    y = np.arange(size[1]) / (size[1] / 5) + rng.random()
    tint = rng.random(int(y[-1]) + 1)[y.astype(int)][:, None]
    grain = 0.55 * _noise(rng, size, (120, 2.5)) + 0.25 * _noise(rng, size, (40, 9))
    picture = _mix(grain + 0.3 * tint, (112, 66, 34), (214, 158, 100))
    picture[y % 1 < 0.05] *= 0.45
    return picture


class _Object(NamedTuple):
    colours: Picture
    inside: NDArray[np.bool_]


def _ball(x: Plane, y: Plane) -> _Object:
    depth = np.sqrt(np.clip(1 - x**2 - y**2, 0, None))
    across, down = np.arctan2(x, depth), np.arcsin(np.clip(y, -1, 1))
    checks = (np.floor(across * 6 / np.pi) + np.floor(down * 6 / np.pi)) % 2
    colours = _mix(checks, (214, 34, 44), (250, 246, 236)) * (0.55 + 0.45 * depth[..., None] ** 0.6)
    return _Object(colours, x**2 + y**2 < 0.98)


def _crate(x: Plane, y: Plane) -> _Object:
    edge = np.maximum(abs(x), abs(y))
    corner = np.hypot(np.clip(abs(x) - 0.72, 0, None), np.clip(abs(y) - 0.72, 0, None))
    colours = _mix((np.floor((x + y) * 2.4) % 2), (34, 36, 46), (252, 204, 36))
    colours[edge > 0.76] = (196, 92, 20)
    colours[(edge > 0.72) & (edge <= 0.76)] = (92, 40, 10)
    return _Object(colours, (edge < 0.9) & (corner < 0.18))


def _star(x: Plane, y: Plane) -> _Object:
    radius, angle = np.hypot(x, y), np.arctan2(x, -y)
    # A star of five straight-edged points, seen from within one half-point.
    fold = abs((angle + np.pi / 5) % (2 * np.pi / 5) - np.pi / 5)
    tip, notch = 0.98, 0.5
    nx, ny = notch * math.sin(math.pi / 5), notch * math.cos(math.pi / 5) - tip
    outward = (radius * np.cos(fold) - tip) * nx - radius * np.sin(fold) * ny
    colours = _mix(np.clip(radius, 0, 1), (255, 226, 84), (255, 150, 30))
    for turn in range(5):
        at = 2 * math.pi * turn / 5
        for far, spot in ((0.3, 0.12), (0.62, 0.09)):
            colours[np.hypot(x - far * math.sin(at), y + far * math.cos(at)) < spot] = (222, 40, 120)
    # One spot of another colour, or a fifth of a turn would look like none.
    colours[np.hypot(x, y + 0.3) < 0.14] = (40, 96, 220)
    inside = outward < 0
    colours[outward > -0.035] = (150, 70, 10)
    return _Object(colours, inside)


def _donut(x: Plane, y: Plane) -> _Object:
    radius, angle = np.hypot(x, y), np.arctan2(y, x)
    colours = np.empty((*x.shape, 3))
    colours[:] = (196, 132, 62)
    icing = (radius < 0.84 + 0.05 * np.sin(7 * angle)) & (radius > 0.36 + 0.03 * np.sin(5 * angle))
    colours[icing] = (248, 120, 170)
    palette = ((255, 255, 255), (70, 190, 240), (255, 220, 60), (120, 215, 90), (150, 80, 210))
    rng = np.random.default_rng(5)
    for i in range(26):
        at, far, turn = 2.4 * i, 0.48 + 0.26 * rng.random(), rng.random() * math.pi
        dx, dy = x - far * math.cos(at), y - far * math.sin(at)
        along, aside = dx * math.cos(turn) + dy * math.sin(turn), dy * math.cos(turn) - dx * math.sin(turn)
        colours[(abs(along) < 0.085) & (abs(aside) < 0.032)] = palette[i % len(palette)]
    colours *= (1.04 - 0.75 * abs(radius - 0.63) ** 1.5)[..., None]
    return _Object(colours, (radius < 0.97) & (radius > 0.3))


_Backdrop = Callable[[np.random.Generator, tuple[int, int]], Picture]
LOOKS: dict[str, tuple[Callable[[Plane, Plane], _Object], _Backdrop]] = {
    "checkered-ball": (_ball, _lawn),
    "striped-crate": (_crate, _tiles),
    "spotted-star": (_star, _sky),
    "sprinkled-donut": (_donut, _planks),
}


def _out_of_focus(backdrop: Image.Image) -> Image.Image:
    from PIL import ImageFilter

    return backdrop.filter(ImageFilter.GaussianBlur(min(backdrop.size) * BACKDROP_BLUR))


def _image(picture: Picture) -> Image.Image:
    from PIL import Image

    return Image.fromarray(np.clip(picture, 0, 255).astype(np.uint8))


def _cut_out(draw: Callable[[Plane, Plane], _Object], side: int) -> Image.Image:
    """Draw an object on a transparent square."""
    from PIL import Image

    grid = MARGIN * (np.linspace(-1, 1, side * SUPERSAMPLE, endpoint=False) + 1 / (side * SUPERSAMPLE))
    colours, inside = draw(*np.meshgrid(grid, grid))
    large = _image(np.dstack([colours, 255 * inside]))
    return large.resize((side, side), Image.Resampling.BOX)


def _shadow(cut_out: Image.Image) -> Image.Image:
    from PIL import Image, ImageFilter

    shadow = Image.new("RGBA", cut_out.size)
    shadow.putalpha(cut_out.getchannel("A").point(lambda alpha: alpha * 0.45))
    return shadow.filter(ImageFilter.GaussianBlur(cut_out.width / 28))


def _place(frame: Image.Image, cut_out: Image.Image, pose: _Pose, side: float) -> None:
    """Paste a cut-out with ``pose`` given in pixels, between pixels where it must be."""
    from PIL import Image

    # Within the margin no object reaches further than half a side, tilted or not; its shadow does.
    reach = math.ceil(side * max(pose.wide, pose.tall) * 0.58)
    left, top = math.floor(pose.x) - reach, math.floor(pose.y) - reach
    # Pillow asks which point of the cut-out each pixel shows: undo place, then size, then tilt.
    cos, sin = math.cos(pose.tilt), math.sin(pose.tilt)
    wide, tall = (cut_out.width / (side * stretch) for stretch in (pose.wide, pose.tall))
    a, b, d, e = cos * wide, sin * tall, -sin * wide, cos * tall
    x, y = left - pose.x, top - pose.y
    half = cut_out.width / 2
    patch = cut_out.transform(
        (2 * reach, 2 * reach),
        Image.Transform.AFFINE,
        (a, b, a * x + b * y + half, d, e, d * x + e * y + half),
        Image.Resampling.BILINEAR,
    )
    frame.paste(patch, (left, top), patch)


def render(
    motion: str,
    look: str,
    *,
    seconds: float,
    fps: Fraction | int,
    size: tuple[int, int] = (320, 240),
    seed: int,
) -> Iterator[NDArray[np.uint8]]:
    """Paint the frames of one video.

    Args:
        motion: a name in `MOTIONS`.
        look: a name in `LOOKS`.
        seconds: how long it is.
        fps: frames a second.
        size: width and height in pixels.
        seed: picks speed, phase, direction, place, tilt, size and backdrop.

    Returns:
        Frames ``(H, W, 3)``, uint8 RGB.

    Raises:
        UsageError: no such motion or look.
    """
    if motion not in MOTIONS:
        raise UsageError(f"motion={motion!r} is none of {', '.join(MOTIONS)}")
    if look not in LOOKS:
        raise UsageError(f"look={look!r} is none of {', '.join(LOOKS)}")
    return _frames(motion, look, round(seconds * fps), float(fps), size, np.random.default_rng(seed))


def _frames(
    motion: str, look: str, count: int, fps: float, size: tuple[int, int], rng: np.random.Generator
) -> Iterator[NDArray[np.uint8]]:
    speed, phase, grown = rng.uniform(0.47, 0.57), rng.random(), rng.uniform(0.94, 1.06)
    direction = rng.choice([-1, 1])
    place, tilt = rng.uniform(-0.015, 0.015, 2), rng.uniform(-0.18, 0.18)
    draw, paint_backdrop = LOOKS[look]
    backdrop = _out_of_focus(_image(paint_backdrop(rng, size) * rng.uniform(0.95, 1.05)))
    side = OBJECT_SIDE * min(size) * grown * MARGIN
    cut_out = _cut_out(draw, round(side * 1.3))
    shadow = _shadow(cut_out)
    for i in range(count):
        pose = MOTIONS[motion](direction * (phase + speed * i / fps))
        x, y = (0.5 + place[0] + pose.x) * size[0], (0.5 + place[1] + pose.y) * size[1]
        pose = pose._replace(x=x, y=y, tilt=tilt + pose.tilt)
        frame = backdrop.copy()
        _place(frame, shadow, pose._replace(x=x + 0.05 * side, y=y + 0.065 * side), side)
        _place(frame, cut_out, pose, side)
        yield np.array(frame)


def write_demo_videos(folder: Path, *, seed: int = 0, size: tuple[int, int] = (320, 240)) -> list[dict[str, str]]:
    """Encode every motion with every look, in four takes, as H.264 MP4, and list them in ``labels.csv``.

    Args:
        folder: made if missing; files of the same names are replaced.
        seed: the same seed gives the same pixels.
        size: width and height in pixels, both even.

    Returns:
        What ``labels.csv`` says: ``path`` (relative to the folder), ``motion`` and ``look``.
    """
    folder.mkdir(parents=True, exist_ok=True)
    rows = []
    for number, (take, motion, look) in enumerate(product(range(1, TAKES + 1), MOTIONS, LOOKS)):
        rng = np.random.default_rng([seed, number])
        seconds, fps = rng.uniform(4, 6), FRAME_RATES[number % len(FRAME_RATES)]
        frames = render(motion, look, seconds=seconds, fps=fps, size=size, seed=int(rng.integers(2**32)))
        name = f"{motion}_{look}_{take}.mp4"
        _encode(folder / name, frames, fps)
        rows.append({"path": name, "motion": motion, "look": look})
    with (folder / "labels.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, fieldnames=["path", "motion", "look"], lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    return rows


def _encode(path: Path, frames: Iterator[NDArray[np.uint8]], fps: int) -> None:
    import av

    with av.open(str(path), "w", options={"movflags": "faststart"}) as container:
        # More threads, or x264's macroblock tree, now and then make other bytes of the same frames.
        options = {"preset": "veryfast", "crf": "21", "threads": "1", "mbtree": "0"}
        stream = container.add_stream("libx264", rate=fps, options=options)
        stream.pix_fmt = "yuv420p"
        for i, picture in enumerate(frames):
            if i == 0:
                stream.height, stream.width = picture.shape[:2]
            frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
            frame.pts = i
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
