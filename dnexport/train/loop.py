"""The training loop, on Lightning Fabric: one process or many, one machine or many.

Epoch by epoch a state file remembers all that is needed to go on. The reported accuracy is that of the weights that
are kept (the last, or their moving average) on the held-out part, never the best seen on it.
"""

import contextlib
import inspect
import json
import logging
import os
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from lightning_fabric import Fabric
from lightning_fabric.strategies.ddp import DDPStrategy
from safetensors.torch import save
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from dnexport.data.images import PixelBatch, input_from_pixels
from dnexport.data.imageset import ImageSet
from dnexport.data.stored import LARGEST_STORE, store_size, stored_pixels
from dnexport.data.workers import default_workers
from dnexport.errors import BuildFailed, TargetUnavailable, UsageError
from dnexport.models.checkpoint import METADATA_KEY, state_from_file
from dnexport.models.condensenet import CondenseNet, LearnedGroupConv
from dnexport.models.zoo import module_from_arch
from dnexport.report.plots import training_curves
from dnexport.spec.preprocess import Preprocess
from dnexport.spec.progress import Progress, Silent
from dnexport.spec.record import write_atomically
from dnexport.spec.training import CheckpointMetadata, EpochRow, TrainingRecipe
from dnexport.train.average import averaged_model
from dnexport.train.job import Job, Trained
from dnexport.train.loading import Loader, MicroBatch, check_enough
from dnexport.train.schedule import share
from dnexport.train.state import State, load_state, save_state

_FINITE_EVERY = 16
# Batch-norm statistics are each process's own; PyTorch 2.13 has a new name for that.
_OWN_STATISTICS: dict[str, Any] = (
    {"forward_sync_buffers": False}
    if "forward_sync_buffers" in inspect.signature(DistributedDataParallel).parameters
    else {"broadcast_buffers": False}
)
_TEST_BATCH = 64


def train(job: Job, progress: Progress, *, resume: bool = False) -> Trained:
    """Train on ``job.splits.train``, test on ``job.splits.test``, write a ``.safetensors`` with all that a build needs.

    Raises:
        BuildFailed: the loss is not finite, or memory ran out; the state of the last whole epoch stays.
        DataError: an image cannot be decoded, or there are fewer than a batch.
        UsageError: a state lies there and ``resume`` is not asked for, or it is of another training; a part to freeze
            that the network does not have.
        CheckpointError: a state that is damaged.
        OSError: nothing can be written; what was there stays.
    """
    began = time.monotonic()
    check_enough(job.splits.train, job.recipe)
    if resume and (done := _finished(job)) is not None:
        return done
    fabric = fabric_for(job)
    listener = progress if fabric.is_global_zero else Silent()
    listener.start(f"train {job.output.stem} on {len(job.splits.train)} images of {job.splits.train.name}")
    with _deterministic(job.recipe):
        run = Run(fabric, job, listener)
        if job.state_path.exists():
            if not resume:
                raise UsageError(
                    f"an unfinished training lies at {job.state_path}", "go on with --resume, or remove that file"
                )
            run.restore(load_state(job.state_path, run.identity))
        while run.epoch < job.recipe.epochs:
            run.train_epoch()
    metadata = run.metadata()
    if fabric.is_global_zero:
        state = {key: value.detach().cpu().contiguous() for key, value in run.kept.state_dict().items()}
        write_atomically(job.output, save(state, metadata={METADATA_KEY: json.dumps(metadata.model_dump(mode="json"))}))
        job.state_path.unlink(missing_ok=True)
    fabric.barrier()
    seconds = time.monotonic() - began
    listener.finish(seconds, reused=False)
    return Trained(job.output, metadata, tuple(run.history), seconds)


def _finished(job: Job) -> Trained | None:
    """What this very training gave before; None where it is not over."""
    if job.state_path.exists() or not job.output.exists() or not job.log_path.exists():
        return None
    metadata = state_from_file(job.output)[1]
    if metadata is None or metadata.identity != job.identity().digest():
        return None
    rows = job.log_path.read_text(encoding="utf-8").splitlines()
    return Trained(job.output, metadata, tuple(map(EpochRow.model_validate_json, rows)), 0.0)


class Run:
    """A training under way: modules, optimizer and history."""

    def __init__(self, fabric: Fabric, job: Job, progress: Progress) -> None:
        self.fabric, self.job, self.recipe, self.progress = fabric, job, job.recipe, progress
        self.history: list[EpochRow] = []
        self.identity = job.identity()
        self.loader = _loader(fabric, job)
        self.test_pixels = _stored(fabric, job, job.splits.test)
        self.module = _module(job)
        if self.recipe.epochs < 2 and any(isinstance(m, LearnedGroupConv) for m in self.module.modules()):
            raise UsageError("a CondenseNet condenses over the first half of its epochs, and 1 has none", "train 2")
        self.ema = averaged_model(self.module, self.recipe.ema) if self.recipe.ema else None
        self.frozen = [_part(self.module, name) for name in self.recipe.freeze]
        for part in self.frozen:
            part.requires_grad_(False)
        optimizer = torch.optim.SGD(
            [parameter for parameter in self.module.parameters() if parameter.requires_grad],
            lr=self.recipe.learning_rate,
            momentum=self.recipe.momentum,
            weight_decay=self.recipe.weight_decay,
            nesterov=self.recipe.momentum > 0,
        )
        if self.recipe.channels_last:
            self.module = self.module.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        forward: Any = torch.compile(self.module, dynamic=False) if self.recipe.compile else self.module
        self.wrapped, self.optimizer = fabric.setup(forward, optimizer)
        if self.ema is not None:
            self.ema.to(fabric.device)
        self.criterion = nn.CrossEntropyLoss(label_smoothing=self.recipe.label_smoothing)

    @property
    def epoch(self) -> int:
        """Epochs that are over."""
        return len(self.history)

    @property
    def kept(self) -> nn.Module:
        """The network whose weights will be written."""
        return self.module if self.ema is None else self.ema.module

    def restore(self, state: State) -> None:
        """Go back to the end of an epoch."""
        self.history = list(state.history)
        self.module.load_state_dict(state.tensors["module"])
        self.optimizer.load_state_dict(state.tensors["optimizer"])
        if self.ema is not None:
            self.ema.load_state_dict(state.tensors["ema"])
        if "scaler" in state.tensors:
            self._scaler().load_state_dict(state.tensors["scaler"])

    def train_epoch(self) -> None:
        """One pass over the training part; a test, where one is due; then the state, the log and the curves."""
        began = time.monotonic()
        totals, rate = self._zeros(), 0.0
        for step, used in enumerate(self.steps(totals)):
            rate = used
            self._report(step, totals, began)
        self._synchronise_statistics()
        loss, right, images = self._reduced(totals, "sum").tolist()
        seconds = time.monotonic() - began
        due = (self.epoch + 1) % self.recipe.test_every == 0 or self.epoch + 1 == self.recipe.epochs
        self.history.append(
            EpochRow(
                epoch=self.epoch + 1,
                loss=loss / images,
                train_top1=right / images,
                test_top1=self._tested() if due else None,
                learning_rate=rate,
                images_per_s=images / seconds,
                seconds=seconds,
            )
        )
        if self.fabric.is_global_zero:
            self._save()
        self.fabric.barrier()

    def steps(self, totals: Tensor | None = None) -> Iterator[float]:
        """The next epoch's updates of the weights, one by one; each gives the learning rate that it used.

        Args:
            totals: summed loss, right answers and images of this process are added to it.
        """
        totals = self._zeros() if totals is None else totals
        # Dropout's numbers, too, follow from seed and epoch.
        seeds = np.random.SeedSequence([self.recipe.seed, self.epoch, self.fabric.global_rank])
        torch.manual_seed(int(seeds.generate_state(1)[0]))
        self._set_training()
        self._condense()
        batches = self.loader.epoch(self.epoch)
        for step in range(self.loader.steps):
            yield self._step(step, batches, totals)

    def _zeros(self) -> Tensor:
        return torch.zeros(3, dtype=torch.float64, device=self.fabric.device)

    def metadata(self) -> CheckpointMetadata:
        """What the checkpoint will say of itself."""
        test_top1 = self.history[-1].test_top1
        assert test_top1 is not None
        job = self.job
        return CheckpointMetadata(
            arch=job.arch,
            arch_name=job.arch_name,
            preprocess=job.preprocess,
            class_names=job.splits.train.classes,
            data=job.splits.train.name,
            training=job.recipe,
            test_top1=test_top1,
            test_images=len(job.splits.test),
            identity=self.identity.digest(),
        )

    def _step(self, step: int, batches: Iterator[MicroBatch], totals: Tensor) -> float:
        """One update of the weights; the learning rate it used."""
        done = self.epoch * self.loader.steps + step
        total = self.recipe.epochs * self.loader.steps
        rate = self.recipe.learning_rate * share(self.recipe, done, total)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        self.optimizer.zero_grad()
        seen: list[np.ndarray] = []
        for part in range(self.recipe.accumulate):
            batch = next(batches)
            seen.append(batch.indices)
            last = part + 1 == self.recipe.accumulate
            with self.fabric.no_backward_sync(self.wrapped, enabled=not last):
                self._backward(batch, totals)
        if step % _FINITE_EVERY == 0 or step + 1 == self.loader.steps or self.fabric.device.type == "cpu":
            self._check_finite(totals, step, np.concatenate(seen))
        self.optimizer.step()
        if self.ema is not None:
            self.ema.update_parameters(self.module)
        return rate

    def _backward(self, batch: MicroBatch, totals: Tensor) -> None:
        x = torch.from_numpy(input_from_pixels(batch.pixels, self.job.preprocess))
        if self.recipe.channels_last:
            x = x.contiguous(memory_format=torch.channels_last)
        y = self.fabric.to_device(torch.from_numpy(batch.labels))
        try:
            logits = self.wrapped(self.fabric.to_device(x))
            loss = self.criterion(logits, y)
            whole = loss
            if self.recipe.lasso and isinstance(self.module, CondenseNet):
                whole = loss + self.recipe.lasso * self.module.lasso()
            self.fabric.backward(whole * (batch.share / self.recipe.accumulate))
        except RuntimeError as exc:
            if isinstance(exc, torch.OutOfMemoryError) or "allocate memory" in str(exc):
                raise BuildFailed(
                    f"memory ran out with {len(y)} images in a micro-batch",
                    "train with --memory-efficient, a larger --accumulate or a smaller --batch",
                ) from exc
            raise
        with torch.no_grad():
            totals[0] += loss.detach().double() * len(y)
            totals[1] += (logits.argmax(1) == y).sum()
            totals[2] += len(y)

    def _check_finite(self, totals: Tensor, step: int, indices: np.ndarray) -> None:
        if torch.isfinite(totals[0]):
            return
        pictures = self.job.splits.train.pictures
        names = [str(p) if isinstance(p := pictures[i], Path) else f"image {i}" for i in indices[:3]]
        kept = f"; the state after epoch {self.epoch} is kept in {self.job.state_path}" if self.epoch else ""
        raise BuildFailed(
            f"the loss is not finite in epoch {self.epoch + 1}, {self._when(step)} "
            f"(batch of {', '.join(names)} …){kept}",
            "train anew with a lower --learning-rate, or --precision fp32",
        )

    def _when(self, step: int) -> str:
        """On a GPU the loss is looked at now and then only: that would make it wait."""
        exact = self.fabric.device.type == "cpu" or step == 0
        return f"step {step + 1}" if exact else f"one of the {_FINITE_EVERY} steps up to {step + 1}"

    def _condense(self) -> None:
        """CondenseNet's condensing stages: C−1 of them, evenly over the first half of the training."""
        progress = self.epoch / self.recipe.epochs
        for name, module in self.module.named_modules():
            if isinstance(module, LearnedGroupConv):
                module.condense_until(int(progress * 2 * (module.condense - 1)))
                if self.ema is not None:
                    # A mask is no quantity to be averaged.
                    self.ema.module.get_submodule(name).take_mask(module)  # type: ignore[operator]

    def _set_training(self) -> None:
        self.wrapped.train()
        for part in self.frozen:
            part.eval()

    def _report(self, step: int, totals: Tensor, began: float) -> None:
        done = self.epoch * self.loader.steps + step + 1
        note = ""
        if (step + 1) % _FINITE_EVERY == 0:
            loss, right, images = totals.tolist()
            rate = images * self.fabric.world_size / (time.monotonic() - began)
            note = f"epoch {self.epoch + 1}  loss {loss / images:.3f}  top-1 {right / images:.1%}  {rate:.0f} img/s"
        self.progress.advance(done, self.recipe.epochs * self.loader.steps, note)

    def _synchronise_statistics(self) -> None:
        """Batch-norm statistics are each process's own; what is kept is their mean."""
        if self.fabric.world_size == 1:
            return
        for network in (self.module, *([self.ema.module] if self.ema is not None else [])):
            for buffer in network.buffers():
                if buffer.is_floating_point():
                    buffer.copy_(self._reduced(buffer, "mean"))

    def _tested(self) -> float:
        """Top-1 of the weights that would be kept; each process answers a part of the pictures."""
        images = self.job.splits.test
        mine = range(self.fabric.global_rank, len(images), self.fabric.world_size)
        labels = np.asarray(images.labels)[mine]
        batches: Iterable[PixelBatch]
        if self.test_pixels is not None:
            starts = range(0, len(mine), _TEST_BATCH)
            batches = (np.asarray(self.test_pixels[mine[i : i + _TEST_BATCH]]) for i in starts)
        else:
            batches = images.subset(mine).batches(self.job.preprocess, _TEST_BATCH, self.loader.workers)
        right = torch.tensor(float(_right(self.fabric, self.kept, batches, labels, self.job.preprocess)))
        return float(self._reduced(self.fabric.to_device(right), "sum")) / len(images)

    def _reduced(self, tensor: Tensor, how: Literal["sum", "mean"]) -> Tensor:
        """Over all processes."""
        reduced = self.fabric.all_reduce(tensor, reduce_op=how)
        assert isinstance(reduced, Tensor)
        return reduced

    def _save(self) -> None:
        tensors: dict[str, Any] = {"module": self.module.state_dict(), "optimizer": self.optimizer.state_dict()}
        if self.ema is not None:
            tensors["ema"] = self.ema.state_dict()
        if self.recipe.precision == "fp16":
            tensors["scaler"] = self._scaler().state_dict()
        save_state(self.job.state_path, self.identity, State(tuple(self.history), tensors))
        lines = "".join(row.model_dump_json() + "\n" for row in self.history)
        write_atomically(self.job.log_path, lines.encode())
        write_atomically(self.job.curves_path, training_curves(self.history))
        row = self.history[-1]
        left = row.seconds * (self.recipe.epochs - self.epoch)
        self.progress.row(
            {
                "epoch": f"{row.epoch}/{self.recipe.epochs}",
                "loss": f"{row.loss:.4f}",
                "top-1": f"{row.train_top1:.2%}",
                "test top-1": "" if row.test_top1 is None else f"{row.test_top1:.2%}",
                "img/s": f"{row.images_per_s:.0f}",
                "learning rate": f"{row.learning_rate:.2g}",
                "left": f"{left / 60:.0f} min" if left >= 90 else f"{left:.0f} s",
            }
        )

    def _scaler(self) -> Any:
        return self.fabric._precision.scaler  # type: ignore[attr-defined]  # Fabric offers no public way to it


def fabric_for(job: Job) -> Fabric:
    """As many processes as ``torchrun`` started; one without it."""
    logging.getLogger("lightning_fabric").setLevel(logging.ERROR)
    if job.accelerator == "cuda" and not torch.cuda.is_available():
        raise TargetUnavailable("no CUDA GPU is here", "train with --accelerator cpu")
    processes = int(os.environ.get("WORLD_SIZE", "1"))
    here = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    fabric = Fabric(
        accelerator=job.accelerator,
        devices=here,
        num_nodes=processes // here,
        strategy=DDPStrategy(**_OWN_STATISTICS) if processes > 1 else "auto",
        precision=_precision(job),
    )
    fabric.launch()
    return fabric


def _precision(job: Job) -> Literal["bf16-mixed", "16-mixed", "32-true"]:
    chosen = job.recipe.precision
    if chosen == "fp16" and (job.accelerator == "cpu" or not torch.cuda.is_available()):
        raise UsageError("fp16 autocast needs a CUDA GPU", "train with --precision bf16 or fp32")
    if chosen == "auto":
        on_gpu = torch.cuda.is_available() and job.accelerator != "cpu"
        chosen = "bf16" if on_gpu or torch.ops.mkldnn._is_mkldnn_bf16_supported() else "fp32"
    return {"bf16": "bf16-mixed", "fp16": "16-mixed", "fp32": "32-true"}[chosen]  # type: ignore[return-value]


def _loader(fabric: Fabric, job: Job) -> Loader:
    workers = _workers(job)
    images = job.splits.train
    pixels = None if job.recipe.resized_crop else _stored(fabric, job, images)
    return Loader(images, pixels, job.preprocess, job.recipe, fabric.global_rank, fabric.world_size, workers)


def _stored(fabric: Fabric, job: Job, images: ImageSet) -> PixelBatch | None:
    """A part decoded, by the first process for all; None where it is too large."""
    if store_size(images, job.preprocess) > LARGEST_STORE:
        return None
    with fabric.rank_zero_first():
        return stored_pixels(images, job.preprocess, job.output.parent / ".stages", _workers(job))


def _workers(job: Job) -> int:
    return default_workers() if job.workers is None else job.workers


def _module(job: Job) -> nn.Module:
    torch.manual_seed(job.recipe.seed)
    module = module_from_arch(job.arch, memory_efficient=job.recipe.memory_efficient)
    if job.start is not None:
        module.load_state_dict(job.start)
    return module


def _part(module: nn.Module, name: str) -> nn.Module:
    try:
        return module.get_submodule(name)
    except AttributeError as exc:
        known = [n for n, _ in module.named_modules() if n and n.count(".") <= 1]
        raise UsageError(f"the network has no part '{name}' to freeze", f"it has {', '.join(known)}") from exc


def _right(
    fabric: Fabric, module: nn.Module, batches: Iterable[PixelBatch], labels: np.ndarray, preprocess: Preprocess
) -> int:
    """Pictures whose class a network names; in evaluation mode, left as it was."""
    training = module.training
    module.eval()
    right, done = 0, 0
    with torch.inference_mode():
        for pixels in batches:
            logits = module(fabric.to_device(torch.from_numpy(input_from_pixels(pixels, preprocess))))
            named = logits.argmax(1).cpu().numpy()
            right += int((named == labels[done : done + len(pixels)]).sum())
            done += len(pixels)
    module.train(training)
    return right


@contextlib.contextmanager
def _deterministic(recipe: TrainingRecipe) -> Iterator[None]:
    before = torch.are_deterministic_algorithms_enabled()
    if recipe.deterministic:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # what PyTorch asks for on CUDA
    torch.use_deterministic_algorithms(recipe.deterministic or before)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before)
