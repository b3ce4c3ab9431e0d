"""A network with one hidden layer whose weights are set by hand: what it computes, and what least squares makes of it.

In the textbook's notation, as in docs/unit.md: a sample is a row x, W_H has a column for each hidden unit,

    z_H = x W_H + b_H      u = g(z_H)      z_O = u W_O + b_O      y = h(z_O)

g is a step (1 where z ≥ 0), linear, σ, ReLU or tanh; h is linear, a step, σ or softmax. A mixture divides by the sum of
the responses instead: y = Σ_j a_j u_j / Σ_j u_j, a weighted mean of the a_j (Jacobs et al. 1991, Neural Computation 3).
"""

import json
import reprlib
import tomllib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from models.card import Kind
from models.steps import reference
from models.steps.reference import Penalties, sigmoid
from pipeline.errors import UserError

Floats = NDArray[np.float64]
Unit = Literal["step", "linear", "sigmoid", "relu", "tanh"]
Output = Literal["linear", "step", "sigmoid", "softmax"]

NUMBERS = ("w_hidden", "b_hidden", "w_output", "b_output", "points", "x", "y", "range")
KEYS = ("unit", "output", "mixture", *NUMBERS)
KINDS: dict[str, Kind] = {"linear": "regression", "sigmoid": "binary", "softmax": "multiclass"}  # of the loss
LARGEST = 1e50  # of any number given: products of three, squared, are still far from overflow
UNITS: dict[str, Callable[[Floats], Floats]] = {
    "step": lambda z: (z >= 0).astype(float),
    **{name: g for name, (g, _) in reference.ACTIVATIONS.items()},
}


@dataclass(frozen=True, slots=True)
class Network:
    """A network set by hand.

    Parameters
    ----------
    w_hidden, b_hidden : float64 (D, H) and (H,)
    w_output, b_output : float64 (H, K) and (K,)
    mixture : divide by the sum of the responses

    Example
    -------
    >>> xor = Network(np.ones((2, 2)), np.array([-0.5, -1.5]), np.array([[1.0], [-1.0]]), np.zeros(1), "step")
    >>> xor(np.array([[0.0, 0], [0, 1], [1, 0], [1, 1]])).ravel().tolist()
    [0.0, 1.0, 1.0, 0.0]
    """

    w_hidden: Floats
    b_hidden: Floats
    w_output: Floats
    b_output: Floats
    unit: Unit = "sigmoid"
    output: Output = "linear"
    mixture: bool = False

    @property
    def parameters(self) -> int:
        """How many numbers it has; a mixture has no output bias."""
        weights = self.w_hidden.size + self.b_hidden.size + self.w_output.size
        return weights if self.mixture else weights + self.b_output.size

    def sums(self, x: Floats) -> Floats:
        """x (N, D) → z_H (N, H)."""
        return np.asarray(x @ self.w_hidden + self.b_hidden)

    def responses(self, x: Floats) -> Floats:
        """x (N, D) → u (N, H)."""
        return np.asarray(UNITS[self.unit](self.sums(x)))

    def shares(self, x: Floats) -> Floats:
        """x (N, D) → what the weights of the output multiply (N, H): u, or u / Σ u of a mixture, NaN where no unit
        responds."""
        return _normalised(self.responses(x)) if self.mixture else self.responses(x)

    def logits(self, x: Floats) -> Floats:
        """x (N, D) → z_O (N, K)."""
        return np.asarray(self.shares(x) @ self.w_output + self.b_output)

    def __call__(self, x: Floats) -> Floats:
        """x (N, D) → y (N, K)."""
        z = self.logits(x)
        if self.output == "softmax":
            return np.exp(reference.log_softmax(z))
        if self.output == "linear":
            return z
        with np.errstate(invalid="ignore"):  # what is undefined stays undefined
            return sigmoid(z) if self.output == "sigmoid" else np.where(np.isnan(z), np.nan, z >= 0)


def _normalised(u: Floats) -> Floats:
    with np.errstate(invalid="ignore"):
        return np.asarray(u / u.sum(axis=1, keepdims=True))


@dataclass(frozen=True, slots=True)
class Problem:
    """A network, and what is asked of it.

    points : (N, D + K), inputs and values that it was fitted to, or is shown with
    x : (N, D), inputs to compute
    y : their targets
    range : of the figures
    """

    network: Network
    points: Floats | None = None
    is_fitted: bool = False
    x: Floats | None = None
    y: NDArray[Any] | None = None
    range: tuple[float, float] | None = None

    @property
    def limits(self) -> tuple[float, float]:
        """The range given; or that of the points and of the inputs; or, of a single input, where the units switch."""
        if self.range is not None:
            return self.range
        d = len(self.network.w_hidden)
        shown = [array[:, :d].ravel() for array in (self.points, self.x) if array is not None]
        if not shown and d == 1:
            w, b = self.network.w_hidden[0], self.network.b_hidden
            shown = [-b[w != 0] / w[w != 0]]
            reach = 4 / np.abs(w[w != 0]).min(initial=1.0)
            shown = [np.concatenate([shown[0] - reach, shown[0] + reach])]
        values = np.concatenate(shown) if shown else np.empty(0)
        if not len(values) or not np.ptp(values) > 0:
            return (-1.0, 2.0)
        margin = 0.1 * float(np.ptp(values)) if self.points is not None or self.x is not None else 0.0
        return float(values.min()) - margin, float(values.max()) + margin


def read(file: Path | None, options: Mapping[str, Any]) -> Problem:
    """A problem from a TOML file, from options that replace its keys, or both.

    Parameters
    ----------
    options : key → text in TOML's notation, as in "1, 1, 1" or "[[0, 0], [1, 2]]"; or a value; None is left out

    Raises
    ------
    UserError : an unknown key, a value that is no list of finite numbers, or shapes that do not fit

    Example
    -------
    >>> problem = read(None, {"unit": "relu", "w_hidden": "1, 1", "b_hidden": "0, -1", "w_output": "2, -3"})
    >>> problem.network(np.array([[0.5], [2.0]])).ravel().tolist()  # 2 relu(x) - 3 relu(x - 1)
    [1.0, 1.0]
    """
    table = _table(file) if file is not None else {}
    where = str(file) if file is not None else "exercises"
    for key in table:
        if key not in KEYS:
            raise UserError(f"{where}: unknown key {key!r}; there are {', '.join(KEYS)}")
    for key, value in options.items():
        if value is not None:
            table[key] = _parsed(key, value) if key in NUMBERS else value
    return _problem(table, where)


def _table(file: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(file.read_text("utf-8-sig"))
    except (tomllib.TOMLDecodeError, RecursionError) as error:
        raise UserError(f"{file}: not valid TOML: {error}") from None
    except (OSError, ValueError) as error:
        raise UserError(f"{file}: cannot be read: {getattr(error, 'strerror', None) or error}") from None


def _parsed(key: str, text: str) -> Any:
    """The value of an option: a number, or a list in TOML's notation, whose outer brackets may be left out."""
    try:
        table = tomllib.loads(f"value = {text if text.lstrip().startswith('[[') else f'[{text}]'}")
        if len(table) > 1:
            raise ValueError("more than a value")
        return table["value"]
    except (ValueError, RecursionError):
        raise UserError(f"--{key.replace('_', '-')}: expected numbers, as in '1, 1, 1' or '[[1, 0], [0, 1]]', "
                        f"not {reprlib.repr(text)}") from None  # fmt: skip


def _array(table: Mapping[str, Any], key: str, where: str) -> Floats | None:
    """The value of a key as an array of finite numbers; None if it is not there."""
    if key not in table:
        return None

    def numbers(value: Any) -> Any:
        if isinstance(value, list):
            return [numbers(item) for item in value]
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise UserError(f"{where}: {key}: expected numbers, not {json.dumps(value, default=str)}")
        if abs(value) <= LARGEST:
            return float(value)
        raise UserError(
            f"{where}: {key}: {value if isinstance(value, float) else 'a number'} is not finite or too large"
        )

    value = numbers(table[key])
    while isinstance(value, list) and len(value) == 1 and isinstance(value[0], list) and value[0] and \
            isinstance(value[0][0], list):  # fmt: skip
        value = value[0]  # brackets that were written although they may be left out
    try:
        return np.array(value, np.float64)
    except ValueError:
        raise UserError(f"{where}: {key}: its rows have different lengths") from None


def _problem(table: Mapping[str, Any], where: str) -> Problem:
    unit = _choice(table, "unit", get_args(Unit), where)
    output = _choice(table, "output", get_args(Output), where)
    mixture = table.get("mixture", False)
    if not isinstance(mixture, bool):
        raise UserError(f"{where}: mixture: expected true or false, not {json.dumps(mixture, default=str)}")
    if mixture and unit in ("linear", "tanh"):
        raise UserError(f"{where}: a mixture divides by the sum of the responses, which {unit} units let become 0; "
                        "take step, sigmoid or relu")  # fmt: skip
    arrays = {key: _array(table, key, where) for key in NUMBERS}
    w_hidden, b_hidden = _hidden(arrays, where)
    d = len(w_hidden)
    points = _rows(arrays["points"], where, "points", d + 1, "the inputs and then the values")
    bare = Network(w_hidden, b_hidden, np.zeros((len(b_hidden), 1)), np.zeros(1), unit, output, mixture)
    is_fitted = arrays["w_output"] is None
    network = fit(bare, points, where) if is_fitted else _with_output(bare, arrays, where)
    k = network.w_output.shape[1]
    if points is not None and points.shape[1] != d + k:
        raise UserError(f"{where}: points: {points.shape[1]} numbers in a row, but {d} inputs and {k} outputs")
    if output == "softmax" and k == 1:
        raise UserError(f"{where}: softmax takes two outputs or more: w_output with a row for each unit")
    x = _inputs(arrays["x"], d, where)
    return Problem(
        network, points, is_fitted, x, _targets(arrays["y"], x, network, where), _range(arrays["range"], where)
    )


def _choice(table: Mapping[str, Any], key: str, names: tuple[str, ...], where: str) -> Any:
    value = table.get(key, "sigmoid" if key == "unit" else "linear")
    if value not in names:
        raise UserError(f"{where}: {key}: there is no {value!r}; choose one of {', '.join(names)}")
    return value


def _hidden(arrays: Mapping[str, Floats | None], where: str) -> tuple[Floats, Floats]:
    w, b = arrays["w_hidden"], arrays["b_hidden"]
    if w is None:
        raise UserError(f"{where}: w_hidden is missing: a list with the weight of each unit, or for several inputs "
                        "a list for each input")  # fmt: skip
    w = np.atleast_2d(w)
    if w.ndim != 2 or not w.size:
        raise UserError(f"{where}: w_hidden: expected one row for each input, not an array of {_shape(w)}")
    b = np.zeros(w.shape[1]) if b is None else np.atleast_1d(b)
    if b.shape != (w.shape[1],):
        raise UserError(f"{where}: b_hidden: {_shape(b)} numbers, but w_hidden has {w.shape[1]} columns, "
                        "one for each unit")  # fmt: skip
    return w, b


def _with_output(network: Network, arrays: Mapping[str, Floats | None], where: str) -> Network:
    w, b, h = arrays["w_output"], arrays["b_output"], len(network.b_hidden)
    assert w is not None
    w = np.atleast_1d(w)
    w = w[:, None] if w.ndim == 1 else w
    if w.ndim != 2 or len(w) != h or not w.size:
        raise UserError(f"{where}: w_output: an array of {_shape(w)}, but there are {h} hidden units: "
                        "expected a number for each, or with several outputs a row for each")  # fmt: skip
    b = np.zeros(w.shape[1]) if b is None else np.atleast_1d(b)
    if b.shape != (w.shape[1],):
        raise UserError(f"{where}: b_output: {_shape(b)} numbers for {w.shape[1]} outputs")
    if network.mixture and b.any():
        raise UserError(f"{where}: a mixture has no b_output")
    return Network(network.w_hidden, network.b_hidden, w, b, network.unit, network.output, network.mixture)


def fit(network: Network, points: Floats | None, where: str = "exercises") -> Network:
    """`network` with the output layer that has the least squared error at points (N, D + K): the inputs, then the
    values. With fewer points than weights, the smallest weights of all that are exact.

    Raises
    ------
    UserError : no points, or an output that is not linear
    """
    if points is None:
        raise UserError(f"{where}: w_output is missing: give the output weights, or points to fit them to")
    if network.output != "linear":
        raise UserError(f"{where}: only a linear output is fitted by least squares, not {network.output}")
    x, y = np.split(points, [len(network.w_hidden)], axis=1)
    design = network.shares(x)
    if np.isnan(design).any():
        raise UserError(f"{where}: points: a mixture has no value where no unit responds")
    if not network.mixture:
        design = np.column_stack([design, np.ones(len(x))])
    solution = np.linalg.lstsq(design, y)[0].astype(np.float64)
    w, b = (solution, np.zeros(y.shape[1])) if network.mixture else (solution[:-1], solution[-1])
    return Network(network.w_hidden, network.b_hidden, w, b, network.unit, network.output, network.mixture)


def _rows(array: Floats | None, where: str, key: str, least: int, what: str) -> Floats | None:
    if array is None:
        return None
    if array.ndim != 2 or array.shape[1] < least:
        raise UserError(f"{where}: {key}: expected a list of rows, each with {what}: {least} numbers or more")
    return array


def _inputs(array: Floats | None, d: int, where: str) -> Floats | None:
    """Rows of x; a flat list is one sample, or with a single input a list of samples."""
    if array is None:
        return None
    x = array.reshape(-1, 1) if d == 1 and array.ndim < 2 else np.atleast_2d(array)
    if x.ndim != 2 or x.shape[1] != d or not len(x):
        raise UserError(f"{where}: x: an array of {_shape(array)}, but the network has {d} input{'s'[: d > 1]}")
    return x


def _targets(array: Floats | None, x: Floats | None, network: Network, where: str) -> NDArray[Any] | None:
    """Targets in the form that `reference.loss` takes."""
    if array is None:
        return None
    if network.output == "step" or network.unit == "step" or network.mixture:
        what = "a mixture" if network.mixture else "a step"
        raise UserError(f"{where}: y: there are no gradients through {what} here; take smooth units, or leave y out")
    n, k = 0 if x is None else len(x), network.w_output.shape[1]
    if network.output == "linear":
        if array.size != n * k:
            raise UserError(f"{where}: y: {array.size} numbers for {n} inputs x and {k} outputs")
        return array.reshape(n, k)
    classes = 2 if network.output == "sigmoid" else k
    if network.output == "sigmoid" and k != 1:
        raise UserError(f"{where}: y: a sigmoid output has its loss with one output; for more take softmax")
    flat = array.ravel()
    if len(flat) != n:
        raise UserError(f"{where}: y: {len(flat)} classes for {n} inputs x")
    if not np.isin(flat, np.arange(classes)).all():
        raise UserError(f"{where}: y: expected classes from 0 to {classes - 1}")
    return flat.astype(int)


def _range(array: Floats | None, where: str) -> tuple[float, float] | None:
    if array is None:
        return None
    if array.shape != (2,) or not array[0] < array[1]:
        raise UserError(f"{where}: range: expected two numbers, the smaller first")
    return float(array[0]), float(array[1])


def _shape(array: Floats) -> str:
    return " × ".join(map(str, array.shape)) or "1"


def gradients(problem: Problem) -> tuple[float, dict[str, Floats]]:
    """The mean loss at the problem's x and y, and its gradient with respect to W_H, b_H, W_O and b_O, in the shapes of
    `Network`. The loss is that of docs/unit.md, section 4, for the output: squared error, log loss or cross-entropy."""
    n, x, y = problem.network, problem.x, problem.y
    assert x is not None
    assert y is not None
    kind = KINDS[n.output]
    found = reference.gradients(as_reference(n), x, y, kind, Penalties())
    names = ("W_H", "b_H", "W_O", "b_O")
    values = (found.weights[0].T, found.biases[0], found.weights[1].T, found.biases[1])
    return reference.loss(n.logits(x), y, kind), dict(zip(names, values, strict=True))


def as_reference(network: Network) -> reference.Network:
    """The network as `models/steps/reference.py` writes it."""
    assert network.unit != "step"
    return reference.Network(
        [network.w_hidden.T, network.w_output.T], [network.b_hidden, network.b_output], network.unit
    )
