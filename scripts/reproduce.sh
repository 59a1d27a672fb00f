#!/usr/bin/env bash
# Every published number, from nothing to verdicts: data, experiments, report, claims. docs/reproduce.md says more.
#
#     bash scripts/reproduce.sh                                  everything
#     bash scripts/reproduce.sh --estimate                       only say what it will cost
#     bash scripts/reproduce.sh --accept-licence                 download without asking about licences
#     bash scripts/reproduce.sh runtime.precision=bf16 dataset.categories=[bottle,candle]
#
# All other arguments are settings, handed to every experiment as to run.py; results_dir=… says where results go.
# From the environment:
#     WINCLIP_BENCH_DATA    the folder that holds mvtec and visa, or gets them; data
#     WINCLIP_BENCH_CACHE   features; ~/.cache/winclip-bench
#     EXPERIMENTS           of conf/experiment, in their order; all of them that test a claim, and protocol_gap
#     PYTHON                the interpreter; python
#
# Interrupted at any point, the same command continues: what is downloaded, encoded or finished is not done again. An
# experiment that fails does not hinder the next; the exit code is then 1.
set -u
cd "$(dirname "$0")/.." || exit 1

python=${PYTHON:-python}
data=${WINCLIP_BENCH_DATA:-data}
# The first encodes everything under the paper's protocol, the second squashed; the others read almost all of it.
experiments=${EXPERIMENTS:-zero_shot accurate_winclip few_shot prompt_ensembles scales image_only aggregation \
    association_only protocol_gap}
results=results estimate_only= licence=() settings=()
for argument in "$@"; do
    case $argument in
        --estimate) estimate_only=1 ;;
        --accept-licence) licence=(--accept-licence) ;;
        results_dir=*) results=${argument#*=} ;;
        *=*) settings+=("$argument") ;;
        *) echo "error: $argument is neither a setting nor one of --estimate and --accept-licence" >&2; exit 2 ;;
    esac
done

# What ends by Ctrl-C ends everything; what else goes wrong is remembered.
failed=()
attempt() {
    local name=$1 code=0
    shift
    echo "== $name" >&2
    "$@" || code=$?
    [ "$code" -lt 128 ] || exit "$code"
    [ "$code" -eq 0 ] || failed+=("$name")
    return "$code"
}

# shellcheck disable=SC2086  # experiments are words
"$python" scripts/estimate.py $experiments "${settings[@]}" || exit
[ -z "$estimate_only" ] || exit 0

for dataset in mvtec visa; do
    [ -d "$data/$dataset" ] ||
        attempt "download $dataset" "$python" -m winclip_bench.data download "$dataset" --root "$data" "${licence[@]}" ||
        exit
done

for experiment in $experiments; do
    attempt "$experiment" "$python" run.py "experiment=$experiment" "${settings[@]}" "results_dir=$results"
done

case " ${experiments} " in
    *" protocol_gap "*) attempt "gap" "$python" -m winclip_bench.report.gap "$results" ;;
esac
attempt report "$python" -m winclip_bench.report page --results-dir "$results"
attempt claims "$python" -m winclip_bench.claims --results-dir "$results"

if [ ${#failed[@]} -gt 0 ]; then
    echo "not finished: ${failed[*]}; the same command tries again" >&2
    exit 1
fi
