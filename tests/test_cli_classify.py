"""``vmae-embed classify`` and ``extract --with-labels`` as their users meet them."""

from __future__ import annotations

import json

import pytest

from tests.checkpoints import save_checkpoint
from tests.libraries import clustered, make_library
from tests.videos import garbage, write_video
from vmae_embed.cli import main
from vmae_embed.cli.output import ProgressBar
from vmae_embed.pipeline import Progress
from vmae_embed.plan import Plan, Unit
from vmae_embed.records import Video

NAMES = {0: "playing guitar", 1: "playing cello", 2: "abseiling", 3: "yoga", 4: "tap dancing"}


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Two videos and a broken one, a checkpoint, and a library with labels."""
    root = tmp_path_factory.mktemp("classify")
    (root / "videos").mkdir()
    write_video(root / "videos/a.mp4", frames=90)
    write_video(root / "videos/b.mp4", frames=30, first_index=500)
    garbage(root / "videos/broken.mp4")
    save_checkpoint(root / "checkpoint", "finetuned", id2label=NAMES)
    where = ["-o", str(root / "lib"), "--model", str(root / "checkpoint")]
    with pytest.raises(SystemExit) as caught:
        main(["extract", str(root / "videos"), *where, "--with-labels", "--workers", "1", "-q"])
    assert caught.value.code == 3
    return root


def rows_of(out):
    return [json.loads(line) for line in out.splitlines()]


def test_videos_and_their_library_print_the_same(made, run):
    code, out, err = run("classify", made / "videos", "--model", made / "checkpoint", "-k", 2, "--workers", 1, "-q")
    assert code == 3
    lines = out.splitlines()
    assert lines[0].split() == ["video_id", "rank", "label", "probability"]
    assert [line.split()[:2] for line in lines[1:]] == [["a.mp4", "1"], ["a.mp4", "2"], ["b.mp4", "1"], ["b.mp4", "2"]]
    (failed,) = (line for line in err.splitlines() if line.startswith("failed:"))
    assert failed.startswith("failed: broken.mp4 (open): ")
    code, stored, _ = run("classify", made / "lib", "-k", 2)
    assert code == 0
    assert sorted(stored.splitlines()) == sorted(lines)


def test_clips_of_a_library_are_labelled_as_it_says(made, run):
    code, out, _ = run("classify", made / "lib", "--per-clip", "-k", 1, "--format", "jsonl")
    assert code == 0
    rows = rows_of(out)
    assert list(rows[0]) == ["clip_id", "video_id", "start_s", "end_s", "views", "rank", "label", "probability"]
    _, found, _ = run("search", made / "lib", "a.mp4", "--include-self", "--format", "jsonl", "-k", 10)
    labelled = {hit["clip_id"]: (hit["label"], pytest.approx(hit["label_probability"])) for hit in rows_of(found)}
    assert len(labelled) == 3
    assert {row["clip_id"]: (row["label"], row["probability"]) for row in rows} == labelled


def test_a_search_filters_by_label(made, run):
    search = ("search", made / "lib", "a.mp4", "--include-self", "--format", "jsonl", "--where")
    _, everything, _ = run(*search, "label IS NOT NULL")
    label = rows_of(everything)[0]["label"]
    code, out, _ = run(*search, f"label = '{label}' AND label_probability > 0.01")
    assert code == 0
    assert {row["label"] for row in rows_of(out)} == {label}
    _, out, err = run(*search, "label = 'juggling'")
    assert (out, "no clip fits" in err) == ("", True)


def test_info_and_verify_know_of_labels(made, run):
    _, out, _ = run("info", made / "lib", "--format", "json")
    facts = json.loads(out)
    assert facts["carried columns"] == {"label": "string", "label_probability": "float"}
    assert facts["labels"].startswith("of classifier ")
    code, out, _ = run("verify", made / "lib")
    assert (code, "whole; 3 clips" in out) == (0, True)


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["{lib}", "{videos}"], 2, "a library is classified by itself"),
        (["{lib}", "--fps", "3"], 2, "--fps is for videos"),
        (["{lib}", "--clips-per-video", "3"], 2, "--clips-per-video is for videos"),
        (["{videos}", "-k", "0"], 2, "-k 0: give a number of labels, at least 1"),
        (["{videos}", "--preset", "ssv2", "--stride", "2"], 2, "--preset says how clips are cut"),
        (["{videos}", "--fps", "3", "--uniform"], 2, "--fps and --uniform contradict each other"),
        (["{videos}/none.mp4"], 2, "no such file or folder"),
        (["{videos}", "--model", "demo"], 1, "demo has no classifier, so that it knows no labels; give a fine-tuned"),
        (["{lib}", "--model", "demo"], 1, "weights_sha256 differ"),
        (["{videos}/broken.mp4", "--model", "{checkpoint}"], 1, "none of the 1 videos could be decoded; the first,"),
    ],
)
def test_what_is_wrong_is_one_line(made, run, arguments, code, said):
    filled = [argument.replace("{", f"{made}/").replace("}", "") for argument in arguments]
    found, out, err = run("classify", *filled)
    assert (found, out) == (code, "")
    (line,) = (line for line in err.splitlines() if not line.startswith("warning:"))
    assert line.startswith("error: ")
    assert said in line


def test_a_library_of_nothing_but_vectors(run, tmp_path):
    make_library(tmp_path / "lib", clustered(8, 16))
    code, _, err = run("classify", tmp_path / "lib")
    assert code == 1
    assert "made-up: no such directory" in err


def test_labels_need_a_classifier(made, run, tmp_path):
    code, _, err = run("extract", made / "videos", "-o", tmp_path / "lib", "--model", "demo", "--with-labels", "-q")
    assert code == 1
    assert "error: demo has no classifier" in err
    assert not (tmp_path / "lib").exists()


def test_progress_begins_anew_with_each_view(capsys, monkeypatch):
    monkeypatch.setattr("vmae_embed.cli.output._LINE_EVERY_S", -1.0)
    bar = ProgressBar()
    for _ in range(2):
        plan = Plan(units=[Unit("0", (Video("a.mp4", "/a.mp4", 10, 1),))])
        bar(plan, Progress(embedded=3, videos=1, bytes=10))
    lines = capsys.readouterr().err.splitlines()
    assert [line.split(",")[:2] for line in lines] == [["1 of 1 videos", " 3 clips"]] * 2
