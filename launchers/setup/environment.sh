# shellcheck shell=bash
# Functions shared by setup_gpu.sh and setup_tpu.sh: find a Python, and create .venv with pinned packages. To be sourced
# in the checkout's folder, after `set -euo pipefail`.

# shellcheck source=launchers/setup/python.sh
source launchers/setup/python.sh
[[ -f requirements.txt ]] || fail "$PWD: found an installed package; set up a machine from a checkout, which has the requirements"

readonly VENV=.venv UV_VERSION=0.13.9 PIP_VERSION=26.3
readonly DEFAULT_MINOR=3.13 # the Python that is installed if the machine has none
readonly APT=(apt-get -qq -y -o DPkg::Lock::Timeout=600 -o Dpkg::Use-Pty=0) # wait for automatic updates of a new machine

# make_environment REQUIREMENTS: creates .venv with exactly these packages; an environment of the same files is kept.
make_environment() {
    local requirements=$1 sum
    sum=$(cat requirements.txt "$requirements" | sha256sum)
    if [[ -x $VENV/bin/python && -f $VENV/installed-from ]] && [[ $(<"$VENV/installed-from") == "$sum" ]]; then
        echo "packages: kept in $VENV"
        return
    fi
    make_venv "$VENV"
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

# Sets `python` to the machine's newest suitable one, or one from uv or the system's packages.
find_python() {
    newest_python && return
    if command -v uv >/dev/null; then
        python_of_uv uv && return
    fi
    if command -v apt-get >/dev/null && as_root true 2>/dev/null; then
        python_of_apt && return
    fi
    if command -v python3 >/dev/null && python3 -m pip install --quiet --user "uv==$UV_VERSION" 2>/dev/null; then
        python_of_uv python3 -m uv && return
    fi
    fail "python3: found none from 3.$OLDEST to 3.$NEWEST, and neither uv nor apt-get can install one; install one with" \
        "venv, or set PYTHON=/path/to/python3.$OLDEST"
}

python_of_uv() {
    "$@" python install --quiet "$DEFAULT_MINOR" && python=$("$@" python find "$DEFAULT_MINOR") && suitable "$python"
}

python_of_apt() {
    echo "Python: installing it by apt-get"
    as_root "${APT[@]}" update || true # an unrelated repository may be unavailable
    local package=python3
    if grep -qs '^ID=ubuntu' "${OS_RELEASE:-/etc/os-release}"; then # its own may be too old
        package=python$DEFAULT_MINOR
        as_root "${APT[@]}" install software-properties-common &&
            as_root add-apt-repository -y ppa:deadsnakes/ppa >/dev/null || return 1
    fi
    as_root "${APT[@]}" install "$package" "$package-venv" >/dev/null || return 1
    newest_python
}

as_root() {
    if [[ $(id -u) == 0 ]]; then
        DEBIAN_FRONTEND=noninteractive "$@"
    else
        sudo -n env DEBIAN_FRONTEND=noninteractive "$@"
    fi
}
