"""Files on local disks, in S3, in Google Cloud Storage and wherever Beam reads, and the formats of their content.

Only this package knows schemes, retries and versions of objects. It imports ``pipeline.errors``, but neither the
configuration nor TensorFlow, and Beam only for a scheme that needs it.
"""

from pipeline.storage.files import (
    Found,
    Versioned,
    absolute,
    atomic_write,
    copy,
    delete,
    digest_of,
    files_below,
    fingerprints,
    folders_in,
    glob,
    is_local,
    join,
    open_read,
    read_bytes,
    read_if_there,
    read_many,
    read_version,
    size,
    static_root,
    write_bytes,
    write_if,
)
from pipeline.storage.tables import read_rows, read_table, write_table

__all__ = [
    "Found", "Versioned", "absolute", "atomic_write", "copy", "delete", "digest_of", "files_below", "fingerprints",
    "folders_in", "glob", "is_local", "join", "open_read", "read_bytes", "read_if_there", "read_many", "read_rows",
    "read_table", "read_version", "size", "static_root", "write_bytes", "write_if", "write_table",
]  # fmt: skip
