"""The distributed part of patchbeam: files, readers, workers, and the published dataset.

``pipeline.load(dataset, split)`` gives a ``tf.data.Dataset`` of a dataset that ``patchbeam build`` has published.
"""

from typing import Any

__version__ = "0.1.0"


def __getattr__(name: str) -> Any:
    if name == "load":  # lazily: TensorFlow takes seconds to import, and a wrong configuration answers without it
        from pipeline.dataset.reading import load

        return load
    raise AttributeError(f"module 'pipeline' has no attribute {name!r}")
