import errno
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from dnexport.build.stages import Stages
from dnexport.bundle.archive import write_archive
from dnexport.bundle.pack import MANIFEST, check_outside_bundles, staging, write_manifest
from dnexport.bundle.verify import Bundle
from dnexport.errors import BadInput, IntegrityError, StorageError, UsageError
from dnexport.measure.environment import environment
from dnexport.runtimes.scratch import held
from dnexport.spec.manifest import SCHEMA, Golden, Manifest, ReferenceRun, Weights
from dnexport.spec.metrics import TargetReport
from dnexport.spec.progress import Silent
from dnexport.spec.recipe import Recipe
from tests.networks import TINY, TINY_PREPROCESS


def manifest() -> Manifest:
    return Manifest(
        name="tiny", recipe=Recipe(name="tiny", arch="densenet121"), arch=TINY, arch_name=None, preprocess=TINY_PREPROCESS,
        assumed=(), class_names=("a",) * 5, weights=Weights(source="random", file=None, digest="0", trained=False),
        golden=Golden(source="synthetic", test_digest="0", samples=1, labelled=0), reference=ReferenceRun(form="eager fp32", threads=1, top1=None, samples=1),
        calibration=None, targets={"onnxruntime:cpu": "onnxruntime-cpu"}, stages={}, environment=environment(), warnings=(), files={},
    )  # fmt: skip


def write_bundle(path: Path, content: bytes = b"model") -> None:
    with staging(path) as folder:
        target = folder / "targets" / "onnxruntime-cpu"
        target.mkdir(parents=True)
        (folder / "model.onnx").write_bytes(content)
        (target / "model.onnx").write_bytes(content)
        report = TargetReport(target="onnxruntime:cpu", status="built", file="targets/onnxruntime-cpu/model.onnx")
        (target / "report.json").write_text(report.model_dump_json())
        np.savez(
            folder / "golden.npz",
            images=np.zeros((1, 16, 16, 3), np.uint8),
            logits=np.zeros((1, 5), np.float32),
            labels=np.array([-1]),
        )
        write_manifest(folder, manifest())


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    write_bundle(tmp_path / "bundle")
    return tmp_path / "bundle"


def test_a_bundle_opens(bundle: Path) -> None:
    opened = Bundle.open(bundle)
    assert opened.engine("onnxruntime:cpu") == bundle / "targets" / "onnxruntime-cpu" / "model.onnx"
    assert opened.golden().labels.tolist() == [-1]
    assert set(opened.manifest.files) == {
        "golden.npz",
        "model.onnx",
        "targets/onnxruntime-cpu/model.onnx",
        "targets/onnxruntime-cpu/report.json",
    }


def test_an_earlier_bundle_is_replaced_whole(bundle: Path) -> None:
    write_bundle(bundle, b"newer")
    assert (bundle / "model.onnx").read_bytes() == b"newer"
    assert [p.name for p in bundle.parent.iterdir()] == ["bundle"]
    Bundle.open(bundle)


def test_a_failure_leaves_the_earlier_bundle(bundle: Path) -> None:
    with pytest.raises(BadInput, match="is a directory"), staging(bundle) as folder:
        (folder / "model.onnx").write_bytes(b"half") and folder.read_bytes()
    assert (bundle / "model.onnx").read_bytes() == b"model"
    assert [p.name for p in bundle.parent.iterdir()] == ["bundle"]


def test_without_an_atomic_exchange_it_works_too(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.platform", "darwin")
    write_bundle(bundle, b"newer")
    assert (bundle / "model.onnx").read_bytes() == b"newer"
    assert [p.name for p in bundle.parent.iterdir()] == ["bundle"]


def test_a_replacement_interrupted_between_its_renames_is_undone(bundle: Path) -> None:
    bundle.rename(bundle.with_name(".bundle.999999999.retired"))
    (bundle.with_name(f".bundle.{os.getpid()}.partial")).mkdir()
    with pytest.raises(ZeroDivisionError), staging(bundle):
        _ = 1 / 0
    assert (bundle / "model.onnx").read_bytes() == b"model"
    assert [p.name for p in bundle.parent.iterdir()] == ["bundle"]


def test_a_digest_had_by_another_way_pins_the_bundle(bundle: Path) -> None:
    digest = Bundle.open(bundle).digest
    assert Bundle.open(bundle, digest).digest == Bundle.open(bundle, f"SHA256:{digest.upper()}").digest == digest
    write_bundle(bundle, b"newer")  # whole, and signed by nobody
    with pytest.raises(IntegrityError, match=f"has the digest [0-9a-f]{{64}}, not {digest}; get the bundle again"):
        Bundle.open(bundle, digest)


def test_two_processes_do_not_write_one_bundle(bundle: Path) -> None:
    words = "is being written by process 4711; wait for it"
    with held(bundle.with_name(".bundle.4711.partial")), pytest.raises(UsageError, match=words), staging(bundle):
        pass
    write_bundle(bundle, b"newer")  # that process is gone
    assert [p.name for p in bundle.parent.iterdir()] == ["bundle"]


WRITER = """
import sys, time
from pathlib import Path
sys.path.insert(0, {root!r})
from tests.bundle.test_bundle import write_bundle
print("ready", flush=True)
while True:
    write_bundle(Path({bundle!r}), b"newer")
"""


def test_killed_at_any_moment_the_bundle_is_whole(bundle: Path, root: Path) -> None:
    for attempt in range(4):
        program = WRITER.format(root=str(root), bundle=str(bundle))
        writer = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True)
        assert writer.stdout is not None
        writer.stdout.readline()
        time.sleep(0.01 + 0.008 * attempt)
        writer.send_signal(signal.SIGKILL)
        writer.wait()
        writer.stdout.close()
        Bundle.open(bundle)
    write_bundle(bundle)
    assert [p.name for p in bundle.parent.iterdir()] == ["bundle"], "what the killed ones began is removed"


@pytest.mark.parametrize(
    ("code", "message"),
    [(errno.ENOSPC, "free some space"), (errno.EROFS, "choose an --output on a writable file system")],
)
def test_a_full_or_read_only_disk_is_named(bundle: Path, code: int, message: str) -> None:
    with pytest.raises(StorageError, match=message), staging(bundle) as folder:
        raise OSError(code, os.strerror(code), str(folder / "model.onnx"))
    Bundle.open(bundle)


def test_other_os_errors_are_no_storage_errors(bundle: Path) -> None:
    with pytest.raises(BadInput, match=r"cannot use .*none: no such file"), staging(bundle) as folder:
        (folder / "none").read_bytes()


def test_a_folder_that_is_no_bundle_is_not_replaced(tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.tex").write_text("years of work")
    with pytest.raises(UsageError, match="holds files that are no bundle; choose another --output or empty it"):
        write_bundle(tmp_path / "mine")
    (tmp_path / "file").write_text("x")
    with pytest.raises(UsageError, match="exists and is not a bundle"):
        write_bundle(tmp_path / "file")
    assert (tmp_path / "mine" / "thesis.tex").read_text() == "years of work"


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def link(path: Path) -> None:
    shutil.move(path, path.parent.parent / "outside")
    path.symlink_to(path.parent.parent / "outside")


@pytest.mark.parametrize(
    ("harm", "message"),
    [
        (lambda b: flip(b / "model.onnx"), r"file model\.onnx of bundle .* is not what the manifest says; copy the bundle again"),
        (lambda b: (b / "golden.npz").unlink(), r"lacks the file golden\.npz"),
        (lambda b: (b / "extra.so").write_bytes(b"x"), r"holds a file that its manifest does not name: extra\.so"),
        (lambda b: link(b / "model.onnx"), r"lacks the file model\.onnx"),
        (lambda b: (b / MANIFEST).write_text("{}"), f"is not a manifest of schema {SCHEMA}"),
        (lambda b: (b / MANIFEST).write_text((b / MANIFEST).read_text().replace(f'"schema_version": {SCHEMA}', f'"schema_version": {SCHEMA + 1}')), f"has schema {SCHEMA + 1}, this version reads {SCHEMA}"),
        (lambda b: (b / MANIFEST).write_text((b / MANIFEST).read_text().replace('"model.onnx"', '"../outside"')), "names a file outside of it"),
    ],
    ids=["flipped", "missing", "added", "symlink", "empty manifest", "newer schema", "path outside"],
)  # fmt: skip
def test_what_is_not_as_the_manifest_says_is_refused(bundle: Path, harm: object, message: str) -> None:
    harm(bundle)
    with pytest.raises(IntegrityError, match=message):
        Bundle.open(bundle)


@pytest.mark.parametrize(
    ("report", "slug", "message"),
    [
        (
            "{}",
            "onnxruntime-cpu",
            rf"targets/onnxruntime-cpu/report\.json of bundle .* is no report of schema {SCHEMA}",
        ),
        (
            '{"target": "x", "status": "built", "file": "/bin/sh"}',
            "onnxruntime-cpu",
            r"names an engine that is not among its files: /bin/sh",
        ),
        (None, "../elsewhere", r"lists a target whose targets/\.\./elsewhere/report\.json is not among its files"),
    ],
)
def test_a_report_is_trusted_no_more_than_the_rest(bundle: Path, report: str | None, slug: str, message: str) -> None:
    """The digests are right here: somebody wrote the whole bundle anew."""
    if report is not None:
        (bundle / "targets" / "onnxruntime-cpu" / "report.json").write_text(report)
    write_manifest(bundle, manifest().model_copy(update={"targets": {"onnxruntime:cpu": slug}}))
    with pytest.raises(IntegrityError, match=message):
        Bundle.open(bundle)


def test_a_folder_without_manifest_is_no_bundle(tmp_path: Path) -> None:
    with pytest.raises(
        BadInput, match=r"is not a bundle: it has no bundle\.json; give a directory that 'dnexport build' made"
    ):
        Bundle.open(tmp_path)


def test_a_bundle_whose_name_is_the_beginning_of_anothers_is_another(bundle: Path) -> None:
    """Names may hold dots; what stands beside 'bundle' for 'bundle.v2' is not its own."""
    other = bundle.with_name(".bundle.v2.999999999.retired")
    shutil.copytree(bundle, other)
    write_bundle(bundle, b"newer")
    assert other.is_dir()


def put_there(place: Path) -> None:
    place.mkdir()
    (place / "mine").write_text("mine")


def test_what_is_put_there_during_a_build_is_not_lost(tmp_path: Path) -> None:
    place = tmp_path / "b"
    with pytest.raises(UsageError, match="holds files that are no bundle"), staging(place):
        put_there(place)
    assert (place / "mine").read_text() == "mine"


def test_a_file_is_not_written_into_a_bundle(bundle: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"r\.html lies in bundle .*bundle, which would be damaged"):
        check_outside_bundles(bundle / "targets" / "r.html")
    check_outside_bundles(tmp_path / "r.html")
    with pytest.raises(UsageError, match="has 64 hexadecimal digits, and 'abc' is none; 'dnexport build' prints it"):
        Bundle.open(bundle, "abc")


def test_nothing_is_written_into_a_bundle(bundle: Path) -> None:
    """Its manifest would not know it, and the bundle could not be opened any more."""
    with pytest.raises(UsageError, match=r"lies in bundle .*, which would be damaged"), staging(bundle / "inner"):
        pass
    with pytest.raises(UsageError, match="lies in bundle"):
        write_archive(Bundle.open(bundle), bundle / "b.tar")
    with pytest.raises(UsageError, match="lies in bundle"):
        Stages(bundle / "engines" / ".stages", Silent())
    Bundle.open(bundle)
