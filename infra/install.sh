#!/bin/sh
# install.sh VENV cpu|cuda: a virtual environment with the runtime dependencies at their locked versions.
# Run from the repository root; development tools stay out. The container image and its test both run this.
set -eu
venv=$1
torch=$2
case $torch in
  cpu) torch_index="--extra-index-url https://download.pytorch.org/whl/cpu" ;;
  cuda) torch_index="" ;;
  *)
    echo "error: torch build '$torch' is neither cpu nor cuda" >&2
    exit 2
    ;;
esac

python3 -m venv "$venv"
"$venv/bin/python" -m pip install --quiet --upgrade "pip>=25" "setuptools>=77" wheel
# shellcheck disable=SC2086  # the index is two words or none
"$venv/bin/python" -m pip install --quiet "$(sed -n 's/^\(torch==[0-9.]*\).*/\1/p' requirements.lock)" $torch_index
"$venv/bin/python" -c '
import tomllib
with open("pyproject.toml", "rb") as file:
    print("\n".join(tomllib.load(file)["project"]["dependencies"]))
' >"$venv/dependencies.txt"
"$venv/bin/python" -m pip install --quiet --constraint requirements.lock --requirement "$venv/dependencies.txt"
