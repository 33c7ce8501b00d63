"""The machine: without it a latency is a rumour."""

import os
import platform
import shutil
import subprocess
from collections.abc import Iterable
from importlib.metadata import PackageNotFoundError, files, version
from pathlib import Path

from dnexport.runtimes.arrays import available_threads
from dnexport.runtimes.gpu import gpu_identity, gpu_names
from dnexport.spec.metrics import Environment

_PACKAGES = (
    "dnexport",
    "torch",
    "onnx",
    "onnx-ir",
    "onnxscript",
    "onnxruntime",
    "onnxruntime-gpu",
    "openvino",
    "tensorrt-rtx",
    "tensorrt",
    "polygraphy",
    "numpy",
    "pillow",
    "scikit-learn",
)
_FEATURES = (
    "avx2",
    "avx_vnni",
    "avx512f",
    "avx512_vnni",
    "avx512_bf16",
    "avx512_fp16",
    "amx_bf16",
    "amx_int8",
    "asimd",
    "asimdhp",
    "asimddp",
    "bf16",
    "i8mm",
)


def environment() -> Environment:
    """What can be read without privileges; None where the system does not tell."""
    cpu, flags = _cpu()
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") if hasattr(os, "sysconf") else None
    return Environment(
        system=f"{platform.system()} {platform.release()}",
        machine=platform.machine(),
        cpu=cpu,
        cpu_features=tuple(name for name in _FEATURES if name in flags),
        cores=available_threads(),
        memory_bytes=memory,
        load_average=os.getloadavg()[0] if hasattr(os, "getloadavg") else None,
        governor=_first_line(Path("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor")),
        gpu=gpu_identity(),
        power_mode=_power_mode(),
        python=platform.python_version(),
        versions=package_versions(),
    )


def package_versions() -> dict[str, str]:
    """Versions of the packages that decide what is built and how fast it runs."""
    found = {}
    for name in _PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def installed_bytes(packages: Iterable[str]) -> int | None:
    """What packages take on disk, without what they depend on; None where there is none, or one's files are unknown."""
    total = 0
    for name in packages:
        try:
            recorded = files(name)
        except PackageNotFoundError:
            return None
        if recorded is None:
            return None
        paths = [Path(str(entry.locate())) for entry in recorded]
        total += sum(path.stat().st_size for path in paths if path.is_file())
    return total or None


def machine_identity() -> list[str]:
    """What decides how an engine is built and what it executes here: processor, its instructions, GPUs."""
    cpu, flags = _cpu()
    return [cpu, *sorted(name for name in _FEATURES if name in flags), *gpu_names()]


def _power_mode() -> str | None:
    """Of a Jetson: ``MAXN`` or what ``nvpmodel -q`` prints instead."""
    tool = shutil.which("nvpmodel")
    if tool is None:
        return None
    try:
        said = subprocess.run([tool, "-q"], capture_output=True, text=True, check=True, timeout=10).stdout
    except (OSError, subprocess.SubprocessError):
        return None
    line = next((line for line in said.splitlines() if "Power Mode" in line), None)
    return line.rpartition(":")[2].strip() if line else None


def _first_line(path: Path) -> str | None:
    try:
        return path.read_text().strip().splitlines()[0]
    except (OSError, IndexError):
        return None


def _cpu() -> tuple[str, frozenset[str]]:
    info = Path("/proc/cpuinfo")
    if not info.exists():
        return platform.processor() or "unknown", frozenset()
    lines = (line.partition(":") for line in info.read_text().split("\n\n")[0].splitlines())
    fields = {key.strip(): value.strip() for key, _, value in lines}
    name = fields.get("model name") or fields.get("Processor") or fields.get("CPU part", "unknown")
    return name, frozenset((fields.get("flags") or fields.get("Features") or "").split())
