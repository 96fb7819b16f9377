"""Choice of device and dtype, and the settings of a process that computes."""

import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

from generation.engine import device as devices
from generation.engine.errors import DeviceUnavailable


def test_a_cpu_computes_in_bf16_only_where_it_has_the_instructions() -> None:
    expected = torch.bfloat16 if devices.cpu_has_bf16() else torch.float32
    chosen = devices.choose("cpu")
    assert chosen.dtype == expected
    assert chosen.reason


@pytest.mark.parametrize("name", ["float32", "float16", "bfloat16"])
def test_a_requested_dtype_is_used(name: str) -> None:
    chosen = devices.choose("cpu", name)
    assert chosen.dtype == getattr(torch, name)
    assert name in chosen.describe()


def test_threads_are_set() -> None:
    before = torch.get_num_threads()
    try:
        assert "cpu, 2 threads" in devices.choose("cpu", threads=2).describe()
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)


def test_each_thread_keeps_its_own_number_of_threads() -> None:
    before = torch.get_num_threads()
    with ThreadPoolExecutor(1, initializer=devices.use_threads, initargs=(1,)) as beside:
        try:
            assert beside.submit(torch.get_num_threads).result() == 1
            devices.use_threads(3)
            assert beside.submit(torch.get_num_threads).result() == 1
            beside.submit(devices.use_threads, 2).result()
            assert torch.get_num_threads() == 3
            devices.use_threads(0)
            assert torch.get_num_threads() == 3
        finally:
            torch.set_num_threads(before)


@pytest.mark.parametrize("name", ["cuda:7", "tpu", "cpu:x", "meta", "cuda:-1"])
def test_an_unavailable_device_is_refused(name: str) -> None:
    with pytest.raises(DeviceUnavailable):
        devices.choose(name)


def test_an_unknown_dtype_is_refused() -> None:
    with pytest.raises(DeviceUnavailable, match="dtype 'int8'"):
        devices.choose("cpu", "int8")


def test_peak_memory_is_that_of_a_process_with_torch() -> None:
    assert 100 * 2**20 < devices.choose("cpu").peak_memory_bytes() < 64 * 2**30


@pytest.mark.gpu
def test_a_gpu_is_found_and_its_dtype_follows_its_capability(device: str) -> None:
    if device == "cpu" or not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    chosen = devices.choose("auto")
    assert chosen.place.type == "cuda"
    has_bf16 = torch.cuda.get_device_capability(chosen.place) >= (8, 0)
    assert chosen.dtype == (torch.bfloat16 if has_bf16 else torch.float16)


@pytest.mark.parametrize(("given", "expected"), [(None, "10000"), ("77", "77")])
@pytest.mark.slow
def test_waiting_threads_spin_briefly_unless_configured_otherwise(
    given: str | None, expected: str
) -> None:
    environment = {key: value for key, value in os.environ.items() if key != "GOMP_SPINCOUNT"}
    environment |= {"GOMP_SPINCOUNT": given} if given else {}
    # OpenMP shows what it has taken; Python's own os.environ would prove nothing.
    environment["OMP_DISPLAY_ENV"] = "VERBOSE"
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", "import generation.engine.device"],
        env=environment,
        check=True,
        timeout=600,
        capture_output=True,
        text=True,
    )
    if "GOMP_SPINCOUNT" not in done.stderr:
        pytest.skip("this torch is built without GNU OpenMP")
    assert f"GOMP_SPINCOUNT = '{expected}'" in done.stderr
