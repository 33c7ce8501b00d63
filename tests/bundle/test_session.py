"""``with Bundle.open(path).session() as session: logits = session(images)``"""

import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from dnexport.build.pipeline import build
from dnexport.bundle import session as sessions
from dnexport.bundle.verify import Bundle
from dnexport.errors import BadInput, DataError, TargetUnavailable, UsageError, WorkerCrashed
from dnexport.runtimes.registry import open_session, session_options
from dnexport.spec.precision import Precision
from dnexport.spec.progress import Silent
from dnexport.spec.recipe import recipe_from_values
from dnexport.spec.target import Target
from tests.needs import LOCAL, needs


def built(folder: Path, **values: object) -> Bundle:
    recipe = {
        "name": "b",
        "arch": "densenet(blocks=2-2,k=8,stem=cifar,init=8,classes=10)",
        "weights": "random",
        "precision": "fp32",
        "targets": ["onnxruntime:cpu", "openvino:cpu"],
        "batch": "2..2..4",
        **values,
    }
    return build(recipe_from_values(recipe, "test"), folder, Silent(), bench=False).bundle


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return built(tmp_path_factory.mktemp("session") / "b")


@pytest.fixture(scope="module")
def pixel_bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return built(tmp_path_factory.mktemp("session") / "b", input="uint8")


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "dnexport"


@pytest.mark.parametrize("name", LOCAL)
@pytest.mark.parametrize("count", [1, 2, 3, 4, 5, 9])
def test_any_number_of_pictures_is_split_to_the_profile(bundle: Bundle, name: str, count: int) -> None:
    """The engine takes 2 to 4 images; one alone is answered with a companion that is thrown away."""
    golden = bundle.golden()
    with bundle.session(name) as session:
        logits = session(golden.images[:count])
    assert logits.dtype == np.float32
    assert np.abs(logits - golden.logits[:count]).max() <= 1e-4 * np.abs(golden.logits).max()


@pytest.mark.parametrize("name", LOCAL)
def test_an_engine_that_takes_pixels_answers_the_same(bundle: Bundle, pixel_bundle: Bundle, name: str) -> None:
    golden = pixel_bundle.golden()
    assert pixel_bundle.reports[name].accuracy.snr_db > 60
    with bundle.session(name) as floats, pixel_bundle.session(name) as pixels:
        expected, found = floats(golden.images), pixels(golden.images)
    assert np.abs(found - expected).max() <= 1e-4 * np.abs(expected).max()


def test_paths_pictures_and_arrays_are_the_same_to_it(bundle: Bundle, tmp_path: Path) -> None:
    image = Image.fromarray(bundle.golden().images[0])
    image.save(tmp_path / "a.png")
    with bundle.session() as session:
        one, two, three, four = (
            session(given) for given in (image, [str(tmp_path / "a.png")], tmp_path / "a.png", np.asarray(image))
        )
        mixed = session([image, tmp_path / "a.png", np.asarray(image)])
    assert one.shape == (1, 10)
    assert (one == two).all() and (one == three).all() and (one == four).all()  # noqa: PT018
    assert np.allclose(mixed, one, atol=1e-5)
    assert session.target == Target.parse("onnxruntime:cpu")


def test_what_is_no_picture_is_refused_by_name(bundle: Bundle, tmp_path: Path) -> None:
    (tmp_path / "a.jpg").write_bytes(b"no picture")
    with bundle.session() as session:
        with pytest.raises(BadInput, match=r"32, 3\], channels last, and not float32 \[1, 32, 32, 3\]; give pixels"):
            session(np.zeros((32, 32, 3), np.float32))
        with pytest.raises(BadInput, match=r"not uint8 \[2, 3, 32, 32\]"):
            session(np.zeros((2, 3, 32, 32), np.uint8))
        with pytest.raises(BadInput, match="there is no picture to answer for"):
            session([])
        with pytest.raises(DataError, match=r"a\.jpg cannot be decoded"):
            session(tmp_path / "a.jpg")
    with pytest.raises(UsageError, match="the session is closed"):
        session(bundle.golden().images[:1])
    with pytest.raises(UsageError, match="has no engine for 'tensorrt'"):
        bundle.session("tensorrt")


ODD = """
import sys
from dnexport.bundle.verify import Bundle
from dnexport.errors import BadInput
with Bundle.open(sys.argv[1]).session("onnxruntime:cpu") as session:
    for odd in (None, 5, b"a.jpg", [None], [3.5]):
        try:
            session(odd)
        except BadInput as exc:
            print(exc)
"""


def test_what_is_not_even_a_picture_is_named_by_its_type(bundle: Bundle) -> None:
    """In a process without the tests' type checks, as users run it."""
    done = subprocess.run([sys.executable, "-c", ODD, str(bundle.path)], capture_output=True, text=True, check=True)
    named = ["NoneType", "int", "bytes", "NoneType", "float"]
    remedy = "give paths, Pillow images or uint8 arrays"
    assert done.stdout.splitlines() == [f"a picture is not a {each}; {remedy}" for each in named]


@pytest.mark.parametrize("name", LOCAL)
def test_a_home_that_cannot_be_written_is_no_reason_to_fail(
    bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    (tmp_path / "file").write_text("no folder")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    bundle.session(name).close()


def test_the_bare_runtime_names_the_type_and_shape_it_takes(bundle: Bundle, pixel_bundle: Bundle) -> None:
    target, images = Target.parse("onnxruntime:cpu"), np.zeros((1, 3, 16, 16), np.float32)
    for each, wanted in ((bundle, r"float32 \[batch, 3, 32, 32\]"), (pixel_bundle, r"uint8 \[batch, 32, 32, 3\]")):
        session = open_session(each.engine(str(target)), target, session_options(Precision.FP32, target))
        with pytest.raises(BadInput, match=rf"onnxruntime:cpu takes {wanted} and got float32 \[1, 3, 16, 16\]"):
            session(images)


@needs("openvino:cpu")
def test_threads_share_a_session(bundle: Bundle) -> None:
    golden, found = bundle.golden(), {}
    with bundle.session("openvino:cpu", streams=2, threads=2) as session:

        def ask(index: int) -> None:
            found[index] = session(golden.images[index : index + 2])

        workers = [threading.Thread(target=ask, args=(index,)) for index in range(12)]
        for each in workers:
            each.start()
        for each in workers:
            each.join()
    for index, logits in found.items():
        assert np.abs(logits - golden.logits[index : index + 2]).max() <= 1e-4 * np.abs(golden.logits).max()


def test_an_engine_is_tried_once_in_a_child_and_that_is_remembered(
    bundle: Bundle, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bundle.session().close()
    assert len(list((cache / "tried").iterdir())) == 1
    monkeypatch.setattr(sessions, "Worker", None)  # the second time asks no child
    bundle.session().close()


def test_a_library_that_crashes_takes_only_the_child_with_it(bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sessions, "open_session", _crash)
    with pytest.raises(WorkerCrashed, match="loading onnxruntime:cpu crashed with SIGSEGV"):
        bundle.session()


def _crash(*_: object) -> None:
    import ctypes

    ctypes.string_at(0)


@needs("openvino:cpu")
def test_openvino_keeps_what_it_compiled(bundle: Bundle, cache: Path) -> None:
    bundle.session("openvino:cpu").close()
    assert list((cache / "engines").rglob("*.blob"))


def test_nothing_that_runs_here_says_why(bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(TargetUnavailable, match=r"no engine of bundle .* runs here .*onnxruntime:cpu: onnxruntime is"):
        bundle.session("onnxruntime:cpu")


SIDE_BY_SIDE = """
import sys, time
from pathlib import Path
import numpy as np
from dnexport.bundle.verify import Bundle
from dnexport.runtimes.registry import open_session, session_options
from dnexport.spec.precision import Precision
bundle = Bundle.open(Path(sys.argv[1]))
pixels = bundle.golden().images[:2]
with bundle.session() as session:
    engine, target = bundle.engine(str(session.target)), session.target
    bare = open_session(engine, target, session_options(Precision.FP32, target))
    times = {bare: [], session: []}
    for _ in range(20):  # in blocks: the threads of the other one spin for a while
        for each, seen in times.items():
            time.sleep(0.05)
            for index in range(25):
                start = time.perf_counter()
                each(pixels)
                if index > 4:
                    seen.append(time.perf_counter() - start)
print(*(float(np.quantile(seen, 0.25)) for seen in times.values()))
"""


@pytest.mark.alone
def test_it_costs_next_to_nothing_over_the_bare_runtime(pixel_bundle: Bundle) -> None:
    """At most 3 % or 50 µs a call; in a process of its own, without the tests' type checks."""
    command = [sys.executable, "-c", SIDE_BY_SIDE, str(pixel_bundle.path)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    bare, session = map(float, done.stdout.split())
    assert session - bare <= max(0.03 * bare, 50e-6)
