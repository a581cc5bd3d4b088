#!/usr/bin/env bash
# Prints the path of a Python that has the packages of tests/requirements.txt, for the optional
# checks:
#
#     python=$(tools/python.sh) || exit $?        # 77: not to be had here, so the check is skipped
#     "$python" tests/compare_hf.py ...
#
# TRIREME_PYTHON says which one:
#     (not set)   build/venv, or python3 on the path, if one of them has the packages
#     a path      that one
#     install     as when it is not set, and when neither has the packages, build/venv is made and
#                 they are installed into it (more than 1 GB)
#     none        no one: exit status 77
# Why it gave up goes to standard error. Exit status 77 when no Python has the packages.
set -u
cd "$(dirname "$0")/.." || exit 77
root=$PWD
venv=$root/build/venv

say() { echo "tools/python.sh: $*" >&2; }

# The distributions are asked for by name, without importing them: importing torch takes seconds.
has_packages() {
    [ -n "$1" ] && command -v "$1" >/dev/null 2>&1 || return 1
    "$1" - "$root/tests/requirements.txt" <<'PYTHON' 2>/dev/null
import re, sys
from importlib import metadata
from importlib.util import find_spec

for line in open(sys.argv[1], encoding="utf-8"):
    name = re.match(r"[A-Za-z0-9_.-]*", line).group()
    if name and (not metadata.version(name) or not find_spec(name)):
        sys.exit(1)
PYTHON
}

if [ "${TRIREME_PYTHON:-}" = none ]; then
    say "TRIREME_PYTHON is none: nothing that needs Python packages is run"
    exit 77
fi
if [ -n "${TRIREME_PYTHON:-}" ] && [ "$TRIREME_PYTHON" != install ]; then
    if has_packages "$TRIREME_PYTHON"; then
        command -v "$TRIREME_PYTHON"
        exit 0
    fi
    say "TRIREME_PYTHON=$TRIREME_PYTHON lacks packages of tests/requirements.txt"
    exit 77
fi

mkdir -p "$root/build" || exit 77
exec 9>"$root/build/.venv.lock"
if command -v flock >/dev/null 2>&1; then
    flock 9 # two tests may ask at once
fi
for candidate in "$venv/bin/python" python3; do
    if has_packages "$candidate"; then
        command -v "$candidate"
        exit 0
    fi
done

if [ "${TRIREME_PYTHON:-}" != install ]; then
    say "no Python here has the packages of tests/requirements.txt; TRIREME_PYTHON=PATH names one that" \
        "has, TRIREME_PYTHON=install puts them into build/venv (more than 1 GB)"
    exit 77
fi
if ! command -v python3 >/dev/null 2>&1; then
    say "there is no python3"
    exit 77
fi
log=$root/build/venv.log
say "installing the packages of tests/requirements.txt into build/venv (log: build/venv.log)"
if ! python3 -m venv --clear "$venv" >"$log" 2>&1; then
    say "python3 -m venv failed; on Debian and Ubuntu: apt-get install python3-venv"
    exit 77
fi
if ! "$venv/bin/python" -m pip install --disable-pip-version-check --retries 1 --timeout 30 \
        -r tests/requirements.txt >>"$log" 2>&1 9>&-; then
    say "pip could not install them; is a package registry reachable? build/venv.log ends:"
    tail -n 2 "$log" >&2
    exit 77
fi
if ! has_packages "$venv/bin/python"; then
    say "the packages were installed, and are not found; see build/venv.log"
    exit 77
fi
echo "$venv/bin/python"
