"""Loading a VideoMAE checkpoint, whole or not at all.

Two layouts are published (checked against transformers 5.23 and MCG-NJU/VideoMAE):

* pre-trained, ``VideoMAEForPreTraining``: the encoder ends in a layer norm over the tokens;
* fine-tuned, ``VideoMAEForVideoClassification``: the encoder has no final norm; the head's
  ``fc_norm`` is applied to the mean of the tokens. ``VideoMAEModel.from_pretrained`` drops it.

Hub files name the attention biases ``q_bias`` and ``v_bias``; transformers from 5.20 on maps them.
Whatever it does, a load that leaves any weight of the encoder missing or over is refused here.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import re
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vmae_embed.classifier import Classifier
from vmae_embed.errors import CheckpointError
from vmae_embed.preprocess import Preprocessing

if TYPE_CHECKING:
    import torch

DEFAULT_MODEL = "MCG-NJU/videomae-base-finetuned-kinetics"
# The same encoder before it was fine-tuned, with the decoder that fine-tuning does away with.
DEFAULT_PRETRAINED_MODEL = "MCG-NJU/videomae-base"

# The small checkpoint that the package brings along, for trying things out; README.md there is its card.
DEMO_MODEL = "demo"
_DEMO_FOLDER = Path(__file__).parent / "checkpoints" / "demo"

# Weights of a published checkpoint that no embedding needs.
_UNUSED = re.compile(r"^(decoder\.|encoder_to_decoder\.|mask_token$|classifier\.)")

# What every published VideoMAE checkpoint's preprocessor_config.json says (the ImageNet statistics).
_PUBLISHED_MEAN = (0.485, 0.456, 0.406)
_PUBLISHED_STD = (0.229, 0.224, 0.225)

# Of config.json, what changes the result though every weight fits: shapes tell the rest.
_SETTINGS = ("num_attention_heads", "layer_norm_eps", "hidden_act", "tubelet_size", "patch_size", "image_size")


@dataclass(frozen=True)
class Checkpoint:
    """A loaded encoder and what it needs.

    Attributes:
        name: hub id, absolute path of the local directory, or `DEMO_MODEL`.
        revision: of the hub repository; None for what is on this machine.
        backbone: transformers' ``VideoMAEModel``, in float32 on the CPU.
        pooled_norm: the head's ``fc_norm``; None where the backbone norms its tokens itself.
        classifier: the head; None where it was never trained, or is not there.
        preprocessing: the checkpoint's own.
        weights_sha256: of the encoder's weights, whatever file held them, and of the settings in
            its config.json that change what the same weights compute.
    """

    name: str
    revision: str | None
    backbone: Any
    pooled_norm: torch.nn.LayerNorm | None
    classifier: Classifier | None
    preprocessing: Preprocessing
    weights_sha256: str


@dataclass(frozen=True)
class PretrainedCheckpoint:
    """A loaded encoder with the decoder that it was pre-trained with.

    Attributes:
        name: hub id, absolute path of the local directory, or `DEMO_MODEL`.
        revision: of the hub repository; None for what is on this machine.
        model: transformers' ``VideoMAEForPreTraining``, in float32 on the CPU.
        preprocessing: the checkpoint's own.
    """

    name: str
    revision: str | None
    model: Any
    preprocessing: Preprocessing


def load_checkpoint(model: str | Path, revision: str | None = None) -> Checkpoint:
    """Load a checkpoint from a local directory or the Hugging Face hub.

    Args:
        model: directory with ``config.json`` and weights, a hub id such as `DEFAULT_MODEL`, or
            `DEMO_MODEL`, which names the package's own even where there is a directory ``demo``.
        revision: branch, tag or commit of the hub repository.

    Raises:
        CheckpointError: it cannot be found, is no VideoMAE, or its weights do not fit.
    """
    folder, name = _locate(str(model), revision)
    config = _read_config(folder)
    backbone, pooled_norm, classifier = _load_weights(folder, config)
    backbone.eval().requires_grad_(False)
    modules = [backbone] if pooled_norm is None else [backbone, pooled_norm.eval().requires_grad_(False)]
    _warn_of_heads(backbone.config)
    return Checkpoint(
        name=name,
        revision=revision,
        backbone=backbone,
        pooled_norm=pooled_norm,
        classifier=classifier,
        preprocessing=_read_preprocessing(folder, backbone.config),
        weights_sha256=_hash_encoder(modules, backbone.config),
    )


def load_pretrained(model: str | Path, revision: str | None = None) -> PretrainedCheckpoint:
    """Load a pre-trained checkpoint, encoder and decoder.

    Args:
        model: as `load_checkpoint` takes it.
        revision: branch, tag or commit of the hub repository.

    Raises:
        CheckpointError: as `load_checkpoint` does, or it has no decoder, as fine-tuned ones have none.
    """
    folder, name = _locate(str(model), revision)
    config = _read_config(folder)
    layout = _layout_of(config)
    if layout != "VideoMAEForPreTraining":
        raise CheckpointError(
            f"{name}: a {layout}, which has no decoder, as fine-tuned ones have none; give a pre-trained checkpoint "
            f"(VideoMAEForPreTraining) such as {DEFAULT_PRETRAINED_MODEL}, or {DEMO_MODEL} for the small one in this "
            "package"
        )
    whole, _ = _load_model(folder, layout, lambda _: True)
    _warn_of_heads(whole.config)
    return PretrainedCheckpoint(
        name=name,
        revision=revision,
        model=whole.eval().requires_grad_(False),
        preprocessing=_read_preprocessing(folder, whole.config),
    )


def _locate(model: str, revision: str | None) -> tuple[Path, str]:
    if model == DEMO_MODEL:
        return _DEMO_FOLDER, DEMO_MODEL
    folder = Path(model).expanduser()
    if folder.is_dir():
        return folder, str(folder.resolve())
    if not re.fullmatch(r"[\w.-]+/[\w.-]+", model) or model.startswith("."):
        raise CheckpointError(
            f"{model}: no such directory, and not a hub id; give a directory with config.json and weights, "
            f"an id such as {DEFAULT_MODEL}, or {DEMO_MODEL} for the small one in this package"
        )
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HFValidationError, RepositoryNotFoundError, RevisionNotFoundError

    try:
        found = Path(snapshot_download(model, revision=revision, allow_patterns=["*.json", "*.safetensors"]))
        if not any(found.glob("*.safetensors")):
            found = Path(snapshot_download(model, revision=revision, allow_patterns=["*.json", "*.bin"]))
    except (RepositoryNotFoundError, RevisionNotFoundError, HFValidationError) as error:
        detail = str(error).strip().splitlines()[0]
        raise CheckpointError(f"{model}: the Hugging Face hub has no such checkpoint ({detail})") from error
    except OSError as error:
        raise CheckpointError(
            f"{model} is not on this machine and the Hugging Face hub cannot be reached: where there is network, "
            f"run `hf download {model} --local-dir videomae`, copy that folder here, and pass --model videomae/; "
            f"to try things out offline, pass --model {DEMO_MODEL} (small, trained on generated videos)"
        ) from error
    return found, model


def _read_config(folder: Path) -> dict[str, Any]:
    path = folder / "config.json"
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise CheckpointError(f"{folder}: not a checkpoint, it has no config.json") from None
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{path}: cannot be read ({error})") from error
    if not isinstance(config, dict) or config.get("model_type") != "videomae":
        kind = config.get("model_type") if isinstance(config, dict) else None
        raise CheckpointError(f"{folder}: not a VideoMAE checkpoint (model_type is {kind!r}, not 'videomae')")
    return config


def _layout_of(config: dict[str, Any]) -> str:
    """Name of transformers' class that the weights are for."""
    layout: str = (config.get("architectures") or ["VideoMAEModel"])[0]
    return layout


def _load_weights(folder: Path, config: dict[str, Any]) -> tuple[Any, torch.nn.LayerNorm | None, Classifier | None]:
    model, missing = _load_model(folder, _layout_of(config), lambda key: not _UNUSED.match(key))
    backbone = getattr(model, "videomae", model)
    pooled_norm = getattr(model, "fc_norm", None)
    if backbone.layernorm is None and pooled_norm is None:
        raise CheckpointError(
            f"{folder}: the fine-tuned encoder's final norm (fc_norm) is not in it; "
            "save it from VideoMAEForVideoClassification, not from VideoMAEModel"
        )
    # transformers makes up a head that is not in the file: its labels would be random ones.
    is_trained = not any(key.startswith("classifier.") for key in missing)
    return backbone, pooled_norm, _take_classifier(model) if is_trained else None


def _take_classifier(model: Any) -> Classifier | None:
    import torch

    linear = getattr(model, "classifier", None)
    if not isinstance(linear, torch.nn.Linear):  # no head, or one of no labels
        return None
    names = model.config.id2label
    return Classifier(
        weight=linear.weight.detach().numpy(),
        bias=linear.bias.detach().numpy(),
        labels=tuple(str(names[i]) for i in range(len(linear.weight))),
        pooling="mean" if model.config.use_mean_pooling else "first-token",
    )


def _load_model(folder: Path, layout: str, is_needed: Callable[[str], bool]) -> tuple[Any, list[str]]:
    """Load transformers' class of that name, and say what the file lacks; nothing needed may be missing or over."""
    import transformers

    classes = {
        "VideoMAEForPreTraining": transformers.VideoMAEForPreTraining,
        "VideoMAEForVideoClassification": transformers.VideoMAEForVideoClassification,
        "VideoMAEModel": transformers.VideoMAEModel,
    }
    if layout not in classes:
        raise CheckpointError(f"{folder}: architecture {layout} is none of {', '.join(classes)}")
    try:
        with _quiet_transformers():
            model, info = classes[layout].from_pretrained(
                folder, local_files_only=True, output_loading_info=True, dtype="float32"
            )
    except Exception as error:  # transformers and its readers raise anything at all on damaged files
        detail = " ".join(str(error).split())[:300]
        raise CheckpointError(f"{folder}: its weights cannot be loaded ({detail})") from error
    wrong = {
        "missing": sorted(key for key in info["missing_keys"] if is_needed(key)),
        "unexpected": sorted(key for key in info["unexpected_keys"] if is_needed(key)),
        "of another shape": sorted(str(key) for key in info["mismatched_keys"]),
    }
    for problem, keys in wrong.items():
        if keys:
            more = f" and {len(keys) - 3} more" if len(keys) > 3 else ""
            raise CheckpointError(f"{folder}: weights {problem}: {', '.join(keys[:3])}{more}; it is not used")
    return model, list(info["missing_keys"])


def _read_preprocessing(folder: Path, config: Any) -> Preprocessing:
    size = config.image_size
    image_size = (size, size) if isinstance(size, int) else tuple(size)
    path, stated = _find_preprocessing(folder)
    if stated is None:
        warnings.warn(
            f"{folder.name} has no preprocessor_config.json; assuming what every published VideoMAE uses: "
            f"shortest edge {min(image_size)}, centre crop, ImageNet mean and deviation",
            stacklevel=2,
        )
        return Preprocessing(min(image_size), None, image_size, 2, 1 / 255, _PUBLISHED_MEAN, _PUBLISHED_STD)
    try:
        found = _parse_preprocessing(stated, image_size)
    except (KeyError, TypeError, ValueError, AttributeError, OSError) as error:
        detail = " ".join(str(error).split())[:200]
        raise CheckpointError(f"{path}: not preprocessing that VideoMAE uses ({detail})") from error
    if found.crop != image_size:
        raise CheckpointError(
            f"{folder}: its preprocessing crops to {found.crop[0]}x{found.crop[1]}, "
            f"its encoder takes {image_size[0]}x{image_size[1]}"
        )
    return found


def _find_preprocessing(folder: Path) -> tuple[Path, dict[str, Any] | None]:
    """Find the settings in any of the files that transformers' versions keep them in."""
    path = folder / "preprocessor_config.json"
    for name in ("preprocessor_config.json", "video_preprocessor_config.json", "processor_config.json"):
        path = folder / name
        try:
            stated = json.loads(path.read_text(encoding="utf-8"))
        except FileNotFoundError:
            continue
        except (OSError, ValueError) as error:
            raise CheckpointError(f"{path}: cannot be read ({' '.join(str(error).split())})") from error
        if isinstance(stated, dict):
            return path, stated.get("image_processor") or stated.get("video_processor") or stated
        raise CheckpointError(f"{path}: not an object of settings")
    return path, None


def _parse_preprocessing(stated: dict[str, Any], image_size: tuple[int, int]) -> Preprocessing:
    from transformers import VideoMAEImageProcessorPil

    with _quiet_transformers():
        processor: Any = VideoMAEImageProcessorPil.from_dict(stated)
    resized = processor.size
    if resized.get("longest_edge"):
        raise ValueError("size has a longest_edge")
    fixed = (int(resized["height"]), int(resized["width"])) if resized.get("height") else None
    crop = (int(processor.crop_size["height"]), int(processor.crop_size["width"]))
    return Preprocessing(
        shortest_edge=resized.get("shortest_edge") if processor.do_resize else None,
        resize=fixed if processor.do_resize else None,
        crop=crop if processor.do_center_crop else (fixed or image_size),
        resample=int(processor.resample),
        rescale=float(processor.rescale_factor) if processor.do_rescale else None,
        mean=_per_channel(processor.image_mean) if processor.do_normalize else (0.0, 0.0, 0.0),
        std=_per_channel(processor.image_std, above=0.0) if processor.do_normalize else (1.0, 1.0, 1.0),
    )


def _per_channel(value: Any, above: float = float("-inf")) -> tuple[float, float, float]:
    """Three numbers, or one for all three channels, as transformers takes them."""
    numbers = [float(number) for number in (value if isinstance(value, (list, tuple)) else [value] * 3)]
    if len(numbers) != 3 or not all(above < number < float("inf") for number in numbers):
        raise ValueError(f"{value} where three numbers per channel belong")
    return numbers[0], numbers[1], numbers[2]


def _warn_of_heads(config: Any) -> None:
    """ViT-S has 6 heads of 64 (VideoMAE's own code); some small hub checkpoints say 16. Both load."""
    if config.hidden_size == 384 and config.num_attention_heads != 6:
        warnings.warn(
            f"this small checkpoint's config.json names {config.num_attention_heads} attention heads where "
            "VideoMAE-S was trained with 6; its features are wrong unless it was trained otherwise",
            stacklevel=2,
        )


def _hash_encoder(modules: list[Any], config: Any) -> str:
    settings = {name: getattr(config, name) for name in _SETTINGS}
    digest = hashlib.sha256(json.dumps(settings, sort_keys=True).encode())
    for module in modules:
        for name, tensor in sorted(module.state_dict().items()):
            digest.update(f"{name}{tuple(tensor.shape)}".encode())
            digest.update(memoryview(tensor.contiguous().numpy()).cast("B"))
    return digest.hexdigest()


@contextlib.contextmanager
def _quiet_transformers() -> Iterator[None]:
    """Keep transformers' progress bars and load reports off the terminal: we check and report ourselves."""
    from transformers.utils import logging

    verbosity, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity(logging.CRITICAL)
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)
        if bars:
            logging.enable_progress_bar()
