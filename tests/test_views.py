"""Views: a directory with a library for each, made, resumed, opened and looked at together."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest

from tests.checkpoints import save_checkpoint
from tests.libraries import make_library
from tests.videos import garbage, write_video
from vmae_embed.classification import classify_library, classify_videos, load_classifying_encoder
from vmae_embed.encoder import Encoder
from vmae_embed.errors import LibraryError, ProbeError, UsageError
from vmae_embed.extractor import run_views
from vmae_embed.library import Library
from vmae_embed.presets import find_preset
from vmae_embed.probing import all_rows, labelled_views, stores_tokens, with_stored_tokens, with_tokens
from vmae_embed.views import begin_views, open_views, preset_of

K400 = find_preset("k400")


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    return save_checkpoint(tmp_path_factory.mktemp("checkpoint"), "finetuned")


@pytest.fixture(scope="module")
def encoder(checkpoint):
    return load_classifying_encoder(checkpoint, device="cpu", dtype="float32")


@pytest.fixture(scope="module")
def videos(tmp_path_factory):
    folder = tmp_path_factory.mktemp("videos")
    for number, kind in enumerate(("swim", "run") * 4):
        (folder / kind).mkdir(exist_ok=True)
        # Two files of each recording, as UCF101 names them.
        name = f"v_{kind}_g{number // 4 + 1:02}_c{number // 2 % 2 + 1:02}.mp4"
        write_video(folder / kind / name, frames=90, first_index=300 * number)
    garbage(folder / "run" / "broken.mp4")
    return folder


@pytest.fixture(scope="module")
def made(videos, encoder, tmp_path_factory):
    folder = tmp_path_factory.mktemp("out") / "views"
    list(run_views([videos], folder, K400, encoder=encoder, workers=1))
    return folder


def copy_of(made, tmp_path):
    return shutil.copytree(made, tmp_path / "views")


def test_each_view_is_a_library_of_its_own(made, encoder, videos):
    views = open_views(made)
    assert [library.path.name for library in views.libraries] == ["1-centre", "1-start", "1-end"]
    assert views.preset == K400
    assert views.config == views.libraries[0].config
    assert [library.config.preprocessing.crop_at for library in views.libraries] == [0.5, 0.0, 1.0]
    assert [len(library) for library in views.libraries] == [5 * 8] * 3
    ids = [library.column("clip_id") for library in views.libraries]
    assert ids[0] == ids[1] == ids[2]
    centre, start, end = (library.embeddings() for library in views.libraries)
    assert np.abs(centre - start).max() > 1e-3
    assert np.abs(start - end).max() > 1e-3


def test_a_second_run_adds_nothing_and_a_lost_view_comes_back(made, encoder, videos, tmp_path):
    folder = copy_of(made, tmp_path)
    before = [library.embeddings() for library in open_views(folder).libraries]
    assert [done.clips for done in run_views([videos], folder, K400, encoder=encoder, workers=1)] == [0, 0, 0]
    shutil.rmtree(folder / "1-start")
    with pytest.raises(LibraryError, match=r"the views 1-start are missing; run `vmae-embed extract"):
        open_views(folder)
    assert [done.clips for done in run_views([videos], folder, K400, encoder=encoder, workers=1)] == [0, 40, 0]
    for library, vectors in zip(open_views(folder).libraries, before, strict=True):
        np.testing.assert_array_equal(library.embeddings(), vectors)


def test_a_library_by_itself_is_one_view(tmp_path):
    library = make_library(tmp_path / "lib", np.ones((8, 4), np.float32))
    views = open_views(library.path)
    assert (views.preset, len(views.libraries)) == (None, 1)
    assert views.whole_videos() == {"v00000.mp4", "v00001.mp4"}


def test_what_is_no_place_for_views(made, tmp_path):
    with pytest.raises(LibraryError, match="holds views of --preset k400; give another directory for ssv2"):
        begin_views(made, find_preset("ssv2"))
    with pytest.raises(LibraryError, match="a library by itself"):
        begin_views(made / "1-centre", K400)
    (tmp_path / "mine.txt").write_text("mine")
    with pytest.raises(LibraryError, match="not empty"):
        begin_views(tmp_path, K400)
    with pytest.raises(LibraryError, match="holds the views of a preset, not a library; name one"):
        Library.open(made)
    with pytest.raises(UsageError, match="standard input cannot be read once for each view"):
        next(run_views(["-"], tmp_path / "new", K400, encoder=None))
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize("damage", ["", "[]", '{"format": 9, "preset": "k400"}', '{"format": 1, "preset": "hmdb"}'])
def test_a_damaged_description_is_one_line(tmp_path, damage):
    (tmp_path / "preset.json").write_text(damage)
    with pytest.raises(LibraryError, match=r"preset.json: not what this version writes \(") as caught:
        preset_of(tmp_path)
    assert "\n" not in str(caught.value)


def test_views_that_were_kept_are_classified_as_their_videos_are(made, encoder, videos):
    kept = sorted(classify_library(open_views(made), encoder.classifier()), key=lambda one: one.video_id)
    fresh, _ = classify_videos([videos], encoder, preset="k400", workers=1)
    assert [(one.video_id, one.views) for one in kept] == [(one.video_id, 15) for one in fresh]
    for one, other in zip(kept, fresh, strict=True):
        assert [share for _, share in one.best] == pytest.approx([share for _, share in other.best], abs=1e-6)


def test_rows_are_those_of_all_views_and_recordings_are_whole(made, tmp_path):
    ucf = copy_of(made, tmp_path)
    (ucf / "preset.json").write_text(json.dumps({"format": 1, "preset": "ucf101"}))
    for folder, groups in ((made, 8), (ucf, 4)):
        rows, unmatched = labelled_views(open_views(folder), "folders")
        assert len(rows.truth) == len(rows.embeddings) == len(rows.clips) == 3 * 40
        assert np.bincount(rows.clips["view"].to_numpy()).tolist() == [40, 40, 40]
        assert len(set(rows.groups)) == groups
        assert unmatched.partial == ()
        paths = rows.clips["path"].to_pylist()
        assert all((label in path) for label, path in zip(rows.truth, paths, strict=True))
    assert set(rows.groups) == {"v_swim_g01", "v_run_g01", "v_swim_g02", "v_run_g02"}


def test_a_video_that_one_view_lacks_is_left_out_and_told(made, tmp_path):
    folder = copy_of(made, tmp_path)
    library = Library.open(folder / "1-end")
    gone = library.column("video_id")[0]
    with library.lock():
        library.remove_videos([gone])
    views = open_views(folder)
    rows, unmatched = labelled_views(views, "folders")
    assert unmatched.partial == (gone,)
    assert len(rows.truth) == 3 * 35
    assert gone not in rows.clips["video_id"].to_pylist()
    with library.lock():
        library.remove_videos(library.column("video_id"))
    with pytest.raises(ProbeError, match="no label fits a clip"):
        labelled_views(views, "folders")


def test_probe_fit_score_and_predict_look_at_all_views(made, videos, run, tmp_path):
    report = ("--folds", 2, "--format", "json")
    code, out, err = run("probe", "evaluate", made, "--labels", "folders", "--probe", "knn", *report)
    assert code == 0, err
    result = json.loads(out)
    assert (result["preset"], result["clips"], result["videos"]) == ("k400", 120, 8)
    (found,) = result["results"]
    assert (found["by_clip"]["tested"], found["by_video"]["tested"]) == (120, 8)
    code, out, err = run("probe", "fit", made, "--labels", "folders", "-o", tmp_path / "probe", "--l2", 1)
    assert code == 0, err
    assert "fitted to 120 clips" in out
    code, out, _ = run("probe", "score", tmp_path / "probe", made, "--labels", "folders", "--format", "json")
    assert code == 0
    assert json.loads(out)["by_video"]["top1"]["value"] > 0.9
    code, out, err = run("predict", tmp_path / "probe", made, "--format", "json")
    assert (code, err) == (0, "")
    assert "fitted to views of k400" in run("predict", tmp_path / "probe", made / "1-centre")[2]
    of_views = json.loads(out)
    assert [row["clips"] for row in of_views] == [15] * 8
    # Videos are looked at as the probe's were; one that fails is told, and the others are named.
    code, out, err = run("predict", tmp_path / "probe", videos, "--format", "json", "-q")
    assert code == 3
    assert "failed: run/broken.mp4 (open)" in err
    for row, other in zip(json.loads(out), of_views, strict=True):
        assert row == {**other, "probability": pytest.approx(other["probability"], abs=1e-4)}


def test_tokens_of_views_are_stored_or_computed_alike(made, encoder, videos, tmp_path):
    options = {"encoder": encoder, "workers": 1, "tokens": True}
    list(run_views([videos], tmp_path / "views", K400, **options))
    views, plain = open_views(tmp_path / "views"), open_views(made)
    assert stores_tokens(views)
    assert not stores_tokens(plain)
    rows = with_stored_tokens(views, all_rows(views))
    (tmp_path / "computed").mkdir()
    computed, skipped = with_tokens(plain, all_rows(plain), encoder, tmp_path / "computed")
    assert skipped == []
    keys = [
        [*zip(*(one.clips[name].to_pylist() for name in ("view", "clip_id")), strict=True)] for one in (rows, computed)
    ]
    assert sorted(keys[0]) == sorted(keys[1])
    place = {key: row for row, key in enumerate(keys[1])}
    assert rows.tokens.shape == (120, encoder.tokens, encoder.width)
    np.testing.assert_allclose(
        np.asarray(rows.tokens), np.asarray(computed.tokens[[place[key] for key in keys[0]]]), atol=2e-3
    )


def test_a_killed_run_goes_on_as_its_first_view_was_made(made, encoder, videos, tmp_path):
    running = run_views([videos], tmp_path / "views", K400, encoder=encoder, workers=1, stored="float16", tokens=True)
    next(running)
    running.close()
    announced = []
    list(run_views([videos], tmp_path / "views", K400, encoder=encoder, workers=1, announce=announced.append))
    views = open_views(tmp_path / "views")
    assert [library.config.stored for library in views.libraries] == ["float16"] * 3
    assert stores_tokens(views)
    # Room is reckoned for what is to come, not for one view.
    assert [room.clips for room in announced] == [announced[1].clips * 2, announced[1].clips]
    shutil.rmtree(tmp_path / "views/1-end")
    shutil.copytree(made / "1-end", tmp_path / "views/1-end")
    with pytest.raises(LibraryError, match=r"1-end was made otherwise than .*1-centre"):
        open_views(tmp_path / "views")


def test_a_view_by_itself_is_searched_and_classified(made, videos, checkpoint, run):
    clip = Library.open(made / "1-start").column("clip_id")[7]
    code, out, err = run("search", made / "1-start", videos / clip, "--include-self", "--format", "json", "-k", 1)
    assert code == 0, err
    (hit,) = json.loads(out)
    assert (hit["clip_id"], hit["score"]) == (clip, pytest.approx(1, abs=1e-4))
    code, _, err = run("classify", made / "1-start", "-k", 1)
    assert code == 0, err


def test_extract_makes_views_and_goes_on_with_them(checkpoint, videos, run, tmp_path):
    options = (videos / "swim", "-o", tmp_path / "views", "-q")
    code, _, err = run("extract", *options, "--model", checkpoint, "--preset", "ssv2", "--workers", 1)
    assert code == 0, err
    assert len(open_views(tmp_path / "views").libraries) == 6
    assert err.count("4 clips of 4 videos added") == 6
    code, _, err = run("extract", *options)
    assert code == 0, err
    assert err.count("; 4 videos already there") == 6
    code, _, err = run("extract", *options, "--stride", 4)
    assert code == 2
    assert "preset ssv2 says how clips are cut" in err
    code, out, _ = run("verify", tmp_path / "views")
    assert code == 0
    assert out.count("whole; 4 clips") == 6
    facts = json.loads(run("info", tmp_path / "views", "--format", "json")[1])
    assert (facts["preset"], [view["clips"] for view in facts["views"]]) == ("ssv2", [4] * 6)
    assert run("info", tmp_path / "views")[1].count("a view of ssv2") == 6
    assert run("failures", tmp_path / "views", "--format", "json")[1].strip() == "[]"
    next((tmp_path / "views/2-end/clips").glob("*.parquet")).unlink()
    (tmp_path / "views/2-end/clips/0.parquet").write_text("no Parquet")
    code, out, _ = run("verify", tmp_path / "views")
    assert code == 1
    assert out.count("whole; 4 clips") == 5
    code, _, err = run("search", tmp_path / "views", "x.mp4")
    assert code == 1
    assert "name one, as" in err
    encoder = Encoder.from_pretrained(checkpoint, device="cpu", dtype="float32")
    assert open_views(tmp_path / "views").config.encoder["weights_sha256"] == encoder.identity["weights_sha256"]
