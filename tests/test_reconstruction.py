"""Masked reconstruction: transformers' own loss, tubes, clips that are cut and decoded again as they were embedded."""

from __future__ import annotations

import json
import os
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pyarrow as pa
import pytest
import torch
from PIL import Image
from transformers import VideoMAEForPreTraining, VideoMAEImageProcessorPil

from tests import videos
from tests.checkpoints import save_checkpoint
from tests.libraries import identity
from vmae_embed.checkpoint import load_pretrained
from vmae_embed.decode import cropping, decode_clips, open_video
from vmae_embed.errors import CheckpointError, DecodeError, LibraryError, UsageError
from vmae_embed.library import Library, LibraryConfig, clip_rows
from vmae_embed.preprocess import Preprocessing
from vmae_embed.reconstruction import (
    LibraryLosses,
    Reconstruction,
    Reconstructor,
    check_picture,
    choose_clip,
    decode_clip,
    measure_library,
    tube_mask,
    write_picture,
)
from vmae_embed.reconstruction.over import ClipLoss
from vmae_embed.reconstruction.picture import draw, masked
from vmae_embed.records import Video, clip_id
from vmae_embed.sampling import Sampling, plan_spans

GRID = (8, 4, 4)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    """Of 4 x 4 patches a frame."""
    return save_checkpoint(tmp_path_factory.mktemp("reconstruction") / "checkpoint", patch_size=8)


@pytest.fixture(scope="module")
def reconstructor(checkpoint):
    return Reconstructor.from_pretrained(checkpoint, device="cpu")


@pytest.fixture(scope="module")
def clip():
    """Textured frames of the crop's size."""
    return np.random.default_rng(0).integers(0, 256, (16, 32, 32, 3), dtype=np.uint8)


def patches(frames: np.ndarray) -> np.ndarray:
    """``(N, 2*8*8, 3)`` patches, cut one by one, in the order of tokens."""
    cuts = [frames[2 * t : 2 * t + 2, 8 * i : 8 * i + 8, 8 * j : 8 * j + 8] for t, i, j in np.ndindex(GRID)]
    return np.stack([cut.reshape(-1, 3) for cut in cuts])


# Masks -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("grid", "ratio", "hidden"),
    [((8, 14, 14), 0.9, 176), ((8, 14, 14), 0.75, 147), ((8, 7, 7), 0.9, 44), ((2, 10, 10), 0.29, 28)],
)
def test_as_many_patches_are_hidden_as_videomae_hides(grid, ratio, hidden):
    """The last one: 0.29 * 100 is 28.999... in floating point, and VideoMAE's code cuts it off."""
    mask = tube_mask(grid, ratio)
    assert mask.shape == grid
    assert mask.sum((1, 2)).tolist() == [hidden] * grid[0]


def test_tubes_are_the_same_patches_at_all_moments():
    mask = tube_mask((8, 14, 14))
    assert (mask == mask[:1]).all()


def test_the_seed_decides_the_mask():
    first, again, other = (tube_mask((8, 14, 14), seed=seed) for seed in (3, 3, 4))
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)


@pytest.mark.parametrize("ratio", [0.0, 1.0, -0.1, 1.5, float("nan"), 0.01])
def test_a_ratio_that_hides_nothing_or_all_is_refused(ratio):
    with pytest.raises(UsageError, match=r"mask-ratio=.*between 0 and 1 .* 16 patches"):
        tube_mask(GRID, ratio)


def test_a_negative_seed_is_refused():
    with pytest.raises(UsageError, match="seed=-1"):
        tube_mask(GRID, seed=-1)


# The model ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("mean", [[0.485, 0.456, 0.406], [0.5, 0.4, 0.3]])
@pytest.mark.parametrize("normalises", [True, False])
def test_the_loss_is_transformers_own(tmp_path, clip, normalises, mean):
    """Also where the checkpoint's statistics are not ImageNet's, which transformers' loss assumes."""
    folder = save_checkpoint(tmp_path, patch_size=8, norm_pix_loss=normalises)
    stated = json.loads((folder / "preprocessor_config.json").read_text())
    (folder / "preprocessor_config.json").write_text(json.dumps({**stated, "image_mean": mean}))
    mask = tube_mask(GRID, 0.75, seed=1)
    made = Reconstructor.from_pretrained(folder, device="cpu").reconstruct(clip, mask)
    pixels = VideoMAEImageProcessorPil.from_pretrained(folder)(list(clip), return_tensors="pt").pixel_values
    model = VideoMAEForPreTraining.from_pretrained(folder).eval()
    with torch.no_grad():
        loss = model(pixels, bool_masked_pos=torch.from_numpy(mask).flatten()[None]).loss
    assert made.loss == pytest.approx(loss.item(), rel=1e-5)


@pytest.mark.parametrize("normalises", [True, False])
def test_the_baseline_is_the_loss_of_each_patchs_mean(tmp_path, clip, normalises):
    """Where patches are normalised, that of a decoder that says nothing; else their variance."""
    folder = save_checkpoint(tmp_path, patch_size=8, norm_pix_loss=normalises)
    loaded = load_pretrained(folder)
    torch.nn.init.zeros_(loaded.model.decoder.head.weight)
    torch.nn.init.zeros_(loaded.model.decoder.head.bias)
    mask = tube_mask(GRID)
    made = Reconstructor(loaded, device="cpu").reconstruct(clip, mask)
    variance = (patches(clip)[mask.flatten()] / 255).var(1).mean()
    assert made.baseline == pytest.approx(made.loss if normalises else variance, rel=1e-5)
    assert made.baseline == pytest.approx(127 / 128 if normalises else variance, rel=1e-4)


def test_of_a_single_colour_the_baseline_is_nothing(reconstructor):
    grey = np.full((16, 32, 32, 3), 77, dtype=np.uint8)
    assert reconstructor.reconstruct(grey, tube_mask(GRID)).baseline < 0.01


def test_what_is_seen_stays_and_what_is_hidden_is_painted(reconstructor, clip):
    mask = tube_mask(GRID)
    made = reconstructor.reconstruct(clip, mask)
    before, after = patches(made.original), patches(made.reconstructed)
    is_hidden = mask.flatten()
    assert np.array_equal(made.original, clip)
    assert np.array_equal(after[~is_hidden], before[~is_hidden])
    assert (after != before).any((1, 2))[is_hidden].all()


def painted(checkpoint, normalises: bool, predicted: np.ndarray, clip: np.ndarray, mask: np.ndarray) -> Reconstruction:
    """A reconstruction by a model that predicts just this ``(n, 2*8*8, 3)``."""
    reconstructor = Reconstructor.from_pretrained(checkpoint, device="cpu")
    logits = torch.from_numpy(predicted).float().flatten(1)[None]
    reconstructor._model = lambda *_, **__: SimpleNamespace(loss=torch.zeros(()), logits=logits)
    reconstructor.normalises_patches = normalises
    return reconstructor.reconstruct(clip, mask)


def test_the_right_answer_paints_the_original(checkpoint, clip):
    mask = tube_mask(GRID, seed=2)
    hidden = patches(clip)[mask.flatten()] / 255
    answers = {False: hidden, True: (hidden - hidden.mean(1, keepdims=True)) / hidden.std(1, ddof=1, keepdims=True)}
    for normalises, answer in answers.items():
        made = painted(checkpoint, normalises, answer, clip, mask)
        assert np.abs(made.reconstructed.astype(int) - clip).max() <= 1


def test_a_normalised_patch_is_drawn_with_the_originals_mean_and_deviation(checkpoint, clip):
    mask = tube_mask(GRID, seed=2)
    calm = (clip // 4 + 90).astype(np.uint8)
    ones = np.ones((int(mask.sum()), 128, 3))
    hidden = patches(calm)[mask.flatten()]
    made = painted(checkpoint, True, ones, calm, mask)
    expected = hidden.mean(1) + hidden.std(1, ddof=1)
    assert np.abs(patches(made.reconstructed)[mask.flatten()] - expected[:, None]).max() <= 0.51


def test_a_finetuned_checkpoint_is_refused(tmp_path):
    folder = save_checkpoint(tmp_path, "finetuned")
    with pytest.raises(CheckpointError, match=r"no decoder.*pre-trained checkpoint \(VideoMAEForPreTraining\)"):
        Reconstructor.from_pretrained(folder)


def test_a_decoder_with_a_weight_missing_is_refused(tmp_path):
    from safetensors.torch import load_file, save_file

    folder = save_checkpoint(tmp_path)
    weights = load_file(folder / "model.safetensors")
    del weights["decoder.head.bias"]
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    with pytest.raises(CheckpointError, match=r"weights missing: decoder\.head\.bias"):
        Reconstructor.from_pretrained(folder)


def test_weights_that_give_no_finite_loss_are_told(checkpoint, clip):
    loaded = load_pretrained(checkpoint)
    loaded.model.encoder_to_decoder.weight[0, 0] = float("inf")
    with pytest.raises(CheckpointError, match="loss is not finite"):
        Reconstructor(loaded, device="cpu").reconstruct(clip, tube_mask(GRID))


# The clip that is asked for ----------------------------------------------------------------------

WHOLE = Preprocessing(None, (96, 160), (96, 160), 2, 1 / 255, (0.5, 0.5, 0.5), (0.5, 0.5, 0.5))


@pytest.fixture(scope="module")
def video(tmp_path_factory):
    """Four seconds at 30 frames a second."""
    return videos.write_video(tmp_path_factory.mktemp("clip") / "v.mp4", frames=120)


@pytest.mark.parametrize(
    ("fragment", "at", "first"),
    [
        ("", None, 28),
        ("", "middle", 28),
        ("", "first", 0),
        ("#t=1", None, 30),
        ("#t=1", "middle", 43),
        ("#t=0.5,4", "first", 15),
    ],
)
def test_which_clip_is_taken(video, fragment, at, first):
    """A clip of 64 frames at stride 4; read from the pictures themselves."""
    batch = decode_clip(choose_clip(f"{video}{fragment}", at), Sampling(stride=4), WHOLE)
    assert [videos.read_index(frame) for frame in batch.frames] == [first + 4 * i for i in range(16)]


def test_a_short_moment_repeats_its_last_frame(video):
    batch = decode_clip(choose_clip(f"{video}#t=1,1.5"), Sampling(stride=2), WHOLE)
    assert [videos.read_index(frame) for frame in batch.frames] == [*range(30, 46, 2)][:8] + [44] * 8


def test_clips_that_there_are_none_of(video, tmp_path):
    with pytest.raises(UsageError, match="no such file"):
        choose_clip(f"{tmp_path}/gone.mp4")
    with pytest.raises(UsageError, match="a folder; give one video"):
        choose_clip(f"{tmp_path}")
    with pytest.raises(UsageError, match=r"not a moment; write it as .*v\.mp4#t=3,5"):
        choose_clip(f"{video}#t=soon")
    with pytest.raises(DecodeError, match=r"v\.mp4: nothing from 9 s on"):
        decode_clip(choose_clip(f"{video}#t=9"), Sampling(), WHOLE)
    garbage = videos.garbage(tmp_path / "garbage.mp4")
    with pytest.raises(DecodeError, match=r"garbage\.mp4: .*not a readable video"):
        decode_clip(choose_clip(str(garbage)), Sampling(), WHOLE)


# The picture -------------------------------------------------------------------------------------


def test_the_picture_shows_frames_of_all_three(reconstructor, clip, tmp_path):
    made = reconstructor.reconstruct(clip, tube_mask(GRID))
    times = np.arange(16) / 7.5
    with Image.open(write_picture(tmp_path / "p.png", made, times, title="title", notes="notes")) as written:
        picture = np.asarray(written)
    rows = [made.original, masked(made), made.reconstructed]
    for row, clip in enumerate(rows):
        for column, frame in enumerate(clip[::2]):
            top, left = 64 + row * 164, 132 + column * 164
            shown = picture[top : top + 160, left : left + 160]
            assert np.array_equal(shown, np.kron(frame, np.ones((5, 5, 1), np.uint8))), (row, column)


def test_masked_hides_what_was_hidden_and_no_more(reconstructor, clip):
    made = reconstructor.reconstruct(clip, tube_mask(GRID))
    shown, is_hidden = patches(masked(made)), made.mask.flatten()
    assert (shown[is_hidden] == 200).all()
    assert np.array_equal(shown[~is_hidden], patches(clip)[~is_hidden])


def test_of_many_frames_eight_are_shown(clip):
    few = Reconstruction(1.0, 1.0, tube_mask(GRID), clip, clip)
    twice = np.concatenate([clip, clip])
    many = Reconstruction(1.0, 1.0, tube_mask((16, 4, 4)), twice, twice)
    assert draw(many, np.arange(32.0)).size == draw(few, np.arange(16.0)).size


def test_a_picture_that_cannot_be_written(tmp_path, reconstructor, clip):
    with pytest.raises(UsageError, match=r"p\.jpg: give a name that ends in \.png"):
        check_picture(tmp_path / "p.jpg", overwrite=True)
    (tmp_path / "p.png").write_bytes(b"mine")
    with pytest.raises(UsageError, match="exists; give another name, or --overwrite"):
        check_picture(tmp_path / "p.png", overwrite=False)
    assert check_picture(tmp_path / "p.png", overwrite=True) == tmp_path / "p.png"
    made = reconstructor.reconstruct(clip, tube_mask(GRID))
    with pytest.raises(UsageError, match="cannot be written"):
        write_picture(tmp_path / "gone/p.png", made, np.arange(16.0))


# A library's clips -------------------------------------------------------------------------------


def make_library(folder: Path, paths: list[Path], sampling: Sampling, preprocessing: Preprocessing) -> Library:
    """A library of real videos, cut as `extract` cuts them; embeddings are made up."""
    library = Library.create(folder, LibraryConfig(identity(), sampling, preprocessing, "float32", {}, {}))
    tables = []
    for path in paths:
        status = os.stat(path)
        reader = open_video(str(path))
        spans = list(plan_spans(reader.timeline, sampling))
        reader.close()
        video = Video(path.name, str(path), status.st_size, status.st_mtime_ns)
        tables.append(clip_rows(video, reader.timeline, spans, np.zeros((len(spans), 16)), library.schema))
    library.write_unit("0" * 16, pa.concat_tables(tables), [])
    return library


@pytest.fixture(scope="module")
def paths(tmp_path_factory):
    folder = tmp_path_factory.mktemp("over")
    lengths = [40, 130, 200, 77]
    return [
        videos.write_video(folder / f"v{n}.mp4", frames=length, first_index=300 * n) for n, length in enumerate(lengths)
    ]


@pytest.mark.parametrize(
    "sampling",
    [Sampling(), Sampling(hop_s=0.7), Sampling(stride=3), Sampling(clips_per_video=3), Sampling(uniform=True)],
    ids=str,
)
def test_stored_clips_are_decoded_as_they_were_embedded(tmp_path, paths, reconstructor, sampling):
    library = make_library(tmp_path / "lib", paths, sampling, reconstructor.preprocessing)
    mask = tube_mask(GRID)
    pixels = cropping(reconstructor.preprocessing, exact_pixels=True)
    expected = {
        clip_id(path.name, batch.span.start_s, batch.span.end_s): reconstructor.reconstruct(batch.frames, mask).loss
        for path in paths
        for batch in decode_clips(str(path), lambda timeline: plan_spans(timeline, sampling), pixels)
    }
    found = measure_library(library, reconstructor, mask, clips=1000)
    assert {clip.clip_id: clip.loss for clip in found.measured} == pytest.approx(expected, rel=1e-6)
    assert found.losses.tolist() == sorted(expected.values(), key=float)
    assert (found.skipped, found.videos, found.among) == ((), 4, len(expected))


def test_clips_are_drawn_one_a_video_first(tmp_path, paths, reconstructor):
    library = make_library(tmp_path / "lib", paths, Sampling(), reconstructor.preprocessing)
    seen = []
    found = measure_library(
        library, reconstructor, tube_mask(GRID), clips=4, observe=lambda done, total: seen.append((done, total))
    )
    assert {clip.path for clip in found.measured} == {str(path) for path in paths}
    assert seen == [(1, 4), (2, 4), (3, 4), (4, 4)]
    names = [
        {clip.clip_id for clip in measure_library(library, reconstructor, tube_mask(GRID), clips=5, seed=seed).measured}
        for seed in (0, 0, 1, 2)
    ]
    assert names[0] == names[1]
    assert names[0] != names[2] or names[0] != names[3]


def test_clips_that_cannot_be_had_again_are_skipped_and_told(tmp_path, reconstructor):
    lengths = {"whole": 70, "gone": 70, "changed": 70, "damaged": 200}
    made = {name: videos.write_video(tmp_path / f"{name}.mp4", frames=length) for name, length in lengths.items()}
    library = make_library(tmp_path / "lib", list(made.values()), Sampling(), reconstructor.preprocessing)
    made["gone"].unlink()
    made["changed"].write_bytes(made["changed"].read_bytes() + b" ")
    status = os.stat(made["damaged"])
    data = bytearray(made["damaged"].read_bytes())
    data[len(data) // 2 : len(data) * 3 // 4] = bytes(len(data) * 3 // 4 - len(data) // 2)
    made["damaged"].write_bytes(data)
    os.utime(made["damaged"], ns=(status.st_atime_ns, status.st_mtime_ns))
    found = measure_library(library, reconstructor, tube_mask(GRID))
    reasons = {clip.clip_id.partition(".mp4")[0]: clip for clip in found.skipped}
    assert set(reasons) == {"gone", "changed", "damaged"}
    assert (reasons["gone"].stage, reasons["changed"].stage) == ("open", "open")
    assert "gone.mp4 is gone" in reasons["gone"].reason
    assert "has changed since it was extracted" in reasons["changed"].reason
    assert {clip.path for clip in found.measured} >= {str(made["whole"])}
    assert len(found.measured) + len(found.skipped) == found.among


def test_a_library_of_which_nothing_is_left(tmp_path, paths, reconstructor):
    copy = tmp_path / "v.mp4"
    copy.write_bytes(paths[0].read_bytes())
    library = make_library(tmp_path / "lib", [copy], Sampling(), reconstructor.preprocessing)
    copy.unlink()
    with pytest.raises(LibraryError, match=r"none of 1 clips could be decoded again; the first: .*v\.mp4 is gone"):
        measure_library(library, reconstructor, tube_mask(GRID))


def test_libraries_that_do_not_fit(tmp_path, paths, reconstructor):
    mask, own = tube_mask(GRID), reconstructor.preprocessing
    shorter = make_library(tmp_path / "shorter", paths[:1], Sampling(frames=8), own)
    with pytest.raises(UsageError, match=r"clips have 8 frames, .* takes 16"):
        measure_library(shorter, reconstructor, mask)
    empty = Library.create(tmp_path / "empty", LibraryConfig(identity(), Sampling(), own, "float32", {}, {}))
    with pytest.raises(LibraryError, match="holds no clips"):
        measure_library(empty, reconstructor, mask)
    imported = Library.create(tmp_path / "imported", LibraryConfig(identity(), None, None, "float32", {}, {}))
    with pytest.raises(LibraryError, match="its vectors were imported"):
        measure_library(imported, reconstructor, mask)
    with pytest.raises(UsageError, match="clips=0"):
        measure_library(shorter, reconstructor, mask, clips=0)


def test_where_a_loss_lies_in_a_distribution():
    clips = tuple(ClipLoss(str(loss), "", loss, 1.0) for loss in (0.1, 0.2, 0.2, 0.3, 0.5))
    losses = LibraryLosses(clips, (), 1, 5)
    assert [losses.rank(loss) for loss in (0.0, 0.1, 0.2, 0.4, 0.6)] == pytest.approx([0, 10, 40, 80, 100])
    assert losses.percentiles == pytest.approx({5: 0.12, 25: 0.2, 50: 0.2, 75: 0.3, 95: 0.46})
