"""The schema of a configuration: every key with its type, its effect and what it is for.

A key is annotated with its :class:`~pipeline.config.effects.Effect` and its description; the key reference in the docs,
the table of what a rebuild costs and the JSON schema are made from here. Rules between keys are in
``pipeline.config.rules``.
"""

from __future__ import annotations

import functools
import hashlib
import json
import re
from typing import Annotated, Any, ClassVar, Literal, NamedTuple, get_args

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Discriminator,
    Field,
    Tag,
    ValidationInfo,
    field_validator,
    model_validator,
)
from pydantic_core import PydanticCustomError

from pipeline.config import rules
from pipeline.config.effects import Effect, keys_of, without
from pipeline.config.values import (
    CREDENTIALS,
    BeamValue,
    ByteSize,
    Coordinates,
    Count,
    Dtype,
    Index,
    Integer,
    Location,
    Locations,
    Number,
    Offsets,
    Pair,
    Range,
    Share,
    Threshold,
    about,
    holds,
    one_or_two_of,
)
from transforms.grid import Edge, PadMode

PIXELS, NAMES, REPORT = Effect.PIXELS, Effect.NAMES, Effect.REPORT

# The columns of an input manifest that patchbeam itself uses; all others are carried into the records.
OWN_COLUMNS = ("uri", "label", "group", "split", "mask", "points", "regions")


def column_problem(name: str) -> str | None:
    """Says why this cannot be a metadata column of an input manifest; None if it can."""
    if name in OWN_COLUMNS:
        return f"{name!r} is a column of patchbeam's own, which is carried anyway"
    if not name.strip() or "/" in name or not name.isprintable():
        return f"{name!r} is no name of a column; it needs printable characters without /"
    return None


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class _Value(_Section):
    """A value with parts, which stands for one key."""

    is_value: ClassVar[bool] = True


class Regex(_Value):
    """The first group of the expression, searched for in the image id."""

    regex: str

    @field_validator("regex")
    @classmethod
    def _has_one_group(cls, value: str) -> str:
        try:
            groups = re.compile(value).groups
        except re.error as error:
            raise ValueError(f"not a regular expression: {error}") from error
        if groups != 1:
            raise ValueError(f"has {groups} groups; put parentheses around the one part that is the name")
        return value


class Constant(_Value):
    """The same name for every image."""

    constant: str


class Replace(_Value):
    """The URI of the image with what ``match`` finds in it replaced, as Python's ``re.sub`` does."""

    match: str
    replace: str

    @model_validator(mode="after")
    def _is_a_rule(self) -> Replace:
        try:
            re.sub(f"(?:{self.match})|", self.replace, "")
        except (re.error, IndexError) as error:
            raise ValueError(f"not a regular expression with its replacement: {error}") from error
        return self


class Bounds(_Value):
    """The bounds of a number, both ends included."""

    min: Number | None = None
    max: Number | None = None

    @model_validator(mode="after")
    def _is_a_bound(self) -> Bounds:
        if self.min is None and self.max is None:
            raise ValueError("use min, max or both")
        if self.min is not None and self.max is not None and self.min > self.max:
            raise ValueError(f"min {self.min:g} is above max {self.max:g}")
        return self


# Finds the kind of value that is meant, so that only this kind reports errors.
_word_or_rule = Discriminator(lambda value: "<replace>" if isinstance(value, dict | Replace) else "<word>")


@Discriminator
def _name_source(value: Any) -> str:
    if isinstance(value, dict) and len(value) == 1:
        return f"<{next(iter(value))}>"
    return "<regex>" if isinstance(value, Regex) else "<constant>" if isinstance(value, Constant) else "<word>"


class Raster(_Section):
    """A companion raster: other values of the same pixels, such as classes or other bands; or polygons."""

    file: Annotated[
        Annotated[Literal["mask", "regions"], Tag("<word>")] | Annotated[Replace, Tag("<replace>")],
        _word_or_rule,
        REPORT,
        about(
            "Where it is: mask or regions, the column of the input manifest, or {match, replace}, a rule on the URI of "
            "the image. GeoJSON is drawn as a raster of classes."
        ),
    ] = "mask"
    level: Annotated[Index, PIXELS, about("Pyramid level of the raster's own file.")] = 0
    channels: Annotated[Count, PIXELS, about("Channels that it has to have.")] = 1
    dtype: Annotated[Dtype, PIXELS, about("Type that its values have to have.")] = "uint8"
    pad_value: Annotated[Number, PIXELS, about("Value beyond the border, for patch.pad_mode: constant.")] = 0
    classes: Annotated[dict[str, Number], PIXELS, about("Names of its values, as {name: value}.")] = {}
    class_from: Annotated[
        str | None,
        PIXELS,
        about("The property of a polygon that names its class, such as classification.name; without it all are 1."),
    ] = None
    coordinates: Annotated[
        Coordinates, PIXELS, about("For polygons: pixels of full resolution, or world, the image's coordinate system.")
    ] = "pixels"

    @model_validator(mode="after")
    def _fits_together(self) -> Raster:
        values = {"pad_value": self.pad_value} | {f"classes.{name}": value for name, value in self.classes.items()}
        for key, value in values.items():
            if not holds(self.dtype, value):
                raise ValueError(f"{key}: {value:g} is no {self.dtype}")
        if "any" in self.classes:
            raise ValueError("classes: any stands for all of them; use another name")
        if len(set(self.classes.values())) < len(self.classes):
            raise ValueError(f"classes: {self.classes} gives two classes one value")
        if self.channels > 1 and (self.classes or self.file == "regions"):
            raise ValueError(f"channels: classes and polygons have 1 channel, not {self.channels}")
        if self.class_from and not self.classes:
            raise ValueError("class_from: its values need numbers; set classes: {name: number}")
        return self

    @property
    def encoding(self) -> Literal["png", "raw"]:
        """The lossless encoding: PNG where all readers take it, TensorFlow's included; else raw."""
        return "png" if self.channels in (1, 3, 4) and self.dtype != "float32" else "raw"


class Points(_Section):
    """Points of an image that patches are cut around, in place of a grid."""

    file: Annotated[
        Annotated[Literal["points"], Tag("<word>")] | Annotated[Replace, Tag("<replace>")],
        _word_or_rule,
        REPORT,
        about(
            "Where they are: points, the column of the input manifest, or {match, replace}, a rule on the URI of the "
            "image. CSV with x, y or col, row; GeoJSON of points; a list of pairs."
        ),
    ] = "points"
    label: Annotated[
        str | None,
        PIXELS,
        about("The column or property that labels a patch; the label of the image where it is empty."),
    ] = None
    coordinates: Annotated[
        Coordinates, PIXELS, about("Pixels of full resolution, or world, the image's coordinate system.")
    ] = "pixels"


class Input(_Section):
    """Which images, and what they have to be."""

    images: Annotated[
        Locations,
        REPORT,
        about(
            "Patterns of files: local paths, gs:// or s3:// URIs. * and ? stay within a name, ** stands for any number "
            "of folders. The first bytes decide how a file is read."
        ),
    ] = ()
    manifest: Annotated[
        Location | None,
        REPORT,
        about("A table of images, CSV, JSON Lines or Parquet, in place of patterns or in addition to them."),
    ] = None
    columns: Annotated[
        dict[str, Literal["integer", "number", "text"]] | None,
        NAMES,
        about("Metadata columns of the input manifest that records carry, and their types; all of them if not given."),
    ] = None
    root: Annotated[
        Location | None,
        REPORT,
        about("The identity of an image is its path below this folder; not given: the folder that all have in common."),
    ] = None
    level: Annotated[Index, PIXELS, about("Pyramid level that is cut; 0 is full resolution.")] = 0
    mpp: Annotated[
        Annotated[Number, Field(gt=0)] | None,
        PIXELS,
        about("Micrometres per pixel, in place of level: read from the nearest finer level, and averaged by area."),
    ] = None
    gsd: Annotated[
        Annotated[Number, Field(gt=0)] | None,
        PIXELS,
        about("Size of a pixel in units of the image's coordinate system, in place of level."),
    ] = None
    page: Annotated[
        Index | None,
        PIXELS,
        about("Which image of a file that holds several, counted from 0; such files are rejected without it."),
    ] = None
    bands: Annotated[
        tuple[Count, ...], PIXELS, about("Channels to take from files with many, in this order; the first is 1.")
    ] = ()
    convert: Annotated[
        Literal["as-is", "rgb", "gray"],
        PIXELS,
        about("rgb repeats grey and converts CMYK by the plain formula, gray takes the luma; alpha is left out."),
    ] = "as-is"
    depth: Annotated[
        Literal["exact", "widen", "scale", "clip"],
        PIXELS,
        about(
            "How the type of a file becomes dtype. exact: it has to be dtype; widen: no value changes; scale: range to "
            "range; clip: the nearest value."
        ),
    ] = "exact"
    max_seconds: Annotated[
        Annotated[Number, Field(gt=0)],
        REPORT,
        about("Processor time for the header and for each window; what takes longer is rejected."),
    ] = 120
    fingerprint: Annotated[
        Literal["stat", "content"],
        PIXELS,
        about(
            "What tells whether a file changed. stat: size and time, or the checksum of a store; content: all its "
            "bytes."
        ),
    ] = "stat"
    channels: Annotated[Count, PIXELS, about("Channels that the images have to have after all that.")] = 3
    dtype: Annotated[Dtype, PIXELS, about("Type that their values have to have after all that.")] = "uint8"
    range: Annotated[
        Range | None,
        PIXELS,
        about("Lowest and highest value, for scores and augmentation; not given: those of the dtype."),
    ] = None
    rasters: Annotated[
        dict[str, Raster], about("Companion rasters, cut with the same boxes: masks, bands, the next time step.")
    ] = {}
    points: Annotated[Points | None, about("Cut around points in place of a grid.")] = None
    label: Annotated[
        Annotated[Literal["folder"] | None, Tag("<word>")]
        | Annotated[Regex, Tag("<regex>")]
        | Annotated[Constant, Tag("<constant>")],
        _name_source,
        NAMES,
        about(
            "The class of an image: folder, the name of the folder that holds it; {regex: '(first group)'}, searched "
            "for in its identity; {constant: name}; or none."
        ),
    ] = None
    group: Annotated[
        Annotated[Literal["image", "folder"], Tag("<word>")] | Annotated[Regex, Tag("<regex>")],
        _name_source,
        NAMES,
        about("What is kept in one split: image, folder, or {regex: '(patient[0-9]+)'}."),
    ] = "image"

    @model_validator(mode="after")
    def _names_images(self) -> Input:
        if not self.images and self.manifest is None:
            raise PydanticCustomError("missing_images", "is missing; give patterns of files, or input.manifest a table")
        return self

    @model_validator(mode="after")
    def _has_one_scale(self) -> Input:
        given = [name for name in ("level", "mpp", "gsd") if getattr(self, name)]
        if len(given) > 1:
            raise ValueError(f"{' and '.join(given)} each say how large a pixel is; keep one")
        return self

    @field_validator("rasters")
    @classmethod
    def _rasters_have_names(cls, value: dict[str, Raster]) -> dict[str, Raster]:
        for name in value:
            if not re.fullmatch(r"[a-z][a-z0-9_]*", name):
                raise ValueError(f"the name {name!r} may hold only a-z, 0-9 and _, and starts with a letter")
        return value

    @field_validator("columns")
    @classmethod
    def _columns_can_be_carried(cls, value: dict[str, str] | None) -> dict[str, str] | None:
        for name in value or {}:
            if problem := column_problem(name):
                raise ValueError(problem)
        return value

    @field_validator("label", "group", mode="before")
    @classmethod
    def _has_one_key(cls, value: Any, field: ValidationInfo) -> Any:
        known = ["regex", "constant"] if field.field_name == "label" else ["regex"]
        if isinstance(value, dict) and (len(value) != 1 or next(iter(value)) not in known):
            raise ValueError(f"use exactly one key, {' or '.join(known)}")
        return value


class Quality(_Section):
    """Scores of every patch, see ``transforms.quality``, and which patches are kept."""

    keep: Annotated[
        dict[Literal["tissue", "sharpness", "entropy", "clipped_low", "clipped_high", "nodata"], Bounds],
        PIXELS,
        about("Patches are kept whose scores lie within these bounds, {score: {min, max}}."),
    ] = {}
    duplicates: Annotated[
        Annotated[Integer, Field(ge=0, le=63)] | None,
        PIXELS,
        about(
            "Patches of an image whose fingerprints differ in at most so many bits are duplicates; the first is kept."
        ),
    ] = None
    tissue_threshold: Annotated[
        Threshold, PIXELS, about("Saturation above which a pixel is tissue; otsu: found for each image.")
    ] = "otsu"
    nodata: Annotated[Number | None, PIXELS, about("Value of pixels without data, for the score nodata.")] = None


class Crops(_Section):
    """Random crops in place of a grid."""

    per_image: Annotated[Count | None, PIXELS, about("Crops of each image.")] = None
    per_megapixel: Annotated[
        Annotated[Number, Field(gt=0)] | None, PIXELS, about("Crops of each million pixels of an image.")
    ] = None
    tries: Annotated[
        Annotated[Integer, Field(ge=1, le=1000)],
        PIXELS,
        about("Times that a crop is drawn until quality.keep or patch.cover keep it; the last one counts."),
    ] = 1

    @model_validator(mode="after")
    def _has_one_number(self) -> Crops:
        if (self.per_image is None) == (self.per_megapixel is None):
            raise ValueError("use one of per_image and per_megapixel")
        return self


class Augment(_Section):
    """Changed copies of the patches of the training split; the ranges are those of ``transforms.augment.Ranges``."""

    copies: Annotated[Count, PIXELS, about("Changed copies of every training patch.")] = 1
    original: Annotated[bool, PIXELS, about("Whether the patch itself is kept in addition to its copies.")] = True
    flip: Annotated[bool, PIXELS, about("Flip rows, columns, both or none.")] = False
    quarter_turns: Annotated[bool, PIXELS, about("Turn by 0, 90, 180 or 270 degrees; for square patches.")] = False
    rotation: Annotated[
        Annotated[Number, Field(ge=0, le=180)], PIXELS, about("Turn by up to so many degrees either way.")
    ] = 0
    blur: Annotated[
        Annotated[Number, Field(ge=0, le=20)],
        PIXELS,
        about("Standard deviation of a Gaussian blur, at most, in pixels."),
    ] = 0
    stain: Annotated[
        Annotated[Number, Field(ge=0, lt=1)],
        PIXELS,
        about("Factors of up to 1 ± this on the amounts of HED stains, and shifts of up to ± this in density."),
    ] = 0
    brightness: Annotated[Share, PIXELS, about("Added to all values, up to this fraction of the range either way.")] = 0
    contrast: Annotated[Share, PIXELS, about("Factors of up to 1 ± this.")] = 0
    saturation: Annotated[Share, PIXELS, about("Factors of up to 1 ± this.")] = 0
    hue: Annotated[Annotated[Number, Field(ge=0, le=180)], PIXELS, about("Change of hue in degrees, either way.")] = 0
    noise: Annotated[
        Share, PIXELS, about("Standard deviation of Gaussian noise, at most, as a fraction of the range.")
    ] = 0

    def ranges(self) -> dict[str, Any]:
        """Returns the keyword arguments of ``transforms.augment.Ranges``."""
        return self.model_dump(exclude={"copies", "original"})


class PatchLabel(_Section):
    """The class of a raster that covers most of a patch, as its label; the image's label where it covers too little."""

    raster: Annotated[str, PIXELS, about("A raster of input.rasters whose classes have names.")]
    min: Annotated[Share, PIXELS, about("Share of the patch that the class has to cover.")] = 0


def _without_one(scales: tuple[int, ...]) -> tuple[int, ...]:
    """Drops scale 1, the patch itself."""
    return tuple(scale for scale in scales if scale != 1)


class Patch(_Section):
    """How an image is cut. A pair is for rows and columns; one value stands for both."""

    size: Annotated[Pair, PIXELS, about("Pixels of a patch.")] = (256, 256)
    stride: Annotated[
        Pair | None,
        PIXELS,
        about("Pixels from one patch to the next; not given: what a patch spans, so that they lie side by side."),
    ] = None
    dilation: Annotated[Pair, PIXELS, about("Pixels of the image from one pixel of a patch to the next.")] = (1, 1)
    origin: Annotated[
        Offsets, PIXELS, about("Where the first patch begins; before the image, as in [-128, 0], with edge: pad.")
    ] = (0, 0)
    edge: Annotated[
        tuple[Edge, Edge],
        one_or_two_of(*get_args(Edge)),
        PIXELS,
        about("Where the last patch does not end at the border: drop it, pad the image, or shift the patch back."),
    ] = ("pad", "pad")
    pad_mode: Annotated[
        tuple[PadMode, PadMode], one_or_two_of(*get_args(PadMode)), PIXELS, about("What lies beyond the border.")
    ] = ("reflect", "reflect")
    pad_value: Annotated[Number, PIXELS, about("Value beyond the border, for pad_mode: constant.")] = 0
    crops: Annotated[Crops | None, about("Random crops in place of a grid.")] = None
    scales: Annotated[
        tuple[Annotated[Integer, Field(ge=1, le=64)], ...],
        AfterValidator(_without_one),
        PIXELS,
        about("Surroundings: as many pixels about the same middle, each so many times as large, as features scale/N."),
    ] = ()
    cover: Annotated[
        dict[str, dict[str, Bounds]],
        PIXELS,
        about(
            "Which share of a patch classes have to cover, {raster: {class: {min, max}}}; any stands for all of them."
        ),
    ] = {}
    label: Annotated[PatchLabel | None, about("Label a patch by the class that covers most of the patch.")] = None
    stain: Annotated[
        Literal["macenko"] | None, PIXELS, about("Normalise the colours of H&E slides to those of a reference.")
    ] = None

    @property
    def span(self) -> tuple[int, int]:
        """Rows and columns of the image from the first to the last pixel of a patch."""
        rows, cols = ((size - 1) * dilation + 1 for size, dilation in zip(self.size, self.dilation))
        return rows, cols

    @property
    def steps(self) -> tuple[int, int]:
        """The stride, or the span where none is given: patches side by side."""
        return self.stride or self.span


class Output(_Section):
    """Where the dataset goes, and its form."""

    path: Annotated[Location, REPORT, about("The folder of the dataset: a local path, or a gs:// or s3:// URI.")]
    encoding: Annotated[
        Literal["png", "jpeg", "raw"],
        PIXELS,
        about("png (exact), jpeg, or raw (exact; for float32 and more than 4 channels)."),
    ] = "png"
    quality: Annotated[Annotated[Integer, Field(ge=1, le=100)], PIXELS, about("Quality of JPEG.")] = 95
    shard_size: Annotated[
        ByteSize, NAMES, about("Estimated size that shards do not exceed; their number is a power of two.")
    ] = 256 * 10**6
    order: Annotated[
        Literal["shuffled", "sequential"],
        NAMES,
        about("In a shard: shuffled, so that training sees mixed data, or sequential."),
    ] = "shuffled"


class Workers(_Section):
    """The hardware of the workers that cut; all of them make the same patches."""

    device: Annotated[
        Literal["auto", "cpu", "gpu"], REPORT, about("What cuts; gpu fails at once where TensorFlow sees none.")
    ] = "auto"
    processes_per_gpu: Annotated[Count, REPORT, about("Worker processes that share the memory of a GPU.")] = 1
    windows_per_gpu: Annotated[
        Count, REPORT, about("Windows on a GPU at a time, however many threads a worker has.")
    ] = 2
    accelerator: Annotated[
        str | None,
        REPORT,
        about("For runners that choose machines: type:nvidia-l4;count:1;install-nvidia-driver, for the writing step."),
    ] = None
    min_ram: Annotated[ByteSize | None, REPORT, about("For runners that choose machines: memory of a worker.")] = None


class Distances(_Section):
    """How far the shares of the labels may move, see ``pipeline.dataset.drift``."""

    infinity_norm: Annotated[Share | None, about("Largest change of the share of any label.")] = None
    jensen_shannon_divergence: Annotated[
        Share | None, about("Largest divergence of the shares of the labels, 0 to 1.")
    ] = None


class Drift(_Section):
    """How far the statistics of each split may move from those of the published version."""

    mean: Annotated[
        Annotated[Number, Field(ge=0)] | None,
        about("Largest change of the mean of any channel, in published standard deviations."),
    ] = None
    std: Annotated[
        Annotated[Number, Field(ge=0)] | None,
        about("Largest change of the standard deviation of any channel, as a fraction."),
    ] = None
    jensen_shannon_divergence: Annotated[
        Share | None, about("Largest divergence of the histogram of any channel, 0 to 1.")
    ] = None
    labels: Annotated[Distances | None, about("How far the shares of the labels may move.")] = None


class Gates(_Section):
    """The gates that a version has to pass before it is published, see ``pipeline.dataset.gates``."""

    verify: Annotated[bool, about("Read every byte again from where it was written.")] = False
    rejected: Annotated[Share | None, about("Share of the images that may have rejections.")] = None
    patches: Annotated[
        Bounds | None, about("Patches of every split, divided by those of the published version, {min, max}.")
    ] = None
    patches_per_label: Annotated[
        Bounds | None, about("Patches of every label of every split, divided by those of the published version.")
    ] = None
    drift: Annotated[Drift | None, about("Drift of pixels and labels against the published version.")] = None
    leakage: Annotated[
        Literal["exact", "perceptual"] | None,
        about("No group and no file in two splits; perceptual: and no images that look alike, which reads all shards."),
    ] = None


class Form(NamedTuple):
    """The format of the patches of a feature of the records."""

    channels: int
    dtype: Dtype
    encoding: Literal["png", "jpeg", "raw"]
    jpeg_quality: int


class Config(_Section):
    """A whole configuration; ``docs/configuration.md`` lists every key."""

    input: Annotated[Input, about("Which images, and what they have to be.")]
    output: Annotated[Output, about("Where the dataset goes, and its form.")]
    patch: Annotated[Patch, about("How an image is cut.")] = Patch()
    quality: Annotated[Quality | None, about("Scores of every patch, and which patches are kept.")] = None
    augment: Annotated[Augment | None, about("Changed copies of the patches of the training split.")] = None
    splits: Annotated[
        dict[str, Share],
        NAMES,
        about("Which share of the groups goes where. A group stays in its split when others are added."),
    ] = {"train": 1.0}
    seed: Annotated[Integer, PIXELS, about("Decides splits, shards, order, crops and augmentation.")] = 0
    max_rejected: Annotated[
        Share,
        REPORT,
        about("Share of the images (but always one) that may have unreadable parts; beyond it nothing is published."),
    ] = 0.01
    gates: Annotated[Gates | None, REPORT, about("The gates that a version has to pass before it is published.")] = None
    workers: Annotated[Workers, about("The hardware of the workers that cut.")] = Workers()
    beam: Annotated[
        dict[str, BeamValue],
        REPORT,
        about("Options of Beam, as after the two dashes of the command line, which come first."),
    ] = {}

    @field_validator("beam")
    @classmethod
    def _beam_holds_no_secrets(cls, value: dict[str, Any]) -> dict[str, Any]:
        for name in value:
            if re.search("secret|token|password|access_key|connection_string", name):
                raise PydanticCustomError("secret", "{problem}", {"problem": f"{name} is a secret; {CREDENTIALS}"})
        return value

    @field_validator("splits")
    @classmethod
    def _splits_add_up(cls, value: dict[str, float]) -> dict[str, float]:
        for name in value:
            if not re.fullmatch(r"[a-z][a-z0-9_]*", name):
                raise ValueError(f"the name {name!r} may hold only a-z, 0-9 and _, and starts with a letter")
        if abs(sum(value.values()) - 1) > 1e-9:
            raise ValueError(f"the fractions add up to {sum(value.values()):g}; they have to add up to 1")
        return value

    @model_validator(mode="after")
    def _fits_together(self) -> Config:
        for rule in rules.RULES:
            rule(self)
        return self

    def records_per_patch(self, split: str) -> int:
        """Returns how many records are made of each patch of a split: augmented copies are for training only."""
        if not self.augment or split != self.training_split:
            return 1
        return self.augment.copies + self.augment.original

    @property
    def training_split(self) -> str:
        """The split whose pixels set the normalisation: ``train``, or the first one where none is called so."""
        return "train" if "train" in self.splits else next(iter(self.splits))

    @property
    def forms(self) -> dict[str, Form]:
        """The features of a record that hold patches of a place: ``image``, and then ``raster/NAME``, ``scale/4``."""
        wanted, output = self.input, self.output
        image = Form(wanted.channels, wanted.dtype, output.encoding, output.quality)
        forms = {f"raster/{name}": Form(r.channels, r.dtype, r.encoding, 0) for name, r in wanted.rasters.items()}
        forms |= {f"scale/{scale}": image for scale in self.patch.scales}
        return {"image": image, **dict(sorted(forms.items()))}

    @property
    def companions(self) -> list[str]:
        """The features that hold companions of the image: all of ``forms`` but the image itself."""
        return [name for name in self.forms if name != "image"]

    @property
    def covers(self) -> list[str]:
        """``raster/class`` of all rasters whose classes have names."""
        return [f"{name}/{kind}" for name, raster in self.input.rasters.items() for kind in raster.classes]

    @property
    def labels_patches(self) -> bool:
        """Says whether patches of one image may have labels of their own."""
        return bool(self.input.points or self.patch.label)

    @property
    def has_copies(self) -> bool:
        """Says whether a place in an image may have several records, which then say how they differ."""
        return bool(self.augment or self.patch.crops)

    @property
    def value_range(self) -> tuple[float, float]:
        """Lowest and highest value of a pixel: as given, or those of the dtype; for float32 it has to be given."""
        return self.input.range or {"uint8": (0, 255), "uint16": (0, 65535)}.get(self.input.dtype, (0, 1))

    def content_digest(self) -> str:
        """Returns 64 hexadecimal digits that change with every key that changes the dataset.

        The location of the images, the output, the rejections allowed and the runner do not change them; the images
        themselves enter a build through their identities.
        """
        return _digest(self._content())

    def pixel_digest(self) -> str:
        """Returns 64 hexadecimal digits that change with every key that may change the patches of an image.

        The keys that it leaves out change their names, their split, their order or their shard.
        """
        return _digest(without(self._content(), _names_with(NAMES)))

    def shard_digest(self) -> str:
        """Returns 64 hexadecimal digits that, together with its plan, decide the bytes of a shard."""
        augmented = self.training_split if self.augment else None
        return _digest([self.pixel_digest(), self.output.order, self.input.columns, augmented])

    def _content(self) -> dict[str, Any]:
        """Returns every key that changes the dataset, in a canonical form.

        The fingerprints of rasters and points are joined to those of the images, wherever their files are. A key that
        has its default is left out, so that a new key does not change the digest of every dataset.
        """
        values = without(self.model_dump(mode="json", exclude_defaults=True), _names_with(REPORT))
        sections = {name for name, field in Config.model_fields.items() if isinstance(field.default, BaseModel)}
        values = {name: value for name, value in values.items() if value or name not in sections}
        values["patch"] = values.get("patch", {}) | {"stride": self.patch.steps}
        values["splits"] = list(self.splits.items())  # their order decides, too
        return values


@functools.cache
def _names_with(effect: Effect) -> list[str]:
    sections = [name for name, field in Config.model_fields.items() if effect in field.metadata]
    return sections + [key.name for key in keys_of(Config) if key.effect == effect]


def _digest(values: Any) -> str:
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()
