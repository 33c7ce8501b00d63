"""What NVIDIA's management library tells; its constants are those of nvidia-ml-py, the library is a stand-in."""

from types import SimpleNamespace

import pytest

from dnexport.runtimes.gpu import _first_handle, gpu_millijoules, gpu_names, gpu_readings, throttle_words

CONSTANTS = {
    "nvmlClocksThrottleReasonGpuIdle": 0x1,
    "nvmlClocksThrottleReasonApplicationsClocksSetting": 0x2,
    "nvmlClocksThrottleReasonSwPowerCap": 0x4,
    "nvmlClocksThrottleReasonHwThermalSlowdown": 0x40,
    "nvmlClocksThrottleReasonAll": 0x1FF,
    "nvmlInit": None,
}


@pytest.mark.parametrize(
    ("reasons", "words"),
    [(0, ()), (0x1, ()), (0x2, ()), (0x4, ("SwPowerCap",)), (0x45, ("HwThermalSlowdown", "SwPowerCap"))],
)
def test_what_holds_a_clock_down_is_named_and_idling_is_not(reasons: int, words: tuple[str, ...]) -> None:
    assert throttle_words(reasons, CONSTANTS) == words


def library(count: int) -> SimpleNamespace:
    return SimpleNamespace(
        nvmlDeviceGetCount=lambda: count,
        nvmlDeviceGetHandleByIndex=lambda index: f"index {index}",
        nvmlDeviceGetHandleByUUID=lambda name: f"named {name}",
    )


@pytest.mark.parametrize(
    ("count", "visible", "order", "handle"),
    [
        (1, "", "", "index 0"),
        (4, "GPU-8f6d,GPU-11aa", "", "named GPU-8f6d"),
        (4, "2,0", "PCI_BUS_ID", "index 2"),
        (4, "", "PCI_BUS_ID", "index 0"),
    ],
)
def test_the_gpu_that_is_read_is_the_one_that_is_used(
    monkeypatch: pytest.MonkeyPatch, count: int, visible: str, order: str, handle: str
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    monkeypatch.setenv("CUDA_DEVICE_ORDER", order)
    assert _first_handle(library(count)) == handle


def test_one_of_several_that_nvml_numbers_otherwise_is_not_guessed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "1")
    monkeypatch.delenv("CUDA_DEVICE_ORDER", raising=False)
    with pytest.raises(LookupError):
        _first_handle(library(2))


@pytest.mark.skipif(bool(gpu_names()), reason="a GPU is here")
def test_without_a_gpu_nothing_is_told() -> None:
    assert gpu_millijoules() is None
    assert gpu_readings() == {}
