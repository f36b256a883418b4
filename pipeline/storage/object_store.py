"""Object stores: the few operations that a build needs from them, and how it retries.

The modules ``s3``, ``gcs`` and ``beam`` each implement :class:`Store`; :func:`store_of` picks one by the scheme of a
URI. The cloud's own library finds the credentials (in the environment, its files, the machine), never in a URI or a
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

# A request without an answer for so long is given up and retried.
TIMEOUT_S = 60.0
# 0.25, 0.5, 1 ... seconds between the tries, each shortened by up to half at random, so that many workers do not retry
# at once: about half a minute in all.
_ATTEMPTS = 8
_FIRST_PAUSE_S = 0.25

# Scheme -> its module in this package, the library that it needs, the extra that installs it; others go to Beam.
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
    """The operations of a store. Each method makes one request or a few, and does not retry.

    Raises:
        TransientError: if another try may succeed: server errors, timeouts, broken connections.
        OSError: if it will not; FileNotFoundError for an object that is not there.
    """

    def stat(self, uri: str) -> Object:
        """Returns the object at ``uri``."""
        raise NotImplementedError

    def fetch(self, found: Object, start: int, stop: int) -> bytes:
        """Returns the bytes ``start .. stop`` of an object as it was found."""
        raise NotImplementedError

    def page(self, prefix: str, token: str | None) -> tuple[list[Object], str | None]:
        """Returns some objects whose URIs begin with ``prefix``, in the order of their names, and the next token."""
        raise NotImplementedError

    def put(self, uri: str, file: BinaryIO, size: int) -> None:
        """Stores a file, which can be read again from its beginning, as an object: whole or not at all."""
        raise NotImplementedError

    def delete(self, uri: str) -> None:
        """Removes an object."""
        raise NotImplementedError

    def put_if(self, uri: str, data: bytes, version: str | None) -> str | None:
        """Writes an object if the present one has this version or, for None, if there is none.

        Returns its new version, or None if nothing was written. Stores without such conditions write in any case.
        """
        raise NotImplementedError

    def copy(self, source: str, target: str) -> None:
        """Copies an object within this store; not implemented where its bytes would pass through this process."""
        raise NotImplementedError

    def folders(self, prefix: str, token: str | None) -> tuple[list[str], str | None]:
        """Returns some of the folder names that follow a prefix, up to the next slash, and the next token."""
        raise NotImplementedError


def store_of(uri: str) -> Store:
    """Returns the store of a URI.

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
    """Returns the result of a request, which is repeated after longer and longer pauses while its error is transient.

    Raises:
        OSError: if the last try failed, too.
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
    """Yields every object whose URI begins with the prefix, in the order of the names."""
    return _all_pages(store_of(prefix).page, prefix)


def folders_below(prefix: str) -> Iterator[str]:
    """Yields the names of the folders right below a prefix that ends with a slash."""
    return _all_pages(store_of(prefix).folders, prefix)


def _all_pages(page: Callable[[str, str | None], tuple[list[_Result], str | None]], prefix: str) -> Iterator[_Result]:
    token = None
    while True:
        found, token = retry(functools.partial(page, prefix, token))
        yield from found
        if token is None:
            return


def is_transient(status: int | None) -> bool:
    """Returns whether another try may give another HTTP status; None stands for no answer at all."""
    return status is None or status >= 500 or status in (408, 425, 429)


def failure(status: int, uri: str, message: str) -> OSError:
    """Returns the error for an HTTP status that is not transient."""
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
