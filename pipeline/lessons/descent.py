"""Stochastic gradient descent: the mean and the spread of mini-batches' gradients, and Robbins and Monro's steps."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import matplotlib
import numpy as np
import torch
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter
from numpy.typing import NDArray

from models.steps import reference
from models.steps.reference import Array, Penalties
from pipeline.extract import Features
from pipeline.lessons.gradcheck import as_reference, initial
from pipeline.report.style import BLUE, CURVES, INK, ORANGE, STYLE, write_svg
from pipeline.run import Run
from pipeline.task import Task
from pipeline.train import SCHEDULES

SAMPLES = 1000  # of the training split, at most
SIZES = (1, 2, 5, 10, 20, 50, 100, 200)  # of mini-batches
DRAWS = 400  # mini-batches of each size
CLOUD = (10, 100)  # sizes whose gradients are drawn as points
SHOWN = 8  # entries that the two drawn are chosen from: weights of the first hidden units

RATE, START, MEAN = 0.5, -1.0, 1.0  # of Robbins and Monro's example: first step size, first θ, mean of the samples
STEPS_PER_EPOCH, EPOCHS, BATCH = 10, 100, 10
RUNS = 400  # repetitions with other samples
LONGEST = 8.0  # time that is drawn

PLAIN = FuncFormatter(lambda value, _: f"{value:g}")


@dataclass(frozen=True, slots=True)
class Spread:
    """Gradients g_B of mini-batches of one size, beside the gradient g of all samples; all but `cloud` relative to |g|.

    distance : |mean of g_B - g|, which falls with the number of mini-batches if the mini-batch is unbiased
    expected_distance : its root mean square for an unbiased one
    spread : √(mean of |g_B - g|²)
    expected_spread : the same from the variance of single samples, drawn without replacement
    cloud : float64 (DRAWS, 2), two entries of each g_B
    """

    size: int
    distance: float
    expected_distance: float
    spread: float
    expected_spread: float
    cloud: Array


def minibatches(task: Task, run: Run) -> list[Spread]:
    """Print the table of `Spread` for the task's network at its initial weights, and draw `lessons/minibatches.svg`.

    Raises
    ------
    UserError : there are no features
    """
    features = Features.of(run)
    facts, classifier, rows = initial(task, features)
    rows = rows[:SAMPLES]
    x = classifier.standardize(torch.from_numpy(features.x[rows])).numpy().astype(np.float64)
    y = features.y[rows]
    network = as_reference(classifier.mlp.double())

    def gradient(chosen: NDArray[np.int64] | slice) -> Array:
        found = reference.gradients(network, x[chosen], y[chosen], facts.kind, Penalties())
        return np.concatenate([g.ravel() for g in (*found.weights, *found.biases)])

    whole, found = spreads(gradient, len(rows), np.random.default_rng(task.train.seed))
    print(f"{task.name}: {DRAWS} mini-batches of each size from {len(rows)} samples; |·| relative to |∇L|")
    print(f"  {'batch':>5}  {'|mean - ∇L|':>12}  {'if unbiased':>12}  {'spread':>8}  {'from single samples':>20}")
    for one in found:
        print(
            f"  {one.size:>5}  {one.distance:>12.4f}  {one.expected_distance:>12.4f}  {one.spread:>8.4f}"
            f"  {one.expected_spread:>20.4f}"
        )
    with matplotlib.rc_context(STYLE):
        print(f"{task.name}: → {write_svg(_spread_figure(whole, found), run.lessons / 'minibatches.svg')}")
    return found


def spreads(
    gradient: Callable[[NDArray[np.int64] | slice], Array], n: int, rng: np.random.Generator
) -> tuple[Array, list[Spread]]:
    """Two entries of ∇L, and the `Spread` of each size: the two of the first SHOWN that differ most between samples.

    gradient : gradient (P,) of the mean loss of those of the n samples
    """
    whole = gradient(slice(None))
    norm, squares = float(np.linalg.norm(whole)), np.zeros_like(whole)
    for i in range(n):
        squares += (gradient(np.array([i])) - whole) ** 2
    shown = np.argsort(squares[:SHOWN])[-2:]
    single = float(squares.sum()) / (n - 1)  # variance of a single sample's gradient, unbiased
    found = []
    for size in (size for size in SIZES if size < n):
        total, squared, cloud = np.zeros_like(whole), 0.0, np.empty((DRAWS, 2))
        for draw in range(DRAWS):
            g = gradient(rng.choice(n, size, replace=False))
            total += g
            squared += float(((g - whole) ** 2).sum())
            cloud[draw] = g[shown]
        expected = np.sqrt(single / size * (1 - size / n))
        distance = float(np.linalg.norm(total / DRAWS - whole))
        found.append(
            Spread(
                size, distance / norm, float(expected) / np.sqrt(DRAWS) / norm, np.sqrt(squared / DRAWS) / norm,
                float(expected) / norm, cloud,
            )
        )  # fmt: skip
    return whole[shown], found


def _spread_figure(whole: Array, found: Sequence[Spread]) -> Figure:
    """Left two entries of the mini-batches' gradients as points around those of all samples; right spread and distance
    of the mean over the size."""
    figure = Figure(figsize=(8.4, 3.6))
    cloud, lines = figure.subplots(1, 2)
    for one, colour in zip([one for one in found if one.size in CLOUD], (BLUE, ORANGE), strict=False):
        cloud.plot(*one.cloud.T, ".", color=colour, markersize=4, alpha=0.6, label=f"batches of {one.size}")
    cloud.plot(*whole, "+", color=INK, markersize=14, markeredgewidth=2, label="all samples")
    cloud.set(xlabel="one entry of the gradient", ylabel="another")
    sizes = [one.size for one in found]
    lines.plot(sizes, [one.spread for one in found], "o", color=BLUE, label="spread")
    lines.plot(sizes, [one.expected_spread for one in found], "-", color=BLUE, linewidth=1.2, label="σ/√B")
    lines.plot(sizes, [one.distance for one in found], "o", color=ORANGE, label=f"mean of {DRAWS}")
    lines.plot(sizes, [one.expected_distance for one in found], "-", color=ORANGE, linewidth=1.2, label="if unbiased")
    lines.set(xscale="log", yscale="log", xlabel="samples in a mini-batch, B", ylabel="distance from ∇L, / |∇L|")
    for axis in (lines.xaxis, lines.yaxis):
        axis.set_major_formatter(PLAIN)
    for axes in (cloud, lines):
        axes.legend(loc="lower left", bbox_to_anchor=(-0.02, 1), ncols=2, columnspacing=1.2, markerscale=1.5)
    figure.tight_layout()
    return figure


def schedules() -> dict[str, Array]:
    """Step sizes α_t of each schedule, float64 (T,)."""
    t = np.arange(EPOCHS * STEPS_PER_EPOCH)
    by_epoch = np.array([SCHEDULES["robbins-monro"](epoch, EPOCHS) for epoch in (t // STEPS_PER_EPOCH).tolist()])
    return {
        "α": RATE * np.ones(len(t)),
        "α / (1 + t), t in epochs": RATE * by_epoch,
        "α / (1 + t), t in steps": RATE / (1 + t),
        "α / (1 + t)², t in steps": RATE / (1 + t) ** 2,
    }


def solution(tau: Array) -> Array:
    """θ(τ) of dθ/dτ = -∇L(θ) = MEAN - θ with θ(0) = START.

    Example
    -------
    >>> solution(np.array([0.0, 100.0])).tolist() == [START, MEAN]
    True
    """
    return np.asarray(MEAN + (START - MEAN) * np.exp(-tau))


def descend(rates: Array) -> Array:
    """θ (T + 1, RUNS) of stochastic gradient descent on L(θ) = E (θ - y)²/2, y ~ N(MEAN, 1), in batches of `BATCH`."""
    y = MEAN + np.random.default_rng(0).standard_normal((len(rates), RUNS)) / np.sqrt(BATCH)  # means of the batches
    theta = np.empty((len(rates) + 1, RUNS))
    theta[0] = START
    for t, rate in enumerate(rates):
        theta[t + 1] = theta[t] - rate * (theta[t] - y[t])
    return theta


def robbins_monro(folder: Path) -> Path:
    """Print what each schedule reaches, beside the differential equation, and draw `robbins-monro.svg`.

    Robbins & Monro (1951), Annals of Mathematical Statistics 22: Σ α_t = ∞ and Σ α_t² < ∞.
    """
    found = {name: (rates, descend(rates)) for name, rates in schedules().items()}
    width = max(map(len, found))
    print(f"  θ - θ* after {EPOCHS} epochs of {STEPS_PER_EPOCH} steps, and by the differential equation at τ = Σ α")
    print(f"  {'step size':<{width}}  {'Σ α':>7}  {'Σ α²':>7}  {'mean':>7}  {'equation':>8}  {'deviation':>9}")
    for name, (rates, theta) in found.items():
        total, left = rates.sum(), theta[-1] - MEAN
        print(
            f"  {name:<{width}}  {total:>7.2f}  {(rates**2).sum():>7.2f}  {left.mean():>7.3f}"
            f"  {solution(total) - MEAN:>8.3f}  {left.std():>9.4f}"
        )
    with matplotlib.rc_context(STYLE):
        return write_svg(_paths_figure(found), folder / "robbins-monro.svg")


def _paths_figure(found: dict[str, tuple[Array, Array]]) -> Figure:
    """Left θ of one run over the time τ = Σ α, with the solution of the differential equation; right the distance from
    the minimum over the steps, root mean square of all runs."""
    figure = Figure(figsize=(8.4, 3.9))
    left, right = figure.subplots(1, 2)
    tau = np.linspace(0, LONGEST, 200)
    left.plot(tau, solution(tau), "--", color=INK, linewidth=1.6, label="dθ/dτ = -∇L(θ)", zorder=3)
    for (name, (rates, theta)), colour in zip(found.items(), CURVES, strict=False):
        time = np.concatenate([[0.0], np.cumsum(rates)])
        left.plot(time, theta[:, 0], color=colour, linewidth=1.2, label=name)
        left.plot(time[-1], theta[-1, 0], "o", color=colour, markersize=6, zorder=4)  # if it ends within the axis
        right.plot(np.sqrt(((theta[1:] - MEAN) ** 2).mean(axis=1)), color=colour, linewidth=1.6)
    left.set(xlim=(0, LONGEST), xlabel="time τ, the sum of the step sizes", ylabel="θ")
    right.set(yscale="log", xlabel="step", ylabel="distance of θ from the minimum")
    right.yaxis.set_major_formatter(PLAIN)
    figure.tight_layout(rect=(0, 0, 1, 0.84))
    figure.legend(loc="upper left", ncols=3, columnspacing=1.4)
    return figure
