"""torchvision's weights through torch hub: from its cache, or downloaded and checked against their digest."""

import os
import socket
import threading
import urllib.parse
import urllib.request
from pathlib import Path

from dnexport.errors import CheckpointError
from dnexport.spec.progress import Progress

PRETRAINED_BASE = "https://download.pytorch.org/models/"
# torchvision's files; a name carries the first digits of the file's SHA-256, which torch hub checks.
PRETRAINED_FILES = {
    "densenet121": "densenet121-a639ec97.pth",
    "densenet161": "densenet161-8d451a50.pth",
    "densenet169": "densenet169-b2777c0a.pth",
    "densenet201": "densenet201-c1103571.pth",
}
PATIENCE_S = 5.0


def pretrained(arch: str, *, must: bool, progress: Progress) -> Path | None:
    """The file of an arch's weights; None where there are none, or none within five seconds, and none ``must`` be.

    Raises:
        CheckpointError: there ``must`` be.
    """
    name = PRETRAINED_FILES.get(arch.strip().lower())
    if name is None:
        if must:
            raise CheckpointError(
                f"there are no pretrained weights for arch '{arch}'", f"known: {', '.join(PRETRAINED_FILES)}"
            )
        return None
    cached = _hub_folder() / "checkpoints" / name
    if cached.is_file():
        return cached
    url = PRETRAINED_BASE + name
    try:
        _wait_for_host(url)
        _download(url, cached, progress)
    except (OSError, RuntimeError) as exc:
        if must:
            raise CheckpointError(
                f"{url} cannot be downloaded: {exc}", f"place the file at {cached}, or use --weights FILE"
            ) from exc
        return None
    return cached


def _download(url: str, cached: Path, progress: Progress) -> None:
    import torch

    progress.start(f"download {url}")
    cached.parent.mkdir(parents=True, exist_ok=True)
    prefix = cached.stem.partition("-")[2]
    patience = socket.getdefaulttimeout()
    socket.setdefaulttimeout(PATIENCE_S)  # torch hub sets none: a stalled transfer would hang for ever
    try:
        torch.hub.download_url_to_file(url, str(cached), hash_prefix=prefix, progress=False)
    finally:
        socket.setdefaulttimeout(patience)


def _hub_folder() -> Path:
    """torch hub's folder, by its documented rule, without importing PyTorch."""
    home = os.environ.get("TORCH_HOME") or Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache") / "torch"
    return Path(home).expanduser() / "hub"


def _wait_for_host(url: str) -> None:
    """Raise OSError unless a URL's host, or the proxy before it, answers within `PATIENCE_S`.

    The name look-up has no time-out of its own.
    """
    parts = urllib.parse.urlsplit(url)
    proxy = urllib.request.getproxies().get(parts.scheme)
    if proxy and not urllib.request.proxy_bypass(parts.netloc):
        parts = urllib.parse.urlsplit(proxy if "//" in proxy else f"//{proxy}")
    host, port = parts.hostname or "", parts.port or (80 if parts.scheme == "http" else 443)
    outcome: list[OSError | None] = []

    def connect() -> None:
        try:
            socket.create_connection((host, port), timeout=PATIENCE_S).close()
            outcome.append(None)
        except OSError as exc:
            outcome.append(exc)

    thread = threading.Thread(target=connect, daemon=True)
    thread.start()
    thread.join(PATIENCE_S)
    if not outcome:
        raise TimeoutError(f"{host} did not answer within {PATIENCE_S:g} s")
    if outcome[0] is not None:
        raise outcome[0]
