"""The device that cuts patches: CPU or GPU, set up once per process, shared by its threads, and timed.

However many threads a runner gives a worker, only ``windows_per_gpu`` windows are on a GPU at a time, and only
``processes_per_gpu`` processes share its memory.
"""

from __future__ import annotations

import contextlib
import functools
import subprocess
import threading
import time
from collections.abc import Iterator
from typing import Any

import tensorflow as tf

from pipeline.config import Workers

CPU = "/CPU:0"


class Device:
    """A device that cuts windows, with the times for which it was busy and idle.

    Attributes:
        name: a TensorFlow device, ``/CPU:0`` or ``/GPU:0``.
    """

    def __init__(self, name: str, windows: int | None):
        """Admits ``windows`` windows to the device at a time; None for no limit."""
        self.name = name
        self._slots: Any = threading.BoundedSemaphore(windows) if windows else contextlib.nullcontext()
        self._lock = threading.Lock()
        self._running, self._since = 0, 0
        self._busy = self._idle = 0

    @contextlib.contextmanager
    def slot(self) -> Iterator[None]:
        """Waits for a place on the device and holds it for the block."""
        with self._slots:
            self._switch(+1)
            try:
                with tf.device(self.name):
                    yield
            finally:
                self._switch(-1)

    def _switch(self, step: int) -> None:
        with self._lock:
            now = time.perf_counter_ns()
            if self._running:
                self._busy += now - self._since
            elif self._since:
                self._idle += now - self._since
            self._since, self._running = now, self._running + step

    def take_times(self) -> dict[str, int]:
        """Returns the milliseconds since the last call in which at least one window, and in which none, was on the GPU.

        Waiting counts from one window to the next: a GPU that waits for decoding shows it here. Empty for a CPU.
        """
        with self._lock:
            times = {"gpu_busy_ms": self._busy // 10**6, "gpu_wait_ms": self._idle // 10**6}
            self._busy = self._idle = 0
        return {} if self.name == CPU else times


@functools.cache
def device(workers: Workers) -> Device:
    """Returns the device of this process; must be called before TensorFlow does anything else in it.

    Raises:
        RuntimeError: if a GPU is asked for and TensorFlow sees none, so that nobody pays for an idle one by mistake.
    """
    gpus = [] if workers.device == "cpu" else tf.config.list_physical_devices("GPU")
    if workers.device == "gpu" and not gpus:
        raise RuntimeError(
            "workers.device: gpu, but TensorFlow sees no GPU on this worker; give it one with a driver and the CUDA "
            "libraries of this TensorFlow ('patchbeam doctor' shows what is missing), or set workers.device: auto"
        )
    if not gpus:
        return Device(CPU, None)
    with contextlib.suppress(RuntimeError):  # TensorFlow is running already, set up by an earlier configuration
        if workers.processes_per_gpu == 1:
            tf.config.experimental.set_memory_growth(gpus[0], True)
        else:
            # A tenth stays for the contexts of the processes themselves.
            share = int(0.9 * _gpu_memory_mb() / workers.processes_per_gpu)
            limit = tf.config.LogicalDeviceConfiguration(memory_limit=share)
            tf.config.set_logical_device_configuration(gpus[0], [limit])
    return Device("/GPU:0", workers.windows_per_gpu)


def _gpu_memory_mb() -> int:
    query = ["nvidia-smi", "--query-gpu=memory.total", "--format=csv,noheader,nounits"]
    return int(subprocess.run(query, capture_output=True, text=True, check=True).stdout.split()[0])  # noqa: S603
