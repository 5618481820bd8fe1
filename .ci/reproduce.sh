#!/bin/sh
# Runs the experiment, notebook by notebook. Each notebook skips what is complete, so a second start goes on where the first one stopped.
set -eu
cd "$(dirname "$0")/.."
out=runs/notebooks
began=$(date +%s)
mkdir -p "$out"

clock() { s=$(($(date +%s) - began)); printf '%d:%02d' $((s / 60)) $((s % 60)); }

# notebook NUMBER NAME [papermill's options]: what its cells print goes to the terminal as it comes; the executed notebook is kept
notebook() {
    number=$1 name=$2; shift 2
    kept=$out/$name${2:+-$3}.ipynb
    printf '\n== %s/9  %s  %s\n' "$number" "$(basename "$kept" .ipynb)" "$(clock)"
    .venv/bin/papermill "nbs/$name.ipynb" "$kept" --no-progress-bar --start-timeout 600 --log-level ERROR --stdout-file - --stderr-file - "$@" || {
        printf '\nstopped in %s: as far as it came it is in %s; `make reproduce` goes on from there\n' "$name" "$kept" >&2
        exit 1
    }
}

notebook 1 01_data
notebook 2 02_encode
number=3
for arch in text mlp perceiver flamingo blind; do
    notebook $number 03_train -p arch $arch
    number=$((number + 1))
done
notebook 8 04_evaluate
notebook 9 05_figures

printf '\n'
cat runs/report/summary.txt
printf '\nreport: runs/report/report.html   executed notebooks: %s   %s minutes\n' "$out" "$(clock)"
