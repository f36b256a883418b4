"""Zarr and OME-Zarr (extra ``zarr``) from local disks; the metadata file of the array or group stands for the image.

Axes come from OME's metadata. Without it, the last two dimensions are rows and columns; but in an array of three
dimensions, a last one of at most four holds channels. Channels stay together; pages run over all other axes, in their
order.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from pipeline import storage
from pipeline.errors import Unreadable
from pipeline.readers import ImageFile, Layout, Reader, check_inside, extra, unreadable
from pipeline.readers.whole import check_size
from transforms.grid import Box

_MICROMETRES = {"micrometer": 1.0, "nanometer": 1e-3, "millimeter": 1e3, "meter": 1e6}


def open_reader(file: ImageFile, level: int, page: int | None) -> Reader:
    """See :func:`pipeline.readers.open_image`."""
    library = extra("zarr", "zarr")
    if not storage.is_local(file.uri):
        raise Unreadable("unsupported_mode", "Zarr is read from local folders; copy it")
    node = library.open(file.uri.rpartition("/")[0], mode="r")
    if isinstance(node, library.Array):
        if level:
            raise Unreadable("no_such_level", f"an array has level 0 only, asked for {level}")
        return _ZarrReader(file, [node], _guess_axes(node.shape), 0, page, None)
    scales = (node.attrs.get("ome") or node.attrs).get("multiscales")
    if not scales:
        raise Unreadable("unsupported_mode", "a group without OME's multiscales; give the metadata file of an array")
    axes = [axis if isinstance(axis, dict) else {"name": axis} for axis in scales[0].get("axes", "tczyx")]
    levels = [node[one["path"]] for one in scales[0]["datasets"]]
    if level >= len(levels):
        raise Unreadable("no_such_level", f"has {len(levels)} pyramid levels, asked for level {level}")
    steps = scales[0]["datasets"][level].get("coordinateTransformations", [])
    scale = next((one["scale"] for one in steps if one.get("type") == "scale"), None)
    return _ZarrReader(file, levels, [axis["name"] for axis in axes], level, page, _mpp(axes, scale))


def _guess_axes(shape: tuple[int, ...]) -> list[str]:
    if len(shape) == 3 and shape[2] <= 4:
        return ["y", "x", "c"]
    return [f"axis {number}" for number in range(len(shape) - 2)] + ["y", "x"]


def _mpp(axes: list[dict[str, Any]], scale: list[float] | None) -> tuple[float, float] | None:
    sizes = {axis["name"]: step * _MICROMETRES.get(axis.get("unit", ""), 0) for axis, step in zip(axes, scale or ())}
    down, across = sizes.get("y", 0), sizes.get("x", 0)
    return (down, across) if down > 0 and across > 0 else None


class _ZarrReader:
    def __init__(self, file: ImageFile, levels: list[Any], axes: list[str], level: int, page: int | None, mpp: Any):
        self.file = file
        self._array = array = levels[level]
        if len(axes) != array.ndim or not {"y", "x"} <= set(axes):
            raise Unreadable("corrupt_header", f"axes {axes} for an array of {array.shape}")
        if array.dtype.kind not in "iuf":
            raise Unreadable("unsupported_mode", f"values of {array.dtype}; integers and floating point are read")
        self._axes = axes
        size = dict(zip(axes, array.shape))
        self._others = [axis for axis in axes if axis not in "yxc"]
        pages = math.prod(size[axis] for axis in self._others)
        if page is None and pages > 1:
            raise Unreadable(
                "unsupported_mode", f"a stack of {axes} {array.shape}; choose one of {pages} by input.page"
            )
        if (page or 0) >= pages:
            raise Unreadable("no_such_page", f"has {pages} pages, asked for page {page}; the first is 0")
        numbers = np.unravel_index(page or 0, [size[axis] for axis in self._others]) if self._others else ()
        self._page = dict(zip(self._others, map(int, numbers)))
        block = dict(zip(axes, array.chunks))
        channels = size.get("c", 1)
        colour = {1: "gray", 3: "rgb", 4: "rgb"}.get(channels, "") if axes[-1] == "c" or channels == 1 else ""
        height, width = size["y"], size["x"]
        blocks = (min(block["y"], height), min(block["x"], width))
        check_size((*blocks, channels), array.dtype.name)
        sizes = tuple((dict(zip(axes, one.shape))["y"], dict(zip(axes, one.shape))["x"]) for one in levels)
        self.layout = Layout(
            height, width, channels, array.dtype.name, *blocks, colour, 0, sizes if len(sizes) > 1 else (), mpp
        )

    def read(self, box: Box) -> np.ndarray:
        """See :class:`pipeline.readers.Reader`."""
        check_inside(box, self.layout)
        window = {"y": slice(box.row, box.row + box.height), "x": slice(box.col, box.col + box.width), "c": slice(None)}
        with unreadable("corrupt_data", "does not decode"):
            pixels = np.asarray(self._array[tuple((window | self._page)[axis] for axis in self._axes)])
        kept = [axis for axis in self._axes if axis in "yxc"]
        pixels = pixels if "c" in kept else pixels[..., None]
        order = [[*kept, "c"].index(axis) for axis in "yxc"]
        return np.ascontiguousarray(pixels.transpose(order), self.layout.dtype)

    def close(self) -> None:
        """See :class:`pipeline.readers.Reader`."""
        self.file.close()
