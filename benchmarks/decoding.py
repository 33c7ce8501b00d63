"""Images a second from files to pixels: ``python benchmarks/decoding.py FOLDER [COPIES]`` prints Markdown.

FOLDER holds images as ``--data`` takes them. Every image is decoded COPIES times a pass (default 10), ImageNet's way
(shorter side to 256, centred crop of 224); passes without threads and with one a processor alternate.
"""

import statistics
import sys
import time
from pathlib import Path

from dnexport.data.datasets import images_from_folder
from dnexport.data.imageset import ImageSet
from dnexport.data.workers import default_workers
from dnexport.spec.preprocess import IMAGENET

_PASSES = 5
_BATCH = 64


def images_per_second(images: ImageSet, threads: int) -> float:
    """Of one pass."""
    began = time.perf_counter()
    done = sum(len(batch) for batch in images.batches(IMAGENET, _BATCH, threads))
    return done / (time.perf_counter() - began)


def main(folder: Path, copies: int = 10) -> None:
    """Print the table."""
    once = images_from_folder(folder)
    images = once.subset(list(range(len(once))) * copies)
    images_per_second(once, 0)  # files into the page cache
    choices = (0, default_workers())
    found = [[images_per_second(images, threads) for threads in choices] for _ in range(_PASSES)]
    print(f"{len(images)} decodings of {len(once)} images a pass, {_PASSES} passes\n")
    print("| threads | images/s, median | slowest to fastest pass |\n|---|---|---|")
    for threads, rates in zip(choices, zip(*found, strict=True), strict=True):
        print(f"| {threads or 'none'} | {statistics.median(rates):.0f} | {min(rates):.0f} to {max(rates):.0f} |")


if __name__ == "__main__":
    main(Path(sys.argv[1]), *map(int, sys.argv[2:]))
