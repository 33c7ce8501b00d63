import json
import re
import shutil
import subprocess
from html.parser import HTMLParser
from pathlib import Path

import pytest

from dnexport.bundle.verify import Bundle
from dnexport.errors import UsageError
from dnexport.report.html import page_from_bundles
from dnexport.report.plots import Distribution, latency_plot
from dnexport.spec.latency import Ratio
from dnexport.spec.recipe import Bench

CHROMIUM = shutil.which("chromium")
FLAGS = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-background-networking",
    "--no-first-run",
    "--hide-scrollbars",
]


class Collector(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.links: list[str] = []
        self.cells: list[str] = []
        self._cell = False

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.links += [value for name, value in attrs if name in ("src", "href") and value]
        self._cell = tag in ("td", "th")

    def handle_data(self, data: str) -> None:
        if self._cell and data.strip():
            self.cells.append(data.strip())


def test_the_page_shows_the_measured_numbers(demo: Path) -> None:
    bundles = [Bundle.open(demo / name) for name in ("digits-fp16", "digits-int8")]
    page = Collector()
    page.feed((demo / "digits.html").read_text())
    assert page.cells[:3] == ["PyTorch", "FP16", "INT8"]
    for bundle in bundles:
        report = bundle.reports["openvino:cpu"]
        assert f"{report.accuracy.snr_db:.1f} dB" in page.cells
        assert f"{report.benchmark.latency.p50_ms:.2f} ms" in page.cells
        assert str(report.benchmark.over_best) in page.cells
    assert f"{bundles[0].manifest.reference.top1:.2%}" in page.cells


def test_the_page_needs_nothing_from_elsewhere(demo: Path) -> None:
    text = (demo / "digits.html").read_text()
    page = Collector()
    page.feed(text)
    assert all(link.startswith(("data:", "#")) for link in page.links)
    assert not re.search(r"url\((?!#)|@import|<script", text)


def test_bundles_whose_numbers_do_not_compare_are_refused(demo: Path) -> None:
    bundle = Bundle.open(demo / "digits-fp16")
    manifest = bundle.manifest
    others = {
        "weights": {"weights": manifest.weights.model_copy(update={"digest": "other"})},
        "preprocessing": {"preprocess": manifest.preprocess.model_copy(update={"mean": (0.1,)})},
        "test images": {"golden": manifest.golden.model_copy(update={"test_digest": "other"})},
        "bench settings": {"recipe": manifest.recipe.model_copy(update={"bench": Bench(batch=2)})},
    }
    for what, update in others.items():
        other = Bundle(bundle.path, manifest.model_copy(update=update), bundle.reports)
        with pytest.raises(UsageError, match=f"differ in their {what}; report on each alone"):
            page_from_bundles([bundle, other], ["a", "b"])


def test_names_from_outside_are_escaped(demo: Path) -> None:
    bundle = Bundle.open(demo / "digits-fp16")
    manifest = bundle.manifest.model_copy(
        update={"arch_name": "<script>alert(1)</script>", "warnings": ("<b>bold</b>",)}
    )
    page = page_from_bundles([Bundle(bundle.path, manifest, bundle.reports)], ["a"])
    assert "<script>" not in page
    assert "<b>" not in page


def test_a_ratio_without_interval_says_so() -> None:
    assert str(Ratio(value=2, low=None, high=None, starts=((2,),))) == "2.00× (no interval from one start)"
    assert str(Ratio(value=2, low=1.5, high=2.5, starts=((2,), (2,)))) == "2.00× (1.50 to 2.50)"


def test_a_plot_takes_its_colours_from_the_page() -> None:
    svg = latency_plot([Distribution("one & two", "fp16", [1.0, 2.0, 3.0]), Distribution("three", "int8", [0.5])])
    assert svg.startswith("<svg")
    assert "var(--fp16)" in svg
    assert "one &amp; two" in svg
    assert not re.search(r"#0[1-9a-f]0", svg)


@pytest.mark.skipif(CHROMIUM is None, reason="chromium is not installed")
@pytest.mark.parametrize("width", [1100, 390])
def test_a_real_browser_shows_it_without_overflow(demo: Path, tmp_path: Path, width: int) -> None:
    # The page carries no script of its own; a copy with one measures what the browser made of it.
    probe = "<script>addEventListener('load',()=>{document.title=JSON.stringify([innerWidth,document.documentElement.scrollWidth,document.querySelectorAll('.plot svg').length,document.querySelectorAll('.card').length])})</script>"
    copy = tmp_path / "page.html"
    # Headless Chromium's window is never narrower than 500 pixels; a frame is.
    copy.write_text((demo / "digits.html").read_text().replace("</body>", f"{probe}</body>"))
    frame = tmp_path / "frame.html"
    frame.write_text(
        f"<iframe id=f src='page.html' style='width:{width}px;height:900px'></iframe><script>addEventListener('load',()=>setTimeout(()=>{{document.body.innerHTML='<pre>'+f.contentDocument.title+'</pre>'}},300))</script>"
    )
    arguments = [
        str(CHROMIUM),
        *FLAGS,
        "--allow-file-access-from-files",
        f"--user-data-dir={tmp_path / 'profile'}",
        "--virtual-time-budget=3000",
        "--dump-dom",
        frame.as_uri(),
    ]
    done = subprocess.run(arguments, capture_output=True, text=True, timeout=120, check=True)
    match = re.search(r"<pre>(\[.*?\])</pre>", done.stdout)
    assert match, done.stdout[-500:]
    inner, scroll, plots, cards = json.loads(match[1])
    assert inner == width
    assert scroll <= inner
    assert (plots, cards) == (1, 3)
