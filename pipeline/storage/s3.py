"""Amazon S3 and servers that speak its protocol (``AWS_ENDPOINT_URL``), through boto3."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Iterator
from typing import Any, BinaryIO

import boto3
import botocore
import botocore.config
import botocore.exceptions
import urllib3.exceptions

from pipeline.errors import PreconditionError, TransientError
from pipeline.storage import object_store
from pipeline.storage.object_store import Object, Store, failure, is_transient, retry

# Above this size an object is sent in parts, which are retried one by one.
_PART_BYTES = 32 << 20


@functools.cache
def store() -> Store:
    """Returns the store of this process."""
    return _S3()


class _S3(Store):
    def __init__(self) -> None:
        session = boto3.session.Session()
        public = {} if session.get_credentials() else {"signature_version": botocore.UNSIGNED}
        config = botocore.config.Config(
            connect_timeout=object_store.TIMEOUT_S,
            read_timeout=object_store.TIMEOUT_S,
            retries={"total_max_attempts": 1},  # see object_store.retry
            max_pool_connections=64,
            # boto3's own checksums make requests that servers other than Amazon's do not understand.
            request_checksum_calculation="when_required",
            response_checksum_validation="when_required",
            **public,
        )
        self._client = session.client("s3", config=config)

    def stat(self, uri: str) -> Object:
        with _errors(uri):
            head = self._client.head_object(**_place(uri))
            return _object(uri, head["ContentLength"], head["ETag"])

    def fetch(self, found: Object, start: int, stop: int) -> bytes:
        with _errors(found.uri):
            place = _place(found.uri) | {"Range": f"bytes={start}-{stop - 1}", "IfMatch": found.version}
            result: bytes = self._client.get_object(**place)["Body"].read()
            return result

    def page(self, prefix: str, token: str | None) -> tuple[list[Object], str | None]:
        with _errors(prefix):
            place = _place(prefix)
            further = {"ContinuationToken": token} if token else {}
            answer = self._client.list_objects_v2(Bucket=place["Bucket"], Prefix=place["Key"], **further)
            base = f"s3://{place['Bucket']}/"
            found = [_object(base + one["Key"], one["Size"], one["ETag"]) for one in answer.get("Contents", ())]
            return found, answer.get("NextContinuationToken")

    def put(self, uri: str, file: BinaryIO, size: int) -> None:
        file.seek(0)
        if size > _PART_BYTES:
            self._put_parts(uri, file, size)
            return
        with _errors(uri):
            self._client.put_object(**_place(uri), Body=file.read())

    def _put_parts(self, uri: str, file: BinaryIO, size: int) -> None:
        upload = retry(lambda: self._call(uri, "create_multipart_upload"))["UploadId"]
        try:
            parts: list[dict[str, Any]] = []
            while data := file.read(_PART_BYTES):
                part = {"UploadId": upload, "PartNumber": len(parts) + 1}
                sent = retry(lambda part=part, data=data: self._call(uri, "upload_part", **part, Body=data))  # type: ignore[misc]
                parts.append({"ETag": sent["ETag"], "PartNumber": part["PartNumber"]})
            whole = {"UploadId": upload, "MultipartUpload": {"Parts": parts}}
            retry(lambda: self._call(uri, "complete_multipart_upload", **whole))
        except FileNotFoundError:  # an answer got lost: the upload was complete, and is no longer known
            if retry(lambda: self.stat(uri)).size != size:
                raise
        except BaseException:
            with contextlib.suppress(OSError, TransientError):
                self._call(uri, "abort_multipart_upload", UploadId=upload)
            raise

    def _call(self, uri: str, name: str, **arguments: Any) -> dict[str, Any]:
        with _errors(uri):
            found: dict[str, Any] = getattr(self._client, name)(**_place(uri), **arguments)
            return found

    def delete(self, uri: str) -> None:
        self._call(uri, "delete_object")

    def put_if(self, uri: str, data: bytes, version: str | None) -> str | None:
        condition = {"IfMatch": version} if version else {"IfNoneMatch": "*"}
        try:
            with _errors(uri):
                found: str | None = self._client.put_object(**_place(uri), Body=data, **condition)["ETag"]
                return found
        except FileNotFoundError:  # the object to be replaced is gone
            return None
        except PreconditionError:
            return None

    def copy(self, source: str, target: str) -> None:
        with _errors(source):
            self._client.copy(_place(source), **_place(target))  # in parts where needed

    def folders(self, prefix: str, token: str | None) -> tuple[list[str], str | None]:
        with _errors(prefix):
            place = _place(prefix)
            further = {"ContinuationToken": token} if token else {}
            answer = self._client.list_objects_v2(Bucket=place["Bucket"], Prefix=place["Key"], Delimiter="/", **further)
            found = [one["Prefix"].split("/")[-2] for one in answer.get("CommonPrefixes", ())]
            return found, answer.get("NextContinuationToken")


def _place(uri: str) -> dict[str, str]:
    bucket, _, key = uri.removeprefix("s3://").partition("/")
    return {"Bucket": bucket, "Key": key}


def _object(uri: str, size: int, etag: str) -> Object:
    return Object(uri, size, f"{size}-{etag.strip(chr(34))}", etag)


@contextlib.contextmanager
def _errors(uri: str) -> Iterator[None]:
    try:
        yield
    except botocore.exceptions.ClientError as error:
        status = error.response.get("ResponseMetadata", {}).get("HTTPStatusCode")
        if is_transient(status) or status == 409:  # 409: two conditional requests at a time
            raise TransientError(f"{uri}: the store answers {status}") from error
        raise failure(status, uri, str(error)) from error
    except botocore.exceptions.NoCredentialsError as error:
        raise PermissionError(f"{uri}: no credentials for AWS were found") from error
    except (botocore.exceptions.HTTPClientError, botocore.exceptions.IncompleteReadError) as error:
        raise TransientError(f"{uri}: {type(error).__name__}") from error
    except (urllib3.exceptions.HTTPError, ConnectionError, TimeoutError) as error:
        raise TransientError(f"{uri}: {type(error).__name__}") from error
    except botocore.exceptions.BotoCoreError as error:
        raise OSError(f"{uri}: {error}") from error
