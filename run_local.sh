#!/usr/bin/env bash
# Sets up an environment in .venv and does everything that can be done on one machine.
#
#   ./run_local.sh          builds datasets from the sample images
#   ./run_local.sh test     runs the checks and the tests
#   ./run_local.sh pythons  runs them on every supported Python that is installed, each in an environment of its own
#   ./run_local.sh package  builds the sdist and the wheel, installs the wheel into an empty environment and uses it
#   ./run_local.sh minio    runs the tests of S3 against a MinIO, which it builds with Go the first time
#   ./run_local.sh heavy    runs the tests that take minutes and gigabytes
#   ./run_local.sh flink    starts a Flink cluster, builds there, also with workers killed, and compares the bytes;
#                           then checks the files for Kubernetes and Docker. Needs Java and Maven; --quick does less
#
# PYTHON chooses the interpreter (3.11, 3.12 or 3.13), VENV the folder of the environment.
set -euo pipefail
cd "$(dirname "$0")"
venv="${VENV:-.venv}"

fail() { echo "run_local.sh: $*" >&2; exit 1; }

is_supported() { "$1" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 14))' 2>/dev/null; }

find_python() {
    for name in "${PYTHON:-}" python3.11 python3.12 python3.13 python3; do
        if [ -n "$name" ] && is_supported "$name"; then
            echo "$name"
            return
        fi
    done
    fail "needs Python 3.11, 3.12 or 3.13; install one, or name it: PYTHON=/path/to/python3.11 ./run_local.sh"
}

set_up() {
    # The stamp is what the environment was made from: nothing is installed twice.
    stamp="$(cat requirements.lock pyproject.toml | cksum)"
    if [ "$(cat "$venv/stamp" 2>/dev/null || true)" = "$stamp" ]; then return; fi
    python="$(find_python)"
    echo "Setting up $venv with the locked dependencies (2.9 GB; half a minute to some minutes) ..." >&2
    "$python" -m venv --clear "$venv" || fail "$python cannot make an environment; on Debian: apt-get install python3-venv"
    "$venv/bin/python" -m pip install --quiet --disable-pip-version-check "uv>=0.5"
    "$venv/bin/uv" pip install --quiet --python "$venv/bin/python" -r requirements.lock
    "$venv/bin/uv" pip install --quiet --python "$venv/bin/python" --no-deps --editable .
    echo "$stamp" > "$venv/stamp"
}

# The interpreter of a version, such as 3.12; of pyenv the one that it has installed, whichever it shows.
python_of() {
    for candidate in "python$1" "${PYENV_ROOT:-$HOME/.pyenv}/versions/$1."*/bin/python; do
        if "$candidate" -c "import sys; sys.exit('%d.%d' % sys.version_info[:2] != '$1')" 2>/dev/null; then
            echo "$candidate"
            return
        fi
    done
}

case "${1:-}" in
    "")
        set_up
        "$venv/bin/patchbeam" build configs/quickstart.yaml
        echo
        "$venv/bin/patchbeam" build configs/sixteen_bit.yaml
        ;;
    test)
        set_up
        "$venv/bin/ruff" check .
        "$venv/bin/ruff" format --check .
        "$venv/bin/mypy"
        "$venv/bin/mypy" --config-file tests/mypy.ini tests
        # A test file to each process: most of the time goes into single programs that start, and import TensorFlow.
        "$venv/bin/python" -m pytest -n auto --maxprocesses 4 --dist loadfile "${@:2}"
        ;;
    pythons)
        for version in 3.11 3.12 3.13; do
            python="$(python_of "$version")"
            if [ -z "$python" ]; then
                echo "Python $version is not installed here: not tested" >&2
                continue
            fi
            echo "Python $version, $python:" >&2
            PYTHON="$python" VENV=".venv-$version" ./run_local.sh test "${@:2}"
        done
        ;;
    package)
        set_up
        "$venv/bin/python" -m pytest -m packaging "${@:2}"
        ;;
    heavy)
        set_up
        "$venv/bin/python" -m pytest -m heavy "${@:2}"
        ;;
    flink)
        command -v java > /dev/null || fail "Flink needs Java, 11 or 17; on Debian: apt-get install openjdk-17-jdk-headless"
        command -v mvn > /dev/null || fail "Beam's Flink runner is made with Maven; on Debian: apt-get install maven"
        set_up
        "$venv/bin/python" deploy/flink/compare.py "${@:2}"
        "$venv/bin/python" -m pytest -m flink
        ;;
    minio)
        set_up
        if [ ! -x "$venv/bin/minio" ]; then
            command -v go >/dev/null || fail "needs Go to build MinIO; on Debian: apt-get install golang"
            GOBIN="$PWD/$venv/bin" go install github.com/minio/minio@latest
        fi
        PATCHBEAM_MINIO="$PWD/$venv/bin/minio" "$venv/bin/python" -m pytest tests/pipeline/storage "${@:2}"
        ;;
    *) fail "unknown command $1; there are test, pythons, package, heavy, flink and minio, and none at all builds the samples" ;;
esac
