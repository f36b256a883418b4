"""One build at a time has an output, a dead one loses it, and one that lost it cannot publish."""

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import threading
import time

import pytest

from pipeline import storage
from pipeline.errors import BusyError, ConfigError, LeaseLostError
from pipeline.versions import lease, lifecycle
from pipeline.versions.lease import Owner

NAME = "20240101T000000Z-abababab"
HOLD = """
import sys, time
from pipeline.versions import lease
with lease.hold(sys.argv[1]):
    print("held", flush=True)
    time.sleep(60)
"""


@pytest.fixture
def out(tmp_path):
    return str(tmp_path / "out")


@contextlib.contextmanager
def another_process_builds(out):
    process = subprocess.Popen([sys.executable, "-c", HOLD, out], stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout.readline() == "held\n"
        yield process
    finally:
        process.kill()
        process.wait()
        process.stdout.close()


def on_another_machine(out, **values):
    """A lease whose owner cannot be seen from here."""
    owner = Owner.me()._replace(host="elsewhere", process="another boot/pid:[1]/5", pid=7, **values)
    storage.write_bytes(f"{out}/LEASE", owner.encode())
    return owner


def test_a_second_build_is_kept_out_until_the_first_process_ends_however_it_ends(out):
    with another_process_builds(out) as process:
        with pytest.raises(BusyError) as caught, lease.hold(out):
            pass
        assert re.fullmatch(
            rf"another build is writing to {out}: process {process.pid} on \S+, since \S+Z, lease until \S+Z; "
            "wait for it with --wait, or choose another output.path",
            str(caught.value),
        )
        with lease.hold(f"{out}-2"):
            pass  # another output is free
        os.kill(process.pid, signal.SIGKILL)
        for _ in range(100):  # dead, and nobody has asked for its status yet: gone all the same
            if lease._process(process.pid) == "":
                break
            time.sleep(0.05)
        with lease.hold(out):
            pass


def test_a_build_that_fails_frees_the_output(out):
    with pytest.raises(ValueError, match="failed"), lease.hold(out):
        raise ValueError("failed")
    with lease.hold(out), pytest.raises(BusyError), lease.hold(out):
        pass
    with lease.hold(out):
        pass
    assert not os.path.exists(f"{out}/LEASE")


def test_the_lease_says_who_and_until_when(out):
    with lease.hold(out):
        said = json.loads(storage.read_bytes(f"{out}/LEASE"))
    assert said["pid"] == os.getpid()
    assert said["expires"] - said["started"] == pytest.approx(lease.LASTS_S)
    assert said["started_utc"].startswith("20") and said["expires_utc"] > said["started_utc"]


def test_a_lease_of_another_machine_holds_until_it_expires(out):
    on_another_machine(out)
    with pytest.raises(BusyError, match="process 7 on elsewhere"), lease.hold(out):
        pass
    on_another_machine(out, expires=time.time() - 1)
    with lease.hold(out):
        pass


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", '{"id": 5}'])
def test_a_lease_that_nobody_can_understand_keeps_nobody_out(out, text):
    storage.write_bytes(f"{out}/LEASE", text.encode())
    with lease.hold(out), pytest.raises(BusyError), lease.hold(out):
        pass


def test_whoever_waits_gets_it_when_it_is_free(out, monkeypatch, capsys):
    monkeypatch.setattr(lease, "_LOOKS_S", 0.05)
    on_another_machine(out, expires=time.time() + 0.3)
    with lease.hold(out, wait=True):
        assert json.loads(storage.read_bytes(f"{out}/LEASE"))["pid"] == os.getpid()
    assert capsys.readouterr().err.count("process 7 on elsewhere") == 1


def test_of_many_at_once_one_gets_it(out):
    got, starting = [], threading.Barrier(8)

    def build():
        starting.wait()
        with contextlib.suppress(BusyError), lease.hold(out):
            got.append(threading.get_ident())
            time.sleep(0.5)

    threads = [threading.Thread(target=build) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(got) == 1


def test_a_lease_is_renewed_while_its_owner_lives(out, monkeypatch):
    monkeypatch.setattr(lease, "LASTS_S", 0.5)
    with lease.hold(out):
        time.sleep(0.8)
        with pytest.raises(BusyError), lease.hold(out):
            pass


def test_a_build_that_lost_its_lease_cannot_publish_and_takes_nothing_away(out):
    with lease.hold(out) as held:
        other = on_another_machine(out)
        with pytest.raises(
            LeaseLostError, match=r"lost its lease of .*LEASE is somebody else's. Nothing was published"
        ):
            held.publish(NAME)
        with pytest.raises(LeaseLostError):
            held.renew()
    assert lifecycle.latest(out) is None
    assert json.loads(storage.read_bytes(f"{out}/LEASE"))["id"] == other.id


def test_a_pointer_that_somebody_moved_in_between_stays_there(out):
    other = "20250101T000000Z-abababab"
    with lease.hold(out) as held:
        storage.write_bytes(f"{out}/LATEST", f"{other}\n".encode())
        with pytest.raises(LeaseLostError, match=rf"moved by somebody else .* patchbeam publish {out} {NAME}"):
            held.publish(NAME)
    assert lifecycle.latest(out).name == other
    with lease.hold(out) as held:
        held.publish(NAME)
        held.publish(other)
        held.publish(NAME)
    assert lifecycle.latest(out).name == NAME


def test_an_output_that_cannot_be_written_is_a_configuration_error(tmp_path):
    (tmp_path / "file").write_text("")
    for out in (f"{tmp_path}/file", f"{tmp_path}/file/below"):
        with pytest.raises(ConfigError, match=f"^output.path: {re.escape(repr(out))} cannot be written: "):
            with lease.hold(out):
                pass
