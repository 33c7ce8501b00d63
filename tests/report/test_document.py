"""The report for programs and for pull requests."""

import json
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from jsonschema import Draft202012Validator

from dnexport.bundle.verify import Bundle
from dnexport.errors import UsageError
from dnexport.report.document import markdown_from_report, report_from_bundles, write_report
from dnexport.spec.report import SCHEMA, Report, report_schema
from tests.bundle.test_session import built

Run = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return built(tmp_path_factory.mktemp("report") / "b", require=["snr>=60", "size<=1kB"])


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
    assert report_from_bundles([bundle], ["b"]).bundles[0].digest == bundle.digest


def test_markdown_has_verdicts_a_row_an_engine_and_the_command(bundle: Bundle) -> None:
    text = markdown_from_report(report_from_bundles([bundle], ["a b"]))
    lines = text.splitlines()
    assert "**Untrained**: latency and parity mean something, accuracy does not." in lines
    assert sum(line.startswith("- passed: snr>=60dB on ") for line in lines) == 2
    assert sum(line.startswith("- FAILED: size<=0.001MB on ") for line in lines) == 2
    header, dashes, *rows = [line for line in lines if line.startswith("|")]
    assert len(rows) == 2
    assert {line.count("|") for line in (header, dashes, *rows)} == {header.count("|")}
    report = bundle.reports["openvino:cpu"]
    assert f"| FP32 on openvino:cpu | validated | f32 | {report.bytes / 1e6:.1f} MB |" in rows[1]
    assert "latency" not in header, "nothing was measured"
    assert "`dnexport report 'a b'`" in text


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
        write_report([bundle], ["b"], tmp_path / "r.pdf")
