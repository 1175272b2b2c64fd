#!/usr/bin/env bash
# Makes the environment of the Rasa engine in the folder $1, once: Python 3.10 with everything pinned, about 2 GB.
# RASA_PYTHON names the interpreter; else python3.10 is looked for on the path and among those of pyenv.
set -euo pipefail
target=${1:?the folder to make}
here=$(cd "$(dirname "$0")" && pwd)
ready="$target/.ready"
[ -f "$ready" ] && cmp -s "$ready" "$here/requirements.txt" && exit 0

is_right() { "$1" -c 'import sys, venv; sys.exit(sys.version_info[:2] != (3, 10))' >/dev/null 2>&1; }
python=
if [ -n "${RASA_PYTHON:-}" ]; then
    is_right "$RASA_PYTHON" || { echo "RASA_PYTHON=$RASA_PYTHON is no Python 3.10 (Rasa 3.6 runs on no later one)" >&2; exit 1; }
    python=$RASA_PYTHON
else
    for candidate in python3.10 "${PYENV_ROOT:-$HOME/.pyenv}"/versions/3.10*/bin/python /opt/python3.10/bin/python3.10; do
        # A shim of pyenv may be on the path without a Python behind it.
        if is_right "$candidate"; then python=$candidate; break; fi
    done
fi
if [ -z "$python" ]; then
    cat >&2 <<'MESSAGE'
The Rasa engine needs Python 3.10 beside 3.11, and there is none. Install one, in any of these ways:
    pyenv install 3.10
    uv python install 3.10          (then: make rasa RASA_PYTHON="$(uv python find 3.10)")
    apt-get install python3.10 python3.10-venv      (Ubuntu 22.04)
or name it: make rasa RASA_PYTHON=/path/to/python3.10. Without it the embedded engine goes on working.
MESSAGE
    exit 1
fi
echo "Installing Rasa 3.6.21 into $target (about 2 GB, two to three minutes the first time)"
rm -rf "$target"
"$python" -m venv "$target"
"$target/bin/python" -m pip install --quiet --disable-pip-version-check --progress-bar off -r "$here/requirements.txt"
"$target/bin/python" -m pip check >/dev/null
cp "$here/requirements.txt" "$ready"
