#!/usr/bin/env bash
# Run a command, and all that it starts, as on a CPU with AVX2 and nothing newer:   benchmarks/as_avx2.sh COMMAND …
set -eu
here=$(cd "$(dirname "$0")" && pwd)
export ATEN_CPU_CAPABILITY=avx2 ONEDNN_MAX_CPU_ISA=AVX2 FBGEMM_ENABLE_INSTRUCTIONS=AVX2 MKL_ENABLE_INSTRUCTIONS=AVX2
export NUMBA_CPU_NAME=znver2 PYTHONPATH="$here/as_avx2${PYTHONPATH:+:$PYTHONPATH}"
exec "$@"
