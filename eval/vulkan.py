"""Which graphics adapters Vulkan sees, in the order that CARLA's -graphicsadapter counts them.

Run as a program of its own (`python -m eval.vulkan`): a broken driver may take its process down.
"""

from __future__ import annotations

import ctypes
import json
import subprocess
import sys
from typing import Final

TIMEOUT_S: Final = 20.0
_SUCCESS: Final = 0
_APPLICATION_INFO, _INSTANCE_CREATE_INFO = 0, 1
_VERSION_1_0: Final = 1 << 22
_PROPERTIES_BYTES: Final = 4096
"""More than VkPhysicalDeviceProperties has in any version."""
_TYPE_AT, _NAME_AT, _NAME_BYTES = 16, 20, 256
_TYPES: Final = ("other", "integrated", "discrete", "virtual", "cpu")


class VulkanError(RuntimeError):
    """Vulkan cannot be used here."""


class _ApplicationInfo(ctypes.Structure):
    _fields_ = (
        ("kind", ctypes.c_int),
        ("next", ctypes.c_void_p),
        ("name", ctypes.c_char_p),
        ("version", ctypes.c_uint32),
        ("engine_name", ctypes.c_char_p),
        ("engine_version", ctypes.c_uint32),
        ("api_version", ctypes.c_uint32),
    )


class _InstanceCreateInfo(ctypes.Structure):
    _fields_ = (
        ("kind", ctypes.c_int),
        ("next", ctypes.c_void_p),
        ("flags", ctypes.c_uint32),
        ("application", ctypes.POINTER(_ApplicationInfo)),
        ("layer_count", ctypes.c_uint32),
        ("layers", ctypes.c_void_p),
        ("extension_count", ctypes.c_uint32),
        ("extensions", ctypes.c_void_p),
    )


def adapters() -> list[str]:
    """Names of the adapters, such as `NVIDIA H100 (discrete)`. Raises: VulkanError."""
    try:
        done = subprocess.run(
            [sys.executable, "-m", "eval.vulkan"], capture_output=True, text=True, timeout=TIMEOUT_S, check=False
        )
    except subprocess.TimeoutExpired as error:
        raise VulkanError(f"the driver does not answer within {TIMEOUT_S:.0f} s") from error
    if done.returncode != 0:
        words = done.stderr.strip().splitlines()
        raise VulkanError(words[-1] if words else f"the driver ended the process ({done.returncode})")
    return json.loads(done.stdout)


def enumerate_adapters() -> list[str]:
    """As `adapters`, in this process. Raises: VulkanError."""
    try:
        library = ctypes.CDLL("libvulkan.so.1")
    except OSError as error:
        raise VulkanError(f"no Vulkan loader ({error})") from error
    application = _ApplicationInfo(kind=_APPLICATION_INFO, api_version=_VERSION_1_0)
    create = _InstanceCreateInfo(kind=_INSTANCE_CREATE_INFO, application=ctypes.pointer(application))
    instance = ctypes.c_void_p()
    code = library.vkCreateInstance(ctypes.byref(create), None, ctypes.byref(instance))
    if code != _SUCCESS:
        raise VulkanError(f"no driver (vkCreateInstance gives {code})")
    count = ctypes.c_uint32()
    library.vkEnumeratePhysicalDevices(instance, ctypes.byref(count), None)
    devices = (ctypes.c_void_p * count.value)()
    library.vkEnumeratePhysicalDevices(instance, ctypes.byref(count), devices)
    names = [_name(library, device) for device in devices]
    library.vkDestroyInstance(instance, None)
    return names


def _name(library: ctypes.CDLL, device: int) -> str:
    properties = ctypes.create_string_buffer(_PROPERTIES_BYTES)
    library.vkGetPhysicalDeviceProperties(ctypes.c_void_p(device), properties)
    kind = int.from_bytes(properties.raw[_TYPE_AT:_NAME_AT], sys.byteorder)
    name = properties.raw[_NAME_AT : _NAME_AT + _NAME_BYTES].split(b"\0")[0].decode(errors="replace")
    return f"{name} ({_TYPES[kind] if kind < len(_TYPES) else kind})"


def main() -> int:
    """Print the names as JSON."""
    try:
        print(json.dumps(enumerate_adapters()))
    except VulkanError as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
