"""The distributed part of patchbeam: files, readers, workers, and the published dataset.

The public face is the package ``patchbeam``. ``pipeline.load`` stays as another name of ``patchbeam.load``.
"""

from typing import Any

__version__ = "0.2.0"


def __getattr__(name: str) -> Any:
    if name == "load":  # lazily: TensorFlow takes seconds to import, and a wrong configuration answers without it
        from pipeline.dataset.reading import load

        return load
    raise AttributeError(f"module 'pipeline' has no attribute {name!r}")
