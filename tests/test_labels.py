from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from vmae_embed.errors import UsageError
from vmae_embed.labels import Labels, read_labels


def write(tmp_path: Path, text: str, name: str = "labels.csv") -> Path:
    path = tmp_path / name
    path.write_text(text)
    return path


# Reading


def test_reads_csv_tsv_and_parquet_alike(tmp_path: Path) -> None:
    expected = Labels("video_id", {"a.mp4": "cat", "b/c.mp4": "dog"})
    csv = write(tmp_path, "video_id,label\na.mp4,cat\nb/c.mp4,dog\n")
    tsv = write(tmp_path, "video_id\tlabel\na.mp4\tcat\nb/c.mp4\tdog\n", "labels.tsv")
    pq.write_table(pa.table({"video_id": ["a.mp4", "b/c.mp4"], "label": ["cat", "dog"]}), tmp_path / "l.parquet")
    assert read_labels(csv) == read_labels(tsv) == read_labels(tmp_path / "l.parquet") == expected


def test_reads_the_named_columns(tmp_path: Path) -> None:
    path = write(tmp_path, "label,video_id,action,person\nx,a.mp4,3,7\ny,b.mp4,4,8\n")
    expected = Labels("video_id", {"a.mp4": "3", "b.mp4": "4"}, {"a.mp4": "7", "b.mp4": "8"})
    assert read_labels(path, label="action", group="person") == expected


@pytest.mark.parametrize(
    ("columns", "key"),
    [("path,clip_id,video_id", "clip_id"), ("path,other,video_id", "video_id"), ("path,other,more", "path")],
)
def test_key_is_the_finest_column_present(tmp_path: Path, columns: str, key: str) -> None:
    labels = read_labels(write(tmp_path, f"label,{columns}\ncat,p,c,v\n"))
    assert labels.key == key
    assert labels.labels == {dict(zip(columns.split(","), "pcv", strict=True))[key]: "cat"}


def test_dictionary_columns_read_as_their_values(tmp_path: Path) -> None:
    column = pa.array(["a", "b"]).dictionary_encode()
    pq.write_table(pa.table({"path": column, "label": column}), tmp_path / "l.parquet")
    assert read_labels(tmp_path / "l.parquet").labels == {"a": "a", "b": "b"}


def test_repeated_rows_are_fine_and_paths_are_normalised(tmp_path: Path) -> None:
    path = write(tmp_path, "path,label,g\n./a/b.mp4,cat,1\na\\b.mp4,cat,1\n/x/a.mp4,dog,2\n")
    expected = Labels("path", {"a/b.mp4": "cat", "/x/a.mp4": "dog"}, {"a/b.mp4": "1", "/x/a.mp4": "2"})
    assert read_labels(path, group="g") == expected


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("id,label\na,cat\n", r"needs one of the columns clip_id, video_id, path; has id, label$"),
        ("path,kind\na,cat\n", r"needs one column 'label'; has path, kind$"),
        ("path,label,label\na,cat,dog\n", r"needs one column 'label'; has path, label, label$"),
        ("path,label\na,cat\n", r"needs one column 'g'; has path, label$"),
        ("path,label,g\n", r"has no rows; give one a clip or video$"),
        ("path,label,g\na,cat,1\nb,,1\n", r"row 2 has no label; fill it in, or drop the row$"),
        ("path,label,g\na,1,1\nb,,1\n", r"row 2 has no label; fill it in, or drop the row$"),
        ("path,label,g\na,  ,1\n", r"row 1 has no label; fill it in, or drop the row$"),
        ("path,label,g\n,cat,1\n", r"row 1 has no path; fill it in, or drop the row$"),
        ("path,label,g\na,cat,1\nb,dog,\n", r"row 2 has no g; fill it in, or drop the row$"),
        ("path,label,g\na,cat,1\na,dog,1\n", r"'a' has the labels 'cat' and 'dog'; keep one row$"),
        ("path,label,g\n./a,cat,1\na,dog,1\n", r"'a' has the labels 'cat' and 'dog'; keep one row$"),
        ("path,label,g\na,cat,1\na,cat,2\n", r"'a' has the groups '1' and '2'; keep one row$"),
    ],
)
def test_refuses_tables(tmp_path: Path, text: str, message: str) -> None:
    path = write(tmp_path, text)
    with pytest.raises(UsageError, match=message) as caught:
        read_labels(path, group="g")
    assert str(caught.value).startswith(f"{path}: ")
    assert "\n" not in str(caught.value)


# Matching

CLIPS = ("a.mp4#t=0.000,2.000", "a.mp4#t=2.000,4.000", "d/b.mp4#t=0.000,2.000", "c.mp4#t=0.000,2.000")
VIDEOS = ("a.mp4", "a.mp4", "d/b.mp4", "c.mp4")
PATHS = ("/v/a.mp4", "/v/a.mp4", "/v/d/b.mp4", "/v/c.mp4")


def test_matches_by_video_and_reports_what_has_no_partner() -> None:
    table = Labels("video_id", {"zz.mp4": "cat", "a.mp4": "cat", "d/b.mp4": 0, "/v/c.mp4": "x"})
    matched = table.match(CLIPS, VIDEOS, PATHS)
    assert matched.labels == ("cat", "cat", 0, None)
    assert matched.groups == VIDEOS
    assert matched.unmatched_keys == ("zz.mp4", "/v/c.mp4")
    assert matched.unlabelled_videos == ("c.mp4",)
    assert matched.labelled_rows.tolist() == [0, 1, 2]


def test_matches_by_clip_and_a_partly_labelled_video_is_labelled() -> None:
    table = Labels("clip_id", {CLIPS[1]: "run", "a.mp4": "x"}, {CLIPS[1]: "ann", "a.mp4": "bob"})
    matched = table.match(CLIPS, VIDEOS, PATHS)
    assert matched.labels == (None, "run", None, None)
    assert matched.groups == ("a.mp4", "ann", "d/b.mp4", "c.mp4")
    assert matched.unmatched_keys == ("a.mp4",)
    assert matched.unlabelled_videos == ("d/b.mp4", "c.mp4")
    assert matched.labelled_rows.tolist() == [1]


def test_matches_by_path_in_each_of_its_spellings(tmp_path: Path) -> None:
    path = write(tmp_path, "path,label\n./a.mp4,cat\nd\\b.mp4,dog\n/v/c.mp4,cow\n/w/a.mp4,ant\n")
    matched = read_labels(path).match(CLIPS, VIDEOS, PATHS)
    assert matched.labels == ("cat", "cat", "dog", "cow")
    assert matched.unmatched_keys == ("/w/a.mp4",)
    assert matched.unlabelled_videos == ()
    windows = read_labels(path).match(["x"], ["b.mp4"], ["d\\b.mp4"])
    assert windows.labels == ("dog",)


def test_a_video_named_twice_must_be_labelled_alike() -> None:
    same = Labels("path", {"a.mp4": "cat", "/v/a.mp4": "cat"}).match(CLIPS, VIDEOS, PATHS)
    assert same.labels[0] == "cat"
    assert same.unmatched_keys == ()
    with pytest.raises(UsageError, match=r"'a.mp4' and '/v/a.mp4' differ but name one video; keep one row"):
        Labels("path", {"a.mp4": "cat", "/v/a.mp4": "dog"}).match(CLIPS, VIDEOS, PATHS)
    with pytest.raises(UsageError, match="differ but name one video"):
        Labels("path", {"a.mp4": 1, "/v/a.mp4": 1}, {"a.mp4": "g", "/v/a.mp4": "h"}).match(CLIPS, VIDEOS, PATHS)


def test_columns_must_be_parallel() -> None:
    with pytest.raises(UsageError, match=r"columns of \(4, 4, 3\) clip ids, video ids and paths; give as many"):
        Labels("path", {"a": 1}).match(CLIPS, VIDEOS, PATHS[:3])


def test_an_empty_library_matches_nothing() -> None:
    matched = Labels("path", {"a": 1}).match([], [], [])
    assert (matched.labels, matched.unmatched_keys, matched.unlabelled_videos) == ((), ("a",), ())
    assert matched.labelled_rows.tolist() == []


def test_keys_that_read_as_numbers_stay_as_written(tmp_path):
    table = tmp_path / "labels.csv"
    table.write_text("path,label\n001,cat\n1,dog\n")
    assert read_labels(table).labels == {"001": "cat", "1": "dog"}


def test_csv_labels_stay_as_written_too(tmp_path):
    table = tmp_path / "labels.csv"
    table.write_text("path,label\na,01\nb,1\nc,0.5\nd,2024-01-02\n")
    assert read_labels(table).labels == {"a": "01", "b": "1", "c": "0.5", "d": "2024-01-02"}
