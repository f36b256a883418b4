"""Object stores: the few things that a build asks of them, and how it insists.

Each file of this package is one kind of store behind one protocol; :func:`store_of` picks it by the scheme of a URI.
Credentials are found by the cloud's own library (environment, its files, the machine), never in a URI or a
configuration.
"""

from __future__ import annotations

import functools
import importlib
import random
import time
from collections.abc import Callable, Iterator
from typing import BinaryIO, NamedTuple, TypeVar

from pipeline.errors import PreconditionError, TransientError, UsageError

_Result = TypeVar("_Result")

# A request that got no answer for so long is given up and made again.
TIMEOUT_S = 60.0
# 0.25, 0.5, 1 ... seconds between the tries, each time half of it by chance, so that many workers do not come at once:
# about half a minute together.
_ATTEMPTS = 8
_FIRST_PAUSE_S = 0.25

# Scheme -> its module here, the library that it needs, the extra that brings it; Beam knows all others.
_STORES = {"s3": ("s3", "boto3", "aws"), "gs": ("gcs", "google.cloud.storage", "gcp")}
_OTHER = ("beam", "apache_beam", "")


class Object(NamedTuple):
    """A file in a store.

    Attributes:
        uri: where it is.
        size: bytes.
        fingerprint: changes when its content is replaced.
        version: pins a read to this content.
    """

    uri: str
    size: int
    fingerprint: str
    version: str


class Store:
    """What a store can do. Each method makes one request or a few, and does not try again.

    Raises:
        TransientError: where another try may end well: errors of the server, timeouts, connections that broke.
        OSError: where it will not; FileNotFoundError for what is not there.
    """

    def stat(self, uri: str) -> Object:
        """What there is at ``uri``."""
        raise NotImplementedError

    def fetch(self, found: Object, start: int, stop: int) -> bytes:
        """The bytes ``start .. stop`` of an object as it was found."""
        raise NotImplementedError

    def page(self, prefix: str, token: str | None) -> tuple[list[Object], str | None]:
        """Some of the objects whose URIs begin so, in the order of their names, and the token for the next ones."""
        raise NotImplementedError

    def put(self, uri: str, file: BinaryIO, size: int) -> None:
        """Makes an object of a file, which can be read again from its beginning: whole or not at all."""
        raise NotImplementedError

    def delete(self, uri: str) -> None:
        """Removes an object."""
        raise NotImplementedError

    def put_if(self, uri: str, data: bytes, version: str | None) -> str | None:
        """Makes an object in place of the one of this version, or where there is none; its version, or None if not.

        Stores without such conditions make it in any case.
        """
        raise NotImplementedError

    def copy(self, source: str, target: str) -> None:
        """Makes an object of another one of this store; not implemented where its bytes would come here."""
        raise NotImplementedError

    def folders(self, prefix: str, token: str | None) -> tuple[list[str], str | None]:
        """Some of the names that end with a slash behind a prefix, and the token for the next ones."""
        raise NotImplementedError


def store_of(uri: str) -> Store:
    """The store of a URI.

    Raises:
        UsageError: if its library is not installed.
    """
    scheme = uri.partition("://")[0]
    module, library, extra = _STORES.get(scheme, _OTHER)
    try:
        importlib.import_module(library)
    except ImportError as error:
        raise UsageError(f"{scheme}:// needs {library}: pip install 'patchbeam[{extra}]'") from error
    found: Store = importlib.import_module(f"pipeline.storage.{module}").store()
    return found


def retry(request: Callable[[], _Result]) -> _Result:
    """The result of a request, which is made again, after longer and longer pauses, where its failure may pass.

    Raises:
        OSError: if it did not pass.
    """
    for attempt in range(_ATTEMPTS):
        try:
            return request()
        except TransientError as error:
            if attempt == _ATTEMPTS - 1:
                raise OSError(f"{error} (after {_ATTEMPTS} tries)") from error
            time.sleep(_FIRST_PAUSE_S * 2**attempt * random.uniform(0.5, 1))  # noqa: S311
    raise AssertionError


def objects_below(prefix: str) -> Iterator[Object]:
    """Everything whose URI begins so, in the order of the names."""
    store, token = store_of(prefix), None
    while True:
        found, token = retry(functools.partial(store.page, prefix, token))
        yield from found
        if token is None:
            return


def folders_below(prefix: str) -> Iterator[str]:
    """Names of the folders right below a prefix that ends with a slash."""
    store, token = store_of(prefix), None
    while True:
        found, token = retry(functools.partial(store.folders, prefix, token))
        yield from found
        if token is None:
            return


def is_transient(status: int | None) -> bool:
    """Whether an HTTP status may be another one the next time; None for no answer at all."""
    return status is None or status >= 500 or status in (408, 425, 429)


def failure(status: int, uri: str, message: str) -> OSError:
    """The error for an HTTP status that will not pass."""
    kinds: dict[int, type[OSError]] = {
        404: FileNotFoundError,
        401: PermissionError,
        403: PermissionError,
        412: PreconditionError,
    }
    kind = kinds.get(status, OSError)
    text = {
        404: "is not there",
        401: "access is denied",
        403: "access is denied",
        412: "was replaced while it was read",
    }
    return kind(f"{uri}: {text.get(status, message)}")
