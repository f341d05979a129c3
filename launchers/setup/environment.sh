# shellcheck shell=bash
# Functions shared by setup_gpu.sh and setup_tpu.sh: find a Python 3.11, and create .venv with pinned packages. To be
# sourced in the checkout's folder, after `set -euo pipefail`.

readonly VENV=.venv UV_VERSION=0.13.9 PIP_VERSION=26.3
readonly APT=(apt-get -qq -y -o DPkg::Lock::Timeout=600 -o Dpkg::Use-Pty=0) # wait for automatic updates of a new machine

fail() {
    echo "error: $*" >&2
    exit 2
}

# make_environment REQUIREMENTS: creates .venv with exactly these packages; an environment of the same files is kept.
make_environment() {
    local requirements=$1 sum
    sum=$(cat requirements.txt "$requirements" | sha256sum)
    if [[ -x $VENV/bin/python && -f $VENV/installed-from ]] && [[ $(<"$VENV/installed-from") == "$sum" ]]; then
        echo "packages: kept in $VENV"
        return
    fi
    if ! right_python "$VENV/bin/python"; then
        find_python
        "$python" -m venv --clear "$VENV" || fail "$VENV: cannot be created by $python; see above, and free space in $PWD"
    fi
    rm -f "$VENV/installed-from"
    install "pip==$PIP_VERSION"
    install -r "$requirements"
    touch "$VENV/installed" # marks it as installed for make
    echo "$sum" >"$VENV/installed-from"
    echo "packages: installed into $VENV from $requirements"
}

install() {
    "$VENV/bin/python" -m pip install --quiet --disable-pip-version-check "$@" ||
        fail "pip install $*: failed, see above; check the network and the disk (df -h .), and run it again"
}

right_python() { # 3.11, with venv and ensurepip
    command -v "$1" >/dev/null &&
        "$1" -c 'import sys, venv, ensurepip; sys.exit(sys.version_info[:2] != (3, 11))' 2>/dev/null
}

# Sets `python` to a Python 3.11: from PYTHON, the machine, uv, or the system's packages.
find_python() {
    if [[ -n ${PYTHON:-} ]]; then
        python=$PYTHON
        right_python "$python" || fail "PYTHON=$PYTHON: not a Python 3.11 with venv; set another one, or unset PYTHON"
        return
    fi
    for python in python3.11 python3; do
        if right_python "$python"; then return; fi
    done
    if command -v uv >/dev/null; then
        python_of_uv uv && return
    fi
    if command -v apt-get >/dev/null && as_root true 2>/dev/null; then
        python_of_apt && return
    fi
    if command -v python3 >/dev/null && python3 -m pip install --quiet --user "uv==$UV_VERSION" 2>/dev/null; then
        python_of_uv python3 -m uv && return
    fi
    fail "python3.11: not found, and neither uv nor apt-get can install it; install Python 3.11 with venv, or set" \
        "PYTHON=/path/to/python3.11"
}

python_of_uv() {
    "$@" python install --quiet 3.11 && python=$("$@" python find 3.11) && right_python "$python"
}

python_of_apt() {
    echo "python3.11: installing it by apt-get"
    as_root "${APT[@]}" update || true # an unrelated repository may be unavailable
    if grep -qs '^ID=ubuntu' "${OS_RELEASE:-/etc/os-release}"; then # its own 3.11 is a release candidate, or absent
        as_root "${APT[@]}" install software-properties-common &&
            as_root add-apt-repository -y ppa:deadsnakes/ppa >/dev/null || return 1
    fi
    as_root "${APT[@]}" install python3.11 python3.11-venv >/dev/null || return 1
    python=python3.11
    right_python "$python"
}

as_root() {
    if [[ $(id -u) == 0 ]]; then
        DEBIAN_FRONTEND=noninteractive "$@"
    else
        sudo -n env DEBIAN_FRONTEND=noninteractive "$@"
    fi
}
