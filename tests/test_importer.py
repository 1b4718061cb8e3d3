"""Import: vectors made elsewhere become a library to the bit, or are refused in a line and leave nothing."""

from __future__ import annotations

import dataclasses
import json
import os
import pickle
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.libraries import PREPROCESSING, identity, make_library
from vmae_embed.cli import main
from vmae_embed.errors import IdentityMismatch, LibraryError, QueryError, UsageError, VmaeEmbedError
from vmae_embed.extractor import extract
from vmae_embed.importer import import_vectors, run
from vmae_embed.index import Index
from vmae_embed.library import Library, LibraryConfig, verify
from vmae_embed.query import search

COUNT, WIDTH = 100, 8
VECTORS = np.random.default_rng(0).normal(size=(COUNT, WIDTH)).astype(np.float32)
LISTS = list(VECTORS)


@pytest.fixture(autouse=True)
def _small_shards(monkeypatch, tmp_path):
    monkeypatch.setattr(run, "_MOST_ROWS", 30)
    monkeypatch.chdir(tmp_path)


def save(name, array):
    np.save(name, array)
    return name


def table(name, *, row_group_size=None, **columns):
    pq.write_table(pa.table(columns), name, row_group_size=row_group_size)
    return name


def embeddings(folder):
    """As they are stored."""
    library = Library.open(folder)
    return library.embeddings().astype(library.config.stored)


def refused(error, message, *arguments, **options):
    before = rows("lib") if Path("lib").exists() else None
    with pytest.raises(error, match=message) as caught:
        import_vectors("lib", *arguments, **options)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 500
    assert before == (rows("lib") if Path("lib").exists() else None)


def rows(folder):
    return Library.open(folder).table().to_pydict()


# Vectors


@pytest.mark.parametrize(
    ("array", "stored"),
    [
        (VECTORS, "float32"),
        (VECTORS.astype(np.float16), "float16"),
        (VECTORS.astype(np.float64), "float32"),
        (VECTORS.astype(">f4"), "float32"),
        (np.asfortranarray(VECTORS), "float32"),
        (VECTORS[:1], "float32"),
    ],
    ids=["float32", "float16", "float64", "big-endian", "fortran", "one"],
)
def test_an_array_becomes_a_library_to_the_bit(array, stored):
    done = import_vectors("lib", save("x.npy", array))
    library = Library.open("lib")
    assert (done.clips, done.held, library.config.stored, library.width) == (len(array), 0, stored, WIDTH)
    np.testing.assert_array_equal(embeddings("lib"), array.astype(stored))
    assert library.column("clip_id") == library.column("video_id") == [str(row) for row in range(len(array))]
    assert library.column("path") == library.column("fingerprint") == [""] * len(array)
    assert verify(library) == []


def test_a_type_can_be_chosen():
    import_vectors("lib", save("x.npy", VECTORS), stored="float16")
    np.testing.assert_array_equal(embeddings("lib"), VECTORS.astype(np.float16))


def test_files_of_a_folder_come_as_people_count():
    Path("img_emb").mkdir()
    for number in range(12):
        save(f"img_emb/img_emb_{number}.npy", VECTORS[number * 9 : number * 9 + 9])
    Path("img_emb/.hidden.npy").write_text("no array")
    Path("img_emb/_SUCCESS").write_text("")
    import_vectors("lib", "img_emb")
    np.testing.assert_array_equal(embeddings("lib"), VECTORS)


@pytest.mark.parametrize(
    "column",
    [
        pa.array(LISTS, pa.list_(pa.float32())),
        pa.array(LISTS, pa.large_list(pa.float32())),
        pa.array(LISTS, pa.list_(pa.float32(), WIDTH)),
        pa.array([v.astype(float) for v in LISTS], pa.list_(pa.float64())),
        pa.FixedShapeTensorArray.from_numpy_ndarray(VECTORS),
    ],
    ids=["list", "large list", "fixed-size list", "double", "tensor"],
)
@pytest.mark.parametrize("row_group_size", [7, None])
def test_a_column_of_vectors_becomes_a_library_to_the_bit(column, row_group_size):
    table("x.parquet", emb=column, label=list(range(COUNT)), row_group_size=row_group_size)
    import_vectors("lib", "x.parquet", column="emb")
    np.testing.assert_array_equal(embeddings("lib"), VECTORS)
    assert Library.open("lib").column("label") == list(range(COUNT))


def test_a_folder_of_parquet_files_whose_columns_vary():
    Path("parts").mkdir()
    table("parts/p2.parquet", embedding=LISTS[:45], n=list(range(45)))
    table("parts/p10.parquet", embedding=LISTS[45:], n=[0.5] * 55, more=["x"] * 55)
    import_vectors("lib", "parts")
    np.testing.assert_array_equal(embeddings("lib"), VECTORS)
    library = Library.open("lib")
    assert library.column("n") == [*map(float, range(45)), *[0.5] * 55]
    assert library.column("more") == [None] * 45 + ["x"] * 55


def _not_whole(name):
    data = Path(save("whole.npy", VECTORS)).read_bytes()
    Path(name).write_bytes(data[:1000])
    return name


def _text(name):
    Path(name).write_text("hello")
    return name


def _pickled(name):
    Path(name).write_bytes(pickle.dumps(VECTORS))
    return name


def _folder(name, **arrays):
    Path(name).mkdir()
    for file, array in arrays.items():
        np.save(f"{name}/{file}.npy", array)
    return name


def _both(name):
    table(f"{_folder(name, a=VECTORS)}/b.parquet", x=[1])
    return name


def _changed(*places, value=np.nan, dtype=np.float32):
    array = VECTORS.astype(dtype)
    for row, column in places:
        array[row, column] = value
    return array


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: save("x.npy", VECTORS[0]), r"x\.npy: float32 of shape \(8,\); give float16, .* of shape \(N, D\)$"),
        (lambda: save("x.npy", VECTORS[None]), r"float32 of shape \(1, 100, 8\)"),
        (lambda: save("x.npy", VECTORS.astype(int)), r"int64 of shape \(100, 8\)"),
        (lambda: save("x.npy", VECTORS.astype(np.longdouble)), r"of shape \(100, 8\); give float16"),
        (lambda: save("x.npy", VECTORS.astype(complex)), r"complex128 of shape"),
        (lambda: save("x.npy", np.array([["a", None]], object)), r"no \.npy file of numbers \(objects, a pickle"),
        (lambda: save("x.npy", VECTORS[:0]), r"x\.npy: holds no vectors \(0 rows of width 8\)"),
        (lambda: save("x.npy", VECTORS[:, :0]), r"holds no vectors \(100 rows of width 0\)"),
        (lambda: save("x.npy", _changed((17, 3))), r"^x\.npy: row 17, counted from 0, is not finite"),
        (lambda: save("x.npy", _changed((17, 3), (40, 0), (99, 7), value=np.inf)), r"3 vectors, the first in row 17,"),
        (lambda: save("x.npy", _changed((9, 0), value=1e300, dtype=float)), r"row 9, .* is beyond float32; mend or"),
        (lambda: _pickled("x.npy"), r"x\.npy: no \.npy file of numbers \(objects, a pickle"),
        (lambda: _text("x.npy"), r"x\.npy: no \.npy file of numbers"),
        (lambda: _not_whole("x.npy"), r"x\.npy: cannot be read \(.*\); is it whole\?$"),
        (lambda: "missing.npy", r"missing\.npy: no such file or folder$"),
        (lambda: _text("x.bin"), r"x\.bin: no vectors; give a \.npy or \.parquet file, or a folder of them"),
        (lambda: "", r"embeddings='': give a file or folder"),
        (lambda: _folder("dir"), r"dir: holds no \.npy or \.parquet files; give the folder that they lie in"),
        (lambda: _folder("dir", a=VECTORS, b=VECTORS[:, :4]), r"dir/b\.npy: vectors of width 4, but a\.npy has 8$"),
        (lambda: _both("dir"), r"dir: holds both \.npy and \.parquet files; give the \.npy files after --embeddings"),
        (lambda: _text("x.parquet"), r"x\.parquet: cannot be read \(.*\); is it whole\?"),
        (lambda: table("x.parquet", e=LISTS, n=[1] * 100), "no column 'embedding'; name one with --column: e$"),
        (lambda: table("x.parquet", n=[1]), "no column 'embedding'; nor any of lists$"),
        (lambda: table("x.parquet", embedding=[[1, 2]]), r"'embedding' is list<.*int64>; give one of lists of float16"),
        (lambda: table("x.parquet", embedding=[1.0]), "'embedding' is double; give one of lists"),
        (lambda: table("x.parquet", embedding=[[[1.0]]]), "'embedding' is list<.*list<.*>>; give one of lists"),
        (lambda: table("x.parquet", embedding=[*LISTS[:50], None]), "row 50 of column 'embedding' is null; fill it"),
        (lambda: table("x.parquet", embedding=[None, *LISTS]), "row 0 of column 'embedding' is null"),
        (lambda: table("x.parquet", embedding=[[1.0, 2.0], [None, 1.0]]), "row 1 of column 'embedding' holds nulls"),
        (lambda: table("x.parquet", embedding=[*LISTS[:40], [1.0]]), "row 40 .* has 1 numbers, row 0 has 8"),
        (lambda: table("x.parquet", embedding=pa.array([], pa.list_(pa.float32()))), "holds no vectors"),
        (lambda: table("x.parquet", embedding=list(_changed((17, 0)))), "row 17, counted from 0, is not finite"),
    ],
)
def test_what_are_no_vectors_is_refused_and_leaves_nothing(make, message):
    refused(UsageError, message, make())
    assert not Path("lib").exists()


def test_an_archive_is_refused():
    np.savez("x.npz", VECTORS)
    os.rename("x.npz", "x.npy")
    refused(UsageError, r"x\.npy: an archive of arrays; save one array with np\.save$", "x.npy")


def test_two_columns_of_one_name_are_refused():
    pq.write_table(pa.Table.from_arrays([pa.array(LISTS)] * 2, names=["embedding", "embedding"]), "x.parquet")
    refused(UsageError, r"x\.parquet: two columns are named 'embedding'; rename one$", "x.parquet")


def test_numbers_that_the_stored_type_cannot_hold_are_refused():
    save("x.npy", _changed((9, 0), (11, 0), value=1e6))
    refused(UsageError, r"2 vectors, .* row 9, .* are beyond float16; give --store float32$", "x.npy", stored="float16")


def test_damage_that_checksums_show_is_refused():
    pq.write_table(pa.table({"embedding": LISTS}), "x.parquet", write_page_checksum=True, compression="none")
    data = bytearray(Path("x.parquet").read_bytes())
    data[200:208] = bytes(8)
    Path("x.parquet").write_bytes(data)
    refused(UsageError, r"x\.parquet: cannot be read \(.*checksum.*\); is it whole\?$", "x.parquet")


def test_vectors_of_length_zero_are_taken_and_counted():
    done = import_vectors("lib", save("x.npy", np.vstack([VECTORS, np.zeros((2, WIDTH), np.float32)])))
    assert done.zeros == 2
    assert verify(done.library) == []


# Columns


def described(**columns):
    save("x.npy", VECTORS)
    return table("m.parquet", **columns)


NUMBERS = range(COUNT)
NAMES = [f"v{row // 10}.mp4" for row in NUMBERS]
TIMES = {"start_s": [row % 10 for row in NUMBERS], "end_s": [row % 10 + 1.5 for row in NUMBERS]}


@pytest.mark.parametrize(
    ("columns", "id_column", "first"),
    [
        ({"clip_id": [f"c{row}" for row in NUMBERS]}, None, "c0"),
        ({"clip_id": list(NUMBERS)}, None, "0"),
        ({"clip_id": ["same"] * COUNT, "key": [f"k{row}" for row in NUMBERS]}, "key", "k0"),
        ({"key": pa.array([f"k{row}" for row in NUMBERS]).dictionary_encode()}, "key", "k0"),
        ({"video_id": NAMES, **TIMES}, None, "v0.mp4#t=0.000,1.500"),
        ({"path": [f"/d/{name}" for name in NAMES], **TIMES}, None, "/d/v0.mp4#t=0.000,1.500"),
        ({"video_id": NAMES}, None, "0"),
        (TIMES, None, "0"),
    ],
)
def test_ids(columns, id_column, first):
    import_vectors("lib", "x.npy", metadata=described(**columns), id_column=id_column)
    library = Library.open("lib")
    ids = library.column("clip_id")
    assert ids[0] == first
    assert len(set(ids)) == COUNT
    assert library.column("video_id") == columns.get("video_id", columns.get("path", ids))
    if "start_s" in columns:
        assert (library.column("start_s")[13], library.column("end_s")[13]) == (3.0, 4.5)
    assert verify(library) == []


def test_columns_are_a_librarys_own_or_carried_or_left_out_and_named():
    metadata = described(
        fps=[25] * COUNT,
        width=pa.array([640] * COUNT, pa.int16()),
        height=[480.5] * COUNT,
        codec=["h264"] * COUNT,
        flag=[True, None] * 50,
        whole=pa.array([7] * COUNT, pa.uint8()),
        real=pa.array([0.5] * COUNT, pa.float32()),
        text=pa.array(["ü", None] * 50, pa.large_string()),
        kind=pa.array(["a", "b"] * 50).dictionary_encode(),
        tags=[[1]] * COUNT,
        thing=[{"a": 1}] * COUNT,
        huge=pa.array([2**63] * COUNT, pa.uint64()),
        score=[0.5] * COUNT,
        embedding=LISTS,
    )
    done = import_vectors("lib", "x.npy", metadata=metadata)
    library = Library.open("lib")
    assert library.config.columns == {
        "flag": "bool",
        "whole": "int64",
        "real": "double",
        "text": "string",
        "kind": "string",
    }
    row = library.table().slice(0, 1).drop_columns("embedding").to_pylist()[0]
    assert row == {
        "clip_id": "0",
        "video_id": "0",
        "start_s": 0.0,
        "end_s": 0.0,
        "path": "",
        "fps": 25.0,
        "duration_s": None,
        "width": 640,
        "height": None,
        "codec": "h264",
        "fingerprint": "",
        "flag": True,
        "whole": 7,
        "real": 0.5,
        "text": "ü",
        "kind": "a",
    }
    assert set(done.left_out) == {"height", "tags", "thing", "huge", "score", "embedding"}
    assert done.left_out["height"] == "double, not int64"
    assert done.left_out["score"] == "every hit has one of its own"


def test_ids_in_csv_stay_as_they_are_written():
    save("x.npy", VECTORS)
    Path("m.csv").write_text("key,n\n" + "".join(f"{row:03},{row}\n" for row in NUMBERS))
    import_vectors("lib", "x.npy", metadata="m.csv", id_column="key")
    assert Library.open("lib").column("clip_id")[:2] == ["000", "001"]
    assert Library.open("lib").config.columns == {"n": "int64"}


def test_a_folder_of_tables_is_cut_otherwise_than_the_vectors():
    _folder("img_emb", **{f"img_emb_{number}": VECTORS[number * 9 : number * 9 + 9] for number in range(12)})
    Path("metadata").mkdir()
    for number, start in enumerate(range(0, COUNT, 8)):
        stop = min(start + 8, COUNT)
        table(f"metadata/metadata_{number}.parquet", caption=[f"c{row}" for row in range(start, stop)])
    import_vectors("lib", "img_emb", metadata="metadata")
    assert Library.open("lib").column("caption") == [f"c{row}" for row in NUMBERS]
    np.testing.assert_array_equal(embeddings("lib"), VECTORS)


_NOT_UTF8 = pa.array([b"\xff"] * COUNT).view(pa.string())


@pytest.mark.parametrize(
    ("columns", "options", "message"),
    [
        ({"label": ["a"] * 99}, {}, r"^m\.parquet has 99 rows, x\.npy 100 vectors; row i must be of vector i$"),
        ({"clip_id": ["same"] * COUNT}, {}, "clip id 'same' occurs twice; name unique ones with --id-column$"),
        ({"clip_id": ["a", "b"] * 50}, {}, "clip id 'a' occurs twice"),
        ({"clip_id": [*map(str, range(99)), None]}, {}, "row 99, counted from 0: its clip_id is missing"),
        ({"clip_id": ["", *map(str, range(99))]}, {}, "row 0, counted from 0: its clip_id is missing"),
        ({"clip_id": [row / 2 for row in NUMBERS]}, {}, "'clip_id' is double; clip ids are text or whole numbers$"),
        ({"key": LISTS}, {"id_column": "key"}, "'key' is list<.*>; clip ids are text or whole numbers"),
        ({"a": [1] * COUNT, "b": [1] * COUNT}, {"id_column": "c"}, "--id-column 'c': no such column; there are a, b$"),
        ({"video_id": ["v"] * 99 + [None]}, {}, "row 99, counted from 0: its video_id is missing"),
        ({"path": [None] + ["p"] * 99}, {}, "row 0, counted from 0: its path is missing"),
        ({"video_id": ["v"] * COUNT, "start_s": [0] * COUNT, "end_s": [1] * COUNT}, {}, "'v#t=0.000,1.000' occurs twi"),
        ({"start_s": [0.0] * COUNT}, {}, "give both start_s and end_s, or neither$"),
        ({"start_s": ["0"] * COUNT, "end_s": ["1"] * COUNT}, {}, "'start_s' is string, not double or int64$"),
        ({"start_s": [0.0] * COUNT, "end_s": [1.0] * 98 + [None] * 2}, {}, "row 98, .*: its end_s is missing or not"),
        ({"start_s": [2.0] * COUNT, "end_s": [1.0] * COUNT}, {}, "row 0, counted from 0: its end_s is before start_s"),
        ({"width": [2**40] * COUNT}, {}, r"column 'width' cannot be int32 \(.*not in range.*\); mend it, or drop it$"),
        ({"note": _NOT_UTF8}, {}, r"column 'note' cannot be string \(.*UTF8.*\)"),
        ({}, {"column": "embedding"}, r"--column 'embedding': \.npy files have no columns; leave it out$"),
        ({}, {"stored": "int8"}, "stored='int8': choose one of float32, float16$"),
        ({}, {"name": " "}, "name=' ': say in a word what made the vectors"),
        ({}, {"name": "a\nb"}, r"name='a\\nb': say in a word"),
    ],
)
def test_tables_that_do_not_fit_are_refused_and_leave_nothing(columns, options, message):
    described(**columns)
    refused(UsageError, message, "x.npy", metadata="m.parquet" if columns else None, **options)
    assert not Path("lib").exists()


@pytest.mark.parametrize(
    ("metadata", "message"),
    [
        ("missing.csv", r"missing\.csv: no such file$"),
        ("missing.parquet", r"missing\.parquet: no such file or folder$"),
        ("m.json", r"m\.json: no table; give a \.csv, \.tsv, \.parquet file, or a folder of \.parquet files$"),
        ("empty", r"empty: holds no \.parquet files"),
        ("", "metadata='': give a file or folder$"),
    ],
)
def test_tables_that_are_none_are_refused(metadata, message):
    Path("empty").mkdir()
    refused(UsageError, message, save("x.npy", VECTORS), metadata=metadata)


def test_an_id_column_needs_a_table():
    refused(UsageError, "no such column; there are none: give --metadata$", save("x.npy", VECTORS), id_column="key")


def test_a_column_in_two_tables_is_refused():
    described(label=["a"] * COUNT)
    table("e.parquet", embedding=LISTS, label=["a"] * COUNT)
    message = r"^e\.parquet and m\.parquet: both have a column 'label'; drop one$"
    refused(UsageError, message, "e.parquet", metadata="m.parquet")


# Again, and more


def test_a_second_time_adds_nothing():
    described(key=[f"k{row}" for row in NUMBERS])
    import_vectors("lib", "x.npy", metadata="m.parquet", id_column="key")
    before = {path: path.stat().st_mtime_ns for path in Path("lib").rglob("*")}
    done = import_vectors("lib", "x.npy", metadata="m.parquet", id_column="key")
    assert (done.clips, done.held) == (0, COUNT)
    assert {path: path.stat().st_mtime_ns for path in Path("lib").rglob("*")} == before


@pytest.mark.parametrize("survives", [0, 1, 3])
def test_what_was_interrupted_is_completed(monkeypatch, survives):
    described(label=[f"l{row}" for row in NUMBERS])
    import_vectors("undisturbed", "x.npy", metadata="m.parquet")
    real = Library.write_unit
    left = iter(range(survives))

    def write_unit(self, *arguments):
        if next(left, None) is None:
            raise KeyboardInterrupt
        real(self, *arguments)

    with monkeypatch.context() as patch:
        patch.setattr(Library, "write_unit", write_unit)
        with pytest.raises(KeyboardInterrupt):
            import_vectors("lib", "x.npy", metadata="m.parquet")
    assert len(Library.open("lib").units()) == survives
    assert Library.open("lib").config.runs[-1]["ended"] == "interrupted"
    done = import_vectors("lib", "x.npy", metadata="m.parquet")
    assert done.held == 30 * survives
    assert rows("lib") == rows("undisturbed")
    assert Library.open("lib").units() == Library.open("undisturbed").units()


KILLED = """
import os, signal, sys
from vmae_embed.importer import import_vectors, run

run._MOST_ROWS = 30
steps = iter(range(int(sys.argv[1])))

def hook(event, arguments):
    if event in ("open", "os.rename", "os.mkdir") and "lib/" in str(arguments[0]) and next(steps, None) is None:
        os.kill(os.getpid(), signal.SIGKILL)

sys.addaudithook(hook)
import_vectors("lib", "x.npy")
"""


@pytest.mark.parametrize("step", [3, 6, 9, 12, 15])
def test_what_was_killed_is_completed(step):
    save("x.npy", VECTORS)
    import_vectors("undisturbed", "x.npy")
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])}
    ended = subprocess.run([sys.executable, "-c", KILLED, str(step)], env=environment, check=False)
    assert ended.returncode == -signal.SIGKILL
    import_vectors("lib", "x.npy")
    assert rows("lib") == rows("undisturbed")
    assert verify(Library.open("lib")) == []


def test_a_folder_that_has_grown_gives_what_is_new():
    _folder("img_emb", img_emb_1=VECTORS[:40], img_emb_2=VECTORS[40:60])
    import_vectors("lib", "img_emb")
    np.save("img_emb/img_emb_10.npy", VECTORS[60:])
    done = import_vectors("lib", "img_emb")
    assert (done.clips, done.held) == (40, 60)
    np.testing.assert_array_equal(embeddings("lib"), VECTORS)


def test_other_vectors_are_added_with_columns_of_their_own():
    import_vectors("lib", save("x.npy", VECTORS))
    table("y.parquet", embedding=[v + 1 for v in LISTS], clip_id=[f"y{row}" for row in NUMBERS], label=["a"] * COUNT)
    assert import_vectors("lib", "y.parquet").clips == COUNT
    library = Library.open("lib")
    assert len(library) == 2 * COUNT
    assert sorted(set(map(str, library.column("label")))) == ["None", "a"]
    assert verify(library) == []


def test_ids_that_the_library_holds_are_refused():
    described(clip_id=[f"c{row}" for row in NUMBERS])
    import_vectors("lib", "x.npy", metadata="m.parquet")
    save("x.npy", VECTORS + 1)
    os.utime("x.npy", ns=(1, 1))
    refused(
        LibraryError, "lib: holds a clip 'c0' already, from vectors that have changed", "x.npy", metadata="m.parquet"
    )


@pytest.mark.parametrize(
    ("array", "options", "error", "message"),
    [
        (VECTORS[:, :4], {}, IdentityMismatch, "lib holds vectors of width 8, these are 4; give another directory$"),
        (VECTORS, {"name": "b"}, IdentityMismatch, r"lib holds vectors named \(--name\) a, these are b; give another"),
        (VECTORS, {"stored": "float16"}, IdentityMismatch, r"stored type \(--store\) 'float32', this run asks for"),
    ],
)
def test_vectors_of_another_kind_are_refused(array, options, error, message):
    import_vectors("lib", save("x.npy", VECTORS), name="a")
    refused(error, message, save("y.npy", array), **options)


def test_a_column_of_another_type_is_refused():
    table("a.parquet", embedding=LISTS, clip_id=[f"a{row}" for row in NUMBERS], label=["x"] * COUNT)
    table("b.parquet", embedding=LISTS, clip_id=[f"b{row}" for row in NUMBERS], label=[1] * COUNT)
    import_vectors("lib", "a.parquet")
    refused(UsageError, "column 'label' is int64, but this library carries it as string$", "b.parquet")


def test_an_extracted_library_is_refused():
    make_library(Path("lib"), VECTORS)
    refused(IdentityMismatch, "^lib was extracted with made-up .*: vectors made elsewhere", save("x.npy", VECTORS))


def test_other_peoples_directories_are_refused():
    save("x.npy", VECTORS)
    Path("theirs").mkdir()
    Path("theirs/thesis.txt").write_text("mine")
    for place, message in {"theirs": "not a library, and not empty", "x.npy": "a file, not a directory"}.items():
        with pytest.raises(LibraryError, match=message):
            import_vectors(place, "x.npy")
    assert os.listdir("theirs") == ["thesis.txt"]


# What an imported library is


def test_library_json_says_nothing_that_nobody_knows():
    import_vectors("lib", save("x.npy", VECTORS), name="clip-b32")
    fields = json.loads(Path("lib/library.json").read_text())
    encoder = fields["encoder"]
    assert (fields["sampling"], fields["preprocessing"]) == (None, None)
    assert (encoder["imported"], encoder["checkpoint"], encoder["width"]) == (True, "clip-b32", WIDTH)
    assert {encoder[name] for name in ("revision", "pooling", "norm", "frames", "precision")} == {None}
    config = Library.open("lib").config
    assert LibraryConfig.from_json(config.to_json()) == config
    with pytest.raises(ValueError, match="imported vectors, and yet a sampling"):
        LibraryConfig.from_json(json.dumps({**fields, "sampling": {}}).encode())


def test_it_is_searched_by_id_and_by_vector():
    described(clip_id=[f"c{row}" for row in NUMBERS], label=list(NUMBERS))
    import_vectors("lib", "x.npy", metadata="m.parquet")
    index = Index.open(Library.open("lib"))
    unit = VECTORS / np.linalg.norm(VECTORS, axis=1, keepdims=True)
    nearest = np.argsort(-(unit @ unit[17]))
    hits = search(index, "c17", k=5, include_self=True)
    assert [hit.columns["label"] for hit in hits] == nearest[:5].tolist()
    assert hits[0].score == pytest.approx(1)
    assert [hit.clip_id for hit in search(index, VECTORS[17], k=5)] == [f"c{row}" for row in nearest[:5]]


def test_what_needs_its_encoder_is_refused(tmp_path):
    import_vectors("lib", save("x.npy", VECTORS))
    library = Library.open("lib")
    with pytest.raises(LibraryError, match="lib was imported: nobody here knows what made its vectors; extract into"):
        extract(tmp_path, "lib")
    with pytest.raises(IdentityMismatch, match=r"lib was imported: .*; search it by a clip id or a \.npy file"):
        library.check_comparable(identity(WIDTH), PREPROCESSING)
    Path("video.mp4").write_text("no video")
    with pytest.raises(QueryError, match="its vectors were imported: search for one of its ids"):
        search(Index.open(library), "video.mp4")


def test_verify_still_finds_what_is_wrong():
    import_vectors("lib", save("x.npy", VECTORS))
    first, second = sorted(Path("lib/clips").iterdir())[:2]
    damaged = pq.read_table(first)
    second.write_bytes(first.read_bytes())
    (problem, *_) = verify(Library.open("lib"))
    assert "clip 0 is in clips/" in problem
    data = bytearray(first.read_bytes())
    data[400:420] = bytes(20)
    first.write_bytes(data)
    assert any("cannot be read" in problem for problem in verify(Library.open("lib")))
    broken = damaged.set_column(
        4, damaged.schema.field(4), pa.array([[np.nan] * WIDTH] * len(damaged), pa.list_(pa.float32(), WIDTH))
    )
    pq.write_table(broken, first)
    assert any("30 embeddings are not finite" in problem for problem in verify(Library.open("lib")))


def test_an_old_library_is_read_as_before(tmp_path):
    library = make_library(tmp_path / "old", VECTORS)
    assert not library.config.imported
    nothing = dataclasses.replace(library.config, sampling=None)
    with pytest.raises(TypeError, match="NoneType"):
        LibraryConfig.from_json(nothing.to_json())


# The command line


def cli(capsys, *arguments):
    with pytest.raises(SystemExit) as stop:
        main([str(argument) for argument in arguments])
    captured = capsys.readouterr()
    return stop.value.code, captured.out, captured.err


def test_import_on_the_command_line(capsys):
    described(key=[f"k{row}" for row in NUMBERS], tags=[[1]] * COUNT)
    command = ("import", "lib", "--embeddings", "x.npy", "--metadata", "m.parquet", "--id-column", "key")
    code, out, err = cli(capsys, *command)
    assert (code, out) == (0, "")
    first, second = err.splitlines()
    assert first.startswith("lib: 100 clips added in ")
    assert first.endswith(" clips/s; 0 clips already there")
    assert second.startswith("columns left out: tags (list<")
    code, _, err = cli(capsys, *command)
    assert code == 0
    assert err.splitlines()[0].endswith(" s; 100 clips already there")
    code, out, _ = cli(capsys, "info", "lib")
    assert code == 0
    assert [line.split()[-1] for line in out.splitlines() if line.startswith(("sampling", "pooling", "pixels"))] == [
        "-"
    ] * 3
    assert "done; 100 clips imported from x.npy in " in out
    assert cli(capsys, "verify", "lib")[0] == 0
    code, out, _ = cli(capsys, "search", "lib", "k3", "--format", "jsonl", "-k", 2)
    assert (code, len(out.splitlines())) == (0, 2)


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (["import", "lib"], 2),
        (["import", "lib", "--embeddings", "missing.npy"], 2),
        (["import", "lib", "--embeddings", "x.npy", "--store", "int8"], 2),
        (["import", "x.npy", "--embeddings", "x.npy"], 1),
    ],
)
def test_wrong_commands_get_one_line(capsys, arguments, code):
    save("x.npy", VECTORS)
    found, out, err = cli(capsys, *arguments)
    assert (found, out, len(err.splitlines())) == (code, "", 1)
    assert err.startswith("error: ")


def test_ctrl_c_says_how_to_go_on(capsys, monkeypatch):
    def interrupt(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(Library, "write_unit", interrupt)
    code, _, err = cli(capsys, "import", "lib", "--embeddings", save("x.npy", VECTORS))
    assert (code, err) == (130, "interrupted; what is complete is kept in lib: run the same command again to go on\n")


def test_every_error_is_ours():
    with pytest.raises(VmaeEmbedError, match="no such file or folder"):
        import_vectors("lib", "missing.npy")
