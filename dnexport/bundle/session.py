"""Run a bundle's engine in the caller's process: pictures in, logits out.

    with Bundle.open(path).session() as session:
        logits = session(images)

Vendor code that crashes takes its process with it, so an engine is first tried in a child process. That it answered is
remembered per engine, library and device; a machine that has no place to remember tries it each time.
"""

import contextlib
import hashlib
import platform
import threading
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from dnexport.data.images import Fed, PixelBatch, Pixels, feed_from_pixels, pixels_from_file, pixels_from_image
from dnexport.errors import BadInput, TargetUnavailable, UsageError
from dnexport.runtimes.arrays import Logits, LogitsPart, whole_batches
from dnexport.runtimes.cache import cache_folder
from dnexport.runtimes.contract import SessionOptions
from dnexport.runtimes.gpu import gpu_identity
from dnexport.runtimes.isolate import Worker
from dnexport.runtimes.registry import open_session, runtime_for, session_options
from dnexport.spec.precision import SATURATION, Execution
from dnexport.spec.record import digest_from_file, nearest
from dnexport.spec.target import Target

if TYPE_CHECKING:
    from dnexport.bundle.verify import Bundle

Picture = Path | str | Image.Image | np.ndarray


class BundleSession:
    """An engine of a bundle, loaded; threads may share it.

    Args:
        bundle: verified.
        target: one of its targets; None for the first that runs here.
        threads: of a CPU runtime; all where it is None.
        streams: queries that a CPU runtime works on at a time.

    Raises:
        TargetUnavailable: none runs here, or int8 would saturate here, which nobody has allowed or judged.

    Attributes:
        target: what runs it.
    """

    def __init__(
        self, bundle: "Bundle", target: str | None = None, *, threads: int | None = None, streams: int = 1
    ) -> None:
        self.target = runnable_target(bundle, target, judged=True)
        recipe = bundle.manifest.recipe
        self._preprocess, self._profile = bundle.manifest.preprocess, recipe.profile
        engine = bundle.engine(str(self.target))
        digest = bundle.reports[str(self.target)].engine_digest
        assert engine is not None
        digest = digest or digest_from_file(engine)
        options = session_options(
            recipe.precision,
            self.target,
            recipe.allow_execution,
            threads=threads,
            streams=streams,
            cache=_made(f"engines/{digest[:24]}"),
            batch=self._profile.min_batch,
        )
        feed = feed_from_pixels(self._zeros(self._profile.min_batch), self._preprocess)
        _try_once(engine, digest, self.target, options, feed(recipe.input))
        self._closed = False
        self._session = open_session(engine, self.target, options)
        concurrent = runtime_for(self.target).concurrent
        self._turn: contextlib.AbstractContextManager[object] = (
            contextlib.nullcontext() if concurrent else threading.Lock()
        )

    def __call__(self, images: Picture | Iterable[Picture]) -> Logits:
        """Logits, float32 [images, classes].

        Args:
            images: one picture or several: paths and Pillow images, which are brought to the network's input as the
                bundle says; or uint8 arrays that have its size already, [height, width, channels] or [batch, height,
                width, channels], in the bundle's order of channels.

        Raises:
            UsageError: the session is closed.
            DataError: a file cannot be decoded.
            BadInput: something else than a picture, an array of another type or shape, or nothing.
        """
        if self._closed:
            raise UsageError("the session is closed", "open another one with Bundle.session()")
        feed = feed_from_pixels(self._pixels(images), self._preprocess)
        fed = feed(self._session.input_type)
        largest, least = self._profile.max_batch, self._profile.min_batch
        if least <= len(fed) <= largest:
            with self._turn:
                return self._session(fed)
        parts: list[LogitsPart] = []
        for start in range(0, len(fed), largest):
            part = fed[start : start + largest]
            padded = part if len(part) >= least else whole_batches(part, least)
            with self._turn:
                parts.append(self._session(padded)[: len(part)])
        logits: Logits = np.concatenate(parts)
        return logits

    def close(self) -> None:
        """Give back what the engine holds; the second call does nothing."""
        self._closed = True
        self._session.close()

    def __enter__(self) -> "BundleSession":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _pixels(self, images: Picture | Iterable[Picture]) -> PixelBatch:
        if isinstance(images, np.ndarray):
            return self._checked(images if images.ndim == 4 else images[None])
        if isinstance(images, bytes) or not isinstance(images, Path | str | Image.Image | Iterable):
            raise _no_picture(images)
        pictures = [images] if isinstance(images, Path | str | Image.Image) else list(images)
        if not pictures:
            raise BadInput("there is no picture to answer for", "give at least one")
        return np.stack([self._one(picture) for picture in pictures])

    def _one(self, picture: Picture) -> Pixels:
        if isinstance(picture, np.ndarray):
            one: Pixels = self._checked(picture[None])[0]
            return one
        if isinstance(picture, Image.Image):
            return pixels_from_image(picture, self._preprocess)
        if not isinstance(picture, Path | str):
            raise _no_picture(picture)
        return pixels_from_file(Path(picture), self._preprocess)

    def _checked(self, pixels: np.ndarray) -> PixelBatch:
        shape = (*self._preprocess.input_size, self._preprocess.planes)
        if pixels.dtype != np.uint8 or pixels.shape[1:] != shape or not len(pixels):
            resized = "give Image.fromarray(array) where it has to be resized"
            raise BadInput(
                f"an array of pixels is uint8 [batch, {', '.join(map(str, shape))}], channels last, and not"
                f" {pixels.dtype} {list(pixels.shape)}",
                resized if pixels.dtype == np.uint8 else "give pixels from 0 to 255 as they are, not normalised",
            )
        return pixels

    def _zeros(self, batch: int) -> PixelBatch:
        return np.zeros((batch, *self._preprocess.input_size, self._preprocess.planes), np.uint8)


def _no_picture(given: object) -> BadInput:
    return BadInput(f"a picture is not a {type(given).__name__}", "give paths, Pillow images or uint8 arrays")


def _made(kind: str) -> Path | None:
    """A folder of the cache; None on a machine that has no place for it."""
    try:
        folder = cache_folder(kind)
        folder.mkdir(parents=True, exist_ok=True)
    except (OSError, RuntimeError):  # a home that is read-only, or none at all
        return None
    return folder


def saturates_unjudged(bundle: "Bundle", target: Target) -> str | None:
    """Why an int8 engine may not answer here: it would saturate, which was neither allowed nor measured; else None."""
    recipe, report = bundle.manifest.recipe, bundle.reports[str(target)]
    saturating = Execution.INT8_SATURATING_F32
    if runtime_for(target).execution(recipe.precision, target, recipe.allow_execution) is not saturating:
        return None
    if saturating.stand_in in recipe.allow_execution or report.executed_precision is saturating:
        return None
    return f"int8 saturates: {SATURATION}, and what that costs was not measured"


def runnable_target(bundle: "Bundle", name: str | None, *, judged: bool = False) -> Target:
    """The named target of a bundle, or the first whose engine runs on this machine.

    Args:
        bundle: verified.
        name: of the target; None for the first.
        judged: leave out engines that saturate here, where that was neither allowed nor measured.

    Raises:
        UsageError: the bundle has no engine for that name.
        TargetUnavailable: it, or every one, cannot run here.
    """
    built = [target for target in bundle.reports if bundle.engine(target) is not None]
    if name is not None:
        text = str(Target.parse(name))
        if text not in built:
            raise UsageError(f"bundle {bundle.path} has no engine for '{name}'", nearest(text, built))
        built = [text]
    refused = []
    for text in built:
        target = Target.parse(text)
        availability = runtime_for(target).runs(target)
        against = saturates_unjudged(bundle, target) if judged and availability.usable else None
        if availability.usable and against is None:
            return target
        refused.append(f"{text}: {against or availability.reason}")
    raise TargetUnavailable(
        f"no engine of bundle {bundle.path} runs here ({'; '.join(refused) or 'it has none'})",
        f"see 'dnexport check {bundle.path}'",
    )


def _try_once(engine: Path, digest: str, target: Target, options: SessionOptions, images: Fed) -> None:
    """Let a child process load the engine and answer, unless one has done so before on this machine.

    Raises:
        BuildFailed: the runtime refuses it.
        WorkerCrashed: it crashes or hangs.
    """
    runtime = runtime_for(target)
    asked = (options.execution, options.threads, options.streams)
    identity = (digest, str(target), runtime.runs(target).reason, asked, platform.node(), gpu_identity())
    marks = _made("tried")
    mark = marks / hashlib.sha256(repr(identity).encode()).hexdigest()[:32] if marks is not None else None
    if mark is not None and mark.exists():
        return
    with Worker(f"loading {target}", env=runtime.environment(target)) as worker:
        worker.create(open_session, engine, target, options)
        worker.method("values", images)
    if mark is not None:
        with contextlib.suppress(OSError):  # a read-only home is no reason to fail
            mark.touch()
