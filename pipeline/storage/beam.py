"""Every other file system that Beam knows (``hdfs://``, ``azfs://`` ...), through Beam."""

from __future__ import annotations

import contextlib
import functools
import io
import shutil
import uuid
from collections.abc import Iterator
from typing import BinaryIO

from apache_beam.io.filesystem import BeamIOError, CompressionTypes
from apache_beam.io.filesystems import FileSystems

from pipeline.errors import TransientError, UsageError
from pipeline.storage.object_store import Object, Store


@functools.cache
def store() -> Store:
    """Returns the store of this process."""
    return _Beam()


class _Beam(Store):
    def stat(self, uri: str) -> Object:
        found = self._match(uri)
        if not found:
            raise FileNotFoundError(f"{uri}: is not there")
        return found[0]

    def fetch(self, found: Object, start: int, stop: int) -> bytes:
        with _errors(found.uri), FileSystems.open(found.uri, compression_type=CompressionTypes.UNCOMPRESSED) as file:
            file.seek(start)
            return file.read(stop - start)

    def page(self, prefix: str, token: str | None) -> tuple[list[Object], str | None]:
        return sorted(self._match(f"{prefix.rstrip('/')}/**"), key=lambda found: found.uri), None

    def _match(self, pattern: str) -> list[Object]:
        with _errors(pattern):
            matched = FileSystems.match([pattern])[0].metadata_list
        seen = [(m.path, m.size_in_bytes, f"{m.size_in_bytes}-{m.last_updated_in_seconds}") for m in matched]
        return [Object(path, size, fingerprint, fingerprint) for path, size, fingerprint in seen]

    def put(self, uri: str, file: BinaryIO, size: int) -> None:
        """Writes under a temporary name first: such a file would be seen while it is written."""
        folder, _, name = uri.rpartition("/")
        temporary = f"{folder}/.tmp-{name}-{uuid.uuid4().hex}"
        file.seek(0)
        with _errors(uri):
            with FileSystems.create(temporary, compression_type=CompressionTypes.UNCOMPRESSED) as target:
                shutil.copyfileobj(file, target, 1 << 20)
            if FileSystems.exists(uri):
                FileSystems.delete([uri])
            FileSystems.rename([temporary], [uri])

    def put_if(self, uri: str, data: bytes, version: str | None) -> str | None:
        self.put(uri, io.BytesIO(data), len(data))
        return self.stat(uri).version

    def folders(self, prefix: str, token: str | None) -> tuple[list[str], str | None]:
        found = self.page(prefix, token)[0]  # Beam does not list folders everywhere
        return sorted(
            {one.uri[len(prefix) :].partition("/")[0] for one in found if "/" in one.uri[len(prefix) :]}
        ), None

    def delete(self, uri: str) -> None:
        with _errors(uri):
            FileSystems.delete([uri])


@contextlib.contextmanager
def _errors(uri: str) -> Iterator[None]:
    try:
        yield
    except FileNotFoundError:
        raise
    except ValueError as error:  # no file system for this scheme
        raise UsageError(f"{uri.partition('://')[0]}:// is not known: {error}") from error
    except (BeamIOError, OSError) as error:
        raise TransientError(f"{uri}: {error}") from error
