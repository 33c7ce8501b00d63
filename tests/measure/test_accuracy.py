import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dnexport.errors import DataError
from dnexport.measure.accuracy import accuracy_from_logits, auroc, calibration_error, snr_db


def logits(count: int = 200, classes: int = 10, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((count, classes)).astype(np.float32)


@pytest.mark.parametrize("db", [10.0, 20.0, 40.0])
def test_snr_of_a_known_noise(db: float) -> None:
    signal, noise = logits(4000), logits(4000, seed=1)
    assert snr_db(signal, signal + noise * np.float32(10 ** (-db / 20))) == pytest.approx(db, abs=0.2)


def test_what_all_images_share_is_no_signal() -> None:
    signal, noise = logits(), logits(seed=1) * np.float32(0.1)
    shared = np.linspace(0, 100, 10, dtype=np.float32)
    assert snr_db(signal + shared, signal + shared + noise) == pytest.approx(snr_db(signal, signal + noise), abs=0.1)


def test_equal_logits_are_exact() -> None:
    assert snr_db(logits(), logits()) is None
    assert snr_db(np.zeros((4, 3), np.float32), logits(4, 3)) == 0


@pytest.mark.parametrize("images", [1, 7])
def test_one_answer_to_all_images_has_an_uncentred_ratio(images: int) -> None:
    """It passes a good engine and fails one of another network, and is not said to be centred."""
    reference = np.repeat(logits(1, 1000), images, axis=0)
    reference += logits(images, 1000, seed=3) * np.float32(1e-6)  # float32 rounds each image its own way
    good = reference + logits(images, 1000, seed=1) * np.float32(1e-2)
    found, same = (accuracy_from_logits(reference, each, np.full(images, 3)) for each in (good, reference))
    assert found.snr_db == pytest.approx(40, abs=0.5)
    assert snr_db(reference, np.repeat(logits(1, 1000, seed=2), images, axis=0)) < 0
    assert not found.centred
    assert found.snr_text.endswith("dB (not centred)")
    assert same.snr_text == "exact (not centred)"
    assert accuracy_from_logits(logits(), logits(), np.full(200, -1)).centred


def test_one_class_has_no_top1_and_its_logits_are_compared() -> None:
    reference = logits(50, 1)
    found = accuracy_from_logits(reference, reference * np.float32(1.01), np.zeros(50, np.int64))
    assert found.one_class
    assert (found.labelled, found.top1, found.top5, found.lost, found.calibration_error) == (50, None, None, None, None)
    assert (found.agreement, found.drop, found.flipped_margin) == (1, None, None)
    assert found.snr_db == pytest.approx(40, abs=0.5)
    assert not accuracy_from_logits(logits(), logits(), np.zeros(200, np.int64)).one_class
    assert not accuracy_from_logits(reference, reference, np.full(50, -1)).one_class


@pytest.mark.parametrize("labels", [np.full(200, 10), np.zeros((200, 11), np.int8)])
def test_labels_of_more_classes_are_refused(labels: np.ndarray) -> None:
    with pytest.raises(DataError, match="labels of 11 classes are given for 10; give the data that it was trained on"):
        accuracy_from_logits(logits(), logits(), labels)


def test_changed_answers_are_shown_the_surest_first() -> None:
    reference = np.zeros((20, 3), np.float32)
    reference[:, 1] = np.arange(20)  # image 19 is the surest; of image 0 all classes are equal, the first is named
    answers = reference.copy()
    answers[5:, 2] = 30
    labels = np.full(20, -1)
    labels[18] = 1
    shown = accuracy_from_logits(reference, answers, labels).shown
    assert [each.index for each in shown] == list(range(19, 11, -1))
    assert [each.label for each in shown[:3]] == [None, 1, None]
    assert {(each.reference, each.engine, each.max_abs_error, each.thumbnail) for each in shown} == {(1, 2, 30, "")}
    assert all(0.99 < each.margin <= 1 for each in shown)


def test_where_no_answer_changed_the_largest_errors_are_shown() -> None:
    reference = logits()
    answers = reference.copy()
    for image, error in ((7, 3), (9, 4), (3, 2)):
        answers[image, reference[image].argmax()] += error
    shown = accuracy_from_logits(reference, answers, np.arange(200) % 10).shown
    assert [(each.index, each.label) for each in shown] == [(9, 9), (7, 7), (3, 3)]
    assert [each.max_abs_error for each in shown] == pytest.approx([4, 3, 2], rel=1e-5)
    assert accuracy_from_logits(reference, reference, np.full(200, -1)).shown == ()


def test_of_a_multi_label_network_the_largest_errors_are_shown() -> None:
    reference = logits()
    shown = accuracy_from_logits(reference, -reference, np.zeros((200, 10), np.int8), multi_label=True).shown
    furthest = np.argsort(-np.abs(reference).max(axis=1))[:4]
    assert [(each.index, each.label) for each in shown] == [(index, None) for index in furthest]


def test_counts() -> None:
    reference = np.eye(4, dtype=np.float32)
    answers = reference.copy()
    answers[0] = [0, 1, 0, 0]  # was right
    labels = np.array([0, 1, 3, -1])
    answers[2] = [0, 0, 0, 1]  # was wrong
    found = accuracy_from_logits(reference, answers, labels)
    assert (found.samples, found.labelled) == (4, 3)
    assert (found.top1, found.reference_top1) == (pytest.approx(2 / 3), pytest.approx(2 / 3))
    assert (found.lost, found.gained) == (1, 1)
    assert found.agreement == 0.5
    assert found.max_abs_error == 1
    assert found.top5 == 1


def test_without_labels_the_label_metrics_are_null() -> None:
    found = accuracy_from_logits(logits(), logits(seed=1), np.full(200, -1))
    assert (found.top1, found.top5, found.reference_top1, found.lost, found.gained) == (None,) * 5


def test_multi_label_answers_are_compared_one_by_one() -> None:
    """Two of twelve answers at a sigmoid of 0.5 differ, though every largest logit is the same."""
    reference = np.array([[2, 1, -1], [-1, 3, 1], [4, -2, -3], [1, 2, 5]], np.float32)
    answers = reference.copy()
    answers[0, 1], answers[2, 1] = -0.5, 0.5
    found = accuracy_from_logits(reference, answers, np.zeros(4, np.int64), multi_label=True)
    assert found.agreement == pytest.approx(10 / 12)
    assert (found.labelled, found.top1, found.lost) == (0, None, None)
    assert accuracy_from_logits(reference, answers, np.zeros(4, np.int64)).agreement == 1


def test_a_label_that_no_logit_favours_is_not_in_the_top_five() -> None:
    reference = np.tile(np.arange(10, dtype=np.float32), (3, 1))
    assert accuracy_from_logits(reference, reference, np.array([9, 5, 4])).top5 == pytest.approx(2 / 3)


def test_nan_and_other_shapes_are_refused() -> None:
    broken = logits()
    broken[3, 2] = np.nan
    with pytest.raises(DataError, match="1 of 200 samples have logits that are not finite"):
        accuracy_from_logits(logits(), broken, np.zeros(200, np.int64))
    with pytest.raises(DataError, match="are compared with"):
        accuracy_from_logits(logits(), logits(100), np.zeros(200, np.int64))


@given(st.lists(st.tuples(st.integers(-3, 3), st.sampled_from([0, 1, -1])), min_size=2, max_size=40))
def test_auroc_is_scikit_learns(rows: list[tuple[int, int]]) -> None:
    from sklearn.metrics import roc_auc_score

    scores, answers = (np.array(column) for column in zip(*rows, strict=True))
    known = answers >= 0
    area = auroc(scores.astype(np.float32), answers)
    if len(set(answers[known])) < 2:
        assert area is None
    else:
        assert area == pytest.approx(roc_auc_score(answers[known], scores[known]))


def test_the_paired_drop_has_its_interval_and_the_worst_classes_are_named() -> None:
    """Of 300 images, 100 a class, PyTorch has all right; the engine loses four of class 2 and one of class 0."""
    labels = np.repeat(np.arange(3), 100)
    reference = 4 * np.eye(3, dtype=np.float32)[labels]
    answers = reference.copy()
    answers[[0, 200, 201, 202, 203]] = [0, 5, 0]
    found = accuracy_from_logits(reference, answers, labels)
    low, high = found.drop_interval
    assert low < 100 * 5 / 300 < high
    assert [(each.index, each.images, each.lost, each.gained) for each in found.worst_classes] == [
        (2, 100, 4, 0),
        (0, 100, 1, 0),
    ]
    assert accuracy_from_logits(reference, reference, labels).worst_classes == ()


def test_divergence_and_margin_are_scipys_and_by_hand() -> None:
    from scipy.special import rel_entr, softmax

    reference, answers = logits(), logits() + logits(seed=1) * np.float32(0.5)
    found = accuracy_from_logits(reference, answers, np.full(200, -1))
    p, q = softmax(reference.astype(np.float64), axis=1), softmax(answers.astype(np.float64), axis=1)
    assert found.divergence == pytest.approx(rel_entr(p, q).sum(axis=1).mean(), rel=1e-9)
    changed = reference.argmax(1) != answers.argmax(1)
    first_two = np.sort(p[changed], axis=1)[:, -2:]
    assert found.flipped_margin == pytest.approx((first_two[:, 1] - first_two[:, 0]).max())
    same = accuracy_from_logits(reference, reference, np.full(200, -1))
    assert (same.divergence, same.flipped_margin) == (0, None)


def test_calibration_error_of_known_confidence() -> None:
    """Confidence 0.8 and right in 6 of 10 cases: an error of 0.2; confidence 0.55, right in 11 of 20: none."""
    sure = np.tile([0.8, 0.2], (10, 1))
    labels = np.array([0] * 6 + [1] * 4)
    assert calibration_error(sure, labels) == pytest.approx(0.2)
    unsure = np.tile([0.55, 0.45], (20, 1))
    assert calibration_error(unsure, np.array([0] * 11 + [1] * 9)) == pytest.approx(0)
    both = calibration_error(np.concatenate([sure, unsure]), np.array([0] * 6 + [1] * 4 + [0] * 11 + [1] * 9))
    assert both == pytest.approx(0.2 / 3)
    assert calibration_error(np.array([[1.0, 0.0]]), np.array([0])) == 0


def test_logits_that_are_not_finite_are_far_off() -> None:
    broken = logits()
    for odd in (np.nan, np.inf):
        broken[0, 0] = odd
        assert snr_db(logits(), broken) == -200
