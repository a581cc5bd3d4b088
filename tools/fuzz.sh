#!/usr/bin/env bash
# A turn of every fuzzer: builds each tests/fuzz_*.c with clang in build-fuzz/, with libFuzzer's coverage,
# AddressSanitizer and UndefinedBehaviorSanitizer in everything it reads through, and runs it for FUZZ_SECONDS.
#
#     tools/fuzz.sh [NAME ...]        NAME: fuzz_json ...; all without one
#     FUZZ_SECONDS=600 tools/fuzz.sh fuzz_json
#     build-fuzz/fuzz_json FILE       repeats one finding
#
# What a fuzzer has learned stays in build-fuzz/corpus/NAME and the next run begins with it. A finding (crash, leak,
# more than 20 seconds or 2 GB for one input) is kept in build-fuzz/findings. Ends with one line of counts.
# Exit status: 0 none found anything; 1 a finding, or a fuzzer does not build; 77 no clang with libFuzzer here.
set -uo pipefail
cd "$(dirname "$0")/.." || exit 1
seconds=${FUZZ_SECONDS:-60}
out=build-fuzz
clang=${CLANG:-clang}
flags=(-std=gnu11 -O1 -g -fno-omit-frame-pointer -fsanitize=address,undefined,fuzzer-no-link
    -fno-sanitize-recover=undefined -Isrc -Iinclude -DTR_VERSION=\"fuzz\")

skip() {
    echo "tools/fuzz.sh: $*; nothing was fuzzed" >&2
    echo "0 passed, 0 failed, $(ls tests/fuzz_*.c | wc -l) skipped"
    exit 77
}

mkdir -p $out/corpus $out/findings
command -v "$clang" >/dev/null || skip "there is no clang (Debian: apt-get install clang)"
echo 'int LLVMFuzzerTestOneInput(const unsigned char *d, unsigned long n); int LLVMFuzzerTestOneInput(const unsigned char *d,
unsigned long n) { return d && n == 77 ? 0 : 0; }' >$out/probe.c
"$clang" -fsanitize=fuzzer,address,undefined $out/probe.c -o $out/probe 2>$out/probe.log ||
    skip "this clang has no libFuzzer or sanitizer runtime (Debian: libclang-rt-dev, or compiler-rt)"
echo '#include <omp.h>' >$out/probe_omp.c
"$clang" -fopenmp -fsyntax-only $out/probe_omp.c 2>/dev/null || skip "this clang has no OpenMP (Debian: libomp-dev)"
omp=(-fopenmp)
pkg-config --exists yaml-0.1 jansson zlib || skip "pkg-config, libyaml, jansson or zlib is missing"
read -ra cflags <<<"$(pkg-config --cflags yaml-0.1 jansson zlib)"
read -ra libraries <<<"$(pkg-config --libs yaml-0.1 jansson zlib) -ldnnl -lpthread -lm"
flags+=("${omp[@]}" "${cflags[@]}")

# The floors that read outside bytes, and those that these need. Only what a fuzzer refers to is linked.
cat >$out/Makefile.objects <<'MAKE'
OBJECTS := $(patsubst src/%.c,$(OUT)/objects/%.o,$(wildcard $(FLOORS:%=src/%/*.c)))
$(OUT)/libfuzzed.a: $(OBJECTS)
	rm -f $@
	ar rcs $@ $(OBJECTS)
$(OUT)/objects/%.o: src/%.c
	@mkdir -p $(@D)
	$(CC) $(FLAGS) -MMD -c $< -o $@
-include $(OBJECTS:.o=.d)
MAKE
make --no-print-directory -s -j2 -f $out/Makefile.objects OUT=$out CC="$clang" \
    FLOORS="base ir ops passes comm exec plan models data train kernels kernels/reference" \
    FLAGS="${flags[*]//\"/\\\"}" 2>$out/build.log || {
    tail -n 5 $out/build.log >&2
    exit 1
}

# A first input or two, so that it need not guess what the format looks like.
sow() { # NAME FILE...
    local name=$1 file
    shift
    mkdir -p "$out/corpus/$name"
    for file in "$@"; do
        [ ! -s "$file" ] || [ "$(stat -c %s "$file")" -gt 60000 ] || cp "$file" "$out/corpus/$name/seed-$(basename "$file")"
    done
}
sow fuzz_json tests/golden/gpt2/config.json
sow fuzz_yaml examples/*.yaml
sow fuzz_gguf tests/golden/blocks.gguf
{ printf '\004'; cat tests/golden/spiece_unigram.model; } >$out/unigram.pieces
{ printf '\004'; cat tests/golden/spiece_bpe.model; } >$out/bpe.pieces
printf '\005[PAD]\n[UNK]\n[CLS]\n[SEP]\n[MASK]\nrow\n##ing\n' >$out/vocab.txt
printf '\006(?i:a|\\p{L}{1,3})+?[^\\s\\d]*(?!x)\000abc def' >$out/pattern
printf '\033the rowers row the oars' >$out/learn
sow fuzz_tokenizer $out/unigram.pieces $out/bpe.pieces $out/vocab.txt $out/pattern $out/learn
if [ -x build/trireme ]; then
    for pass in model order; do
        build/trireme inspect model.layers=1 model.embed=8 model.heads=2 train.seq=4 train.batch=2 model.vocab=9 \
            --dump-after=$pass >$out/$pass.graph 2>/dev/null || true
    done
    sow fuzz_graph $out/model.graph $out/order.graph
fi

one() { # NAME: builds and runs it; the last line of its log is "status N"
    local name=$1 status=0 before
    {
        "$clang" "${flags[@]}" -fsanitize=fuzzer "tests/$name.c" $out/libfuzzed.a "${libraries[@]}" \
            -o "$out/$name" || status=100
        if [ $status = 0 ]; then
            mkdir -p "$out/corpus/$name"
            OMP_NUM_THREADS=2 "$out/$name" -max_total_time="$seconds" -timeout=20 -rss_limit_mb=2048 -max_len=65536 \
                -print_final_stats=1 -artifact_prefix="$out/findings/$name-" "$out/corpus/$name" || status=$?
        fi
        echo "status $status"
    } >"$out/$name.log" 2>&1
}

names=("$@")
[ ${#names[@]} -gt 0 ] || for source in tests/fuzz_*.c; do names+=("$(basename "$source" .c)"); done
for name in "${names[@]}"; do
    [ -f "tests/$name.c" ] || { echo "tools/fuzz.sh: there is no tests/$name.c" >&2; exit 1; }
    while [ "$(jobs -rp | wc -l)" -ge 2 ]; do wait -n; done
    one "$name" &
done
wait

passed=0 failed=0
for name in "${names[@]}"; do
    case $(tail -n 1 "$out/$name.log") in
    "status 0")
        passed=$((passed + 1))
        echo "ok: $name, $(sed -n 's/^stat::number_of_executed_units: *//p' "$out/$name.log") inputs"
        ;;
    "status 100")
        failed=$((failed + 1))
        echo "FAILED $name does not build:"
        grep -m 5 error "$out/$name.log"
        ;;
    *)
        failed=$((failed + 1))
        echo "FAILED $name ($out/$name.log):"
        grep -m 3 -E 'ERROR:|runtime error|SUMMARY|Test unit written' "$out/$name.log"
        ;;
    esac
done
echo "$passed passed, $failed failed, 0 skipped"
[ $failed -eq 0 ]
