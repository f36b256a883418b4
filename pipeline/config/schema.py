"""What a build is told: a YAML file, validated into a frozen configuration.

Importing this module imports neither Beam nor TensorFlow, so that a wrong configuration answers at once.
"""

from __future__ import annotations

import hashlib
import json
import re
from typing import Annotated, Any, Literal, NamedTuple, get_args

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Discriminator,
    Field,
    Tag,
    ValidationInfo,
    field_validator,
    model_validator,
)
from pydantic_core import PydanticCustomError

from pipeline.config.effects import without
from pipeline.config.values import (
    CREDENTIALS,
    LIMITS,
    ByteSize,
    Integer,
    Location,
    Number,
    Pair,
    beam_value,
    holds,
    low_and_high,
    one_or_two_of,
    otsu_or_integer,
    pair_of_offsets,
    without_one,
)
from transforms.grid import Edge, PadMode


def _name_source(value: Any) -> str:
    """Which kind of source of names a value is, so that only this kind complains of it."""
    if isinstance(value, dict) and len(value) == 1:
        return f"<{next(iter(value))}>"
    return "<regex>" if isinstance(value, Regex) else "<constant>" if isinstance(value, Constant) else "<word>"


Dtype = Literal["uint8", "uint16", "float32"]
# Of annotations: pixels of full resolution, or the coordinate system of the image.
Coordinates = Literal["pixels", "world"]
DTYPES: tuple[str, ...] = get_args(Dtype)


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


# The columns of a manifest that patchbeam itself uses; all others are carried into the records.
OWN_COLUMNS = ("uri", "label", "group", "split", "mask", "points", "regions")


def column_problem(name: str) -> str | None:
    """Why this cannot be a further column of a manifest; None if it can."""
    if name in OWN_COLUMNS:
        return f"{name!r} is a column of patchbeam's own, which is carried anyway"
    if not name.strip() or "/" in name or not name.isprintable():
        return f"{name!r} is no name of a column; it needs printable characters without /"
    return None


class Regex(_Section):
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


class Constant(_Section):
    """The same name for every image."""

    constant: str


class Replace(_Section):
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


class Raster(_Section):
    """Another raster of the same pixels as the image: classes, further bands, the next time step; or polygons."""

    file: Annotated[
        Annotated[Literal["mask", "regions"], Tag("<word>")] | Annotated[Replace, Tag("<replace>")],
        Discriminator(lambda value: "<replace>" if isinstance(value, dict | Replace) else "<word>"),
    ] = "mask"
    level: Annotated[Integer, Field(ge=0)] = 0
    channels: Annotated[Integer, Field(ge=1)] = 1
    dtype: Dtype = "uint8"
    pad_value: Number = 0
    classes: dict[str, Number] = {}
    class_from: str | None = None
    coordinates: Coordinates = "pixels"

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
        """Without loss in any case: PNG where all readers take it, TensorFlow's included."""
        return "png" if self.channels in (1, 3, 4) and self.dtype != "float32" else "raw"


class Points(_Section):
    """Points of an image that patches are cut around."""

    file: Annotated[
        Annotated[Literal["points"], Tag("<word>")] | Annotated[Replace, Tag("<replace>")],
        Discriminator(lambda value: "<replace>" if isinstance(value, dict | Replace) else "<word>"),
    ] = "points"
    label: str | None = None
    coordinates: Coordinates = "pixels"


class Input(_Section):
    """Which images, and what they have to be."""

    images: Annotated[tuple[Location, ...], BeforeValidator(lambda v: (v,) if isinstance(v, str) else v)] = ()
    manifest: Location | None = None
    columns: dict[str, Literal["integer", "number", "text"]] | None = None
    root: Location | None = None
    level: Annotated[Integer, Field(ge=0)] = 0
    mpp: Annotated[Number, Field(gt=0)] | None = None
    gsd: Annotated[Number, Field(gt=0)] | None = None
    page: Annotated[Integer, Field(ge=0)] | None = None
    bands: tuple[Annotated[Integer, Field(ge=1)], ...] = ()
    convert: Literal["as-is", "rgb", "gray"] = "as-is"
    depth: Literal["exact", "widen", "scale", "clip"] = "exact"
    max_seconds: Annotated[Number, Field(gt=0)] = 120
    fingerprint: Literal["stat", "content"] = "stat"
    channels: Annotated[Integer, Field(ge=1)] = 3
    dtype: Dtype = "uint8"
    range: Annotated[tuple[Number, Number], BeforeValidator(low_and_high)] | None = None
    rasters: dict[str, Raster] = {}
    points: Points | None = None
    label: Annotated[
        Annotated[Literal["folder"] | None, Tag("<word>")]
        | Annotated[Regex, Tag("<regex>")]
        | Annotated[Constant, Tag("<constant>")],
        Discriminator(_name_source),
    ] = None
    group: Annotated[
        Annotated[Literal["image", "folder"], Tag("<word>")] | Annotated[Regex, Tag("<regex>")],
        Discriminator(_name_source),
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
    def _columns_are_further_ones(cls, value: dict[str, str] | None) -> dict[str, str] | None:
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


class Bounds(_Section):
    """What a score has to be, both ends included."""

    min: Number | None = None
    max: Number | None = None

    @model_validator(mode="after")
    def _is_a_bound(self) -> Bounds:
        if self.min is None and self.max is None:
            raise ValueError("use min, max or both")
        if self.min is not None and self.max is not None and self.min > self.max:
            raise ValueError(f"min {self.min:g} is above max {self.max:g}")
        return self


class Quality(_Section):
    """Scores of every patch, see ``transforms/quality.py``, and which patches are kept."""

    keep: dict[Literal["tissue", "sharpness", "entropy", "clipped_low", "clipped_high", "nodata"], Bounds] = {}
    duplicates: Annotated[Integer, Field(ge=0, le=63)] | None = None
    tissue_threshold: Annotated[int | Literal["otsu"], BeforeValidator(otsu_or_integer)] = "otsu"
    nodata: Number | None = None


class Crops(_Section):
    """Random crops in place of a grid."""

    per_image: Annotated[Integer, Field(ge=1)] | None = None
    per_megapixel: Annotated[Number, Field(gt=0)] | None = None
    tries: Annotated[Integer, Field(ge=1, le=1000)] = 1

    @model_validator(mode="after")
    def _has_one_number(self) -> Crops:
        if (self.per_image is None) == (self.per_megapixel is None):
            raise ValueError("use one of per_image and per_megapixel")
        return self


class Augment(_Section):
    """Changed copies of the patches of the training split; the ranges are those of ``transforms.augment.Ranges``."""

    copies: Annotated[Integer, Field(ge=1)] = 1
    original: bool = True
    flip: bool = False
    quarter_turns: bool = False
    rotation: Annotated[Number, Field(ge=0, le=180)] = 0
    blur: Annotated[Number, Field(ge=0, le=20)] = 0
    stain: Annotated[Number, Field(ge=0, lt=1)] = 0
    brightness: Annotated[Number, Field(ge=0, le=1)] = 0
    contrast: Annotated[Number, Field(ge=0, le=1)] = 0
    saturation: Annotated[Number, Field(ge=0, le=1)] = 0
    hue: Annotated[Number, Field(ge=0, le=180)] = 0
    noise: Annotated[Number, Field(ge=0, le=1)] = 0

    def ranges(self) -> dict[str, Any]:
        """Keyword arguments of ``transforms.augment.Ranges``."""
        return self.model_dump(exclude={"copies", "original"})


class PatchLabel(_Section):
    """The class of a raster that covers most of a patch, as its label; that of the image where it covers too little."""

    raster: str
    min: Annotated[Number, Field(ge=0, le=1)] = 0


class Patch(_Section):
    """How an image is cut; pairs are for rows and columns."""

    size: Pair = (256, 256)
    stride: Pair | None = None
    dilation: Pair = (1, 1)
    origin: Annotated[tuple[int, int], BeforeValidator(pair_of_offsets)] = (0, 0)
    edge: Annotated[tuple[Edge, Edge], one_or_two_of(*get_args(Edge))] = ("pad", "pad")
    pad_mode: Annotated[tuple[PadMode, PadMode], one_or_two_of(*get_args(PadMode))] = ("reflect", "reflect")
    pad_value: Number = 0
    crops: Crops | None = None
    scales: Annotated[tuple[Annotated[Integer, Field(ge=1, le=64)], ...], AfterValidator(without_one)] = ()
    cover: dict[str, dict[str, Bounds]] = {}
    label: PatchLabel | None = None
    stain: Literal["macenko"] | None = None

    @property
    def span(self) -> tuple[int, int]:
        """Pixels of the image from the first to the last of a patch."""
        rows, cols = ((size - 1) * dilation + 1 for size, dilation in zip(self.size, self.dilation))
        return rows, cols

    @property
    def steps(self) -> tuple[int, int]:
        """The stride, or the span where none is given: patches side by side."""
        return self.stride or self.span


class Output(_Section):
    """Where the dataset goes, and its form."""

    path: Location
    encoding: Literal["png", "jpeg", "raw"] = "png"
    quality: Annotated[Integer, Field(ge=1, le=100)] = 95
    shard_size: ByteSize = 256 * 10**6
    order: Literal["shuffled", "sequential"] = "shuffled"


class Workers(_Section):
    """What the workers that cut have, or have to have; the same patches come out of all of them."""

    device: Literal["auto", "cpu", "gpu"] = "auto"
    processes_per_gpu: Annotated[Integer, Field(ge=1)] = 1
    windows_per_gpu: Annotated[Integer, Field(ge=1)] = 2
    accelerator: str | None = None
    min_ram: ByteSize | None = None


class Distances(_Section):
    """How far the shares of the labels may move, see ``pipeline/dataset/drift.py``."""

    infinity_norm: Annotated[Number, Field(ge=0, le=1)] | None = None
    jensen_shannon_divergence: Annotated[Number, Field(ge=0, le=1)] | None = None


class Drift(_Section):
    """How far the statistics of each split may move from those of the published version."""

    mean: Annotated[Number, Field(ge=0)] | None = None
    std: Annotated[Number, Field(ge=0)] | None = None
    jensen_shannon_divergence: Annotated[Number, Field(ge=0, le=1)] | None = None
    labels: Distances | None = None


class Gates(_Section):
    """What a version has to pass before it is published, see ``pipeline/dataset/gates.py``."""

    verify: bool = False
    rejected: Annotated[Number, Field(ge=0, le=1)] | None = None
    patches: Bounds | None = None
    patches_per_label: Bounds | None = None
    drift: Drift | None = None
    leakage: Literal["exact", "perceptual"] | None = None


class Form(NamedTuple):
    """What the patches of a feature of the records are.

    Attributes:
        quality: of JPEG.
    """

    channels: int
    dtype: Dtype
    encoding: Literal["png", "jpeg", "raw"]
    quality: int


class Config(_Section):
    """A whole configuration; ``configs/quickstart.yaml`` explains every key."""

    input: Input
    output: Output
    patch: Patch = Patch()
    quality: Quality | None = None
    augment: Augment | None = None
    splits: dict[str, Annotated[Number, Field(ge=0, le=1)]] = {"train": 1.0}
    seed: Integer = 0
    max_rejected: Annotated[Number, Field(ge=0, le=1)] = 0.01
    gates: Gates | None = None
    workers: Workers = Workers()
    beam: dict[str, Annotated[Any, BeforeValidator(beam_value)]] = {}

    @field_validator("beam")
    @classmethod
    def _beam_holds_no_secrets(cls, value: dict[str, Any]) -> dict[str, Any]:
        for name in value:
            if re.search("secret|token|password|access_key|connection_string", name):
                raise PydanticCustomError("secret", f"{name} is a secret; {CREDENTIALS}")
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
        channels, dtype, encoding = self.input.channels, self.input.dtype, self.output.encoding
        if encoding == "png" and (dtype == "float32" or channels > 4):
            raise ValueError(f"output.encoding: png cannot hold {channels} channels of {dtype}; use raw")
        if encoding == "jpeg" and (dtype != "uint8" or channels not in (1, 3)):
            raise ValueError(f"output.encoding: jpeg cannot hold {channels} channels of {dtype}; use png or raw")
        if not holds(dtype, self.patch.pad_value):
            raise ValueError(
                f"patch.pad_value: {self.patch.pad_value:g} is no {dtype}; use an integer 0..{LIMITS[dtype]}"
            )
        self._check_range()
        if self.quality and "tissue" in self.quality.keep and channels != 3:
            raise ValueError(f"quality.keep.tissue: needs the colours of 3 channels, not {channels}")
        if self.patch.crops and self.patch.crops.tries > 1:
            if not self.patch.cover and not (self.quality and self.quality.keep):
                ways = "quality.keep or patch.cover, which say what is good"
                raise ValueError(f"patch.crops.tries: nothing is drawn again without {ways}")
        self._check_classes()
        if self.patch.stain and (channels, dtype) != (3, "uint8"):
            raise ValueError(f"patch.stain: is defined for 3 channels of uint8, not {channels} of {dtype}")
        if len(set(self.patch.scales)) < len(self.patch.scales):
            raise ValueError(f"patch.scales: {list(self.patch.scales)} names one twice")
        if self.patch.scales and self.patch.dilation != (1, 1):
            raise ValueError("patch.scales: has no meaning for patches with gaps; use one of scales and dilation")
        if self.augment:
            self._check_augment(self.augment)
        if self.gates and self.gates.leakage == "perceptual" and self.augment and not self.augment.original:
            raise ValueError("gates.leakage: perceptual looks at patches as they are; set augment.original: true")
        if self.input.points and self.patch.crops:
            raise ValueError("input.points, patch.crops: patches lie around points or at random; use one of them")
        for origin, edge, span in zip(self.patch.origin, self.patch.edge, self.patch.span):
            if origin < 0 and edge != "pad":
                raise ValueError(f"patch.origin: {origin} lies outside the image; use edge: pad there, not {edge}")
            if origin <= -span:
                raise ValueError(f"patch.origin: a patch at {origin} that spans {span} pixels does not reach the image")
        return self

    def _check_classes(self) -> None:
        """What ``patch.cover`` and ``patch.label`` speak of has to be there."""
        patch, rasters = self.patch, self.input.rasters
        named = [(f"patch.cover.{name}", name) for name in patch.cover]
        named += [("patch.label.raster", patch.label.raster)] if patch.label else []
        for key, name in named:
            if name not in rasters or not rasters[name].classes:
                known = [name for name, raster in rasters.items() if raster.classes]
                raise ValueError(
                    f"{key}: {name!r} is no raster with classes; "
                    + (f"there are {', '.join(known)}" if known else "name them in input.rasters.NAME.classes")
                )
        for raster, bounds in patch.cover.items():
            for name in bounds:
                if name not in [*rasters[raster].classes, "any"]:
                    classes = ", ".join(rasters[raster].classes)
                    raise ValueError(f"patch.cover.{raster}: {name!r} is none of its classes, {classes}, nor any")
        if patch.label and self.input.points and self.input.points.label:
            raise ValueError("patch.label, input.points.label: a patch has one label; keep one of them")

    def _check_range(self) -> None:
        dtype, given = self.input.dtype, self.input.range
        if given and dtype == "uint8" and given != (0, 255):
            raise ValueError("input.range: of uint8 it is [0, 255]")
        if given and not all(holds(dtype, limit) for limit in given):
            raise ValueError(f"input.range: {list(given)} is no part of 0..{LIMITS[dtype]}, the values of {dtype}")
        if self.quality and dtype == "float32" and not given:
            raise ValueError("quality: float32 has no lowest and highest value; set input.range: [low, high]")

    def _check_augment(self, augment: Augment) -> None:
        channels, dtype, size = self.input.channels, self.input.dtype, self.patch.size
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
        if tones and dtype == "float32" and not self.input.range:
            raise ValueError(
                f"augment.{tones[0]}: float32 has no lowest and highest value; set input.range: [low, high]"
            )

    def records_per_patch(self, split: str) -> int:
        """Records that are made of each patch of a split: augmented copies are for training only."""
        if not self.augment or split != self.training_split:
            return 1
        return self.augment.copies + self.augment.original

    @property
    def forms(self) -> dict[str, Form]:
        """The features of a record that hold patches of a place: ``image``, and then ``raster/NAME``, ``scale/4``."""
        wanted, output = self.input, self.output
        image = Form(wanted.channels, wanted.dtype, output.encoding, output.quality)
        forms = {f"raster/{name}": Form(r.channels, r.dtype, r.encoding, 0) for name, r in wanted.rasters.items()}
        forms |= {f"scale/{scale}": image for scale in self.patch.scales}
        return {"image": image, **dict(sorted(forms.items()))}

    @property
    def beside(self) -> list[str]:
        """All of those but the image."""
        return [name for name in self.forms if name != "image"]

    @property
    def covers(self) -> list[str]:
        """``raster/class`` of all rasters whose classes have names."""
        return [f"{name}/{kind}" for name, raster in self.input.rasters.items() for kind in raster.classes]

    @property
    def labels_patches(self) -> bool:
        """Whether patches of one image may have labels of their own."""
        return bool(self.input.points or self.patch.label)

    @property
    def has_copies(self) -> bool:
        """Whether a place in an image may have several records, which then say how they differ."""
        return bool(self.augment or self.patch.crops)

    @property
    def value_range(self) -> tuple[float, float]:
        """Lowest and highest value of a pixel: as given, or those of the dtype; of float32 it has to be given."""
        return self.input.range or {"uint8": (0, 255), "uint16": (0, 65535)}.get(self.input.dtype, (0, 1))

    @model_validator(mode="after")
    def _converts_to_its_channels(self) -> Config:
        made = {"rgb": 3, "gray": 1}.get(self.input.convert) or len(self.input.bands)
        if made and made != self.input.channels:
            key = "bands" if self.input.convert == "as-is" else "convert"
            raise ValueError(
                f"input.channels: {self.input.channels}, but input.{key} makes {made}; set input.channels: {made}"
            )
        return self

    @property
    def training_split(self) -> str:
        """The split whose pixels set the normalisation: ``train``, or the first one where none is called so."""
        return "train" if "train" in self.splits else next(iter(self.splits))

    def content_digest(self) -> str:
        """64 hexadecimal digits that change with every key that changes the dataset.

        Where the images lie, where the output goes, how much may be rejected and what runs the build do not change it;
        which images there are enters a build through their identities.
        """
        return _digest(self._content())

    def pixel_digest(self) -> str:
        """64 hexadecimal digits that change with every key that may change the patches of an image.

        What it leaves out changes their names, their split, their order or their shard; see ``pipeline.config.effects``.
        """
        return _digest(without(self._content(), "names"))

    def shard_digest(self) -> str:
        """64 hexadecimal digits: what decides the bytes of a shard, beside its plan."""
        augmented = self.training_split if self.augment else None
        return _digest([self.pixel_digest(), self.output.order, self.input.columns, augmented])

    def _content(self) -> dict[str, Any]:
        """Every key that changes the dataset, in one way of writing it; see ``pipeline.config.effects``."""
        # The fingerprints of rasters and points are joined to those of the images, wherever their files are. A key that
        # has its default is left out, so that a new key does not make every dataset another one.
        values = without(self.model_dump(mode="json", exclude_defaults=True), "report")
        values["patch"] = values.get("patch", {}) | {"stride": self.patch.steps}
        values["splits"] = list(self.splits.items())  # their order decides, too
        return values


def _digest(values: Any) -> str:
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()
