"""Inputs and devices as they are named on the command line."""

from __future__ import annotations

import pytest
import torch

from akg_dynamo.cli.model_file import check_device, parse_spec
from akg_dynamo.core.errors import TaskError


@pytest.mark.parametrize(
    ("text", "dtype", "shape"),
    [
        ("f32[8,128]", torch.float32, (8, 128)),
        (" bf16[ 4 , 8 ] ", torch.bfloat16, (4, 8)),
        ("f64[]", torch.float64, ()),
        ("f16[0,8]", torch.float16, (0, 8)),
        ("i64[4,16]<1000", torch.int64, (4, 16)),
        ("u8[4]<255", torch.uint8, (4,)),
        ("bool[4]", torch.bool, (4,)),
    ],
)
def test_an_input(text: str, dtype: torch.dtype, shape: tuple[int, ...]) -> None:
    made = parse_spec(text)
    assert made.dtype == dtype
    assert made.shape == shape


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("f32[4,,8]", "is not understood. Write dtype[sizes]"),
        ("f32[4 8]", "is not understood"),
        ("f32[4,]", "is not understood"),
        ("f32[-1]", "is not understood"),
        ("f32[²]", "is not understood"),
        ("f32[8]<3", "only integers can be asked to be below something"),
        ("i64[8]<0", "there are no i64 from 0 to below 0"),
        ("i64[8]<99999999999999999999", "there are no i64 from 0 to below 99999999999999999999"),
        ("i8[8]<300", "there are no i8 from 0 to below 300"),
        ("bool[8]<3", "there are no bool from 0 to below 3"),
        ("f32[9999999999999999]", "Give smaller sizes"),
        ("i64[9999999,9999999,9999999]", "Give smaller sizes"),
        ("f32[99999999999999999999999]", "Give smaller sizes"),
    ],
)
def test_an_input_that_cannot_be_is_named(text: str, message: str) -> None:
    with pytest.raises(TaskError) as caught:
        parse_spec(text)
    assert f"--input {text!r}" in str(caught.value)
    assert message in str(caught.value)


@pytest.mark.parametrize("device", ["", "foo", "mps", "meta", "cuda:99", "cuda:-1"])
def test_a_device_that_is_not_here_is_named_in_a_sentence(device: str) -> None:
    with pytest.raises(TaskError) as caught:
        check_device(device)
    said = str(caught.value)
    assert said.startswith(f"--device {device or repr(device)} cannot be used")
    assert said.endswith("Give cpu, cuda or cuda:N.")
    assert len(said) < 300
    assert ".." not in said
