"""Sources: what folders, lists and manifests name, and what becomes of what cannot be read."""

from __future__ import annotations

import datetime
import io
import os
import re
import sys
from collections import Counter
from decimal import Decimal
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from vmae_embed.errors import SourceError, UsageError
from vmae_embed.sources import VIDEO_SUFFIXES, list_videos

ODD_NAMES = [
    "with space.mp4",
    " leading.mp4",
    'quote\'d "twice".mp4',
    "comma, semicolon; tab\t.mp4",
    "#t=1,2.mp4",
    "100%.mp4",
    "-.mp4",
    "~tilde.mp4",
    "$HOME.mp4",
    "back\\slash.mp4",
    "Ünïcödé 日本 🎬.mp4",
    "combining e\u0301.mp4",
]
NOT_UTF8 = os.fsdecode(b"caf\xe9.mp4")


def fill(folder: Path, *names: str) -> Path:
    """Files that look like videos from outside, each of another size."""
    for size, name in enumerate(names, start=1):
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(bytes(size))
    return folder


def ids(listing):
    return [video.id for video in listing.videos]


def reasons(listing):
    return {failure.video_id: failure.reason for failure in listing.failures}


def refused(message, sources, error=SourceError, **options):
    with pytest.raises(error, match=message) as caught:
        list_videos(sources, **options)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.fixture
def stdin(monkeypatch):
    def give(data: bytes):
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(data), encoding="utf-8"))

    return give


# Files


def test_a_file_is_known_by_its_name_its_size_and_its_time(tmp_path):
    path = tmp_path / "deep" / "a.mp4"
    fill(tmp_path, "deep/a.mp4")
    os.utime(path, ns=(5, 7))
    (video,) = list_videos([path]).videos
    assert (video.id, video.path, video.size, video.mtime_ns, video.columns) == ("a.mp4", str(path), 1, 7, {})


def test_a_file_named_outright_needs_no_known_suffix(tmp_path):
    fill(tmp_path, "clip", ".hidden.xyz")
    assert ids(list_videos([tmp_path / "clip", tmp_path / ".hidden.xyz"])) == [".hidden.xyz", "clip"]


def test_paths_are_absolute_wherever_they_start(tmp_path, monkeypatch):
    fill(tmp_path, "home/a.mp4", "here/b.mp4")
    monkeypatch.chdir(tmp_path / "here")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    listing = list_videos(["b.mp4", "~/a.mp4"])
    assert [video.path for video in listing.videos] == [str(tmp_path / "home/a.mp4"), str(tmp_path / "here/b.mp4")]


def test_a_link_is_the_file_that_it_leads_to_under_its_own_name(tmp_path):
    fill(tmp_path, "a.mp4")
    (tmp_path / "b.mp4").symlink_to("a.mp4")
    (video,) = list_videos([tmp_path / "b.mp4"]).videos
    assert (video.id, video.path, video.size) == ("b.mp4", str(tmp_path / "b.mp4"), 1)


def test_the_same_file_twice_is_one_video(tmp_path, monkeypatch):
    fill(tmp_path, "a.mp4", "b.mp4")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "list.txt").write_text("a.mp4\n./a.mp4\nx/../a.mp4\ngone.mp4\ngone.mp4\n")
    listing = list_videos([".", tmp_path, "a.mp4", "list.txt", "list.txt"])
    assert ids(listing) == ["a.mp4", "b.mp4"]
    assert reasons(listing) == {"gone.mp4": "No such file or directory"}


def test_two_videos_of_one_id_are_refused_with_both_paths(tmp_path):
    fill(tmp_path, "one/a.mp4", "two/a.mp4")
    message = refused("two videos have the id a.mp4: .*column video_id$", [tmp_path / "one", tmp_path / "two"])
    assert f"{tmp_path}/one/a.mp4 and {tmp_path}/two/a.mp4; name a folder above both" in message
    assert ids(list_videos([tmp_path])) == ["one/a.mp4", "two/a.mp4"]


def test_a_missing_file_of_another_ones_id_is_refused_too(tmp_path):
    fill(tmp_path, "one/a.mp4")
    (tmp_path / "list.txt").write_text("a.mp4\n")
    refused("two videos have the id a.mp4", [tmp_path / "one", tmp_path / "list.txt"])


def test_videos_come_sorted_whatever_the_order_of_the_sources(tmp_path):
    fill(tmp_path, "b/z.mp4", "b/B.mp4", "a/y.mp4", "c.mp4")
    sources = [tmp_path / "c.mp4", tmp_path / "b", tmp_path / "a"]
    assert list_videos(sources) == list_videos(sources[::-1])
    assert ids(list_videos(sources)) == ["B.mp4", "c.mp4", "y.mp4", "z.mp4"]


# Folders


def test_a_folder_is_searched_to_the_bottom_for_known_suffixes(tmp_path):
    fill(tmp_path, "a.mp4", "B.MP4", "x/c.WebM", "x/y/z/d.mkv", "notes.txt", "x/e.jpg", "x/f.JPG", "README", "mp4")
    listing = list_videos([tmp_path])
    assert ids(listing) == ["B.MP4", "a.mp4", "x/c.WebM", "x/y/z/d.mkv"]
    assert listing.ignored == Counter({".jpg": 2, "no suffix": 2, ".txt": 1})


@pytest.mark.parametrize("suffix", sorted(VIDEO_SUFFIXES))
def test_every_known_suffix_is_found(tmp_path, suffix):
    fill(tmp_path, f"a{suffix}", f"b{suffix.upper()}")
    assert len(list_videos([tmp_path]).videos) == 2


def test_what_is_hidden_in_a_folder_is_skipped_and_not_counted(tmp_path):
    fill(tmp_path, "a.mp4", ".b.mp4", "._a.mp4", ".git/c.mp4", "x/.d/e.mp4", ".DS_Store")
    listing = list_videos([tmp_path])
    assert ids(listing) == ["a.mp4"]
    assert not listing.ignored


def test_a_hidden_folder_named_outright_is_searched(tmp_path):
    fill(tmp_path, ".cache/a.mp4")
    assert ids(list_videos([tmp_path / ".cache"])) == ["a.mp4"]


def test_ids_are_relative_to_the_folder_however_it_is_named(tmp_path, monkeypatch):
    fill(tmp_path, "videos/x/a.mp4")
    monkeypatch.chdir(tmp_path / "videos/x")
    for name in ("..", "../", "../../videos", f"{tmp_path}/videos/", tmp_path / "videos"):
        (video,) = list_videos([name]).videos
        assert (video.id, video.path) == ("x/a.mp4", str(tmp_path / "videos/x/a.mp4"))


def test_links_between_folders_are_followed_once(tmp_path):
    fill(tmp_path, "videos/a/1.mp4", "elsewhere/2.mp4")
    videos = tmp_path / "videos"
    (videos / "a" / "up").symlink_to(videos)
    (videos / "self").symlink_to(".")
    (videos / "out").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "elsewhere" / "back").symlink_to(videos)
    assert ids(list_videos([videos])) == ["a/1.mp4", "out/2.mp4"]


def test_links_that_lead_nowhere_or_to_themselves_are_failures(tmp_path):
    fill(tmp_path, "a.mp4")
    (tmp_path / "gone.mp4").symlink_to("nothing.mp4")
    (tmp_path / "round.mp4").symlink_to("round.mp4")
    listing = list_videos([tmp_path])
    assert ids(listing) == ["a.mp4"]
    assert reasons(listing) == {
        "gone.mp4": "No such file or directory",
        "round.mp4": "Too many levels of symbolic links",
    }


def test_pipes_and_folders_by_a_videos_name(tmp_path):
    fill(tmp_path, "a.mp4", "folder.mp4/b.mp4")
    os.mkfifo(tmp_path / "pipe.mp4")
    listing = list_videos([tmp_path])
    assert ids(listing) == ["a.mp4", "folder.mp4/b.mp4"]
    (failure,) = listing.failures
    assert (failure.video_id, failure.stage, failure.reason) == ("pipe.mp4", "source", "not a regular file")
    assert failure.fingerprint  # so that a file in its place is tried

    (tmp_path / "list.txt").write_text("a.mp4\nfolder.mp4\n")
    assert reasons(list_videos([tmp_path / "list.txt"])) == {
        "folder.mp4": "a folder, not a video, or one that cannot be listed"
    }


@pytest.mark.parametrize(
    ("glob", "found"),
    [
        ("*.bin", ["a.bin", "x/b.bin"]),
        ("x/*", ["x/b.bin", "x/c.mp4", "x/y/d.mp4"]),
        ("c.*", ["x/c.mp4"]),
        ("*", ["a.bin", "e", "x/b.bin", "x/c.mp4", "x/y/d.mp4"]),
        ("[ae]*", ["a.bin", "e"]),
        ("x/?.mp4", ["x/c.mp4"]),
    ],
)
def test_a_glob_chooses_by_name_or_by_relative_path_whatever_the_suffix(tmp_path, glob, found):
    fill(tmp_path, "a.bin", "x/b.bin", "x/c.mp4", "x/y/d.mp4", "e", ".f.bin")
    listing = list_videos([tmp_path], glob=glob)
    assert ids(listing) == found
    assert listing.ignored.total() == 5 - len(found)


def test_a_glob_leaves_files_named_outright_alone(tmp_path):
    fill(tmp_path, "a.mp4", "videos/b.mkv", "videos/c.mp4")
    assert ids(list_videos([tmp_path / "a.mp4", tmp_path / "videos"], glob="*.mkv")) == ["a.mp4", "b.mkv"]


def test_a_folder_without_videos_says_what_it_holds_instead(tmp_path):
    fill(tmp_path, "a.jpg", "b.jpg", "c.txt", "e/README", "f.a\nb")
    message = refused(r"no videos in it, only 2 \.jpg, ", [tmp_path])
    assert "1 .txt" in message
    assert "1 no suffix" in message
    assert message.endswith("`--glob '*'` takes files of any suffix")


def test_an_empty_folder_is_refused(tmp_path):
    (tmp_path / "sub").mkdir()
    refused(f"^{re.escape(str(tmp_path))}: it is empty; give", [tmp_path])
    refused("it is empty", [tmp_path], glob="*.mp4")


def test_an_empty_source_among_others_is_refused_by_its_own_name(tmp_path):
    fill(tmp_path, "full/a.mp4", "full/b.jpg", "other/c.txt")
    (tmp_path / "empty").mkdir()
    refused("/empty: it is empty", [tmp_path / "full", tmp_path / "empty"])
    refused(r"/other: no videos in it, only 1 \.txt; ", [tmp_path / "full", tmp_path / "other"])
    refused(r"/other: nothing in it matches '\*\.mp4'; quote", [tmp_path / "full", tmp_path / "other"], glob="*.mp4")


@pytest.mark.parametrize("locked", ["locked", "."])
def test_a_folder_that_cannot_be_listed_is_refused_or_fails_by_itself(tmp_path, monkeypatch, locked):
    fill(tmp_path, "a.mp4", "locked/b.mp4")
    real = os.scandir

    def scandir(path):
        if Path(path) == tmp_path / locked:
            raise PermissionError(13, "Permission denied", str(path))
        return real(path)

    monkeypatch.setattr(os, "scandir", scandir)
    if locked == ".":
        refused(r": cannot be listed \(Permission denied\)$", [tmp_path])
        return
    listing = list_videos([tmp_path])
    assert [video.id for video in listing.videos] == ["a.mp4"]
    assert reasons(listing) == {"locked": "a folder, not a video, or one that cannot be listed"}


# What is no source


def test_no_source_is_refused():
    refused("^no videos: give files, folders, a list or a manifest$", [])


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("absent.mp4", r"^absent\.mp4: no such file or folder$"),
        ("absent/", r"^absent: no such file or folder$"),
        ("absent.csv", r"^absent\.csv: no such file or folder$"),
        ("a.mp4/b.mp4", r"^a\.mp4/b\.mp4: no such file or folder$"),
        ("~nobody-by-this-name/a.mp4", r"^~nobody-by-this-name/a\.mp4: no such file or folder$"),
        ("two\nlines.mp4", r"^'two\\nlines\.mp4': no such file or folder$"),
        ("nul\0.mp4", r"^'nul\\x00\.mp4': cannot be read \(.*null byte.*\)$"),
        ("x" * 300, r"^x{300}: cannot be read \(File name too long\)$"),
        ("round.mp4", r"^round\.mp4: cannot be read \(Too many levels of symbolic links\)$"),
        ("", "^a source without a name: give a file"),
        ("https://example.org/a.mp4", "^https://example.org/a.mp4: URLs are not read; download the videos, or mount"),
        ("s3://bucket/videos/", "URLs are not read"),
    ],
)
def test_what_is_no_source_is_refused_in_a_line(tmp_path, monkeypatch, source, message):
    monkeypatch.chdir(fill(tmp_path, "a.mp4"))
    Path("round.mp4").symlink_to("round.mp4")
    refused(message, [source])
    refused(message, ["a.mp4", source])


# Lists


@pytest.mark.parametrize("suffix", [".txt", ".TXT", ".lst", ".list"])
def test_a_list_names_a_video_a_line_from_its_own_folder(tmp_path, suffix):
    fill(tmp_path, "x/a.mp4", "b.mp4", "y/c.mp4")
    path = tmp_path / "x" / f"list{suffix}"
    path.write_text(f"a.mp4\n\n../b.mp4\r\n{tmp_path}/y/c.mp4")
    listing = list_videos([path])
    assert {video.id: video.path for video in listing.videos} == {
        "a.mp4": f"{tmp_path}/x/a.mp4",
        "../b.mp4": f"{tmp_path}/b.mp4",
        f"{tmp_path}/y/c.mp4": f"{tmp_path}/y/c.mp4",
    }


def test_ids_from_lists_are_in_posix_form(tmp_path):
    fill(tmp_path, "x/a.mp4", "x/b.mp4")
    (tmp_path / "list.txt").write_text("./x//a.mp4\nx/../x/b.mp4\n")
    assert ids(list_videos([tmp_path / "list.txt"])) == ["x/a.mp4", "x/b.mp4"]


def test_missing_files_of_a_list_are_failures(tmp_path):
    fill(tmp_path, "a.mp4")
    (tmp_path / "list.txt").write_text("a.mp4\nx/gone.mp4\na.mp4/b.mp4\nnul\0.mp4\n" + "x" * 300 + "\n")
    listing = list_videos([tmp_path / "list.txt"])
    assert ids(listing) == ["a.mp4"]
    assert reasons(listing) == {
        "a.mp4/b.mp4": "Not a directory",
        "nul\0.mp4": "embedded null byte",
        "x/gone.mp4": "No such file or directory",
        "x" * 300: "File name too long",
    }
    by_id = {failure.video_id: failure for failure in listing.failures}
    gone = by_id["x/gone.mp4"]
    assert (gone.path, gone.stage, gone.seconds, gone.fingerprint) == (f"{tmp_path}/x/gone.mp4", "source", 0.0, "")
    assert list(by_id) == sorted(by_id)


def test_a_list_of_nothing_but_missing_files_is_refused(tmp_path):
    (tmp_path / "list.txt").write_text("b.mp4\na.mp4\n")
    message = refused("none of the 2 files named can be read", [tmp_path / "list.txt"])
    assert message.endswith(f"the first is {tmp_path}/a.mp4: No such file or directory")


@pytest.mark.parametrize("content", ["", "\n\r\n\n"])
def test_an_empty_list_is_refused(tmp_path, content):
    (tmp_path / "list.txt").write_text(content)
    refused(r"/list\.txt: it is empty", [tmp_path / "list.txt"])
    refused(r"/list\.txt: it is empty", [tmp_path / "list.txt"], glob="*.mp4")


def test_odd_names_are_found_in_folders_and_lists_alike(tmp_path):
    fill(tmp_path, *ODD_NAMES)
    (tmp_path / "list.txt").write_text("\n".join(ODD_NAMES))
    assert ids(list_videos([tmp_path])) == sorted(ODD_NAMES)
    assert list_videos([tmp_path]).videos == list_videos([tmp_path / "list.txt"]).videos


def test_a_name_of_two_lines_is_found_in_a_folder(tmp_path):
    fill(tmp_path, "two\nlines.mp4", "x/two\nlines.mp4")
    assert ids(list_videos([tmp_path])) == ["two\nlines.mp4", "x/two\nlines.mp4"]
    message = refused("two videos have the id 'two", [tmp_path, tmp_path / "x"])
    assert message.count("two\\nlines.mp4") == 3


def test_a_byte_order_mark_is_no_part_of_the_first_name(tmp_path, stdin, monkeypatch):
    fill(tmp_path, "a.mp4", "b.mp4")
    data = b"\xef\xbb\xbfa.mp4\r\nb.mp4\r\n"
    (tmp_path / "list.txt").write_bytes(data)
    assert ids(list_videos([tmp_path / "list.txt"])) == ["a.mp4", "b.mp4"]
    monkeypatch.chdir(tmp_path)
    stdin(data)
    assert ids(list_videos(["-"])) == ["a.mp4", "b.mp4"]


def test_standard_input_is_a_list_from_this_folder(tmp_path, monkeypatch, stdin):
    fill(tmp_path, "a.mp4", "x/b.mp4")
    monkeypatch.chdir(tmp_path)
    stdin(b"a.mp4\nx/b.mp4\ngone.mp4\n")
    listing = list_videos(["-"])
    assert [(video.id, video.path) for video in listing.videos] == [
        ("a.mp4", f"{tmp_path}/a.mp4"),
        ("x/b.mp4", f"{tmp_path}/x/b.mp4"),
    ]
    assert list(reasons(listing)) == ["gone.mp4"]
    stdin(b"")
    refused("^-: it is empty", ["-"])


@pytest.mark.skipif(sys.platform == "darwin", reason="its file systems have no such names")
def test_names_that_are_no_utf8_are_failures_wherever_they_come_from(tmp_path, monkeypatch, stdin):
    fill(tmp_path, "a.mp4", NOT_UTF8)
    (tmp_path / "list.txt").write_bytes(b"a.mp4\ncaf\xe9.mp4\n")
    pq.write_table(pa.table({"path": pa.array([b"a.mp4", b"caf\xe9.mp4"], pa.binary())}), tmp_path / "list.parquet")
    monkeypatch.chdir(tmp_path)
    for source in (tmp_path, tmp_path / "list.txt", tmp_path / "list.parquet", "-"):
        stdin(b"a.mp4\ncaf\xe9.mp4\n")
        listing = list_videos([source])
        assert ids(listing) == ["a.mp4"]
        assert reasons(listing) == {"caf\\udce9.mp4": "its name is not valid UTF-8; rename it"}
        # What is recorded has to fit into a table.
        (failure,) = listing.failures
        assert (failure.video_id + failure.path).encode().endswith(b"caf\\udce9.mp4")


# Manifests


def write_manifest(path: Path, columns: dict) -> Path:
    table = pa.table(columns)
    if path.suffix == ".parquet":
        pq.write_table(table, path)
    else:
        import pyarrow.csv

        delimiter = "\t" if path.suffix == ".tsv" else ","
        pyarrow.csv.write_csv(table, path, pyarrow.csv.WriteOptions(delimiter=delimiter))
    return path


@pytest.mark.parametrize("suffix", [".csv", ".tsv", ".parquet"])
def test_a_manifest_names_a_video_a_row_and_its_columns_are_carried(tmp_path, suffix):
    fill(tmp_path, "x/a.mp4", "b.mp4")
    columns = {
        "path": ["b.mp4", "x/a.mp4"],
        "label": ['cat, "big"', None if suffix == ".parquet" else ""],
        "n": [1, None],
        "weight": [0.5, None],
        "good": [True, None],
    }
    listing = list_videos([write_manifest(tmp_path / f"m{suffix}", columns)])
    assert listing.columns == {"label": "string", "n": "int64", "weight": "double", "good": "bool"}
    b, a = listing.videos
    assert (b.id, b.path) == ("b.mp4", f"{tmp_path}/b.mp4")
    assert b.columns == {"label": 'cat, "big"', "n": 1, "weight": 0.5, "good": True}
    assert (a.id, a.path) == ("x/a.mp4", f"{tmp_path}/x/a.mp4")
    assert a.columns == {"label": columns["label"][1], "n": None, "weight": None, "good": None}


@pytest.mark.parametrize(
    ("array", "kind", "value"),
    [
        (pa.array([True]), "bool", True),
        (pa.array([-3], pa.int8()), "int64", -3),
        (pa.array([2**32 - 1], pa.uint32()), "int64", 2**32 - 1),
        (pa.array([2**64 - 1], pa.uint64()), "string", "18446744073709551615"),
        (pa.array([0.5], pa.float16()), "double", 0.5),
        (pa.array([0.5], pa.float32()), "double", 0.5),
        (pa.array([Decimal("1.50")]), "string", "1.50"),
        (pa.array(["é"], pa.large_string()), "string", "é"),
        (pa.array(["cat"]).dictionary_encode(), "string", "cat"),
        (pa.array(["é".encode()], pa.binary()), "string", "é"),
        (pa.array([datetime.date(2024, 5, 6)]), "string", "2024-05-06"),
        (pa.array([1714979289], pa.timestamp("s")), "string", "2024-05-06 07:08:09"),
        (pa.array([1714979289 * 10**9 + 1], pa.timestamp("ns")), "string", "2024-05-06 07:08:09.000000001"),
        (pa.array([10**17], pa.timestamp("us")), "string", "5138-11-16 09:46:40"),
        (pa.array([1_500_000], pa.timestamp("us")), "string", "1970-01-01 00:00:01.500000"),
        (pa.array([1], pa.time64("ns")), "string", "00:00:00.000000001"),
        (pa.array([None], pa.null()), "string", None),
        (pa.array([[1, 2]]), "string", "[1, 2]"),
        (pa.array([{"x": 1}]), "string", "{'x': 1}"),
    ],
)
def test_columns_of_every_type_are_carried(tmp_path, array, kind, value):
    fill(tmp_path, "a.mp4", "b.mp4")
    both = pa.concat_arrays([array, pa.nulls(1, array.type)])
    listing = list_videos([write_manifest(tmp_path / "m.parquet", {"path": ["a.mp4", "b.mp4"], "x": both})])
    assert listing.columns == {"x": kind}
    assert [video.columns for video in listing.videos] == [{"x": value}, {"x": None}]
    assert type(listing.videos[0].columns["x"]) is type(value)


def test_a_column_video_id_gives_the_ids_as_they_are_written(tmp_path):
    fill(tmp_path, "a.mp4", "b.mp4", "x/a.mp4")
    path = tmp_path / "m.csv"
    path.write_text("video_id,path\nhttps://host/watch?v=1,a.mp4\n007,b.mp4\n./odd//id/,x/a.mp4\n")
    listing = list_videos([path])
    assert {video.id: video.path for video in listing.videos} == {
        "https://host/watch?v=1": f"{tmp_path}/a.mp4",
        "007": f"{tmp_path}/b.mp4",
        "./odd//id/": f"{tmp_path}/x/a.mp4",
    }
    assert listing.columns == {}


def test_names_of_digits_stay_names(tmp_path):
    fill(tmp_path, "007", "1e3")
    (tmp_path / "m.csv").write_text("path,video_id,n\n007,010,007\n1e3,011,8\n")
    listing = list_videos([tmp_path / "m.csv"])
    assert [(v.id, Path(v.path).name, v.columns["n"]) for v in listing.videos] == [("010", "007", 7), ("011", "1e3", 8)]


def test_names_that_read_as_dates_stay_names(tmp_path):
    fill(tmp_path, "2024-05-06T07:08:09")
    (tmp_path / "m.csv").write_text("path\n2024-05-06T07:08:09\n")
    assert ids(list_videos([tmp_path / "m.csv"])) == ["2024-05-06T07:08:09"]


def test_ids_may_be_numbers_in_parquet(tmp_path):
    fill(tmp_path, "a.mp4")
    path = write_manifest(tmp_path / "m.parquet", {"path": ["a.mp4"], "video_id": [7]})
    assert ids(list_videos([path])) == ["7"]


@pytest.mark.parametrize("suffix", [".csv", ".tsv", ".parquet"])
def test_odd_names_are_found_in_manifests(tmp_path, suffix):
    names = [*ODD_NAMES, "two\nlines.mp4"]
    fill(tmp_path, *names)
    listing = list_videos([write_manifest(tmp_path / f"m{suffix}", {"path": names, "i": list(range(len(names)))})])
    assert {video.id: video.columns["i"] for video in listing.videos} == {name: i for i, name in enumerate(names)}
    assert not listing.failures


def test_a_manifest_of_excels(tmp_path):
    fill(tmp_path, "a.mp4")
    (tmp_path / "m.csv").write_bytes(b"\xef\xbb\xbfpath,kind\r\na.mp4,cat\r\n")
    (video,) = list_videos([tmp_path / "m.csv"]).videos
    assert video.columns == {"kind": "cat"}


def test_missing_files_of_a_manifest_are_failures(tmp_path):
    fill(tmp_path, "a.mp4")
    (tmp_path / "m.csv").write_text("path,video_id\na.mp4,A\ngone.mp4,G\n")
    listing = list_videos([tmp_path / "m.csv"])
    assert ids(listing) == ["A"]
    assert reasons(listing) == {"G": "No such file or directory"}
    assert listing.failures[0].path == f"{tmp_path}/gone.mp4"


def test_manifests_with_different_columns_add_up(tmp_path):
    fill(tmp_path, "a.mp4", "b.mp4")
    (tmp_path / "1.csv").write_text("path,x\na.mp4,1\n")
    (tmp_path / "2.csv").write_text("path,y\nb.mp4,u\n")
    listing = list_videos([tmp_path / "1.csv", tmp_path / "2.csv"])
    assert listing.columns == {"x": "int64", "y": "string"}
    assert [video.columns for video in listing.videos] == [{"x": 1}, {"y": "u"}]


def test_manifests_that_disagree_on_a_type_are_refused(tmp_path):
    fill(tmp_path, "a.mp4", "b.mp4")
    (tmp_path / "1.csv").write_text("path,x\na.mp4,1\n")
    (tmp_path / "2.csv").write_text("path,x\nb.mp4,u\n")
    refused(
        r"/2\.csv: column 'x' is string here and int64 in another manifest; make them alike",
        [tmp_path / "1.csv", tmp_path / "2.csv"],
    )


def test_rows_that_say_different_things_of_one_file_are_refused(tmp_path):
    fill(tmp_path, "a.mp4")
    (tmp_path / "m.csv").write_text("path,x\na.mp4,1\na.mp4,2\n")
    refused(r"/a\.mp4 is listed twice, with different values in its manifest's columns; keep", [tmp_path / "m.csv"])
    (tmp_path / "m.csv").write_text("path,x\na.mp4,1\na.mp4,1\n")
    assert ids(list_videos([tmp_path / "m.csv"])) == ["a.mp4"]


def test_one_video_id_for_two_files_is_refused(tmp_path):
    fill(tmp_path, "a.mp4", "b.mp4")
    (tmp_path / "m.csv").write_text("path,video_id\na.mp4,same\nb.mp4,same\n")
    refused(r"two videos have the id same: \S+/a\.mp4 and \S+/b\.mp4; ", [tmp_path / "m.csv"])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (b"", r"/m\.csv: cannot be read as a table \(Empty CSV file\)$"),
        (b"path,x\n", r"/m\.csv: it is empty; give a source that names videos$"),
        (b"file,x\na.mp4,1\n", r"/m\.csv: no column 'path'; it has 'file', 'x'$"),
        (b"Path\na.mp4\n", r"/m\.csv: no column 'path'; it has 'Path'$"),
        (b'"a\nb"\na.mp4\n', r"/m\.csv: no column 'path'; it has 'a\\nb'$"),
        (b"path,x\na.mp4,1\n,2\n", r"/m\.csv: row 2 has no path; fill it in, or drop the row$"),
        (b"path,video_id\n,\n", r"/m\.csv: row 1 has no path; fill it in"),
        (b"path,video_id\na.mp4,\n", r"/m\.csv: row 1 has no video_id; fill it in"),
        (b"path,path\na.mp4,a.mp4\n", r"/m\.csv: two columns are named 'path'; rename one$"),
        (b"path,x,x\na.mp4,1,2\n", r"/m\.csv: two columns are named 'x'; rename one$"),
        (b"path,x\na.mp4,1\nb.mp4\n", r"/m\.csv: cannot be read as a table \(.*Expected 2 columns, got 1"),
        (b"path\ncaf\xe9.mp4\n", r"/m\.csv: cannot be read as a table \(.*invalid UTF8"),
        (b"path,x\na.mp4,caf\xe9\n", r"/m\.csv: column 'x' is not UTF-8 text; save it as such, or drop it$"),
        (b"path,caf\xe9\na.mp4,1\n", r"/m\.csv: its header is not in UTF-8; save it as UTF-8$"),
    ],
)
def test_manifests_that_cannot_be_used_are_refused_in_a_line(tmp_path, text, message):
    (fill(tmp_path, "a.mp4") / "m.csv").write_bytes(text)
    refused(message, [tmp_path / "m.csv"], UsageError)


def test_a_null_path_is_refused(tmp_path):
    path = write_manifest(tmp_path / "m.parquet", {"path": pa.array([None], pa.string())})
    refused("row 1 has no path", [path])


def test_a_damaged_manifest_is_refused(tmp_path):
    path = write_manifest(tmp_path / "m.parquet", {"path": ["a.mp4"]})
    path.write_bytes(path.read_bytes()[:-20])
    refused(r"/m\.parquet: cannot be read as a table \(", [path], UsageError)


def test_a_folder_by_a_manifests_name_is_a_folder(tmp_path):
    fill(tmp_path, "m.csv/a.mp4", "l.txt/b.mp4")
    assert ids(list_videos([tmp_path / "m.csv", tmp_path / "l.txt"])) == ["a.mp4", "b.mp4"]


# Names are any bytes but NUL and /, and . and .. are taken; lists and CSV files hold no more than text lines.
names = st.text(
    st.characters(exclude_categories=["Cs"], exclude_characters="\0/\n\r\ufeff"), min_size=1, max_size=40
).filter(lambda name: not name.startswith("~") and len(name.encode()) <= 200)


@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(names.map(lambda name: f"v{name}.mp4"), min_size=1, max_size=5, unique=True))
def test_folders_lists_and_manifests_agree_on_every_name(tmp_path_factory, written):
    root = tmp_path_factory.mktemp("names")
    videos = fill(root, *(f"videos/{name}" for name in written)) / "videos"
    (videos / "list.txt").write_text("\n".join(written), newline="")
    write_manifest(videos / "m.csv", {"path": written})
    write_manifest(videos / "m.parquet", {"path": written})
    by_folder = list_videos([videos]).videos
    assert [video.id for video in by_folder] == sorted(written)
    for source in ("list.txt", "m.csv", "m.parquet"):
        assert list_videos([videos / source]).videos == by_folder
