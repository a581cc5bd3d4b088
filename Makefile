# The front door. CMake does the work (CMakePresets.json: release, debug, tsan).
#
#   make            build/trireme, from installed packages
#   make demo       installs what is missing, builds, trains a small GPT on English text, samples from it
#   make test       the same, then every test
#   make debug      build-debug/, with AddressSanitizer and UndefinedBehaviorSanitizer
#   make tsan       build-tsan/, with ThreadSanitizer
#   make clean

.PHONY: all packages demo check test debug tsan sanitize fuzz clean

all: build/CMakeCache.txt
	cmake --build build --target trireme_cli

build/CMakeCache.txt: CMakePresets.json
	cmake --preset release

packages:
	tools/install_packages.sh

demo: packages
	$(MAKE) --no-print-directory all
	tools/demo.sh

# Only the tests, in the release build.
check: all
	cmake --build build
	ctest --test-dir build --output-on-failure --no-tests=error

test: demo
	tools/test.sh

debug tsan:
	cmake --preset $@
	cmake --build build-$@

# The tests again under each sanitizer (tools/sanitize.sh builds what it needs).
sanitize:
	tools/sanitize.sh

fuzz:
	tools/fuzz.sh

clean:
	rm -rf build build-debug build-tsan build-fuzz
