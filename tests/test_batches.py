"""Clips at once: chosen, split, padded, and what happens when memory runs out or nothing compiles."""

from __future__ import annotations

import threading
import warnings

import numpy as np
import pytest
import torch

from tests.checkpoints import save_checkpoint
from vmae_embed.encoder import Encoder
from vmae_embed.encoder.batches import find_batch_size, run_in_parts, run_on_cores, static_batch_size
from vmae_embed.errors import VmaeEmbedError


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return save_checkpoint(tmp_path_factory.mktemp("checkpoint"))


def clips(count, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (count, 16, 32, 32, 3), dtype=np.uint8)


@pytest.mark.parametrize(
    ("rates", "best"),
    [
        ({8: 100, 16: 150, 32: 156, 64: 300}, 16),  # 4% more is not worth twice the memory
        ({8: 100, 16: 150, 32: 200}, 32),  # 64 does not fit
        ({8: 100, 16: 90}, 8),
        ({}, 1),
        ({2**i: 2**i for i in range(3, 20)}, 256),
    ],
)
def test_batch_sizes_double_while_that_pays(rates, best):
    def rate(size):
        if size not in rates:
            raise torch.OutOfMemoryError
        return rates[size]

    assert find_batch_size(rate) == best


@pytest.mark.parametrize("threads", [1, 2, 12])
def test_every_thread_of_a_cpu_gets_a_clip(monkeypatch, threads):
    monkeypatch.setattr(torch, "get_num_threads", lambda: threads)
    assert static_batch_size(torch.device("cpu")) == threads


def test_batch_size_on_a_cpu_is_not_measured(folder):
    encoder = Encoder.from_pretrained(folder, device="cpu")
    assert encoder.find_batch_size() == encoder.batch_size == static_batch_size(encoder.device)


def test_clips_run_on_threads_of_their_own_and_come_back_in_order():
    before = torch.get_num_threads()
    seen = set()

    def forward(clip):
        seen.add((threading.current_thread().name, torch.get_num_threads()))
        assert torch.is_inference_mode_enabled()
        return clip * 2

    frames = torch.arange(12).view(6, 2)
    assert torch.equal(run_on_cores(forward, frames, before), frames * 2)
    assert {threads for _, threads in seen} == {1}
    assert threading.current_thread().name not in {name for name, _ in seen}
    assert torch.get_num_threads() == before
    unseen = []
    other = threading.Thread(target=lambda: unseen.append(torch.get_num_threads()))
    other.start()
    other.join()
    assert unseen == [before]


def test_clips_that_are_left_over_share_the_threads():
    seen = []

    def forward(clip):
        seen.append(torch.get_num_threads())
        return clip

    run_on_cores(forward, torch.zeros(7, 2), 4)
    assert sorted(seen) == [1] * 7  # four, then three with one each: 4 // 3
    seen.clear()
    run_on_cores(forward, torch.zeros(5, 2), 4)
    assert sorted(seen) == [1, 1, 1, 1, 4]


def test_encoders_that_run_at_once_leave_the_threads_as_they_were(folder):
    """`torch.set_num_threads` writes for the process, too: later threads would begin with one."""
    before = torch.get_num_threads()
    encoders = [Encoder.from_pretrained(folder, device="cpu") for _ in range(2)]
    running = [
        threading.Thread(target=lambda encoder=encoder: [encoder.encode_cropped(clips(4)) for _ in range(20)])
        for encoder in encoders
    ]
    for thread in running:
        thread.start()
    for thread in running:
        thread.join()
    unseen = []
    other = threading.Thread(target=lambda: unseen.append(torch.get_num_threads()))
    other.start()
    other.join()
    assert unseen == [before]


def test_a_failing_clip_is_an_error():
    def forward(clip):
        raise RuntimeError("bad clip")

    with pytest.raises(RuntimeError, match="bad clip"):
        run_on_cores(forward, torch.zeros(3, 2), 2)


def test_parts_halve_until_they_fit():
    tried = []

    def forward(part, size):
        tried.append(len(part))
        if len(part) > 3:
            raise torch.OutOfMemoryError
        return torch.from_numpy(part) * 2

    frames = np.arange(20, dtype=np.uint8).reshape(10, 2)
    embeddings, size = run_in_parts(forward, frames, 64)
    assert np.array_equal(embeddings, frames * 2)
    assert size == 2
    assert tried == [10, 5, 2, 2, 2, 2, 2]


def test_one_clip_that_does_not_fit_is_an_error():
    def forward(part, size):
        raise torch.OutOfMemoryError("no room")

    with pytest.raises(VmaeEmbedError, match="does not hold the encoder and one clip"):
        run_in_parts(forward, np.zeros((4, 2), dtype=np.uint8), 4)


@pytest.mark.parametrize("compiled", [False, True])
def test_running_out_of_memory_halves_the_batch_and_goes_on(folder, monkeypatch, compiled):
    encoder = Encoder.from_pretrained(folder, device="cpu", dtype="float32")
    frames = clips(7)
    whole = encoder.encode_cropped(frames)
    network = encoder._network

    def too_small_a_device(batch):
        if len(batch) > 2:
            raise torch.OutOfMemoryError
        return network(batch)

    monkeypatch.setattr(encoder, "_compiled" if compiled else "_network", too_small_a_device)
    monkeypatch.setattr("vmae_embed.encoder.model.run_on_cores", lambda forward, batch, threads: forward(batch))
    encoder.batch_size = 8
    assert np.allclose(encoder.encode_cropped(frames), whole, atol=1e-6)
    assert encoder.batch_size <= 2
    assert np.allclose(encoder.encode_cropped(frames), whole, atol=1e-6)


def test_batch_larger_than_the_batch_size_is_split(folder):
    encoder = Encoder.from_pretrained(folder, device="cpu", dtype="float32")
    frames = clips(5)
    whole = encoder.encode_cropped(frames)
    encoder.batch_size = 2
    assert np.allclose(encoder.encode_cropped(frames), whole, atol=1e-6)
    assert encoder.batch_size == 2


def test_empty_batches(folder):
    encoder = Encoder.from_pretrained(folder, device="cpu")
    encoder.batch_size = 4
    assert encoder.encode_cropped(clips(1)[:0]).shape == (0, 48)
    memory = encoder.empty_batch()
    assert memory.shape == (encoder.batch_size, 16, 32, 32, 3)
    assert memory.dtype == np.uint8
    memory[:3] = clips(3)
    assert np.array_equal(encoder.encode_cropped(memory[:3]), encoder.encode_cropped(clips(3)))


def test_two_batches_at_once(folder):
    encoder = Encoder.from_pretrained(folder, device="cpu")
    first, second = clips(3, seed=1), clips(2, seed=2)
    pending = [encoder.submit(first), encoder.submit(second)]
    assert np.array_equal(pending[1].result(), encoder.encode_cropped(second))
    assert np.array_equal(pending[0].result(), encoder.encode_cropped(first))


def test_compiled_batches_all_have_one_shape_and_padding_changes_nothing(folder, monkeypatch):
    shapes = []

    def compile_nothing(network, **settings):
        def run(batch):
            shapes.append(len(batch))
            return network(batch)

        return run

    monkeypatch.setattr(torch, "compile", compile_nothing)
    plain = Encoder.from_pretrained(folder, device="cpu", dtype="float32")
    padded = Encoder.from_pretrained(folder, device="cpu", dtype="float32", compile=True)
    assert (plain.compiled, padded.compiled) == (False, True)
    padded.batch_size = 4
    for count in (1, 4, 6):
        assert np.allclose(padded.encode_cropped(clips(count)), plain.encode_cropped(clips(count)), atol=1e-6)
    assert shapes == [4, 4, 4, 4]


def test_what_cannot_be_compiled_runs_as_it_is_and_says_so_once(folder, monkeypatch):
    def compile_badly(network, **settings):
        def run(batch):
            raise RuntimeError("no C++ compiler\nwas found")

        return run

    expected = Encoder.from_pretrained(folder, device="cpu").encode(clips(3))
    monkeypatch.setattr(torch, "compile", compile_badly)
    encoder = Encoder.from_pretrained(folder, device="cpu", compile=True)
    with pytest.warns(UserWarning, match=r"going on without it \(no C\+\+ compiler was found\)") as caught:
        assert np.array_equal(encoder.encode(clips(3)), expected)
    assert len(caught) == 1
    assert not encoder.compiled
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        encoder.encode(clips(3))


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_compiled_for_real(folder):
    plain = Encoder.from_pretrained(folder, device="cpu", dtype="float32")
    compiled = Encoder.from_pretrained(folder, device="cpu", dtype="float32", compile=True)
    assert np.allclose(compiled.encode(clips(3)), plain.encode(clips(3)), rtol=1e-4, atol=1e-4)


@pytest.mark.gpu
def test_gpu_batches_overlap_without_mixing(folder):
    encoder = Encoder.from_pretrained(folder, device="cuda", dtype="float32")
    encoder.batch_size = 4
    batches = [encoder.empty_batch() for _ in range(3)]
    for seed, batch in enumerate(batches):
        batch[:] = clips(4, seed)
    pending = [encoder.submit(batch) for batch in batches]
    cpu = Encoder.from_pretrained(folder, device="cpu", dtype="float32")
    for batch, waiting in zip(batches, pending, strict=True):
        assert np.allclose(waiting.result(), cpu.encode_cropped(batch), rtol=1e-3, atol=1e-3)
