"""A real Flink cluster on this machine, for trials and tests: one JobManager and TaskManagers with one slot each.

    python deploy/flink/local_cluster.py setup     # once: 230 MB from PyPI, 160 MB from Maven Central, into the cache
    python deploy/flink/local_cluster.py up        # prints the command for a build
    python deploy/flink/local_cluster.py status
    python deploy/flink/local_cluster.py down

It needs Java (11 or 17), Maven for the set-up, and only the standard library of Python. Run it with the Python in which
patchbeam is installed, which becomes the Python of the workers.
"""

from __future__ import annotations

import argparse
import contextlib
import ctypes
import dataclasses
import fcntl
import hashlib
import json
import os
import pathlib
import re
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import tarfile
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from typing import Any

FLINK = "1.19.3"
CACHE = pathlib.Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "patchbeam" / "flink"
_POM = pathlib.Path(__file__).with_name("pom.xml")
_JAR = "patchbeam-flink-job-server.jar"
_START_S, _STOP_S = 90, 15

# Flink's own scripts would also put these options on the command line of every JVM: Java 17 keeps these packages
# closed, and Flink's serializers look into them.
_OPENED = "lang net io nio util time text lang.reflect util.concurrent util.concurrent.atomic util.concurrent.locks"
_JVM = [f"--add-opens=java.base/java.{package}=ALL-UNNAMED" for package in _OPENED.split()] + [
    "--add-opens=java.base/sun.nio.ch=ALL-UNNAMED",
    "-XX:+UseSerialGC",
    "-XX:-UsePerfData",
]

# Every size is given, because TaskManagers that start without Flink's scripts do not derive them.
_MEMORY = {
    "task.heap.size": "384m",
    "task.off-heap.size": "128m",
    "framework.heap.size": "128m",
    "framework.off-heap.size": "128m",
    "network.min": "64m",
    "network.max": "64m",
    "managed.size": "128m",
    "jvm-metaspace.size": "256m",
    "jvm-overhead.min": "192m",
    "jvm-overhead.max": "192m",
}

_LOG4J = """\
rootLogger.level = INFO
rootLogger.appenderRef.console.ref = Console
appender.console.type = Console
appender.console.name = Console
appender.console.layout.type = PatternLayout
appender.console.layout.pattern = %d{HH:mm:ss} %-5p %c{1} - %m%n
# At this level Beam lets through what a worker prints before it can log, such as an import that fails.
logger.workers.name = org.apache.beam.runners.fnexecution.environment.ProcessManager
logger.workers.level = DEBUG
"""


class ClusterError(RuntimeError):
    """The cluster cannot be set up or started; the message is one sentence that says what to do."""


@dataclasses.dataclass(frozen=True)
class Cluster:
    """A running cluster.

    Attributes:
        rest: ``127.0.0.1:port`` of Flink's REST interface, and of its web page.
        job_manager, task_managers: process ids.
        jar: the uber jar with Beam's runner.
    """

    rest: str
    job_manager: int
    task_managers: list[int]
    jar: str

    def arguments(self) -> list[str]:
        """Returns arguments for ``patchbeam build CONFIG``; of several TaskManagers, one is kept in reserve."""
        parallelism = max(1, len(self.task_managers) - 1)
        beam = [f"--flink_job_server_jar={self.jar}", f"--parallelism={parallelism}"]
        return ["--runner=flink", f"--flink-master={self.rest}", "--", *beam]

    def get(self, path: str) -> Any:
        """Returns the answer of Flink's REST interface, for example to ``jobs/overview``."""
        return _get(self.rest, path)


def set_up(cache: pathlib.Path = CACHE) -> tuple[pathlib.Path, pathlib.Path]:
    """Downloads and builds whatever is not in the cache yet.

    Returns:
        The folder with Flink's jars, and the uber jar with Beam's runner.

    Raises:
        ClusterError: if Java, Maven or pip is missing, or a download fails.
    """
    _program("java", "install a JDK, version 11 or 17, for example with: apt install openjdk-17-jdk-headless")
    lib = cache / f"flink-{FLINK}"
    jar = cache / f"beam-runner-{hashlib.sha256(_POM.read_bytes()).hexdigest()[:8]}.jar"
    cache.mkdir(parents=True, exist_ok=True)
    # Both are made in a temporary folder and moved when complete, so that an interrupted set-up leaves nothing that
    # looks finished, and two set-ups at the same time do not disturb each other.
    with tempfile.TemporaryDirectory(dir=cache, prefix=".new-") as folder:
        new = pathlib.Path(folder)
        if not jar.exists():
            _build_jar(new)
            os.replace(new / "target" / _JAR, jar)
        if not lib.exists():
            _download_flink(new)
            try:
                (new / "lib").rename(lib)
            except OSError:
                if not lib.exists():  # another set-up was faster
                    raise
    return lib, jar


def _download_flink(folder: pathlib.Path) -> None:
    """Downloads Flink's jars from PyPI, where they are part of PyFlink, through the mirrors of our own packages."""
    package = "apache-flink-libraries"
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "download", "--quiet", "--no-deps"]
    _call([*pip, f"--no-binary={package}", "--dest", str(folder), f"{package}=={FLINK}"], "does this Python have pip?")
    (folder / "lib").mkdir()
    (archive,) = folder.glob("*.tar.gz")
    with tarfile.open(archive) as tar:
        for member in tar:
            name = os.path.basename(member.name)
            if os.path.dirname(member.name).endswith("/deps/lib") and name.startswith(("flink-dist", "log4j-")):
                (folder / "lib" / name).write_bytes(tar.extractfile(member).read())


def _build_jar(folder: pathlib.Path) -> None:
    maven = _program("mvn", "install Maven, for example with: apt install maven")
    shutil.copy(_POM, folder)  # so that nothing is written next to the sources
    _call([maven, "--batch-mode", "--quiet", f"--file={folder / _POM.name}", "package"], "is Maven Central reachable?")


def _call(command: list[str], hint: str) -> None:
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    if done.returncode:
        raise ClusterError(f"{shlex.join(command)} failed; {hint}\n{done.stdout[-2000:]}")


def _program(name: str, hint: str) -> str:
    home = os.environ.get("JAVA_HOME")
    path = (name == "java" and home and shutil.which(f"{home}/bin/java")) or shutil.which(name)
    if not path:
        raise ClusterError(f"{name} is not on the PATH; {hint}")
    return path


@contextlib.contextmanager
def cluster(directory: str | os.PathLike, task_managers: int = 3) -> Iterator[Cluster]:
    """Runs a cluster during the block; however the block ends, no process is left.

    Args:
        directory: folder for configuration, logs and temporary files; a new one, or that of an earlier cluster.
        task_managers: number of TaskManagers to start, each with one slot.

    Raises:
        ClusterError: if it cannot be set up, or does not come up.
    """
    lib, jar = set_up()
    home = pathlib.Path(directory).absolute()
    for name in ("conf", "logs", "tmp"):
        (home / name).mkdir(parents=True, exist_ok=True)
    rest = f"127.0.0.1:{_free_port()}"
    _write_configuration(home, rest)
    java = [_program("java", ""), "-cp", f"{lib}/*", *_JVM, f"-Djava.io.tmpdir={home}/tmp",
            f"-Dlog4j.configurationFile=file:{home}/conf/log4j.properties"]  # fmt: skip
    entry = "org.apache.flink.runtime.entrypoint.StandaloneSessionClusterEntrypoint"
    runner = "org.apache.flink.runtime.taskexecutor.TaskManagerRunner"
    conf = ["--configDir", f"{home}/conf"]
    started: list[tuple[str, subprocess.Popen]] = []
    try:
        _start(started, home, "jobmanager", [*java, "-Xmx640m", entry, *conf])
        for number in range(1, task_managers + 1):
            name, limits = f"tm{number}", ["-Xmx512m", "-XX:MaxDirectMemorySize=320m", "-XX:MaxMetaspaceSize=256m"]
            _start(started, home, name, [*java, *limits, runner, *conf, "-D", f"taskmanager.resource-id={name}"])
        _wait_for(rest, started, home, task_managers)
        manager, *others = (process.pid for _, process in started)
        yield Cluster(rest, manager, others, str(jar))
    finally:
        _stop([process for _, process in started])
        shutil.rmtree(home / "tmp", ignore_errors=True)  # the jars of all submissions


def _start(started: list[tuple[str, subprocess.Popen]], home: pathlib.Path, name: str, command: list[str]) -> None:
    with open(home / "logs" / f"{name}.log", "wb") as log:
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT, preexec_fn=_end_with_parent
        )
    started.append((name, process))


def _end_with_parent() -> None:
    """Makes Linux end the JVM with its parent, even if the parent is killed."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG


def _stop(processes: list[subprocess.Popen]) -> None:
    """Ends all processes, if necessary by force; a second Ctrl-C meanwhile only speeds this up."""
    try:
        for process in reversed(processes):  # TaskManagers first: they stop their Python workers
            process.terminate()
        until = time.monotonic() + _STOP_S
        for process in processes:
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(max(0, until - time.monotonic()))
    finally:
        for process in processes:
            process.kill()
            process.wait()


def _wait_for(rest: str, started: list[tuple[str, subprocess.Popen]], home: pathlib.Path, task_managers: int) -> None:
    until = time.monotonic() + _START_S
    while True:
        for name, process in started:
            if process.poll() is not None:
                log = home / "logs" / f"{name}.log"
                said = re.findall(".*(?:ERROR|rror:|xception:).*", log.read_text(errors="replace"))
                raise ClusterError("\n".join([f"{name} ended with {process.returncode}, see {log}", *said[:5]]))
        with contextlib.suppress(OSError, ValueError):
            if len(_get(rest, "taskmanagers")["taskmanagers"]) == task_managers:
                return
        if time.monotonic() > until:
            raise ClusterError(f"not all TaskManagers are there after {_START_S} s; see {home}/logs")
        time.sleep(0.3)


def _get(rest: str, path: str) -> Any:
    # Without the proxies of the environment, which cannot reach this machine.
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    with opener.open(f"http://{rest}/{path}", timeout=10) as answer:
        return json.load(answer)


def _free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]


def _write_configuration(home: pathlib.Path, rest: str) -> None:
    local, port = rest.split(":")
    settings = {
        "rest.address": local,
        "rest.bind-address": local,
        "rest.port": port,
        "jobmanager.rpc.address": local,
        "jobmanager.bind-host": local,
        "jobmanager.rpc.port": _free_port(),
        "taskmanager.host": local,
        "taskmanager.bind-host": local,
        "taskmanager.numberOfTaskSlots": 1,
        "taskmanager.cpu.cores": 1.0,
        **{f"taskmanager.memory.{name}": size for name, size in _MEMORY.items()},
        "io.tmp.dirs": f"{home}/tmp",
        "web.upload.dir": f"{home}/tmp/upload",
        "restart-strategy.type": "fixed-delay",
        "restart-strategy.fixed-delay.attempts": 8,
        "restart-strategy.fixed-delay.delay": "1 s",
        # TaskManagers start together with the JobManager and find it only at the second try, by default ten seconds
        # later.
        "cluster.registration.error-delay": 500,
        # A killed TaskManager is noticed after two heartbeats, here four seconds, because its port is closed. The
        # timeout is for those that live and do not answer: it is long, because a busy machine is not dead.
        "heartbeat.interval": 2000,
        "heartbeat.timeout": 60000,
    }
    lines = [f"{key}: {json.dumps(value)}\n" for key, value in settings.items()]
    (home / "conf" / "config.yaml").write_text("".join(lines))
    (home / "conf" / "log4j.properties").write_text(_LOG4J)


def _serve(home: pathlib.Path, task_managers: int) -> None:
    """Keeps a cluster up until SIGTERM, with a lock on its directory; ``cluster.json`` says how to reach it."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit())
    facts = home / "cluster.json"
    with open(home / "lock", "a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        try:
            with cluster(home, task_managers) as running:
                new = facts.with_suffix(".new")
                new.write_text(json.dumps({"keeper": os.getpid(), **dataclasses.asdict(running)}))
                os.replace(new, facts)
                while True:
                    signal.pause()
        finally:
            facts.unlink(missing_ok=True)


def _running(home: pathlib.Path) -> dict[str, Any] | None:
    """Returns the facts of a running cluster, or None; its lock tells, because a process id may have been reused."""
    try:
        with open(home / "lock") as lock:
            fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
        return None
    except FileNotFoundError:
        return None
    except BlockingIOError:
        with contextlib.suppress(FileNotFoundError):
            return json.loads((home / "cluster.json").read_text())
        raise ClusterError(f"a cluster in {home} is starting or stopping; try again in a minute") from None


def up(home: pathlib.Path, task_managers: int) -> Cluster:
    """Starts a cluster that stays up until :func:`down`.

    Raises:
        ClusterError: if a cluster is running already, or the new one does not come up.
    """
    if _running(home):
        raise ClusterError(f"a cluster is running in {home} already; see status, or stop it with down")
    set_up()
    home.mkdir(parents=True, exist_ok=True)
    facts = home / "cluster.json"
    facts.unlink(missing_ok=True)  # left by a keeper that was killed
    with open(home / "keeper.log", "wb") as log:
        command = [sys.executable, __file__, "serve", "--dir", str(home), "--task-managers", str(task_managers)]
        keeper = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT, start_new_session=True
        )
    try:
        while not facts.exists():
            if keeper.poll() is not None:
                raise ClusterError((home / "keeper.log").read_text(errors="replace").strip())
            time.sleep(0.2)
    except BaseException:
        keeper.terminate()
        keeper.wait()
        raise
    return _cluster_of(_running(home))


def _cluster_of(facts: dict[str, Any]) -> Cluster:
    return Cluster(**{name: value for name, value in facts.items() if name != "keeper"})


def down(home: pathlib.Path) -> bool:
    """Stops the cluster of a directory; returns False if there is none."""
    facts = _running(home)
    if not facts:
        return False
    os.kill(facts["keeper"], signal.SIGTERM)
    with open(home / "lock") as lock:
        fcntl.flock(lock, fcntl.LOCK_SH)  # free when the keeper has ended, which it does after its processes
    return True


def _print_status(home: pathlib.Path) -> None:
    facts = _running(home)
    if not facts:
        sys.exit(f"no cluster in {home}")
    running = _cluster_of(facts)
    print(f"http://{running.rest}  JobManager {running.job_manager}, TaskManagers {running.task_managers}")
    facts = running.get("overview")
    print(f"{facts['taskmanagers']} TaskManagers, {facts['slots-available']} of {facts['slots-total']} slots free")
    for job in running.get("jobs/overview")["jobs"]:
        print(f"{job['jid']}  {job['state']:<10} {job['duration'] / 1000:.0f} s")


def main() -> None:
    """Runs the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("command", choices=["setup", "up", "status", "down", "serve"], metavar="setup|up|status|down")
    parser.add_argument("--dir", type=pathlib.Path, default=CACHE / "cluster", help="of the cluster (%(default)s)")
    parser.add_argument("--task-managers", type=int, default=3, metavar="N", help="one slot each (%(default)s)")
    arguments = parser.parse_args()
    home = arguments.dir.absolute()
    try:
        if arguments.command == "setup":
            print(*set_up(), sep="\n")
        elif arguments.command == "up":
            running = up(home, arguments.task_managers)
            print(f"http://{running.rest} is up, with logs in {home}/logs; build with\n")
            print(shlex.join(["patchbeam", "build", "CONFIG", *running.arguments()]))
        elif arguments.command == "status":
            _print_status(home)
        elif arguments.command == "down":
            print(f"stopped {home}" if down(home) else f"no cluster in {home}")
        else:
            _serve(home, arguments.task_managers)
    except ClusterError as error:
        sys.exit(f"local_cluster: {error}")
    except KeyboardInterrupt:
        sys.exit(130)


if __name__ == "__main__":
    main()
