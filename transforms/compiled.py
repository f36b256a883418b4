"""Functions compiled by XLA and called without detours."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import tensorflow as tf


class Compiled:
    """A function of tensors of fixed shapes, compiled once for each combination of shapes, dtypes and device.

    Calling a ``tf.function`` takes about as long as scoring a batch of patches; what it looks up is kept here.

    Attributes:
        plain: the function as it was given, for TensorFlow without XLA.
    """

    def __init__(self, function: Callable[..., Any]):
        self.plain = function
        self._traced = tf.function(function, jit_compile=True)
        self._concrete: dict[Any, Callable[..., Any]] = {}

    @property
    def traces(self) -> int:
        """How often it was compiled."""
        found: int = self._traced.experimental_get_tracing_count()
        return found

    def __call__(self, *arguments: Any) -> Any:
        """What the function returns for arrays or tensors."""
        tensors = [tf.convert_to_tensor(argument) for argument in arguments]
        key = tuple((tensor.dtype, *tensor.shape, tensor.device) for tensor in tensors)
        if key not in self._concrete:
            specs = [tf.TensorSpec(tensor.shape, tensor.dtype) for tensor in tensors]
            self._concrete[key] = self._traced.get_concrete_function(*specs)
        return self._concrete[key](*tensors)
