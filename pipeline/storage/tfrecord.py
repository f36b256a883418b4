"""The framing of TFRecord files: a length, its checksum, the payload, its checksum.

The format is that of tensorflow/core/lib/io/record_writer.h. It is written here because TensorFlow writes to few
stores and tells no offsets.
"""

from __future__ import annotations

import struct
from typing import BinaryIO

import google_crc32c

# Bytes of a record before and after its payload.
HEADER_BYTES, FOOTER_BYTES = 12, 4
_MAX_PAYLOAD = 1 << 31


def frame(payload: bytes) -> bytes:
    """Returns the whole record of a payload.

    >>> len(frame(b"abc"))
    19
    """
    length = struct.pack("<Q", len(payload))
    return b"".join((length, masked_crc(length), payload, masked_crc(payload)))


def read_record(file: BinaryIO) -> tuple[bytes, int] | None:
    """Reads the payload of the next record and the bytes that the record takes; None at the end of the file.

    Raises:
        ValueError: if a checksum is wrong or the record is cut short.
    """
    header = file.read(HEADER_BYTES)
    if not header:
        return None
    if len(header) < HEADER_BYTES or masked_crc(header[:8]) != header[8:]:
        raise ValueError("the checksum of its length is wrong")
    (length,) = struct.unpack("<Q", header[:8])
    if length > _MAX_PAYLOAD:
        raise ValueError(f"claims {length} bytes")
    rest = file.read(length + FOOTER_BYTES)
    if len(rest) < length + FOOTER_BYTES or masked_crc(rest[:-FOOTER_BYTES]) != rest[-FOOTER_BYTES:]:
        raise ValueError("the checksum of its content is wrong")
    return rest[:-FOOTER_BYTES], HEADER_BYTES + len(rest)


def masked_crc(data: bytes) -> bytes:
    """Returns the checksum of the format: CRC-32C, rotated and shifted (tensorflow/core/lib/hash/crc32c.h)."""
    crc = google_crc32c.value(data)
    return struct.pack("<I", (((crc >> 15) | (crc << 17)) + 0xA282EAD8) & 0xFFFFFFFF)
