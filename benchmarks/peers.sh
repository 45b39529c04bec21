#!/usr/bin/env bash
# Installs the peers that the benchmarks run beside us, each pinned, in environments of their own:
#   DIR/torch    kronfluence, dattri, captum, traker
#   DIR/pydvl    pyDVL, which needs numpy < 2
#   DIR/logix    LogIX, which declares Python < 3.11; nothing in it depends on that, so that pip is told to ignore it
#   DIR/bergson  bergson
#   DIR/trees    tree_influence, the authors' code for boosted trees, built from its repository; needs gcc and numpy < 2
# Usage: bash benchmarks/peers.sh [DIR]          DIR defaults to .venv-peers. A second call changes nothing.
#
# Peers are installed without their own dependencies and the needed ones are named here: several ask for torchvision, which would
# replace the pinned torch by a build with gigabytes of CUDA packages and is not needed for anything that we run.
set -euo pipefail

folder="${1:-.venv-peers}"
python="${PYTHON:-python3}"
root="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"

# environment NAME STAMP-TEXT: creates DIR/NAME unless it was finished with the same text
install() {
  local name="$1" plain="$2" bare="$3" target="$folder/$1"
  local stamp="$target/.ready" wanted="$2 | $3 | $(cat "$root/constraints.txt")"
  if [ -f "$stamp" ] && [ "$(cat "$stamp")" = "$wanted" ]; then
    echo "$target is ready"
    return
  fi
  rm -rf "$target"
  "$python" -m venv "$target"
  local pip=("$target/bin/python" -m pip install --quiet --disable-pip-version-check)
  "${pip[@]}" --constraint "$root/constraints.txt" torch
  # shellcheck disable=SC2086
  "${pip[@]}" --constraint "$root/constraints.txt" $plain
  # shellcheck disable=SC2086
  "${pip[@]}" --no-deps $bare
  printf '%s' "$wanted" >"$stamp"
  echo "$target is ready"
}

install torch \
  "numpy>=2 scipy scikit-learn tqdm einops einconv opt_einsum safetensors accelerate matplotlib packaging pyyaml pretty_midi" \
  "kronfluence==1.0.1 dattri==0.3.0 captum==0.9.0 traker==0.3.2"

install pydvl \
  "numpy<2 scipy scikit-learn pandas cvxpy joblib cloudpickle psutil tqdm more-itertools matplotlib typing-extensions pyDeprecate<0.4 numcodecs<0.16" \
  "pydvl==0.10.0"

install trees \
  "numpy<2 scipy<1.14 scikit-learn<1.4 pandas<3 joblib lightgbm cython setuptools<70" \
  "--no-build-isolation https://github.com/jjbrophy47/tree_influence/archive/refs/tags/v0.1.7.zip"

install logix \
  "numpy>=2 einops pyyaml tqdm" \
  "--ignore-requires-python logix-ai==0.1.1"

install bergson \
  "numpy>=2 scipy accelerate datasets jinja2 jaxtyping>=0.3.3 ml_dtypes natsort peft petname pyarrow pyyaml simple-parsing transformers>=5 huggingface-hub" \
  "bergson==2.5.1 torchopt==0.7.3"
