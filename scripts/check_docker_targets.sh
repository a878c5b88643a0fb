#!/usr/bin/env bash
# Do what `docker build` would do, without an engine: run each target's install line from the
# Dockerfile in a clean environment, then start what the image would start.
#
#   scripts/check_docker_targets.sh [api|worker]...
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
source scripts/again.sh
targets=("$@")
if [ ${#targets[@]} = 0 ]; then targets=(api worker); fi
root=$PWD
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT

if [ -n "${PIP_FIND_LINKS:-}" ]; then export UV_FIND_LINKS=${UV_FIND_LINKS:-$PIP_FIND_LINKS}; fi
# uv, where it is at hand, resolves the same line in a fifth of the time.
uv=$(command -v .venv/bin/uv || command -v uv || true)

fail() { echo "$1" >&2; exit 1; }

# The arguments of `pip install` in the stage that builds the target.
install_line() {
    awk -v stage="build-$1" '
        $1 == "FROM" { inside = ($4 == stage) }
        inside && /pip install/ { sub(/.*pip install */, ""); print }
    ' Dockerfile
}

for target in "${targets[@]}"; do
    line=$(install_line "$target")
    [ -n "$line" ] || fail "the Dockerfile has no install line for $target"
    env="$folder/$target"
    # The build context is what .dockerignore lets through: nothing else may be needed.
    context="$folder/context-$target"
    mkdir "$context"
    cp -r pyproject.toml constraints.txt README.md LICENSE fitting app workers migrations "$context"
    python=${PYTHON:-python3}
    [ -x .venv/bin/python ] && python=.venv/bin/python
    "$python" -m venv ${uv:+--without-pip} "$env"
    echo "== $target: pip install $line"
    started=$SECONDS
    (
        cd "$context"
        if [ -n "$uv" ]; then
            case $uv in /*) ;; *) uv="$root/$uv" ;; esac
            eval "again '$uv' pip install --quiet --python '$env/bin/python' $line"
        else
            eval "again '$env/bin/python' -m pip install --quiet $line"
        fi
    )
    echo "installed in $((SECONDS - started)) s, $(du -sm "$env" | cut -f1) MB"
    (
        # Away from the checkout, so that only what was installed can be imported.
        cd "$folder"
        export SCALEWRIGHT_DATA_DIR="$folder/data" DATABASE_URL=postgresql://nobody@127.0.0.1:1/none
        "$env/bin/scalewright" --help >/dev/null
        "$env/bin/scalewright" laws --json >/dev/null
        if [ "$target" = api ]; then
            "$env/bin/python" -c 'import torch' 2>/dev/null && fail "the api image has torch"
            "$env/bin/python" -m app.cli openapi | "$env/bin/python" -c \
                'import json, sys; print(len(json.load(sys.stdin)["paths"]), "paths in the document")'
        else
            "$env/bin/python" -c 'import fastapi' 2>/dev/null && fail "the worker image has FastAPI"
            "$env/bin/python" -m workers --help >/dev/null
            "$env/bin/python" -m workers.proxy.train --help >/dev/null
        fi
        "$env/bin/python" -c \
            'from pathlib import Path; import migrations; [*Path(migrations.__file__).parent.glob("versions/*.py")] or exit("no migrations")'
    )
    echo "== $target: ok"
done
