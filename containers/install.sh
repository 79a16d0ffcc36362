#!/bin/sh
# What the Dockerfile and faceguide.def run, as root, in a Debian image with Python, next to the copied
# repository. TORCH_INDEX: where pip finds torch, "pypi" or the address of an index.
set -eu
cd "$(dirname "$0")/.."

# OpenCV loads the first two, mediapipe 1.x the others.
apt-get update
apt-get install --yes --no-install-recommends libgl1 libglib2.0-0 libegl1 libgles2
rm -rf /var/lib/apt/lists/*

constraints=constraints.txt
# mediapipe 0.10.21 has no wheel for Linux on ARM.
if [ "$(uname -m)" = aarch64 ]; then constraints=constraints-new.txt; fi
# Of equal versions pip takes the one with a suffix, such as +cpu, which PyPI does not have.
set --
if [ "$TORCH_INDEX" != pypi ]; then set -- --extra-index-url "$TORCH_INDEX"; fi
pip install --no-cache-dir "$@" --constraint "$constraints" '.[all]'

# What the image is for starts.
for command in prep cache train evaluate faceguide; do "$command" --version; done
