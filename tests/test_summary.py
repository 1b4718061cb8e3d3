"""What a run says of itself, and leaves in the library."""

from __future__ import annotations

import json
import signal

import pytest

from tests.test_pipeline import ReadingEncoder
from tests.videos import garbage, write_video
from vmae_embed.extractor import run
from vmae_embed.library import Library
from vmae_embed.pipeline import Progress, StageTimes
from vmae_embed.summary import Setup, Summary


def summary(devices=("cpu",), workers=2, dtype="float32", seconds=10.0, **times):
    made = Summary(library=None, begun=0.0)
    made.setup = Setup(devices, workers, "auto", dtype, 8, False)
    made.extracting_s = seconds
    made.add(Progress(times=StageTimes(**times)))
    return made


def test_times_add_up():
    total = StageTimes(1, 2, 3, 4, 5, 6) + StageTimes(decode_s=10, write_s=1)
    assert total == StageTimes(11, 2, 3, 4, 5, 7)


def test_shares_are_of_one_process_of_each_kind():
    made = summary(
        ("cuda:0", "cuda:1"), 4, decode_s=20, blocked_s=10, encode_s=15, starved_s=5, write_s=2, transfer_s=1
    )
    assert made.shares() == {
        "decoding": 0.5,
        "transfer": 0.05,
        "encoding": 0.75,
        "writing": 0.1,
        "decoders waiting": 0.25,
        "encoder waiting": 0.25,
    }


@pytest.mark.parametrize(
    ("made", "begins", "says"),
    [
        (summary(encode_s=9, starved_s=1, decode_s=3), "encode-bound", "a GPU, or fewer clips"),
        (summary(dtype="float16", encode_s=9), "encode-bound", "a GPU, --dtype float32, or fewer"),
        (summary(("cuda",), encode_s=9), "encode-bound", "--devices 0,1,.."),
        (summary(("cuda",), encode_s=9), "encode-bound", "--dtype bfloat16, or fewer"),
        (
            summary(("cuda",), dtype="bfloat16", encode_s=9, decode_s=16, blocked_s=3),
            "encode-bound",
            "0,1,..), or fewer",
        ),
        (summary(("cuda",), decode_s=19, encode_s=2, starved_s=8), "decode-bound by 2 decoding processes", "--workers"),
        (summary(workers=1, decode_s=8, encode_s=6, starved_s=4), "decode-bound by 1 decoding process:", "--workers"),
        (summary(("cuda",), decode_s=3, encode_s=2, starved_s=2, write_s=9), "write-bound", "disk"),
    ],
)
def test_what_held_a_run_back_is_named_with_a_remedy(made, begins, says):
    assert made.bound().startswith(begins)
    assert says in made.bound()


def test_nothing_is_blamed_where_no_stage_was_busy():
    assert summary(encode_s=1, starved_s=2, decode_s=3).bound() is None
    assert summary(encode_s=1, starved_s=9, decode_s=3).bound() is None  # processes were starting
    assert summary(seconds=1.0, encode_s=1.0).bound() is None  # too short to tell
    assert Summary(library=None, begun=0.0).bound() is None


@pytest.fixture
def folder(tmp_path):
    path = tmp_path / "videos"
    path.mkdir()
    write_video(path / "a.mp4", frames=90, size=(96, 64))
    garbage(path / "b.mp4")
    return path


def runs(lib):
    return json.loads((lib / "library.json").read_text())["runs"]


def test_a_run_leaves_its_figures_in_the_library(tmp_path, folder):
    lib = tmp_path / "lib"
    done = run([folder], lib, encoder=ReadingEncoder(), workers=1)
    (entry,) = runs(lib)
    assert entry["ended"] == "done"
    assert (entry["videos"], entry["clips"], entry["failures"]) == (2, 2, {"open": 1})
    assert (entry["devices"], entry["workers"], entry["batch_size"]) == (["cpu"], 1, 3)
    assert entry["clips_per_s"] == pytest.approx(2 / done.extracting_s, rel=0.01)
    assert set(entry["shares"]) == set(done.shares())
    assert 0 < entry["shares"]["decoding"] <= 1
    assert done.seconds >= done.extracting_s > 0
    assert Library.open(lib).config.runs == (entry,)


def test_a_run_that_has_nothing_to_do_leaves_none(tmp_path, folder):
    lib = tmp_path / "lib"
    run([folder], lib, encoder=ReadingEncoder())
    before = (lib / "library.json").read_bytes()
    assert run([folder], lib, encoder=ReadingEncoder()).videos == 0
    assert (lib / "library.json").read_bytes() == before


def test_how_a_run_ended_is_kept(tmp_path, folder):
    def interrupt(plan, progress):
        if progress.videos:
            signal.raise_signal(signal.SIGINT)

    handler = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with pytest.raises(KeyboardInterrupt):
            run([folder], tmp_path / "interrupted", encoder=ReadingEncoder(), observe=interrupt)
    finally:
        signal.signal(signal.SIGINT, handler)
    assert [entry["ended"] for entry in runs(tmp_path / "interrupted")] == ["interrupted"]
    lib = tmp_path / "lib"
    broken = ReadingEncoder()
    broken.encode = lambda frames: (_ for _ in ()).throw(RuntimeError("no more\nmemory"))
    with pytest.raises(RuntimeError, match="no more\nmemory"):
        run([folder], lib, encoder=broken)
    run([folder], lib, encoder=ReadingEncoder())
    assert [entry["ended"] for entry in runs(lib)] == ["RuntimeError: no more memory", "done"]


def test_the_latest_runs_are_kept(tmp_path, folder):
    library = run([folder], tmp_path / "lib", encoder=ReadingEncoder()).library
    for i in range(30):
        library.log_run({"started": str(i), "ended": None})
        library.log_run({"started": str(i), "ended": "done"})
    kept = runs(tmp_path / "lib")
    assert [entry["started"] for entry in kept] == [str(i) for i in range(10, 30)]
    assert {entry["ended"] for entry in kept} == {"done"}
