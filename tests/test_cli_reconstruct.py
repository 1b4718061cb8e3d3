"""``vmae-embed reconstruct`` as its users meet it."""

from __future__ import annotations

import json
from functools import partial

import pytest
from PIL import Image

from tests import videos
from tests.checkpoints import save_checkpoint
from tests.test_reconstruction import make_library
from vmae_embed.checkpoint import load_pretrained
from vmae_embed.sampling import Sampling


@pytest.fixture
def run(run):
    return partial(run, "reconstruct")


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    root = tmp_path_factory.mktemp("cli")
    checkpoint = save_checkpoint(root / "checkpoint", patch_size=8)
    save_checkpoint(root / "finetuned", "finetuned")
    paths = [videos.write_video(root / f"v{n}.mp4", frames=130, first_index=300 * n) for n in range(3)]
    make_library(root / "lib", paths, Sampling(stride=4), load_pretrained(checkpoint).preprocessing)
    (root / "garbage.mp4").write_bytes(b"x")
    (root / "mine.png").write_bytes(b"mine")
    return root


def test_a_clip_and_its_picture(made, run, tmp_path):
    arguments = (f"{made}/v0.mp4#t=1,3.2", "--model", made / "checkpoint", "--seed", 3)
    code, out, err = run(*arguments, "-o", tmp_path / "p.png")
    assert code == 0
    lines = dict(line.split(maxsplit=1) for line in out.splitlines() if not line.startswith("patch means"))
    assert lines["clip"] == f"{made}/v0.mp4#t=1.000,3.133"
    assert lines["masked"] == "14 of 16 patches hidden, seed 3"
    assert "the loss of filling each patch with its own mean colour" in out
    assert err == f"picture: {tmp_path}/p.png\n"
    with Image.open(tmp_path / "p.png") as picture:
        assert (picture.format, picture.width) == ("PNG", 132 + 8 * 164 + 16)
    code, out, _ = run(*arguments, "--format", "json")
    result = json.loads(out)
    assert f"{result['clip']['loss']:.4f}" == lines["loss"]
    assert 0 < result["clip"]["baseline"] < 1
    assert (result["norm_pix_loss"], result["hidden_patches"], result["patches"]) == (True, 14, 16)


def test_options_change_what_is_measured(made, run):
    def loss(*options):
        _, out, _ = run(made / "v0.mp4", "--model", made / "checkpoint", "--format", "json", *options)
        return json.loads(out)["clip"]["loss"]

    losses = [loss(), loss("--seed", 1), loss("--mask-ratio", 0.5), loss("--at", "first"), loss("--fps", 15)]
    assert loss() == losses[0]
    assert len(set(losses)) == len(losses)
    assert loss("--stride", 2) == loss("--fps", 15)


def test_over_a_library(made, run):
    arguments = ("--over", made / "lib", "--model", made / "checkpoint", "--format", "json")
    code, out, _ = run(made / "v1.mp4", *arguments, "--at", "first")
    result = json.loads(out)
    assert code == 0
    library, clip = result["library"], result["clip"]
    listed = {one["clip_id"]: one["loss"] for one in library["easiest"] + library["hardest"]}
    assert (library["clips"], library["measured"], library["videos"]) == (len(listed), len(listed), 3)
    # It is a clip of the library: sampled and measured alike.
    assert listed["v1.mp4#t=0.000,2.133"] == clip["loss"]
    below = sum(loss < clip["loss"] for loss in listed.values())
    assert clip["percentile"] == pytest.approx(100 * (below + 0.5) / len(listed))
    assert library["mean"] == pytest.approx(sum(listed.values()) / len(listed))
    assert library["percentiles"]["5"] < library["percentiles"]["50"] < library["percentiles"]["95"]
    assert library["easiest"][0]["loss"] == min(listed.values())
    assert library["hardest"][0]["loss"] == max(listed.values())
    _, out, _ = run("--over", made / "lib", "--model", made / "checkpoint", "--clips", 2)
    assert f"{made}/lib: 2 of {len(listed)} clips, of 2 videos" in out
    assert "this clip" not in out
    for name in ("mean loss", "percentiles", "hardest", "easiest"):
        assert f"\n{name}" in out


def test_clips_that_are_gone_are_told_and_the_exit_code_says_so(made, run, tmp_path):
    copies = [tmp_path / name for name in ("a.mp4", "b.mp4")]
    for copy in copies:
        copy.write_bytes((made / "v0.mp4").read_bytes())
    make_library(tmp_path / "lib", copies, Sampling(), load_pretrained(made / "checkpoint").preprocessing)
    copies[0].unlink()
    code, out, err = run("--over", tmp_path / "lib", "--model", made / "checkpoint", "--format", "json")
    assert code == 3
    result = json.loads(out)["library"]
    assert {clip["clip_id"].partition("#")[0] for clip in result["skipped"]} == {"a.mp4"}
    assert len(result["skipped"]) + result["measured"] == result["clips"]
    assert f"{copies[0]} is gone" in err
    assert f"skipped: {len(result['skipped'])} of {result['clips']} clips (open {len(result['skipped'])})" in err
    copies[1].unlink()
    code, out, err = run("--over", tmp_path / "lib", "--model", made / "checkpoint")
    assert (code, out) == (1, "")
    assert "could be decoded again" in err


def test_the_checkpoint_of_the_package_works_offline(made, run):
    code, out, _ = run(made / "v0.mp4", "--model", "demo", "--format", "json")
    result = json.loads(out)
    assert (code, result["hidden_patches"]) == (0, 44)
    assert 0 < result["clip"]["loss"] < 2


@pytest.mark.parametrize(
    ("arguments", "code", "fragments"),
    [
        ([], 2, ["Missing argument 'VIDEO'", "--over"]),
        (["{v}", "--model", "{made}/finetuned"], 1, ["no decoder", "give a pre-trained checkpoint"]),
        (["{v}", "--model", "nowhere"], 1, ["no such directory, and not a hub id"]),
        (["{v}", "--model", "{ck}", "--mask-ratio", "90"], 2, ["mask-ratio=90: give a share between 0 and 1"]),
        (["{v}", "--model", "{ck}", "--seed", "-1"], 2, ["seed=-1"]),
        (["{v}", "--model", "{ck}", "--fps", "0"], 2, ["fps=0"]),
        (["{v}", "--model", "{ck}", "--device", "warp"], 2, ["device='warp'"]),
        (["{v}", "--fps", "5", "--stride", "2"], 2, ["--fps and --stride contradict each other"]),
        (["{v}", "--at", "last"], 2, ["'last' is not one of"]),
        (["{v}", "--clips", "5"], 2, ["--clips: is about a library", "--over LIB"]),
        (["--over", "{made}/lib", "-o", "{made}/p.png"], 2, ["-o: is about a VIDEO"]),
        (["--over", "{made}/lib", "--stride", "2"], 2, ["--over and --stride contradict", "as the library was made"]),
        (["--over", "{made}/none", "--model", "{ck}"], 1, ["not a library (no such directory)"]),
        (["--over", "{made}/lib", "--clips", "0", "--model", "{ck}"], 2, ["clips=0"]),
        (["{v}", "--model", "{ck}", "-o", "{made}/p.jpg"], 2, ["p.jpg: give a name that ends in .png"]),
        (["{v}", "--model", "{ck}", "-o", "{made}/mine.png"], 2, ["mine.png: exists", "--overwrite"]),
        (["{v}", "--model", "{ck}", "-o", "{made}/none/p.png"], 2, ["its folder does not exist"]),
        (["{made}/none.mp4", "--model", "{ck}"], 2, ["none.mp4: no such file"]),
        (["{made}", "--model", "{ck}"], 2, ["a folder; give one video"]),
        (["{made}/garbage.mp4", "--model", "{ck}"], 1, ["garbage.mp4: ", "not a readable video"]),
        (["{v}#t=60", "--model", "{ck}"], 1, ["nothing from 60 s on"]),
    ],
)
def test_misuse_is_one_line_that_says_what_to_do(made, run, arguments, code, fragments):
    places = {"made": made, "ck": made / "checkpoint", "v": made / "v0.mp4"}
    found, out, err = run(*[argument.format(**places) for argument in arguments])
    assert (found, out) == (code, "")
    (line,) = err.splitlines()
    assert line.startswith("error: ")
    for fragment in fragments:
        assert fragment in line
    assert (made / "mine.png").read_bytes() == b"mine"


def test_a_picture_is_replaced_when_that_is_asked_for(made, run, tmp_path):
    picture = tmp_path / "p.png"
    picture.write_bytes(b"old")
    assert run(made / "v0.mp4", "--model", made / "checkpoint", "-o", picture, "--overwrite")[0] == 0
    with Image.open(picture) as written:
        assert written.format == "PNG"


def test_the_default_is_the_checkpoint_of_the_library(made, run):
    """Which is made up here: it is looked for by its name."""
    code, _, err = run("--over", made / "lib")
    assert code == 1
    assert err.startswith("error: made-up: no such directory, and not a hub id")
