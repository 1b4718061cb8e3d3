"""Classifying videos and libraries: the labels of plain transformers, averaged over clips and views."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import VideoMAEForVideoClassification

from tests.checkpoints import save_checkpoint
from tests.libraries import clustered, make_library
from tests.test_encoder import reference_pixels
from tests.videos import garbage, write_video
from vmae_embed.classification import classify_library, classify_videos, load_classifier, load_classifying_encoder
from vmae_embed.decode import decode_clips
from vmae_embed.errors import CheckpointError, IdentityMismatch, LibraryError, UsageError, VmaeEmbedError
from vmae_embed.extractor import load_encoder, run
from vmae_embed.library import Library
from vmae_embed.sampling import Sampling, plan_spans

NAMES = {0: "playing guitar", 1: "playing cello", 2: "abseiling", 3: "yoga", 4: "tap dancing"}


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    return save_checkpoint(tmp_path_factory.mktemp("checkpoint"), "finetuned", id2label=NAMES)


@pytest.fixture(scope="module")
def encoder(checkpoint):
    return load_classifying_encoder(checkpoint, device="cpu", dtype="float32")


@pytest.fixture(scope="module")
def videos(tmp_path_factory):
    """One of two clips, one of one, and one that is none."""
    folder = tmp_path_factory.mktemp("videos")
    write_video(folder / "long.mp4", frames=90)
    write_video(folder / "short.mp4", frames=30, first_index=500)
    garbage(folder / "broken.mp4")
    return folder


@pytest.fixture(scope="module")
def library(videos, encoder, tmp_path_factory):
    return run([videos], tmp_path_factory.mktemp("out") / "lib", encoder=encoder, workers=1).library


def reference(checkpoint, path, sampling, crop=None):
    """Probabilities ``(B, L)`` of a video's clips: whole pictures, transformers' processor, transformers' model."""
    clips = [batch.frames for batch in decode_clips(str(path), lambda t: plan_spans(t, sampling), lambda p: p.rgb())]
    clips = [clip if crop is None else crop(clip) for clip in clips]
    model = VideoMAEForVideoClassification.from_pretrained(checkpoint).eval()
    with torch.no_grad():
        return model(reference_pixels(checkpoint, clips)).logits.softmax(1).double().numpy()


def shrunk_to(left):
    """Pictures of 160 x 96 pixels, resized as the processor does, and cropped from this column on."""

    def crop(clip):
        resized = [Image.fromarray(frame).resize((53, 32), Image.Resampling.BILINEAR) for frame in clip]
        return np.stack([np.asarray(picture)[:, left : left + 32] for picture in resized])

    return crop


def assert_best(found, probabilities, k=5):
    order = np.argsort(-probabilities)[:k]
    assert [label for label, _ in found.best] == [NAMES[i] for i in order]
    assert [share for _, share in found.best] == pytest.approx(probabilities[order], abs=2e-3)


def test_a_videos_probabilities_are_the_mean_of_its_clips(checkpoint, encoder, videos):
    expected = reference(checkpoint, videos / "long.mp4", Sampling())
    assert np.abs(expected[0] - expected[1]).max() > 0.02  # else a mean would be either
    (clip, other), _ = classify_videos([videos / "long.mp4"], encoder, per_clip=True, exact_pixels=True, workers=1)
    assert (clip.clip_id, other.clip_id) == ("long.mp4#t=0.000,2.133", "long.mp4#t=0.867,3.000")
    assert_best(clip, expected[0])
    assert_best(other, expected[1])
    (video,), failures = classify_videos([videos / "long.mp4"], encoder, k=3, exact_pixels=True, workers=1)
    assert failures == []
    assert (video.video_id, video.clip_id, video.views, len(video.best)) == ("long.mp4", None, 2, 3)
    assert (video.start_s, video.end_s) == (0, pytest.approx(3))
    assert_best(video, expected.mean(0), k=3)
    by_clip = [dict(one.best) for one in (clip, other)]
    for label, share in video.best:
        assert share == pytest.approx((by_clip[0][label] + by_clip[1][label]) / 2, abs=1e-6)


def test_kinetics_views_are_five_clips_and_three_crops(checkpoint, encoder, videos):
    sampling = Sampling(stride=4, clips_per_video=5)
    parts = [reference(checkpoint, videos / "long.mp4", sampling, shrunk_to(left)) for left in (0, 10, 21)]
    assert [len(part) for part in parts] == [5, 5, 5]
    assert np.abs(parts[0] - parts[2]).max() > 0.02
    options = {"preset": "k400", "exact_pixels": True, "workers": 1}
    (video,), _ = classify_videos([videos / "long.mp4"], encoder, **options)
    assert video.views == 15
    assert_best(video, np.concatenate(parts).mean(0))
    clips, _ = classify_videos([videos / "long.mp4"], encoder, per_clip=True, **options)
    assert [clip.views for clip in clips] == [3] * 5
    for clip, expected in zip(clips, np.mean(parts, axis=0), strict=True):
        assert_best(clip, expected)


def test_ssv2_views_are_two_spreads_and_three_crops(encoder, videos):
    (video,), _ = classify_videos([videos / "short.mp4"], encoder, preset="ssv2", workers=1)
    assert (video.video_id, video.views) == ("short.mp4", 6)


def test_what_fails_is_told_beside_the_others(encoder, videos):
    found, failures = classify_videos([videos], encoder, workers=1)
    assert [one.video_id for one in found] == ["long.mp4", "short.mp4"]
    assert [(failure.video_id, failure.stage) for failure in failures] == [("broken.mp4", "open")]


def test_nothing_that_can_be_decoded_is_one_line(encoder, videos):
    with pytest.raises(VmaeEmbedError, match=r"^none of the 1 videos could be decoded; the first, broken.mp4: .*video"):
        classify_videos([videos / "broken.mp4"], encoder, workers=1)


def test_a_preset_that_is_none(encoder, videos):
    with pytest.raises(UsageError, match="preset='hmdb': give one of k400, ssv2, ucf101"):
        classify_videos([videos], encoder, preset="hmdb")
    with pytest.raises(UsageError, match="preset='ssv2' says how clips are cut: give no sampling beside it"):
        classify_videos([videos], encoder, preset="ssv2", sampling=Sampling())


def test_a_library_is_classified_as_its_videos_are(library, encoder, videos):
    expected, _ = classify_videos([videos], encoder, workers=1)
    found = list(classify_library(library, load_classifier(library)))
    assert sorted(found, key=lambda one: one.video_id) == expected
    clips = list(classify_library(library, load_classifier(library), k=1, per_clip=True))
    assert {clip.clip_id for clip in clips} == set(library.column("clip_id"))
    assert {clip.views for clip in clips} == {1}


def test_half_precision_on_disk_costs_little(library, encoder, videos, tmp_path):
    half = run([videos], tmp_path / "lib", encoder=encoder, workers=1, stored="float16").library
    classifier = load_classifier(half)
    exact, rounded = (classifier.probabilities(one.embeddings()) for one in (library, half))
    assert 0 < np.abs(exact - rounded).max() < 1e-3


def test_a_library_is_classified_by_its_own_checkpoint_alone(library, tmp_path):
    with pytest.raises(IdentityMismatch, match="their weights_sha256 differ"):
        load_classifier(library, save_checkpoint(tmp_path, "finetuned", seed=1))


def test_a_library_without_a_head_says_what_to_do(videos, tmp_path):
    pretrained = load_encoder(tmp_path / "lib", save_checkpoint(tmp_path / "checkpoint"), device="cpu")
    library = run([videos / "short.mp4"], tmp_path / "lib", encoder=pretrained, workers=1).library
    with pytest.raises(CheckpointError, match=r"lib: .* has no classifier.* or give the videos instead of the library"):
        load_classifier(library)
    with pytest.raises(CheckpointError, match="has no classifier"):
        load_classifying_encoder(pretrained.identity["checkpoint"], device="cpu")


def test_a_library_of_other_pooling_says_what_to_do(videos, checkpoint, tmp_path):
    encoder = load_encoder(tmp_path / "lib", checkpoint, device="cpu", pooling="first-token")
    library = run([videos / "short.mp4"], tmp_path / "lib", encoder=encoder, workers=1).library
    with pytest.raises(UsageError, match=r"takes mean pooling, .* made with first-token; give --pooling mean"):
        load_classifier(library)


def test_a_head_of_the_first_token_finds_its_pooling(videos, tmp_path):
    folder = save_checkpoint(tmp_path, "finetuned", use_mean_pooling=False, id2label=NAMES)
    encoder = load_classifying_encoder(folder, device="cpu", dtype="float32")
    (video,), _ = classify_videos([videos / "short.mp4"], encoder, exact_pixels=True, workers=1)
    assert_best(video, reference(folder, videos / "short.mp4", Sampling())[0])


def test_imported_vectors_have_no_classifier(tmp_path):
    made = make_library(tmp_path / "lib", clustered(8, 16))
    imported = replace(
        made.config, encoder={**made.config.encoder, "imported": True}, sampling=None, preprocessing=None
    )
    with pytest.raises(LibraryError, match=r"was imported: .* give the videos instead"):
        load_classifier(Library(made.path, imported))
