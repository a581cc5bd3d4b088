#!/usr/bin/env bash
# Every family's losses on meshes of 4 ranks are those of one rank, experts with data, tensor and pipeline among them: the
# quick part of tools/parity_families.sh.
#     tests/test_parity_families.sh BUILD_DIR
exec "$(dirname "$0")/../tools/parity_families.sh" --quick "${1:?usage: test_parity_families.sh BUILD_DIR}"
