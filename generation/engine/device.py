"""Choice of device and dtypes for the engine. No other module decides this."""

import resource
import sys
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import torch

from generation.engine.errors import DeviceUnavailable

DEFAULT_THREADS = torch.get_num_threads()  # torch's choice, read before it is changed
DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}


@dataclass(frozen=True)
class Device:
    """A device and its dtypes. The VAE's may differ from the U-Net's."""

    place: torch.device
    dtype: torch.dtype
    reason: str

    @property
    def dtype_name(self) -> str:
        return str(self.dtype).removeprefix("torch.")

    def describe(self) -> str:
        if self.place.type == "cuda":
            # Truncated, since with dtype and runtime it must fit into a worker's row.
            name = torch.cuda.get_device_name(self.place)[:34]
        elif self.place.type == "cpu":
            name = f"cpu, {torch.get_num_threads()} threads"
        else:
            name = self.place.type
        return f"{name}, {self.dtype_name}"

    def synchronize(self) -> None:
        """Synchronize, so that a clock measures the work."""
        if self.place.type == "cuda":
            torch.cuda.synchronize(self.place)
        elif self.place.type == "mps":
            torch.mps.synchronize()

    def empty_cache(self) -> None:
        if self.place.type == "cuda":
            torch.cuda.empty_cache()
        elif self.place.type == "mps":
            torch.mps.empty_cache()

    def peak_memory_bytes(self) -> int:
        """Return the peak memory: of the device, or on a CPU of the process."""
        if self.place.type == "cuda":
            return torch.cuda.max_memory_allocated(self.place)
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return (
            peak if sys.platform == "darwin" else peak * 1024
        )  # bytes on macOS, kibibytes elsewhere


def choose(device: str = "auto", dtype: str = "auto", *, threads: int = 0) -> Device:
    """Return a device. device: "auto", "cpu", "cuda", "cuda:1", "mps"; dtype: "auto" or a key of DTYPES; threads: 0 =
    torch's choice.

    Raises DeviceUnavailable.
    """
    use_threads(threads)
    place = _place(device)
    if dtype == "auto":
        chosen, reason = _dtype(place)
    elif dtype in DTYPES:
        chosen, reason = DTYPES[dtype], "requested"
    else:
        raise DeviceUnavailable(f"The dtype {dtype!r} is unknown. Give auto, {', '.join(DTYPES)}.")
    return Device(place, chosen, reason)


def use_threads(count: int) -> None:
    """Set the number of CPU threads for torch in the calling thread; 0 = unchanged.

    In a generating process only one thread should use several: each thread has its own pool, and with more pool threads
    than cores GNU OpenMP makes them sleep while waiting, which doubles a student's time per image.
    """
    # Set even if unchanged: after that, this thread ignores numbers set in other threads.
    before = torch.get_num_threads()
    torch.set_num_threads(count or before)


def thread_count(count: int) -> int:
    """Return the number of CPU threads for a value of TORCH_THREADS; 0 = torch's choice."""
    return count or DEFAULT_THREADS


def _place(device: str) -> torch.device:
    if device == "auto":
        if torch.cuda.is_available():
            return torch.device("cuda", 0)
        return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
    try:
        place = torch.device(device)
    except RuntimeError:
        raise DeviceUnavailable(
            f"The device {device!r} is unknown. Give auto, cpu, cuda, cuda:N or mps."
        ) from None
    if place.type == "cuda":
        count = torch.cuda.device_count() if torch.cuda.is_available() else 0
        if (place.index or 0) >= count:
            raise DeviceUnavailable(
                f"{device!r}: torch finds {count} CUDA devices. Check the driver, or use DEVICE=cpu."
            )
        return torch.device("cuda", place.index or 0)
    if place.type == "mps" and not torch.backends.mps.is_available():
        raise DeviceUnavailable(f"{device!r}: torch finds no Apple GPU. Use DEVICE=cpu.")
    if place.type not in ("cpu", "mps"):
        raise DeviceUnavailable(
            f"The device {device!r} is not supported. Give auto, cpu, cuda, cuda:N or mps."
        )
    return place


def _dtype(place: torch.device) -> tuple[torch.dtype, str]:
    if place.type == "cuda":
        if torch.cuda.get_device_capability(place) >= (8, 0):
            return torch.bfloat16, "tensor cores as fast as for fp16, without its overflows"
        return torch.float16, "the GPU has no bf16 arithmetic"
    if place.type == "mps":
        return torch.float16, "half the memory traffic"
    if cpu_has_bf16():
        return torch.bfloat16, "the CPU has bf16 instructions"
    return torch.float32, "the CPU has no bf16 instructions; emulation is slower than fp32"


@cache  # trainings ask in every step
def cpu_has_bf16() -> bool:
    """Return whether the CPU has AVX-512 BF16 or AMX. Reads /proc/cpuinfo; elsewhere fp32 is the safe choice."""
    try:
        flags = Path("/proc/cpuinfo").read_text("utf-8", "replace")
    except OSError:
        return False
    return " avx512_bf16" in flags or " amx_bf16" in flags
