"""Which device and which number formats the engine computes with, and why. Nobody else decides this."""

import resource
import sys
from dataclasses import dataclass
from pathlib import Path

import torch

from generation.engine.errors import DeviceUnavailable

DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}


@dataclass(frozen=True)
class Device:
    """A device and its formats. The U-Net and the VAE may differ: `release` says how its VAE must be run in fp16."""

    place: torch.device
    dtype: torch.dtype
    reason: str

    @property
    def dtype_name(self) -> str:
        return str(self.dtype).removeprefix("torch.")

    def describe(self) -> str:
        if self.place.type == "cuda":
            name = torch.cuda.get_device_name(self.place)
        elif self.place.type == "cpu":
            name = f"cpu, {torch.get_num_threads()} threads"
        else:
            name = self.place.type
        return f"{name}, {self.dtype_name}"

    def synchronize(self) -> None:
        """Wait until the device has done what was asked, so that a clock shows its time."""
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
        """The most that was in use at once: of the device, or on a CPU of the whole process."""
        if self.place.type == "cuda":
            return torch.cuda.max_memory_allocated(self.place)
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return peak if sys.platform == "darwin" else peak * 1024  # bytes there, kibibytes elsewhere


def choose(device: str = "auto", dtype: str = "auto", *, threads: int = 0) -> Device:
    """device: "auto", "cpu", "cuda", "cuda:1", "mps"; dtype: "auto" or of DTYPES; threads: 0 = torch decides.

    Raises DeviceUnavailable.
    """
    use_threads(threads)
    place = _place(device)
    if dtype == "auto":
        chosen, reason = _dtype(place)
    elif dtype in DTYPES:
        chosen, reason = DTYPES[dtype], "asked for"
    else:
        raise DeviceUnavailable(f"dtype {dtype!r}: give auto, {', '.join(DTYPES)}.")
    return Device(place, chosen, reason)


def use_threads(count: int) -> None:
    """How many threads torch computes with on a CPU, when the calling thread asks; 0: as many as before.

    Of the threads of a process that generates, one alone should have several: each has its own, and with more of them
    than cores GNU OpenMP lets all wait asleep, which makes a student's picture take twice as long.
    """
    # Asked for even if it is not needed: from then on this thread heeds no number that another one sets.
    before = torch.get_num_threads()
    torch.set_num_threads(count or before)


def _place(device: str) -> torch.device:
    if device == "auto":
        if torch.cuda.is_available():
            return torch.device("cuda", 0)
        return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
    try:
        place = torch.device(device)
    except RuntimeError:
        raise DeviceUnavailable(f"{device!r}: give auto, cpu, cuda, cuda:N or mps.") from None
    if place.type == "cuda":
        count = torch.cuda.device_count() if torch.cuda.is_available() else 0
        if (place.index or 0) >= count:
            raise DeviceUnavailable(
                f"{device!r}: torch sees {count} CUDA devices. Check the driver, or use DEVICE=cpu."
            )
        return torch.device("cuda", place.index or 0)
    if place.type == "mps" and not torch.backends.mps.is_available():
        raise DeviceUnavailable(f"{device!r}: torch sees no Apple GPU. Use DEVICE=cpu.")
    if place.type not in ("cpu", "mps"):
        raise DeviceUnavailable(f"{device!r}: give auto, cpu, cuda, cuda:N or mps.")
    return place


def _dtype(place: torch.device) -> tuple[torch.dtype, str]:
    if place.type == "cuda":
        if torch.cuda.get_device_capability(place) >= (8, 0):
            return torch.bfloat16, "tensor cores as fast as fp16, without its overflows"
        return torch.float16, "the GPU has no bf16 arithmetic"
    if place.type == "mps":
        return torch.float16, "half the memory traffic"
    if cpu_has_bf16():
        return torch.bfloat16, "the CPU multiplies bf16 in hardware"
    return torch.float32, "without bf16 instructions a CPU emulates it, slower than fp32"


def cpu_has_bf16() -> bool:
    """AVX-512 BF16 or AMX (Linux says it in /proc/cpuinfo; elsewhere fp32 is the safe answer)."""
    try:
        flags = Path("/proc/cpuinfo").read_text("utf-8", "replace")
    except OSError:
        return False
    return " avx512_bf16" in flags or " amx_bf16" in flags
