"""Google Cloud Storage, through google-cloud-storage; ``STORAGE_EMULATOR_HOST`` names a server for tests."""

from __future__ import annotations

import contextlib
import functools
import os
from collections.abc import Iterator
from typing import Any, BinaryIO

import google.api_core.exceptions
import google.auth.exceptions
import google.cloud.storage
import google.resumable_media
import requests
import requests.adapters
import urllib3.exceptions

from pipeline.errors import PreconditionError, TransientError
from pipeline.storage import object_store
from pipeline.storage.object_store import Object, Store, failure, is_transient


@functools.cache
def store() -> Store:
    """Returns the store of this process."""
    return _GoogleCloud()


class _GoogleCloud(Store):
    def __init__(self) -> None:
        self._client = _client()
        adapter = requests.adapters.HTTPAdapter(pool_maxsize=64)
        for scheme in ("http://", "https://"):
            self._client._http.mount(scheme, adapter)
        # See object_store.retry.
        self._once: dict[str, Any] = {"retry": None, "timeout": object_store.TIMEOUT_S}

    def stat(self, uri: str) -> Object:
        with _errors(uri):
            blob = self._blob(uri)
            blob.reload(**self._once)
            return _object(blob)

    def fetch(self, found: Object, start: int, stop: int) -> bytes:
        with _errors(found.uri):
            blob = self._blob(found.uri, generation=int(found.version))
            result: bytes = blob.download_as_bytes(
                start=start, end=stop - 1, raw_download=True, checksum=None, **self._once
            )
            return result

    def page(self, prefix: str, token: str | None) -> tuple[list[Object], str | None]:
        with _errors(prefix):
            bucket, _, name = prefix.removeprefix("gs://").partition("/")
            blobs = self._client.list_blobs(bucket, prefix=name, page_token=token, **self._once)
            return [_object(blob) for blob in next(blobs.pages, ())], blobs.next_page_token

    def put(self, uri: str, file: BinaryIO, size: int) -> None:
        with _errors(uri):
            self._blob(uri).upload_from_file(file, rewind=True, size=size, **self._once)

    def delete(self, uri: str) -> None:
        with _errors(uri), contextlib.suppress(google.api_core.exceptions.NotFound):
            self._blob(uri).delete(**self._once)

    def put_if(self, uri: str, data: bytes, version: str | None) -> str | None:
        blob = self._blob(uri)
        try:
            with _errors(uri):
                blob.upload_from_string(data, if_generation_match=int(version or 0), **self._once)
        except PreconditionError:
            return None
        return str(blob.generation)

    def copy(self, source: str, target: str) -> None:
        with _errors(source):
            token = None
            while True:
                token, _, _ = self._blob(target).rewrite(self._blob(source), token=token, **self._once)
                if token is None:
                    return

    def folders(self, prefix: str, token: str | None) -> tuple[list[str], str | None]:
        with _errors(prefix):
            bucket, _, name = prefix.removeprefix("gs://").partition("/")
            blobs = self._client.list_blobs(bucket, prefix=name, delimiter="/", page_token=token, **self._once)
            page = next(blobs.pages, None)
            return [found.split("/")[-2] for found in (page.prefixes if page else ())], blobs.next_page_token

    def _blob(self, uri: str, generation: int | None = None) -> Any:
        bucket, _, name = uri.removeprefix("gs://").partition("/")
        return self._client.bucket(bucket).blob(name, generation=generation)


def _client() -> google.cloud.storage.Client:
    if os.environ.get("STORAGE_EMULATOR_HOST"):
        return google.cloud.storage.Client.create_anonymous_client()
    try:
        return google.cloud.storage.Client()
    except (google.auth.exceptions.DefaultCredentialsError, OSError):  # no credentials or no project: public objects
        return google.cloud.storage.Client.create_anonymous_client()


def _object(blob: Any) -> Object:
    fingerprint = f"{blob.size}-{blob.md5_hash or blob.crc32c or blob.generation}"
    return Object(f"gs://{blob.bucket.name}/{blob.name}", blob.size, fingerprint, str(blob.generation))


@contextlib.contextmanager
def _errors(uri: str) -> Iterator[None]:
    try:
        yield
    except google.api_core.exceptions.GoogleAPICallError as error:
        if is_transient(error.code):
            raise TransientError(f"{uri}: the store answers {error.code}") from error
        raise failure(error.code or 0, uri, error.message) from error
    except google.resumable_media.InvalidResponse as error:
        if is_transient(error.response.status_code):
            raise TransientError(f"{uri}: the store answers {error.response.status_code}") from error
        raise failure(error.response.status_code, uri, "refused") from error
    except (
        requests.exceptions.RequestException,
        urllib3.exceptions.HTTPError,
        google.resumable_media.DataCorruption,
        ConnectionError,
    ) as error:
        raise TransientError(f"{uri}: {type(error).__name__}") from error
    except google.auth.exceptions.TransportError as error:
        raise TransientError(f"{uri}: {type(error).__name__}") from error
    except google.auth.exceptions.GoogleAuthError as error:
        raise PermissionError(f"{uri}: no valid credentials for Google Cloud: {error}") from error
