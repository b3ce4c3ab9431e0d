"""Devices; that features beyond the memory are read from their file is in test_data.py."""

import pytest
import torch

from pipeline import train
from pipeline.task import UserError


def test_cuda_where_there_is_none_is_one_line() -> None:
    if torch.cuda.is_available():
        assert train.choose_device("cuda").type == "cuda"
    else:
        with pytest.raises(UserError, match="no CUDA device"):
            train.choose_device("cuda")
    assert train.choose_device("cpu").type == "cpu"
