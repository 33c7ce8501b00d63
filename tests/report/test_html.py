import json
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path

import pytest

from dnexport.bundle.verify import Bundle
from dnexport.errors import UsageError
from dnexport.report.compare import compare
from dnexport.report.html import page_from_report
from dnexport.report.plots import Distribution, latency_plot
from dnexport.spec.latency import Ratio
from dnexport.spec.recipe import Bench
from dnexport.spec.report import Report, json_from_report, report_from_bundles
from tests.report.handmade import BOARD, NAMES, bundle, everything, ratio, target

pytestmark = pytest.mark.alone  # the demo is timed
CHROMIUM = shutil.which("chromium")
FLAGS = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-background-networking",
    "--no-first-run",
    "--hide-scrollbars",
]
Run = Callable[..., subprocess.CompletedProcess[str]]


class Collector(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.links: list[str] = []
        self.cells: list[str] = []
        self.images: list[dict[str, str | None]] = []
        self._cell = False

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.links += [value for name, value in attrs if name in ("src", "href") and value]
        self._cell = tag in ("td", "th")
        if tag == "img":
            self.images.append(dict(attrs))

    def handle_data(self, data: str) -> None:
        if self._cell and data.strip():
            self.cells.append(data.strip())


def read(page: str) -> Collector:
    found = Collector()
    found.feed(page)
    return found


@pytest.fixture(scope="module")
def whole() -> Report:
    """Every section there is: two machines, two precisions, budgets, a baseline."""
    bundles = everything()
    slower = {"openvino:cpu": bundles[1].targets["openvino:cpu"]}
    before = slower["openvino:cpu"].benchmark.model_copy(update={"over_best": ratio(4.2), "over_eager": ratio(6.6)})
    slower["openvino:cpu"] = slower["openvino:cpu"].model_copy(update={"benchmark": before})
    comparison = compare(bundles, [bundles[1].model_copy(update={"targets": slower})], "old.json")
    return report_from_bundles(bundles, "dnexport report a b c --baseline old.json", comparison)


@pytest.fixture(scope="module")
def page(whole: Report) -> str:
    return page_from_report(whole)


def test_the_page_shows_the_measured_numbers(demo: Path) -> None:
    bundles = [Bundle.open(demo / name) for name in ("digits-fp16", "digits-int8")]
    page = read((demo / "digits.html").read_text())
    assert page.cells[:3] == ["PyTorch", "FP16", "INT8"]
    for each in bundles:
        report = each.reports["openvino:cpu"]
        assert f"{report.accuracy.snr_db:.1f} dB" in page.cells
        assert f"{report.benchmark.latency.p50_ms:.2f} ms" in page.cells
        assert (str(report.benchmark.over_best) if report.benchmark.over_best else "withheld") in page.cells
    assert f"{bundles[0].manifest.reference.top1:.2%}" in page.cells


def test_the_page_shows_everything_that_the_record_holds(page: str) -> None:
    found = read(page)
    for cell in (
        "21.70 ms",  # p99 of queries of eight
        "enqueue 0.031 · H2D 0.012 · compute 0.810 · D2H 0.008 ms",
        "1,678 images/s at batch 8",
        "450 ms",  # cold start
        "312.0 MB",
        "1.4 GB",
        "14.2 mJ an image",
        "transition 2",
        "load 1.40, processors 2600 MHz, GPU 624 MHz, 11 W, 54 °C, held down: power cap",
        "1.3 % of the processors' time went to others",
    ):
        assert cell in found.cells, cell
    assert "one wall clock: this runtime has no device events" in page
    for text in ("governor schedutil", "power mode MAXN", "Orin Nano · 8.7 · 540.4.0", "5 sets of processes"):
        assert text in page
    for command in (
        "dnexport bench engines/built/cifar-int8",
        "dnexport bench cifar-int8 --scenario offline --output board.json",
        "dnexport report a b c --baseline old.json",
    ):
        assert f"<code>{command}</code>" in page
    assert any(cell.startswith("worse by 11 % (p = ") for cell in found.cells)
    assert "UNDECIDED: top1-drop&lt;=0.5, INT8 on openvino:cpu" in page
    assert page.count("<svg") == 2


def test_thumbnails_say_what_they_show(page: str) -> None:
    images = read(page).images
    assert len(images) == 8 + 8 + 3
    assert images[1]["alt"] == "Test image 17, labelled cat: PyTorch says cat, the engine dog"
    assert all(image["src"].startswith("data:image/") for image in images)


def test_a_thumbnail_from_elsewhere_is_not_fetched() -> None:
    one = bundle()
    report = one.targets["openvino:cpu"]
    shown = report.accuracy.shown[0].model_copy(update={"thumbnail": "https://example.com/x.png", "engine": 12})
    accuracy = report.accuracy.model_copy(update={"shown": (shown,)})
    targets = {"openvino:cpu": report.model_copy(update={"accuracy": accuracy})}
    page = page_from_report(report_from_bundles([one.model_copy(update={"targets": targets})], "x"))
    assert "example.com" not in page
    assert "class 12" in page, "a class that the report does not name"


def test_the_page_needs_nothing_from_elsewhere(page: str) -> None:
    assert all(link.startswith(("data:", "#")) for link in read(page).links)
    assert not re.search(r"url\((?!#)|@import|<script", page)


def test_columns_name_their_machine_where_machines_differ() -> None:
    one = bundle()
    cells = read(page_from_report(report_from_bundles([one, bundle("fp16")], "x"))).cells
    assert "Some Xeon, 2 cores" not in cells
    other = one.model_copy(update={"environment": BOARD})
    page = page_from_report(report_from_bundles([one, other], "x"))
    assert "<br>Some Xeon, 2 cores</span></th>" in page
    assert "<br>Orin Nano</span></th>" in page


def test_bundles_whose_numbers_do_not_compare_are_refused() -> None:
    one = bundle()
    others = {
        "weights": {"weights": one.weights.model_copy(update={"digest": "other"})},
        "preprocessing": {"preprocess": one.preprocess.model_copy(update={"mean": (0.1, 0.1, 0.1)})},
        "test images": {"golden": one.golden.model_copy(update={"test_digest": "other"})},
        "bench settings": {"bench": Bench(batch=2)},
    }
    for what, update in others.items():
        with pytest.raises(UsageError, match=f"differ in their {what}; report on each alone"):
            report_from_bundles([one, one.model_copy(update=update)], "x")


def test_names_from_outside_are_escaped() -> None:
    evil = "<script>alert(1)</script>"
    one = bundle(network=evil, warnings=("<b>bold</b>",), class_names=(evil, *NAMES[1:]), recipe=evil, path=evil)
    page = page_from_report(report_from_bundles([one], evil))
    assert "<script" not in page
    assert "<b>" not in page


def test_what_was_not_measured_is_left_out() -> None:
    bare = target("openvino:cpu", None, 1.0, accuracy=None, benchmark=None, proof=None, status="built")  # type: ignore[arg-type]
    only_fast = target("openvino:cpu", None, 1.0, accuracy=None)  # type: ignore[arg-type]
    for report, expected in ((bare, "For other machines"), (only_fast, "How fast, and what it takes")):
        page = page_from_report(report_from_bundles([bundle(targets={report.target: report})], "x"))
        assert expected in page
        assert "None" not in page


def test_a_ratio_without_interval_says_so() -> None:
    assert str(Ratio(value=2, low=None, high=None, starts=((2,),))) == "2.00× (no interval from one start)"
    assert str(Ratio(value=2, low=1.5, high=2.5, starts=((2,), (2,)))) == "2.00× (1.50 to 2.50)"


def test_a_plot_takes_its_colours_from_the_page() -> None:
    svg = latency_plot([Distribution("one & two", "fp16", [1.0, 2.0, 3.0]), Distribution("three", "int8", [0.5])])
    assert svg.startswith("<svg")
    assert "var(--fp16)" in svg
    assert "one &amp; two" in svg
    assert not re.search(r"#0[1-9a-f]0", svg)


def test_two_bundles_take_little_longer_than_importing_the_plots(tmp_path: Path, run_cli: Run) -> None:
    """Two seconds on a machine that imports matplotlib in 0.8: what is due to the processor is in both."""
    for name, each in zip("ab", (bundle("fp16"), bundle("int8")), strict=True):
        (tmp_path / f"{name}.json").write_text(json_from_report(report_from_bundles([each], "dnexport report x")))
    seconds = []
    for _ in range(3):  # the best, as another program may use this machine meanwhile
        began = time.monotonic()
        done = run_cli("report", "a.json", "b.json", cwd=tmp_path)
        seconds.append(time.monotonic() - began)
        assert done.returncode == 0, done.stderr
    assert min(seconds) < 4 * min(importing() for _ in range(3))


def importing() -> float:
    """Seconds of a Python that imports matplotlib and nothing else."""
    began = time.monotonic()
    subprocess.run([sys.executable, "-c", "import matplotlib.pyplot"], check=True)
    return time.monotonic() - began


# The page carries no script of its own; a copy with one says what the browser made of it.
PROBE = """<script>addEventListener('load', () => {
  const style = getComputedStyle(document.body), all = (what) => [...document.querySelectorAll(what)];
  document.title = JSON.stringify({
    inner: innerWidth, scroll: document.documentElement.scrollWidth, plots: all('.plot svg').length,
    flat: all('.plot svg').filter((svg) => svg.getBoundingClientRect().height < 100).length,
    cards: all('.card').length, images: all('img').length,
    broken: all('img').filter((image) => !image.complete || !image.naturalWidth).length,
    paper: style.backgroundColor, ink: style.color, soft: getComputedStyle(all('.soft')[0]).color,
    card: getComputedStyle(all('.card')[0]).backgroundColor}) })</script>"""
# Headless Chromium's window is never narrower than 500 pixels; a frame is.
FRAME = """<iframe id=f src='page.html' style='width:WIDTHpx;height:900px'></iframe><script>
addEventListener('load', () => setTimeout(() => { document.body.innerHTML = '<pre>' + f.contentDocument.title + '</pre>' }, 300))
</script>"""


def luminance(colour: str) -> float:
    """Relative, of ``rgb(…)`` (WCAG 2.1)."""
    red, green, blue = (int(each) / 255 for each in re.findall(r"\d+", colour)[:3])
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in (red, green, blue)]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrast(one: str, other: str) -> float:
    dark, light = sorted((luminance(one), luminance(other)))
    return (light + 0.05) / (dark + 0.05)


def seen(page: str, folder: Path, width: int, scheme: str) -> tuple[dict[str, object], str]:
    """What a real browser makes of a page, and what it complains about."""
    (folder / "page.html").write_text(page.replace("</body>", f"{PROBE}</body>"))
    (folder / "frame.html").write_text(FRAME.replace("WIDTH", str(width)))
    arguments = [
        str(CHROMIUM),
        *FLAGS,
        f"--blink-settings=preferredColorScheme={0 if scheme == 'dark' else 1}",
        "--enable-logging=stderr",
        "--allow-file-access-from-files",
        f"--user-data-dir={folder / 'profile'}",
        "--virtual-time-budget=3000",
        "--dump-dom",
        (folder / "frame.html").as_uri(),
    ]
    done = subprocess.run(arguments, capture_output=True, text=True, timeout=120, check=True)
    match = re.search(r"<pre>(\{.*?\})</pre>", done.stdout)
    assert match, done.stdout[-500:]
    return json.loads(match[1]), "\n".join(line for line in done.stderr.splitlines() if ":CONSOLE" in line)


@pytest.mark.skipif(CHROMIUM is None, reason="chromium is not installed")
@pytest.mark.parametrize("width", [1100, 390])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_real_browser_shows_it(page: str, tmp_path: Path, width: int, scheme: str) -> None:
    found, complaints = seen(page, tmp_path, width, scheme)
    assert found["inner"] == width
    assert found["scroll"] <= width, "it overflows"
    assert (found["plots"], found["flat"], found["cards"], found["images"], found["broken"]) == (2, 0, 4, 19, 0)
    assert (luminance(found["paper"]) < 0.1) == (scheme == "dark")
    assert contrast(found["ink"], found["paper"]) >= 7
    assert contrast(found["soft"], found["paper"]) >= 4.5
    assert contrast(found["soft"], found["card"]) >= 4.5
    assert complaints == ""


@pytest.mark.skipif(CHROMIUM is None, reason="chromium is not installed")
def test_what_a_browser_complains_about_is_seen(page: str, tmp_path: Path) -> None:
    broken = page.replace("<header>", "<header><img src='gone.png' alt=''><p style='width:2000px'>wide</p>")
    broken = broken.replace("</body>", "<script>throw new Error('planted')</script></body>")
    found, complaints = seen(broken, tmp_path, 390, "light")
    assert found["broken"] == 1
    assert found["scroll"] >= 2000
    assert "planted" in complaints


@pytest.mark.skipif(CHROMIUM is None, reason="chromium is not installed")
def test_a_real_browser_shows_the_demo(demo: Path, tmp_path: Path) -> None:
    found, complaints = seen((demo / "digits.html").read_text(), tmp_path, 390, "light")
    assert found["scroll"] <= 390
    assert (found["cards"], found["broken"], complaints) == (3, 0, "")
