"""Extraction from end to end: what the rows say, and that a rerun brings a library up to date."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections import Counter
from pathlib import Path
from types import SimpleNamespace

import av
import numpy as np
import pytest
import torch

import vmae_embed as ve
from tests.checkpoints import save_checkpoint
from tests.conftest import SHARED
from tests.test_pipeline import FlatEncoder, ReadingEncoder, TokenEncoder, assert_tokens_are_of_their_clips
from tests.test_workers import MISBEHAVE, inject
from tests.videos import garbage, truncate, write_video
from vmae_embed.errors import IdentityMismatch, LibraryLocked, SourceError, UsageError
from vmae_embed.extractor import extract, extraction, load_encoder, run
from vmae_embed.library import Library, verify
from vmae_embed.plan import _cut
from vmae_embed.sampling import TOLERANCE_S, Sampling

# Name, how it is written, its size as shown, and where its clips start.
LIBRARY = {
    "a.mp4": ({"frames": 90}, (160, 96), [0, 26 / 30]),
    "b/audio.mkv": ({"frames": 128, "audio": True}, (160, 96), [0, 64 / 30]),
    "b/hevc.mp4": ({"codec": "libx265", "frames": 64}, (160, 96), [0]),
    "b/late.mkv": ({"frames": 64, "start_s": 2, "audio": True}, (160, 96), [2]),
    "b/short.mp4": ({"frames": 5}, (160, 96), [0]),
    "c/portrait.mp4": ({"frames": 64, "rotation": 90, "size": (96, 160)}, (96, 160), [0]),
    "c/program.mpg": ({"codec": "mpeg2video", "frames": 75, "fps": 25}, (160, 96), [0, 75 / 25 - 16 / 7.5]),
    "c/slow.avi": ({"codec": "mpeg4", "frames": 25, "fps": 5}, (160, 96), [0, 16 / 7.5, 5 - 16 / 7.5]),
    "d e/vp9 é.webm": ({"codec": "libvpx-vp9", "frames": 120, "fps": 50}, (160, 96), [0, 120 / 50 - 16 / 7.5]),
    "d e/vfr.mkv": ({"pts": [i * i / 90 for i in range(20)]}, (160, 96), [0, 361 / 90 + 1 / 30 - 16 / 7.5]),
}


@pytest.fixture(scope="module")
def encoder(tmp_path_factory):
    encoder = ve.Encoder.from_pretrained(save_checkpoint(tmp_path_factory.mktemp("checkpoint"), "finetuned"))
    encoder.batch_size = 4
    return encoder


@pytest.fixture(scope="module")
def videos(tmp_path_factory):
    folder = tmp_path_factory.mktemp("videos")
    for name, (settings, _, _) in LIBRARY.items():
        (folder / name).parent.mkdir(exist_ok=True)
        write_video(folder / name, **settings)
    return folder


@pytest.fixture(scope="module")
def extracted(videos, encoder, tmp_path_factory):
    return run([videos], tmp_path_factory.mktemp("out") / "lib", encoder=encoder, workers=1)


def in_order(library):
    return library.table().sort_by([("video_id", "ascending"), ("start_s", "ascending")])


def shown(path):
    """Every frame of a video, upright, and when a player shows it; by PyAV alone."""
    with av.open(str(path)) as container:
        zero = max(container.start_time / av.time_base, 0)
        frames = sorted(container.decode(video=0), key=lambda frame: frame.pts)
        pictures = [np.rot90(frame.to_ndarray(format="rgb24"), frame.rotation // 90) for frame in frames]
        # The program stream's clock starts where its first packet does, sound or not.
        return np.array([frame.time for frame in frames]) - min(zero, frames[0].time), pictures


def test_every_clip_is_there_once_and_in_order(extracted):
    table = in_order(extracted.library)
    found = {}
    for video, start in zip(table["video_id"].to_pylist(), table["start_s"].to_pylist(), strict=True):
        found.setdefault(video, []).append(start)
    assert set(found) == set(LIBRARY)
    for name, (_, _, starts) in LIBRARY.items():
        assert found[name] == pytest.approx(starts, abs=0.002), name
    assert extracted.clips == len(table)
    assert extracted.videos == len(LIBRARY)
    assert (extracted.failures, extracted.held, extracted.vanished) == ([], 0, 0)
    assert verify(extracted.library) == []


def test_ids_are_media_fragments_of_the_rows(extracted):
    for row in extracted.library.table().to_pylist():
        assert row["clip_id"] == f"{row['video_id']}#t={row['start_s']:.3f},{row['end_s']:.3f}"


def test_every_embedding_is_that_of_the_frames_its_span_names(extracted, videos, encoder, tmp_path):
    exact = run([videos], tmp_path / "lib", encoder=encoder, workers=1, exact_pixels=True)
    table, fast = in_order(exact.library), in_order(extracted.library)
    assert table["clip_id"].equals(fast["clip_id"])
    a, b = (np.array(rows["embedding"].to_pylist()) for rows in (table, fast))
    assert ((a * b).sum(1) / np.linalg.norm(a, axis=1) / np.linalg.norm(b, axis=1)).min() > 0.999
    assert (a != b).any()
    for name in LIBRARY:
        times, pictures = shown(videos / name)
        rows = [row for row in table.to_pylist() if row["video_id"] == name]
        clips = []
        for row in rows:
            moments = row["start_s"] + np.arange(16) / 7.5
            indices = np.searchsorted(times, moments + TOLERANCE_S, side="right") - 1
            clips.append(np.stack([pictures[min(i, len(pictures) - 1)] for i in indices]))
        expected = encoder.encode(clips)
        assert np.abs(expected - np.array([row["embedding"] for row in rows])).max() < 1e-5, name
        other = encoder.encode([clip[::-1] for clip in clips])
        assert np.abs(expected - other).max() > 1e-3, name


def test_metadata_is_the_files_own(extracted, videos):
    codecs = {"b/hevc.mp4": "hevc", "c/program.mpg": "mpeg2video", "c/slow.avi": "mpeg4", "d e/vp9 é.webm": "vp9"}
    for row in extracted.library.table().to_pylist():
        settings, size, _ = LIBRARY[row["video_id"]]
        path = videos / row["video_id"]
        assert row["path"] == str(path)
        assert row["fingerprint"] == f"{path.stat().st_size}-{path.stat().st_mtime_ns}"
        assert (row["width"], row["height"]) == size
        assert row["codec"] == codecs.get(row["video_id"], "h264")
        if "pts" not in settings:
            fps = settings.get("fps", 30)
            assert row["fps"] == pytest.approx(fps, rel=0.01)
            assert row["duration_s"] == pytest.approx(settings["frames"] / fps, abs=0.02)
        assert row["end_s"] <= row["duration_s"] + settings.get("start_s", 0) + 0.02


def test_half_precision_is_stored_where_asked_for(extracted, videos, encoder, tmp_path):
    library = run([videos / "a.mp4"], tmp_path / "lib", encoder=encoder, stored="float16").library
    assert str(library.schema.field("embedding").type.value_type) == "halffloat"
    rows = [row for row in in_order(extracted.library).to_pylist() if row["video_id"] == "a.mp4"]
    expected = np.array([row["embedding"] for row in rows], np.float32)
    assert np.array_equal(library.embeddings(), expected.astype(np.float16).astype(np.float32))


@pytest.mark.parametrize("workers", [1, 3])
def test_undisturbed_runs_give_equal_bits(extracted, videos, encoder, tmp_path, workers):
    library = run([videos], tmp_path / "lib", encoder=encoder, workers=workers).library
    assert library.table().equals(extracted.library.table())
    assert library.units() == extracted.library.units()


def test_extract_returns_the_library(videos, encoder, tmp_path):
    library = extract(videos / "a.mp4", tmp_path / "lib", encoder=encoder, sampling=Sampling(clips_per_video=1))
    assert library.column("clip_id") == ["a.mp4#t=0.433,2.567"]
    assert library.embeddings().shape == (1, encoder.width)


# With labels -----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def labelled(videos, encoder, tmp_path_factory):
    return run([videos], tmp_path_factory.mktemp("labelled") / "lib", encoder=encoder, workers=1, with_labels=True)


def test_labels_change_no_bit_of_the_embeddings(extracted, labelled):
    plain, with_labels = extracted.library.table(), labelled.library.table()
    assert with_labels.drop_columns(["label", "label_probability"]).equals(plain)
    assert verify(labelled.library) == []


def test_labels_are_the_classifiers_best(labelled, encoder):
    library = Library.open(labelled.library.path)
    classifier = encoder.classifier()
    probabilities = classifier.probabilities(library.embeddings())
    assert library.column("label") == [classifier.labels[i] for i in probabilities.argmax(1)]
    assert np.abs(np.array(library.column("label_probability")) - probabilities.max(1)).max() < 1e-6
    assert str(library.schema.field("label_probability").type) == "float"
    assert library.config.classifier == classifier.sha256
    assert library.config.columns == {"label": "string", "label_probability": "float"}


def test_labels_are_of_what_the_encoder_gave_not_of_what_is_stored(labelled, videos, encoder, tmp_path):
    half = run([videos], tmp_path / "lib", encoder=encoder, workers=1, with_labels=True, stored="float16").library
    columns = ["clip_id", "label", "label_probability"]
    assert half.table(columns).equals(labelled.library.table(columns))


def test_a_library_goes_on_with_labels(videos, encoder, tmp_path):
    lib = tmp_path / "lib"
    run([videos / "a.mp4"], lib, encoder=encoder, workers=1, with_labels=True)
    (tmp_path / "b.csv").write_text(f"path,video_id,league\n{videos}/a.mp4,a.mp4,A\n{videos}/b/short.mp4,s.mp4,B\n")
    library = run([tmp_path / "b.csv"], lib, encoder=encoder, workers=1).library
    rows = in_order(library).to_pylist()
    assert [(row["video_id"], row["league"]) for row in rows] == [("a.mp4", "A"), ("a.mp4", "A"), ("s.mp4", "B")]
    expected = encoder.classifier().probabilities(np.array([row["embedding"] for row in rows], np.float32)).max(1)
    assert [row["label_probability"] for row in rows] == pytest.approx(expected, abs=1e-6)
    assert verify(library) == []


def test_labels_cannot_come_or_go_or_change(extracted, labelled, videos, encoder, tmp_path):
    with pytest.raises(IdentityMismatch, match=r"with-labels\) 'none', this run asks for 'of classifier"):
        run([videos], extracted.library.path, encoder=encoder, with_labels=True)
    with pytest.raises(IdentityMismatch, match=r"with-labels\) 'of classifier .*', this run asks for 'none'"):
        run([videos], labelled.library.path, encoder=encoder, with_labels=False)
    other_names = dict(enumerate("abcde"))
    other = ve.Encoder.from_pretrained(save_checkpoint(tmp_path / "other", "finetuned", id2label=other_names))
    assert other.identity["weights_sha256"] == encoder.identity["weights_sha256"]
    with pytest.raises(IdentityMismatch, match=r"with-labels\) 'of classifier .*', this run asks for 'of classifier"):
        run([videos], labelled.library.path, encoder=other)


def test_a_manifests_own_label_is_not_mixed_with_ours(videos, encoder, tmp_path):
    (tmp_path / "list.csv").write_text(f"path,label\n{videos}/a.mp4,goal\n")
    with pytest.raises(UsageError, match="column 'label': --with-labels stores a column of that name; rename yours"):
        run([tmp_path / "list.csv"], tmp_path / "lib", encoder=encoder, with_labels=True)
    assert not (tmp_path / "lib").exists()


# With tokens -----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def with_tokens(videos, encoder, tmp_path_factory):
    lib = tmp_path_factory.mktemp("tokens") / "lib"
    return run([videos], lib, encoder=encoder, workers=1, tokens=True, exact_pixels=True).library


def test_tokens_change_no_bit_of_the_embeddings(extracted, videos, encoder, tmp_path):
    library = run([videos], tmp_path / "lib", encoder=encoder, workers=2, tokens=True).library
    assert library.table().equals(extracted.library.table())
    assert library.config.tokens == encoder.tokens
    assert verify(library) == []


def test_tokens_are_transformers_own_of_the_frames_that_the_span_names(with_tokens, videos, encoder):
    from transformers import VideoMAEForVideoClassification, VideoMAEImageProcessorPil

    library = Library.open(with_tokens.path)
    checkpoint = encoder.identity["checkpoint"]
    model = VideoMAEForVideoClassification.from_pretrained(checkpoint).eval().videomae
    processor = VideoMAEImageProcessorPil.from_pretrained(checkpoint)
    stored = np.asarray(library.tokens(), np.float32)
    assert stored.shape == (len(library), encoder.tokens, encoder.width)
    for name in ("a.mp4", "b/hevc.mp4", "d e/vfr.mkv"):
        times, pictures = shown(videos / name)
        for row, clip in enumerate(library.table(["video_id", "start_s"]).to_pylist()):
            if clip["video_id"] != name:
                continue
            indices = np.searchsorted(times, clip["start_s"] + np.arange(16) / 7.5 + TOLERANCE_S, side="right") - 1
            frames = [pictures[min(i, len(pictures) - 1)] for i in indices]
            with torch.no_grad():
                expected = model(processor(frames, return_tensors="pt")["pixel_values"]).last_hidden_state[0].numpy()
            assert np.abs(stored[row] - expected).max() < 1e-3 * np.abs(expected).max(), name


def test_a_library_goes_on_with_tokens(videos, encoder, tmp_path):
    lib = tmp_path / "lib"
    run([videos / "a.mp4"], lib, encoder=encoder, workers=1, tokens=True)
    library = run([videos / "a.mp4", videos / "b" / "short.mp4"], lib, encoder=encoder, workers=1).library
    assert (len(library), len(library.tokens())) == (3, 3)
    assert verify(library) == []
    refused = r"tokens \(--store tokens\) '\d+ a clip', this run asks for 'none'; give the same options, or another"
    with pytest.raises(IdentityMismatch, match=refused):
        run([videos / "a.mp4"], lib, encoder=encoder, tokens=False)


def test_tokens_cannot_come_to_a_library_without(extracted, videos, encoder):
    announced = []
    with pytest.raises(IdentityMismatch, match=r"tokens \(--store tokens\) 'none', this run asks for '\d+ a clip'"):
        run([videos], extracted.library.path, encoder=encoder, tokens=True, announce=announced.append)
    assert not announced


def test_room_is_told_before_anything_is_decoded_and_counts_what_is_left(videos, encoder, tmp_path):
    told = []
    some = [videos / "a.mp4", videos / "b" / "hevc.mp4", videos / "c" / "portrait.mp4"]
    for sources in (some[:1], some, some):
        options = {"announce": told.append, "observe": lambda *_: told.append("progress")}
        run(sources, tmp_path / "lib", encoder=encoder, workers=1, tokens=True, **options)
    first, *_, second = (one for one in told if one != "progress")
    assert told[0] is first
    assert told.count("progress") > 0
    assert first.clip_bytes == second.clip_bytes == encoder.tokens * encoder.width * 2
    assert (first.clips, second.clips, first.bytes) == (2, 2, 2 * first.clip_bytes)
    assert sum(one != "progress" for one in told) == 2  # the third run has nothing to add


def test_a_disk_without_room_is_refused_and_nothing_is_made(videos, encoder, tmp_path, monkeypatch):
    def free(path):
        assert Path(path).is_dir()
        return SimpleNamespace(free=10_000)

    monkeypatch.setattr(shutil, "disk_usage", free)
    message = (
        r"/new/lib: tokens of about \d+ clips take 0\.00 GB, its disk has 0\.00 GB free; give another disk, "
        r"fewer clips \(--clips-per-video, --hop\) or a smaller model$"
    )
    announced = []
    with pytest.raises(UsageError, match=message):
        run([videos], tmp_path / "new" / "lib", encoder=encoder, tokens=True, announce=announced.append)
    assert len(announced) == 1
    assert not (tmp_path / "new").exists()
    assert run([videos / "a.mp4"], tmp_path / "lib", encoder=encoder, tokens=True).clips == 2
    before = Library.open(tmp_path / "lib").state()
    with pytest.raises(UsageError, match="its disk has"):
        run([videos], tmp_path / "lib", encoder=encoder)
    assert Library.open(tmp_path / "lib").state() == before
    assert run([videos / "a.mp4"], tmp_path / "lib", encoder=encoder).held == 1  # nothing to add


def test_python_goes_on_as_a_library_was_made(videos, encoder, tmp_path):
    """Where nothing is said: its checkpoint, precision and pooling, its sampling, its pixels, its type on disk."""
    checkpoint, lib = encoder.identity["checkpoint"], tmp_path / "lib"
    made = run(
        [videos / "a.mp4"],
        lib,
        encoder=load_encoder(lib, checkpoint, device="cpu", dtype="float16", pooling="first-token"),
        sampling=Sampling(stride=3),
        exact_pixels=True,
        stored="float16",
    ).library
    assert extract([videos / "a.mp4", videos / "b" / "short.mp4"], lib).config.encoder == made.config.encoder
    assert extract([videos / "a.mp4", videos / "b" / "short.mp4"], lib, encoder=checkpoint).config.sampling == Sampling(
        stride=3
    )
    opened = Library.open(lib)
    assert set(opened.column("video_id")) == {"a.mp4", "short.mp4"}
    assert (opened.config.exact_pixels, opened.config.stored) == (True, "float16")


# Bringing a library up to date, with an encoder that reads the numbers on the frames --------------


@pytest.fixture(scope="module")
def numbered(tmp_path_factory):
    """Six videos of one clip; video n's first frame says 100 n."""
    folder = tmp_path_factory.mktemp("numbered")
    for i in range(6):
        write_video(folder / f"{i}.mp4", frames=24, first_index=100 * i)
    return folder


class Case:
    """A folder of videos and a library of it."""

    def __init__(self, tmp_path, numbered):
        self.folder, self.lib, self._numbered = tmp_path / "videos", tmp_path / "lib", numbered
        self.folder.mkdir()
        self.add("0.mp4", "1.mp4", "2.mp4")

    def add(self, *names):
        for name in names:
            shutil.copy2(self._numbered / name, self.folder / name)

    def run(self, *sources, **options):
        self.encoder = ReadingEncoder()
        return run(sources or [self.folder], self.lib, encoder=self.encoder, workers=1, **options)

    @property
    def embedded(self):
        return sum(self.encoder.batches)

    def rows(self):
        library = Library.open(self.lib)
        assert verify(library) == []
        return sorted((row["video_id"], row["embedding"][0]) for row in library.table().to_pylist())

    def failed(self):
        return sorted((f.video_id, f.stage) for f in Library.open(self.lib).failures())

    def files(self):
        return {str(path.relative_to(self.lib)): path.stat().st_mtime_ns for path in self.lib.rglob("*")}


@pytest.fixture
def case(tmp_path, numbered):
    return Case(tmp_path, numbered)


def test_a_rerun_does_nothing(case):
    case.run()
    garbage(case.folder / "bad.mp4")
    case.run()
    before = case.files()
    summary = case.run()
    assert case.embedded == 0
    assert (summary.videos, summary.clips, summary.held, summary.failures) == (0, 0, 4, [])
    assert case.files() == before


def test_new_videos_alone_are_extracted(case):
    case.run()
    before = case.files()
    case.add("3.mp4", "4.mp4")
    summary = case.run()
    assert (case.embedded, summary.videos, summary.clips, summary.held) == (2, 2, 2, 3)
    assert case.rows() == [(f"{i}.mp4", 100 * i) for i in range(5)]
    changed = before.items() - case.files().items()
    assert {name for name, _ in changed} == {"clips", "library.json"}  # a folder, and the log of runs


def test_a_changed_video_replaces_its_rows(case, numbered):
    case.run()
    shutil.copy(numbered / "5.mp4", case.folder / "1.mp4")
    summary = case.run()
    assert (case.embedded, summary.videos, summary.held) == (1, 1, 2)
    assert case.rows() == [("0.mp4", 0), ("1.mp4", 500), ("2.mp4", 200)]


def test_tokens_follow_what_changes_comes_and_goes(case, numbered, monkeypatch):
    """Two videos a unit: what becomes of one leaves the other's tokens where its clips are."""
    case.add("3.mp4", "4.mp4")

    def bring_up_to_date(**options):
        encoder = TokenEncoder()
        run([case.folder], case.lib, encoder=encoder, workers=1, **options)
        assert_tokens_are_of_their_clips(Library.open(case.lib), frames=24)
        return sum(encoder.batches), [row for _, row in case.rows()]

    make_plan = extraction.make_plan

    def in_pairs(*arguments, **options):
        plan = make_plan(*arguments, **options)
        plan.units = _cut([video for unit in plan.units for video in unit.videos], most_videos=2)
        return plan

    monkeypatch.setattr(extraction, "make_plan", in_pairs)
    assert bring_up_to_date(tokens=True) == (5, [0, 100, 200, 300, 400])
    assert len(list(case.lib.glob("tokens/*-2.npy"))) == 2
    shutil.copy(numbered / "5.mp4", case.folder / "1.mp4")
    assert bring_up_to_date() == (1, [0, 500, 200, 300, 400])
    (case.folder / "2.mp4").unlink()
    garbage(case.folder / "4.mp4")
    assert bring_up_to_date(prune=True) == (0, [0, 500, 300])
    case.add("2.mp4", "4.mp4")
    assert bring_up_to_date() == (2, [0, 500, 200, 300, 400])


def test_a_video_that_was_merely_touched_is_extracted_anew(case):
    case.run()
    os.utime(case.folder / "1.mp4", ns=(1, 1))
    assert case.run().videos == 1
    assert case.rows() == [("0.mp4", 0), ("1.mp4", 100), ("2.mp4", 200)]


def test_a_changed_video_that_cannot_be_read_leaves_no_rows(case):
    case.run()
    garbage(case.folder / "1.mp4")
    assert len(case.run().failures) == 1
    assert case.rows() == [("0.mp4", 0), ("2.mp4", 200)]
    assert case.failed() == [("1.mp4", "open")]


def test_a_failed_video_that_changes_is_tried_again(case, numbered):
    garbage(case.folder / "1.mp4")
    assert [failure.video_id for failure in case.run().failures] == ["1.mp4"]
    shutil.copy(numbered / "1.mp4", case.folder / "1.mp4")
    summary = case.run()
    assert (summary.videos, summary.failures, summary.known_failures) == (1, [], 0)
    assert case.rows() == [("0.mp4", 0), ("1.mp4", 100), ("2.mp4", 200)]
    assert case.failed() == []


def test_vanished_videos_stay_until_pruned(case):
    garbage(case.folder / "bad.mp4")
    case.run()
    (case.folder / "1.mp4").unlink()
    (case.folder / "bad.mp4").unlink()
    summary = case.run()
    assert (summary.vanished, summary.pruned, summary.held, summary.known_failures) == (2, 0, 2, 0)
    assert len(case.rows()) == 3
    assert case.failed() == [("bad.mp4", "open")]
    summary = case.run(prune=True)
    assert (summary.vanished, summary.pruned) == (2, 2)
    assert case.rows() == [("0.mp4", 0), ("2.mp4", 200)]
    assert case.failed() == []
    summary = case.run(prune=True)
    assert (summary.vanished, summary.pruned) == (0, 0)
    case.add("1.mp4")
    assert case.run().videos == 1
    assert case.rows() == [("0.mp4", 0), ("1.mp4", 100), ("2.mp4", 200)]


def test_failed_videos_are_tried_again_only_when_asked(case):
    garbage(case.folder / "bad.mp4")
    first = case.run()
    assert (first.videos, len(first.failures), first.known_failures) == (4, 1, 0)
    second = case.run()
    assert (second.videos, second.failures, second.known_failures) == (0, [], 1)
    third = case.run(retry_failed=True)
    assert (third.videos, len(third.failures), third.known_failures) == (1, 1, 0)
    assert case.failed() == [("bad.mp4", "open")]
    assert len(case.rows()) == 3


def test_a_failure_that_passes_is_mended_by_trying_again(case, monkeypatch, tmp_path, numbered):
    shutil.copy(numbered / "3.mp4", case.folder / "killed_early.mp4")
    with monkeypatch.context() as patch:
        inject(patch, tmp_path / "site", MISBEHAVE)
        assert len(case.run().failures) == 1
    assert case.failed() == [("killed_early.mp4", "worker")]
    assert case.run().videos == 0
    summary = case.run(retry_failed=True)
    assert (summary.videos, summary.failures) == (1, [])
    assert case.failed() == []
    assert case.rows()[-1] == ("killed_early.mp4", 300)


def test_failures_say_where_and_why(case):
    long = write_video(case.folder / "long.mp4", frames=240, container_options={"movflags": "faststart"})
    truncate(long, 0.5)
    long.unlink()
    garbage(case.folder / "noise.mp4")
    (case.folder / "empty.mp4").touch()
    case.run()
    found = {f.video_id: f for f in Library.open(case.lib).failures()}
    assert {name: f.stage for name, f in found.items()} == {
        "long_first0.5.mp4": "timeline",
        "noise.mp4": "open",
        "empty.mp4": "open",
    }
    assert found["long_first0.5.mp4"].reason == "cut short or damaged near 3.500 s"
    for name, failure in found.items():
        assert failure.path == str(case.folder / name)
        assert failure.reason
        assert "\n" not in failure.reason
        assert failure.seconds >= 0
        status = (case.folder / name).stat()
        assert failure.fingerprint == f"{status.st_size}-{status.st_mtime_ns}"


def manifest(folder, text):
    path = folder.parent / "videos.csv"
    path.write_text(text)
    return path


def test_a_manifests_columns_are_carried(case):
    case.run(manifest(case.folder, "path,label,weight,take\nvideos/0.mp4,cat,0.5,1\nvideos/1.mp4,dog,,2\n"))
    table = Library.open(case.lib).table()
    rows = {row["video_id"]: (row["label"], row["weight"], row["take"]) for row in table.to_pylist()}
    assert rows == {"videos/0.mp4": ("cat", 0.5, 1), "videos/1.mp4": ("dog", None, 2)}
    case.run(manifest(case.folder, "path,label,place\nvideos/0.mp4,cat,here\nvideos/2.mp4,cow,there\n"))
    table = Library.open(case.lib).table()
    rows = {row["video_id"]: (row["label"], row["take"], row["place"]) for row in table.to_pylist()}
    assert rows == {
        "videos/0.mp4": ("cat", 1, "here"),  # held already; its rows are given what is new
        "videos/1.mp4": ("dog", 2, None),
        "videos/2.mp4": ("cow", None, "there"),
    }


def test_a_missing_file_of_a_manifest_is_a_failure_of_its_source(case):
    listed = manifest(case.folder, "path,video_id\nvideos/0.mp4,zero\nvideos/3.mp4,three\n")
    summary = case.run(listed)
    assert (summary.videos, summary.clips, len(summary.failures)) == (2, 1, 1)
    (failure,) = Library.open(case.lib).failures()
    assert (failure.video_id, failure.stage, failure.reason) == ("three", "source", "No such file or directory")
    again = case.run(listed)
    assert (again.videos, again.failures, again.known_failures) == (0, [], 1)
    case.add("3.mp4")
    assert case.run(listed).failures == []
    assert case.rows() == [("three", 300), ("zero", 0)]
    assert case.failed() == []


def test_a_second_run_on_a_library_is_refused_in_one_line(case):
    case.run()
    with Library.open(case.lib).lock(), pytest.raises(LibraryLocked, match="another run is writing to it") as caught:
        case.run()
    assert "\n" not in str(caught.value)
    assert case.run().held == 3


def test_a_library_made_otherwise_is_refused_before_anything_is_done(case):
    case.run()
    before = case.files()
    case.add("3.mp4")
    with pytest.raises(IdentityMismatch, match=r"made with sampling '.*touching windows', this run asks for"):
        case.run(sampling=Sampling(hop_s=1))
    with pytest.raises(
        IdentityMismatch, match=r"made with stored type .--store. 'float32', this run asks for 'float16'"
    ):
        case.run(stored="float16")
    assert case.files() == before


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"workers": 0}, "workers=0: give at least 1"),
        ({"video_timeout_s": 0}, "video-timeout=0: give seconds, above 0"),
        ({"video_timeout_s": float("nan")}, "video-timeout=nan: give seconds, above 0"),
        ({"sampling": Sampling(frames=8)}, "sampling takes 8 frames a clip; this checkpoint takes 16"),
        ({"decoder": "ffmpeg"}, "decoder='ffmpeg': choose one of auto, pyav, nvdec, decord"),
        ({"stored": "int8"}, "stored='int8': choose one of float32, float16"),
    ],
)
def test_a_bad_option_is_refused_before_anything_is_done(case, options, message):
    with pytest.raises(UsageError, match=message):
        run([case.folder], case.lib, encoder=ReadingEncoder(), **({"workers": 1} | options))
    assert not case.lib.exists()


def test_no_time_limit_can_be_asked_for(case):
    assert case.run(video_timeout_s=float("inf")).clips == 3


def test_sources_that_name_nothing_leave_no_library(case, tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(SourceError, match="it is empty"):
        case.run(tmp_path / "empty")
    assert not case.lib.exists()


@pytest.mark.parametrize("decoder", ["pyav", "decord"])
def test_the_chosen_decoder_is_used(case, decoder):
    case.run(decoder=decoder)
    assert case.rows() == [("0.mp4", 0), ("1.mp4", 100), ("2.mp4", 200)]


@pytest.mark.slow
def test_a_script_needs_no_main_guard(case, tmp_path):
    checkpoint = save_checkpoint(tmp_path / "checkpoint")
    script = tmp_path / "script.py"
    script.write_text(
        "import vmae_embed as ve\n"
        "print('begun')\n"
        f"encoder = ve.Encoder.from_pretrained({str(checkpoint)!r}, device='cpu')\n"
        "library = ve.extract('videos', 'lib', encoder=encoder, workers=2)\n"
        "print(len(library))\n"
    )
    done = subprocess.run(
        [sys.executable, str(script)], cwd=tmp_path, capture_output=True, text=True, timeout=120, check=False
    )
    assert (done.returncode, done.stdout.split()) == (0, ["begun", "3"]), done.stderr


@pytest.mark.slow
@pytest.mark.skipif(not SHARED.exists(), reason="no shared videos beside the checkout")
def test_every_file_of_a_zoo_has_one_verdict(tmp_path):
    zoo = SHARED / "videos/zoo"
    files = {path.relative_to(zoo).as_posix() for path in zoo.rglob("*") if path.is_file()}
    sampling = Sampling(clips_per_video=3)
    summary = run([zoo], tmp_path / "lib", encoder=FlatEncoder(8), glob="*", sampling=sampling, video_timeout_s=60)
    library = summary.library
    verdicts = Counter(set(library.column("video_id"))) + Counter(f.video_id for f in library.failures())
    assert set(verdicts) == files
    assert set(verdicts.values()) == {1}
    assert summary.videos == len(files)
    stages = Counter(failure.stage for failure in library.failures())
    assert set(stages) <= {"open", "timeline", "decode"}, stages
    assert all(f.reason and "\n" not in f.reason for f in library.failures())
    assert len(set(library.column("video_id"))) > 80
    assert verify(library) == []
    assert Path(library.path, "clips").exists()


@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_an_encoder_that_overflows_fails_its_videos(tmp_path, dtype):
    """Weights so large that sums of their products are infinite, and norms of those no number."""
    from safetensors.torch import load_file, save_file

    folder = save_checkpoint(tmp_path / "huge")
    weights = load_file(folder / "model.safetensors")
    for name, weight in weights.items():
        if "encoder.layer" in name and weight.ndim == 2:
            weight.mul_(1e30)
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    (tmp_path / "videos").mkdir()
    for name in ("a.mp4", "b.mp4"):
        write_video(tmp_path / "videos" / name, frames=90, size=(96, 64))
    huge = ve.Encoder.from_pretrained(folder, device="cpu", dtype=dtype)
    summary = run([tmp_path / "videos"], tmp_path / "lib", encoder=huge, workers=1)
    assert (summary.clips, len(summary.library)) == (0, 0)
    failed = {failure.video_id: failure.stage for failure in summary.library.failures()}
    assert failed == {"a.mp4": "encode", "b.mp4": "encode"}
    assert all("its embeddings are not finite" in failure.reason for failure in summary.failures)
    assert verify(summary.library) == []
