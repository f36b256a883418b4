"""Functions compiled by XLA and called with little overhead."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import tensorflow as tf


class Compiled:
    """A function of tensors of fixed shapes, compiled once for each combination of shapes, dtypes and device.

    Calling a ``tf.function`` takes about as long as scoring a batch of patches, so its lookups are cached here.

    Attributes:
        plain: the original function, for TensorFlow without XLA.
    """

    def __init__(self, function: Callable[..., Any]):
        self.plain = function
        self._traced = tf.function(function, jit_compile=True)
        self._concrete: dict[Any, Callable[..., Any]] = {}

    @property
    def traces(self) -> int:
        """Number of compilations so far."""
        found: int = self._traced.experimental_get_tracing_count()
        return found

    def __call__(self, *arguments: Any) -> Any:
        """Calls the function with arrays or tensors and returns its result."""
        tensors = [tf.convert_to_tensor(argument) for argument in arguments]
        key = tuple((tensor.dtype, *tensor.shape, tensor.device) for tensor in tensors)
        if key not in self._concrete:
            specs = [tf.TensorSpec(tensor.shape, tensor.dtype) for tensor in tensors]
            self._concrete[key] = self._traced.get_concrete_function(*specs)
        return self._concrete[key](*tensors)
