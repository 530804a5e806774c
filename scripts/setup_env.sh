#!/usr/bin/env bash
# Make the virtual environment, or resolve the lock file anew. The Makefile calls this; see `usage` below.
#
# Two stages, and the order matters. torch goes first and alone, at its exact version, so that the installer takes the
# build that the machine's package index offers for it; the rest follows under the constraints of requirements.lock and
# finds torch in place, so nothing can swap it for a build that brings gigabytes of GPU libraries.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

LOCK=requirements.lock
VENV=${VENV:-.venv}

usage() {
    cat <<'TEXT'
usage: scripts/setup_env.sh run | dev | lock
  run   the environment that trains and evaluates
  dev   the same, and what tests and linters need
  lock  resolve requirements.lock anew from pyproject.toml, in a temporary environment

environment variables
  PYTHON           interpreter to build on, 3.11 or newer (default: the first suitable one on the PATH)
  VENV             where the environment lies (default: .venv)
  TORCH_INDEX_URL  package index for torch alone, for example one that holds its CPU builds
  VERBOSE=1        show the installer's own output
TEXT
}

say() { printf '[setup] %s\n' "$*"; }
die() {
    printf '[setup] error: %s\n' "$*" >&2
    exit 1
}

version_of() { "$1" -c 'import sys; print("%d.%d.%d" % sys.version_info[:3])' 2>/dev/null; }
is_new_enough() { "$1" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; }

# Prints the interpreter to use. One that was asked for must do; otherwise the first on the PATH that does. 3.11 leads
# because the lock file is resolved and tested on it.
find_python() {
    local candidate found=""
    if [[ -n ${PYTHON:-} ]]; then
        found=$(version_of "$PYTHON") || die "PYTHON=$PYTHON does not run. Name a Python 3.11 or newer."
        is_new_enough "$PYTHON" ||
            die "PYTHON=$PYTHON is Python $found; 3.11 or newer is needed, for example: make PYTHON=python3.11 ..."
        printf '%s\n' "$PYTHON"
        return
    fi
    for candidate in python3.11 python3 python3.12 python3.13 python3.14; do
        if is_new_enough "$candidate"; then
            printf '%s\n' "$candidate"
            return
        fi
    done
    found=$(version_of python3) || found="none"
    die "no Python 3.11 or newer on the PATH (python3: $found). Install one, or say where: make PYTHON=/path/to/python ..."
}

# make_venv DIRECTORY: leaves a working environment there; one that works already is kept.
make_venv() {
    local python
    if [[ -x $1/bin/python ]] && is_new_enough "$1/bin/python" && "$1/bin/python" -m pip --version >/dev/null 2>&1; then
        return
    fi
    python=$(find_python)
    say "making $1 with $python ($(version_of "$python"))"
    "$python" -m venv --clear "$1" ||
        die "$python cannot make virtual environments. Some systems package that apart (on Debian: python3-venv)."
}

# pip_install DIRECTORY ARGUMENT...
pip_install() {
    local python=$1/bin/python quiet=(-qq)
    shift
    if [[ ${VERBOSE:-0} == 1 ]]; then quiet=(); fi
    "$python" -m pip --disable-pip-version-check install ${quiet[@]+"${quiet[@]}"} "$@"
}

# requirements PYTHON EXPRESSION...: prints parts of pyproject.toml, one requirement a line.
requirements() {
    "$1" - "${@:2}" <<'PY'
import sys
import tomllib

with open("pyproject.toml", "rb") as file:
    project = tomllib.load(file)["project"]
extras = project["optional-dependencies"]
everything = project["dependencies"] + extras["etcd"] + extras["offline"] + extras["dev"]
torch = [line for line in everything if line.startswith("torch==")]
if len(torch) != 1:
    sys.exit("pyproject.toml must pin torch exactly once, as torch==VERSION")
print("\n".join(torch if sys.argv[1] == "torch" else everything))
PY
}

install_torch() {
    local index=()
    if [[ -n ${TORCH_INDEX_URL:-} ]]; then index=(--index-url "$TORCH_INDEX_URL"); fi
    say "1/2 $2 (the largest part; minutes on a slow line)"
    pip_install "$1" ${index[@]+"${index[@]}"} "${@:3}" "$2"
    if compgen -G "$1/lib/python3*/site-packages/nvidia*" >/dev/null; then
        say "note: torch came with GPU libraries (several GB). A smaller CPU build does as well here:"
        say "      make distclean, then set TORCH_INDEX_URL to a package index that holds CPU builds of torch."
    fi
}

install() {
    local torch started=$SECONDS
    make_venv "$VENV"
    torch=$(requirements "$VENV/bin/python" torch)
    install_torch "$VENV" "$torch" --constraint "$LOCK"
    say "2/2 everything else, as pinned in $LOCK"
    pip_install "$VENV" --constraint "$LOCK" --editable "$1"
    say "$VENV is ready ($((SECONDS - started)) s)"
}

lock() {
    local scratch torch
    scratch=$(mktemp -d)
    # shellcheck disable=SC2064  # expanded now on purpose: the variable is local
    trap "rm -rf '$scratch'" EXIT
    make_venv "$scratch/venv"
    torch=$(requirements "$scratch/venv/bin/python" torch)
    requirements "$scratch/venv/bin/python" all >"$scratch/all"
    install_torch "$scratch/venv" "$torch"
    say "2/2 resolving everything else"
    printf '%s\n' "$torch" >"$scratch/torch"
    pip_install "$scratch/venv" --constraint "$scratch/torch" --requirement "$scratch/all"
    "$scratch/venv/bin/python" -m pip check
    {
        echo "# The exact versions that are tested (a constraints file: it installs nothing by itself)."
        echo "# Resolved on Python $(version_of "$scratch/venv/bin/python" | cut -d. -f1,2) for Linux by 'make lock';" \
            "change pyproject.toml and run that instead of editing."
        # A local version label such as +cpu names one index's build, so it is left out.
        "$scratch/venv/bin/python" -m pip list --format=freeze --exclude pip --exclude wheel 2>/dev/null |
            sed 's/+[^+]*$//' | LC_ALL=C sort -f
    } >"$scratch/lock"
    mv "$scratch/lock" "$LOCK"
    say "$LOCK: $(grep -c == "$LOCK") packages"
}

case ${1:-} in
run) install . ;;
dev) install ".[dev,etcd,offline]" ;;
lock) lock ;;
-h | --help | help) usage ;;
*)
    usage >&2
    exit 2
    ;;
esac
