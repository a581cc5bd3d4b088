#!/bin/bash
# Communication over MPI: the suite of test_comm on 2, 3 and 4 ranks, in whole, in small segments, and as if every two
# ranks had a host of their own, and failures:
# within 10 s every rank that lives must have ended, with one sentence that names the rank and its host.
#
#     bash tests/test_comm_mpi.sh BUILD_DIR          exit status 77 without mpirun, or in a build without MPI
set -u
build=${1:?usage: test_comm_mpi.sh BUILD_DIR}
program=$build/test_comm
if ! command -v mpirun >/dev/null || ! ldd "$program" | grep -q -i 'libmpi'; then
    echo "skipped: no mpirun, or built without MPI"
    exit 77
fi
scratch=$(mktemp -d) || exit 1
trap 'rm -rf "$scratch"' EXIT
openmpi=$(mpirun --version 2>&1 | sed -n 's/.*Open MPI[^0-9]*\([0-9]*\).*/\1/p;s/.*OpenRTE[^0-9]*\([0-9]*\).*/\1/p' | head -1)
run() {
    if [ -n "$openmpi" ]; then
        OMPI_MCA_rmaps_base_oversubscribe=1 OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1 \
            PRTE_MCA_rmaps_default_mapping_policy=:oversubscribe timeout 120 mpirun "$@"
    else
        timeout 120 mpirun "$@"
    fi
}
# Sanitizers: what MPI itself leaves behind is not ours.
export ASAN_OPTIONS=detect_leaks=0 OMPI_MCA_btl_vader_single_copy_mechanism=${OMPI_MCA_btl_vader_single_copy_mechanism:-none}

failed=0
fail() {
    failed=$((failed + 1))
    echo "FAILED: $*" >&2
    sed 's/^/    /' "$scratch/out" >&2
}

for ranks in 2 3 4; do
    for how in "" segments hosts; do
        [ "$how" = hosts ] && [ $ranks != 4 ] && continue
        run -n $ranks "$program" $how >"$scratch/out" 2>&1 || fail "$ranks ranks $how: status $?"
        [ "$(grep -c '^passed$' "$scratch/out")" = $ranks ] || fail "$ranks ranks $how: not all passed"
    done
done

# expect CASE LEAST SENTENCE: at least so many of 3 ranks say a sentence that matches, within 10 s.
expect() {
    begin=$(date +%s)
    run -n 3 "$program" "$1" "${4:-}" >"$scratch/out" 2>&1 && fail "$1: status 0"
    took=$(($(date +%s) - begin))
    [ $took -le 14 ] || fail "$1: took $took s"
    said=$(grep -c -E "^trireme: .*$3" "$scratch/out")
    [ "$said" -ge "$2" ] || fail "$1: $said ranks said it"
}
expect error 2 'rank 1 on host [^ ]+ failed: no such file: data.bin'
expect mismatch 2 'the ranks do not run the same operations'
expect agree 3 'the ranks do not have the same plan: rank 1 \(the first on host [^ ]+\) differs from the others'
expect stop 2 'rank 1 on host [^ ]+ has not been heard of for [0-9]+ s'
# Killed: Open MPI ends the other ranks itself, so that they may not come to speak.
expect kill 0 'rank 1 on host'
[ $failed = 0 ] && echo "passed"
[ $failed = 0 ]
