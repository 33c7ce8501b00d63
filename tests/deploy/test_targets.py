import pytest

from dnexport.deploy.targets import chosen_targets
from dnexport.errors import TargetUnavailable, UsageError
from dnexport.runtimes.contract import Availability
from dnexport.runtimes.onnxruntime import OnnxRuntime
from dnexport.runtimes.openvino import OpenVino
from dnexport.runtimes.tensorrt import TensorRT
from dnexport.spec.recipe import Recipe

NO = Availability(False, "not here", "get it")
YES = Availability(True, "here")


def chosen(precision: str, *targets: str, allow: str | None = None) -> list[tuple[str, str, bool]]:
    recipe = Recipe(
        name="r",
        arch="densenet121",
        precision=precision,
        targets=targets or ("auto",),
        allow_execution=(allow,) if allow else (),
    )
    return [(str(c.target), c.action, c.companion) for c in chosen_targets(recipe)]


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> object:
    def make(
        *,
        tensorrt: bool = False,
        rtx: bool = False,
        openvino: bool = False,
        onnxruntime: bool = False,
        bf16: bool = True,
        saturates: bool = False,
    ) -> None:
        have = {"tensorrt": tensorrt, "tensorrt-rtx": rtx}
        monkeypatch.setattr(TensorRT, "builds", lambda _, t: YES if have[t.runtime] else NO)
        monkeypatch.setattr(OnnxRuntime, "runs", lambda _, t: YES if onnxruntime and t.device == "cpu" else NO)
        monkeypatch.setattr(OpenVino, "runs", lambda _, t: YES if openvino and t.device == "cpu" else NO)
        monkeypatch.setattr("dnexport.runtimes.openvino._saturates", lambda: saturates)
        capabilities = frozenset({"FP32", "BF16"} if bf16 else {"FP32"})
        monkeypatch.setattr("dnexport.runtimes.openvino._capabilities", lambda: capabilities)

    return make


RTX = ("tensorrt-rtx:sm80+sm86+sm89+sm120", "build", False)
OPENVINO = ("openvino:cpu", "build", True)
OWN = ("onnxruntime:cpu", "build", True)


def test_auto_is_a_fixed_order(machine: object) -> None:
    machine(tensorrt=True, rtx=True, openvino=True, onnxruntime=True)
    assert chosen("fp16") == [("tensorrt", "build", False), OPENVINO]
    machine(rtx=True, openvino=True, onnxruntime=True)
    assert chosen("fp16") == [RTX, OPENVINO]
    machine(rtx=True, onnxruntime=True)
    assert chosen("fp16") == [RTX, OWN]
    machine(onnxruntime=True)
    assert chosen("fp16") == [OWN]


def test_auto_does_not_take_rtx_for_int8(machine: object) -> None:
    machine(rtx=True, openvino=True)
    assert chosen("int8") == [OPENVINO]
    assert chosen("int8", "tensorrt-rtx:sm86") == [("tensorrt-rtx:sm86", "build", False)]


def test_nothing_at_all_is_refused(machine: object) -> None:
    machine()
    with pytest.raises(TargetUnavailable, match=r"no runtime is installed; pip install 'dnexport\[cpu\]'"):
        chosen("fp16")


ALL = (
    "tensorrt",
    "tensorrt-rtx:sm86",
    "onnxruntime:cuda",
    "onnxruntime:cpu",
    "openvino:cpu",
    "openvino:gpu",
    "null:absent",
)


@pytest.mark.parametrize("precision", ["fp16", "int8"])
def test_every_target_that_is_not_here_is_prepared_and_said_to_be(machine: object, precision: str) -> None:
    """The lowering needs no runtime, and what the device executes is not known here."""
    machine()
    found = chosen_targets(Recipe(name="r", arch="densenet121", precision=precision, targets=ALL))
    assert [c.action for c in found] == ["prepare"] * len(ALL)
    for each in found:
        what, _, foreseen = each.reason.partition(" is refused without ")
        assert what.startswith(("not here; get it", "it is not here, as ordered"))
        words = {"fp16": "--allow-execution bf16 or f32", "int8": "--allow-execution f32 or int8-saturating"}
        assert foreseen == (words[precision] if each.target.device == "cpu" else "")


def test_one_that_is_refused_does_not_lose_the_others(machine: object) -> None:
    machine(onnxruntime=True)
    recipe = Recipe(name="r", arch="densenet121", precision="fp32", targets=("openvino:npu", "onnxruntime:cpu"))
    refused, built = chosen_targets(recipe)
    assert (refused.action, built.action) == ("refuse", "build")
    assert str(refused.refused) == "target openvino:npu computes no FP32: NPUs compute in float16; build --fp16"


def test_int8_that_is_not_int8_must_be_allowed_by_name_before_anything_is_calibrated(machine: object) -> None:
    machine(openvino=True, onnxruntime=True, saturates=True)
    with pytest.raises(
        UsageError,
        match=r"target openvino:cpu would execute int8 as int8-saturating\+f32, since this processor adds pairs of int8"
        r" products in 16 bits, which saturate; say --allow-execution int8-saturating if that is meant",
    ):
        chosen("int8", "openvino:cpu")
    with pytest.raises(UsageError, match=r"onnxruntime:cpu would execute int8 as f32; say --allow-execution f32"):
        chosen("int8", "onnxruntime:cpu")
    assert chosen("int8", "openvino:cpu", allow="int8-saturating") == [("openvino:cpu", "build", False)]
    assert chosen("int8", "onnxruntime:cpu", allow="f32") == [("onnxruntime:cpu", "build", False)]
    assert chosen("int8") == [OPENVINO], "a companion is labelled with what it executes"
    machine(openvino=True)
    assert chosen("int8", "openvino:cpu") == [("openvino:cpu", "build", False)]
    assert chosen("int8", "openvino:cpu", allow="bf16") == [("openvino:cpu", "build", False)]


def test_a_cpu_stand_in_for_fp16_must_be_allowed_by_name(machine: object) -> None:
    machine(openvino=True, onnxruntime=True)
    with pytest.raises(
        UsageError, match="target openvino:cpu would execute fp16 as bf16; say --allow-execution bf16 if that is meant"
    ):
        chosen("fp16", "openvino:cpu")
    with pytest.raises(
        UsageError, match="executes fp16 as f32 on this machine, and bf16 was allowed; say --allow-execution f32"
    ):
        chosen("fp16", "onnxruntime:cpu", allow="bf16")
    assert chosen("fp16", "openvino:cpu", allow="bf16") == [("openvino:cpu", "build", False)]
    assert chosen("fp32", "openvino:cpu") == [("openvino:cpu", "build", False)]


def test_fp32_for_turing_is_refused_by_name(machine: object) -> None:
    machine(rtx=True)
    with pytest.raises(TargetUnavailable, match=r"no FP32 convolutions for sm75 \(Turing\); drop sm75 or build --fp16"):
        chosen("fp32", "tensorrt-rtx:sm75+sm86")


def test_torch_is_no_engine() -> None:
    with pytest.raises(TargetUnavailable, match="torch is the reference that engines are compared with"):
        chosen("fp32", "torch")


def test_a_target_named_twice_is_built_once(machine: object) -> None:
    machine(rtx=True, openvino=True)
    assert chosen("fp16", "auto", "tensorrt-rtx:sm80+sm86+sm89+sm120") == [RTX, OPENVINO]
