"""The fast path's pixels against the reference's, and colours against the standards' own sums."""

from __future__ import annotations

import dataclasses

import av
import numpy as np
import pytest

from tests import videos
from tests.checkpoints import save_checkpoint
from tests.conftest import SHARED
from tests.test_preprocess import PUBLISHED
from vmae_embed import Encoder
from vmae_embed.decode import cropping, open_video
from vmae_embed.errors import DecodeError

# In grey levels, on average over a picture: other roundings, and colour planes of other sizes.
APART = 2.0


def both(path, index, preprocessing=PUBLISHED):
    (picture,) = open_video(str(path)).frames([index])
    fast, exact = cropping(preprocessing)(picture), cropping(preprocessing, exact_pixels=True)(picture)
    assert fast.shape == exact.shape == (*preprocessing.crop, 3)
    assert fast.dtype == exact.dtype == np.uint8
    return fast.astype(int), exact.astype(int)


@pytest.mark.parametrize("rotation", [None, 90, 180, 270])
@pytest.mark.parametrize(
    "size",
    [(426, 240), (240, 426), (224, 224), (226, 226), (342, 256), (640, 360), (1280, 720), (720, 1280), (160, 96)],
)
def test_crop_is_the_references(tmp_path, size, rotation):
    path = videos.write_video(tmp_path / "v.mp4", size=size, frames=2, rotation=rotation, options={"crf": "10"})
    fast, exact = both(path, 1)
    difference = np.abs(fast - exact).mean()
    assert difference < 1.5 * APART  # the barcode is all edges
    # A crop that is a pixel off differs by more.
    for a, b in (
        (fast[1:], exact[:-1]),
        (fast[:-1], exact[1:]),
        (fast[:, 1:], exact[:, :-1]),
        (fast[:, :-1], exact[:, 1:]),
    ):
        assert difference < np.abs(a - b).mean()


@pytest.mark.parametrize("rotation", [None, 90])
@pytest.mark.parametrize("crop_at", [0.0, 1.0])
def test_crops_off_the_centre_are_the_references(tmp_path, crop_at, rotation):
    path = videos.write_video(tmp_path / "v.mp4", size=(640, 360), frames=2, rotation=rotation, options={"crf": "10"})
    fast, exact = both(path, 1, dataclasses.replace(PUBLISHED, crop_at=crop_at))
    _, centre = both(path, 1)
    assert np.abs(fast - exact).mean() < 1.5 * APART
    assert np.abs(fast - centre).mean() > 10 * APART


@pytest.mark.parametrize("size", [(2048, 16), (16, 2048), (2, 2), (31, 40), (4096, 230)])
def test_extreme_shapes(tmp_path, size):
    path = tmp_path / "v.mkv"
    picture = np.random.default_rng(0).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    write_lossless(path, av.VideoFrame.from_ndarray(picture, format="rgb24"), "ffv1", "bgr0")
    fast, exact = both(path, 0)
    assert np.abs(fast - exact).mean() < APART


@pytest.mark.parametrize(
    "change",
    [
        {"shortest_edge": None, "resize": (224, 224)},
        {"shortest_edge": None, "resize": (256, 340)},
        {"shortest_edge": None},
        {"shortest_edge": 128},
        {"resample": 3},
        {"shortest_edge": 64, "crop": (32, 48)},
    ],
)
def test_every_kind_of_preprocessing(tmp_path, change):
    preprocessing = dataclasses.replace(PUBLISHED, **change)
    path = videos.write_video(tmp_path / "v.mp4", size=(426, 240), frames=1)
    fast, exact = both(path, 0, preprocessing)
    assert np.abs(fast - exact).mean() < APART
    if "resample" in change:
        assert (fast == exact).all()


def write_lossless(path, frame, codec, pix_fmt, colorspace=None, color_range=None):
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=30, options={"qp": "0"} if codec == "libx264" else {})
        stream.width, stream.height, stream.pix_fmt = frame.width, frame.height, pix_fmt
        if colorspace is not None:
            frame.colorspace = stream.codec_context.colorspace = colorspace
        if color_range is not None:
            frame.color_range = stream.codec_context.color_range = color_range
        frame.pts = 0
        container.mux(stream.encode(frame))
        container.mux(stream.encode())


# Kr and Kb of BT.601, BT.709 and BT.2020, by FFmpeg's number of the matrix; 2 is untagged.
WEIGHTS = {1: (0.2126, 0.0722), 2: (0.299, 0.114), 5: (0.299, 0.114), 6: (0.299, 0.114), 9: (0.2627, 0.0593)}
COLOURS = np.array([[255, 0, 0], [0, 255, 0], [0, 0, 255], [200, 120, 40], [20, 90, 230], [128, 128, 128]])


def to_yuv(rgb, matrix, full):
    """The definition, as BT.601, BT.709 and BT.2020 share it."""
    kr, kb = WEIGHTS[matrix]
    r, g, b = np.moveaxis(rgb / 255, -1, 0)
    y = kr * r + (1 - kr - kb) * g + kb * b
    u, v = (b - y) / (2 * (1 - kb)), (r - y) / (2 * (1 - kr))
    scaled = (255 * y, 255 * u + 128, 255 * v + 128) if full else (219 * y + 16, 224 * u + 128, 224 * v + 128)
    return np.rint(np.clip(np.stack(scaled), 0, 255)).astype(np.uint8)


@pytest.mark.parametrize("full", [False, True])
@pytest.mark.parametrize("matrix", sorted(WEIGHTS))
@pytest.mark.parametrize("size", [64, 400])
def test_matrix_and_range_are_the_streams(tmp_path, matrix, full, size):
    patches = np.repeat(np.repeat(COLOURS.reshape(2, 3, 3), size, 0), size, 1)
    frame = av.VideoFrame.from_ndarray(to_yuv(patches, matrix, full), format="yuv444p")
    path = tmp_path / "v.mp4"
    write_lossless(path, frame, "libx264", "yuv444p", matrix, 2 if full else 1)
    (picture,) = open_video(str(path)).frames([0])
    centres = picture.rgb()[size // 2 :: size, size // 2 :: size].reshape(6, 3).astype(int)
    assert np.abs(centres - COLOURS).max() <= 3
    fast, exact = both(path, 0)
    assert np.abs(fast - exact).mean() < APART


@pytest.mark.parametrize(
    "pix_fmt",
    [
        "yuv420p",
        "yuv422p",
        "yuv444p",
        "yuv411p",
        "yuv420p10le",
        "yuv422p10le",
        "yuv444p12le",
        "yuva420p",
    ],
)
@pytest.mark.parametrize("size", [(320, 256), (960, 640)])
def test_yuv_formats(tmp_path, pix_fmt, size):
    check_format(tmp_path, pix_fmt, videos.paint(1234, size), 12)  # pure colours spread at their edges


@pytest.mark.parametrize("pix_fmt", ["gray", "gray16le", "gbrp10le", "bgra", "bgr0", "rgb48le"])
@pytest.mark.parametrize("size", [(320, 256), (960, 640)])
def test_other_formats(tmp_path, pix_fmt, size):
    painted = videos.paint(1234, size)
    if "gray" in pix_fmt:
        painted = np.repeat((painted @ np.array([0.299, 0.587, 0.114]))[..., None], 3, 2).astype(np.uint8)
    check_format(tmp_path, pix_fmt, painted, 2)


def check_format(tmp_path, pix_fmt, painted, apart):
    path = tmp_path / "v.mkv"
    write_lossless(path, av.VideoFrame.from_ndarray(painted, format="rgb24").reformat(format=pix_fmt), "ffv1", pix_fmt)
    (picture,) = open_video(str(path)).frames([0])
    assert np.abs(picture.rgb() - painted.astype(int)).mean() < apart
    fast, exact = both(path, 0)
    assert np.abs(fast - exact).mean() < APART
    assert videos.read_index(picture.rgb()) == 1234


def test_alpha_is_dropped(tmp_path):
    picture = np.dstack([videos.paint(5, (320, 256)), np.zeros((256, 320), np.uint8)])
    path = tmp_path / "v.mkv"
    write_lossless(path, av.VideoFrame.from_ndarray(picture, format="rgba"), "ffv1", "bgra")
    (decoded,) = open_video(str(path)).frames([0])
    assert np.array_equal(decoded.rgb(), picture[..., :3])


def test_colours_that_nothing_converts_are_refused(tmp_path):
    path = tmp_path / "v.mp4"
    frame = av.VideoFrame.from_ndarray(videos.paint(5, (320, 256)), format="rgb24").reformat(format="yuv444p")
    write_lossless(path, frame, "libx264", "yuv444p", 8)  # YCgCo
    (picture,) = open_video(str(path)).frames([0])
    for convert in (picture.rgb, lambda: picture.cropped(PUBLISHED)):
        with pytest.raises(DecodeError, match=r"cannot be converted to RGB \(yuv444p, colour matrix 8\)"):
            convert()


def test_a_reserved_matrix_says_nothing(tmp_path):
    frame = av.VideoFrame.from_ndarray(to_yuv(videos.paint(5, (320, 256)), 6, False), format="yuv444p")
    path = tmp_path / "v.mp4"
    write_lossless(path, frame, "libx264", "yuv444p", 3)
    fast, exact = both(path, 0)
    assert np.abs(fast - exact).mean() < APART


@pytest.mark.skipif(not SHARED.exists(), reason="no shared videos beside the checkout")
def test_hdr_files_come_out_as_pictures():
    """Both were made from an SDR clip that is only labelled HDR, and so come out brighter than it."""
    for name in ("hevc_10bit_hdr10.mp4", "hevc_10bit_hlg.mkv"):
        path = str(SHARED / "videos/zoo/made-here" / name)
        (picture,) = open_video(path).frames([0])
        pixels = picture.rgb()
        assert pixels.dtype == np.uint8
        assert 60 < pixels.mean() < 210
        fast, exact = both(path, 0)
        assert np.abs(fast - exact).mean() < APART


@pytest.mark.slow
@pytest.mark.skipif(not SHARED.exists(), reason="no shared videos beside the checkout")
def test_real_files_keep_their_pixels_and_embeddings(tmp_path):
    encoder = Encoder.from_pretrained(save_checkpoint(tmp_path / "model", image_size=224))
    compared = 0
    for path in sorted((SHARED / "videos/zoo").rglob("*")) + sorted((SHARED / "videos/library").rglob("*001.mp4")):
        if not path.is_file() or "long_2h" in path.name:
            continue
        try:
            reader = open_video(str(path))
            wanted = sorted({*np.linspace(0, len(reader.timeline.times_s) - 1, 16).astype(int).tolist()})
            pictures = [(p.cropped(PUBLISHED), PUBLISHED(p.rgb())) for p in reader.frames(wanted)]
        except DecodeError:
            continue
        fast, exact = (np.stack(side) for side in zip(*pictures, strict=True))
        # Test patterns of pure colours in 10 bits, smaller than the crop: the two FFmpeg ways differ most.
        assert np.abs(fast.astype(int) - exact).mean() < (4 if "10bits" in path.name else APART), path
        frames = [np.concatenate([side, side[-1:].repeat(16 - len(side), 0)])[None] for side in (fast, exact)]
        a, b = (encoder.encode_cropped(side)[0].astype(float) for side in frames)
        assert a @ b / np.linalg.norm(a) / np.linalg.norm(b) >= 0.999, path
        compared += 1
    assert compared >= 60
