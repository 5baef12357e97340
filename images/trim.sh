#!/bin/sh
# Removes from an installed tree what no step runs: packages' own tests, C++ headers. Bytecode stays: with a read-only
# root every process would compile it again.
set -eu
cd "$1"
find . -type d \( -path '*/pandas/tests' -o -path '*/pyarrow/tests' -o -path '*/matplotlib/tests' \
  -o -path '*/sklearn/*/tests' -o -path '*/sklearn/tests' -o -path '*/scipy/*/tests' -o -path '*/numpy/*/tests' \
  -o -path '*/networkx/*/tests' -o -path '*/networkx/tests' -o -path '*/sympy/*/tests' -o -path '*/pywt/tests' \
  -o -path '*/pyarrow/include' -o -path '*/torch/include' -o -path '*/torch/test' \) -prune -exec rm -rf {} +
