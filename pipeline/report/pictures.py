"""Pictures of sound as the network receives it, and of what the network has learned."""

import io
import math
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.collections import PathCollection
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.image import AxesImage
from matplotlib.ticker import MaxNLocator
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray
from PIL import Image

from models.mel import hz_to_mel, mel_filters
from pipeline.report.style import BLUE, CLASS_COLOURS, CURVES, INK, LIGHT, ORANGE, SIGNED, TILE, Floats, shortened

ENLARGE = 8  # 28 × 28 pixels become 224 × 224
DYNAMIC_RANGE = 80  # dB below the loudest point of the clip
AMIN = 1e-10  # lower bound of the mel power in the logarithm
FRAMES = 300  # that a spectrogram is wide in pixels, about
BLOCK = 256  # frames that are transformed at a time
RESPONSES = 16  # hidden units shown one by one, at most
HERTZ = (0, 500, 1000, 2000, 4000, 8000, 16000)  # ticks, roughly even on the mel scale


def spectrogram(waveform: NDArray[np.float32], sample_rate: int, features: dict[str, Any]) -> Figure:
    """Mel spectrogram in dB of a mono waveform (T,).

    features : the task's `[features]`, whose frames and bands are used where it sets them
    """
    names = ("n_fft", "hop_length", "n_mels", "fmin", "fmax")
    given = {name: features[name] for name in names if features.get(name) is not None}
    frames = {"n_fft": 2048, "hop_length": 512, "n_mels": 64, "fmin": 0.0, "fmax": sample_rate / 2} | given
    seconds = len(waveform) / sample_rate
    padded = np.pad(waveform, (0, max(0, frames["n_fft"] - len(waveform))))
    power = np.maximum(mel_power(padded, sample_rate, **frames), AMIN)
    decibels = np.maximum(10 * np.log10(power / power.max()), -DYNAMIC_RANGE)

    figure = Figure(figsize=(3.6, 2.3), dpi=150)
    axes = figure.add_axes((0.17, 0.2, 0.66, 0.7))
    hop = frames["hop_length"] / sample_rate
    image = _mel_image(axes, decibels, hop, frames["fmin"], frames["fmax"])
    axes.set(xlim=(0, seconds), xlabel="time (s)")
    bar = figure.colorbar(image, cax=figure.add_axes((0.86, 0.2, 0.025, 0.7)), ticks=[-80, -60, -40, -20, 0])
    bar.ax.set_title("dB", fontsize=8)
    bar.outline.set_visible(False)
    return figure


def mel_power(
    waveform: NDArray[np.float32], sample_rate: int, n_fft: int, hop_length: int, n_mels: int, fmin: float, fmax: float
) -> Floats:
    """Mel power spectrogram of a mono waveform (T,) between zeros, as `librosa.feature.melspectrogram` has it.
    (n_mels, frames)"""
    window = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(n_fft) / n_fft)
    frames = sliding_window_view(np.pad(waveform, n_fft // 2), n_fft)[::hop_length]
    filters = mel_filters(sample_rate, n_fft, n_mels, fmin, fmax).T
    blocks = (np.abs(np.fft.rfft(frames[i : i + BLOCK] * window)) ** 2 for i in range(0, len(frames), BLOCK))
    mel: Floats = np.concatenate([power @ filters for power in blocks]).T
    return mel


def clip(mel: Floats, mfcc: Floats, sample_rate: int, features: dict[str, Any]) -> Figure:
    """Mel spectrogram (n_mels, frames) in dB, and below it the cepstral coefficients (n_mfcc, frames) from 1 on.

    Coefficient 0, the loudness, is left out: it is an order of magnitude larger than the others.
    """
    hop = features["hop_length"] / sample_rate
    figure = Figure(figsize=(3.6, 3.4), dpi=130)
    upper, lower = figure.add_axes((0.17, 0.55, 0.66, 0.4)), figure.add_axes((0.17, 0.13, 0.66, 0.36))
    image = _mel_image(upper, mel, hop, 0.0, sample_rate / 2)
    upper.tick_params(labelbottom=False)
    first = min(1, len(mfcc) - 1)
    shape = mfcc[first:]
    limit = float(np.percentile(np.abs(shape), 95)) or 1.0
    end = (mel.shape[1] - 0.5) * hop
    coefficients = lower.imshow(
        shape,
        origin="lower",
        aspect="auto",
        cmap=SIGNED,
        interpolation=_interpolation(shape),
        vmin=-limit,
        vmax=limit,
        extent=(-hop / 2, end, first - 0.5, len(mfcc) - 0.5),
    )
    for axes in (upper, lower):
        axes.set_xlim(0, max(end, hop / 2))
    lower.set(xlabel="time (s)", ylabel="MFCC")
    lower.yaxis.set_major_locator(MaxNLocator(4, integer=True))
    for shown, bottom, height, title in ((image, 0.55, 0.34, "dB"), (coefficients, 0.13, 0.36, "")):
        extend = "neither" if shown is image else "both"
        bar = figure.colorbar(shown, cax=figure.add_axes((0.86, bottom, 0.025, height)), extend=extend)
        bar.locator = MaxNLocator(4)
        bar.update_ticks()
        bar.ax.set_title(title, fontsize=8)
        bar.outline.set_visible(False)
    return figure


def _mel_image(axes: Axes, decibels: Floats, hop: float, fmin: float, fmax: float) -> AxesImage:
    """Draw a mel spectrogram (n_mels, frames) in dB, `hop` seconds a frame, on a mel axis with ticks in Hz."""
    low, high = hz_to_mel([fmin, fmax])
    half = (high - low) / (len(decibels) + 1) / 2  # filters are centred between the ends of the range
    image = axes.imshow(
        decibels,
        origin="lower",
        aspect="auto",
        cmap="magma",
        interpolation=_interpolation(decibels),
        vmin=-DYNAMIC_RANGE,
        vmax=0,
        extent=(-hop / 2, (decibels.shape[1] - 0.5) * hop, low + half, high - half),
    )
    hertz = [tick for tick in HERTZ if fmin <= tick <= fmax]
    axes.set_yticks(hz_to_mel(hertz), [str(tick) for tick in hertz])
    axes.set(ylim=(low + half, high - half), ylabel="frequency (Hz)")
    return image


def _interpolation(frames: Floats) -> str:
    """Few frames stay as they are, and the browser enlarges them: the file is half as large. Many are reduced."""
    return "none" if frames.shape[1] <= FRAMES else "auto"


def fit(inside: dict[str, Floats], labels: list[str], noiseless: bool) -> Figure:
    """The values that a network of one input gives, with its training and test samples.

    noiseless : the test samples lie on the true curve, and are drawn as a line
    """
    figure = Figure(figsize=(6, 0.6 + 3 * len(labels)))
    order = np.argsort(inside["test_x"][:, 0])
    for k, axes in enumerate(figure.subplots(len(labels), 1, sharex=True, squeeze=False)[:, 0]):
        axes.plot(
            inside["train_x"][:, 0], inside["train_y"][:, k], ".", color=INK, alpha=0.45, label="training samples"
        )
        test = inside["test_x"][order, 0], inside["test_y"][order, k]
        if noiseless:
            axes.plot(*test, "--", color=ORANGE, linewidth=1.8, label="true curve")
        else:
            axes.plot(*test, "x", color=ORANGE, markersize=4, label="test samples")
        axes.plot(inside["axis_1"], inside["answers"][k], color=BLUE, linewidth=2, label="the network")
        axes.set(ylabel=labels[k])
    axes.set(xlabel="x")
    figure.axes[0].legend(loc="lower left", bbox_to_anchor=(-0.02, 1), ncols=3, columnspacing=1.4)
    return figure


def contributions(x: Floats, shares: Floats, bias: float) -> Figure:
    """The output of a network with one input, as the sum of its units' contributions.

    x : (n,); shares : (H, n), contribution of each hidden unit to the output, weight times activation; bias : of the
        output
    """
    figure = Figure(figsize=(6, 3.6))
    axes = figure.add_subplot()
    for h, share in enumerate(shares):
        cycle, colour = divmod(h, len(CURVES))
        label = f"unit {h + 1}" if h < RESPONSES else None
        axes.plot(x, share, ("-", "--", ":")[cycle % 3], color=CURVES[colour], linewidth=1.3, label=label)
    axes.plot(x, np.full_like(x, bias), color=INK, linewidth=1, linestyle=":", label="bias")
    axes.plot(x, shares.sum(axis=0) + bias, color=INK, linewidth=2.6, label="output")
    axes.set(xlabel="x", ylabel="contribution")
    axes.legend(loc="center left", bbox_to_anchor=(1, 0.5))
    return figure


def regions(inside: dict[str, Floats], labels: list[str]) -> Figure:
    """The plane of two inputs in the colour of the predicted class, stronger where the confidence is higher.

    On top: the training samples, the decision boundaries, and the lines of the first layer's units.
    """
    p = inside["answers"]  # (K, n2, n1)
    k = len(p)
    x, y = inside["axis_1"], inside["axis_2"]
    colours = np.array([to_rgb(CLASS_COLOURS[i % len(CLASS_COLOURS)]) for i in range(k)])
    opacity = ((p.max(axis=0) - 1 / k) / (1 - 1 / k) * 0.5)[..., None]
    mixed = opacity * colours[p.argmax(axis=0)] + (1 - opacity) * np.array(to_rgb(TILE))
    figure = Figure(figsize=(5, 4.3), dpi=150)
    axes = figure.add_axes((0.1, 0.11, 0.72, 0.84))
    axes.imshow(mixed, origin="lower", aspect="auto", interpolation="bilinear", extent=(x[0], x[-1], y[0], y[-1]))
    for i, name in enumerate(shortened(labels)):
        x1, x2 = inside["train_x"][inside["train_y"] == i].T
        # With an edge: points lie on the colour of their own class.
        axes.scatter(x1, x2, s=16, color=colours[i], edgecolors=LIGHT, linewidths=0.6, label=name, rasterized=True)
        others = np.delete(p, i, axis=0).max(axis=0)
        if p[i].max() > 1 / k and (k > 2 or i == 0):
            axes.contour(x, y, p[i] - others, levels=[0], colors=LIGHT, linewidths=1.8)
    for sums in inside.get("sums", np.empty(0))[:RESPONSES]:
        _zero_line(axes, x, y, sums)
    axes.set(xlabel="x1", ylabel="x2", xlim=(x[0], x[-1]), ylim=(y[0], y[-1]))
    legend = axes.legend(loc="upper left", bbox_to_anchor=(1, 1), handletextpad=0.2)
    for dots in legend.findobj(PathCollection):
        dots.set(edgecolor=INK, rasterized=False)
    return figure


def units(inside: dict[str, Floats], activation: str) -> Figure:
    """Activation of each unit of the first hidden layer over the plane, with the line where its weighted sum is 0."""
    x, y, shown = inside["axis_1"], inside["axis_2"], inside["units"][:RESPONSES]
    least, most = min(0.0, float(shown.min())), float(shown.max())
    fixed = {"sigmoid": (0.0, 1.0), "step": (0.0, 1.0), "tanh": (-1.0, 1.0)}
    low, high = fixed.get(activation, (least, most if most > least else least + 1))
    votes = inside["votes"][0] if "votes" in inside and len(inside["votes"]) == 1 else None
    columns = min(4, len(shown))
    rows = -(-len(shown) // columns)
    width, height = 1.0 + 1.75 * columns, 0.55 + 1.8 * rows  # inches; layout="constrained" would take half of the time
    figure = Figure(figsize=(width, height), dpi=130)
    left, right, bottom, top = 0.5 / width, 1 - 0.65 / width, 0.45 / height, 1 - 0.25 / height
    grid = {"left": left, "right": right, "bottom": bottom, "top": top, "wspace": 0.2, "hspace": 0.2}
    panels = figure.subplots(rows, columns, sharex=True, sharey=True, squeeze=False, gridspec_kw=grid)
    for h, axes in enumerate(panels.flat):
        if h >= len(shown):
            axes.set_axis_off()
            continue
        image = axes.imshow(
            shown[h],
            origin="lower",
            cmap="viridis",
            vmin=low,
            vmax=high,
            extent=(x[0], x[-1], y[0], y[-1]),
            aspect="auto",
        )
        _zero_line(axes, x, y, inside["sums"][h])
        axes.xaxis.set_major_locator(MaxNLocator(2))
        axes.yaxis.set_major_locator(MaxNLocator(2))
        axes.set_title(
            f"unit {h + 1}" + (f", weight {votes[h]:+.1f}".replace("-", "−") if votes is not None else ""), fontsize=8
        )
    bar = figure.add_axes((1 - 0.55 / width, bottom, 0.1 / width, top - bottom))
    figure.colorbar(image, cax=bar).outline.set_visible(False)
    figure.supxlabel("x1", x=(left + right) / 2, y=0.05 / height, fontsize=8, va="bottom")
    figure.supylabel("x2", x=0.05 / width, y=(bottom + top) / 2, fontsize=8, ha="left")
    return figure


def _zero_line(axes: Axes, x: Floats, y: Floats, sums: Floats) -> None:
    """The line where a unit's weighted sum is 0, if it crosses the plane."""
    if sums.min() < 0 < sums.max():
        axes.contour(x, y, sums, levels=[0], colors=LIGHT, linewidths=0.8, linestyles="--")


def weights(images: Floats) -> Figure:
    """First-layer weights of each unit as images (H, rows, columns) on one scale: orange above 0, blue below."""
    n, height, width = images.shape
    columns = math.ceil(math.sqrt(n))
    rows = -(-n // columns)
    gap = 2  # pixels
    sheet = np.full((rows * (height + gap) - gap, columns * (width + gap) - gap), np.nan)
    for h, image in enumerate(images):
        top, left = h // columns * (height + gap), h % columns * (width + gap)
        sheet[top : top + height, left : left + width] = image
    limit = float(np.percentile(np.abs(images), 99.5)) or 1.0
    side = 5.6  # inches
    tall = side * sheet.shape[0] / sheet.shape[1]
    figure = Figure(figsize=(side + 1, tall + 0.3), dpi=150)
    axes = figure.add_axes((0.15 / (side + 1), 0.15 / (tall + 0.3), side / (side + 1), tall / (tall + 0.3)))
    shown = axes.imshow(sheet, cmap=SIGNED, vmin=-limit, vmax=limit, interpolation="none")
    axes.set_axis_off()
    bar = figure.colorbar(shown, cax=figure.add_axes(((side + 0.3) / (side + 1), 0.25, 0.02, 0.5)), extend="both")
    bar.outline.set_visible(False)
    return figure


def enlarged(pixels: NDArray[np.uint8]) -> bytes:
    """PNG of an image, grey or in colour, each pixel enlarged to a square; ink is light, as in the model's input."""
    stream = io.BytesIO()
    squares = pixels.repeat(ENLARGE, 0).repeat(ENLARGE, 1)
    Image.fromarray(squares).save(stream, "png")
    return stream.getvalue()
