"""The page of hits: self-contained, escaped, and honest about what it cannot show."""

from __future__ import annotations

import base64
import io
import re

import pytest
from PIL import Image

from tests import videos
from vmae_embed.errors import UsageError
from vmae_embed.query import Hits
from vmae_embed.records import Hit, QueryClip
from vmae_embed.report import render_report, write_report


def hit(path, rank=1, **changes):
    fields = {
        "rank": rank,
        "score": 0.9,
        "clip_id": "v.mp4#t=0.000,2.000",
        "video_id": "v.mp4",
        "start_s": 0.0,
        "end_s": 2.0,
        "path": str(path),
        "query": "q",
    }
    return Hit(**{**fields, **changes})


@pytest.fixture(scope="module")
def video(tmp_path_factory):
    return videos.write_video(tmp_path_factory.mktemp("report") / "v.mp4", frames=60, size=(160, 96))


def test_strips_show_the_clips_own_frames(video, tmp_path):
    page = write_report(tmp_path / "p.html", [hit(video)], [QueryClip("q", str(video), 1.0, 2.0)])
    sprites = re.findall(r"--sprite:url\(data:image/jpeg;base64,([^)]+)\)", page.read_text())
    assert len(sprites) == 2
    query, found = (Image.open(io.BytesIO(base64.b64decode(data))) for data in sprites)
    assert query.size == found.size == (12 * 160, 96)
    import numpy as np

    def first_and_last(image):
        frames = np.split(np.asarray(image), 12, axis=1)
        return videos.read_index(frames[0]), videos.read_index(frames[-1])

    assert first_and_last(query) == (31, 58)
    assert first_and_last(found) == (2, 57)


def test_it_loads_nothing_from_elsewhere(video, tmp_path):
    text = write_report(tmp_path / "p.html", [hit(video)], []).read_text()
    assert "http" not in text
    assert "<script" not in text
    assert "<link" not in text


def test_videos_beside_the_page_are_linked_relative_to_it(tmp_path):
    (tmp_path / "a folder").mkdir()
    path = videos.write_video(tmp_path / "a folder/v #1.mp4", frames=30)
    inside = write_report(tmp_path / "p.html", [hit(path)], []).read_text()
    assert "src='a%20folder/v%20%231.mp4#t=0.000,2.000'" in inside
    (tmp_path / "elsewhere").mkdir()
    outside = write_report(tmp_path / "elsewhere/p.html", [hit(path)], []).read_text()
    assert f"src='{path.as_uri()}#t=0.000,2.000'" in outside


def test_names_are_escaped(video):
    nasty = "<img src=x onerror=alert(1)>'\".mp4"
    text = render_report([hit(video, clip_id=nasty, columns={"label": nasty})], [QueryClip(nasty)], title=nasty)
    assert "<img" not in text
    assert "&lt;img src=x" in text


def test_a_file_that_is_gone_leaves_its_row(tmp_path):
    text = render_report([hit(tmp_path / "gone.mp4")], [])
    assert "no preview" in text
    assert "is gone" in text


def test_vectors_have_no_strip():
    assert "a vector" in render_report([], [QueryClip("vector")])


def test_notes_and_nothing_found():
    text = render_report([], [], notes=["random <weights>"])
    assert "random &lt;weights&gt;" in text
    assert "nothing" in text


def test_many_query_clips_are_counted(video):
    text = render_report([], [QueryClip("q", str(video), 0, 1)] * 9)
    assert "and 6 more clips of it" in text


def test_nothing_is_overwritten_without_being_told(video, tmp_path):
    page = tmp_path / "p.html"
    page.write_text("mine")
    with pytest.raises(UsageError, match="exists; give another name, or --overwrite"):
        write_report(page, [hit(video)], [])
    assert page.read_text() == "mine"
    assert "v.mp4" in write_report(page, [hit(video)], [], overwrite=True).read_text()


def test_a_folder_that_is_missing(video, tmp_path):
    with pytest.raises(UsageError, match="cannot be written"):
        write_report(tmp_path / "no/p.html", [hit(video)], [])


def test_a_file_that_has_changed_is_not_shown_for_the_clip(video):
    text = render_report([hit(video, fingerprint="1-1")], [QueryClip("q", str(video), 0, 1, "1-1")])
    assert text.count("has changed since it was extracted; run extract again") == 2
    assert "data:image" not in text


def test_a_merged_hit_shows_its_whole_span(video):
    import numpy as np

    text = render_report([hit(video, clips=3, clip_id="v.mp4#t=0.500,1.500", start_s=0.5, end_s=1.5)], [])
    (data,) = re.findall(r"--sprite:url\(data:image/jpeg;base64,([^)]+)\)", text)
    frames = np.split(np.asarray(Image.open(io.BytesIO(base64.b64decode(data)))), 12, axis=1)
    assert (videos.read_index(frames[0]), videos.read_index(frames[-1])) == (16, 43)
    assert "3 clips" in text
    assert "#t=0.500,1.500'" in text
    assert " clips" not in render_report([hit(video)], [])


def test_scores_are_those_of_the_metric(video):
    def page(metric):
        hits = Hits([hit(video)], [], 1, metric)
        return render_report(hits)

    assert "cosine similarities, 1 at most" in page("cosine")
    assert "class='bar'" in page("cosine")
    assert "inner products" in page("ip")
    assert "distances with a minus, 0 at most" in page("l2")
    assert "class='bar'" not in page("l2")
