"""A TensorRT plan that is loaded and ready: cuda-bindings moves the data, and CUDA's own events tell the time.

A query is: copy into pinned memory, upload, compute, download, wait. With CUDA graphs the kernels of one batch size
are launched as one. A graph belongs to the context it was captured from and to that context's shapes, so each batch
size has a context of its own, up to a few; and it is captured at the second query, since the first settles what a new
shape leaves open. TensorRT for RTX captures by itself (`_rtx_configuration`).

Not yet run on a GPU.
"""

import contextlib
import time
from collections import OrderedDict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from dnexport.data.images import Fed
from dnexport.errors import BuildFailed
from dnexport.runtimes.arrays import Logits
from dnexport.runtimes.contract import Executed, KernelTime, Phases, SessionOptions
from dnexport.runtimes.cuda import Cuda
from dnexport.runtimes.engine_inspector import (
    executed_from_layers,
    layers_from_inspector,
    nodes_by_layer,
    nodes_in_name,
)
from dnexport.runtimes.kernel_profile import PROFILED, WARM_UP, times_from_queries
from dnexport.runtimes.tensorrt_plan import Tensor, check_images, ends_in_words, loaded_engine, tensor_from_profile
from dnexport.spec.preprocess import InputType
from dnexport.spec.record import write_atomically

RUNTIME_CACHE = "tensorrt-rtx.cache"
# Each holds activations of the largest batch.
_CONTEXTS = 4


@dataclass
class _Size:
    """A context that is set to one batch size.

    Attributes:
        context: of the library.
        shapes: of the outputs.
        queries: that it has answered.
        graph: captured from it.
    """

    context: Any
    shapes: dict[str, tuple[int, ...]]
    queries: int = 0
    graph: Any = None


def _profiler(trt: Any) -> Any:
    """Keeps (layer, milliseconds) of each query in ``queries``; the caller begins each."""

    class Profiler(trt.IProfiler):  # type: ignore[misc] # its base is known once the library is
        def __init__(self) -> None:
            trt.IProfiler.__init__(self)
            self.queries: list[list[tuple[str, float]]] = []

        def report_layer_time(self, layer_name: str, ms: float) -> None:
            self.queries[-1].append((layer_name, ms))

    return Profiler()


class TensorRTSession:
    """A plan on the first GPU; one thread at a time.

    Args:
        trt: ``tensorrt`` or ``tensorrt_rtx``.
        engine: the plan.
        options: how it runs.
        cuda: for its memory, its stream and its events; closed with the session.

    Raises:
        BuildFailed: the plan does not load, is not one of dnexport's, or the GPU's memory does not suffice.
    """

    def __init__(self, trt: Any, engine: Path, options: SessionOptions, cuda: Cuda) -> None:
        self._trt, self._options, self._cuda = trt, options, cuda
        self._runtime: Any = None
        self._engine: Any = None
        self._configuration: Any = None
        self._cache: Any = None
        self._sizes: OrderedDict[int, _Size] = OrderedDict()
        self._phases: Phases | None = None
        rtx = trt.__name__ == "tensorrt_rtx"
        self._captures = options.cuda_graph and not rtx
        self._most_contexts = _CONTEXTS if self._captures else 1
        with contextlib.ExitStack() as unless_ready:
            unless_ready.callback(self.close)
            self._runtime, self._engine = loaded_engine(trt, engine)
            if rtx:
                self._configuration = self._rtx_configuration()
            self._allocate()
            unless_ready.pop_all()

    @property
    def input_type(self) -> InputType:
        """What it takes."""
        return "uint8" if self._input.dtype == "uint8" else "float32"

    def __call__(self, images: Fed) -> Logits:
        """Run one batch: the output named ``logits``, else the first.

        Raises:
            BadInput: images that the plan does not take.
        """
        values = self.values(images)
        logits: Logits = values.get("logits", next(iter(values.values())))
        return logits

    def values(self, images: Fed) -> dict[str, np.ndarray]:
        """Run one batch; a copy of every output by name.

        Raises:
            BadInput: images that the plan does not take.
            BuildFailed: CUDA or the library fails.
        """
        check_images(images, self._input)
        size = self._size(len(images))
        if self._captures and size.queries == 1:
            size.graph = self._captured(size.context)
        self._buffers[self._input.name].array(images.shape, images.dtype)[...] = images
        self._run(size, images.nbytes)
        return {each.name: self._read(each, size.shapes[each.name]).copy() for each in self._outputs}

    def executed(self, macs: Mapping[str, int]) -> Executed:
        """The arithmetic of the kernels, as the engine inspector tells it."""
        text = self._inspected(self._size(self._input.least[0]).context)
        taken, given = (self._input.name, self._input.dtype), ((each.name, each.dtype) for each in self._outputs)
        return executed_from_layers(
            layers_from_inspector(text), macs, self._options.execution, ends_in_words([taken], given)
        )

    def phases(self) -> Phases | None:
        """Of the last query; None before the first."""
        return self._phases

    def kernel_times(self, images: Fed) -> tuple[KernelTime, ...]:
        """The layers of the plan, as ``IProfiler`` reports them.

        They are launched one by one, with an event after each, from a context that reports for good: it is dropped
        afterwards. Written from the documented interface, and not yet run on a GPU.

        Raises:
            BadInput: images that the plan does not take.
        """
        check_images(images, self._input)
        profiler = _profiler(self._trt)
        with self._without_graphs():
            size = self._size(len(images))
            nodes = nodes_by_layer(self._inspected(size.context))
            size.context.profiler = profiler
            self._buffers[self._input.name].array(images.shape, images.dtype)[...] = images
            for _ in range(WARM_UP + PROFILED):
                profiler.queries.append([])
                self._run(size, images.nbytes)
        times = times_from_queries(profiler.queries)
        return tuple(KernelTime(nodes.get(layer) or nodes_in_name(layer), ms) for (layer,), ms in times)

    def _inspected(self, context: Any) -> str:
        """What the engine inspector tells, as JSON, with the shapes of a context."""
        inspector = self._engine.create_engine_inspector()
        inspector.execution_context = context
        return inspector.get_engine_information(self._trt.LayerInformationFormat.JSON) or ""

    @contextlib.contextmanager
    def _without_graphs(self) -> Iterator[None]:
        """With contexts of its own, which launch kernels one by one, in TensorRT for RTX as well."""
        configuration = self._configuration
        before = configuration.cuda_graph_strategy if configuration is not None else None
        self._drop_sizes()
        try:
            if configuration is not None:
                configuration.cuda_graph_strategy = self._trt.CudaGraphStrategy.DISABLED
            yield
        finally:
            self._drop_sizes()
            if configuration is not None:
                configuration.cuda_graph_strategy = before

    def close(self) -> None:
        """Keep what RTX compiled; then give back graphs, contexts, engine and memory, in this order."""
        self._keep_cache()
        self._drop_sizes()
        # The configuration does not keep its cache alive, nor an engine its runtime.
        self._configuration, self._cache = None, None
        self._engine, self._runtime = None, None
        self._cuda.close()

    def _rtx_configuration(self) -> Any:
        """How TensorRT for RTX finishes its plan on this GPU.

        It captures CUDA graphs itself. Kernels of a new shape are compiled before the query that needs them, not beside
        it: so the kernels that were compared and measured are those that go on running.
        """
        trt, configuration = self._trt, self._engine.create_runtime_config()
        graphs = trt.CudaGraphStrategy
        configuration.cuda_graph_strategy = graphs.WHOLE_GRAPH_CAPTURE if self._options.cuda_graph else graphs.DISABLED
        kernels = trt.DynamicShapesKernelSpecializationStrategy
        configuration.dynamic_shapes_kernel_specialization_strategy = kernels.EAGER
        if self._options.cache is not None:
            self._cache = configuration.create_runtime_cache()
            with contextlib.suppress(OSError):  # none yet
                # A damaged one, or one of another version or GPU, is refused by returning False, and stays empty.
                self._cache.deserialize((self._options.cache / RUNTIME_CACHE).read_bytes())
            configuration.set_runtime_cache(self._cache)
        return configuration

    def _keep_cache(self) -> None:
        kept = self._cache.serialize() if self._cache is not None else None
        if kept is not None and self._options.cache is not None:
            with contextlib.suppress(OSError):  # where nothing can be written, the next load compiles again
                write_atomically(self._options.cache / RUNTIME_CACHE, bytes(kept))

    def _allocate(self) -> None:
        """A context at the largest batch, which tells the outputs' sizes, and memory for all tensors."""
        names = [self._engine.get_tensor_name(index) for index in range(self._engine.num_io_tensors)]
        is_input = self._trt.TensorIOMode.INPUT
        inputs = [name for name in names if self._engine.get_tensor_mode(name) == is_input]
        if len(inputs) != 1:
            raise BuildFailed(f"the plan has {len(inputs)} inputs, and sessions feed one", "build it with dnexport")
        profile = [tuple(shape) for shape in self._engine.get_tensor_profile_shape(inputs[0], 0)]
        self._input = self._tensor(inputs[0], tuple(self._engine.get_tensor_shape(inputs[0])), profile)
        if self._input.dtype not in ("float32", "uint8"):
            what = f"the plan takes {self._input.dtype}, and sessions feed float32 or uint8"
            raise BuildFailed(what, "build it with dnexport")
        context = self._new_context()
        if context is None:
            what = f"{self._trt.__name__} gives no context: most likely the GPU is out of memory"
            raise BuildFailed(what, "build for a smaller batch")
        largest = self._input.most[0]
        outputs = [name for name in names if name not in inputs]
        shapes = self._set_batch(context, largest, outputs)
        self._outputs = [self._tensor(name, shapes[name], []) for name in outputs]
        self._buffers = {each.name: self._cuda.buffer(each.nbytes) for each in (self._input, *self._outputs)}
        self._stream, self._marks = self._cuda.stream(), [self._cuda.event() for _ in range(4)]
        self._bind(context)
        self._sizes[largest] = _Size(context, shapes)

    def _tensor(self, name: str, shape: Sequence[int], profile: Sequence[Sequence[int]]) -> Tensor:
        return tensor_from_profile(name, self._engine.get_tensor_dtype(name).name, shape, profile)

    def _new_context(self) -> Any:
        create = self._engine.create_execution_context
        return create(self._configuration) if self._configuration is not None else create()

    def _size(self, batch: int) -> _Size:
        """A context that is set to a batch size: one that was, a new one, or the one unused for longest."""
        if batch not in self._sizes:
            context = self._new_context() if len(self._sizes) < self._most_contexts else None
            if context is None:  # enough of them, or no memory for more
                self._most_contexts = len(self._sizes)
                _, oldest = self._sizes.popitem(last=False)
                self._drop_graph(oldest)
                context = oldest.context
            else:
                self._bind(context)
            self._sizes[batch] = _Size(context, self._set_batch(context, batch, [each.name for each in self._outputs]))
        self._sizes.move_to_end(batch)
        return self._sizes[batch]

    def _set_batch(self, context: Any, batch: int, outputs: Sequence[str]) -> dict[str, tuple[int, ...]]:
        """Shapes of the outputs then."""
        shape = (batch, *self._input.most[1:])
        if not context.set_input_shape(self._input.name, shape):
            raise BuildFailed(f"{self._trt.__name__} does not take an input of {list(shape)}", "build the plan again")
        return {name: tuple(context.get_tensor_shape(name)) for name in outputs}

    def _bind(self, context: Any) -> None:
        for name, buffer in self._buffers.items():
            context.set_tensor_address(name, buffer.device)

    def _captured(self, context: Any) -> Any:
        """The context's kernels as one graph; None where they cannot be, and they are launched one by one."""
        capturable = getattr(context, "is_stream_capturable", None)  # not of every version
        if capturable is not None and not capturable(int(self._stream)):
            return None
        return self._cuda.captured(self._stream, lambda: bool(context.execute_async_v3(int(self._stream))))

    def _drop_sizes(self) -> None:
        for size in self._sizes.values():
            self._drop_graph(size)
        self._sizes.clear()

    def _drop_graph(self, size: _Size) -> None:
        if size.graph is not None:
            self._cuda.drop_graph(size.graph)
            size.graph = None

    def _run(self, size: _Size, nbytes: int) -> None:
        cuda, stream = self._cuda, self._stream
        began = time.perf_counter()
        self._mark(0)
        cuda.upload(self._buffers[self._input.name], nbytes, stream)
        self._mark(1)
        if size.graph is not None:
            cuda.call("cudaGraphLaunch", size.graph, stream)
        elif not size.context.execute_async_v3(int(stream)):
            raise BuildFailed(f"{self._trt.__name__} does not run the query", "see 'dnexport doctor' for the driver")
        self._mark(2)
        for each in self._outputs:
            cuda.download(self._buffers[each.name], self._read(each, size.shapes[each.name]).nbytes, stream)
        self._mark(3)
        enqueue_ms = (time.perf_counter() - began) * 1e3
        cuda.call("cudaStreamSynchronize", stream)
        h2d, compute, d2h = (cuda.elapsed_ms(self._marks[i], self._marks[i + 1]) for i in range(3))
        self._phases = Phases(enqueue_ms, h2d, compute, d2h)
        size.queries += 1

    def _mark(self, index: int) -> None:
        self._cuda.call("cudaEventRecord", self._marks[index], self._stream)

    def _read(self, tensor: Tensor, shape: tuple[int, ...]) -> np.ndarray:
        return self._buffers[tensor.name].array(shape, np.dtype(tensor.dtype))
