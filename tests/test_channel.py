"""Queues between the pipeline's threads."""

from __future__ import annotations

import threading

import pytest

from vmae_embed.pipeline.channel import Channel, Closed


def test_items_come_in_order():
    channel = Channel(3, ["a"])
    channel.put("b")
    channel.put("c")
    assert len(channel) == 3
    assert [channel.get() for _ in range(3)] == ["a", "b", "c"]


def test_a_full_channel_makes_its_writer_wait():
    channel = Channel(1)
    written = []

    def write():
        for i in range(3):
            channel.put(i)
            written.append(i)

    thread = threading.Thread(target=write, daemon=True)
    thread.start()
    thread.join(0.1)
    assert thread.is_alive()
    assert written == [0]
    assert [channel.get() for _ in range(3)] == [0, 1, 2]
    thread.join(5)
    assert not thread.is_alive()


@pytest.mark.parametrize("waiting", ["put", "get"])
def test_closing_ends_whoever_waits(waiting):
    channel = Channel(1, ["full"] if waiting == "put" else [])
    ended = []

    def wait():
        with pytest.raises(Closed):
            channel.put("more") if waiting == "put" else channel.get()
        ended.append(True)

    thread = threading.Thread(target=wait, daemon=True)
    thread.start()
    thread.join(0.05)
    assert thread.is_alive()
    channel.close()
    thread.join(5)
    assert ended == [True]


def test_a_closed_channel_gives_nothing_more():
    channel = Channel(2, ["left"])
    channel.close()
    with pytest.raises(Closed):
        channel.get()
    with pytest.raises(Closed):
        channel.put("late")
