"""The front end of tables: columns of numbers and of categories, with values missing, as features of a network."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from models.card import Column, Input
from models.interface import FrontEnd


class Table(nn.Module, FrontEnd):
    """Numbers with their missing values filled in by the training samples' median, and categories one-hot.

    The input has one number for each column: NaN where the value is missing, and for a category its index in the
    column's list, or -1 for one that is not in it. The features, in this order:

    - each column of numbers, missing ones replaced by its median;
    - for each of these of which training samples were missing, whether the value is missing;
    - for each column of categories, whether it is each of the frequent ones, any other one, or missing; the last two
      only where training samples had such values;
    - whether any value is of a kind that no training sample had: missing, or a category, where none was.

    Parameters
    ----------
    columns : one mapping for each column, with its `name` and `missing`, whether training samples lacked the value; of
        numbers their `median`; of categories all `categories`, indices of the `frequent` ones, which have a feature of
        their own, and `rare`, whether training samples had others

    Example
    -------
    >>> size = {"name": "size", "median": 2.0, "missing": False}
    >>> colour = {"name": "colour", "categories": ["blue", "red"], "missing": False}
    >>> colour |= {"frequent": [0, 1], "rare": False}
    >>> Table([size, colour])(torch.tensor([[1.0, 1.0], [torch.nan, -1.0]]))
    tensor([[1., 0., 1., 0.],
            [2., 0., 0., 1.]])
    """

    median: Tensor  # (numbers,)
    code: Tensor  # (frequent categories,), the index that each is the feature of

    def __init__(self, columns: Sequence[Mapping[str, Any]]) -> None:
        super().__init__()
        described = tuple(
            Column(name=column["name"], categories=column.get("categories", ()), missing=column["missing"])
            for column in columns
        )
        self.input = Input(kind="vector", name="vector", dtype="float32", shape=(None, len(columns)), columns=described)
        numbers = [i for i, column in enumerate(columns) if not column.get("categories")]
        named = [i for i, column in enumerate(columns) if column.get("categories")]
        own = [(c, k) for c, i in enumerate(named) for k in columns[i]["frequent"]]
        self.register_buffer("median", torch.tensor([columns[i]["median"] for i in numbers]))
        self.register_buffer("code", torch.tensor([float(k) for _, k in own]))
        n_own = [len(columns[i]["frequent"]) for i in named]
        self._first, self._last = _index([sum(n_own[:c]) for c in range(len(n_own))]), _index(np.cumsum(n_own).tolist())
        self._numbers, self._named, self._of_own = _index(numbers), _index(named), _index([c for c, _ in own])
        lacked = [bool(columns[i]["missing"]) for i in numbers]
        rare, empty = ([bool(columns[i][key]) for i in named] for key in ("rare", "missing"))
        self._lacked, self._whole = _where(lacked, True), _where(lacked, False)
        self._rare, self._listed = _where(rare, True), _where(rare, False)
        self._empty, self._filled = _where(empty, True), _where(empty, False)
        widths = [len(numbers), sum(lacked), len(own), sum(rare), sum(empty), 1]
        self.n_features = sum(widths)

    def forward(self, vector: Tensor) -> Tensor:
        """float32 (N, columns) → float32 (N, n_features)."""
        features, unseen = [], []
        if len(self._numbers):
            numbers = vector[:, self._numbers]
            absent = torch.isnan(numbers)
            features += [torch.where(absent, self.median, numbers), absent[:, self._lacked].float()]
            unseen.append(absent[:, self._whole].float())
        if len(self._named):
            codes = vector[:, self._named]
            absent = torch.isnan(codes)
            own = (codes[:, self._of_own] == self.code).float()
            counts = nn.functional.pad(own.cumsum(1), (1, 0))  # exact, as float32 holds every integer below 2²⁴
            other = 1 - (counts[:, self._last] - counts[:, self._first]) - absent.float()
            features += [own, other[:, self._rare], absent[:, self._empty].float()]
            unseen += [other[:, self._listed], absent[:, self._filled].float()]
        return torch.cat([*features, torch.cat(unseen, 1).sum(1, keepdim=True).clamp(max=1)], 1)

    def example(self) -> Tensor:
        return torch.zeros(2, self.input.shape[-1] or 1)


def _index(values: Sequence[int]) -> Tensor:
    return torch.tensor(values, dtype=torch.int64)


def _where(flags: Sequence[bool], value: bool) -> Tensor:
    return _index([i for i, flag in enumerate(flags) if flag is value])
