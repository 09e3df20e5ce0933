#!/usr/bin/env bash
# Everything that a GPU has to show, in under eight minutes: its tests, then its figures, which
# 'python benchmark/pages.py speed' shows in docs/speed.md under the card's name. Options are those of gpu.py.
set -euo pipefail
cd "$(dirname "$0")/../.."
python=${PYTHON:-python}
[[ " $* " == *" --tiny "* ]] || "$python" -m pytest -q -p no:cacheprovider -m gpu tests/test_gpu.py
"$python" benchmark/speed/gpu.py "$@"
