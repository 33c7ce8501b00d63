"""Latency of real engines beside PyTorch, with a protocol that is short."""

import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from dnexport.build.network import reference_factory
from dnexport.bundle.verify import Bundle
from dnexport.deploy.bench import bench_images
from dnexport.deploy.remeasure import judged_again, measure_bundle, reports_now
from dnexport.errors import UsageError, WorkerCrashed
from dnexport.measure.conditions import Watch
from dnexport.measure.environment import installed_bytes, package_versions
from dnexport.runtimes.isolate import Worker
from dnexport.runtimes.torch_eager import EAGER
from dnexport.spec.budget import Budget
from dnexport.spec.latency import Benchmark
from dnexport.spec.precision import Execution
from dnexport.spec.profile import Profile
from dnexport.spec.progress import Silent
from dnexport.spec.recipe import Bench
from tests.bundle.test_session import built
from tests.deploy.test_references import Mean, NoHalf

pytestmark = pytest.mark.alone
BLOCK_S = 0.01
Run = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return built(tmp_path_factory.mktemp("bench") / "b", targets=["onnxruntime:cpu"], batch="2..4..8")


@pytest.fixture(scope="module")
def measured(bundle: Bundle) -> Benchmark:
    bench = Bench(
        restarts=2, rounds=1, block_s=BLOCK_S, batch=2, queries=40, scenarios=("multi-stream", "offline"), threads=1
    )
    factory = reference_factory(bundle.manifest)
    assert factory is not None
    return measure_bundle(bundle, None, bench, factory, Silent())["onnxruntime:cpu"]


def test_each_set_of_processes_gives_its_rounds(measured: Benchmark) -> None:
    assert measured.references[0].form == str(EAGER)
    medians = {each.form: each.latency.p50_ms for each in measured.references}
    assert medians[measured.best_reference.form] == min(medians.values())
    fastest = sorted(measured.forms_tried, key=lambda form: measured.forms_tried[form])[:3]
    assert set(medians) == {str(EAGER), *fastest}
    for ratio in (measured.over_eager, measured.over_best):
        if ratio is None:
            assert any("is withheld: it is" in note for note in measured.notes)
        else:
            assert len(ratio.starts) == 2
            assert ratio.low is not None
    assert measured.latency.threads == 1
    assert len(measured.latency.samples_ms) >= 40, "as many queries as were asked for"
    assert len(measured.references[0].latency.samples_ms) > 0


def test_the_scenarios_are_mlperfs(measured: Benchmark) -> None:
    assert measured.multi_stream is not None
    assert measured.multi_stream.batch == 8
    assert len(measured.multi_stream.samples_ms) >= 40
    assert [point.batch for point in measured.offline] == [2, 4, 8]
    assert all(point.low <= point.images_per_second <= point.high and point.reference for point in measured.offline)
    assert measured.best_batch is not None
    assert measured.best_batch.images_per_second == max(p.images_per_second for p in measured.offline)


def test_the_rest_of_what_a_user_pays_is_there(measured: Benchmark) -> None:
    assert measured.cold_start is not None
    assert measured.cold_start.starts == 2
    assert measured.cold_start.open_ms > measured.cold_start.first_query_ms > 0
    assert 2e7 < measured.peak_memory_bytes < 2e9
    assert measured.install_bytes > 1e7
    assert measured.device is None, "a CPU has one clock"
    assert measured.millijoules_per_image is None
    assert [reading.at_s for reading in measured.conditions] == sorted(r.at_s for r in measured.conditions)
    assert len(measured.conditions) == 4, "before, during each set of processes, and after"
    assert 0 <= measured.others_share <= 1
    assert "2 sets of processes were measured; 5 are the default" in measured.notes


def test_time_by_part_of_the_network(measured: Benchmark) -> None:
    assert [each.part for each in measured.parts] == ["stem", "block 1", "transition 1", "block 2", "head"]
    assert sum(each.share for each in measured.parts) == pytest.approx(1)
    assert all(each.ms > 0 and each.macs and each.bytes and each.bound for each in measured.parts)


def test_a_profile_that_fails_is_a_note(bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    def method(worker: Worker, name: str, *args: object) -> object:
        if name == "kernel_times":
            raise WorkerCrashed("measuring onnxruntime:cpu crashed with SIGSEGV", "see 'dnexport doctor'")
        return ask(worker, name, *args)

    ask = Worker.method
    monkeypatch.setattr(Worker, "method", method)
    bench = Bench(restarts=1, rounds=1, block_s=BLOCK_S, batch=2, threads=1)
    (found,) = measure_bundle(bundle, None, bench, None, Silent()).values()
    assert found.parts == ()
    assert len(found.latency.samples_ms) > 0
    assert any("no time by part of the network: measuring onnxruntime:cpu crashed" in note for note in found.notes)


def test_measuring_goes_on_for_as_long_as_was_asked(bundle: Bundle) -> None:
    bench = Bench(restarts=1, rounds=1, block_s=BLOCK_S, batch=2, duration_s=0.6, threads=1)
    (found,) = measure_bundle(bundle, None, bench, None, Silent()).values()
    assert sum(found.latency.samples_ms) > 300
    assert found.over_best is None
    assert "no PyTorch reference here, so no speed-up" in found.notes


def test_a_form_that_fails_is_a_note(bundle: Bundle) -> None:
    bench = Bench(restarts=1, rounds=1, block_s=BLOCK_S, batch=2, threads=1)
    (found,) = measure_bundle(bundle, None, bench, NoHalf, Silent()).values()
    assert set(found.forms_tried) == {"eager fp32", "channels-last fp32"}
    assert any(note.startswith("PyTorch channels-last bf16 took no part: ") for note in found.notes)
    assert any("FP32 only" in note for note in found.notes)


class NoLarge(Mean):
    """A network that has no memory for eight images."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if len(x) >= 8:
            raise MemoryError("eight are too many")
        return super().forward(x)


def test_a_reference_that_fails_at_a_batch_of_the_sweep_takes_no_part_from_there_on(bundle: Bundle) -> None:
    bench = Bench(restarts=2, rounds=1, block_s=BLOCK_S, batch=2, threads=1, scenarios=("offline",))
    (found,) = measure_bundle(bundle, None, bench, NoLarge, Silent()).values()
    assert [(point.batch, point.reference is None) for point in found.offline] == [(2, False), (4, False), (8, True)]
    (note,) = [note for note in found.notes if "in the sweep" in note]
    assert note.startswith(
        f"PyTorch {min(found.forms_tried, key=found.forms_tried.get)} took no part in the sweep from batch 8 on: "
    )
    assert found.over_eager is not None or any("is withheld" in each for each in found.notes)


def test_what_another_version_of_the_runtime_answered_is_left_out(
    bundle: Bundle, measured: Benchmark, monkeypatch: pytest.MonkeyPatch
) -> None:
    newer = {**package_versions(), "onnxruntime": "99.0"}
    monkeypatch.setattr("dnexport.deploy.remeasure.package_versions", lambda: newer)
    (name,) = bundle.reports
    said = bundle.reports[name].model_copy(update={"notes": ("not run here",)})
    older = Bundle(bundle.path, bundle.manifest, {name: said}, bundle.digest)
    found = reports_now(older, {name: {"benchmark": measured}})[name]
    assert (found.accuracy, found.notes) == (None, ())
    assert found.executed_precision is Execution.F32


def test_what_was_measured_elsewhere_is_left_out(bundle: Bundle, measured: Benchmark) -> None:
    """An engine that another machine has measured: its accuracy judges nothing here, and what it executes is asked."""
    (name,) = bundle.reports
    assert bundle.reports[name].measured_on is not None
    here = reports_now(bundle, {name: {"benchmark": measured}})[name]
    assert here.accuracy == bundle.reports[name].accuracy
    elsewhere = bundle.reports[name].model_copy(
        update={"measured_on": "of another", "executed_precision": Execution.BF16, "benchmark": measured}
    )
    moved = Bundle(bundle.path, bundle.manifest, {name: elsewhere}, bundle.digest)
    there = reports_now(moved, {name: {"benchmark": measured}})[name]
    assert there.accuracy is None
    assert there.executed_precision is Execution.F32
    assert there.measured_on == here.measured_on
    accuracy = bundle.reports[name].accuracy
    (latency, agreement) = judged_again(
        [Budget.parse("p50<=1000ms"), Budget.parse("agreement>=1%")],
        reports_now(moved, {name: {"accuracy": accuracy, "proof": elsewhere.proof}}),
    )
    assert (latency.verdict, agreement.verdict) == ("undecided", "pass")


def test_queries_that_the_engine_does_not_take_are_refused(tmp_path: Path) -> None:
    small = built(tmp_path / "b", targets=["onnxruntime:cpu"], batch="1..1..4")
    with pytest.raises(UsageError, match=r"batch 8 lies outside of the batches 1\.\.1\.\.4"):
        measure_bundle(small, None, Bench(scenarios=("multi-stream",)), None, Silent())


@pytest.mark.parametrize(
    ("profile", "sizes"), [("1..1..8", (1, 2, 4, 8)), ("3..4..12", (3, 4, 8, 12)), ("5", (5,)), ("1", (1,))]
)
def test_the_sweep_goes_from_the_smallest_to_the_largest_batch(bundle: Bundle, profile: str, sizes: tuple[int]) -> None:
    bench = Bench(scenarios=("offline",), batch=sizes[0])
    found = bench_images(bundle.golden().images, bundle.manifest.preprocess, bench, Profile.parse(profile))
    assert found.sweep == sizes
    assert len(found.feed("float32")) >= sizes[-1]


def test_work_of_others_is_told_from_ours() -> None:
    """A busy process counts as others' work unless it is named."""
    with subprocess.Popen([sys.executable, "-c", "while True: pass"]) as busy:
        try:
            named, unnamed = Watch(), Watch()
            with unnamed.span([]), named.span([busy.pid]):
                time.sleep(0.6)
        finally:
            busy.kill()
    assert unnamed.others_share - named.others_share > 0.5 / os.cpu_count()
    assert [reading.at_s for reading in named.readings] == [pytest.approx(0, abs=0.5)]


def test_what_is_not_installed_has_no_size() -> None:
    assert installed_bytes(["numpy"]) > 1e6
    assert installed_bytes(["no-such-package"]) is None


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--queries", "0"], "Invalid value for '--queries': "),
        (["--restarts", "0"], "Invalid value for '--restarts': "),
        (["--scenario", "server"], "Invalid value for '--scenario': "),
        (
            ["--require", "p99<=5ms", "--require", "p99<=2ms"],
            "'p99' has 2 budgets: p99<=5ms and p99<=2ms; keep one",
        ),
    ],
)
def test_what_cannot_be_measured_is_refused_before_anything_is(
    bundle: Bundle, run_cli: Run, tmp_path: Path, arguments: list[str], message: str
) -> None:
    done = run_cli("bench", str(bundle.path), *arguments, cwd=tmp_path)
    assert done.returncode == 2
    assert message in " ".join(done.stderr.replace("│", " ").split())
