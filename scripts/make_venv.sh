#!/usr/bin/env bash
# Make the virtual environment that the make targets run in, or bring it up to date.
#
#   scripts/make_venv.sh FOLDER [EXTRAS]      PYTHON=python3.12 chooses the interpreter
#
# uv is installed inside the environment and does the rest: 46 s against 116 s for pip. Where uv
# cannot be had, pip does it. A folder of local wheels in PIP_FIND_LINKS is passed on to uv, which
# does not read that variable itself.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/again.sh"

folder=${1:-.venv}
extras=${2:-api,train,parquet,s3,dev}
python=${PYTHON:-python3}
stamp="$folder/.installed"

if ! "$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
    echo "scalewright needs Python 3.11 or newer; '$python' is $("$python" --version 2>&1)." >&2
    echo "Name another one: make PYTHON=/path/to/python3.12 ..." >&2
    exit 1
fi

say() { printf '%s\n' "$*" >&2; }

if ! "$folder/bin/python" -c '' 2>/dev/null; then
    say "Making $folder with $("$python" --version)"
    if ! "$python" -m venv --clear "$folder"; then
        say "python3 -m venv failed. On Debian and Ubuntu: apt-get install python3-venv"
        exit 1
    fi
fi
rm -f "$stamp"

started=$(date +%s)
if [ ! -x "$folder/bin/uv" ]; then
    again "$folder/bin/python" -m pip install --quiet uv \
        || say "uv could not be installed; going on with pip, which is slower"
fi
if [ -x "$folder/bin/uv" ]; then
    say "Installing scalewright[$extras] with uv (about a minute the first time)"
    export UV_FIND_LINKS=${UV_FIND_LINKS:-${PIP_FIND_LINKS:-}}
    if [ -z "$UV_FIND_LINKS" ]; then unset UV_FIND_LINKS; fi
    # Compiled now, as pip does: a process that imports torch uncompiled spends 8 CPU-seconds on it,
    # and every training run is a process (where PYTHONDONTWRITEBYTECODE is set, each one again).
    again "$folder/bin/uv" pip install --quiet --compile-bytecode --python "$folder/bin/python" \
        --constraint constraints.txt --editable ".[$extras]"
else
    say "Installing scalewright[$extras] with pip (about two minutes the first time)"
    again "$folder/bin/python" -m pip install --quiet \
        --constraint constraints.txt --editable ".[$extras]"
fi
touch "$stamp"
say "Installed in $(($(date +%s) - started)) s"
