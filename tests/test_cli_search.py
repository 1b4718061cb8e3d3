"""``vmae-embed search`` as its users meet it: what its options print, and which contradict each other."""

from __future__ import annotations

import csv
import io
import json
import subprocess
import sys
from functools import partial

import numpy as np
import pytest

from tests.libraries import clustered, make_library
from vmae_embed.cli.output import RowWriter
from vmae_embed.index import Index

QUERY = "v00003.mp4#t=2.000,4.000"


@pytest.fixture(scope="module")
def lib(tmp_path_factory):
    folder = tmp_path_factory.mktemp("search") / "lib"
    Index.build(make_library(folder, clustered(60, 16)))
    return folder


@pytest.fixture
def run(run, lib):
    """Search the library; give exit code, stdout and stderr."""
    return partial(run, "search", lib)


def rows_of(out):
    return [json.loads(line) for line in out.splitlines()]


@pytest.fixture
def listed(tmp_path):
    (tmp_path / "q.txt").write_text(f"{QUERY}\nnothing.mp4\nv00005.mp4\n")
    return tmp_path / "q.txt"


def test_a_condition(run):
    code, out, err = run(QUERY, "--where", "start_s = 0", "--format", "jsonl")
    assert (code, err) == (0, "")
    assert {row["start_s"] for row in rows_of(out)} == {0}
    code, out, err = run(QUERY, "--where", "start_s > 1000", "--format", "json")
    assert (code, out) == (0, "[]\n")
    assert err == "no hits: no clip fits --where 'start_s > 1000'\n"


def test_merged_hits_say_of_how_many_clips(run):
    code, out, _ = run(QUERY, "--merge-gap", 0, "-k", 1000)
    assert code == 0
    assert out.splitlines()[0].split() == ["rank", "score", "clip_id", "clips"]
    _, out, _ = run(QUERY, "--merge-gap", 0, "-k", 1000, "--format", "jsonl")
    assert sum(row["clips"] for row in rows_of(out)) == 59
    assert "v00000.mp4#t=0.000,8.000" in {row["clip_id"] for row in rows_of(out)}


def test_scores(run):
    code, out, _ = run(QUERY, "--range", -1, "--format", "jsonl")
    assert code == 0
    scores = [row["score"] for row in rows_of(out)]
    assert len(scores) == 59
    _, out, _ = run(QUERY, "--min-score", scores[4], "--format", "jsonl")
    assert [row["score"] for row in rows_of(out)] == scores[:5]
    code, out, err = run(QUERY, "--range", 2)
    assert (code, err) == (0, "no hits: nothing scores 2 or more\n")


def test_several_query_clips(run):
    _, nearest, _ = run("v00005.mp4", "-k", 3)
    assert nearest.splitlines()[0].split() == ["rank", "score", "clip_id", "query"]
    _, mean, _ = run("v00005.mp4", "-k", 3, "--combine", "mean")
    assert mean.splitlines()[0].split() == ["rank", "score", "clip_id"]


def test_a_list_of_queries(run, listed):
    code, out, err = run("--queries", listed, "-k", 2)
    assert code == 3
    rows = rows_of(out)
    assert [(row["query"], row["rank"]) for row in rows] == [
        (QUERY, 1),
        (QUERY, 2),
        ("v00005.mp4", 1),
        ("v00005.mp4", 2),
    ]
    assert rows[2]["query_clip"].startswith("v00005.mp4#t=")
    assert err.splitlines() == [
        "line 2: nothing.mp4: neither a file nor a clip or video of the library, "
        "whose clip ids look like v00000.mp4#t=0.000,2.000",
        "failed: 1 of 3 queries; the lines above say why",
    ]


@pytest.mark.parametrize("output_format", ["table", "json", "csv"])
def test_a_list_in_other_formats(run, listed, output_format):
    _, out, _ = run("--queries", listed, "-k", 2, "--format", output_format)
    if output_format == "table":
        assert out.splitlines()[0].split() == ["query", "rank", "score", "clip_id"]
        assert len(out.splitlines()) == 5
        return
    rows = json.loads(out) if output_format == "json" else list(csv.DictReader(io.StringIO(out)))
    assert [row["query"] for row in rows] == [QUERY, QUERY, "v00005.mp4", "v00005.mp4"]


def test_a_list_from_standard_input(lib, listed):
    command = [sys.executable, "-m", "vmae_embed", "search", str(lib), "--queries", "-", "-k", "1"]
    done = subprocess.run(command, input=listed.read_bytes(), capture_output=True, check=False)
    assert done.returncode == 3
    assert [json.loads(line)["query"] for line in done.stdout.splitlines()] == [QUERY, "v00005.mp4"]


def test_a_list_of_vectors(run, tmp_path):
    vectors = clustered(60, 16)[:3].copy()
    vectors[1] = np.inf
    np.save(tmp_path / "q.npy", vectors)
    code, out, err = run("--queries", tmp_path / "q.npy", "-k", 1)
    assert code == 3
    assert [(row["query"], row["clip_id"]) for row in rows_of(out)] == [
        ("q.npy[0]", "v00000.mp4#t=0.000,2.000"),
        ("q.npy[2]", "v00000.mp4#t=4.000,6.000"),
    ]
    assert err.splitlines()[0] == "q.npy[1]: vector: holds numbers that are not finite"


def test_lists_without_hits_or_queries(run, tmp_path):
    (tmp_path / "q.txt").write_text(f"{QUERY}\n{QUERY}\n")
    code, out, err = run("--queries", tmp_path / "q.txt", "--where", "false", "--format", "csv")
    assert (code, err) == (0, "without hits: 2 of 2 queries; no clip fits --where 'false'\n")
    assert out == "query,rank,score,clip_id\n"
    (tmp_path / "none.txt").write_text("\n")
    code, out, err = run("--queries", tmp_path / "none.txt")
    assert (code, out, err) == (0, "", f"{tmp_path}/none.txt: holds no query\n")


def test_names_that_are_no_utf8_are_printed(run, tmp_path):
    (tmp_path / "q.txt").write_bytes(b"v\xff.mp4\n" + QUERY.encode() + b"\n")
    code, out, err = run("--queries", tmp_path / "q.txt", "-k", 1)
    assert (code, len(rows_of(out))) == (3, 1)
    assert err.splitlines()[-1] == "failed: 1 of 2 queries; the lines above say why"


@pytest.mark.parametrize(
    ("arguments", "fragments"),
    [
        ([], ["Missing argument 'QUERY', or option '--queries' for many"]),
        (["q", "--queries", "{list}"], ["QUERY and --queries contradict each other"]),
        (["--queries", "{missing}"], ["cannot be read as a list of queries (No such file or directory)"]),
        (["--queries", "{list}", "--html", "p.html"], ["--html and --queries contradict each other"]),
        ([QUERY, "--range", "0.5", "-k", "3"], ["--range and -k contradict each other"]),
        ([QUERY, "--range", "0.5", "--min-score", "0.1"], ["--range and --min-score contradict each other"]),
        ([QUERY, "--range", "nan"], ["min-score=nan: give a number"]),
        ([QUERY, "--min-score", "nan"], ["min-score=nan: give a number"]),
        ([QUERY, "--min-score", "high"], ["'high' is not a valid float"]),
        ([QUERY, "--merge-gap", "-1"], ["merge-gap=-1: give seconds, from 0 on"]),
        ([QUERY, "--combine", "sum"], ["'sum' is not one of"]),
        ([QUERY, "--where", "label = 1"], ['"label" not found', "columns clip_id, video_id, start_s, end_s, path"]),
        (["--queries", "{list}", "--where", "(("], ["syntax error"]),
        (["--queries", "{list}", "-k", "0"], ["k=0: give at least 1"]),
    ],
)
def test_misuse_is_one_line(run, tmp_path, listed, arguments, fragments):
    places = {"list": listed, "missing": tmp_path / "missing"}
    code, out, err = run(*[argument.format(**places) for argument in arguments])
    assert (code, out) == (2, "")
    (line,) = err.splitlines()
    assert line.startswith("error: ")
    for fragment in fragments:
        assert fragment in line


@pytest.mark.parametrize("output_format", ["table", "json", "jsonl", "csv"])
def test_rows_in_pieces_are_the_rows_at_once(capsys, output_format):
    rows = [{"a": 1, "b": "two,\n2"}, {"a": 3.5, "b": "é"}, {"a": 1, "b": None}]

    def written(pieces):
        writer = RowWriter(output_format, ["b", "a"])
        for piece in pieces:
            writer.write(piece)
        writer.close()
        return capsys.readouterr().out

    whole = written([rows])
    assert written([[], rows[:1], [], rows[1:]]) == whole
    if output_format == "json":
        assert whole == json.dumps(rows, indent=2, ensure_ascii=False) + "\n"
        assert written([]) == "[]\n"
    if output_format == "csv":
        assert [row["b"] for row in csv.DictReader(io.StringIO(whole))] == ["two,\n2", "é", ""]
