"""Claims of the report that stand on intervals."""

import pytest

from dnexport.report.columns import Column, accuracy_rows
from tests.report.handmade import bundle


@pytest.mark.parametrize(
    ("interval", "images", "words"),
    [
        ((-1.0, 1.0), 360, "MLPerf's 99.9 % is not decided by 360 images"),
        ((-0.02, 0.05), 10_000, "keeps MLPerf's 99.9 %"),
        ((0.3, 0.6), 10_000, "keeps MLPerf's 99 %"),
        ((-0.03, 0.4), 10_000, "keeps MLPerf's 99 %; MLPerf's 99.9 % is not decided by 10000 images"),
        ((3.0, 5.0), 10_000, "below MLPerf's 99 %"),
    ],
)
def test_mlperf_s_lines_are_judged_by_the_interval(interval: tuple[float, float], images: int, words: str) -> None:
    made = bundle("int8")
    report = next(each for each in made.targets.values() if each.accuracy is not None)
    accuracy = report.accuracy.model_copy(
        update={"top1": 0.98, "reference_top1": 0.98, "drop_interval": interval, "labelled": images}
    )
    column = Column(made, report.model_copy(update={"accuracy": accuracy}))
    (row,) = [row for row in accuracy_rows([column]) if row.title == "Keeps of PyTorch's top-1"]
    assert row.cells[0].note.replace("\u00a0", " ") == words
