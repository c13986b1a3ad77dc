#!/usr/bin/env bash
# A whole cluster on this machine trains a small detector and shows what it learned. Run it by `make demo`.
set -euo pipefail
cd "$(dirname "$0")/.."

yard=target/debug/yard
home=demo
port=${TRAINYARD_DEMO_PORT:-7434}
export YARD_SERVER=http://127.0.0.1:$port

step() { printf '\n\033[1m%s\033[0m\n' "$*"; }

step "1. A small data set: shapes of 3 classes on textured backgrounds"
$yard demo-data $home/shapes

step "2. A cluster: private Redis, scheduler, agent"
$yard up --data-dir $home/cluster --listen 127.0.0.1:$port --data-root "$PWD/$home" --cpu-slots 1 >$home/cluster.log 2>&1 &
cluster=$!
# Whatever happens, the cluster goes when the demo does.
trap 'kill -TERM $cluster 2>/dev/null; wait $cluster 2>/dev/null || true' EXIT
until $yard agents -o json 2>/dev/null | grep -q CONNECTED; do
    kill -0 $cluster 2>/dev/null || { cat $home/cluster.log >&2; exit 1; }
    sleep 0.2
done
$yard agents

step "3. A job: yolov8n from scratch on the CPU"
job=$($yard train $home/shapes/data.yaml --model yolov8n --name shapes --device cpu \
    --imgsz 160 --epochs 30 --batch 16 --workers 2 --close-mosaic 15 --nbs 16)
echo "job $job"
$yard watch "$job"

step "4. What it learned"
rm -rf $home/result
$yard artifacts "$job" get -d $home/result >/dev/null
$yard job "$job"
target/debug/trainyard-trainer predict --weights $home/result/weights/best.safetensors \
    --source $home/shapes/images/val --out $home/result/predicted >/dev/null
echo
echo "weights   $PWD/$home/result/weights/best.safetensors"
echo "pictures  $PWD/$home/result/predicted/*.png   (boxes that the trained model predicts)"
echo "          $PWD/$home/result/val_batch0_pred.jpg   (sixteen of them on one sheet)"
echo "curves    $PWD/$home/result/results.csv"
