#!/usr/bin/env bash
# Prints the path of a Python that has the packages `blake3` and `zstandard`; makes one if need be.
#
# usage: PYTHON=$(tests/support/venv.sh)
set -euo pipefail

top=$(cd "$(dirname "$0")/../.." && pwd)
venv=${CARGO_TARGET_DIR:-$top/target}/venv

if ! "$venv/bin/python" -c 'import blake3, zstandard' 2>/dev/null; then
    rm -rf "$venv"
    python3 -m venv "$venv" >&2
    "$venv/bin/pip" install --quiet --disable-pip-version-check blake3 zstandard >&2
fi
echo "$venv/bin/python"
