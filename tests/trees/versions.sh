#!/usr/bin/env bash
# The tests of boosted trees with other releases of their libraries, each laid over the installed ones in a fresh folder.
# Usage: tests/trees/versions.sh [PACKAGE==RELEASE …], from the repository's root, in an environment with steelyard[trees,dev].
set -u
releases=("$@")
if [ ${#releases[@]} -eq 0 ]; then
  releases=(lightgbm==4.5.0 xgboost-cpu==2.1.4)
fi
failed=0
for release in "${releases[@]}"; do
  folder=$(mktemp -d)
  name=${release%%==*}
  python -m pip install --quiet --no-deps --target "$folder" "$release" || exit 1
  PYTHONPATH="$folder:src" python -m pytest -q tests/trees tests/learners/test_boosted.py \
    tests/learners/test_boosted_own.py tests/learners/test_boosted_bad_input.py -k "${name%-cpu}" || failed=1
  echo "$release: exit $failed so far"
  rm -rf "$folder"
done
exit $failed
