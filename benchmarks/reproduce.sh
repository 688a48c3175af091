#!/usr/bin/env bash
# Measures anew what hangs on the machine's speed, on a machine that does nothing else, and writes the documents' tables.
#
#   benchmarks/reproduce.sh DATA [caption_speed|bench|enhancer|scaling|searches|rewards|training|tables]...
#
# DATA is Flickr8k's folder (captions.train.tsv, captions.dev.tsv, images/). Run it from the root of a checkout with
# camscribe[dev] installed; PYTHON names the interpreter (.venv/bin/python). Without names everything is measured.
# Minutes are those of two cores. What is measured replaces the kept result only when it is whole.
set -euo pipefail
data=${1:?usage: benchmarks/reproduce.sh DATA [caption_speed|bench|enhancer|scaling|searches|rewards|training|tables]...}
shift
python=${PYTHON:-.venv/bin/python}
results=benchmarks/results
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

step() {
  echo "== $1, $(date -u +%H:%M:%S) UTC, load $(cut -d' ' -f1 /proc/loadavg)"
}

caption_speed() { # 5 minutes
  "$python" -m camscribe.benchmarks.caption_speed --random --compare "$data/images/20*.jpg" --out "$work/caption_speed.json"
  cp "$work/caption_speed.json" "$results/"
}

bench() { # 6 minutes, of which compiling the tutorial takes 1.5
  "$python" -m camscribe.runtime.cli bench --peers all --data "$data" --split "dev[:200]" --rounds 20 --out "$work/bench"
  cp "$work/bench/report.json" "$results/bench-cpu.json"
  cp "$work/bench/report.md" "$results/bench-cpu.md"
}

enhancer() { # 2 minutes
  "$python" -m camscribe.runtime.cli bench enhancer --backend cpu --sizes 56x56 80x45 160x90 320x180 480x270 --rounds 30 \
    --out "$work/enhancer"
  cp "$work/enhancer/report.json" "$results/enhancer_speed.json"
}

scaling() { # 4 minutes, most of it exporting models of other sizes
  "$python" -m camscribe.benchmarks.scaling --models --out "$work/scaling.json"
  cp "$work/scaling.json" "$results/"
}

searches() { # 1 minute
  "$python" -m camscribe.benchmarks.search_cost --out "$work/search_cost.json"
  cp "$work/search_cost.json" "$results/"
}

rewards() { # 1 minute
  "$python" -m camscribe.benchmarks.reward_speed --data "$data" --out "$work/reward_speed.json"
  cp "$work/reward_speed.json" "$results/"
}

training() { # 5 minutes; an epoch that has begun is finished, so that a slow machine takes longer
  "$python" -m camscribe.benchmarks.training_speed --data "$data" --images 96 --captions 5 --rounds 1 --epochs 2 \
    --until-cider 0.2 --until-images 200 --tune "dev[:100]" --limit 90 --out "$work/training_speed.json"
  cp "$work/training_speed.json" "$results/"
}

tables() { # seconds
  "$python" -m camscribe.benchmarks.tables
}

[ $# -gt 0 ] || set -- caption_speed bench enhancer scaling searches rewards training tables
for name in "$@"; do
  case $name in
    caption_speed | bench | enhancer | scaling | searches | rewards | training | tables) ;;
    *) echo "reproduce.sh: there is no $name; expected caption_speed, bench, enhancer, scaling, searches, rewards, training or tables" >&2 && exit 2 ;;
  esac
done
for name in "$@"; do
  step "$name"
  "$name"
done
step done
