#!/bin/sh
# The whole product on a small photo set, in the folder $1. The figures that it prints are of the
# demo set alone: warps of one portrait, which say nothing about accuracy on people.
set -eu
demo=$1
rm -rf "$demo"
set -x
prep demo-photos "$demo/set"
prep landmarks "$demo/set/photos" --out "$demo/cache" --allow-failures
prep masks "$demo/set/masks" --cache "$demo/cache" --polarity visible --clean .
cache verify "$demo/cache"
cache info "$demo/cache"
cache preview "$demo/cache" --out "$demo/preview.png"
