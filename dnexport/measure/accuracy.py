"""How near an engine's logits are to the reference's, and how often both are right."""

import numpy as np

from dnexport.errors import DataError
from dnexport.measure.statistics import paired_drop_interval
from dnexport.runtimes.arrays import Logits, LogitsPart
from dnexport.spec.metrics import Accuracy, ClassDrop, Shown

_WORST = 5
_MOST_CHANGED = 8
_MOST_UNCHANGED = 4
# Of the logits' energy, what is left of float32 when all images have the same answer.
_NO_SIGNAL = 1e-10
# Below whatever finite logits have.
NOT_FINITE_DB = -200.0


def accuracy_from_logits(
    reference: Logits, logits: LogitsPart, labels: np.ndarray, *, multi_label: bool = False
) -> Accuracy:
    """Compare an engine with the reference on the same samples.

    Args:
        reference: PyTorch's FP32 logits, [samples, classes].
        logits: the engine's, of the same shape.
        labels: int64 [samples], or where each class is a question of its own int8 [samples, classes] of 1 and 0;
            −1 where unknown.
        multi_label: each class is a question of its own: agreement is the share of equal answers at a sigmoid of 0.5,
            over all images and classes, and accuracy is the AUROC of each class.

    Raises:
        DataError: shapes differ, labels are of more classes than there are, or the engine's logits are not finite.
    """
    if reference.shape != logits.shape or len(labels) != len(logits):
        raise DataError(
            f"logits of shape {logits.shape} are compared with {reference.shape} and {len(labels)} labels",
            "use the bundle's own samples",
        )
    classes = logits.shape[1]
    if labels.shape[1:] not in ((), (classes,)) or (labels.ndim == 1 and labels.max(initial=-1) >= classes):
        most = labels.shape[1] if labels.ndim == 2 else int(labels.max()) + 1
        raise DataError(f"labels of {most} classes are given for {classes}", "give the data that it was trained on")
    if not np.isfinite(logits).all():
        raise DataError(
            f"{int((~np.isfinite(logits)).any(axis=1).sum())} of {len(logits)} samples have logits that are not finite",
            "build it in a wider precision",
        )
    answers = labels if labels.ndim == 2 else np.full(logits.shape, -1, np.int8)
    labels = labels if labels.ndim == 1 else np.full(len(logits), -1)
    known = (labels >= 0) & (not multi_label)
    labelled = int(known.sum())
    if classes == 1:
        known = np.zeros_like(known)  # the only class is always named
    areas = _areas(logits, answers), _areas(reference, answers)
    any_area = any(area is not None for area in areas[0])
    named, named_by_reference = logits.argmax(axis=1), reference.argmax(axis=1)
    right, reference_right = named[known] == labels[known], named_by_reference[known] == labels[known]
    softmax, reference_softmax = _softmax(logits), _softmax(reference)
    lost, gained = int((reference_right & ~right).sum()), int((~reference_right & right).sum())
    some = bool(known.any())
    drop = paired_drop_interval(lost, gained, labelled) if some else None
    flipped = named != named_by_reference
    single = not multi_label
    return Accuracy(
        samples=len(logits),
        labelled=labelled or int((answers >= 0).any(axis=1).sum()),
        top1=float(right.mean()) if some else None,
        top5=_top_k(logits[known], labels[known], 5) if some else None,
        reference_top1=float(reference_right.mean()) if some else None,
        lost=lost if some else None,
        gained=gained if some else None,
        agreement=float(((logits > 0) == (reference > 0) if multi_label else ~flipped).mean()),
        max_abs_error=float(np.abs(logits.astype(np.float64) - reference).max()),
        max_abs_logit=float(np.abs(reference).max()),
        snr_db=snr_db(reference, logits),
        centred=_centred(reference) is not None,
        auroc=areas[0] if any_area else None,
        reference_auroc=areas[1] if any_area else None,
        drop_interval=(100 * drop[0], 100 * drop[1]) if drop else None,
        calibration_error=calibration_error(softmax[known], labels[known]) if some else None,
        reference_calibration_error=calibration_error(reference_softmax[known], labels[known]) if some else None,
        divergence=_divergence(reference_softmax, softmax) if single else None,
        flipped_margin=float(_margins(reference_softmax[flipped]).max()) if single and flipped.any() else None,
        worst_classes=_worst_classes(labels[known], reference_right, right),
        shown=_shown(reference, logits, labels, multi_label=multi_label),
    )


def calibration_error(softmax: np.ndarray, labels: np.ndarray, bins: int = 15) -> float:
    """Expected calibration error: how far confidence is from being right, over bins of confidence (Guo et al. 2017).

    Args:
        softmax: [samples, classes].
        labels: [samples].
        bins: of equal width.
    """
    confidence, right = softmax.max(axis=1), softmax.argmax(axis=1) == labels
    index = np.minimum((confidence * bins).astype(int), bins - 1)
    gaps = [abs(float((right[index == i] - confidence[index == i]).sum())) for i in range(bins)]
    return sum(gaps) / len(labels)


def _softmax(logits: Logits) -> np.ndarray:
    shares = np.exp(logits.astype(np.float64) - logits.max(axis=1, keepdims=True))
    return np.asarray(shares / shares.sum(axis=1, keepdims=True))


def _divergence(reference: np.ndarray, softmax: np.ndarray) -> float:
    """Mean of Σ p·log(p/q), p the reference's; a probability that is 0 in float64 counts as the smallest number."""
    least = np.finfo(np.float64).tiny
    terms = reference * (np.log(np.maximum(reference, least)) - np.log(np.maximum(softmax, least)))
    return max(0.0, float(terms.sum(axis=1).mean()))


def _margins(softmax: np.ndarray) -> np.ndarray:
    if softmax.shape[1] < 2:
        return np.ones(len(softmax))
    second, first = np.sort(softmax, axis=1)[:, -2:].T
    return np.asarray(first - second)


def _shown(reference: Logits, logits: LogitsPart, labels: np.ndarray, *, multi_label: bool) -> tuple[Shown, ...]:
    """Changed answers, the surest first; where none changed, and of multi-label networks, the largest errors."""
    named, named_by_reference = logits.argmax(axis=1), reference.argmax(axis=1)
    errors = np.abs(logits.astype(np.float64) - reference).max(axis=1)
    margins = _margins(0.5 + 0.5 * np.tanh(reference / 2.0) if multi_label else _softmax(reference))
    changed = np.flatnonzero((named != named_by_reference) & (not multi_label))
    if len(changed):
        chosen = changed[np.argsort(-margins[changed], kind="stable")][:_MOST_CHANGED]
    else:
        furthest = np.argsort(-errors, kind="stable")[:_MOST_UNCHANGED]
        chosen = furthest[errors[furthest] > 0]
    return tuple(
        Shown(
            index=int(i),
            label=int(labels[i]) if labels[i] >= 0 and not multi_label else None,
            reference=int(named_by_reference[i]),
            engine=int(named[i]),
            margin=float(margins[i]),
            max_abs_error=float(errors[i]),
        )
        for i in chosen
    )


def _worst_classes(labels: np.ndarray, before: np.ndarray, after: np.ndarray) -> tuple[ClassDrop, ...]:
    found = [
        ClassDrop(
            index=int(index),
            images=int((labels == index).sum()),
            lost=int((before & ~after & (labels == index)).sum()),
            gained=int((~before & after & (labels == index)).sum()),
        )
        for index in np.unique(labels)
    ]
    worse = [each for each in found if each.lost > each.gained]
    return tuple(sorted(worse, key=lambda each: (each.gained - each.lost, each.index))[:_WORST])


def auroc(scores: np.ndarray, answers: np.ndarray) -> float | None:
    """Area under the ROC curve: the probability that a yes scores above a no, ties counting half.

    By the rank sum of the yeses (Hanley, McNeil 1982). None without both a yes and a no.

    Args:
        scores: [samples].
        answers: 1 yes, 0 no, anything else not counted; [samples].
    """
    yes, no = scores[answers == 1], scores[answers == 0]
    if not len(yes) or not len(no):
        return None
    _, inverse, counts = np.unique(np.concatenate([yes, no]), return_inverse=True, return_counts=True)
    ranks = np.cumsum(counts) - (counts - 1) / 2  # of tied scores, their mean rank
    above = float(ranks[inverse[: len(yes)]].sum()) - len(yes) * (len(yes) + 1) / 2
    return above / (len(yes) * len(no))


def _areas(logits: Logits, answers: np.ndarray) -> tuple[float | None, ...]:
    return tuple(auroc(logits[:, c], answers[:, c]) for c in range(logits.shape[1]))


def snr_db(reference: Logits, logits: Logits) -> float | None:
    """Centred signal-to-noise ratio of logits: 10·log10(Σ(r − r̄_class)² / Σ(y − r)²), in decibel.

    r̄_class is the mean logit of a class over the samples: what all images share is no signal (left in, it flatters
    networks of random weights by 16 dB). Where that leaves none, as of one image, nothing is taken off: the ratio still
    tells an engine of another network. None where the logits are equal; 0 where the reference is 0 everywhere, and
    `NOT_FINITE_DB` for logits that are not finite.
    """
    r, y = reference.astype(np.float64), logits.astype(np.float64)
    noise = float(((y - r) ** 2).sum())
    if noise == 0:
        return None
    if not np.isfinite(noise):
        return NOT_FINITE_DB
    signal = _centred(reference) or float((r**2).sum())
    return 10 * float(np.log10(signal / noise)) if signal > 0 else 0.0


def _centred(reference: Logits) -> float | None:
    """Σ(r − r̄_class)²; None where all samples have the same answer."""
    r = reference.astype(np.float64)
    signal = float(((r - r.mean(axis=0)) ** 2).sum())
    return signal if signal > _NO_SIGNAL * float((r**2).sum()) else None


def _top_k(logits: Logits, labels: np.ndarray, k: int) -> float:
    best = np.argsort(-logits, axis=1, kind="stable")[:, :k]
    return float((best == labels[:, None]).any(axis=1).mean())
