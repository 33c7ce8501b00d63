"""Quantize a graph with one tool in one configuration: ``python peers.py CONFIGURATION MODEL CALIBRATION.npy OUTPUT``.

Runs in the tool's own environment; `quantization.py` makes these, calls this and compares what comes out. The
calibration images are a float32 array [images, channels, height, width], the model's input is ``input``.
"""

import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

INPUT = "input"


class Reader:
    """ONNX Runtime's way to be given images: one by one, as its documentation shows."""

    def __init__(self, images: np.ndarray) -> None:
        self._images: Iterator[np.ndarray] = iter(images)

    def get_next(self) -> dict[str, np.ndarray] | None:
        image = next(self._images, None)
        return None if image is None else {INPUT: image[None]}


def onnxruntime_static(method: str, convolutions: bool) -> Callable[[Path, np.ndarray, Path], None]:
    """``quantize_static``: as it comes, or with what its documentation has for a graph that TensorRT takes."""

    def run(model: Path, images: np.ndarray, output: Path) -> None:
        from onnxruntime.quantization import CalibrationMethod, QuantFormat, QuantType, quantize_static
        from onnxruntime.quantization.shape_inference import quant_pre_process

        prepared = output.with_name("prepared.onnx")
        quant_pre_process(str(model), str(prepared))
        options: dict[str, Any] = {}
        if convolutions:
            options = {
                "op_types_to_quantize": ["Conv"],
                "per_channel": True,
                "weight_type": QuantType.QInt8,
                "activation_type": QuantType.QInt8,
                "extra_options": {
                    "OpTypesToExcludeOutputQuantization": ["Conv"],
                    "QuantizeBias": False,
                    "ActivationSymmetric": True,
                },
            }
        chosen = {
            "min-max": CalibrationMethod.MinMax,
            "percentile": CalibrationMethod.Percentile,
            "entropy": CalibrationMethod.Entropy,
        }[method]
        quantize_static(
            str(prepared),
            str(output),
            Reader(images),  # type: ignore[arg-type]
            quant_format=QuantFormat.QDQ,
            calibrate_method=chosen,
            **options,
        )

    return run


def nncf_quantize(preset: str) -> Callable[[Path, np.ndarray, Path], None]:
    """NNCF's post-training quantization of an ONNX model."""

    def run(model: Path, images: np.ndarray, output: Path) -> None:
        import nncf
        import onnx

        dataset = nncf.Dataset(images, lambda image: {INPUT: image[None]})
        chosen = {"performance": nncf.QuantizationPreset.PERFORMANCE, "mixed": nncf.QuantizationPreset.MIXED}[preset]
        onnx.save(nncf.quantize(onnx.load(model), dataset, preset=chosen, subset_size=len(images)), output)

    return run


def nncf_accuracy_control(model: Path, images: np.ndarray, output: Path) -> None:
    """NNCF's ``quantize_with_accuracy_control``: agreement with the float model may fall by a thousandth."""
    import nncf
    import onnx
    import onnxruntime

    loaded = onnx.load(model)
    float_session = onnxruntime.InferenceSession(loaded.SerializeToString(), providers=["CPUExecutionProvider"])
    named = float_session.run(None, {INPUT: images})[0].argmax(axis=1)
    calibration = nncf.Dataset(images, lambda image: {INPUT: image[None]})
    validation = nncf.Dataset(list(zip(images, named, strict=True)), lambda pair: {INPUT: pair[0][None]})

    def agreement(candidate: Any, pairs: Any) -> tuple[float, None]:
        session = onnxruntime.InferenceSession(candidate.SerializeToString(), providers=["CPUExecutionProvider"])
        same = [session.run(None, {INPUT: image[None]})[0].argmax() == label for image, label in pairs]
        return float(np.mean(same)), None

    quantized = nncf.quantize_with_accuracy_control(
        loaded,
        calibration,
        validation,
        validation_fn=agreement,
        max_drop=0.001,
        subset_size=len(images),
    )
    onnx.save(quantized, output)


def model_optimizer(method: str) -> Callable[[Path, np.ndarray, Path], None]:
    """NVIDIA Model Optimizer's ONNX quantization, with a float32 body so that CPU runtimes can run it."""

    def run(model: Path, images: np.ndarray, output: Path) -> None:
        from modelopt.onnx.quantization import quantize

        quantize(
            str(model),
            quantize_mode="int8",
            calibration_data={INPUT: images},
            calibration_method=method,
            calibration_eps=["cpu"],
            calibration_shapes=f"{INPUT}:1x{'x'.join(map(str, images.shape[1:]))}",
            high_precision_dtype="fp32",
            output_path=str(output),
        )

    return run


def ours(
    placement: str, observer: str = "minmax", *, last_block: str = "int8"
) -> Callable[[Path, np.ndarray, Path], None]:
    """dnexport, from the same exported graph and the pixels of the same images.

    With ``last_block`` in float the last dense block is not held in int8, as a plan can say: the smallest of them, so
    that it costs little time.
    """

    def run(model: Path, images: np.ndarray, output: Path) -> None:
        import json

        from dnexport.calibrate.calibrate import table_from_images
        from dnexport.calibrate.quantize import kept_by_policy, prepare, quantize, rounded_from_images
        from dnexport.data.imageset import ImageSet
        from dnexport.graph.contract import apply, model_from_path, save_model
        from dnexport.graph.dense_blocks import dense_blocks
        from dnexport.graph.passes_for import canonical_passes
        from dnexport.spec.preprocess import Preprocess
        from dnexport.spec.progress import Silent
        from dnexport.spec.quantization import CalibrationSet, Quantization

        preprocess = Preprocess.model_validate_json(model.with_name("preprocess.json").read_bytes())
        mean, std = (np.asarray(each, np.float32)[:, None, None] for each in (preprocess.mean, preprocess.std))
        pixels = ((images * std + mean) * 255).round().astype(np.uint8).transpose(0, 2, 3, 1)
        seen = ImageSet("benchmark", list(pixels), (-1,) * len(pixels), ())
        canonical = output.with_name("canonical.onnx")
        graph = model_from_path(model)
        apply(canonical_passes(), graph)
        save_model(graph, canonical)
        options = Quantization(placement=placement)
        table = table_from_images(canonical, seen, preprocess, CalibrationSet(observer=observer), Silent())
        prepared = prepare(canonical, table, options, preprocess, output.with_name("prepared.onnx"))
        rounded = rounded_from_images(prepared.graph, prepared.table, options, seen, preprocess, Silent())
        result = model_from_path(prepared.graph)
        kept = {*kept_by_policy(result, options)}
        if last_block == "float":
            kept.add(dense_blocks(result)[-1].name)
        applied = quantize(result, prepared.table, options, rounded, kept)
        save_model(result, output)
        print(json.dumps([each.name for each in applied]))

    return run


CONFIGURATIONS: dict[str, tuple[str, Callable[[Path, np.ndarray, Path], None]]] = {
    "dnexport (default)": ("dnexport", ours("activation")),
    "dnexport, placement state": ("dnexport", ours("state")),
    "dnexport, state, entropy": ("dnexport", ours("state", "entropy")),
    "dnexport, state but for the last block, entropy": ("dnexport", ours("state", "entropy", last_block="float")),
    "ONNX Runtime min-max (default)": ("dnexport", onnxruntime_static("min-max", convolutions=False)),
    "ONNX Runtime percentile": ("dnexport", onnxruntime_static("percentile", convolutions=False)),
    "ONNX Runtime entropy": ("dnexport", onnxruntime_static("entropy", convolutions=False)),
    "ONNX Runtime min-max, convolutions": ("dnexport", onnxruntime_static("min-max", convolutions=True)),
    "ONNX Runtime percentile, convolutions": ("dnexport", onnxruntime_static("percentile", convolutions=True)),
    "ONNX Runtime entropy, convolutions": ("dnexport", onnxruntime_static("entropy", convolutions=True)),
    "NNCF (default)": ("nncf", nncf_quantize("performance")),
    "NNCF mixed": ("nncf", nncf_quantize("mixed")),
    "NNCF accuracy control": ("nncf", nncf_accuracy_control),
    "Model Optimizer max": ("nvidia-modelopt", model_optimizer("max")),
    "Model Optimizer entropy (default)": ("nvidia-modelopt", model_optimizer("entropy")),
}


def main() -> None:
    configuration, model, images, output = sys.argv[1:]
    CONFIGURATIONS[configuration][1](Path(model), np.load(images), Path(output))


if __name__ == "__main__":
    main()
