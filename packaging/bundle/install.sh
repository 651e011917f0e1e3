#!/bin/sh
# Installs echo-stream from this folder, without a network. Made by scripts/bundle of the project.
# Usage: sudo ./install.sh [FOLDER]     (default: /opt/echo-stream; an installation that is there is replaced)
# Needs Python @PYTHON@ of this PC (python3), and for microphones its package libportaudio2.
set -eu

here=$(cd "$(dirname "$0")" && pwd)
target=${1:-/opt/echo-stream}
fail() {
    echo "install.sh: $1" >&2
    exit 1
}

cd "$here"
sha256sum --check --quiet --strict SHA256SUMS || fail "a file of this bundle is damaged or missing: copy it again"
[ "$(uname -m)" = @MACHINE@ ] || fail "this bundle is for @MACHINE@, this PC is $(uname -m)"
python=
for candidate in /usr/bin/python@PYTHON@ /usr/bin/python3 "$(command -v python@PYTHON@ || true)" "$(command -v python3 || true)"; do
    if [ -x "$candidate" ] && [ "$("$candidate" -c 'import sys; print("%d.%d" % sys.version_info[:2])')" = @PYTHON@ ]; then
        python=$candidate
        break
    fi
done
[ -n "$python" ] || fail "this bundle is for Python @PYTHON@, which this PC does not have: make one with --python"

# Beside the old one, then in its place: a PC that fails half way keeps what it has. The paths inside are the final ones.
rm -rf "$target.old"
[ ! -e "$target" ] || mv "$target" "$target.old"
back() {
    rm -rf "$target"
    [ ! -e "$target.old" ] || mv "$target.old" "$target"
}
trap back EXIT
"$python" -m venv --without-pip "$target"
"$target/bin/python3" "$(ls wheels/pip-*.whl)/pip" install --quiet --disable-pip-version-check --no-warn-script-location \
    --no-index --find-links wheels "@REQUIREMENT@"
"$target/bin/echo-stream" --version
trap - EXIT
rm -rf "$target.old"

if ! ldconfig -p 2>/dev/null | grep -q libportaudio; then
    echo "install.sh: there is no libportaudio here, so no microphone can be opened: install this PC's package libportaudio2"
fi
echo "next, as a service of this PC:  $target/bin/echo-stream install-service"
