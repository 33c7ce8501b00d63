import ast
import subprocess
import sys
import zipfile
from pathlib import Path

from dnexport import errors


def test_a_wheel_ships_the_package_and_nothing_else(root: Path, tmp_path: Path) -> None:
    command = [
        sys.executable,
        "-m",
        "pip",
        "wheel",
        "--quiet",
        "--no-deps",
        "--no-build-isolation",
        "--wheel-dir",
        str(tmp_path),
        str(root),
    ]
    subprocess.run(command, check=True, capture_output=True)
    (wheel,) = tmp_path.glob("*.whl")
    names = zipfile.ZipFile(wheel).namelist()
    assert {name.split("/")[0] for name in names} == {"dnexport", "dnexport-0.1.0.dist-info"}
    assert "dnexport/report/page.html.j2" in names
    assert "dnexport/spec/fleets.toml" in names
    assert "dnexport-0.1.0.dist-info/licenses/LICENSE" in names


def test_every_error_is_drawn_in_the_tree_with_its_code() -> None:
    assert errors.__doc__
    classes = [
        value for value in vars(errors).values() if isinstance(value, type) and issubclass(value, errors.DnexportError)
    ]
    for each in classes:
        line = next(line for line in errors.__doc__.splitlines() if each.__name__ in line)
        assert each is errors.DnexportError or f" {each.exit_code} " in line, line


def test_the_package_reads_no_environment_at_import(root: Path) -> None:
    for path in (root / "dnexport").rglob("*.py"):
        for node in ast.parse(path.read_text()).body:
            if not isinstance(node, ast.FunctionDef | ast.ClassDef):
                assert "attr='environ'" not in ast.dump(node), path
