"""Libraries: whole after anything, refused in a line where they are not, read back as they were written."""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import json
import os
import random
import stat
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from vmae_embed.errors import IdentityMismatch, LibraryError, LibraryLocked, UsageError
from vmae_embed.library import Held, Library, LibraryConfig, clip_rows, to_matrix, verify
from vmae_embed.library.files import write_atomically
from vmae_embed.preprocess import Preprocessing
from vmae_embed.records import ClipSpan, Failure, Timeline, Video
from vmae_embed.sampling import Sampling

WIDTH = 8
IDENTITY = {
    "checkpoint": "made/up",
    "revision": None,
    "weights_sha256": "0123456789abcdef" * 4,
    "pooling": "mean",
    "norm": "layernorm of the tokens",
    "frames": 16,
    "width": WIDTH,
    "precision": "float32",
}
CONFIG = LibraryConfig(
    encoder=IDENTITY,
    sampling=Sampling(),
    preprocessing=Preprocessing(32, None, (32, 32), 2, 1 / 255, (0.5, 0.5, 0.5), (0.25, 0.25, 0.25)),
    stored="float32",
    columns={},
    versions={"vmae-embed": "0"},
)


def changed(encoder=None, **fields):
    return dataclasses.replace(CONFIG, encoder={**IDENTITY, **(encoder or {})}, **fields)


def video(name, size=1, **columns):
    return Video(name, f"/videos/{name}", size, 7, columns)


def vectors(name, clips=2):
    return np.random.default_rng(list(name.encode())).normal(size=(clips, WIDTH)).astype(np.float32)


def rows(library, *videos, clips=2):
    """Touching clips of two seconds; their vectors follow from their videos' ids."""
    spans = [ClipSpan(2.0 * i, 2.0 * i + 2, ()) for i in range(clips)]
    timeline = Timeline(np.zeros(1), 2.0 * clips, 29.97, 64, 48, "h264")
    tables = [clip_rows(v, timeline, spans, vectors(v.id, clips), library.schema) for v in videos]
    return pa.concat_tables([library.schema.empty_table(), *tables])


def failure(name):
    return Failure(name, f"/videos/{name}", "decode", "it is broken", 1.5, "1-7")


def files(folder):
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


@pytest.fixture
def library(tmp_path):
    """Unit u1 holds a and b, and that c failed; unit u2 holds d; in unit u3 all failed: e and f."""
    made = Library.create(tmp_path / "lib", CONFIG)
    made.write_unit("u1", rows(made, video("a.mp4"), video("b.mp4")), [failure("c.mp4")])
    made.write_unit("u2", rows(made, video("d.mp4")), [])
    made.write_unit("u3", rows(made), [failure("e.mp4"), failure("f.mp4")])
    return made


@contextlib.contextmanager
def refused(message, error=LibraryError):
    with pytest.raises(error, match=message) as caught:
        yield
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 1000


# Making and opening


def test_a_library_opens_as_it_was_made(tmp_path):
    config = changed(
        sampling=Sampling(stride=4, hop_s=1.5), stored="float16", columns={"a b": "bool", "": "string", "ü": "int64"}
    )
    made = Library.create(tmp_path / "not/yet/there", config)
    assert Library.open(str(made.path)).config == config == made.config
    assert (len(made), made.width, made.units(), made.failures(), made.held()) == (0, WIDTH, [], [], {})
    assert made.embeddings().shape == (0, WIDTH)
    assert made.embeddings().dtype == np.float32
    assert verify(made) == []


def test_an_empty_directory_becomes_a_library(tmp_path):
    assert files(Library.create(tmp_path, CONFIG).path) == ["library.json"]


def test_what_a_killed_maker_left_is_in_nobodys_way(tmp_path):
    (tmp_path / ".library.json.tmp").write_text("{")
    assert files(Library.create(tmp_path, CONFIG).path) == ["library.json"]


@pytest.mark.parametrize("theirs", ["a.txt", ".hidden", ".draft.tmp", "clips/u1.parquet"])
def test_a_directory_of_other_things_is_refused_and_left_alone(tmp_path, theirs):
    (tmp_path / theirs).parent.mkdir(exist_ok=True)
    (tmp_path / theirs).write_text("mine")
    with refused("not a library, and not empty; give a new directory$"):
        Library.create(tmp_path, CONFIG)
    assert files(tmp_path) == [theirs]


def test_a_file_is_refused_and_left_alone(tmp_path):
    path = tmp_path / "lib"
    path.write_text("mine")
    with refused("/lib: a file, not a directory; give another name$"):
        Library.create(path, CONFIG)
    with refused(r"/lib/under: a file, not a directory; give another name$"):
        Library.create(path / "under", CONFIG)
    with refused(r"/lib: not a library \(it has no library.json\); make one with `vmae-embed extract VIDEOS -o "):
        Library.open(path)
    assert path.read_text() == "mine"


def test_a_directory_that_cannot_be_made_is_refused(tmp_path):
    with refused(r": cannot be read \(File name too long\)"):
        Library.create(tmp_path / ("x" * 300), CONFIG)
    (tmp_path / "loop").symlink_to("loop")
    with refused(r": cannot be read \(Too many levels of symbolic links\)"):
        Library.create(tmp_path / "loop", CONFIG)


def test_what_is_no_library_does_not_open(tmp_path):
    with refused(
        r"/absent: not a library \(no such directory\); make one with `vmae-embed extract VIDEOS -o \S+/absent`$"
    ):
        Library.open(tmp_path / "absent")
    with refused(r"not a library \(it has no library\.json\); make one with"):
        Library.open(tmp_path)
    (tmp_path / "library.json").mkdir()
    with refused(r"/library\.json: cannot be read \(Is a directory\)$"):
        Library.open(tmp_path)


def _with(path, value):
    """The fields of a sound library.json, one of them exchanged; ... removes it."""
    fields = json.loads(CONFIG.to_json())
    *parents, last = path
    at = fields
    for key in parents:
        at = at[key]
    at[last] = value
    if value is ...:
        del at[last]
    return json.dumps(fields).encode()


TOP = ["format", "encoder", "sampling", "preprocessing", "stored", "columns", "versions"]
DAMAGED = {
    "empty": b"",
    "half": CONFIG.to_json()[:200],
    "not JSON": b"once\nupon a time",
    "not UTF-8": b'{"format": "\xff"}',
    "zeros": bytes(500),
    "a list": b"[]",
    "a number": b"1",
    "null": b"null",
    "no fields": b"{}",
    **{f"without {key}": _with([key], ...) for key in TOP},
    **{f"{key} is null": _with([key], None) for key in TOP},
    **{f"{key} is a number": _with([key], 3) for key in TOP},
    **{f"{key} is a list": _with([key], [1]) for key in TOP},
    **{f"{key} is text": _with([key], "text\nof two lines") for key in TOP},
    "format of the future": _with(["format"], 2),
    **{
        f"encoder without {key}": _with(["encoder", key], ...)
        for key in ("weights_sha256", "pooling", "norm", "frames", "width")
    },
    **{f"width {value!r}": _with(["encoder", "width"], value) for value in (0, -8, 8.5, "8", None, [8])},
    "hash is a number": _with(["encoder", "weights_sha256"], 7),
    "sampling out of range": _with(["sampling", "frames"], 0),
    "sampling of another type": _with(["sampling", "frames"], "16"),
    "sampling unknown": _with(["sampling", "tempo"], 1),
    "runs are text": _with(["runs"], "yesterday"),
    "a run is a number": _with(["runs"], [1]),
    "preprocessing incomplete": _with(["preprocessing", "crop"], ...),
    "preprocessing unknown": _with(["preprocessing", "flip"], True),
    "stored unknown": _with(["stored"], "bfloat16"),
    "column of an unknown type": _with(["columns", "x"], "date"),
    "column of a nested type": _with(["columns", "x"], {}),
    "labels without their columns": _with(["classifier"], "0" * 64),
    "labels of a number": _with(["classifier"], 7),
    **{f"tokens {value!r}": _with(["tokens"], value) for value in (0, -1, 1.5, "5", True, [5])},
    "column of the library's own": _with(["columns", "clip_id"], "string"),
}


@pytest.mark.parametrize("data", DAMAGED.values(), ids=DAMAGED)
def test_a_damaged_library_json_is_refused_in_a_line(library, data):
    (library.path / "library.json").write_bytes(data)
    with refused(r"/lib/library\.json: not what this version writes \(.+\)$"):
        Library.open(library.path)


def test_the_format_of_another_version_is_named(library):
    (library.path / "library.json").write_bytes(_with(["format"], 2))
    with refused(r"\(format 2; this version reads format 1\)$"):
        Library.open(library.path)


# Rows


@pytest.mark.parametrize("stored", ["float32", "float16"])
def test_rows_read_back_as_they_were_written(tmp_path, stored):
    library = Library.create(tmp_path, changed(stored=stored, columns={"label": "string"}))
    written = rows(library, video("x/a b.mp4", 5, label="cat"), video("b\n#t=1,2.mp4"))
    library.write_unit("u", written, [])
    again = Library.open(tmp_path)
    assert again.table().equals(written)
    expected = np.concatenate([vectors("x/a b.mp4"), vectors("b\n#t=1,2.mp4")]).astype(stored)
    stored_type = {"float32": pa.float32(), "float16": pa.float16()}[stored]
    assert again.table().schema.field("embedding").type == pa.list_(stored_type, WIDTH)
    assert again.embeddings().dtype == np.float32
    np.testing.assert_array_equal(again.embeddings(), expected.astype(np.float32))
    assert again.table().drop_columns("embedding").slice(1, 1).to_pylist() == [
        {
            "clip_id": "x/a b.mp4#t=2.000,4.000",
            "video_id": "x/a b.mp4",
            "start_s": 2.0,
            "end_s": 4.0,
            "path": "/videos/x/a b.mp4",
            "fps": 29.97,
            "duration_s": 4.0,
            "width": 64,
            "height": 48,
            "codec": "h264",
            "fingerprint": "5-7",
            "label": "cat",
        }
    ]
    assert again.column("label") == ["cat", "cat", None, None]
    assert len(again) == 4
    assert verify(again) == []


def test_rows_come_in_the_order_of_the_units_names(library):
    assert library.units() == ["u1", "u2", "u3"]
    assert library.column("video_id") == ["a.mp4", "a.mp4", "b.mp4", "b.mp4", "d.mp4", "d.mp4"]
    assert [table.num_rows for table in library.shards()] == [4, 2, 0]
    assert pa.concat_tables(library.shards()).equals(library.table())
    expected = np.concatenate([vectors(name) for name in ("a.mp4", "b.mp4", "d.mp4")])
    np.testing.assert_array_equal(library.embeddings(), expected)


def test_columns_can_be_read_alone(library):
    assert library.table(["end_s", "clip_id"]).column_names == ["end_s", "clip_id"]
    assert [shard.column_names for shard in library.shards(["clip_id", "embedding"])] == [["clip_id", "embedding"]] * 3
    with refused(r"^column 'tempo': the library has clip_id, video_id, ", UsageError):
        library.table(["clip_id", "tempo"])
    with refused("^column 'tempo': ", UsageError):
        library.column("tempo")


def test_a_matrix_is_cut_from_any_chunks():
    values = np.arange(12, dtype=np.float32)
    column = pa.FixedSizeListArray.from_arrays(pa.array(values), 3)
    chunked = pa.chunked_array([column.slice(1, 2), column.slice(0, 0), column.slice(3)])
    np.testing.assert_array_equal(to_matrix(chunked, 3), values.reshape(4, 3)[1:])
    empty = to_matrix(pa.chunked_array([], pa.list_(pa.float16(), 3)), 3)
    assert (empty.shape, empty.dtype) == ((0, 3), np.float32)


def test_carried_columns_grow_and_older_rows_have_none(library):
    library.carry_columns({"label": "string", "n": "int64"})
    library.write_unit("u4", rows(library, video("g.mp4", label="cat", n=3)), [])
    library.carry_columns({"weight": "double", "label": "string", "good": "bool"})
    library.write_unit("u5", rows(library, video("h.mp4", label="dog", weight=0.5, good=False)), [])
    library.write_unit("u0", rows(library, video("i.mp4")), [])
    again = Library.open(library.path)
    assert again.config.columns == {"label": "string", "n": "int64", "weight": "double", "good": "bool"}
    assert list(again.config.columns) == ["label", "n", "weight", "good"]
    table = again.table(["video_id", "label", "n", "weight", "good"]).to_pylist()
    by_video = {row.pop("video_id"): tuple(row.values()) for row in table}
    nothing = (None, None, None, None)
    assert by_video == {
        "a.mp4": nothing,
        "b.mp4": nothing,
        "d.mp4": nothing,
        "g.mp4": ("cat", 3, None, None),
        "h.mp4": ("dog", None, 0.5, False),
        "i.mp4": nothing,
    }
    assert again.column("n") == [None] * 8 + [3, 3, None, None]
    assert verify(again) == []
    # Rewriting an old shard does not lose what newer ones have.
    again.remove_videos(["a.mp4"])
    assert again.column("label") == [None] * 6 + ["cat", "cat", "dog", "dog"]


def test_columns_that_cannot_be_carried_are_refused_and_none_is_taken(library):
    library.carry_columns({"n": "int64"})
    before = files(library.path), (library.path / "library.json").read_bytes()
    for name in ("clip_id", "embedding", "fps", "fingerprint"):
        with refused(rf"^column '{name}': every library has a column of that name; rename yours$", UsageError):
            library.carry_columns({"new": "string", name: "string"})
    with refused("^column 'n' is string, but this library carries it as int64$", UsageError):
        library.carry_columns({"new": "string", "n": "string"})
    library.carry_columns({"n": "int64"})
    library.carry_columns({})
    assert before == (files(library.path), (library.path / "library.json").read_bytes())
    assert library.config.columns == {"n": "int64"}


# Who is in it


def test_held_is_every_video_of_a_complete_unit(library):
    assert library.held() == {
        "a.mp4": Held("u1", "/videos/a.mp4", "1-7", failed=False),
        "b.mp4": Held("u1", "/videos/b.mp4", "1-7", failed=False),
        "c.mp4": Held("u1", "/videos/c.mp4", "1-7", failed=True),
        "d.mp4": Held("u2", "/videos/d.mp4", "1-7", failed=False),
        "e.mp4": Held("u3", "/videos/e.mp4", "1-7", failed=True),
        "f.mp4": Held("u3", "/videos/f.mp4", "1-7", failed=True),
    }


def test_failures_read_back_as_they_were_written(library):
    assert library.failures() == [failure("c.mp4"), failure("e.mp4"), failure("f.mp4")]
    odd = Failure("odd\n.mp4", "/videos/odd\n.mp4", "source", "it's «broken»", 0.0, "")
    library.write_unit("u0", rows(library), [odd])
    assert library.failures()[0] == odd


def test_failures_of_a_unit_that_is_not_complete_do_not_count(library):
    (library.path / "clips/u3.parquet").unlink()
    assert [found.video_id for found in library.failures()] == ["c.mp4"]
    assert not {"e.mp4", "f.mp4"} & set(library.held())


ALL = {"a.mp4", "b.mp4", "c.mp4", "d.mp4", "e.mp4", "f.mp4"}


@pytest.mark.parametrize(
    ("removed", "left"),
    [
        ([], ["clips/u1", "clips/u2", "clips/u3", "failures/u1", "failures/u3"]),
        (["unknown.mp4"], ["clips/u1", "clips/u2", "clips/u3", "failures/u1", "failures/u3"]),
        (["a.mp4"], ["clips/u1", "clips/u2", "clips/u3", "failures/u1", "failures/u3"]),
        (["a.mp4", "b.mp4"], ["clips/u1", "clips/u2", "clips/u3", "failures/u1", "failures/u3"]),
        (["c.mp4"], ["clips/u1", "clips/u2", "clips/u3", "failures/u3"]),
        (["d.mp4"], ["clips/u1", "clips/u3", "failures/u1", "failures/u3"]),
        (["e.mp4"], ["clips/u1", "clips/u2", "clips/u3", "failures/u1", "failures/u3"]),
        (["e.mp4", "f.mp4"], ["clips/u1", "clips/u2", "failures/u1"]),
        (["a.mp4", "b.mp4", "c.mp4"], ["clips/u2", "clips/u3", "failures/u3"]),
        (["a.mp4", "c.mp4", "d.mp4", "f.mp4"], ["clips/u1", "clips/u3", "failures/u3"]),
        (sorted(ALL), []),
    ],
)
def test_removed_videos_leave_the_others_as_they_were(library, removed, left):
    before = library.table().to_pylist()
    library.remove_videos(set(removed))
    assert files(library.path) == sorted(["library.json", *(f"{name}.parquet" for name in left)])
    assert set(library.held()) == ALL - set(removed)
    assert library.table().to_pylist() == [row for row in before if row["video_id"] not in removed]
    assert [found.video_id for found in library.failures()] == [
        name for name in ("c.mp4", "e.mp4", "f.mp4") if name not in removed
    ]
    assert verify(library) == []


def test_a_removed_video_can_be_added_again(library):
    library.remove_videos(["d.mp4"])
    library.write_unit("u2", rows(library, video("d.mp4")), [])
    assert set(library.held()) == ALL


def test_the_state_changes_with_the_shards_and_with_nothing_else(library):
    seen = [library.state()]
    library.carry_columns({"n": "int64"})
    (library.path / "clips/.u9.parquet.tmp").touch()
    assert [library.state(), Library.open(library.path).state()] == seen * 2
    library.write_unit("u4", rows(library, video("g.mp4", n=1)), [])
    seen.append(library.state())
    library.remove_videos(["a.mp4"])
    seen.append(library.state())
    library.remove_videos(["g.mp4"])
    seen.append(library.state())
    # Another video, in a file of the same size at the same place.
    (library.path / "clips/u2.parquet").rename(library.path / "clips/u2b.parquet")
    seen.append(library.state())
    assert len(set(seen)) == 5


# Killed, locked, full

_PRELUDE = """
import os, sys, time
from pathlib import Path
from vmae_embed.library import Library
library = Library.open(sys.argv[1])
"""


def child(library, code):
    return subprocess.Popen(
        [sys.executable, "-c", _PRELUDE + code, str(library.path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )


def test_a_writer_killed_before_its_rename_leaves_nothing_that_counts(library):
    code = """
Path.replace = lambda *_: os._exit(9)
with library.lock():
    library.write_unit("u4", next(library.shards()), [])
"""
    before = library.table()
    with child(library, code) as process:
        assert process.wait() == 9
    assert "clips/.u4.parquet.tmp" in files(library.path)
    assert library.units() == ["u1", "u2", "u3"]
    assert library.table().equals(before)
    assert verify(library) == ["clips/.u4.parquet.tmp: left by a killed run; the next extract clears it"]
    with library.lock():
        assert verify(library) == []


def test_one_run_at_a_time_until_it_ends_however_it_ends(library):
    code = """
with library.lock():
    print("locked", flush=True)
    sys.stdin.read()
"""
    with child(library, code) as process:
        assert process.stdout.readline() == b"locked\n"
        with refused("/lib: another run is writing to it; wait for it or stop it$", LibraryLocked), library.lock():
            pytest.fail("two have the lock")
        assert len(library) == 6  # readers need no lock
        process.kill()
        process.wait()
    with library.lock():
        pass


def test_the_lock_ends_with_the_block(library):
    def fail():
        with library.lock():
            with refused("another run", LibraryLocked), Library.open(library.path).lock():
                pytest.fail("two have the lock")
            raise ArithmeticError("of the block's own")

    for _ in range(2):
        with pytest.raises(ArithmeticError, match="of the block's own"):
            fail()


def test_a_library_that_is_gone_cannot_be_locked(library):
    library.path.rename(library.path.with_name("moved"))
    with refused(r"/lib: cannot be opened \(No such file or directory\)$"), library.lock():
        pytest.fail("locked nothing")


def test_the_lock_clears_what_killed_runs_left_and_nothing_else(library):
    sound = files(library.path)
    for name in (".library.json.tmp", "clips/.u9.parquet.tmp", "failures/.u1.parquet.tmp", "failures/u9.parquet"):
        (library.path / name).write_bytes(b"half")
    for name in ("notes.txt", "clips/notes.txt", "index.tmp"):
        (library.path / name).write_text("mine")
    with library.lock():
        assert files(library.path) == sorted([*sound, "notes.txt", "clips/notes.txt", "index.tmp"])
    assert set(library.held()) == ALL


@pytest.mark.parametrize("error", [OSError(errno.EIO, "interrupted"), KeyboardInterrupt("interrupted")])
def test_a_file_that_never_gets_its_name_leaves_no_trace(library, monkeypatch, error):
    def fail(*_):
        raise error

    sound, before = files(library.path), library.table()
    table = rows(library, video("g.mp4"))
    with monkeypatch.context() as patch:
        patch.setattr(Path, "replace", fail)
        expected = LibraryError if isinstance(error, OSError) else KeyboardInterrupt
        with refused("interrupted", expected):
            library.write_unit("u4", table, [])
        with refused("interrupted", expected):
            library.write_unit("u4", table, [failure("h.mp4")])
        with refused("interrupted", expected):
            library.remove_videos(["a.mp4"])
    assert files(library.path) == sound
    assert library.table().equals(before)


class FullDisk:
    """Opens files that take so many bytes and no more."""

    def __init__(self, monkeypatch, room):
        self.room = room
        self.real = Path.open
        monkeypatch.setattr(Path, "open", lambda path, *arguments, **options: self.open(path, *arguments, **options))

    def open(self, path, mode="r", **options):
        file = self.real(path, mode, **options)
        if not set("wa+") & set(mode):
            return file
        write, disk = file.write, self

        class Proxy:
            closed = False

            def write(self, data):
                disk.room -= memoryview(data).nbytes
                if disk.room < 0:
                    raise OSError(errno.ENOSPC, "No space left on device")
                return write(data)

            def __getattr__(self, name):
                return getattr(file, name)

            def __enter__(self):
                return self

            def __exit__(self, *_):
                file.close()

        return Proxy()


@pytest.mark.parametrize("room", [0, 3, 100, 1000, 2500])
def test_a_full_disk_is_one_line_and_leaves_what_was_committed(library, monkeypatch, room):
    sound, before = files(library.path), library.table()
    table = rows(library, video("g.mp4"))
    FullDisk(monkeypatch, room)
    message = r"\.parquet: cannot be written \(No space left on device\); what was committed before stays whole$"
    with refused(message):
        for number in range(4, 9):
            library.write_unit(f"u{number}", table, [failure("h.mp4")])
    monkeypatch.undo()
    assert not [name for name in files(library.path) if name.endswith(".tmp")]
    with library.lock():
        assert [name for name in files(library.path) if name in sound] == sound
        assert library.table().slice(0, 6).equals(before)
        assert verify(library) == [] or "is in clips/u4.parquet too" in verify(library)[0]


def test_a_full_disk_leaves_the_old_library_json(library, monkeypatch):
    FullDisk(monkeypatch, 10)
    with refused(r"/library\.json: cannot be written \(No space left on device\)"):
        library.carry_columns({"n": "int64"})
    monkeypatch.undo()
    assert Library.open(library.path).config == CONFIG
    assert ".library.json.tmp" not in files(library.path)


def test_a_directory_in_the_way_is_one_line(library):
    (library.path / "clips/u4.parquet").mkdir()
    with refused(r"/u4\.parquet: cannot be written \(Is a directory\)"):
        library.write_unit("u4", rows(library), [])


def test_file_systems_that_sync_no_directories_are_written_to(tmp_path, monkeypatch):
    real = os.fsync

    def fsync(descriptor):
        if stat.S_ISDIR(os.fstat(descriptor).st_mode):
            raise OSError(errno.EINVAL, "Invalid argument")
        real(descriptor)

    monkeypatch.setattr(os, "fsync", fsync)
    write_atomically(tmp_path / "a", lambda file: file.write(b"x"))
    assert (tmp_path / "a").read_bytes() == b"x"


def test_files_are_synced_before_they_get_their_names_and_their_directory_after(tmp_path, monkeypatch):
    calls = []
    real_fsync, real_replace = os.fsync, Path.replace

    def fsync(descriptor):
        calls.append("sync directory" if stat.S_ISDIR(os.fstat(descriptor).st_mode) else "sync file")
        real_fsync(descriptor)

    def replace(self, target):
        calls.append("rename")
        return real_replace(self, target)

    monkeypatch.setattr(os, "fsync", fsync)
    monkeypatch.setattr(Path, "replace", replace)
    write_atomically(tmp_path / "a", lambda file: file.write(b"x"))
    assert calls == ["sync file", "rename", "sync directory"]


def test_a_unit_is_complete_only_once_its_failures_are_there(library, monkeypatch):
    real = Path.replace
    renamed = []

    def replace(self, target):
        renamed.append(target.parent.name)
        return real(self, target)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "replace", replace)
        library.write_unit("u4", rows(library, video("g.mp4")), [failure("h.mp4")])
    assert renamed == ["failures", "clips"]


@pytest.mark.parametrize("stored", ["float32", "float16"])
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_embeddings_that_are_not_finite_are_not_written(tmp_path, stored, value):
    made = Library.create(tmp_path / "lib", changed(stored=stored))
    clips = rows(made, video("a.mp4"), video("b.mp4"))
    numbers = clips["embedding"].to_pylist()
    numbers[1][3] = numbers[3][0] = value
    broken = clips.set_column(4, clips.schema.field(4), pa.array(numbers, clips.schema.field(4).type))
    with refused(r"/lib: the embedding of a\.mp4#t=2\.000,4\.000 and of 1 more is not finite; nothing of its unit"):
        made.write_unit("u1", broken, [failure("c.mp4")])
    assert files(made.path) == ["library.json"]


# Another encoder


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("weights_sha256", "f" * 64),
        ("pooling", "first-token"),
        ("norm", "fc_norm of the pooled token"),
        ("frames", 8),
        ("width", 16),
    ],
)
def test_embeddings_that_cannot_be_compared_are_refused_naming_both(library, key, value):
    other = changed({"checkpoint": "other/one", key: value})
    both = r"/lib was made with made/up \(0123456789ab, mean pooling\), this is other/one \(\w{12}, \S+ pooling\)"
    message = f"{both}: their {key} differ; embeddings of one cannot be compared with those of the other$"
    with refused(message, IdentityMismatch):
        library.check_comparable(other.encoder, other.preprocessing)
    with refused(message, IdentityMismatch):
        library.check_continuable(other)


def test_other_preprocessing_is_refused_naming_both(library):
    other = dataclasses.replace(CONFIG.preprocessing, crop=(24, 24))
    with refused(r"'crop': \[32, 32\].*, this is .*'crop': \[24, 24\]", IdentityMismatch):
        library.check_comparable(IDENTITY, other)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (
            changed(sampling=Sampling(stride=4)),
            "sampling '16 frames, 7.5 frames a second, .*', this run asks for '16 frames, stride 4",
        ),
        (changed(sampling=Sampling(hop_s=1)), "sampling .* this run asks for '.*a window every 1 s'"),
        (changed({"precision": "bfloat16"}), r"precision \(--dtype\) 'float32', this run asks for 'bfloat16'"),
        (changed(stored="float16"), r"stored type \(--store\) 'float32', this run asks for 'float16'"),
        (changed(classifier="0" * 64), r"labels \(--with-labels\) 'none', this run asks for 'of classifier 0{12}'"),
        (changed(tokens=1568), r"tokens \(--store tokens\) 'none', this run asks for '1,568 a clip'"),
        (changed(exact_pixels=True), r"pixels \(--exact-pixels, --fast-pixels\) 'fast', this run asks for 'exact'"),
    ],
)
def test_rows_of_another_kind_are_not_added_but_can_be_compared(library, config, message):
    with refused(message + ".*; give the same options, or another directory$", IdentityMismatch):
        library.check_continuable(config)
    library.check_comparable(config.encoder, config.preprocessing)


def test_libraries_from_before_there_was_a_choice_have_exact_pixels():
    read = LibraryConfig.from_json(_with(["exact_pixels"], ...))
    assert read.exact_pixels
    assert not LibraryConfig.from_json(CONFIG.to_json()).exact_pixels


def test_libraries_from_before_there_were_labels_have_none():
    assert LibraryConfig.from_json(_with(["classifier"], ...)).classifier is None


def test_libraries_from_before_there_were_tokens_have_none():
    assert LibraryConfig.from_json(_with(["tokens"], ...)).tokens is None
    assert LibraryConfig.from_json(changed(tokens=5).to_json()).tokens == 5


def test_what_makes_no_difference_is_not_refused(library):
    library.check_continuable(changed({"checkpoint": "a copy", "revision": "main"}, versions={"torch": "9"}))
    library.carry_columns({"n": "int64"})
    library.check_continuable(CONFIG)


# Damage


def shard(library, unit="u1"):
    return library.path / f"clips/{unit}.parquet"


def rewrite(library, change, unit="u1", folder="clips"):
    path = library.path / folder / f"{unit}.parquet"
    pq.write_table(change(pq.read_table(path)), path)


def replaced(name, values):
    """Exchange a column's values, from the first on."""

    def change(table):
        at = table.schema.get_field_index(name)
        column = table[name].to_pylist()
        column[: len(values)] = values
        return table.set_column(at, table.schema.field(name), pa.array(column, table.schema.field(name).type))

    return change


def test_a_whole_library_has_no_problems(library):
    assert verify(library) == []


@pytest.mark.parametrize("keep", [0, 1, 10, 0.5, 0.99])
def test_a_truncated_shard_is_reported_and_refused(library, keep):
    data = shard(library).read_bytes()
    shard(library).write_bytes(data[: keep if isinstance(keep, int) else int(keep * len(data))])
    (problem,) = verify(library)
    assert problem.startswith(f"{shard(library)}: cannot be read (")
    assert problem.endswith("); delete it and run extract or import again")
    for read in (library.table, library.held, library.embeddings, library.__len__, lambda: list(library.shards())):
        with refused(r"/clips/u1\.parquet: cannot be read \(.*\); delete it and run extract or import again$"):
            read()


@pytest.mark.parametrize("seed", range(2))
def test_a_flipped_bit_is_reported_or_changes_nothing_and_is_never_more_than_a_line(library, seed):
    library.carry_columns({"label": "string"})
    library.write_unit("u1", rows(library, video("a.mp4", label="cat"), video("b.mp4"), clips=10), [failure("c.mp4")])
    path, data, before = shard(library), shard(library).read_bytes(), library.table()
    picked = random.Random(seed)
    reported = 0
    for position in picked.sample(range(len(data)), 50):
        broken = bytearray(data)
        broken[position] ^= 1 << picked.randrange(8)
        path.write_bytes(broken)
        problems = verify(library)
        assert not [problem for problem in problems if "\n" in problem]
        assert problems or library.table().equals(before), position
        reported += bool(problems)
        for read in (library.table, library.held, library.embeddings, library.__len__):
            with contextlib.suppress(LibraryError):
                read()
    assert reported > 25


def test_a_damaged_shard_is_not_rewritten_as_if_it_were_whole(library):
    library.write_unit("u1", rows(library, video("a.mp4"), video("b.mp4"), clips=50), [])
    whole, before = shard(library).read_bytes(), library.embeddings()
    column = pq.read_metadata(shard(library)).row_group(0).column(4)
    assert column.path_in_schema.startswith("embedding.")
    end = column.data_page_offset + column.total_compressed_size
    for position in range(end - 200, end):
        data = bytearray(whole)
        data[position] ^= 1
        shard(library).write_bytes(data)
        with contextlib.suppress(LibraryError):
            if not np.array_equal(library.embeddings(), before):
                break  # some vector has another digit, and nothing but the checksum can tell
    else:
        pytest.fail("no such bit")
    (problem,) = verify(library)
    assert "cannot be read" in problem
    with refused(r"/clips/u1\.parquet: cannot be read"):
        library.remove_videos(["a.mp4"])
    assert shard(library).read_bytes() == data


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        (replaced("embedding", [[np.nan] * WIDTH, [np.inf] + [1.0] * 7]), "2 embeddings are not finite"),
        (replaced("embedding", [[0.0] * WIDTH]), "1 embeddings are all zero"),
        (replaced("embedding", [None]), "values are missing in embedding"),
        (replaced("embedding", [[None] + [1.0] * 7]), "1 embeddings are not finite"),
        (replaced("clip_id", ["a.mp4#t=0.000,2.001"]), "1 clip ids do not say what their rows say"),
        (replaced("start_s", [0.5]), "1 clip ids do not say what their rows say"),
        (replaced("clip_id", [None]), "values are missing in clip_id"),
        (replaced("start_s", [None, None]), "values are missing in start_s"),
        (replaced("video_id", [None]), "values are missing in video_id"),
        (lambda table: pa.concat_tables([table, table.slice(0, 1)]), "1 clip ids occur twice"),
        (lambda table: table.drop_columns("embedding"), r"column embedding is missing, not fixed_size_list<.*>\[8\]"),
        (lambda table: table.drop_columns("path"), "column path is missing, not string"),
        (lambda table: table.append_column("mood", [["?"] * 4]), "column 'mood' is not in library.json"),
        (lambda table: table.set_column(2, "start_s", pa.array([0, 2, 0, 2])), "column start_s is int64, not double"),
        (
            lambda table: table.set_column(4, "embedding", pa.array([[1.0]] * 4, pa.list_(pa.float32(), 1))),
            r"column embedding is fixed_size_list<.*>\[1\], not fixed_size_list<.*>\[8\]",
        ),
    ],
)
def test_damaged_rows_are_reported(library, change, problem):
    rewrite(library, change)
    with pytest.raises(AssertionError, match=f"^clips/u1.parquet: {problem}$"):
        raise AssertionError(*verify(library))


@pytest.mark.parametrize(
    "change",
    [
        lambda table: table.drop_columns("embedding"),
        lambda table: table.drop_columns("fingerprint"),
        lambda table: table.set_column(4, "embedding", pa.array([[1.0]] * 4, pa.list_(pa.float32(), 1))),
        lambda table: table.set_column(1, "video_id", pa.array([1, 2, 3, 4])),
    ],
)
def test_shards_of_another_kind_are_refused_in_a_line(library, change):
    rewrite(library, change)
    message = r"/clips/u1\.parquet: column \w+ is .*, not .*; delete it and run extract or import again$"
    with refused(message):
        library.table()
    with refused(message):
        library.embeddings(), library.held()


def test_clips_and_videos_in_two_shards_are_reported(library):
    library.write_unit("u4", rows(library, video("a.mp4"), clips=1), [])
    library.write_unit("u5", rows(library), [failure("d.mp4")])
    assert verify(library) == [
        "clips/u4.parquet: clip a.mp4#t=0.000,2.000 is in clips/u1.parquet too",
        "clips/u4.parquet: video a.mp4 is in clips/u1.parquet too",
        "clips/u5.parquet: video d.mp4 is in clips/u2.parquet too",
    ]


def test_damaged_failures_are_reported_and_refused(library):
    rewrite(library, lambda table: table.drop_columns("reason"), folder="failures")
    rewrite(library, replaced("video_id", [None]), unit="u3", folder="failures")
    assert verify(library) == [
        "failures/u1.parquet: column reason is missing, not string",
        "failures/u3.parquet: values are missing in video_id",
    ]
    with refused(
        r"/failures/u1\.parquet: column reason is missing, not string; delete it and run extract or import again$"
    ):
        library.failures()
    (library.path / "failures/u1.parquet").write_bytes(b"PAR1")
    assert len(verify(library)) == 2
    assert "failures/u1.parquet: cannot be read (" in verify(library)[0]
    for read in (library.failures, library.held):
        with refused(r"/failures/u1\.parquet: cannot be read \("):
            read()


def test_a_video_that_failed_and_has_clips_is_reported(library):
    rewrite(library, replaced("video_id", ["a.mp4"]), folder="failures")
    assert verify(library) == ["failures/u1.parquet: a.mp4 both failed and has clips"]


def test_strays_are_reported_where_they_lie(library):
    for name in ("clips/notes.txt", "clips/.DS_Store", "clips/._u1.parquet", "failures/u1.csv"):
        (library.path / name).write_text("mine")
    (library.path / "clips/.u9.parquet.tmp").touch()
    (library.path / "failures/u9.parquet").touch()
    assert verify(library) == [
        "clips/.DS_Store: no part of a library",
        "clips/._u1.parquet: no part of a library",
        "clips/.u9.parquet.tmp: left by a killed run; the next extract clears it",
        "clips/notes.txt: no part of a library",
        "failures/u1.csv: no part of a library",
        "failures/u9.parquet: its unit is not complete; the next extract clears it",
    ]
    assert len(library) == 6
    assert set(library.held()) == ALL


def test_damage_in_one_shard_hides_none_in_another(library):
    shard(library, "u1").write_bytes(b"")
    rewrite(library, replaced("embedding", [[0.0] * WIDTH]), unit="u2")
    first, second = verify(library)
    assert first.startswith(f"{shard(library)}: cannot be read (")
    assert second == "clips/u2.parquet: 1 embeddings are all zero"


def test_listed_paths_and_columns_reach_clips_that_are_held(library):
    library.carry_columns({"n": "int64", "x": "double"})
    library.write_unit("u1", rows(library, video("a.mp4", n=1, x=float("nan")), video("b.mp4", n=2)), [])
    embeddings, state = library.embeddings(), library.state()
    same = [video("a.mp4", n=1, x=float("nan")), video("b.mp4", n=2)]
    assert library.update_videos(same, ["n", "x"]) == 0
    assert library.update_videos([video("a.mp4")], []) == 0  # a folder says nothing of columns
    assert library.state() == state
    moved = dataclasses.replace(video("b.mp4", n=5), path="/elsewhere/b.mp4")
    changed_file = video("a.mp4", size=2, n=9)
    assert library.update_videos([changed_file, moved], ["n", "x"]) == 1
    held = {row["video_id"]: row for row in library.table(["video_id", "path", "n"]).to_pylist()}
    assert (held["b.mp4"]["n"], held["b.mp4"]["path"]) == (5, "/elsewhere/b.mp4")
    assert (held["a.mp4"]["n"], held["a.mp4"]["path"]) == (1, "/videos/a.mp4")
    assert np.array_equal(library.embeddings(), embeddings)
    assert library.state() != state
    assert verify(library) == []
