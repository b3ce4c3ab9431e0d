"""Learning curves as lectures print them: loss and accuracy of the training samples, and accuracy of the test samples,
after every epoch, for one learning rate or for several on one fixed split.

Nothing is chosen by these curves, and no network is kept: `percept train` decides by the validation samples alone.
"""

from collections.abc import Sequence

import matplotlib
import torch
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from pipeline.extract import Features
from pipeline.report.curves import scale_losses
from pipeline.report.style import CURVES, INK, PERCENT, STYLE, write_svg
from pipeline.run import Run, write_json
from pipeline.task import Task, Train, UserError
from pipeline.threads import subnormals_flushed
from pipeline.train import TRAINERS, Dataset, Feed, State, evaluate, run_epochs, standardised, transform_of, weights

LINES = 30  # printed for each learning rate, at most
CPU = torch.device("cpu")

Curves = dict[str, list[float]]


@subnormals_flushed()
def curves(task: Task, run: Run, options: Sequence[Train]) -> dict[str, Curves]:
    """Train the task's network on the run's training samples, once for each of the options, which differ in the
    learning rate, and evaluate it on the test samples after every epoch; print the table, and write `curves.json` and
    `curves.svg` into the run's `lessons/`.

    Returns
    -------
    Learning rate → the columns `epoch`, `train_loss`, `train_accuracy`, `test_loss` and `test_accuracy`; those of
    accuracy are empty for a regression

    Raises
    ------
    UserError : no features, no test samples, or the loss is no longer a number, once the curves of the others are
        written
    """
    features = Features.of(run)
    if not features.rows("test").any():
        raise UserError(f"{task.name}: there are no test samples")
    found, failed = {}, []
    for train in options:
        rate = f"{train.learning_rate:g}"
        print(f"{task.name}: learning rate {rate}")
        try:
            found[rate] = trained(task, features, train.model_copy(update={"early_stopping": 0}))
        except UserError as error:
            failed.append(str(error))
    if found:
        write_json(run.lessons / "curves.json", found)
        with matplotlib.rc_context(STYLE):
            print(f"{task.name}: → {write_svg(figure(found), run.lessons / 'curves.svg')}")
    if failed:
        raise UserError("\n".join(failed))
    return found


def trained(task: Task, features: Features, options: Train) -> Curves:
    """The columns of one training, see `curves`; with the same weights and batches as `percept train`."""
    facts = weights.begin(task, features, "cpu")
    classifier = weights.network(facts)
    mlp, standardize = classifier.mlp, classifier.standardize
    x, y = features.with_copies(features.rows("train"))
    standardize.fit(torch.from_numpy(x), classifier.frontend)
    rows = features.rows("test")
    training, test = (
        standardised(Dataset(torch.from_numpy(x), torch.from_numpy(y)), standardize, CPU)
        for x, y in ((x, y), (features.x[rows], features.y[rows]))
    )
    transform, balance = transform_of(options, standardize, CPU), options.balance == "on"
    feed = Feed([training], [options.seed], options.batch_size, transform, options.mix, balance)
    trainer = TRAINERS[options.gradients]([mlp], feed, facts.kind, [options])

    def after_epoch(state: State, _: object) -> None:
        if state.epoch % -(-options.epochs // LINES) == 0 or state.epoch == options.epochs:
            _print(state, options)

    (state,) = run_epochs(trainer, [mlp], [options], lambda: [evaluate(mlp, test, facts.kind)], [State()], after_epoch)
    if isinstance(state, UserError):
        raise state
    return {name.replace("validation", "test"): column for name, column in state.history.items() if name != "seconds"}


def _print(state: State, options: Train) -> None:
    last = {name: column[-1] for name, column in state.history.items() if column}
    words = [f"epoch {state.epoch:>{len(str(options.epochs))}}/{options.epochs}", f"loss {last['train_loss']:.4f}"]
    for split, name in (("training", "train_accuracy"), ("test", "validation_accuracy")):
        words += [f"{split} accuracy {last[name]:.4f}"] if name in last else []
    if "train_accuracy" not in last:
        words.append(f"test loss {last['validation_loss']:.4f}")
    print("  " + ", ".join(words), flush=True)


def figure(found: dict[str, Curves]) -> Figure:
    """Left the loss of the training samples, right the accuracy of training and test samples, or the test loss of a
    regression; one colour for each learning rate."""
    drawn = Figure(figsize=(8.4, 3.4))
    left, right = drawn.subplots(1, 2)
    right.plot([], [], "--", color=INK, linewidth=1, label="training")
    right.plot([], [], "-", color=INK, linewidth=1.8, label="test")
    has_accuracy = all(columns["train_accuracy"] for columns in found.values())
    metric = "accuracy" if has_accuracy else "loss"
    for (rate, columns), colour in zip(found.items(), CURVES * len(found), strict=False):
        epochs = columns["epoch"]
        marker = "o" if len(epochs) < 3 else None  # a line through one point is invisible
        left.plot(epochs, columns["train_loss"], color=colour, linewidth=1.8, marker=marker, label=f"rate {rate}")
        right.plot(epochs, columns[f"train_{metric}"], "--", color=colour, linewidth=1, marker=marker)
        right.plot(epochs, columns[f"test_{metric}"], color=colour, linewidth=1.8, marker=marker)
    left.set(xlabel="epoch", ylabel="loss of the training samples")
    right.set(xlabel="epoch", ylabel=metric)
    for axes in (left, right):
        axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
        axes.legend(loc="lower left", bbox_to_anchor=(-0.02, 1), ncols=3, columnspacing=1.2)
        if axes is right and has_accuracy:
            axes.yaxis.set_major_formatter(PERCENT)
        else:
            scale_losses(axes, axes.lines)
    drawn.tight_layout()
    return drawn
