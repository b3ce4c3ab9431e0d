#!/usr/bin/env bash
# Trains the examples of docs/unit.md, and copies the figures that it shows into docs/unit/.
set -euo pipefail
cd "$(dirname "$0")/.."
work=runs/unit out=docs/unit
export BENTOML_HOME=$PWD/$work/store
mkdir -p "$BENTOML_HOME" "$out"
percept() { .venv/bin/percept "$@" --runs "$work"; }

copy() { cp "$work/$1" "$out/$2"; }

percept run regions
percept run regions --set name=linear --set 'model.hidden=[]' --force
percept run sine
percept run digits --data scans
early="--set train.epochs=150 --set train.early_stopping=40 --set train.schedule=constant --set train.mix=0"
percept run instruments $early
percept extract regions --set name=overfitted
percept train regions --set name=overfitted --set 'model.hidden=[100]' --set model.activation=tanh \
  --set train.epochs=1000 --set train.early_stopping=200
percept validate regions --set name=overfitted
.venv/bin/percept exercises --out "$work/exercises"
.venv/bin/percept exercises --unit relu --w-hidden '1, 1, 1' --b-hidden '0, -1, -2' --points '[[0, 0], [1, 2], [2, 1], [3, 3]]' --out "$work/relu"
.venv/bin/percept exercises --unit step --w-hidden '[[1, 1], [1, 1]]' --b-hidden=-0.5,-1.5 --w-output '1, -1' --b-output=-0.5 --output step \
  --x '[[0, 0], [0, 1], [1, 0], [1, 1]]' --out "$work/xor"
.venv/bin/percept robbins-monro --out "$work/exercises"
percept backprop regions
percept minibatches regions
percept curves digits --data "mnist${PERCEPT_DATA:+:$PERCEPT_DATA}" --set name=mnist-lecture --set train.l2=0 \
  --set 'data.splits={train=0.98, validation=0.01, test=0.01}'
# The page's Python makes the arrays of the lab.
sed -n '/^```python$/,/^```$/p' docs/unit.md | sed '/^```/d; s|"runs/|"'"$work"'/|; s|lab/|'"$work"'/lab/|; s|"lab"|"'"$work"'/lab"|' | .venv/bin/python
percept curves instruments-lab --data "npy:$work/lab" --set train.epochs=30 \
  --learning-rate 0.01 --learning-rate 0.001 --learning-rate 0.0001

percept extract sine --set name=schedules
percept tune sine --set name=schedules --set train.optimizer=sgd --set train.learning_rate=0.3 \
  --set train.batch_size=10 --set train.epochs=300 --set tune.folds=3 \
  --set 'tune.space={"train.schedule"=["constant", "step", "cosine", "robbins-monro"]}'
percept extract digits --data scans --set name=penalties
percept tune digits --data scans --set name=penalties --set train.learning_rate=0.005 --set train.epochs=80 --set tune.folds=3 \
  --set 'tune.space={"train.l2"=[0, 1e-5, 1e-4, 1e-3, 1e-2]}'
percept extract instruments --set name=rates --set augment.copies=0
percept tune instruments --set name=rates $early --set train.noise=0

copy linear/plots/regions.svg regions-linear.svg
copy regions/plots/regions.svg regions.svg
copy regions/plots/units.svg regions-hidden.svg
copy exercises/three-units.svg exercise-a.svg
copy exercises/least-squares.svg exercise-b.svg
copy relu/output.svg relu-output.svg
copy xor/output.svg xor-output.svg
copy regions/lessons/backprop.svg backprop.svg
copy regions/lessons/minibatches.svg minibatches.svg
copy exercises/robbins-monro.svg robbins-monro.svg
copy overfitted/plots/loss.svg overfitted-loss.svg
copy mnist-lecture/lessons/curves.svg mnist-curves.svg
copy instruments-lab/lessons/curves.svg lab-curves.svg
copy sine/plots/fit.svg sine.svg
copy schedules/search/noise.svg schedules.svg
copy rates/search/losses.svg learning-rates.svg
copy penalties/search/regularisation-l2.svg regularisation.svg
copy instruments/plots/loss.svg instruments-loss.svg
copy digits/plots/weights.svg digits-weights.svg
copy instruments/plots/clip-13.svg instruments-mfcc.svg
copy digits/plots/confusion.svg digits-confusion.svg
