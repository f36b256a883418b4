"""The bytes of a shard: TFRecord framing, and the index that says where each patch lies in it."""

from __future__ import annotations

import functools
import hashlib
import io
from collections.abc import Sequence
from typing import Any, BinaryIO, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.config import Config
from pipeline.elements import ImageInfo, digest, meta_of
from pipeline.errors import DamagedRecordError
from pipeline.storage.tfrecord import FOOTER_BYTES, HEADER_BYTES, frame, masked_crc
from transforms.affine import Affine
from transforms.example import META, PatchRecord, patch_key

INDEX_SCHEMA = pa.schema(
    [
        ("key", pa.string()),
        ("image_id", pa.string()),
        ("level", pa.int32()),
        ("row", pa.int64()),
        ("col", pa.int64()),
        ("label", pa.string()),
        ("group", pa.string()),
        ("split", pa.string()),
        ("shard", pa.string()),  # file name
        ("record", pa.int64()),  # number of the record in the shard
        ("offset", pa.int64()),  # where the serialized Example begins in the file, and its length
        ("length", pa.int64()),
        ("image_offset", pa.int64()),  # where the encoded patch begins in the file, and its length
        ("image_length", pa.int64()),
        ("to_level0", pa.list_(pa.float64())),  # from pixels of the patch to full resolution, see transforms.affine
        ("to_world", pa.list_(pa.float64())),  # and to the coordinate system of the image, if it has one
    ]
)
SCORES_SCHEMA = pa.schema(
    [(name, pa.float32()) for name in ("tissue", "sharpness", "entropy", "clipped_low", "clipped_high", "nodata")]
    + [("fingerprint", pa.uint64())]
)  # the fields of transforms.quality.Scores, in datasets whose patches are scored
# In datasets with several records of one place: the number of the record, and what was done to it, as JSON.
COPY_SCHEMA = pa.schema([("copy", pa.int32()), ("augmentation", pa.string())])
_KINDS = {"integer": pa.int64(), "number": pa.float64(), "text": pa.string()}


class Row(NamedTuple):
    """A patch of a shard; rows sort into the order of the patches in the shard.

    Attributes:
        order: a digest for shuffled shards, 0 for sequential ones.
        image: the image that the patch was cut from.
        row, col: its first pixel.
        copy: which of the records of this patch, see ``transforms.example.PatchRecord``.
        label: label of the patch.
        length: bytes of its serialized Example.
        image_offset, image_length: where the encoded patch lies in the Example.
        spooled: where the Example lies in its source.
        attributes: values of the columns of scores, covers and copies.
        companions: offset and length in the Example of each of ``config.companions``.
        source: 0 for the spool, else the number of an earlier shard, counted from 1.
    """

    order: int
    image: ImageInfo
    row: int
    col: int
    copy: int
    label: str
    length: int
    image_offset: int
    image_length: int
    spooled: int = 0
    attributes: tuple[Any, ...] = ()
    companions: tuple[tuple[int, int], ...] = ()
    source: int = 0

    @property
    def identity(self) -> tuple[str, int, int, int]:
        """Image id, row, column and copy, which together are unique in the dataset."""
        return self.image.image_id, self.row, self.col, self.copy


def order_of(config: Config, image_id: str, row: int, col: int, copy: int) -> int:
    """Returns the number by which the records of a shard are sorted first."""
    if config.output.order != "shuffled":
        return 0
    identity = (image_id, config.input.level, row, col)
    return digest(config.seed, "order", *identity, *((copy,) if copy else ()))


def places_of(record: PatchRecord, payload: bytes) -> tuple[tuple[int, int], tuple[tuple[int, int], ...]]:
    """Returns the offset and length of the encoded patch in the serialized Example, and those of its companions."""
    companions = tuple((payload.rindex(encoded), len(encoded)) for _, encoded in record.companions)
    return (payload.index(record.image), len(record.image)), companions


def attribute_schema(config: Config) -> pa.Schema:
    """Returns the columns of ``Row.attributes``."""
    covers = [(f"cover/{name}", pa.float32()) for name in config.covers]
    scores, copies = SCORES_SCHEMA if config.quality else (), COPY_SCHEMA if config.has_copies else ()
    return pa.schema([*scores, *covers, *copies])


def read_payload(file: BinaryIO, row: Row) -> bytes:
    """Reads the Example of a row from an earlier shard.

    Raises:
        DamagedRecordError: if its checksum is wrong.
    """
    file.seek(row.spooled)
    data = file.read(row.length + FOOTER_BYTES)
    payload, crc = data[: row.length], data[row.length :]
    if len(payload) != row.length or masked_crc(payload) != crc:
        raise DamagedRecordError(
            f"the record of {row.identity} at byte {row.spooled}: the checksum of its content is wrong"
        )
    return payload


def write_records(
    file: BinaryIO, spool: BinaryIO, rows: Sequence[Row], earlier: Sequence[BinaryIO] = ()
) -> tuple[int, str]:
    """Copies the Examples of ``rows``, in their order, as TFRecords; returns their size and sha256.

    Args:
        file: the file to write to.
        spool: holds the new Examples.
        rows: the patches of the shard.
        earlier: shards that hold the other Examples.

    Raises:
        DamagedRecordError: if an Example of an earlier shard is not what was written.
    """
    size, checksum = 0, hashlib.sha256()
    for row in rows:
        if row.source:
            payload = read_payload(earlier[row.source - 1], row)
        else:
            spool.seek(row.spooled)
            payload = spool.read(row.length)
        record = frame(payload)
        file.write(record)
        checksum.update(record)
        size += len(record)
    return size, checksum.hexdigest()


def index_schema(config: Config) -> pa.Schema:
    """Returns ``INDEX_SCHEMA`` with the columns that only some datasets have.

    Metadata columns of an input manifest are called ``meta/<name>``, the places of companion patches
    ``raster/<name>_offset`` and ``_length``, or ``scale/...``, and the shares of classes ``cover/<raster>/<class>``.
    """
    metadata = [(META + name, _KINDS[kind]) for name, kind in sorted((config.input.columns or {}).items())]
    places = [(f"{name}_{what}", pa.int64()) for name in config.companions for what in ("offset", "length")]
    return pa.schema([*INDEX_SCHEMA, *metadata, *places, *attribute_schema(config)])


def make_index(split: str, shard: str, rows: Sequence[Row], config: Config) -> bytes:
    """Returns the index of one shard as Parquet.

    Args:
        split: split of the shard.
        shard: its file name.
        rows: its patches, in the order of the file.
        config: the build.
    """
    schema, level = index_schema(config), config.input.level
    metadata = functools.cache(lambda image: tuple(meta_of(image).values()))
    maps = functools.cache(_maps)
    entries, offset = [], HEADER_BYTES
    for number, row in enumerate(rows):
        image = row.image
        key = patch_key(image.image_id, level, row.row, row.col, row.copy)
        place = (number, offset, row.length, offset + row.image_offset, row.image_length)
        entries.append(
            (
                key,
                image.image_id,
                level,
                row.row,
                row.col,
                row.label,
                image.group,
                split,
                shard,
                *place,
                *(base and _of_patch(base, row, config.patch.dilation) for base in maps(image)),
                *metadata(image),
                *(number for start, length in row.companions for number in (offset + start, length)),
                *row.attributes,
            )
        )
        offset += row.length + FOOTER_BYTES + HEADER_BYTES
    values = zip(*entries) if entries else [[]] * len(schema)
    arrays = [pa.array(column, kind) for column, kind in zip(values, schema.types)]
    out = io.BytesIO()
    pq.write_table(pa.table(arrays, schema=schema), out)
    return out.getvalue()


def _maps(image: ImageInfo) -> tuple[Affine, Affine | None]:
    """Returns the maps from pixels of the image, as it is cut, to full resolution and to the world."""
    down, across = image.step
    world = image.fact("transform")
    return Affine(across, 0, 0, 0, down, 0), Affine(*world) if world else None


def _of_patch(base: Affine, row: Row, dilation: tuple[int, int]) -> list[float]:
    """Returns the map for pixels of the patch, as it was cut."""
    return list(base.from_pixel(row.row, row.col).of_pixels(*dilation))
