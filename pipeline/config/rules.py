"""Rules between keys; each rule raises ValueError with the key, the value and what is allowed."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from pipeline.config.values import holds, value_limits

if TYPE_CHECKING:
    from pipeline.config.schema import Augment, Config


def _encoding_holds_the_pixels(config: Config) -> None:
    channels, dtype, encoding = config.input.channels, config.input.dtype, config.output.encoding
    if encoding == "png" and (dtype == "float32" or channels > 4):
        raise ValueError(f"output.encoding: png cannot hold {channels} channels of {dtype}; use raw")
    if encoding == "jpeg" and (dtype != "uint8" or channels not in (1, 3)):
        raise ValueError(f"output.encoding: jpeg cannot hold {channels} channels of {dtype}; use png or raw")


def _pad_value_is_a_pixel(config: Config) -> None:
    dtype, value = config.input.dtype, config.patch.pad_value
    if not holds(dtype, value):
        raise ValueError(f"patch.pad_value: {value:g} is no {dtype}; use an integer {value_limits(dtype)}")


def _range_is_one_of_the_dtype(config: Config) -> None:
    dtype, given = config.input.dtype, config.input.range
    if given and dtype == "uint8" and given != (0, 255):
        raise ValueError("input.range: of uint8 it is [0, 255]")
    if given and not all(holds(dtype, limit) for limit in given):
        raise ValueError(f"input.range: {list(given)} is no part of {value_limits(dtype)}, the values of {dtype}")
    if config.quality and dtype == "float32" and not given:
        raise ValueError("quality: float32 has no lowest and highest value; set input.range: [low, high]")


def _tissue_has_colours(config: Config) -> None:
    if config.quality and "tissue" in config.quality.keep and config.input.channels != 3:
        raise ValueError(f"quality.keep.tissue: needs the colours of 3 channels, not {config.input.channels}")


def _crops_are_drawn_again_for_a_reason(config: Config) -> None:
    if config.patch.crops and config.patch.crops.tries > 1:
        if not config.patch.cover and not (config.quality and config.quality.keep):
            ways = "quality.keep or patch.cover, which say what is good"
            raise ValueError(f"patch.crops.tries: nothing is drawn again without {ways}")


def _classes_are_there(config: Config) -> None:
    """Checks that the rasters and classes that ``patch.cover`` and ``patch.label`` name exist."""
    patch, rasters = config.patch, config.input.rasters
    named = [(f"patch.cover.{name}", name) for name in patch.cover]
    named += [("patch.label.raster", patch.label.raster)] if patch.label else []
    for key, name in named:
        if name not in rasters or not rasters[name].classes:
            known = [name for name, raster in rasters.items() if raster.classes]
            ways = f"there are {', '.join(known)}" if known else "name them in input.rasters.NAME.classes"
            raise ValueError(f"{key}: {name!r} is no raster with classes; {ways}")
    for raster, bounds in patch.cover.items():
        for name in bounds:
            if name not in [*rasters[raster].classes, "any"]:
                classes = ", ".join(rasters[raster].classes)
                raise ValueError(f"patch.cover.{raster}: {name!r} is none of its classes, {classes}, nor any")


def _patches_have_one_label(config: Config) -> None:
    if config.patch.label and config.input.points and config.input.points.label:
        raise ValueError("patch.label, input.points.label: a patch has one label; keep one of them")


def _stain_has_colours(config: Config) -> None:
    channels, dtype = config.input.channels, config.input.dtype
    if config.patch.stain and (channels, dtype) != (3, "uint8"):
        raise ValueError(f"patch.stain: is defined for 3 channels of uint8, not {channels} of {dtype}")


def _scales_are_different_and_without_gaps(config: Config) -> None:
    scales = config.patch.scales
    if len(set(scales)) < len(scales):
        raise ValueError(f"patch.scales: {list(scales)} names one twice")
    if scales and config.patch.dilation != (1, 1):
        raise ValueError("patch.scales: has no meaning for patches with gaps; use one of scales and dilation")


def _augmentation_fits_the_pixels(config: Config) -> None:
    if config.augment:
        _check_augment(config.augment, config)


def _check_augment(augment: Augment, config: Config) -> None:
    channels, dtype, size = config.input.channels, config.input.dtype, config.patch.size
    asked = {name for name, value in augment.ranges().items() if value}
    if not asked:
        raise ValueError(f"augment: changes nothing; set one of {', '.join(augment.ranges())}")
    if augment.quarter_turns and size[0] != size[1]:
        raise ValueError(f"augment.quarter_turns: needs square patches, not {size[0]} x {size[1]}; use flip")
    if augment.stain and (channels, dtype) != (3, "uint8"):
        raise ValueError(f"augment.stain: is defined for 3 channels of uint8, not {channels} of {dtype}")
    for name in ("saturation", "hue"):
        if name in asked and channels != 3:
            raise ValueError(f"augment.{name}: needs the colours of 3 channels, not {channels}")
    tones = sorted(asked & {"brightness", "contrast", "saturation", "hue", "noise"})
    if tones and dtype == "float32" and not config.input.range:
        raise ValueError(f"augment.{tones[0]}: float32 has no lowest and highest value; set input.range: [low, high]")


def _leakage_sees_patches_as_they_are(config: Config) -> None:
    if config.gates and config.gates.leakage == "perceptual" and config.augment and not config.augment.original:
        raise ValueError("gates.leakage: perceptual looks at patches as they are; set augment.original: true")


def _patches_lie_in_one_way(config: Config) -> None:
    if config.input.points and config.patch.crops:
        raise ValueError("input.points, patch.crops: patches lie around points or at random; use one of them")


def _origin_reaches_the_image(config: Config) -> None:
    for origin, edge, span in zip(config.patch.origin, config.patch.edge, config.patch.span):
        if origin < 0 and edge != "pad":
            raise ValueError(f"patch.origin: {origin} lies outside the image; use edge: pad there, not {edge}")
        if origin <= -span:
            raise ValueError(f"patch.origin: a patch at {origin} that spans {span} pixels does not reach the image")


def _conversion_makes_the_channels(config: Config) -> None:
    made = {"rgb": 3, "gray": 1}.get(config.input.convert) or len(config.input.bands)
    if made and made != config.input.channels:
        key = "bands" if config.input.convert == "as-is" else "convert"
        raise ValueError(
            f"input.channels: {config.input.channels}, but input.{key} makes {made}; set input.channels: {made}"
        )


# In the order of their checks: of several faults the first one is reported.
RULES: tuple[Callable[[Config], None], ...] = (
    _encoding_holds_the_pixels,
    _pad_value_is_a_pixel,
    _range_is_one_of_the_dtype,
    _tissue_has_colours,
    _crops_are_drawn_again_for_a_reason,
    _classes_are_there,
    _patches_have_one_label,
    _stain_has_colours,
    _scales_are_different_and_without_gaps,
    _augmentation_fits_the_pixels,
    _leakage_sees_patches_as_they_are,
    _patches_lie_in_one_way,
    _origin_reaches_the_image,
    _conversion_makes_the_channels,
)
