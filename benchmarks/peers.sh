#!/usr/bin/env bash
# Installs the peers that the benchmarks run beside us, each pinned, in environments of their own:
#   DIR/torch    kronfluence, dattri, captum, traker
#   DIR/pydvl    pyDVL, which needs numpy < 2
#   DIR/logix    LogIX, which declares Python < 3.11; nothing in it depends on that, so that pip is told to ignore it
#   DIR/bergson  bergson
#   DIR/trees    tree_influence, the authors' code for boosted trees, built from its source; needs gcc and numpy < 2
# Usage: bash benchmarks/peers.sh [DIR [NAME ...]]
#   DIR defaults to .venv-peers; NAMEs are torch, pydvl, logix, bergson, trees, all of them if none is given. A second call changes nothing.
#
# tree_influence is in no package registry: it is fetched from GitHub. Where that cannot be reached, set TREE_INFLUENCE_SOURCE to a
# folder with its source (the one that holds its setup.py), release 0.1.7.
#
# Peers are installed without their own dependencies and the needed ones are named here: several ask for torchvision, which would
# replace the pinned torch by a build with gigabytes of CUDA packages and is not needed for anything that we run.
set -euo pipefail

folder="${1:-.venv-peers}"
wanted=("${@:2}")
[ ${#wanted[@]} -gt 0 ] || wanted=(torch pydvl logix bergson trees)
for name in "${wanted[@]}"; do
  case "$name" in
    torch | pydvl | logix | bergson | trees) ;;
    *) echo "no environment is named $name: give torch, pydvl, logix, bergson or trees." >&2 && exit 2 ;;
  esac
done
python="${PYTHON:-python3}"
root="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
reach="import sys, urllib.request; urllib.request.urlopen(sys.argv[1], timeout=30)"

# install NAME PACKAGES BARE [LABEL]: creates DIR/NAME unless it is not wanted, or was finished with the same packages; BARE, known by
# LABEL, comes without its dependencies
install() {
  local name="$1" plain="$2" bare="$3" label="${4:-$3}" target="$folder/$1"
  [[ " ${wanted[*]} " == *" $name "* ]] || return 0
  local stamp="$target/.ready" packages="$plain | $label | $(cat "$root/constraints.txt")"
  if [ -f "$stamp" ] && [ "$(cat "$stamp")" = "$packages" ]; then
    echo "$target is ready"
    return
  fi
  if [[ $bare =~ https://[^\ ]+ ]] && ! "$python" -c "$reach" "${BASH_REMATCH[0]}" 2>/dev/null; then
    echo "$target: ${BASH_REMATCH[0]} cannot be reached. Set TREE_INFLUENCE_SOURCE to a folder with the source of $label." >&2
    exit 1
  fi
  rm -rf "$target"
  "$python" -m venv "$target"
  local pip=("$target/bin/python" -m pip install --quiet --disable-pip-version-check)
  "${pip[@]}" --constraint "$root/constraints.txt" torch
  # shellcheck disable=SC2086
  "${pip[@]}" --constraint "$root/constraints.txt" $plain
  # shellcheck disable=SC2086
  "${pip[@]}" --no-deps $bare
  printf '%s' "$packages" >"$stamp"
  echo "$target is ready"
}

install torch \
  "numpy>=2 scipy scikit-learn tqdm einops einconv opt_einsum safetensors accelerate matplotlib packaging pyyaml pretty_midi" \
  "kronfluence==1.0.1 dattri==0.3.0 captum==0.9.0 traker==0.3.2"

install pydvl \
  "numpy<2 scipy scikit-learn pandas cvxpy joblib cloudpickle psutil tqdm more-itertools matplotlib typing-extensions pyDeprecate<0.4 numcodecs<0.16" \
  "pydvl==0.10.0"

install logix \
  "numpy>=2 einops pyyaml tqdm" \
  "--ignore-requires-python logix-ai==0.1.1"

install bergson \
  "numpy>=2 scipy accelerate datasets jinja2 jaxtyping>=0.3.3 ml_dtypes natsort peft petname pyarrow pyyaml simple-parsing transformers>=5 huggingface-hub" \
  "bergson==2.5.1 torchopt==0.7.3"

# Where release 0.1.7 is published; or a folder that holds it, copied because building writes into it.
source="https://github.com/jjbrophy47/tree_influence/archive/refs/tags/v0.1.7.zip"
if [ -n "${TREE_INFLUENCE_SOURCE:-}" ]; then
  if ! grep -qs 'version="0.1.7"' "$TREE_INFLUENCE_SOURCE/setup.py"; then
    echo "TREE_INFLUENCE_SOURCE=$TREE_INFLUENCE_SOURCE holds no setup.py of tree_influence 0.1.7." >&2
    exit 1
  fi
  source="$(mktemp -d)"
  trap 'rm -rf "$source"' EXIT
  cp -R "$TREE_INFLUENCE_SOURCE/." "$source"
fi

install trees \
  "numpy<2 scipy<1.14 scikit-learn<1.4 pandas<3 joblib lightgbm xgboost-cpu cython setuptools<70 wheel" \
  "--no-build-isolation $source" \
  "tree_influence 0.1.7"
