#!/usr/bin/env bash
# The tests of boosted trees in fresh environments, each with Steelyard, its own dependencies and one release of one library.
# Usage: tests/trees/versions.sh [PACKAGE[==RELEASE][,OTHER…] …], from the repository's root; OTHERs are what that release needs beside it.
#   PYTHON: what makes the environments, python3 if unset. TMPDIR: where they are made, /tmp if unset; they are removed afterwards.
set -u
releases=("$@")
if [ ${#releases[@]} -eq 0 ]; then
  # The estimators of LightGBM 4.5 call what scikit-learn 1.8 no longer has.
  releases=(lightgbm "lightgbm==4.5.0,scikit-learn<1.8" xgboost-cpu xgboost-cpu==2.1.4 catboost scikit-learn scikit-learn==1.6.1)
fi
# Which tests are about a library, by words in their names and parameters.
declare -A about=(
  [lightgbm]="lightgbm" [xgboost-cpu]="xgboost" [xgboost]="xgboost" [catboost]="catboost" [scikit-learn]="sklearn or hist or plain"
)
failed=0
lines=()
for release in "${releases[@]}"; do
  IFS=, read -ra packages <<<"$release"
  name=${packages[0]%%[=<>]*}
  if [ -z "${about[$name]:-}" ]; then
    echo "$release is none of ${!about[*]}." >&2
    exit 2
  fi
  folder=$(mktemp -d "${TMPDIR:-/tmp}/steelyard-versions.XXXXXX")
  trap 'rm -rf "$folder"' EXIT
  "${PYTHON:-python3}" -m venv "$folder" || exit 1
  python="$folder/bin/python"
  "$python" -m pip install --quiet --disable-pip-version-check --editable . pytest hypothesis beartype "${packages[@]}" || exit 1
  # Older releases warn about newer versions of NumPy and Python, which is not for us to mend.
  PYTHONPATH=src "$python" -W ignore -m pytest -q -W ignore -p no:cacheprovider -m "trees and not slow" -k "${about[$name]}" \
    tests/trees tests/learners/test_boosted.py tests/learners/test_boosted_own.py tests/learners/test_boosted_bad_input.py \
    tests/learners/test_fits_of_boosted.py tests/learners/test_lightgbm_refits.py tests/score/test_leaf_methods.py |
    tee "$folder/tests.txt"
  result=${PIPESTATUS[0]}
  [ "$result" -eq 0 ] || failed=1
  installed=$("$python" -c "import importlib.metadata as m, sys; print(m.version(sys.argv[1]))" "$name")
  lines+=("$name $installed, scikit-learn $("$python" -c "import sklearn; print(sklearn.__version__)"): $(tail -n 1 "$folder/tests.txt")")
  rm -rf "$folder"
done
printf '%s\n' "${lines[@]}"
exit $failed
