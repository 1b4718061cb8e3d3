"""The command line as its users meet it: every verb, right and wrong."""

from __future__ import annotations

import csv
import io
import json
import shutil
import subprocess
import sys
from types import SimpleNamespace

import numpy as np
import pytest

from tests import videos
from tests.checkpoints import save_checkpoint
from vmae_embed.cli import _VERBS, main


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    root = tmp_path_factory.mktemp("cli")
    (root / "videos").mkdir()
    for number in range(6):
        videos.write_video(root / f"videos/v{number}.mp4", frames=130, first_index=300 * number)
    videos.garbage(root / "videos/broken.mp4")
    (root / "videos/notes.txt").write_text("not a video")
    rows = "\n".join(f"v{n}.mp4,{'even' if n % 2 == 0 else 'odd'},{n // 2}" for n in range(6))
    (root / "labels.csv").write_text(f"path,label,recording\n{rows}\n")
    save_checkpoint(root / "checkpoint")
    with pytest.raises(SystemExit) as caught:
        main(["extract", str(root / "videos"), "-o", str(root / "lib"), "--model", str(root / "checkpoint"), "-q"])
    assert caught.value.code == 3
    return root


def assert_one_line(text, *fragments):
    lines = [line for line in text.splitlines() if not line.startswith("warning:")]
    assert len(lines) == 1, text
    assert lines[0].startswith("error: ")
    for fragment in fragments:
        assert fragment in lines[0]


def test_extract_says_what_it_did(made, run):
    code, out, err = run("extract", made / "videos", "-o", made / "lib", "--model", made / "checkpoint")
    assert code == 3
    assert out == ""
    assert "0 clips of 0 videos added" in err
    assert "; 6 videos already there" in err
    assert "1 .txt (--glob '*' takes all)" in err
    assert "failed: 1 video (in earlier runs 1); `vmae-embed failures" in err


def test_extract_says_where_its_time_went(made, run, tmp_path):
    _, _, err = run("extract", made / "videos", "-o", tmp_path / "lib", "--model", made / "checkpoint", "--workers", 1)
    (line,) = (line for line in err.splitlines() if line.startswith("time: loading"))
    for name in (
        "side by side",
        "decoding",
        "(1 process)",
        "transfer",
        "encoding",
        "(cpu)",
        "writing",
        "waiting: decoders",
        "encoder",
    ):
        assert name in line
    assert "failed: 1 video (open 1)" in err
    _, text, _ = run("info", tmp_path / "lib")
    assert "done; 7 videos, 18 clips in " in text
    _, out, _ = run("info", tmp_path / "lib", "--format", "json")
    assert json.loads(out)["last run"]["clips"] == 18


def test_failures(made, run):
    code, out, _ = run("failures", made / "lib", "--format", "jsonl")
    (row,) = map(json.loads, out.splitlines())
    assert (code, row["video_id"], row["stage"]) == (0, "broken.mp4", "open")
    assert "not a readable video" in row["reason"]
    _, table, _ = run("failures", made / "lib")
    assert table.splitlines()[0].split() == ["video_id", "stage", "seconds", "reason"]


def test_info(made, run):
    code, out, _ = run("info", made / "lib", "--format", "json")
    facts = json.loads(out)
    assert code == 0
    assert facts["clips"] == 18
    assert facts["videos"] == 6
    assert facts["failed videos"] == {"open": 1}
    assert facts["checkpoint"] == str(made / "checkpoint")
    _, text, _ = run("info", made / "lib")
    assert "CC-BY-NC-4.0" in text
    assert "16 frames, 7.5 frames a second, touching windows" in text


def test_index_builds_then_is_up_to_date(made, run):
    code, _, err = run("index", made / "lib", "--rebuild")
    assert code == 0
    assert "built in " in err
    assert "exact index of 18 clips, cosine: every search compares all of them; a search takes" in err
    assert "up to date: exact index of 18 clips" in run("index", made / "lib")[2]
    code, _, err = run("index", made / "lib", "--gpu", "--target-recall", "0.9")
    assert code == 0
    assert "--gpu: this FAISS is built without GPU code: pip install 'vmae-embed[gpu]' in the place of [cpu]" in err
    assert "tuned in " in err
    assert "up to date" in run("index", made / "lib")[2]  # the target is kept


@pytest.mark.parametrize("output_format", ["table", "json", "jsonl", "csv"])
def test_search_in_every_format(made, run, output_format):
    code, out, _ = run("search", made / "lib", "v0.mp4#t=0.000,2.133", "-k", 4, "--format", output_format)
    assert code == 0
    if output_format == "table":
        assert out.splitlines()[0].split() == ["rank", "score", "clip_id"]
        assert len(out.splitlines()) == 5
        return
    rows = {
        "json": lambda: json.loads(out),
        "jsonl": lambda: [json.loads(line) for line in out.splitlines()],
        "csv": lambda: list(csv.DictReader(io.StringIO(out))),
    }[output_format]()
    assert [int(row["rank"]) for row in rows] == [1, 2, 3, 4]
    assert {"score", "clip_id", "video_id", "start_s", "end_s", "path", "query"} <= set(rows[0])


def test_search_includes_itself_when_asked_to(made, run):
    _, out, _ = run("search", made / "lib", "v3.mp4#t=0.000,2.133", "--include-self", "-k", 1, "--format", "json")
    (row,) = json.loads(out)
    assert row["clip_id"] == "v3.mp4#t=0.000,2.133"
    assert row["score"] == pytest.approx(1, abs=1e-6)


def test_search_writes_a_page(made, run, tmp_path):
    code, _, err = run("search", made / "lib", "v0.mp4", "-k", 2, "--html", tmp_path / "p.html")
    assert code == 0
    assert "page:" in err
    assert "data:image/jpeg" in (tmp_path / "p.html").read_text()
    code, _, err = run("search", made / "lib", "v0.mp4", "--html", tmp_path / "p.html")
    assert code == 2
    assert_one_line(err, "exists", "--overwrite")


def test_search_of_a_file_loads_the_checkpoint(made, run, tmp_path):
    query = videos.write_video(tmp_path / "q.mp4", frames=130, first_index=600)
    code, out, _ = run("search", made / "lib", f"{query}#t=0,2.133", "-k", 1, "--format", "json")
    assert code == 0
    assert json.loads(out)[0]["clip_id"] == "v2.mp4#t=0.000,2.133"


def test_another_checkpoint_or_pooling_is_refused_even_for_a_clip_id(made, run, tmp_path, capsys):
    other = save_checkpoint(tmp_path / "other", seed=3)
    capsys.readouterr()  # transformers draws a bar when it saves
    code, _, err = run("search", made / "lib", "v0.mp4", "--model", other)
    assert code == 1
    assert_one_line(err, str(made / "checkpoint"), str(other), "weights_sha256 differ")
    code, _, err = run("search", made / "lib", "v0.mp4", "--pooling", "first-token")
    assert code == 1
    assert_one_line(err, "mean pooling", "first-token pooling")


def test_probe(made, run):
    options = ("--labels", made / "labels.csv", "--folds", 3)
    code, out, _ = run("probe", "evaluate", made / "lib", *options, "--format", "json")
    assert code == 0
    result = json.loads(out)
    assert [found["probe"] for found in result["results"]] == ["linear", "knn"]
    for found in result["results"]:
        assert found["by_clip"]["tested"] == 18
        assert found["by_video"]["tested"] == 6
        assert set(found["per_class"]) == {"even", "odd"}
        assert 0 <= found["by_clip"]["top1"]["low"] <= found["by_clip"]["top1"]["value"] <= 1
    code, out, _ = run("probe", "evaluate", made / "lib", *options, "--group", "recording", "--probe", "knn", "--k", 3)
    assert code == 0
    assert "majority baseline" in out
    assert "3 folds, grouped by recording" in out
    assert "linear" not in out


def test_probe_writes_a_page_and_a_report(made, run, tmp_path):
    files = ("--html", tmp_path / "p.html", "--report", tmp_path / "p.json")
    options = ("--labels", made / "labels.csv", "--folds", 2, "--few-shot", 1, "--compare", made / "lib", *files)
    code, out, err = run("probe", "evaluate", made / "lib", *options)
    assert code == 0
    assert "linear, 1 a class" in out
    assert f"top-1 over videos, {made / 'lib'} less {made / 'lib'}\nlinear                      0.0000" in out
    report = json.loads((tmp_path / "p.json").read_text())
    assert report["differences"]["linear"]["p"] == 1
    assert (
        "data:image/jpeg" in (tmp_path / "p.html").read_text()
        or "None: every video" in (tmp_path / "p.html").read_text()
    )
    assert str(tmp_path / "p.html") in err
    code, _, err = run("probe", "evaluate", made / "lib", *options)
    assert code == 2
    assert_one_line(err, "exists; give another name, or --overwrite")


def test_the_attentive_probe_reads_tokens(made, run, tmp_path):
    options = ("--labels", made / "labels.csv", "--folds", 2, "--probe", "attentive", "--probe", "knn")
    code, out, err = run("probe", "evaluate", made / "lib", *options, "--format", "json")
    assert code == 0, err
    assert "tokens of 18 clips: 0.00 GB" in err
    results = json.loads(out)["results"]
    assert [found["probe"] for found in results] == ["attentive", "knn"]
    assert results[0]["by_clip"]["tested"] == 18
    assert len(results[0]["fits"][0]["validation"]) == 4
    shutil.copytree(made / "videos", tmp_path / "videos")
    assert run("extract", tmp_path / "videos", "-o", tmp_path / "lib", "--model", made / "checkpoint")[0] in (0, 3)
    (tmp_path / "videos" / "v3.mp4").unlink()
    code, out, err = run("probe", "evaluate", tmp_path / "lib", *options, "--format", "json")
    assert code == 0, err
    assert "3 clips could not be decoded again, and are left out: v3.mp4#t=" in err
    assert [found["by_clip"]["tested"] for found in json.loads(out)["results"]] == [15, 15]


def test_an_attentive_probe_is_kept(made, run, tmp_path):
    labels = ("--labels", made / "labels.csv")
    code, out, err = run("probe", "fit", made / "lib", *labels, "--probe", "attentive", "-o", tmp_path / "probe")
    assert code == 0, err
    assert "attentive probe, learning rate 0.0" in out
    assert "2 classes, fitted to 18 clips" in out
    code, out, err = run("probe", "score", tmp_path / "probe", made / "lib", *labels, "--format", "json")
    assert code == 0, err
    assert "tokens of 18 clips" in err
    assert json.loads(out)["by_clip"]["top1"]["value"] > 0.6
    code, out, err = run("predict", tmp_path / "probe", made / "lib", "--format", "json")
    assert code == 0, err
    of_library = json.loads(out)
    assert [row["video_id"] for row in of_library] == [f"v{i}.mp4" for i in range(6)]
    code, out, err = run("predict", tmp_path / "probe", made / "videos" / "v2.mp4", "--format", "json", "-q")
    assert code == 0, err
    assert "MB a clip; about 3 clips" in err
    (of_file,) = json.loads(out)
    assert of_file["probability"] == pytest.approx(of_library[2]["probability"], abs=2e-3)


def test_tokens_that_no_disk_has_room_for_are_refused(made, run, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=1000))
    options = ("--labels", made / "labels.csv", "--probe", "attentive")
    code, out, err = run("probe", "evaluate", made / "lib", *options)
    assert (code, out) == (2, "")
    assert "0.00 GB free; set TMPDIR to a larger disk, or extract with --store tokens" in err.splitlines()[-1]


def test_a_device_that_is_none_is_refused(made, run):
    code, out, err = run("probe", "evaluate", made / "lib", "--labels", made / "labels.csv", "--device", "abacus")
    assert (code, out) == (2, "")
    assert_one_line(err, "device='abacus'")


def test_predict_tells_what_failed(made, run, tmp_path):
    assert run("probe", "fit", made / "lib", "--labels", made / "labels.csv", "-o", tmp_path / "p", "--l2", 1)[0] == 0
    code, out, err = run("predict", tmp_path / "p", made / "videos", "--format", "csv")
    assert code == 3
    assert [row["video_id"] for row in csv.DictReader(io.StringIO(out))] == [f"v{i}.mp4" for i in range(6)]
    assert "failed: broken.mp4 (open)" in err
    code, out, err = run("predict", tmp_path / "p", made / "videos" / "broken.mp4", "-q")
    assert (code, out) == (1, "")
    assert_one_line(err, "none of the 1 videos could be decoded; the first, broken.mp4")
    code, _, err = run("predict", tmp_path / "p", made / "lib", made / "videos")
    assert code == 2
    assert_one_line(err, "a library is named by itself")


def test_stored_tokens_give_the_attentive_probe_what_it_would_compute(made, run, tmp_path, monkeypatch):
    lib = tmp_path / "lib"
    sources = ("extract", made / "videos", "-o", lib, "--model", made / "checkpoint", "--dtype", "float32")
    code, _, err = run(*sources, "--store", "float16", "--store", "tokens")
    assert code == 3
    assert "tokens: 0.00 MB a clip; about 20 clips, 0.00 GB; " in err.splitlines()[0]  # broken.mp4 might have two
    assert "tokens: " not in run(*sources)[2]  # nothing to add; and it goes on with them
    facts = json.loads(run("info", lib, "--format", "json")[1])
    assert facts["embedding"] == "48 x float16"
    assert facts["tokens"] == "32 x 48 x float16, 0.000 GB"
    assert json.loads(run("info", made / "lib", "--format", "json")[1])["tokens"] is None
    assert run("verify", lib)[0] == 0
    plain = tmp_path / "plain"
    assert run(*("extract", made / "videos", "-o", plain, *sources[4:]), "--store", "float16")[0] == 3
    options = ("--labels", made / "labels.csv", "--folds", 2, "--probe", "attentive", "--format", "json")
    code, computed, err = run("probe", "evaluate", plain, *options)
    assert code == 0
    assert "computing 32 tokens of 18 clips" in err

    def refuse(*_, **__):
        pytest.fail("an encoder was loaded, or a video decoded")

    monkeypatch.setattr("vmae_embed.encoder.Encoder.from_identity", refuse)
    monkeypatch.setattr("vmae_embed.probing.tokens.replay", refuse)
    code, stored, err = run("probe", "evaluate", lib, *options)
    assert (code, err) == (0, "")
    ours, theirs = (json.loads(text)["results"][0] for text in (stored, computed))
    for measure in ("top1", "macro_f1", "ece"):  # the last one changes with every probability
        assert ours["by_clip"][measure] == pytest.approx(theirs["by_clip"][measure], rel=1e-3)
    assert ours["fits"] == theirs["fits"]


def test_a_probe_is_kept_judged_and_asked(made, run, tmp_path):
    labels = ("--labels", made / "labels.csv")
    code, out, _ = run("probe", "fit", made / "lib", *labels, "-o", tmp_path / "probe", "--l2", 1)
    assert code == 0
    assert "linear probe, l2 1, 2 classes, fitted to 18 clips" in out
    code, out, err = run("probe", "score", tmp_path / "probe", made / "lib", *labels, "--format", "json")
    assert code == 0
    assert "the probe was fitted to 6 videos of these: this is no test of it" in err
    assert json.loads(out)["by_clip"]["top1"]["value"] > 0.9
    code, out, _ = run("predict", tmp_path / "probe", made / "lib", "--format", "json")
    assert code == 0
    of_library = json.loads(out)
    assert [row["video_id"] for row in of_library] == [f"v{i}.mp4" for i in range(6)]
    code, out, _ = run("predict", tmp_path / "probe", made / "videos" / "v2.mp4", "--format", "json")
    assert code == 0
    (of_file,) = json.loads(out)
    assert of_file["label"] == of_library[2]["label"]
    assert of_file["probability"] == pytest.approx(of_library[2]["probability"], abs=1e-4)
    code, out, _ = run("predict", tmp_path / "probe", made / "lib", "--per-clip", "-k", 2)
    assert code == 0
    assert len(out.splitlines()) == 1 + 2 * 18
    other = save_checkpoint(tmp_path / "other", seed=3)
    assert run("extract", made / "videos", "-o", tmp_path / "lib", "--model", other)[0] in (0, 3)
    for verb in (
        ["probe", "score", tmp_path / "probe", tmp_path / "lib", *labels],
        ["predict", tmp_path / "probe", tmp_path / "lib"],
    ):
        code, _, err = run(*verb)
        assert code == 1
        assert "weights_sha256 differ" in err


def test_probe_counts_what_does_not_match(made, run, tmp_path):
    table = (made / "labels.csv").read_text().replace("v5.mp4", "elsewhere.mp4")
    (tmp_path / "labels.csv").write_text(table)
    _, _, err = run("probe", "evaluate", made / "lib", "--labels", tmp_path / "labels.csv", "--folds", 2)
    assert "1 rows of the labels fit no clip of the library: elsewhere.mp4" in err
    assert "1 videos of the library have no label: v5.mp4" in err
    options = ("--labels", tmp_path / "labels.csv", "--folds", 2, "--probe", "knn", "--format", "json")
    code, out, _ = run("probe", "evaluate", made / "lib", *options, "--compare", made / "lib")
    assert code == 0
    told = {"keys": ["elsewhere.mp4"], "videos": ["v5.mp4"], "partial": []}
    assert json.loads(out)["unmatched"] == json.loads(out)["compared_with"]["unmatched"] == told


def test_verify(made, run, tmp_path):
    code, out, _ = run("verify", made / "lib")
    assert code == 0
    assert "whole; 18 clips" in out
    shutil.copytree(made / "lib", tmp_path / "lib")
    shard = next((tmp_path / "lib/clips").glob("*.parquet"))
    shard.write_bytes(shard.read_bytes()[:-30])
    code, out, _ = run("verify", tmp_path / "lib")
    assert code == 1
    assert shard.name in out


def test_sampling_that_differs_is_refused_with_both_named(made, run):
    arguments = ["extract", made / "videos", "-o", made / "lib", "--model", made / "checkpoint"]
    code, _, err = run(*arguments, "--stride", 4)
    assert code == 1
    assert_one_line(err, "touching windows", "stride 4")


READERS = [["index"], ["info"], ["verify"], ["failures"], ["probe", "evaluate", "--labels", "x.csv"]]


@pytest.mark.parametrize(
    ("arguments", "fragments"),
    [
        (["extract"], ["Missing argument 'SOURCE...'", "--help"]),
        (["extract", "{videos}"], ["Missing option '-o'"]),
        (["extract", "{videos}", "-o", "{new}", "--fps", "0"], ["fps=0", "above 0"]),
        (["extract", "{videos}", "-o", "{new}", "--fps", "x"], ["'x' is not a valid float"]),
        (["extract", "{videos}", "-o", "{new}", "--fps", "5", "--stride", "4"], ["--fps and --stride contradict"]),
        (["extract", "{videos}", "-o", "{new}", "--stride", "0"], ["stride=0"]),
        (["extract", "{videos}", "-o", "{new}", "--hop", "-1"], ["hop=-1"]),
        (["extract", "{videos}", "-o", "{new}", "--uniform", "--hop", "1"], ["uniform takes one clip"]),
        (["extract", "{videos}", "-o", "{new}", "--model", "{empty}"], ["it has no config.json"]),
        (["extract", "{videos}", "-o", "{new}", "--model", "nowhere"], ["no such directory, and not a hub id"]),
        (["extract", "{videos}", "-o", "{new}", "--device", "warp"], ["device='warp'"]),
        (["extract", "{videos}", "-o", "{new}", "--decoder", "vlc"], ["'vlc' is not one of"]),
        (["extract", "{videos}", "-o", "{new}", "--devices", "cpu,warp", "--model", "{ck}"], ["device='warp'"]),
        (["extract", "{videos}", "-o", "{new}", "--devices", "", "--model", "{ck}"], ["--devices ''", "0,1"]),
        (["extract", "{videos}", "-o", "{new}", "--store", "pixels"], ["'pixels' is not one of"]),
        (["extract", "{videos}", "-o", "{new}", "--store", "float16", "--store", "float32"], ["contradict each other"]),
        (["extract", "{videos}", "-o", "{lib}", "--store", "tokens", "--model", "{ck}"], ["--store tokens", "'none'"]),
        (["extract", "{videos}", "-o", "{new}", "--workers", "0"], ["'0': give a whole number from 1 on, or auto"]),
        (["extract", "{videos}", "-o", "{new}", "--workers", "two"], ["'two': give a whole number from 1 on, or auto"]),
        (["extract", "{videos}", "-o", "{new}", "--batch-size", "-1"], ["'-1': give a whole number"]),
        (["extract", "{videos}", "-o", "{new}", "--video-memory", "x"], ["'x' is not a valid float"]),
        (["extract", "{videos}", "-o", "{new}", "--video-memory", "0.01", "--model", "{ck}"], ["at least 0.0625"]),
        (["extract", "{videos}", "-o", "{new}", "--video-memory", "-1", "--model", "{ck}"], ["--video-memory -1"]),
        (["extract", "{videos}", "-o", "{new}", "--video-memory", "nan", "--model", "{ck}"], ["--video-memory nan"]),
        (["extract", "{videos}", "-o", "{new}", "--video-memory", "1e-10", "--model", "{ck}"], ["at least 0.0625"]),
        (["extract", "{videos}", "-o", "{new}", "--device", "meta", "--model", "{ck}"], ["device='meta'"]),
        (["extract", "{videos}", "-o", "{new}", "--video-timeout", "0", "--model", "{ck}"], ["video-timeout=0"]),
        (["extract", "{missing}", "-o", "{new}", "--model", "{ck}"], ["no such file or folder"]),
        (["extract", "{empty}", "-o", "{new}", "--model", "{ck}"], ["it is empty"]),
        (["extract", "{garbage}", "-o", "{new}", "--model", "{ck}"], ["no videos in it, only 1 .bin", "--glob '*'"]),
        (["extract", "https://a.b/c.mp4", "-o", "{new}", "--model", "{ck}"], ["URLs are not read"]),
        (["extract", "{videos}", "-o", "{garbage}", "--model", "{ck}"], ["not a library, and not empty"]),
        (["extract", "{videos}", "-o", "{file}", "--model", "{ck}"], ["a file, not a directory"]),
        (["search"], ["Missing argument 'LIB'"]),
        (["search", "{lib}"], ["Missing argument 'QUERY'"]),
        (["search", "{lib}", "nothing.mp4"], ["neither a file nor a clip or video of the library"]),
        (["search", "{lib}", "{file}"], ["not a readable video"]),
        (["search", "{lib}", "{empty}"], ["a folder; search for one video"]),
        (["search", "{lib}", "v0.mp4", "-k", "0"], ["k=0"]),
        (["search", "{lib}", "v0.mp4", "-k", "many"], ["'many' is not a valid integer"]),
        (["search", "{lib}", "v0.mp4", "--format", "xml"], ["'xml' is not one of"]),
        (["search", "{lib}", "v0.mp4", "--html", "{missing}/p.html"], ["cannot be written"]),
        (["search", "{lib}", "v0.mp4", "--nonsense"], ["No such option", "--nonsense"]),
        (["index", "{lib}", "--nlist", "4096"], ["nlist=4096 needs at least 159,744 training vectors"]),
        (["index", "{lib}", "--factory", "hnsw"], ["'hnsw': give auto, exact, ivfpq, or a bare IVF index"]),
        (["index", "{lib}", "--memory", "lots"], ["'lots': give bytes, a size such as 800M or 1.5G, or any"]),
        (["index", "{lib}", "--memory", "1k"], ["memory=1,024 bytes: the smallest index takes"]),
        (["index", "{lib}", "--part", "3"], ["'3': give which of how many, such as 2/8"]),
        (["index", "{lib}", "--part", "3/2"], ["part=3/2: give 1/2 to 2/2"]),
        (["index", "{lib}", "--part", "1/2"], ["18 clips need no parts"]),
        (["index", "{lib}", "--target-recall", "95"], ["target-recall=95: give a share above 0, at most 1"]),
        (["index", "{lib}", "--metric", "dot"], ["'dot' is not one of"]),
        (["probe", "{lib}"], ["evaluate, fit or score", "vmae-embed probe evaluate LIB"]),
        (["probe", "evaluate", "{lib}"], ["'label'", "carries no columns", "--labels FILE"]),
        (["probe", "evaluate", "{lib}", "--labels", "{missing}.csv"], ["no such file"]),
        (["probe", "evaluate", "{lib}", "--labels", "{file}"], ["not a table"]),
        (["probe", "evaluate", "{lib}", "--labels", "{labels}", "--label", "hue"], ["hue", "path, label, recording"]),
        (["probe", "evaluate", "{lib}", "--labels", "{labels}", "--folds", "1"], ["'--folds': 1 is not in the range"]),
        (["probe", "evaluate", "{lib}", "--labels", "{labels}", "--folds", "99"], ["99 folds of 6 groups"]),
        (["probe", "evaluate", "{lib}", "--labels", "{labels}", "--l2", "-1"], ["l2"]),
        (["probe", "evaluate", "{lib}", "--labels", "{labels}", "--l2", "1;2"], ["--l2 1;2", "commas"]),
        (["probe", "evaluate", "{lib}", "--labels", "{labels}", "--k", "0"], ["--k 0: give numbers above 0"]),
        (["probe", "evaluate", "{lib}", "--labels", "{labels}", "--few-shot", "0"], ["'--few-shot': 0 is not in"]),
        (["probe", "evaluate", "{lib}", "--labels", "folders"], ["every labelled clip is 'videos'"]),
        (["probe", "fit", "{lib}", "--labels", "{labels}"], ["Missing option '-o'"]),
        (["probe", "fit", "{lib}", "--labels", "{labels}", "-o", "{garbage}"], ["not empty, and no probe"]),
        (["probe", "score", "{missing}", "{lib}", "--labels", "{labels}"], ["not a probe (no such directory)"]),
        (["probe", "score", "{garbage}", "{lib}", "--labels", "{labels}"], ["not a probe (it has no probe.json"]),
        (["predict", "{garbage}", "{lib}"], ["not a probe (it has no probe.json"]),
        (["predict", "{garbage}"], ["Missing argument"]),
        (["demo", "{garbage}"], ["not empty, and no demo"]),
        (["nonsense"], ["No such command 'nonsense'"]),
        *[([*command, "{missing}"], ["not a library (no such directory)"]) for command in READERS],
        *[([*command, "{garbage}"], ["not a library (it has no library.json)"]) for command in READERS],
        *[([*command, "{file}"], ["not a library"]) for command in READERS],
        (["search", "{missing}", "q"], ["not a library (no such directory)"]),
    ],
)  # fmt: skip
def test_misuse_is_one_line_that_says_what_to_do(made, run, tmp_path, arguments, fragments):
    (tmp_path / "empty").mkdir()
    (tmp_path / "garbage").mkdir()
    (tmp_path / "garbage/x.bin").write_bytes(b"x")
    (tmp_path / "file.mp4").write_bytes(b"x")
    places = {
        "videos": made / "videos",
        "lib": made / "lib",
        "ck": made / "checkpoint",
        "labels": made / "labels.csv",
        "new": tmp_path / "new",
        "missing": tmp_path / "missing",
        **{name: tmp_path / name for name in ("empty", "garbage")},
        "file": tmp_path / "file.mp4",
    }
    code, _, err = run(*[argument.format(**places) for argument in arguments])
    assert code in (1, 2)
    assert_one_line(err, *fragments)
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize("damage", [b"", b"{", b"[]", b"null", b'{"format": 2}', b'{"format": 1}', b"\xff\xfe"])
@pytest.mark.parametrize("verb", ["info", "verify", "index", "failures"])
def test_a_damaged_library_json_is_one_line(run, tmp_path, verb, damage):
    (tmp_path / "library.json").write_bytes(damage)
    code, _, err = run(verb, tmp_path)
    assert code == 1
    assert_one_line(err, "library.json")


def test_numbers_from_the_environment(made, run, monkeypatch):
    monkeypatch.setenv("VMAE_EMBED_SEARCH_K", "2")
    _, out, _ = run("search", made / "lib", "v0.mp4")
    assert len(out.splitlines()) == 3


def test_help_of_every_verb(run):
    assert all(verb in run("--help")[1] for verb in _VERBS)
    for verb in _VERBS:
        code, out, _ = run(verb, "-h")
        assert code == 0
        assert out.startswith(f"Usage: vmae-embed {verb}")
    assert run("--version")[1].startswith("vmae-embed, version ")


def test_no_arguments_show_the_help(run):
    code, out, err = run()
    assert code == 2
    assert "extract" in out + err


def test_a_closed_pipe_is_no_error(made):
    command = f"{sys.executable} -m vmae_embed search {made / 'lib'} v0.mp4 --format jsonl | head -n 1"
    done = subprocess.run(["bash", "-o", "pipefail", "-c", command], capture_output=True, text=True, check=False)
    assert len(done.stdout.splitlines()) == 1
    assert done.stderr == ""


def test_a_fault_of_ours_is_one_line_too(made, run, monkeypatch):
    monkeypatch.setattr("vmae_embed.library.Library.open", lambda _: 1 / 0)
    code, _, err = run("info", made / "lib")
    assert code == 1
    assert_one_line(err, "a fault of vmae-embed", "ZeroDivisionError", "VMAE_EMBED_DEBUG=1")


def test_searching_by_clip_id_loads_no_torch(made):
    program = (
        "import sys; from vmae_embed.cli import _run;"
        f"assert _run(['search', {str(made / 'lib')!r}, 'v0.mp4#t=0.000,2.133']) == 0;"
        "assert not {'torch', 'transformers'} & set(sys.modules), 'torch was loaded'"
    )
    subprocess.run([sys.executable, "-c", program], check=True, capture_output=True)


def test_vectors_from_numpy(made, run, tmp_path):
    np.save(tmp_path / "q.npy", np.ones(48, np.float32))
    code, out, _ = run("search", made / "lib", tmp_path / "q.npy", "-k", 1)
    assert code == 0
    assert len(out.splitlines()) == 2
    np.save(tmp_path / "bad.npy", np.ones(3, np.float32))
    assert_one_line(run("search", made / "lib", tmp_path / "bad.npy")[2], "takes numbers of shape (48,)")


def test_adding_to_a_library_needs_no_option_said_again(made, run, tmp_path):
    """Its checkpoint, pooling, precision, storage and sampling are what it says they are."""
    arguments = ["--model", made / "checkpoint", "--pooling", "first-token", "--stride", 2, "--store", "float16"]
    assert run("extract", made / "videos/v0.mp4", "-o", tmp_path / "lib", *arguments)[0] == 0
    code, _, err = run("extract", made / "videos/v0.mp4", made / "videos/v1.mp4", "-o", tmp_path / "lib")
    assert code == 0, err
    facts = json.loads(run("info", tmp_path / "lib", "--format", "json")[1])
    assert facts["videos"] == 2
    assert facts["pooling"] == "first-token"
    assert facts["embedding"] == "48 x float16"
    assert "stride 2" in facts["sampling"]
