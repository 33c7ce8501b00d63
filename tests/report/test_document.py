"""The report for programs and for pull requests."""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from jsonschema import Draft202012Validator

from dnexport.bundle.verify import Bundle
from dnexport.errors import BadInput, TargetUnavailable, UsageError
from dnexport.report import document
from dnexport.report.compare import compare
from dnexport.report.document import check_output, markdown_from_report, write_report
from dnexport.spec.recipe import recipe_from_toml, recipe_from_values
from dnexport.spec.report import (
    SCHEMA,
    Report,
    bundle_report,
    json_from_report,
    report_from_bundles,
    report_from_file,
    report_schema,
)
from tests.bundle.test_session import built
from tests.report import handmade

Run = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return built(tmp_path_factory.mktemp("report") / "b", require=["snr>=60", "size<=1kB"])


def report_of(bundle: Bundle, path: str = "b") -> Report:
    one = bundle_report(bundle.manifest, bundle.digest, bundle.reports, path)
    return report_from_bundles([one], f"dnexport report '{path}'")


def test_the_published_schema_is_the_records(root: Path) -> None:
    """Written by: python -c 'import json; from dnexport.spec.report import report_schema; print(json.dumps(…))'."""
    published = json.loads((root / "docs" / "report.schema.json").read_text())
    assert published == report_schema()
    Draft202012Validator.check_schema(published)


def test_a_builds_report_fits_the_schema(bundle: Bundle, root: Path) -> None:
    content = json.loads((bundle.path / "report.json").read_text())
    validator = Draft202012Validator(json.loads((root / "docs" / "report.schema.json").read_text()))
    validator.validate(content)
    assert content["schema_version"] == SCHEMA
    broken = {**content, "bundles": [{**content["bundles"][0], "parameters": "many"}]}
    assert not validator.is_valid(broken)
    read = Report.model_validate(content)
    assert read.bundles[0].targets == bundle.reports
    assert read.bundles[0].digest == ""
    assert report_of(bundle).bundles[0].digest == bundle.digest


def test_markdown_has_verdicts_a_row_an_engine_and_the_command(bundle: Bundle) -> None:
    report = report_of(bundle, "a b")
    warned = report.bundles[0].model_copy(update={"warnings": ("the images are SYNTHETIC",)})
    text = markdown_from_report(report.model_copy(update={"bundles": (warned,)}))
    lines = text.splitlines()
    assert "**Untrained**: latency and parity mean something, accuracy does not." in lines
    assert sum(line.startswith("- passed: snr>=60dB, FP32 on ") for line in lines) == 2
    assert sum(line.startswith("- FAILED: size<=0.001MB, FP32 on ") for line in lines) == 2
    header, dashes, *rows = [line for line in lines if line.startswith("|")]
    assert len(rows) == 2
    assert {line.count("|") for line in (header, dashes, *rows)} == {header.count("|")}
    report = bundle.reports["openvino:cpu"]
    assert f"| FP32 on openvino:cpu | validated | f32 | {report.bytes / 1e6:.1f} MB |" in rows[1]
    assert "p50" not in header, "nothing was measured"
    assert "`dnexport report 'a b'`" in text
    assert "- **Warning**: the images are SYNTHETIC" in lines


def test_the_suffix_says_the_form_and_other_files_are_not_overwritten(
    bundle: Bundle, tmp_path: Path, run_cli: Run
) -> None:
    for name in ("r.html", "r.json", "r.md"):
        for _ in range(2):  # an earlier report is replaced
            done = run_cli("report", str(bundle.path), "-o", name, cwd=tmp_path)
            assert done.returncode == 0, done.stderr
    (tmp_path / "notes.md").write_text("mine")
    done = run_cli("report", str(bundle.path), "-o", "notes.md", cwd=tmp_path)
    assert done.returncode == 2
    assert "output notes.md exists and is no report of dnexport; choose another --output" in done.stderr
    assert (tmp_path / "notes.md").read_text() == "mine"
    with pytest.raises(UsageError, match=r"does not say which report it is; end it in \.html, \.json, \.md"):
        write_report(report_of(bundle), tmp_path / "r.pdf")


def test_a_report_is_read_back_and_reported_on_beside_bundles(bundle: Bundle, tmp_path: Path, run_cli: Run) -> None:
    """So that what a device measured is shown beside what the host did."""
    here = report_of(bundle, str(bundle.path))
    there = here.bundles[0].model_copy(update={"environment": handmade.BOARD})
    (tmp_path / "board.json").write_text(
        json_from_report(report_from_bundles([there], "dnexport bench b -o board.json"))
    )
    assert report_from_file(tmp_path / "board.json").bundles == (there,)
    done = run_cli("report", str(bundle.path), "board.json", "-o", "both.json", "--json", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == {"report": str(tmp_path / "both.json")}
    both = report_from_file(tmp_path / "both.json")
    size = sum(path.stat().st_size for path in bundle.path.rglob("*") if path.is_file())
    assert both.bundles == (here.bundles[0].model_copy(update={"bytes": size}), there)
    assert both.command == f"dnexport report {bundle.path} board.json"


def test_what_is_no_report_is_refused_in_one_sentence(tmp_path: Path, run_cli: Run) -> None:
    whole = json.loads(json_from_report(report_from_bundles([handmade.bundle()], "dnexport report b")))
    old = {**whole, "schema_version": SCHEMA - 1}
    broken = {**whole, "bundles": [{**whole["bundles"][0], "parameters": "many"}]}
    again = "write it again with 'dnexport report BUNDLE -o FILE.json'"
    for content, message in (
        (json.dumps(old), f"has schema version {SCHEMA - 1}, this version of dnexport reads {SCHEMA}; {again}"),
        (json.dumps(broken), f"is no report of schema version {SCHEMA}: key 'bundles.0.parameters' is 'many'; {again}"),
        (
            json.dumps({**whole, "bundles": []}),
            f"is no report of schema version {SCHEMA}: key 'bundles' is []; {again}",
        ),
        ("[]", f"is no report: it names no schema_version; {again}"),
        ("{", f"is no report: it is not JSON; {again}"),
    ):
        (tmp_path / "r.json").write_text(content)
        with pytest.raises(BadInput) as caught:
            report_from_file(tmp_path / "r.json")
        assert str(caught.value).endswith(message)
    done = run_cli("report", "r.json", cwd=tmp_path)
    assert done.returncode == 3
    assert done.stderr.count("\n") == 1
    assert not (tmp_path / "report.html").exists()


def test_markdown_says_the_new_facts_and_what_became_worse() -> None:
    bundles = handmade.everything()
    slower = handmade.target("openvino:cpu", handmade.Execution.INT8_F32, 3.2, benchmark=handmade.benchmark(2.9))
    comparison = compare(bundles, [bundles[1].model_copy(update={"targets": {"openvino:cpu": slower}})], "old.json")
    text = markdown_from_report(report_from_bundles(bundles, "dnexport report a", comparison))
    assert "| INT8 on openvino:cpu (Some Xeon, 2 cores) | speed-up over PyTorch eager | **worse by 9.4 % (p = " in text
    assert "| p99 of eight | best batch | cold start | memory |" in text
    assert "| 6.10 ms | 1,678 images/s at batch 8 | 450 ms | 312.0 MB |" in text
    assert "Orin Nano, ARMv8 Cortex-A78AE, 6 cores, Linux 6.1.0." in text
    name = handmade.bundle(network="<img src=x> | b\nc")
    assert "### &lt;img src=x> | b c, " in markdown_from_report(report_from_bundles([name], "x"))


def test_engines_that_are_called_alike_have_a_row_each() -> None:
    one = handmade.bundle()
    again = one.model_copy(update={"path": "built/again"})
    lines = markdown_from_report(report_from_bundles([one, again], "dnexport report a b")).splitlines()
    rows = [line for line in lines if line.startswith("| INT8")]
    assert len(rows) == 2
    assert "(built/again)" in rows[1]


def test_the_recipe_in_a_report_builds_the_same_bundle(bundle: Bundle, tmp_path: Path) -> None:
    (tmp_path / "r.toml").write_text(report_of(bundle).bundles[0].recipe)
    assert recipe_from_values(recipe_from_toml(tmp_path / "r.toml"), "r") == bundle.manifest.recipe


def test_without_jinja2_only_the_page_is_refused_and_before_anything_is_measured(
    bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(document, "find_spec", lambda name: None if name == "jinja2" else name)
    with pytest.raises(TargetUnavailable) as caught:
        check_output(tmp_path / "x.html")
    assert str(caught.value) == (
        "a page needs jinja2, which is not installed;"
        " pip install jinja2, or write a .json here and 'dnexport report FILE.json' elsewhere"
    )
    program = """
import sys
from importlib.abc import MetaPathFinder
class Missing(MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in ("jinja2", "matplotlib", "torch", "onnx", "scipy"):
            raise ModuleNotFoundError(name=name)
sys.meta_path.insert(0, Missing())
from pathlib import Path
from dnexport.report.document import write_report
from dnexport.spec.report import report_from_file
for form in ("json", "md"):
    write_report(report_from_file(Path("r.json")), Path("x." + form))
"""
    (tmp_path / "r.json").write_text(json_from_report(report_of(bundle)))
    done = subprocess.run([sys.executable, "-c", program], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "x.json").read_bytes() == (tmp_path / "r.json").read_bytes()
    assert (tmp_path / "x.md").exists()


def test_what_is_measured_again_is_a_report_of_this_machine_now(bundle: Bundle, tmp_path: Path, run_cli: Run) -> None:
    flags = ["--target", "onnxruntime:cpu", "--restarts", "2", "--rounds", "1", "--block", "0.01", "--queries", "12"]
    done = run_cli("bench", str(bundle.path), *flags, "-o", "bench.json", "--json", cwd=tmp_path)
    assert done.returncode == 6, done.stderr  # its size is over the budget
    said = json.loads(done.stdout)["onnxruntime:cpu"]
    (found,) = report_from_file(tmp_path / "bench.json").bundles
    assert list(found.targets) == ["onnxruntime:cpu"], "the others were not measured now"
    target = found.targets["onnxruntime:cpu"]
    assert target.benchmark.latency.p50_ms == said["latency"]["p50_ms"]
    assert target.accuracy == bundle.reports["onnxruntime:cpu"].accuracy
    assert [each.verdict for each in target.judgements] == ["pass", "fail"]
    text = markdown_from_report(report_from_file(tmp_path / "bench.json"))
    assert any(line.startswith("- p99 is withheld: it needs 459 queries") for line in text.splitlines())
    assert found.bench.restarts == 2
    assert found.digest == bundle.digest
    again = ["--restarts", "2", "--block", "0.01", "--queries", "12"]
    command = " ".join(["dnexport bench", str(bundle.path), *again, "--target onnxruntime:cpu --output bench.json"])
    assert found.measured_by == command
    done = run_cli("validate", str(bundle.path), "--require", "snr>=60", "-o", "validate.md", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    text = (tmp_path / "validate.md").read_text()
    assert f"`dnexport validate {bundle.path} --require 'snr>=60' --output validate.md`" in text
    assert text.count("passed: snr>=60dB") == 2
    (tmp_path / "notes.md").write_text("mine")
    done = run_cli("bench", str(bundle.path), "-o", "notes.md", cwd=tmp_path)
    assert (done.returncode, done.stdout) == (2, ""), "refused before it measures"
