#!/usr/bin/env bash
# Write the locks from pyproject.toml: hashed requirement files without addresses, one per image, one for laptops (the trainer
# and what `m3` needs to talk to a cluster) and one for development.
# Not uv.lock: it records the host name of the registry that it was made with.
set -euo pipefail
cd "$(dirname "$0")/.."
uv=${UV:-.venv/bin/uv}
compile() {
  "$uv" pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-emit-index-url --no-annotate \
    --custom-compile-command "make lock" "$@"
}
compile pyproject.toml --extra operator --extra trainer --extra boosting --extra cluster --extra kaggle --group dev -o requirements/dev.txt
compile pyproject.toml --extra operator -c requirements/dev.txt -o requirements/operator.txt
compile pyproject.toml --extra trainer --extra boosting -c requirements/dev.txt -o requirements/trainer.txt
compile pyproject.toml --extra trainer --extra boosting --extra cluster -c requirements/dev.txt -o requirements/laptop.txt
printf 'hatchling\neditables\n' | compile - -o requirements/build.txt
echo 'uv' | compile - -o requirements/uv.txt
