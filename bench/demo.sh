#!/bin/sh
# The whole product on a small photo set, in the folder $1: every mechanism in one report. Its faces
# are warps of one portrait, so no figure says anything about accuracy on people. Rerun to resume.
set -eu
demo=$1
bench=$(dirname "$0")
set -x
python "$bench/demo_photos.py" "$demo/set"
python "$bench/demo_lists.py" "$demo/set"
prep landmarks "$demo/set/photos.csv" --out "$demo/cache" --allow-failures
prep masks "$demo/set" --table "$demo/set/masks.csv" --cache "$demo/cache" --polarity visible \
  --clean . --allow-failures
cache verify "$demo/cache"
cache preview "$demo/cache" --known-occlusion --faces 8 --out "$demo/preview.png"
# Short trainings from random weights, on identities apart from those of the pairs.
train cal "$demo/cache" --out "$demo/cal" --meta split=train --model cal_mobilefacenet --heads 8 \
  --guide regions-log=5 --no-views --pairs "$demo/set/unoccluded.csv" --epochs 4 --lr 0.002 \
  --log-every 4
train oaml "$demo/cache" --out "$demo/oaml" --meta split=train --backbone mobilefacenet \
  --no-augment --epochs 8 --batch-size 16 --lr 0.05 --occlusion-weight 10 --recognition-weight 0.3 \
  --log-every 4
python "$bench/demo_losses.py" "$demo/cal" "$demo/oaml"
# One network, three matchers, two lists; embeddings are computed once per list.
for list in unoccluded veiled; do
  for matcher in cosine visible-embedding qaconv+occlusion; do
    evaluate verification "$demo/cache" --pairs "$demo/set/$list.csv" --weights "$demo/oaml" \
      --matcher "$matcher" --out "$demo/$list-$matcher" --embeddings "$demo/embeddings" \
      --bootstrap 100 --allow-failures
  done
done
evaluate attribution "$demo/cache" --pairs "$demo/set/unoccluded.csv" --weights "$demo/oaml" \
  --protocol matched --anyway --methods saliency,gradient-input,hirescam,lrp --limit 8 --bootstrap 100 --out "$demo/attribution"
python "$bench/demo_report.py" "$demo"
set +x
echo "Open $demo/report.html (demo set: no claim about accuracy)."
