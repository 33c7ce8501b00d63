"""The NVIDIA GPUs of this machine, as its driver lists them, and what its management library tells of the first."""

import functools
import os
import re
import shutil
import subprocess
from collections.abc import Mapping
from typing import Any

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


@functools.cache
def _nvml() -> Any:
    """NVIDIA's management library and the first GPU's handle; None without the package, the driver or a GPU."""
    try:
        import pynvml

        pynvml.nvmlInit()
        return pynvml, _first_handle(pynvml)
    except Exception:  # not installed, no driver, no GPU, or not said which: each has an exception of its own
        return None


def _first_handle(library: Any) -> Any:
    """Of the GPU that CUDA calls its first.

    Raises:
        LookupError: CUDA numbers several by speed, which NVML does not.
    """
    first = os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",")[0].strip()
    if first.startswith(("GPU-", "MIG-")):
        return library.nvmlDeviceGetHandleByUUID(first)
    if library.nvmlDeviceGetCount() > 1 and os.environ.get("CUDA_DEVICE_ORDER") != "PCI_BUS_ID":
        raise LookupError
    return library.nvmlDeviceGetHandleByIndex(int(first or 0))


def gpu_millijoules() -> float | None:
    """What the first GPU has taken since its driver was loaded; None where nothing counts it."""
    return _read("nvmlDeviceGetTotalEnergyConsumption")


def gpu_readings() -> dict[str, Any]:
    """Clock, power, temperature and throttle reasons of the first GPU, as fields of `Conditions`, where it tells."""
    if _nvml() is None:
        return {}
    library, _ = _nvml()
    watts, reasons = _read("nvmlDeviceGetPowerUsage"), _read("nvmlDeviceGetCurrentClocksThrottleReasons")
    return {
        "gpu_mhz": _read("nvmlDeviceGetClockInfo", library.NVML_CLOCK_SM),
        "gpu_watts": None if watts is None else watts / 1e3,
        "gpu_celsius": _read("nvmlDeviceGetTemperature", library.NVML_TEMPERATURE_GPU),
        "gpu_throttled": throttle_words(int(reasons or 0), vars(library)),
    }


def throttle_words(reasons: int, constants: Mapping[str, Any]) -> tuple[str, ...]:
    """Names of NVML's reasons for a clock that is held down; that the GPU is idle or set to a clock is none.

    Args:
        reasons: the bits.
        constants: of NVML's module: ``nvmlClocksThrottleReasonSwPowerCap`` and its like.
    """
    prefix, harmless = "nvmlClocksThrottleReason", ("GpuIdle", "ApplicationsClocksSetting", "None", "All")
    names = {name.removeprefix(prefix): bit for name, bit in constants.items() if name.startswith(prefix)}
    return tuple(
        sorted(name for name, bit in names.items() if isinstance(bit, int) and reasons & bit and name not in harmless)
    )


def _read(function: str, *arguments: Any) -> float | None:
    found = _nvml()
    if found is None:
        return None
    library, handle = found
    try:
        return float(getattr(library, function)(handle, *arguments))
    except Exception:  # this GPU or this driver does not tell
        return None
