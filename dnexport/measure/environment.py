"""The machine: without it a latency is a rumour."""

import os
import platform
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from dnexport.runtimes.arrays import available_threads
from dnexport.runtimes.gpu import gpu_names
from dnexport.spec.metrics import Environment

_PACKAGES = (
    "dnexport",
    "torch",
    "onnx",
    "onnx-ir",
    "onnxscript",
    "onnxruntime",
    "onnxruntime-gpu",
    "onnxruntime-ep-openvino",
    "tensorrt-rtx",
    "tensorrt",
    "polygraphy",
    "numpy",
    "pillow",
    "scikit-learn",
)
_FEATURES = (
    "avx2",
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


def machine_identity() -> list[str]:
    """What decides how an engine is built and what it executes here: processor, its instructions, GPUs."""
    cpu, flags = _cpu()
    return [cpu, *sorted(name for name in _FEATURES if name in flags), *gpu_names()]


def _cpu() -> tuple[str, frozenset[str]]:
    info = Path("/proc/cpuinfo")
    if not info.exists():
        return platform.processor() or "unknown", frozenset()
    lines = (line.partition(":") for line in info.read_text().split("\n\n")[0].splitlines())
    fields = {key.strip(): value.strip() for key, _, value in lines}
    name = fields.get("model name") or fields.get("Processor") or fields.get("CPU part", "unknown")
    return name, frozenset((fields.get("flags") or fields.get("Features") or "").split())
