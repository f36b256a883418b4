"""The device of a process: chosen, shared with bounded concurrency, clocked. Runs without a GPU."""

import threading
import time

import pytest
import tensorflow as tf

from pipeline.config import Workers
from pipeline.shards import device as devices
from pipeline.shards.device import Device, device


@pytest.fixture
def chosen(monkeypatch):
    """``chosen(workers, gpus)``: the device of a fresh process that has these GPUs, and what was set on them."""

    def choose(workers, gpus):
        calls = []
        monkeypatch.setattr(tf.config, "list_physical_devices", lambda kind: gpus)
        monkeypatch.setattr(
            tf.config.experimental, "set_memory_growth", lambda gpu, on: calls.append(("growth", gpu, on))
        )
        limit = lambda gpu, parts: calls.append(("limit", gpu, parts[0].memory_limit))
        monkeypatch.setattr(tf.config, "set_logical_device_configuration", limit)
        monkeypatch.setattr(devices, "_gpu_memory_mb", lambda: 80_000)
        return device.__wrapped__(workers), calls

    return choose


def test_auto_takes_the_cpu_where_there_is_no_gpu_and_the_first_gpu_where_there_is(chosen):
    assert chosen(Workers(), [])[0].name == "/CPU:0"
    found, calls = chosen(Workers(), ["gpu0", "gpu1"])
    assert (found.name, calls) == ("/GPU:0", [("growth", "gpu0", True)])


def test_cpu_leaves_a_gpu_alone(chosen):
    found, calls = chosen(Workers(device="cpu"), ["gpu0"])
    assert (found.name, calls) == ("/CPU:0", [])


def test_gpu_without_one_fails_and_says_what_to_do(chosen):
    with pytest.raises(RuntimeError, match=r"workers\.device: gpu, but TensorFlow sees no GPU .*patchbeam doctor"):
        chosen(Workers(device="gpu"), [])


def test_processes_on_one_gpu_get_equal_shares_of_nine_tenths_of_its_memory(chosen):
    _, calls = chosen(Workers(device="gpu", processes_per_gpu=3), ["gpu0"])
    assert calls == [("limit", "gpu0", 24_000)]


def test_no_more_windows_than_allowed_are_on_the_device_at_a_time():
    one, running, most = Device("/CPU:0", 2), 0, 0
    lock = threading.Lock()

    def work():
        nonlocal running, most
        with one.slot():
            with lock:
                running += 1
                most = max(most, running)
            time.sleep(0.03)
            with lock:
                running -= 1

    threads = [threading.Thread(target=work) for _ in range(8)]
    [t.start() for t in threads]
    [t.join() for t in threads]
    assert most == 2


def test_the_clock_tells_busy_from_idle_and_counts_overlapping_windows_once():
    one = Device("/GPU:0", None)
    together = [threading.Thread(target=lambda: _hold(one, 0.1)) for _ in range(2)]
    [t.start() for t in together]
    [t.join() for t in together]
    time.sleep(0.1)
    _hold(one, 0.1)
    times = one.take_times()
    assert 200 <= times["gpu_busy_ms"] < 390
    assert 100 <= times["gpu_wait_ms"] < 290
    assert one.take_times() == {"gpu_busy_ms": 0, "gpu_wait_ms": 0}


def test_a_cpu_has_no_times_of_a_gpu():
    one = Device("/CPU:0", None)
    _hold(one, 0)
    assert one.take_times() == {}


def _hold(one, seconds):
    with one.slot():
        time.sleep(seconds)


def test_operations_run_on_the_device_of_the_slot():
    with Device("/CPU:0", 1).slot():
        assert tf.zeros(1).device.endswith("CPU:0")
