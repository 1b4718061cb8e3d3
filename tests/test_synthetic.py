"""The demo's videos: every motion with every look, really encoded, really moving."""

import csv
from pathlib import Path

import av
import numpy as np
import pytest

from vmae_embed.errors import UsageError
from vmae_embed.synthetic import FRAME_RATES, LOOKS, MOTIONS, TAKES, render, write_demo_videos

SMALL = (96, 72)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("demo") / "videos"
    write_demo_videos(folder, size=SMALL)
    return folder


def frames_of(motion: str, look: str = "checkered-ball", seed: int = 3) -> np.ndarray:
    return np.stack(list(render(motion, look, seconds=2, fps=10, size=SMALL, seed=seed))).astype(float)


def test_every_motion_meets_every_look_in_every_take(folder: Path) -> None:
    names = {f"{motion}_{look}_{take}.mp4" for motion in MOTIONS for look in LOOKS for take in range(1, 5)}
    assert {path.name for path in folder.iterdir()} == names | {"labels.csv"}
    assert len(names) == 112


def test_labels_name_the_files(folder: Path) -> None:
    with (folder / "labels.csv").open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == len(MOTIONS) * len(LOOKS) * TAKES
    for row in rows:
        assert row["path"].startswith(f"{row['motion']}_{row['look']}_")
        assert (folder / row["path"]).is_file()


def test_files_decode_to_what_they_promise(folder: Path) -> None:
    rates = set()
    for path in folder.glob("*.mp4"):
        with av.open(str(path)) as container:
            stream = container.streams.video[0]
            assert stream.codec_context.name == "h264"
            assert stream.codec_context.pix_fmt == "yuv420p"
            assert (stream.width, stream.height) == SMALL
            frames = sum(1 for _ in container.decode(stream))
            assert frames == stream.frames
            assert 4 <= frames / stream.average_rate <= 6.05
            rates.add(stream.average_rate)
    assert rates == set(FRAME_RATES)


def test_header_comes_first(folder: Path) -> None:
    data = (folder / "spin_checkered-ball_1.mp4").read_bytes()
    assert data.index(b"moov") < data.index(b"mdat")


def test_one_seed_gives_one_video() -> None:
    assert np.array_equal(frames_of("bounce"), frames_of("bounce"))


def test_another_seed_gives_another_video() -> None:
    assert not np.array_equal(frames_of("bounce"), frames_of("bounce", seed=4))


def test_one_seed_gives_the_same_files(folder: Path, tmp_path: Path) -> None:
    rows = write_demo_videos(tmp_path, size=SMALL)
    for row in rows:
        assert (tmp_path / row["path"]).read_bytes() == (folder / row["path"]).read_bytes()


@pytest.mark.parametrize("look", LOOKS)
@pytest.mark.parametrize("motion", MOTIONS)
def test_every_motion_moves(motion: str, look: str) -> None:
    frames = frames_of(motion, look)
    moved = abs(np.diff(frames, axis=0)).max(axis=-1) > 30
    assert np.median(moved.mean(axis=(1, 2))) > 0.01


def centre(frames: np.ndarray) -> np.ndarray:
    """Where the red and white ball is on its green lawn, ``(T, 2)`` in pixels as x, y."""
    ball = frames[..., 0] > frames[..., 1] - 15
    return np.array([np.argwhere(picture).mean(axis=0)[::-1] for picture in ball])


@pytest.mark.parametrize(
    ("motion", "horizontal", "vertical"),
    [
        ("slide", True, False),
        ("lift", False, True),
        ("circle", True, True),
        ("pulse", False, False),
        ("spin", False, False),
    ],
)
def test_objects_go_where_their_motion_says(motion: str, horizontal: bool, vertical: bool) -> None:
    x, y = np.ptp(centre(frames_of(motion)), axis=0)
    assert (x > 20, y > 20) == (horizontal, vertical)


def test_only_a_pulse_changes_size() -> None:
    areas = {
        motion: (frames_of(motion)[..., 0] > frames_of(motion)[..., 1] - 15).sum(axis=(1, 2))
        for motion in ("pulse", "spin", "slide")
    }
    assert areas["pulse"].max() > 3 * areas["pulse"].min()
    assert areas["spin"].max() < 1.1 * areas["spin"].min()
    assert areas["slide"].max() < 1.1 * areas["slide"].min()


def test_unknown_names_are_refused() -> None:
    with pytest.raises(UsageError, match="motion='fly' is none of slide, lift"):
        render("fly", "checkered-ball", seconds=1, fps=10, seed=0)
    with pytest.raises(UsageError, match="look='ghost' is none of checkered-ball"):
        render("spin", "ghost", seconds=1, fps=10, seed=0)
