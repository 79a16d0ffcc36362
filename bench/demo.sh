#!/bin/sh
# The whole product on a small photo set, in the folder $1. The figures that it prints are of the
# demo set only: warps of one portrait, which say nothing about accuracy on people.
set -eu
demo=$1
bench=$(dirname "$0")
rm -rf "$demo"
set -x
python "$bench/demo_photos.py" "$demo/set"
prep landmarks "$demo/set/photos" --out "$demo/cache" --allow-failures
prep masks "$demo/set/masks" --cache "$demo/cache" --polarity visible --clean .
cache verify "$demo/cache"
cache info "$demo/cache"
cache preview "$demo/cache" --out "$demo/preview.png"
# Short trainings from random weights: enough to see both losses fall.
train cal "$demo/cache" --out "$demo/cal" --model cal_mobilefacenet --heads 8 --stride 32 \
  --guide regions-log --no-views --epochs 4 --lr 0.002 --log-every 6 --picture-every 60
train oaml "$demo/cache" --out "$demo/oaml" --backbone mobilefacenet --train all --steps 48 \
  --batch-size 16 --lr 0.01 --log-every 6
python "$bench/demo_losses.py" "$demo/cal" "$demo/oaml"
evaluate verification "$demo/cache" --pairs "$demo/set/pairs.csv" --weights "$demo/cal" \
  --out "$demo/verification" --allow-failures
evaluate report "$demo/verification" --title "Demo set" --out "$demo/report.html"
set +x
echo "Look at $demo/preview.png and open $demo/report.html (demo set: no claim about accuracy)."
