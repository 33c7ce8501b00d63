"""The NVIDIA GPUs of this machine, as its driver lists them."""

import shutil
import subprocess

_PATIENCE_S = 10


def gpu_names() -> list[str]:
    """Names of the GPUs; empty without a driver, or with one that does not answer."""
    tool = shutil.which("nvidia-smi")
    if tool is None:
        return []
    command = [tool, "--query-gpu=name", "--format=csv,noheader"]
    try:
        listing = subprocess.run(command, capture_output=True, text=True, check=True, timeout=_PATIENCE_S)
    except (OSError, subprocess.SubprocessError):
        return []
    return [line.strip() for line in listing.stdout.splitlines() if line.strip()]
