"""The GPU of this machine, as its driver describes it: asked through the driver's own library, so nothing is loaded."""

from __future__ import annotations

import ctypes
import dataclasses
import sys
from typing import Any

from aps_deploy.runtimes.availability import num_cuda_devices

# CUdevice_attribute: CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR and _MINOR.
_MAJOR, _MINOR = 75, 76
_NAME_BYTES = 256


@dataclasses.dataclass(frozen=True)
class Gpu:
    """The first CUDA device, the one engines are built on.

    Attributes:
        name: as the driver calls it.
        compute_capability: such as ``8.6``.
        driver: newest CUDA version the driver supports, such as ``13.0``.
    """

    name: str
    compute_capability: str
    driver: str

    def to_dict(self) -> dict[str, str]:
        """Return the fields as plain JSON values."""
        return dataclasses.asdict(self)


def first_gpu() -> Gpu | None:
    """Return the first CUDA device; None where there is no driver, no device, or the driver does not answer."""
    if num_cuda_devices() == 0:
        return None
    driver = ctypes.CDLL("nvcuda.dll" if sys.platform == "win32" else "libcuda.so.1")
    return describe_first(driver)


def describe_first(driver: Any) -> Gpu | None:
    """Return what an initialised CUDA driver library says of its first device; None where it answers with an error."""
    device, version = ctypes.c_int(), ctypes.c_int()
    major, minor = ctypes.c_int(), ctypes.c_int()
    name = ctypes.create_string_buffer(_NAME_BYTES)
    results = (
        driver.cuDeviceGet(ctypes.byref(device), 0),
        driver.cuDeviceGetName(name, _NAME_BYTES, device),
        driver.cuDeviceGetAttribute(ctypes.byref(major), _MAJOR, device),
        driver.cuDeviceGetAttribute(ctypes.byref(minor), _MINOR, device),
        driver.cuDriverGetVersion(ctypes.byref(version)),
    )
    if any(results):
        return None
    # 13010 is CUDA 13.1.
    newest = f"{version.value // 1000}.{version.value % 1000 // 10}"
    return Gpu(name.value.decode(errors="replace"), f"{major.value}.{minor.value}", newest)
