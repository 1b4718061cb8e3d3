"""The probe suite: whose labels, which split, what figures, and whether a leak would be seen."""

from __future__ import annotations

import json
from dataclasses import replace
from functools import partial
from itertools import pairwise

import numpy as np
import pyarrow as pa
import pytest

from tests.libraries import PREPROCESSING, identity, make_library
from vmae_embed.errors import IdentityMismatch, ProbeError, UsageError
from vmae_embed.library import Library, LibraryConfig, clip_rows
from vmae_embed.probes import AttentiveProbe, KNNProbe, LinearProbe, load_probe, save_probe
from vmae_embed.probing import (
    Judged,
    Rows,
    all_rows,
    compare,
    differences,
    evaluate_probes,
    fit_probe,
    labelled_rows,
    measure,
    of_videos,
    predictions,
    score_probe,
    to_dict,
    write_probe_page,
)
from vmae_embed.records import ClipSpan, Timeline, Video
from vmae_embed.sampling import Sampling
from vmae_embed.views import open_views

PROBES = {
    "linear": partial(LinearProbe, l2=(100.0, 1.0)),
    "knn": partial(KNNProbe, k=(5, 20)),
    "attentive": partial(AttentiveProbe, learning_rates=(3e-3, 1e-3)),
}
OF_EMBEDDINGS = {name: PROBES[name] for name in ("linear", "knn")}


def tokens_of(vectors):
    """Two tokens a clip: its vector, and nothing."""
    return np.stack([vectors, np.ones_like(vectors)], axis=1).astype(np.float16)


def rows_of(vectors, truth, groups, sides=None, clips_a_video=1):
    """Rows without a library: every so many consecutive clips are of one video."""
    names = [f"v{i // clips_a_video}.mp4" for i in range(len(vectors))]
    clips = pa.table({"clip_id": [str(i) for i in range(len(vectors))], "video_id": names})
    return Rows(np.asarray(vectors, np.float32), list(truth), list(groups), sides, clips, tokens_of(vectors))


@pytest.fixture
def library(tmp_path):
    """24 videos of four clips; a video's class shifts its vectors."""
    rng = np.random.default_rng(0)
    kinds = np.arange(96) // 4 % 3
    vectors = rng.normal(size=(3, 12))[kinds] * 2 + rng.normal(size=(96, 12))
    library = make_library(tmp_path / "lib", vectors.astype(np.float32))
    lines = [f"v{i:05}.mp4,{'abc'[i % 3]},g{i // 3 % 6}" for i in range(24)]
    (tmp_path / "labels.csv").write_text("video_id,label,group\n" + "\n".join(lines) + "\n")
    return library


def test_labels_of_a_file_with_groups(library, tmp_path):
    rows, unmatched = labelled_rows(library, str(tmp_path / "labels.csv"), group="group")
    assert rows.truth == ["abc"[i // 4 % 3] for i in range(96)]
    assert rows.groups[:24:4] == ["g0", "g0", "g0", "g1", "g1", "g1"]
    assert rows.sides is None
    assert unmatched == type(unmatched)()
    np.testing.assert_array_equal(rows.embeddings, library.embeddings())


def test_what_finds_no_partner_is_told(library, tmp_path):
    (tmp_path / "some.csv").write_text("video_id,label\nv00000.mp4,a\nv00001.mp4,b\nelsewhere.mp4,a\n")
    rows, unmatched = labelled_rows(library, str(tmp_path / "some.csv"))
    assert len(rows.truth) == 8
    assert unmatched.keys == ("elsewhere.mp4",)
    assert len(unmatched.videos) == 22
    (tmp_path / "none.csv").write_text("video_id,label\nelsewhere.mp4,a\n")
    with pytest.raises(ProbeError, match="no label fits a clip"):
        labelled_rows(library, str(tmp_path / "none.csv"))


def test_folders_and_carried_columns_give_labels(library):
    rows, _ = labelled_rows(library, "folders")
    assert set(rows.truth) == {"videos"}
    with pytest.raises(ProbeError, match="every labelled clip is 'videos'"):
        evaluate_probes(library, rows, OF_EMBEDDINGS)
    with pytest.raises(UsageError, match="column 'label': the library carries no columns of a manifest"):
        labelled_rows(library, None)


def test_a_given_split_is_kept(library, tmp_path):
    sides = ["train", "val", "Test"]
    lines = [f"v{i:05}.mp4,{'abc'[i % 3]},{sides[i // 3 % 3]}" for i in range(24)]
    (tmp_path / "split.csv").write_text("video_id,label,split\n" + "\n".join(lines) + "\n")
    rows, _ = labelled_rows(library, str(tmp_path / "split.csv"))
    done = evaluate_probes(library, rows, OF_EMBEDDINGS)
    assert "the given split" in done.split
    tested = {rows.clips["video_id"][int(row)].as_py() for row in done.results[0].answers.tested}
    assert tested == {f"v{i:05}.mp4" for i in range(24) if i // 3 % 3 == 2}
    assert done.results[0].answers.train_clips == 96 - 4 * len(tested)
    (tmp_path / "split.csv").write_text("video_id,label,split\nv00000.mp4,a,train\nv00001.mp4,b,oops\n")
    with pytest.raises(UsageError, match="split 'oops'; give train, val or test"):
        labelled_rows(library, str(tmp_path / "split.csv"))
    (tmp_path / "split.csv").write_text("video_id,label,split\nv00000.mp4,a,train\nv00001.mp4,b,train\n")
    rows, _ = labelled_rows(library, str(tmp_path / "split.csv"))
    with pytest.raises(ProbeError, match="has no test rows"):
        evaluate_probes(library, rows, OF_EMBEDDINGS)


def test_a_given_split_parts_no_group(library, tmp_path):
    lines = [f"v{i:05}.mp4,{'abc'[i % 3]},{'test' if i % 4 == 0 else 'train'},g{i // 3}" for i in range(24)]
    (tmp_path / "split.csv").write_text("video_id,label,split,group\n" + "\n".join(lines) + "\n")
    rows, _ = labelled_rows(library, str(tmp_path / "split.csv"))
    evaluate_probes(library, rows, OF_EMBEDDINGS)
    rows, _ = labelled_rows(library, str(tmp_path / "split.csv"), group="group")
    with pytest.raises(ProbeError, match="group 'g0' and 5 more is on both sides of the given split"):
        evaluate_probes(library, rows, OF_EMBEDDINGS)


def test_a_video_is_never_parted(library, tmp_path):
    ids = library.column("clip_id")
    for column, values in (("group", ["x", "y"]), ("split", ["train", "test"])):
        lines = [f'"{clip}",{"ab"[i // 4 % 2]},{values[i % 2]}' for i, clip in enumerate(ids)]
        (tmp_path / "clips.csv").write_text(f"clip_id,label,{column}\n" + "\n".join(lines) + "\n")
        with pytest.raises(ProbeError, match=r"clips of v00000.mp4 are in two .*; keep a video's clips together"):
            labelled_rows(library, str(tmp_path / "clips.csv"), group="group" if column == "group" else None)


def test_every_row_is_judged_once_by_a_probe_that_never_saw_its_group(library, tmp_path):
    rows, _ = labelled_rows(library, str(tmp_path / "labels.csv"), group="group")
    seen = []

    class Spy(KNNProbe):
        def fit(self, X, y, groups=None):  # noqa: N803
            seen.append(set(groups))
            return super().fit(X, y, groups)

    done = evaluate_probes(library, rows, {"spy": Spy}, folds=3, shots=(2,))
    answers = done.results[0].answers
    assert sorted(answers.tested.tolist()) == list(range(96))
    start = 0
    for groups in seen[:3]:
        asked = set()
        while start < 96 and rows.groups[answers.tested[start]] not in groups:
            asked.add(rows.groups[answers.tested[start]])
            start += 1
        assert asked
        assert asked.isdisjoint(groups)
    assert start == 96
    few = done.results[1]
    assert few.shots == 2
    assert few.answers.train_clips == 6
    assert len(few.answers.tested) == 5 * 96


@pytest.mark.parametrize("name", PROBES)
def test_shuffled_labels_are_at_chance(name):
    rng = np.random.default_rng(7)
    kinds = np.arange(400) % 4
    vectors = rng.normal(size=(4, 16))[kinds] * 3 + rng.normal(size=(400, 16))
    groups = [str(i) for i in range(400)]
    for truth, is_right in ((kinds, True), (rng.permutation(kinds), False)):
        done = evaluate_probes(None, rows_of(vectors, truth.tolist(), groups), {name: PROBES[name]})
        top1 = done.results[0].clip_figures["top1"]
        assert (top1.low <= 0.25 <= top1.high) is not is_right
        assert (top1.value > 0.7) is is_right


@pytest.mark.parametrize("name", PROBES)
def test_a_leak_by_group_is_seen(name):
    """Vectors tell the group alone, whose label is a coin's: grouped folds are at chance, others are not."""
    rng = np.random.default_rng(4)
    coins = rng.permutation([0, 1] * 30)
    groups = np.repeat(np.arange(60), 6)
    vectors = rng.normal(size=(60, 128))[groups] * 3 + rng.normal(size=(360, 128))
    truth = coins[groups].tolist()
    grouped = evaluate_probes(None, rows_of(vectors, truth, map(str, groups), clips_a_video=6), {name: PROBES[name]})
    leaking = evaluate_probes(None, rows_of(vectors, truth, map(str, range(360))), {name: PROBES[name]})
    top1 = grouped.results[0].clip_figures["top1"]
    assert top1.low <= 0.5 <= top1.high
    assert leaking.results[0].clip_figures["top1"].low > 0.9


def judged(truth, probabilities, videos):
    truth = np.asarray(truth)
    nothing = np.zeros(len(truth), dtype=np.intp)
    return Judged(truth, np.asarray(probabilities, float), np.asarray(videos), nothing, nothing, np.arange(len(truth)))


def test_figures_are_scikit_learns():
    metrics = pytest.importorskip("sklearn.metrics")
    rng = np.random.default_rng(5)
    truth = rng.integers(0, 8, 300)
    probabilities = rng.dirichlet(np.full(8, 0.4), 300)
    probabilities[np.arange(300), truth] += 0.3
    probabilities /= probabilities.sum(1, keepdims=True)
    found = measure(judged(truth, probabilities, np.arange(300) // 3))
    predicted = probabilities.argmax(1)
    assert found["top1"].value == pytest.approx(metrics.accuracy_score(truth, predicted))
    assert found["top5"].value == pytest.approx(metrics.top_k_accuracy_score(truth, probabilities, k=5))
    assert found["mean_per_class"].value == pytest.approx(metrics.balanced_accuracy_score(truth, predicted))
    assert found["macro_f1"].value == pytest.approx(metrics.f1_score(truth, predicted, average="macro"))
    confidence, right = probabilities.max(1), predicted == truth
    edges = np.linspace(0, 1, 16)
    error = sum(
        abs((right[bin_] - confidence[bin_]).sum()) / 300
        for low, high in pairwise(edges)
        if (bin_ := (confidence >= low) & ((confidence < high) | (high == 1))).any()
    )
    assert found["ece"].value == pytest.approx(error)
    for interval in found.values():
        assert interval.low <= interval.value <= interval.high
    assert found["top1"].low < found["top1"].value < found["top1"].high


def test_intervals_are_over_videos():
    """Ten clips of one video are no more evidence than one."""
    rng = np.random.default_rng(6)
    right = rng.random(40) < 0.5
    once = measure(judged(np.zeros(40, int), np.c_[right, ~right], np.arange(40)))["top1"]
    right = np.repeat(right, 10)
    often = measure(judged(np.zeros(400, int), np.c_[right, ~right], np.repeat(np.arange(40), 10)))["top1"]
    assert often.high - often.low == pytest.approx(once.high - once.low, rel=0.1)
    alone = measure(judged([0, 1], [[1, 0], [0, 1]], [7, 7]))["top1"]
    assert (alone.value, alone.low, alone.high) == (1, None, None)


def test_a_video_is_named_by_the_mean_of_its_clips():
    clips = judged([0, 0, 0, 1], [[0.9, 0.1], [0.4, 0.6], [0.4, 0.6], [0.6, 0.4]], [3, 3, 3, 5])
    videos = of_videos(clips)
    assert videos.videos.tolist() == [3, 5]
    np.testing.assert_allclose(videos.probabilities, [[1.7 / 3, 1.3 / 3], [0.6, 0.4]])
    assert videos.predicted.tolist() == [0, 0]
    assert videos.rows.tolist() == [0, 3]


def test_a_paired_test_sees_a_real_difference_and_no_other():
    rng = np.random.default_rng(7)
    truth = np.zeros(200, int)
    good, fair, other = (rng.random(200) < share for share in (0.8, 0.6, 0.6))
    answers = [judged(truth, np.c_[right, ~right], np.arange(200) // 2) for right in (good, fair, other)]
    found = compare(answers[0], answers[1])
    assert found.value.value == pytest.approx(good.mean() - fair.mean())
    assert found.value.low > 0
    assert found.p < 0.01
    assert found.videos == 100
    assert compare(answers[1], answers[2]).p > 0.05
    assert compare(answers[1], answers[1]).p == 1


def test_two_libraries_side_by_side(library, tmp_path):
    rng = np.random.default_rng(1)
    noise = make_library(tmp_path / "noise", rng.normal(size=(96, 5)).astype(np.float32))
    done = [
        evaluate_probes(one, labelled_rows(one, str(tmp_path / "labels.csv"))[0], OF_EMBEDDINGS, folds=4)
        for one in (library, noise)
    ]
    found = differences(*done)
    assert list(found) == ["linear", "knn"]
    figures = [one.results[0].video_figures["top1"].value for one in done]
    assert found["linear"].value.value == pytest.approx(figures[0] - figures[1])
    assert found["linear"].p < 0.01
    page = write_probe_page(tmp_path / "p.html", done[::-1], found, title="both").read_text()
    assert page.count("<svg") == 2
    assert "paired permutation test" in page
    assert "is gone" in page  # of mistakes, whose videos were never there
    json.dumps(to_dict(done[0]))
    fewer = make_library(tmp_path / "fewer", rng.normal(size=(92, 5)).astype(np.float32))
    other = evaluate_probes(fewer, labelled_rows(fewer, str(tmp_path / "labels.csv"))[0], OF_EMBEDDINGS, folds=4)
    with pytest.raises(ProbeError, match="do not hold the same labelled videos"):
        differences(done[0], other)


@pytest.mark.parametrize("kind", PROBES)
def test_a_kept_probe_is_the_same_probe(library, tmp_path, kind):
    rows, _ = labelled_rows(library, str(tmp_path / "labels.csv"))
    rows = replace(rows, tokens=tokens_of(rows.embeddings))
    probe = PROBES[kind]()
    assert fit_probe(probe, rows) == 96
    features = getattr(rows, probe.reads)
    videos = [("v00000.mp4", "9-9"), ("elsewhere.mp4", "1-1"), ("gone.mp4", "")]
    save_probe(tmp_path / "probe", probe, library.config, fitted_to={"clips": 96}, videos=videos)
    assert sorted(path.name for path in (tmp_path / "probe").iterdir()) == ["probe.json", "probe.safetensors"]
    saved = load_probe(tmp_path / "probe")
    saved.check(library)
    assert saved.kind == kind
    assert saved.probe.to_dict() == probe.to_dict()
    np.testing.assert_array_equal(saved.probe.predict_proba(features), probe.predict_proba(features))
    assert saved.probe.validation_ == probe.validation_
    assert saved.fitted_to == {"clips": 96}
    # One by its name, one by its file, and one by neither, whatever its clips.
    assert saved.seen(["v00000.mp4", "v00000.mp4", "b.mp4", "c.mp4"], ["2-2", "2-2", "1-1", ""]) == 2
    with pytest.raises(UsageError, match="exists; give another name, or --overwrite"):
        save_probe(tmp_path / "probe", probe, library.config, fitted_to={})
    save_probe(tmp_path / "probe", probe, library.config, fitted_to={}, overwrite=True)
    with pytest.raises(UsageError, match="not empty, and no probe"):
        save_probe(tmp_path / "lib", probe, library.config, fitted_to={}, overwrite=True)

    found = score_probe(saved, rows)
    assert found.figures["by_clip"]["top1"].value == probe.score(features, rows.truth)
    assert found.unknown == ()


@pytest.mark.parametrize("kind", OF_EMBEDDINGS)
def test_a_kept_probe_names_a_library(library, tmp_path, kind):
    rows, _ = labelled_rows(library, str(tmp_path / "labels.csv"))
    probe = PROBES[kind]().fit(rows.embeddings, rows.truth, rows.groups)
    saved = load_probe(save_probe(tmp_path / "probe", probe, library.config, fitted_to={}))
    named = predictions(saved, all_rows(open_views(library.path)))
    assert [row["video_id"] for row in named] == sorted(set(library.column("video_id")))
    assert sum(row["label"] == "abc"[i % 3] for i, row in enumerate(named)) > 20
    clips = predictions(saved, all_rows(open_views(library.path)), count=3, per_clip=True)
    assert len(clips) == 3 * 96
    assert sum(row["probability"] for row in clips[:3]) == pytest.approx(1)
    assert clips[0]["label"] == probe.predict(rows.embeddings[:1])[0]


def test_a_comparison_is_on_the_same_folds(library, tmp_path):
    """The second library has other numbers of clips, which would be dealt otherwise."""
    rng = np.random.default_rng(0)
    table = str(tmp_path / "labels.csv")
    one = labelled_rows(library, table)[0]
    counts = rng.integers(1, 5, 24)
    kept = [row for row in range(96) if row % 4 < counts[row // 4]]
    fewer = one.take(np.array(kept))
    first = evaluate_probes(library, one, {"knn": PROBES["knn"]}, folds=4)
    alone = evaluate_probes(library, fewer, {"knn": PROBES["knn"]}, folds=4)
    alike = evaluate_probes(library, fewer, {"knn": PROBES["knn"]}, folds=4, like=first)
    assert alone.folds != first.folds
    assert alike.folds == first.folds
    with pytest.raises(ProbeError, match=r"do not hold the same labelled videos: v00000\.mp4 is in one of them only"):
        evaluate_probes(library, one.take(np.arange(4, 96)), {"knn": PROBES["knn"]}, folds=4, like=first)
    with pytest.raises(ProbeError, match="is in two folds of the first library"):
        evaluate_probes(library, replace(fewer, groups=["g"] * len(kept)), {"knn": PROBES["knn"]}, folds=4, like=first)


def test_a_carried_split_is_kept(tmp_path):
    columns = {"label": "string", "split": "string"}
    config = LibraryConfig(identity(4), Sampling(), PREPROCESSING, "float32", columns, {})
    carrying = Library.create(tmp_path / "carrying", config)
    tables = []
    for number, (label, side) in enumerate([("a", "train"), ("b", "train"), ("a", "test"), ("b", "Test")]):
        video = Video(f"{number}.mp4", f"/videos/{number}.mp4", 1, 1, {"label": label, "split": side})
        timeline = Timeline(np.zeros(1), 2.0, 30, 64, 48, "h264")
        vectors = np.full((1, 4), number, np.float32)
        tables.append(clip_rows(video, timeline, [ClipSpan(0.0, 2.0, ())], vectors, carrying.schema))
    carrying.write_unit("0" * 16, pa.concat_tables(tables), [])
    rows, _ = labelled_rows(carrying, None)
    assert rows.sides == ["train", "train", "test", "test"]
    assert rows.of_side(test=True).embeddings[:, 0].tolist() == [2, 3]
    assert fit_probe(LinearProbe(), rows) == 2


def test_a_kept_probe_refuses_another_encoder(library, tmp_path):
    rows, _ = labelled_rows(library, str(tmp_path / "labels.csv"))
    save_probe(tmp_path / "probe", LinearProbe().fit(rows.embeddings, rows.truth), library.config, fitted_to={})
    other = make_library(tmp_path / "other", library.embeddings())
    other.config = type(other.config)(**{
        **{name: getattr(other.config, name) for name in other.config.__dataclass_fields__},
        "encoder": identity(12, weights_sha256="1" * 64),
    })  # fmt: skip
    with pytest.raises(IdentityMismatch, match="weights_sha256 differ"):
        load_probe(tmp_path / "probe").check(other)


def test_labels_that_a_kept_probe_does_not_know_are_wrong(library, tmp_path):
    rows, _ = labelled_rows(library, str(tmp_path / "labels.csv"))
    two = [row for row in range(96) if rows.truth[row] != "c"]
    probe = LinearProbe().fit(rows.embeddings[two], [rows.truth[row] for row in two])
    save_probe(tmp_path / "probe", probe, library.config, fitted_to={})
    found = score_probe(load_probe(tmp_path / "probe"), rows)
    assert found.unknown == ("c",)
    assert found.figures["by_clip"]["top1"].value <= 2 / 3


@pytest.mark.parametrize("damage", ["gone", "file", "empty", "half", "json", "arrays", "format"])
def test_damaged_probes_are_refused_in_one_line(library, tmp_path, damage):
    rows, _ = labelled_rows(library, str(tmp_path / "labels.csv"))
    folder = save_probe(tmp_path / "p", LinearProbe().fit(rows.embeddings, rows.truth), library.config, fitted_to={})
    if damage == "gone":
        folder = tmp_path / "nowhere"
    elif damage == "file":
        folder = tmp_path / "labels.csv"
    elif damage == "empty":
        (folder / "probe.json").unlink()
    elif damage == "half":
        data = (folder / "probe.safetensors").read_bytes()
        (folder / "probe.safetensors").write_bytes(data[: len(data) // 2])
    else:
        about = json.loads((folder / "probe.json").read_text())
        changed = {"json": {"kind": "oracle"}, "arrays": {"classes": ["a", "b"]}, "format": {"format": 99}}[damage]
        (folder / "probe.json").write_text(json.dumps({**about, **changed}))
    with pytest.raises(ProbeError) as caught:
        load_probe(folder)
    assert "\n" not in str(caught.value)
    assert str(folder) in str(caught.value)
