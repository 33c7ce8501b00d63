"""The NVIDIA GPUs of this machine, as its driver lists them."""

import os
import re
import shutil
import subprocess

_PATIENCE_S = 10
_CAPABILITY = re.compile(r"(\d+)\.(\d+)")


def gpu_names() -> list[str]:
    """Names of the GPUs; empty without a driver, with one that does not answer, or where CUDA is told to see none."""
    return _listed("name")


def gpu_capabilities() -> list[str]:
    """Compute capabilities of the GPUs, as a target spells them: ``sm86``; a driver that tells none is passed over."""
    found = [_CAPABILITY.fullmatch(line) for line in _listed("compute_cap")]
    return [f"sm{match[1]}{match[2]}" for match in found if match]


def gpu_identity() -> dict[str, str]:
    """Name, compute capability and driver of the first GPU; empty where none is."""
    fields = {"gpu": gpu_names(), "capability": gpu_capabilities(), "driver": _listed("driver_version")}
    return {field: found[0] for field, found in fields.items() if found}


def _listed(field: str) -> list[str]:
    """One line a GPU. CUDA shows a program no GPU where ``CUDA_VISIBLE_DEVICES`` is set and empty."""
    if os.environ.get("CUDA_VISIBLE_DEVICES", "all").strip() in ("", "-1"):
        return []
    tool = shutil.which("nvidia-smi")
    if tool is None:
        return []
    command = [tool, f"--query-gpu={field}", "--format=csv,noheader"]
    try:
        listing = subprocess.run(command, capture_output=True, text=True, check=True, timeout=_PATIENCE_S)
    except (OSError, subprocess.SubprocessError):
        return []
    return [line.strip() for line in listing.stdout.splitlines() if line.strip()]
