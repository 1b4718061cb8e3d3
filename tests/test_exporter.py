"""Export: what other tools take, equal to the library to the bit, whole or not there, and in nobody's way."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import faiss
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.libraries import clustered, make_library
from vmae_embed.cli import main
from vmae_embed.errors import LibraryError, UsageError, VmaeEmbedError
from vmae_embed.exporter import export, rows
from vmae_embed.importer import import_vectors
from vmae_embed.index import Index, IndexSpec
from vmae_embed.library import Library

COUNT, WIDTH = 900, 16
VECTORS = clustered(COUNT, WIDTH)


@pytest.fixture(autouse=True)
def _here(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def library():
    return make_library(Path("lib"), VECTORS)


@pytest.fixture
def carrying():
    """A library with float16, columns of every type, nulls among them, and shards that lack a column."""
    half = COUNT // 2
    first = {
        "embedding": list(VECTORS[:half]),
        "clip_id": [f"a{row}" for row in range(half)],
        "text": ["ü", None] * (half // 2),
        "whole": list(range(half)),
        "real": [0.5] * half,
        "flag": [True, None] * (half // 2),
        "width": [640] * half,
    }
    pq.write_table(pa.table(first), "first.parquet")
    import_vectors("lib", "first.parquet", stored="float16")
    second = {"embedding": list(VECTORS[half:]), "clip_id": [f"b{row}" for row in range(half)], "more": ["x"] * half}
    pq.write_table(pa.table(second), "second.parquet")
    import_vectors("lib", "second.parquet")
    return Library.open("lib")


def visible():
    return sorted(name for name in os.listdir() if name not in ("lib", "first.parquet", "second.parquet"))


# Round trips


@pytest.mark.parametrize("group", [7, 10**6])
@pytest.mark.parametrize("kind", ["npy", "parquet", "parts"])
def test_what_is_exported_comes_back_to_the_bit(carrying, monkeypatch, kind, group):
    monkeypatch.setattr(rows, "_GROUP_ROWS", group)
    if kind == "npy":
        done = export(carrying, "out", "npy")
        array = np.load("out/embeddings.npy", mmap_mode="r")
        assert (array.dtype, array.shape) == (np.float16, (COUNT, WIDTH))
        metadata = pq.read_table("out/metadata.parquet")
        assert metadata.column_names == [name for name in carrying.schema.names if name != "embedding"]
        import_vectors("again", "out/embeddings.npy", metadata="out/metadata.parquet")
    else:
        monkeypatch.setattr(rows, "_PART_ROWS", 500)
        name = "out.parquet" if kind == "parquet" else "out"
        done = export(carrying, name, "parquet")
        import_vectors("again", name)
        if kind == "parts":
            assert len(os.listdir("out")) == (2 if group == 7 else 1)
    again = Library.open("again")
    assert done.clips == COUNT
    assert again.config.columns == carrying.config.columns
    assert again.config.stored == "float16"
    assert again.table().sort_by("clip_id").equals(carrying.table().sort_by("clip_id"))


def test_an_extracted_library_comes_back(library):
    export(library, "out.parquet", "parquet")
    import_vectors("again", "out.parquet")
    assert Library.open("again").table().equals(library.table())


def test_parquet_is_what_pandas_and_arrow_read(library):
    export(library, "out.parquet", "parquet")
    file = pq.ParquetFile("out.parquet")
    assert file.schema_arrow.field("embedding").type == pa.list_(pa.float32(), WIDTH)
    assert file.metadata.num_row_groups == 1
    frame = pd.read_parquet("out.parquet")
    np.testing.assert_array_equal(np.stack(frame["embedding"].tolist()), VECTORS)
    assert frame["clip_id"].tolist() == library.column("clip_id")


# FAISS


def searched(index, queries, k):
    unit = queries / np.linalg.norm(queries, axis=1, keepdims=True)
    return index.search(np.ascontiguousarray(unit, dtype=np.float32), k)


def test_an_exact_index_finds_by_faiss_alone_what_the_library_finds(library):
    done = export(library, "out", "faiss")
    alone, clips = faiss.read_index("out/index.faiss"), pd.read_parquet("out/clips.parquet").set_index("id")
    scores, ids = searched(alone, VECTORS[:20], 5)
    ours, found = Index.open(library).search(VECTORS[:20], 5)
    np.testing.assert_array_equal(ids, found)
    np.testing.assert_allclose(scores, ours, atol=1e-5)
    assert (done.clips, alone.ntotal) == (COUNT, COUNT)
    assert clips.loc[ids[7, 0], "clip_id"] == library.column("clip_id")[7]


@pytest.mark.parametrize("factory", ["exact", "IVF8,Flat", "IVF8,PQ4x4fsr"])
@pytest.mark.parametrize("metric", ["cosine", "l2", "ip"])
def test_ids_hold_where_clips_are_gone(factory, metric):
    library = make_library(Path("lib"), clustered(6400, WIDTH))
    Index.build(library, IndexSpec(factory=factory, metric=metric))
    gone = sorted({clip.split("#")[0] for clip in library.column("clip_id")})[3:40:5]
    with library.lock():
        library.remove_videos(gone)
    Index.update(library)
    index = Index.open(library)
    assert len(index.live) < index.clips.num_rows
    export(library, "out", "faiss")
    alone, clips = faiss.read_index("out/index.faiss"), pd.read_parquet("out/clips.parquet").set_index("id")
    assert alone.ntotal == len(clips) == len(index)
    assert clips.index.tolist() == index.live.tolist()
    assert not set(clips["video_id"]) & set(gone)
    queries = index.vectors(index.live[:50])
    _, ids = alone.search(queries, 1 if factory == "exact" else 50)
    assert set(ids.ravel().tolist()) - {-1} <= set(clips.index)
    if metric != "ip":
        near = [row in found for row, found in zip(index.live[:50], ids, strict=True)]
        assert np.mean(near) > (0.6 if "PQ" in factory else 0.99)
    names = index.clips["clip_id"]
    assert clips["clip_id"].tolist() == [names[int(row)].as_py() for row in index.live]


def test_faiss_alone_visits_as_many_cells_as_were_measured(library):
    index = Index.build(library, IndexSpec(factory="IVF16,SQ8"))
    assert index.effort is not None
    export(library, "out", "faiss")
    assert faiss.read_index("out/index.faiss").nprobe == index.effort.nprobe
    assert f"nprobe {index.effort.nprobe} is set" in Path("out/README.txt").read_text()
    _, ids = searched(faiss.read_index("out/index.faiss"), VECTORS[:100], 1)
    _, found = index.search(VECTORS[:100], 1)
    assert np.mean(ids == found) > 0.95


@pytest.mark.parametrize("metric", ["cosine", "l2"])
def test_the_readme_searches(library, metric, monkeypatch, capsys):
    Index.build(library, IndexSpec(metric=metric))
    export(library, "out", "faiss")
    name = library.column("clip_id")[5]
    monkeypatch.chdir("out")
    np.save("queries.npy", VECTORS[5:6])
    text = Path("README.txt").read_text()
    exec(text[text.index("import faiss") :], {})
    assert name in capsys.readouterr().out.splitlines()[1]


def test_a_library_that_is_being_written_to_is_exported(library):
    with library.lock():
        assert export(library, "out", "faiss").clips == COUNT
        assert export(library, "npy", "npy").clips == COUNT


# Lance


def test_lance_that_is_not_there_is_named(library, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(UsageError, match=r"Lance is not installed: run `pip install 'vmae-embed\[lance\]'`, or export"):
        export(library, "out", "lance")
    assert visible() == []


def test_lance_reads_it_back(library):
    lance = pytest.importorskip("lance")
    export(library, "out.lance", "lance")
    assert lance.dataset("out.lance").to_table().equals(library.table())
    export(library, "out.lance", "lance", overwrite=True)
    assert lance.dataset("out.lance").count_rows() == COUNT


# Where it goes


@pytest.mark.parametrize("kind", ["npy", "parquet", "faiss"])
def test_nothing_is_replaced_unless_told(library, kind):
    export(library, "out", kind)
    before = {path: path.read_bytes() for path in Path("out").iterdir()}
    with pytest.raises(UsageError, match=r"^out: exists; give another name, or --overwrite$"):
        export(library, "out", kind)
    assert {path: path.read_bytes() for path in Path("out").iterdir()} == before
    export(library, "out", "npy", overwrite=True)
    assert sorted(os.listdir("out")) == ["embeddings.npy", "metadata.parquet"]
    assert visible() == ["out"]


def test_a_file_is_replaced_when_told(library):
    Path("out.parquet").write_text("mine")
    with pytest.raises(UsageError, match="exists; give another name, or --overwrite"):
        export(library, "out.parquet", "parquet")
    export(library, "out.parquet", "parquet", overwrite=True)
    assert pq.read_metadata("out.parquet").num_rows == COUNT


def _file(name):
    Path(name).parent.mkdir(exist_ok=True, parents=True)
    Path(name).write_text("mine")


@pytest.mark.parametrize(
    ("prepare", "out", "kind", "message"),
    [
        (lambda: None, "lib", "npy", "lib: is the library, in it, or around it; give a place of its own after -o$"),
        (lambda: None, "lib/out", "npy", "lib/out: is the library, in it"),
        (lambda: None, ".", "npy", r"\.: is the library, in it, or around it"),
        (
            lambda: _file("out/thesis.txt"),
            "out",
            "npy",
            r"out: holds thesis\.txt, which no export writes; give another",
        ),
        (lambda: _file("out"), "out", "npy", "out: is a file, and a folder is to be written; give another name$"),
        (lambda: Path("o.parquet").mkdir(), "o.parquet", "parquet", "is a folder, and a file is to be written"),
        (lambda: Path("out").symlink_to("lib"), "out", "npy", "out: is the library"),
        (lambda: Path("out").symlink_to("gone"), "out", "npy", "out: is a link, and a folder is to be written"),
        (lambda: None, "out.npy", "npy", r"out\.npy: --to npy writes a folder; give a name without \.npy$"),
        (lambda: None, "out.faiss", "faiss", r"give a name without \.faiss$"),
        (lambda: None, "out", "csv", "to='csv': choose one of npy, parquet, faiss, lance$"),
    ],
)
def test_what_is_not_an_export_is_never_replaced(library, prepare, out, kind, message):
    prepare()
    before = sorted(map(str, Path().rglob("*")))
    with pytest.raises(UsageError, match=message) as caught:
        export(library, out, kind, overwrite=True)
    assert "\n" not in str(caught.value)
    assert sorted(map(str, Path().rglob("*"))) == before


def test_an_empty_folder_is_taken(library):
    Path("out").mkdir()
    export(library, "out", "npy")
    assert len(os.listdir("out")) == 2


def test_a_place_that_cannot_be_written_is_named(library):
    _file("file")
    with pytest.raises(LibraryError, match=r"^file/out: cannot be written \(.*\); nothing was exported$"):
        export(library, "file/out", "npy")


@pytest.mark.parametrize("kind", ["npy", "parquet"])
def test_what_fails_midway_leaves_what_was_there(library, kind):
    export(library, "out", kind)
    before = {path: path.read_bytes() for path in Path("out").iterdir()}
    shard = sorted(Path("lib/clips").iterdir())[-1]
    data = bytearray(shard.read_bytes())
    data[3000:3040] = bytes(40)
    shard.write_bytes(data)
    with pytest.raises(LibraryError, match="cannot be read"):
        export(library, "out", kind, overwrite=True)
    assert {path: path.read_bytes() for path in Path("out").iterdir()} == before
    assert visible() == ["out"]


KILLED = """
import os, signal, sys
from vmae_embed.exporter import export
from vmae_embed.library import Library

steps = iter(range(int(sys.argv[2])))

def hook(event, arguments):
    ours = str(arguments[0]).startswith(".out") if arguments else False
    if event in ("open", "os.rename", "os.mkdir") and ours and next(steps, None) is None:
        os.kill(os.getpid(), signal.SIGKILL)

sys.addaudithook(hook)
export(Library.open("lib"), "out", sys.argv[1], overwrite=True)
"""


@pytest.mark.parametrize("kind", ["npy", "parquet", "faiss"])
@pytest.mark.parametrize("step", [0, 1, 2])
def test_what_was_killed_leaves_nothing_that_looks_whole(library, kind, step):
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])}
    command = [sys.executable, "-c", KILLED, kind, str(step)]
    assert subprocess.run(command, env=environment, check=False).returncode == -signal.SIGKILL
    assert [name for name in visible() if not name.startswith(".")] == []
    export(library, "out", kind)
    assert visible() == ["out"]


def test_a_library_without_clips_is_refused():
    empty = make_library(Path("lib"), VECTORS[:0])
    with pytest.raises(LibraryError, match="lib: holds no clips to export; `vmae-embed info lib` says what it does"):
        export(empty, "out", "npy")
    assert visible() == []


def test_a_library_that_changed_meanwhile_is_refused(library, monkeypatch):
    monkeypatch.setattr(Library, "count", lambda self, units: COUNT + 1)
    with pytest.raises(VmaeEmbedError, match="lib: was written to meanwhile; export it again"):
        export(library, "out", "npy")
    assert visible() == []


# The command line


def cli(capsys, *arguments):
    with pytest.raises(SystemExit) as stop:
        main([str(argument) for argument in arguments])
    captured = capsys.readouterr()
    return stop.value.code, captured.out, captured.err


def test_export_on_the_command_line(library, capsys):
    code, out, err = cli(capsys, "export", "lib", "--to", "npy", "-o", "out")
    assert (code, out) == (0, "")
    assert err.startswith("out: 900 clips as npy in ")
    assert err.endswith(" MiB\n")


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["lib"], 2, "Missing option '--to'. Choose from: npy, parquet, faiss, lance"),
        (["lib", "--to", "npy"], 2, "Missing option '-o'"),
        (["lib", "--to", "csv", "-o", "out"], 2, "'csv' is not one of"),
        (["gone", "--to", "npy", "-o", "out"], 1, "gone: not a library"),
        (["lib", "--to", "npy", "-o", "lib"], 2, "lib: is the library"),
    ],
)
def test_wrong_commands_get_one_line(library, capsys, arguments, code, message):
    found, out, err = cli(capsys, "export", *arguments)
    assert (found, out, len(err.splitlines())) == (code, "", 1)
    assert err.startswith("error: ")
    assert message in err
