"""Many queries: in order, in blocks, some of them unreadable; and the lists that they come in."""

from __future__ import annotations

import io
import itertools

import numpy as np
import pytest

import vmae_embed as ve
from tests import videos
from tests.checkpoints import save_checkpoint
from tests.libraries import clustered, make_library
from vmae_embed.errors import CheckpointError, QueryError, UsageError
from vmae_embed.index import Index
from vmae_embed.query import open_queries, search, search_many


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    vectors = clustered(1000, 16)
    return vectors, Index.build(make_library(tmp_path_factory.mktemp("plain") / "lib", vectors))


@pytest.fixture(scope="module")
def filmed(tmp_path_factory):
    root = tmp_path_factory.mktemp("many")
    (root / "videos").mkdir()
    for number in range(3):
        videos.write_video(root / f"videos/v{number}.mp4", frames=130, first_index=400 * number)
    encoder = ve.Encoder.from_pretrained(save_checkpoint(root / "checkpoint"), device="cpu")
    return root, encoder, Index.build(ve.extract(root / "videos", root / "lib", encoder=encoder, workers=1))


def flat(hits):
    return [(hit.rank, hit.clip_id, hit.query, hit.clips) for hit in hits]


@pytest.mark.parametrize(
    "options",
    [
        {"k": 7},
        {"k": 9, "group_by": "video"},
        {"k": 3, "merge_gap": 0},
        {"k": None, "min_score": 0.8},
        {"k": 5, "where": "start_s < 4", "combine": "mean"},
        {"k": 2000, "include_self": True},
    ],
)
def test_a_batch_answers_as_single_searches_do(plain, options):
    vectors, index = plain
    ids = index.clips["clip_id"].to_pylist()
    queries = [ids[3], "v00100.mp4", vectors[7], vectors[20:23], ids[999], ids[3], *ids[300:310]]
    answers = list(search_many(index, queries, **options))
    assert len(answers) == len(queries)
    for query, answer in zip(queries, answers, strict=True):
        alone = search(index, query, **options)
        assert flat(answer) == flat(alone)
        assert [hit.score for hit in answer] == pytest.approx([hit.score for hit in alone], abs=1e-6)
        assert answer.queries == alone.queries


def test_more_queries_than_a_block_keep_their_order(plain):
    _, index = plain
    ids = index.clips["clip_id"].to_pylist()
    answers = list(search_many(index, ids, k=1, include_self=True))
    assert [answer[0].clip_id for answer in answers] == ids


def test_one_call_of_the_index_answers_a_block(plain, monkeypatch):
    _, index = plain
    asked = []

    def counting(self, queries, k, **options):
        asked.append(len(queries))
        return search_index(self, queries, k, **options)

    search_index = Index.search
    monkeypatch.setattr(Index, "search", counting)
    ids = index.clips["clip_id"].to_pylist()[:600]
    assert len(list(search_many(index, ids, k=3, include_self=True))) == 600
    assert asked == [256, 256, 88]


def test_fewer_queries_wait_for_each_other_where_each_has_many_hits(plain):
    _, index = plain
    for options, most in (({"k": 50_000}, 2), ({"k": None, "min_score": 0.0}, 16), ({"k": 10**9}, 1)):
        read = []
        queries = (read.append(name) or name for name in index.clips["clip_id"].to_pylist())
        next(search_many(index, queries, **options))
        assert len(read) == most


def test_queries_are_read_as_they_are_answered(plain):
    """A list without an end is answered all the same."""
    _, index = plain
    read = itertools.count()
    endless = (f"v{next(read) % 250:05}.mp4#t=0.000,2.000" for _ in itertools.count())
    answers = list(itertools.islice(search_many(index, endless, k=1), 1000))
    assert len(answers) == 1000
    assert next(read) <= 1024


def test_the_rows_of_an_array_are_a_query_each(plain):
    vectors, index = plain
    answers = list(search_many(index, vectors[:5], k=1))
    assert [answer[0].clip_id for answer in answers] == index.clips["clip_id"].to_pylist()[:5]


def test_what_cannot_be_read_is_said_in_its_place(plain, tmp_path):
    _, index = plain
    (tmp_path / "broken.mp4").write_bytes(b"broken")
    good = "v00000.mp4#t=0.000,2.000"
    answers = list(search_many(index, [good, "nothing.mp4", tmp_path / "broken.mp4", np.ones(3), good], k=2))
    assert [type(answer) for answer in answers] == [ve.query.Hits, QueryError, QueryError, QueryError, ve.query.Hits]
    assert "neither a file nor a clip" in str(answers[1])
    assert "not a readable video" in str(answers[2])
    assert "takes numbers of shape" in str(answers[3])
    assert flat(answers[0]) == flat(answers[4])


def test_wrong_options_are_told_before_the_first_query(plain):
    def never():
        raise AssertionError("a query was read")
        yield

    with pytest.raises(UsageError, match="k=0: give at least 1"):
        search_many(plain[1], never(), k=0)
    with pytest.raises(UsageError, match="syntax error"):
        search_many(plain[1], never(), where="((")


def test_no_queries(plain):
    assert list(search_many(plain[1], [])) == []


def test_the_model_is_loaded_once_and_only_for_a_file(filmed, tmp_path):
    root, encoder, index = filmed
    loaded = []

    def load():
        loaded.append(1)
        return encoder

    ids = index.clips["clip_id"].to_pylist()
    answers = search_many(
        index, [ids[0], f"{root}/videos/v1.mp4#t=1,2", ids[1], f"{root}/videos/v2.mp4#t=1,3"], encoder=load
    )
    next(answers)
    assert len(list(answers)) == 3
    assert loaded == [1]
    assert len(list(search_many(index, [*ids, "v1.mp4", root / "videos/v1.mp4"], encoder=load))) == len(ids) + 2
    assert loaded == [1]


def test_a_file_is_answered_before_the_next_is_embedded(filmed):
    root, encoder, index = filmed
    read = []

    def queries():
        for name in ("v0", "v1", "v2"):
            read.append(name)
            yield f"{root}/videos/{name}.mp4#t=1,2"

    embedded = []
    encode = encoder.encode_cropped
    encoder.encode_cropped = lambda frames: embedded.append(1) or encode(frames)
    try:
        answers = search_many(index, queries(), encoder=encoder, k=1)
        next(answers)
        assert embedded == [1]
        assert len(list(answers)) == 2
    finally:
        del encoder.encode_cropped


def test_what_is_known_is_answered_before_a_checkpoint_fails(filmed):
    root, _, index = filmed

    def gone():
        raise CheckpointError("gone")

    answers = search_many(index, ["v0.mp4", f"{root}/videos/v1.mp4#t=1,2", "v1.mp4"], encoder=gone, k=1)
    assert len(next(answers)) == 1
    with pytest.raises(CheckpointError, match="gone"):
        next(answers)


# Lists --------------------------------------------------------------------------------------------


def listed(path, stdin=b""):
    with open_queries(str(path), 16, io.BytesIO(stdin)) as found:
        return list(found)


def test_a_list_has_a_query_a_line(tmp_path):
    text = b"\xef\xbb\xbfa.mp4\r\n\n  \nb c.mp4#t=1,2\nd\xff.mp4"
    (tmp_path / "q.txt").write_bytes(text)
    expected = [("line 1", "a.mp4"), ("line 4", "b c.mp4#t=1,2"), ("line 5", "d\udcff.mp4")]
    assert listed(tmp_path / "q.txt") == expected
    assert listed("-", text) == expected


def test_an_array_has_a_query_a_row(tmp_path):
    np.save(tmp_path / "q.npy", clustered(3, 16))
    found = listed(tmp_path / "q.npy")
    assert [place for place, _ in found] == ["q.npy[0]", "q.npy[1]", "q.npy[2]"]
    assert np.array_equal(np.stack([row for _, row in found]), clustered(3, 16))
    np.save(tmp_path / "one.npy", np.ones(16))
    assert len(listed(tmp_path / "one.npy")) == 1


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("missing.txt", "cannot be read as a list of queries"),
        (".", "cannot be read as a list of queries"),
        ("video.mp4", "not text; give a list with a query a line, or a .npy file"),
        ("missing.npy", "no such file"),
        ("narrow.npy", r"float64 of shape \(4, 3\); this library takes numbers of shape \(16,\)"),
        ("cube.npy", "this library takes numbers"),
        ("words.npy", "this library takes numbers"),
    ],
)
def test_what_is_no_list_of_queries(tmp_path, name, message):
    (tmp_path / "video.mp4").write_bytes(b"\0\0\0\x18ftyp")
    np.save(tmp_path / "narrow.npy", np.ones((4, 3)))
    np.save(tmp_path / "cube.npy", np.ones((2, 2, 16)))
    np.save(tmp_path / "words.npy", np.array([["a"] * 16]))
    with pytest.raises(UsageError, match=message) as caught:
        listed(tmp_path / name)
    assert "\n" not in str(caught.value)
