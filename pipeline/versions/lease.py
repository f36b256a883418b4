"""The right to write to an output: one build has it at a time, wherever it runs.

``OUT/LEASE`` says who has it and until when. It is written on the condition that nobody wrote it in between, and
renewed while its owner lives. Whoever ends without giving it back loses it when it expires or, where another process
of the same machine can see that the owner is dead, at once. ``OUT/LATEST`` is moved on the same condition, so that a
build that lost its lease, or slept through it, cannot publish.
"""

from __future__ import annotations

import contextlib
import datetime
import json
import os
import platform
import sys
import threading
import time
import uuid
from collections.abc import Iterator
from typing import NamedTuple

from pipeline import storage
from pipeline.errors import BusyError, ConfigError, LeaseLostError

LASTS_S = 300.0
_RENEWALS = 5  # in the time that a lease lasts
_LOOKS_S = 5.0  # between two looks at the lease of another build
_SETTLES_S = 2.0  # after which the last of several writers has won, in a store that ignores conditions


class Owner(NamedTuple):
    """The owner of a lease: the content of ``OUT/LEASE``, as JSON.

    Attributes:
        id: unique among all leases.
        host, pid: shown to people.
        process: shows whether the owner lives: the boot and the namespace of its process, with the time that it began;
            empty where that is not known.
        started, expires: seconds since 1970, by the clock of the owner.
    """

    id: str
    host: str
    pid: int
    process: str
    started: float
    expires: float

    @classmethod
    def me(cls) -> Owner:
        """Returns this process as an owner, from now on."""
        now = time.time()
        return cls(uuid.uuid4().hex, platform.node(), os.getpid(), _process(os.getpid()), now, now + LASTS_S)

    @property
    def is_gone(self) -> bool:
        """Says whether the lease has expired, or its owner is seen to be dead."""
        here, _, _ = _process(os.getpid()).rpartition("/")
        seen = bool(here) and self.process.startswith(f"{here}/")
        return self.expires < time.time() or (seen and _process(self.pid) != self.process)

    def encode(self) -> bytes:
        """Returns the owner as JSON, with the times in words."""
        words = {f"{name}_utc": utc(getattr(self, name)) for name in ("started", "expires")}
        return (json.dumps(self._asdict() | words, indent=1) + "\n").encode()

    @classmethod
    def decode(cls, data: bytes) -> Owner | None:
        """Inverts :meth:`encode`; returns None for data that cannot be understood."""
        try:
            values = json.loads(data)
            kinds = {"id": str, "host": str, "pid": int, "process": str, "started": float, "expires": float}
            return cls(**{name: kind(values[name]) for name, kind in kinds.items()})
        except (ValueError, KeyError, TypeError):
            return None


def _process(pid: int) -> str:
    """Returns ``boot/namespace/time``, which identifies a process; empty where there is no ``/proc``."""
    try:
        with open("/proc/sys/kernel/random/boot_id", encoding="ascii") as file:
            boot = file.read().strip()
        with open(f"/proc/{pid}/stat", encoding="utf-8", errors="replace") as file:
            fields = file.read().rpartition(")")[2].split()
        state, began = fields[0], fields[19]  # proc(5): (3) and (22)
        return "" if state in "ZX" else f"{boot}/{os.readlink('/proc/self/ns/pid')}/{began}"
    except (OSError, IndexError):
        return ""


def utc(seconds: float) -> str:
    """Formats seconds since 1970 as all files and messages do: ``2026-01-31T23:59:59Z``."""
    return datetime.datetime.fromtimestamp(seconds, datetime.UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


class Lease:
    """A lease that is held; see :func:`hold`."""

    def __init__(self, out: str, wait: bool):
        self._uri, self._out = storage.join(out, "LEASE"), out
        self._lock, self._lost, self._done = threading.Lock(), False, threading.Event()
        self._me = Owner.me()
        self._acquire(wait)
        latest = storage.read_version(self._pointer)
        self._latest = latest and latest.version

    @property
    def _pointer(self) -> str:
        return storage.join(self._out, "LATEST")

    def _acquire(self, wait: bool) -> None:
        told = False
        while True:
            found = storage.read_version(self._uri)
            owner = Owner.decode(found.data) if found else None
            if found and owner and owner.id == self._me.id:  # it was written, and only the answer got lost
                return
            if owner and not owner.is_gone:
                if not wait:
                    raise BusyError(f"{self._held_by(owner)}; wait for it with --wait, or choose another output.path")
                if not told:
                    print(f"patchbeam: {self._held_by(owner)}: waiting", file=sys.stderr)
                told = True
                time.sleep(_LOOKS_S)
                continue
            now = time.time()
            self._me = self._me._replace(started=now, expires=now + LASTS_S)
            version = storage.write_if(self._uri, self._me.encode(), found and found.version)
            if version and storage.write_if(self._uri, self._me.encode(), None):
                # The lease exists, so this write should have failed: the store ignores conditions.
                time.sleep(_SETTLES_S)
                continue  # the last writer finds its own lease
            if version:
                return

    def _held_by(self, owner: Owner) -> str:
        return (
            f"another build is writing to {self._out}: process {owner.pid} on {owner.host}, since "
            f"{utc(owner.started)}, lease until {utc(owner.expires)}"
        )

    def renew(self) -> None:
        """Extends the lease from now.

        Raises:
            LeaseLostError: if another build has it.
        """
        with self._lock:
            me = self._me._replace(expires=time.time() + LASTS_S)
            found = None if self._lost else storage.read_version(self._uri)
            owner = Owner.decode(found.data) if found else None
            mine = found and owner and owner.id == me.id
            if not found or not mine or not storage.write_if(self._uri, me.encode(), found.version):
                self._lost = True
                raise LeaseLostError(
                    f"this build lost its lease of {self._out}: {self._uri} is somebody else's. Nothing was published; "
                    "the same command goes on from its finished shards"
                )
            self._me = me

    def keep(self) -> None:
        """Renews the lease again and again, until it is lost or given back."""
        while not self._done.wait(LASTS_S / _RENEWALS):
            try:
                self.renew()
            except LeaseLostError:
                return
            except OSError:  # the storage may answer the next time
                continue

    def publish(self, name: str) -> None:
        """Moves ``LATEST``, if the lease still holds and nobody moved it since the lease began.

        Raises:
            LeaseLostError: if the lease is lost, or ``LATEST`` was moved.
        """
        self.renew()
        moved = storage.write_if(self._pointer, f"{name}\n".encode(), self._latest)
        if not moved:
            found = storage.read_version(self._pointer)
            if not found or found.data != f"{name}\n".encode():
                raise LeaseLostError(
                    f"{self._pointer} was moved by somebody else since this build began; {name} is complete and not "
                    f"published: patchbeam publish {self._out} {name}"
                )
            moved = found.version
        self._latest = moved

    def give_back(self) -> None:
        """Ends the lease, if it is still held."""
        self._done.set()
        with self._lock, contextlib.suppress(OSError):
            found = storage.read_version(self._uri)
            owner = Owner.decode(found.data) if found else None
            if owner and owner.id == self._me.id:
                storage.delete(self._uri)


@contextlib.contextmanager
def hold(out: str, wait: bool = False) -> Iterator[Lease]:
    """Holds the lease of an output during the block.

    Args:
        out: the output.
        wait: whether to wait while another build has it.

    Raises:
        BusyError: if another build has it.
        ConfigError: if the folder cannot be written.
    """
    try:
        if storage.is_local(out):
            os.makedirs(out, exist_ok=True)
        lease = Lease(out, wait)
    except OSError as error:
        raise ConfigError(f"output.path: {out!r} cannot be written: {error.strerror or error}") from error
    threading.Thread(target=lease.keep, daemon=True).start()
    try:
        yield lease
    finally:
        lease.give_back()
