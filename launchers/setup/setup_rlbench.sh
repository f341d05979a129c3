#!/usr/bin/env bash
# Installs RLBench with its dependencies at pinned versions, and plays one episode to check the installation.
#
#   launchers/setup/setup_rlbench.sh [PYTHON]     of the environment to install into, relative to the checkout (.venv/bin/python)
#
# COPPELIASIM_ROOT: path of CoppeliaSim, existing or to be installed (~/CoppeliaSim). COPPELIASIM_ARCHIVE: its archive,
# if already downloaded. RLBENCH_VARIANT: original, or peract for PerAct's fork. Repeated calls keep what is installed.
set -euo pipefail

readonly RLBENCH=https://github.com/stepjam/RLBench.git RLBENCH_COMMIT=02720bba4c73fe02eb75df946b8791b806028a9d
readonly PERACT=https://github.com/MohitShridhar/RLBench.git PERACT_COMMIT=ad991951bc53e4f3b73b803a75cf4b7d55295cf7
readonly PYREP=https://github.com/stepjam/PyRep.git PYREP_COMMIT=8f420be8064b1970aae18a9cfbc978dfb15747ef
readonly ARCHIVE=CoppeliaSim_Edu_V4_1_0_Ubuntu20_04.tar.xz
readonly ARCHIVE_URL=https://downloads.coppeliarobotics.com/V4_1_0/$ARCHIVE
readonly ARCHIVE_SHA256=512de3a7347387fcc1b12fa675195a912265753f7901808382865bbf51a2a7f8
readonly SCREEN="-screen 0 1280x1024x24"

python=${1:-.venv/bin/python}
COPPELIASIM_ROOT=${COPPELIASIM_ROOT:-$HOME/CoppeliaSim}
export COPPELIASIM_ROOT=${COPPELIASIM_ROOT%/}

main() {
    cd "$(dirname "${BASH_SOURCE[0]}")/../.."
    command -v "$python" >/dev/null || fail "$python: no such Python; run make install first, or give another path"
    [[ ${RLBENCH_VARIANT:=original} =~ ^(original|peract)$ ]] || fail "RLBENCH_VARIANT: found $RLBENCH_VARIANT; allowed: original, peract"
    [[ $(uname -s) == Linux && $(uname -m) == x86_64 ]] || fail "$(uname -sm): CoppeliaSim 4.1.0 needs Linux on x86_64"
    for program in git cc tar xz sha256sum; do
        need "$program"
    done
    need_headers
    licences
    install_coppeliasim
    install_python_packages
    write_variables
    smoke_episode
}

fail() {
    echo "error: $*" >&2
    exit 2
}

need() {
    command -v "$1" >/dev/null || fail "$1: not installed; on Ubuntu: sudo apt-get install git build-essential xz-utils curl"
}

# PyRep has a part in C.
need_headers() {
    local header
    header=$("$python" -c 'import sysconfig; print(sysconfig.get_path("include") + "/Python.h")')
    [[ -e $header ]] || fail "$header: not found; on Ubuntu: sudo apt-get install" \
        "$("$python" -c 'import sys; print("python%d.%d-dev" % sys.version_info[:2])')"
}

licences() {
    cat <<'END'
RLBench is licensed by Imperial College London for non-commercial use, CoppeliaSim Edu for education only, PyRep under
the MIT license. They are downloaded from their authors' servers and are not part of InstructRL.
END
}

install_coppeliasim() {
    if [[ -e $COPPELIASIM_ROOT/libcoppeliaSim.so ]]; then
        echo "CoppeliaSim: kept in $COPPELIASIM_ROOT"
    else
        [[ ! -e $COPPELIASIM_ROOT ]] || fail "$COPPELIASIM_ROOT: exists, but is not CoppeliaSim; set COPPELIASIM_ROOT to another folder"
        local archive=${COPPELIASIM_ARCHIVE:-${XDG_CACHE_HOME:-$HOME/.cache}/instructrl/$ARCHIVE}
        [[ -e $archive ]] || download "$archive"
        echo "$ARCHIVE_SHA256  $archive" | sha256sum --check --status ||
            fail "$archive: damaged, or not CoppeliaSim 4.1.0 for Ubuntu 20.04; remove it and run this again"
        rm -rf "$COPPELIASIM_ROOT.part"
        mkdir -p "$COPPELIASIM_ROOT.part"
        tar -xf "$archive" -C "$COPPELIASIM_ROOT.part" --strip-components 1
        mv "$COPPELIASIM_ROOT.part" "$COPPELIASIM_ROOT"
        echo "CoppeliaSim: installed in $COPPELIASIM_ROOT"
    fi
    [[ -e $COPPELIASIM_ROOT/libcoppeliaSim.so.1 ]] || ln -s libcoppeliaSim.so "$COPPELIASIM_ROOT/libcoppeliaSim.so.1"
    export LD_LIBRARY_PATH=${LD_LIBRARY_PATH:+$LD_LIBRARY_PATH:}$COPPELIASIM_ROOT
    export QT_QPA_PLATFORM_PLUGIN_PATH=$COPPELIASIM_ROOT
}

download() {
    need curl
    mkdir -p "$(dirname "$1")"
    curl --fail --location --continue-at - --output "$1.part" "$ARCHIVE_URL" ||
        fail "$ARCHIVE_URL: cannot be downloaded; run this again, or set COPPELIASIM_ARCHIVE to a file that you have"
    mv "$1.part" "$1"
}

install_python_packages() {
    # what PyRep and RLBench need, in the versions of this suite where it needs them too
    "$python" -m pip install --quiet --disable-pip-version-check --constraint requirements.txt \
        numpy scipy pillow cffi gymnasium setuptools==80.9.0 wheel==0.45.1 pyquaternion==0.9.9 natsort==8.4.0 ||
        fail "dependencies of PyRep and RLBench cannot be installed; see above"
    install_commit pyrep "$PYREP" "$PYREP_COMMIT"
    if [[ $RLBENCH_VARIANT == peract ]]; then
        # its setup.py leaves rlbench.action_modes out, so it only works from a checkout
        install_commit rlbench "$PERACT" "$PERACT_COMMIT" --editable
    else
        install_commit rlbench "$RLBENCH" "$RLBENCH_COMMIT"
    fi
}

# install_commit NAME REPOSITORY COMMIT [--editable]
install_commit() {
    local name=$1 repository=$2 commit=$3 present source
    present=$("$python" -c "from instructrl.sim.rlbench.library import commit; print(commit('$name'))")
    if [[ $present == "$commit" ]]; then
        echo "$name: kept at $commit"
        return
    fi
    source=("$name @ git+$repository@$commit")
    [[ -z ${4:-} ]] || source=(--editable "git+$repository@$commit#egg=$name")
    "$python" -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation --force-reinstall \
        "${source[@]}" || fail "$name: cannot be built at $commit; see above"
    echo "$name: installed at $commit"
}

write_variables() {
    local file
    file=$("$python" -c "import sys; print(sys.prefix)")/rlbench.sh
    cat >"$file.part" <<END
export COPPELIASIM_ROOT=$(printf %q "$COPPELIASIM_ROOT")
case ":\${LD_LIBRARY_PATH:-}:" in
    *":\$COPPELIASIM_ROOT:"*) ;;
    *) export LD_LIBRARY_PATH="\${LD_LIBRARY_PATH:+\$LD_LIBRARY_PATH:}\$COPPELIASIM_ROOT" ;;
esac
export QT_QPA_PLATFORM_PLUGIN_PATH="\$COPPELIASIM_ROOT"
END
    mv "$file.part" "$file"
    echo "run this before other commands: source $file"
}

smoke_episode() {
    local display=()
    if [[ -z ${DISPLAY:-} ]]; then
        command -v xvfb-run >/dev/null || fail "no X display: sudo apt-get install xvfb (renders on the CPU), or on a" \
            "machine with an NVIDIA GPU: sudo nvidia-xconfig -a --use-display-device=None; sudo X :99 &" \
            "then export DISPLAY=:99; then run this again"
        display=(xvfb-run -a -s "$SCREEN")
        echo "no X display: commands need ${display[*]@Q} in front"
    fi
    "${display[@]}" "$python" -m data_tools.rlbench check
    "${display[@]}" "$python" -m data_tools.rlbench smoke
}

main
