"""Plans: what is left to do never depends on what was done in which order."""

from __future__ import annotations

import dataclasses
import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vmae_embed.errors import SourceError
from vmae_embed.library import Held
from vmae_embed.plan import make_plan, unit_name
from vmae_embed.records import Failure, Video

MB = 1024 * 1024


def video(name, size=1, mtime_ns=1, path=None):
    return Video(name, path or f"/gone/{name}", size, mtime_ns)


def missing(name, fingerprint=""):
    return Failure(name, f"/gone/{name}", "source", "No such file or directory", 0.0, fingerprint)


def hold(*videos, unit="u", failed=False):
    return {v.id: Held(unit, v.path, v.fingerprint, failed) for v in videos}


def hold_units(units):
    return {key: held for unit in units for key, held in hold(*unit.videos, unit=unit.name).items()}


def members(plan):
    return [[v.id for v in unit.videos] for unit in plan.units]


def numbered(count, size=1):
    return [video(f"{i:05}.mp4", size) for i in range(count)]


# How units are cut


@pytest.mark.parametrize(
    ("count", "each"), [(1, 1), (63, 1), (64, 1), (127, 1), (128, 2), (640, 10), (4096, 64), (10_000, 64)]
)
def test_units_hold_a_64th_of_the_videos_and_64_at_most(count, each):
    units = make_plan(numbered(count), [], {}).units
    assert [len(unit.videos) for unit in units] == [each] * (count // each) + [count % each] * (count % each > 0)
    assert [v for unit in units for v in unit.videos] == numbered(count)


def test_units_of_large_videos_close_at_256_megabytes():
    sizes = [100, 100, 56, 1, 255, 300, 2, 253, 1, *[0] * 247]
    videos = [video(f"{i:05}.mp4", size * MB) for i, size in enumerate(sizes)]
    lengths = [len(unit.videos) for unit in make_plan(videos, [], {}).units]
    # 256 videos: four a unit, unless they are large.
    assert lengths[:5] == [3, 2, 1, 3, 4]
    assert set(lengths[4:-1]) == {4}


def test_nothing_listed_and_nothing_held_is_nothing_to_do():
    assert make_plan([], [], {}) == make_plan([], [], {}, retry_failed=True)
    assert not any(dataclasses.astuple(make_plan([], [], {})))


def test_a_unit_is_named_after_its_videos_and_their_fingerprints():
    (unit,) = make_plan([video("a.mp4", 10, 20)], [], {}).units
    assert unit.name == unit_name([("a.mp4", "10-20")])
    # sha256 of b"a.mp4\0" b"10-20\0", as sha256sum gives it
    assert unit.name == "d1b2063a50befdc7"
    names = {
        unit_name(pairs)
        for pairs in (
            [],
            [("a", "1")],
            [("a", "2")],
            [("b", "1")],
            [("a", "1"), ("b", "1")],
            [("b", "1"), ("a", "1")],
            [("a1", "")],
        )
    }
    assert len(names) == 7
    assert all(len(name) == 16 for name in names)


# Resuming and growing

libraries = st.lists(st.integers(0, 200), min_size=1, max_size=300).map(
    lambda sizes: [video(f"{i:05}.mp4", size * MB) for i, size in enumerate(sizes)]
)


@given(libraries, st.data())
def test_whichever_units_are_complete_the_others_are_left(videos, data):
    whole = make_plan(videos, [], {})
    done = data.draw(st.lists(st.booleans(), min_size=len(whole.units), max_size=len(whole.units)))
    complete = [unit for unit, is_done in zip(whole.units, done, strict=True) if is_done]
    left = make_plan(videos, [], hold_units(complete))
    assert left.units == [unit for unit, is_done in zip(whole.units, done, strict=True) if not is_done]
    assert left.held == sum(len(unit.videos) for unit in complete)
    assert (left.stale, left.vanished, left.failures) == (set(), set(), [])


@given(libraries, st.data())
def test_growth_adds_new_videos_and_touches_no_other(videos, data):
    is_new = data.draw(st.lists(st.booleans(), min_size=len(videos), max_size=len(videos)))
    before = [v for v, new in zip(videos, is_new, strict=True) if not new]
    held = hold_units(make_plan(before, [], {}).units)
    plan = make_plan(videos, [], held)
    assert [v for unit in plan.units for v in unit.videos] == [v for v, new in zip(videos, is_new, strict=True) if new]
    assert plan.held == len(before)
    assert (plan.stale, plan.vanished, plan.failures) == (set(), set(), [])


@given(libraries, st.data())
def test_every_video_is_held_or_in_exactly_one_unit(videos, data):
    states = data.draw(
        st.lists(st.sampled_from(["new", "held", "changed", "failed"]), min_size=1, max_size=len(videos))
    )
    held = {}
    for v, state in zip(videos, states, strict=False):
        if state != "new":
            known = dataclasses.replace(v, mtime_ns=2) if state == "changed" else v
            held |= hold(known, failed=state == "failed")
    plan = make_plan(videos, [], held, retry_failed=True)
    todo = [v.id for unit in plan.units for v in unit.videos]
    again = {v.id for v, state in zip(videos, states, strict=False) if state in ("changed", "failed")}
    assert plan.stale == again
    assert set(todo) == {v.id for v in videos} - set(held) | again
    assert len(todo) == len(set(todo)) == len(videos) - plan.held
    assert len({unit.name for unit in plan.units}) == len(plan.units)


# Changed, vanished, failed


@pytest.mark.parametrize("change", [{"size": 2}, {"mtime_ns": 2}])
def test_a_changed_file_is_stale_and_done_again(change):
    before = [video("a.mp4"), video("b.mp4")]
    after = [before[0], dataclasses.replace(before[1], **change)]
    plan = make_plan(after, [], hold(*before))
    assert (members(plan), plan.stale, plan.held, plan.vanished) == ([["b.mp4"]], {"b.mp4"}, 1, set())


def test_a_changed_file_that_is_where_it_was_is_no_other_file(tmp_path):
    path = tmp_path / "a.mp4"
    path.touch()
    plan = make_plan([video("a.mp4", 2, path=str(path))], [], hold(video("a.mp4", 1, path=str(path))))
    assert (members(plan), plan.stale) == ([["a.mp4"]], {"a.mp4"})


def test_videos_that_no_source_lists_have_vanished():
    plan = make_plan([video("b.mp4")], [], hold(video("a.mp4"), video("b.mp4"), video("c.mp4", 7)))
    assert (plan.vanished, plan.stale, plan.units, plan.held) == ({"a.mp4", "c.mp4"}, set(), [], 1)


def test_a_library_moved_with_its_videos_is_held():
    plan = make_plan([video("a.mp4", path="/new/a.mp4")], [], hold(video("a.mp4", path="/old/a.mp4")))
    assert (plan.held, plan.units, plan.stale) == (1, [], set())


def test_another_file_by_an_id_that_is_taken_is_refused_with_both_paths(tmp_path):
    old = tmp_path / "old.mp4"
    old.touch()
    held = hold(video("a.mp4", path=str(old)))
    with pytest.raises(SourceError, match=r"^/new/a\.mp4 has the id a\.mp4, which the library holds from ") as caught:
        make_plan([video("a.mp4", 2, path="/new/a.mp4")], [], held)
    assert f"from {old}; name a folder above both, or give a manifest with a column video_id" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_another_file_in_place_of_one_that_is_gone_is_a_change():
    plan = make_plan([video("a.mp4", 2, path="/new/a.mp4")], [], hold(video("a.mp4", path="/gone/a.mp4")))
    assert (plan.stale, members(plan)) == ({"a.mp4"}, [["a.mp4"]])


def test_failed_videos_are_tried_again_when_they_change_or_on_request():
    failed = video("a.mp4")
    held = hold(failed, failed=True) | hold(video("b.mp4"))
    listed = [failed, video("b.mp4")]
    assert make_plan(listed, [], held).held == 2
    again = make_plan(listed, [], held, retry_failed=True)
    assert (again.held, again.stale, members(again)) == (1, {"a.mp4"}, [["a.mp4"]])
    changed = make_plan([dataclasses.replace(failed, size=9), listed[1]], [], held)
    assert (changed.held, changed.stale, members(changed)) == (1, {"a.mp4"}, [["a.mp4"]])


def test_what_a_source_cannot_read_is_recorded_once():
    gone = missing("gone.mp4")
    first = make_plan([video("a.mp4")], [gone], {})
    assert (first.failures, first.stale, first.vanished) == ([gone], set(), set())
    held = hold(video("a.mp4")) | {"gone.mp4": Held("f", gone.path, gone.fingerprint, failed=True)}
    for retry in (False, True):
        second = make_plan([video("a.mp4")], [gone], held, retry_failed=retry)
        assert (second.failures, second.stale, second.vanished, second.units) == ([], set(), set(), [])
        assert second.held == 2


def test_a_file_that_appears_where_one_was_missing_is_done():
    held = {"a.mp4": Held("f", "/gone/a.mp4", "", failed=True)}
    plan = make_plan([video("a.mp4")], [], held)
    assert (members(plan), plan.stale, plan.vanished, plan.failures) == ([["a.mp4"]], {"a.mp4"}, set(), [])


@pytest.mark.parametrize(("before", "after"), list(itertools.permutations(["", "1-1", "4096-7"], 2)))
def test_a_failure_of_another_kind_replaces_the_one_that_is_known(before, after):
    held = {"a.mp4": Held("f", "/gone/a.mp4", before, failed=True)}
    plan = make_plan([], [missing("a.mp4", after)], held)
    assert plan.failures == [missing("a.mp4", after)]
    assert plan.stale == {"a.mp4"}
    # It is listed, and recorded anew: pruning it as well would count it twice.
    assert plan.vanished == set()
    assert plan.held == 0


def test_clips_of_a_listed_file_that_is_gone_stay_until_they_are_pruned():
    plan = make_plan([], [missing("a.mp4")], hold(video("a.mp4")))
    assert (plan.vanished, plan.failures, plan.stale, plan.held) == ({"a.mp4"}, [], set(), 0)
