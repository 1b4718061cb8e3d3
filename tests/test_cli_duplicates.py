"""``vmae-embed duplicates`` as its users meet it."""

from __future__ import annotations

import csv
import io
import json
from functools import partial

import numpy as np
import pytest

from tests.test_duplicates import library_of


@pytest.fixture
def run(run):
    return partial(run, "duplicates")


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    scenes = np.random.default_rng(0).normal(size=(80, 64))
    folder = tmp_path_factory.mktemp("cli") / "lib"
    library_of(folder, {"a.mp4": scenes[:20], "b.mp4": scenes[5:15], "c.mp4": scenes[40:60], "d.mp4": scenes[58:70]})
    return folder


def test_a_row_for_each_stretch(made, run):
    code, out, err = run(made)
    assert code == 0
    lines = [line.split() for line in out.splitlines()]
    assert lines[0] == ["cluster", "kind", "offset_s", "clips", "cover_a", "cover_b", "mean", "a", "b"]
    assert lines[1][-2:] == ["a.mp4#t=10.000,30.000", "b.mp4#t=0.000,20.000"]
    assert len(lines) == 3
    assert err == "2 stretches of 4 videos occur twice (62 clips); 1 cluster, 1 video held by others\n"


@pytest.mark.parametrize(
    ("by", "names"),
    [
        (
            "pair",
            "kind,video_a,video_b,offset_s,start_a_s,end_a_s,start_b_s,end_b_s,clips,cover_a,cover_b,best,mean,cluster",
        ),
        ("cluster", "keep,cluster,video_id,copy_of,cover,clips,duration_s,width,height,path"),
        ("clip", "clip_a,clip_b,score,offset_s"),
    ],
)
def test_every_row_in_every_format(made, run, by, names):
    _, text, _ = run(made, "--by", by, "--format", "csv")
    rows = list(csv.DictReader(io.StringIO(text)))
    assert ",".join(rows[0]) == names
    assert len(rows) == {"pair": 2, "cluster": 2, "clip": 12}[by]
    as_json = json.loads(run(made, "--by", by, "--format", "json")[1])
    lines = run(made, "--by", by, "--format", "jsonl")[1].splitlines()
    assert as_json == [json.loads(line) for line in lines]
    assert [{name: "" if value is None else str(value) for name, value in row.items()} for row in as_json] == rows
    assert len(run(made, "--by", by)[1].splitlines()) == len(rows) + 1


def test_extras_are_files_a_line_each(made, run):
    assert run(made, "--extras")[1] == "/videos/b.mp4\n"
    assert run(made, "--extras", "--scope", "within")[1] == ""


def test_nothing_found_is_said(made, run, tmp_path):
    code, out, err = run(made, "--scope", "within")
    assert code == 0
    assert out.splitlines() == ["cluster  kind  offset_s  clips  cover_a  cover_b  mean  a  b"]
    assert err.startswith("nothing occurs twice in 4 videos (62 clips): none of their clips reached the threshold")
    vectors = np.random.default_rng(0).normal(size=(9, 64))
    library_of(tmp_path / "lib", {"a.mp4": vectors[:5], "b.mp4": vectors[4:]})
    assert "(10 clips): 1 pair of their clips reached the threshold" in run(tmp_path / "lib")[2]


def test_what_was_let_go_is_said(made, run, tmp_path):
    vectors = np.random.default_rng(0).normal(size=(1, 16)) + 0.01 * np.random.default_rng(1).normal(size=(120, 16))
    library_of(tmp_path / "lib", {f"{n:02}.mp4": vectors[4 * n : 4 * n + 4] for n in range(30)})
    err = run(tmp_path / "lib", "--no-center", "--max-pairs", 50, "--max-per-clip", 3)[2]
    assert "threshold 0.95 is low for this library: of clips of different videos one pair in 1,000 scores" in err
    assert "120 clips look like more than 3 others" in err
    assert "too many pairs of clips: those below" in err


def test_the_page_and_its_name(made, run, tmp_path):
    code, _, err = run(made, "--html", tmp_path / "p.html")
    assert code == 0
    assert f"page: {tmp_path / 'p.html'}" in err
    assert "What occurs twice in lib" in (tmp_path / "p.html").read_text()
    code, out, err = run(made, "--html", tmp_path / "p.html")
    assert (code, out) == (2, "")
    assert "exists; give another name, or --overwrite" in err
    assert run(made, "--html", tmp_path / "p.html", "--overwrite")[0] == 0
    assert "its folder does not exist" in run(made, "--html", tmp_path / "none/p.html")[2]


def test_misuse_is_one_line(made, run):
    code, out, err = run(made, "--threshold", 2)
    assert (code, out) == (2, "")
    assert err == "error: threshold=2: give a cosine similarity, from -1 to 1\n"
