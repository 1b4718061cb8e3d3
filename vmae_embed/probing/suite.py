"""All probes on one library, judged alike; and two libraries side by side."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from vmae_embed.errors import ProbeError
from vmae_embed.intervals import Estimate
from vmae_embed.labels import Label, label_order
from vmae_embed.library import Library
from vmae_embed.presets import Preset
from vmae_embed.probes import SavedProbe
from vmae_embed.probing.measures import Difference, Judged, compare, measure, of_clips, of_videos
from vmae_embed.probing.protocol import Answers, Probe, ask, few_shot, splits_of
from vmae_embed.probing.rows import Rows
from vmae_embed.views import Views

Observer = Callable[[str, int, int], None]


@dataclass(frozen=True, slots=True)
class Result:
    """What one probe made of one library.

    Attributes:
        probe: its name.
        shots: clips a class that it was fitted to; None for all.
        answers: what it said.
        clips: judged clip by clip.
        videos: judged video by video, each by the mean of its clips' probabilities.
        clip_figures: of ``clips``, by measure.
        video_figures: of ``videos``.
    """

    probe: str
    shots: int | None
    answers: Answers
    clips: Judged
    videos: Judged
    clip_figures: dict[str, Estimate]
    video_figures: dict[str, Estimate]

    @property
    def name(self) -> str:
        """The probe, and how few shots it had."""
        return self.probe if self.shots is None else f"{self.probe}, {self.shots} a class"

    @property
    def chance(self) -> float:
        """Accuracy of guessing."""
        return 1 / len(self.answers.classes)

    def majority(self, judged: Judged) -> float:
        """Accuracy of always giving the commonest label of the training side."""
        return float(np.mean(judged.majority == judged.truth))

    def per_class(self) -> dict[str, tuple[float, float]]:
        """For each class that is tested, the share of its videos that are right, and how many there are in a repeat."""
        n_classes, repeats = len(self.answers.classes), int(self.videos.repeats.max()) + 1
        total = np.bincount(self.videos.truth, minlength=n_classes)
        right = np.bincount(self.videos.truth[self.videos.predicted == self.videos.truth], minlength=n_classes)
        return {
            str(label): (right[code] / total[code], total[code] / repeats)
            for code, label in enumerate(self.answers.classes)
            if total[code]
        }


@dataclass(frozen=True, slots=True)
class Evaluation:
    """What probes made of one library.

    Attributes:
        library: whose embeddings, or views.
        rows: labelled clips.
        split: how they were split, in words.
        results: of each probe, with all clips and then with few.
        folds: by video, in which it was tested.
    """

    library: Library | Views
    rows: Rows
    split: str
    results: list[Result]
    folds: dict[str, int]

    @property
    def preset(self) -> Preset | None:
        """Whose views are looked at; None of a library by itself."""
        return self.library.preset if isinstance(self.library, Views) else None


def evaluate_probes(
    library: Library | Views,
    rows: Rows,
    probes: Mapping[str, Callable[[], Probe]],
    *,
    grouped_by: str = "video",
    folds: int = 5,
    shots: Sequence[int] = (),
    seed: int = 0,
    like: Evaluation | None = None,
    observe: Observer | None = None,
) -> Evaluation:
    """Fit and judge probes; no group of clips is on both sides.

    Args:
        library: of the rows.
        rows: labelled clips.
        probes: by name, what makes a new one.
        grouped_by: what the groups are, to be said.
        folds: of the clips, where no split is given.
        shots: also fit each probe to so many clips a class, drawn five times.
        seed: of folds, draws and intervals.
        like: an evaluation of the same videos, whose folds are taken.
        observe: called with a name, how much is done, and of how much.

    Raises:
        ProbeError: fewer than two classes or groups, or a probe that cannot be fitted.
    """
    if len(set(rows.truth)) < 2:
        raise ProbeError(f"every labelled clip is {rows.truth[0]!r}; give clips of two labels or more")
    splits = splits_of(rows, folds=folds, seed=seed, dealt=None if like is None else like.folds)
    plans = [(None, [splits]), *((count, few_shot(rows, splits, count, seed=seed)) for count in shots)]
    results = []
    for count, plan in plans:
        for name, make in probes.items():
            answers = ask(rows, plan, make, observe=observe)
            clips = of_clips(rows, answers)
            videos = of_videos(clips)
            figures = (measure(judged, seed=seed) for judged in (clips, videos))
            results.append(Result(name, count, answers, clips, videos, *figures))
    split = "the given split" if rows.sides is not None else f"{folds} folds"
    videos = rows.clips["video_id"].to_pylist()
    dealt = {videos[row]: number for number, one in enumerate(splits) for row in one.test}
    return Evaluation(library, rows, f"{split}, grouped by {grouped_by}", results, dealt)


def differences(ours: Evaluation, theirs: Evaluation, *, seed: int = 0) -> dict[str, Difference]:
    """Compare two libraries' top-1 accuracies over videos, for each probe by name.

    Raises:
        ProbeError: they do not hold the same labelled videos, or were split otherwise.
    """
    found = {}
    for mine, other in zip(ours.results, theirs.results, strict=True):
        keys = [_keys(evaluation, result) for evaluation, result in ((ours, mine), (theirs, other))]
        if sorted(keys[0]) != sorted(keys[1]):
            raise ProbeError(
                f"{ours.library.path} and {theirs.library.path} do not hold the same labelled videos in the same split"
            )
        order = [np.array(sorted(range(len(one)), key=one.__getitem__)) for one in keys]
        mine_sorted, other_sorted = (
            Judged(**{name: getattr(result.videos, name)[places] for name in Judged.__slots__})
            for result, places in ((mine, order[0]), (other, order[1]))
        )
        found[mine.name] = compare(mine_sorted, other_sorted, seed=seed)
    return found


def _keys(evaluation: Evaluation, result: Result) -> list[tuple[int, str, int]]:
    names = evaluation.rows.clips["video_id"].to_pylist()
    judged = result.videos
    return [
        (int(repeat), names[row], int(truth))
        for repeat, row, truth in zip(judged.repeats, judged.rows, judged.truth, strict=True)
    ]


@dataclass(frozen=True, slots=True)
class Score:
    """What a kept probe made of other clips.

    Attributes:
        figures: ``by_clip`` and ``by_video``, each by measure.
        unknown: labels that it was not fitted to.
    """

    figures: dict[str, dict[str, Estimate]]
    unknown: tuple[Label, ...]


def score_probe(saved: SavedProbe, rows: Rows, *, seed: int = 0) -> Score:
    """Judge a kept probe on labelled clips; of a split, on those called test.

    Args:
        saved: of the same encoder: see `vmae_embed.probes.SavedProbe.check`.
        rows: labelled clips.
        seed: of the intervals.

    Raises:
        ProbeError: there are none to judge.
    """
    rows = rows.of_side(test=True)
    count = len(rows.truth)
    known = saved.probe.classes_.tolist()
    unknown = sorted(set(rows.truth) - set(known), key=label_order)
    found = saved.probe.predict_proba(getattr(rows, saved.probe.reads))
    answers = Answers(
        np.arange(count),
        np.hstack([found, np.zeros((count, len(unknown)))]),
        [*known, *unknown],
        np.zeros(count, dtype=np.intp),
        np.zeros(count, dtype=np.intp),
        [saved.probe],
        0.0,
    )
    clips = of_clips(rows, answers)
    figures = {"by_clip": measure(clips, seed=seed), "by_video": measure(of_videos(clips), seed=seed)}
    return Score(figures, tuple(unknown))


def to_dict(evaluation: Evaluation) -> dict[str, Any]:
    """Return all figures of an evaluation, ready for JSON."""
    rows = evaluation.rows
    return {
        "library": str(evaluation.library.path),
        "encoder": dict(evaluation.library.config.encoder),
        "preset": evaluation.preset and evaluation.preset.name,
        "clips": len(rows.truth),
        "videos": len(set(rows.clips["video_id"].to_pylist())),
        "groups": len(set(rows.groups)),
        "classes": len(set(rows.truth)),
        "split": evaluation.split,
        "results": [
            {
                "probe": result.probe,
                "few_shot": result.shots,
                "train_clips": result.answers.train_clips,
                "chance": result.chance,
                **{
                    unit: {
                        "tested": len(judged.truth),
                        "majority": result.majority(judged),
                        **{name: asdict(interval) for name, interval in figures.items()},
                    }
                    for unit, judged, figures in (
                        ("by_clip", result.clips, result.clip_figures),
                        ("by_video", result.videos, result.video_figures),
                    )
                },
                "per_class": {
                    label: {"accuracy": share, "videos": count} for label, (share, count) in result.per_class().items()
                },
                "fits": [probe.to_dict() for probe in result.answers.fitted],
            }
            for result in evaluation.results
        ],
    }
