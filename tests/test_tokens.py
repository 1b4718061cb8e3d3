"""Tokens of a library's clips: whose they are, whatever becomes of the unit, and whatever a kill leaves."""

from __future__ import annotations

import errno
import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest

from tests.libraries import make_library
from tests.test_library import WIDTH, FullDisk, changed, child, failure, files, refused, rows, video
from vmae_embed.errors import LibraryError
from vmae_embed.library import Library, Tokens, verify
from vmae_embed.library import tokens as module
from vmae_embed.probes import AttentiveProbe
from vmae_embed.probing import evaluate_probes, labelled_rows
from vmae_embed.probing.tokens import with_stored_tokens
from vmae_embed.views import open_views

N = 5


def tokens_of(names, clips=2):
    """``(clips, N, WIDTH)`` a video; they follow from its id."""
    made = [np.random.default_rng(list(name.encode())).normal(size=(clips, N, WIDTH)) for name in names]
    return np.concatenate([np.empty((0, N, WIDTH)), *made]).astype(np.float16)


def write(library, unit, *names, failures=(), clips=2):
    spool = library.spool_tokens(unit)
    kept = []
    for name in names:
        places, fit = spool.append(tokens_of([name], clips))
        assert fit.all()
        kept += places
    library.write_unit(unit, rows(library, *map(video, names), clips=clips), list(failures), spool, kept)


@pytest.fixture
def library(tmp_path):
    """Unit u1 holds a and b, and that c failed; unit u2 holds d; in unit u3 all failed."""
    made = Library.create(tmp_path / "lib", changed(tokens=N))
    write(made, "u1", "a.mp4", "b.mp4", failures=[failure("c.mp4")])
    write(made, "u2", "d.mp4")
    write(made, "u3", failures=[failure("e.mp4")])
    return made


def assert_in_line(library, clips=2):
    """Each clip has the tokens that follow from its id."""
    names = library.column("video_id")
    tokens = library.tokens()
    assert len(tokens) == len(names)
    assert np.array_equal(np.asarray(tokens), tokens_of(dict.fromkeys(names), clips))


def test_tokens_line_up_with_the_clips(library):
    assert files(library.path / "tokens") == ["u1-4.npy", "u2-2.npy"]
    assert_in_line(Library.open(library.path))
    assert verify(library) == []


def test_numpy_reads_a_file_alone(library):
    found = np.load(library.path / "tokens/u1-4.npy", mmap_mode="r")
    assert (found.shape, found.dtype) == ((4, N, WIDTH), np.float16)
    assert np.array_equal(found, tokens_of(["a.mp4", "b.mp4"]))


@pytest.fixture
def read(monkeypatch):
    """How many clips' tokens are read at a time."""
    counts = []
    real = module.read_tokens

    def count(path, shape, rows):
        counts.append(len(rows))
        return real(path, shape, rows)

    monkeypatch.setattr(module, "read_tokens", count)
    return counts


def test_rows_are_composed_and_read_when_they_are_asked_for(library, read):
    whole = np.asarray(library.tokens())
    read.clear()
    tokens = library.tokens()
    assert (tokens.shape, tokens.dtype, tokens.ndim, len(tokens)) == ((6, N, WIDTH), np.float16, 3, 6)
    some = tokens[np.array([5, 0, 3, 3])]
    assert isinstance(some, Tokens)
    assert some[[2, 0]].shape == (2, N, WIDTH)
    assert not read
    assert np.array_equal(np.asarray(some[[2, 0, 1]]), whole[[3, 5, 0]])
    assert sorted(read) == [1, 2]
    assert np.array_equal(np.asarray(tokens[np.arange(6) % 2 == 1]), whole[1::2])
    assert np.array_equal(np.asarray(tokens[4:], dtype=np.float32), whole[4:].astype(np.float32))
    assert np.asarray(tokens[:0]).shape == (0, N, WIDTH)


@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="counts open files in /proc")
def test_no_file_stays_open(library):
    before = len(os.listdir("/proc/self/fd"))
    tokens = library.tokens()
    np.asarray(tokens)
    assert len(os.listdir("/proc/self/fd")) == before


def test_a_library_without_tokens_says_what_to_do(tmp_path):
    made = Library.create(tmp_path / "lib", changed())
    assert made.spool_tokens("u1") is None
    with refused("/lib: stores no tokens; extract with --store tokens into another directory$"):
        made.tokens()


def test_a_library_of_no_clips_has_no_tokens(tmp_path):
    made = Library.create(tmp_path / "lib", changed(tokens=N))
    assert np.asarray(made.tokens()).shape == (0, N, WIDTH)
    assert verify(made) == []


@pytest.mark.parametrize("kept", [[0, 1, 2, 3, 4, 5], [2, 3], [0, 5], [1, 2, 4], []])
def test_a_spool_keeps_what_it_is_told_to(library, kept):
    """Of a video that failed or was begun anew, tokens were written that nobody keeps."""
    spool = library.spool_tokens("u4")
    everything = np.concatenate([tokens_of([name]) for name in ("x", "y", "z")])
    for start in (0, 1, 3):
        spool.append(everything[start : {0: 1, 1: 3, 3: 6}[start]])
    spool.commit(kept)
    assert not [name for name in files(library.path) if name.endswith(".tmp")]
    path = library.path / f"tokens/u4-{len(kept)}.npy"
    assert path.exists() is bool(kept)
    if kept:
        assert np.array_equal(np.load(path), everything[kept])
        assert path.stat().st_size == 128 + everything[kept].nbytes


def test_numbers_beyond_half_precision_are_told(library):
    tokens = np.zeros((3, N, WIDTH), np.float32)
    tokens[1, 2, 3] = 1e5
    places, fit = library.spool_tokens("u4").append(tokens)
    assert (list(places), fit.tolist()) == ([0, 1, 2], [True, False, True])


@pytest.mark.parametrize("harm", ["gone", "longer"])
def test_a_spool_that_another_process_touched_is_refused(library, harm):
    spool = library.spool_tokens("u4")
    tokens = np.ones((2, N, WIDTH), np.float32)
    spool.append(tokens)
    path = library.path / f"tokens/.u4-of-{os.getpid()}.npy.tmp"
    if harm == "gone":
        path.unlink()
    else:
        path.write_bytes(path.read_bytes() + b"x")
    with refused("another process changed it"):
        spool.append(tokens)
    with refused("another process changed it"):
        spool.commit([0, 1])


@pytest.mark.parametrize("room", [0, 100, 300, 500])
def test_a_full_disk_is_one_line_and_what_was_spooled_goes_with_the_lock(library, monkeypatch, room):
    sound = files(library.path)
    with pytest.raises(LibraryError) as caught, library.lock():  # noqa: PT012 - the lock ends in there
        FullDisk(monkeypatch, room)
        write(library, "u4", "g.mp4", "h.mp4")
    monkeypatch.undo()
    assert str(caught.value).endswith(
        f"tokens/.u4-of-{os.getpid()}.npy.tmp: cannot be written (No space left on device); "
        "what was committed before stays whole"
    )
    assert files(library.path) == sound


def test_the_clips_shard_comes_last(library, monkeypatch):
    named = []
    real = Path.replace
    monkeypatch.setattr(Path, "replace", lambda path, target: named.append(target.parent.name) or real(path, target))
    write(library, "u4", "g.mp4", failures=[failure("h.mp4")])
    assert named == ["failures", "tokens", "clips"]


@pytest.mark.parametrize(
    ("removed", "left"),
    [
        (["a.mp4"], ["u1-2.npy", "u2-2.npy"]),
        (["b.mp4", "c.mp4"], ["u1-2.npy", "u2-2.npy"]),
        (["c.mp4"], ["u1-4.npy", "u2-2.npy"]),
        (["a.mp4", "b.mp4"], ["u2-2.npy"]),
        (["a.mp4", "b.mp4", "c.mp4"], ["u2-2.npy"]),
        (["a.mp4", "d.mp4", "e.mp4"], ["u1-2.npy"]),
    ],
)
def test_removed_videos_take_their_tokens_along(library, removed, left):
    library.remove_videos(removed)
    assert files(library.path / "tokens") == left
    assert_in_line(library)
    assert verify(library) == []


def test_listed_anew_clips_keep_their_tokens(library):
    moved = [video("b.mp4"), video("d.mp4")]
    moved = [type(one)(one.id, f"/elsewhere/{one.id}", one.size, one.mtime_ns, {}) for one in moved]
    assert library.update_videos(moved, []) == 2
    assert_in_line(library)


# Killed -----------------------------------------------------------------------------------------

# Does the same in a copy of a library, over and over, and dies before each step on its files in turn.
_DYING = """
import shutil

def change(library, step):
    steps = 0
    def hook(event, arguments):
        nonlocal steps
        if event in ("open", "os.rename", "os.remove") and str(arguments[0]).startswith(str(library.path)):
            if steps == step:
                os._exit(9)
            steps += 1
    sys.addaudithook(hook)
    with library.lock():
        library.remove_videos(["a.mp4"])
    os._exit(0)

step = 0
while True:
    copy = library.path.with_name(f"killed{step}")
    shutil.copytree(library.path, copy)
    pid = os.fork()
    if not pid:
        change(Library(copy, library.config), step)
    if not os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]):
        break
    step += 1
"""


def test_killed_at_any_step_of_a_removal_clips_and_tokens_agree(library):
    with child(library, _DYING) as process:
        assert process.wait() == 0
    copies = sorted(library.path.parent.glob("killed*"))
    assert len(copies) > 10
    seen = set()
    for folder in copies:
        killed = Library.open(folder)
        assert_in_line(killed)  # as a reader meets it, before anybody mends it
        seen.add((tuple(dict.fromkeys(killed.column("video_id"))), len(files(folder / "tokens"))))
        assert all("the next extract clears it" in problem for problem in verify(killed))
        with killed.lock():
            assert verify(killed) == []
            assert_in_line(killed)
            killed.remove_videos(["a.mp4"])
        assert files(folder / "tokens") == ["u1-2.npy", "u2-2.npy"]
        assert_in_line(killed)
    before, after = ("a.mp4", "b.mp4", "d.mp4"), ("b.mp4", "d.mp4")
    assert seen == {(before, 2), (before, 3), (after, 3), (after, 2)}


def test_the_lock_clears_orphans_and_nothing_else(library):
    sound = files(library.path)
    folder = library.path / "tokens"
    for name in (".u9.npy.tmp", "u9-4.npy", "u1-2.npy", "u3-1.npy"):
        (folder / name).write_bytes(b"half")
    (folder / "notes.txt").write_text("mine")
    with library.lock():
        assert files(library.path) == sorted([*sound, "tokens/notes.txt"])
    assert_in_line(library)


def test_a_run_without_tokens_clears_none_that_count(library):
    """The lock is taken before anybody looks whether the run may go on with the library."""
    with refused("tokens .*'5 a clip', this run asks for 'none'"), Library.writing(library.path, changed()):
        pytest.fail("went on")
    assert_in_line(library)


# Damage -----------------------------------------------------------------------------------------


def test_a_whole_tokens_file_is_asked_for(library):
    path = library.path / "tokens/u1-4.npy"
    data = path.read_bytes()
    hint = "; delete clips/u1.parquet and run extract again"

    def problem():
        (found,) = verify(library)
        with refused(r"/tokens/u1-4\.npy: cannot be read \("):
            np.asarray(library.tokens())
        assert found.startswith(f"{path}: cannot be read (")
        assert found.endswith(hint)
        return found[len(f"{path}: cannot be read (") : -len(hint) - 1]

    path.unlink()
    with refused(r"/tokens/u1-4\.npy: not there; where another run is changing .* delete clips/u1.parquet and run"):
        np.asarray(library.tokens())
    path.write_bytes(data[:-1])
    assert problem() == f"it has {len(data) - 1} bytes, not {len(data)}"
    path.write_bytes(data + b"x")
    assert problem() == f"it has {len(data) + 1} bytes, not {len(data)}"
    path.write_bytes(b"")
    assert "EOF" in problem()
    path.write_bytes(data[:40])
    assert "EOF" in problem()
    path.write_bytes(b"x" * len(data))
    assert "magic" in problem()
    np.save(path, np.zeros((3, N, WIDTH), np.float16))
    assert problem() == "it holds float16 of shape (3, 5, 8), not float16 of shape (4, 5, 8)"
    np.save(path, np.zeros((4, N, WIDTH), np.float32))
    assert "float32" in problem()
    np.save(path, np.asfortranarray(np.zeros((4, N, WIDTH), np.float16)))
    assert problem()


def test_what_the_hint_says_mends_it(library):
    (library.path / "tokens/u1-4.npy").write_bytes(b"")
    (library.path / "clips/u1.parquet").unlink()
    with library.lock():
        assert verify(library) == []
    assert_in_line(library)


def test_tokens_that_are_not_finite_are_reported(library):
    found = np.load(library.path / "tokens/u1-4.npy")
    found[1, 2, 3], found[3, 0, 0] = np.nan, np.inf
    np.save(library.path / "tokens/u1-4.npy", found)
    assert verify(library) == ["tokens/u1-4.npy: tokens of 2 clips are not finite"]


def test_strays_are_reported_where_they_lie(library):
    folder = library.path / "tokens"
    for name in ("notes.txt", ".DS_Store", ".u9.npy.tmp", "u9-4.npy", "u1-2.npy", "u3-1.npy"):
        (folder / name).touch()
    clears = "the next extract clears it"
    assert verify(library) == [
        "tokens/.DS_Store: no part of a library",
        f"tokens/.u9.npy.tmp: left by a killed run; {clears}",
        "tokens/notes.txt: no part of a library",
        f"tokens/u1-2.npy: no complete unit has these clips; {clears}",
        f"tokens/u3-1.npy: no complete unit has these clips; {clears}",
        f"tokens/u9-4.npy: no complete unit has these clips; {clears}",
    ]
    shutil.rmtree(folder)
    plain = Library.open(library.path)
    fields = json.loads((library.path / "library.json").read_text())
    (library.path / "library.json").write_text(json.dumps({**fields, "tokens": None}))
    plain = Library.open(library.path)
    assert verify(plain) == []
    folder.mkdir()
    (folder / "u1-4.npy").touch()
    assert verify(plain) == ["tokens/u1-4.npy: no part of a library"]


def test_a_damaged_shard_hides_no_tokens_of_another(library):
    (library.path / "clips/u1.parquet").write_bytes(b"")
    (library.path / "tokens/u2-2.npy").unlink()
    problems = verify(library)
    assert len(problems) == 2
    assert "clips/u1.parquet: cannot be read" in problems[0]
    assert "tokens/u2-2.npy: not there" in problems[1]


def test_an_error_of_the_disk_is_one_line(library, monkeypatch):
    real = Path.open

    def failing(path, *arguments, **options):
        if path.suffix == ".npy":
            raise OSError(errno.EIO, "Input/output error")
        return real(path, *arguments, **options)

    monkeypatch.setattr(Path, "open", failing)
    with refused(r"u1-4\.npy: cannot be read \(Input/output error\)"):
        np.asarray(library.tokens())


# Probes -----------------------------------------------------------------------------------------


@pytest.fixture
def labelled(tmp_path):
    """24 videos of four clips; one token of a clip says its video's class."""
    rng = np.random.default_rng(0)
    tokens = rng.normal(size=(96, 6, 16)).astype(np.float16)
    tokens[np.arange(96), rng.integers(0, 6, 96), np.arange(96) // 4 % 3] += 8
    library = make_library(tmp_path / "labelled", rng.normal(size=(96, 16)).astype(np.float32), tokens=tokens)
    lines = [f"v{i:05}.mp4,{'abc'[i % 3]}" for i in range(20)]  # the last four have no label
    (tmp_path / "labels.csv").write_text("video_id,label\n" + "\n".join(reversed(lines)) + "\n")
    return library, tokens


def test_an_attentive_probe_reads_them_a_batch_at_a_time(labelled, tmp_path, read):
    library, tokens = labelled
    rows = with_stored_tokens(open_views(library.path), labelled_rows(library, str(tmp_path / "labels.csv"))[0])
    assert rows.tokens.shape == (80, 6, 16)
    assert np.array_equal(np.asarray(rows.take(np.array([7, 79])).tokens), tokens[[7, 79]])
    read.clear()

    def make():
        return AttentiveProbe(learning_rates=(3e-3,), epochs=10, batch_size=16)

    done = evaluate_probes(library, rows, {"attentive": make}, folds=2)
    assert max(read) == 16
    in_memory = type(rows)(**{**{name: getattr(rows, name) for name in rows.__slots__}, "tokens": tokens[:80]})
    same = evaluate_probes(library, in_memory, {"attentive": make}, folds=2)
    np.testing.assert_array_equal(same.results[0].answers.probabilities, done.results[0].answers.probabilities)


def test_a_library_that_changes_under_a_probe_is_told(labelled, tmp_path):
    library, _ = labelled
    rows, _ = labelled_rows(library, str(tmp_path / "labels.csv"))
    library.remove_videos(["v00003.mp4"])
    with refused("/labelled: changed while it was read; run the same command again$"):
        with_stored_tokens(open_views(library.path), rows)
