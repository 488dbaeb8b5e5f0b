"""The convolution for gradient penalties against PyTorch's own, in double precision."""

import pytest
import torch
from torch import Tensor, nn

from training.models.convolution import Conv2d, input_gradients_alone


def convolutions(side: int, stride: int, padding: int, bias: bool) -> tuple[Conv2d, nn.Conv2d]:
    torch.manual_seed(0)
    own = Conv2d(3, 5, side, stride, padding, bias=bias).double()
    native = nn.Conv2d(3, 5, side, stride, padding, bias=bias).double()
    native.load_state_dict(own.state_dict())
    return own, native


def penalty(conv: nn.Conv2d, image: Tensor) -> Tensor:
    """Depends on the slope of a nonlinear function of the convolution."""
    image = image.clone().requires_grad_()
    with input_gradients_alone():
        slope = torch.autograd.grad(conv(image).pow(3).sum(), image, create_graph=True)[0]
    loss: Tensor = slope.square().sum().pow(1.5) + conv(image).square().mean()
    return loss


@pytest.mark.parametrize(
    ("side", "stride", "padding", "bias"), [(3, 1, 1, True), (4, 2, 1, False), (1, 1, 0, True), (4, 1, 0, False)]
)
def test_values_gradients_and_their_gradients_are_those_of_pytorch(
    side: int, stride: int, padding: int, bias: bool
) -> None:
    own, native = convolutions(side, stride, padding, bias)
    image = torch.randn(2, 3, 8, 8, dtype=torch.float64)
    torch.testing.assert_close(own(image), native(image))
    values = []
    for conv in (own, native):
        value = penalty(conv, image)
        value.backward()
        values.append(value.detach())
    torch.testing.assert_close(*values)
    for parameter, expected in zip(own.parameters(), native.parameters(), strict=True):
        torch.testing.assert_close(parameter.grad, expected.grad)


def test_gradients_of_weights_can_be_differentiated_outside_the_penalty() -> None:
    own, native = convolutions(3, 1, 1, bias=True)
    image = torch.randn(2, 3, 8, 8, dtype=torch.float64)
    found = []
    for conv in (own, native):
        slope = torch.autograd.grad(conv(image).pow(3).sum(), conv.weight, create_graph=True)[0]
        slope.square().sum().backward()
        found.append(conv.weight.grad)
    torch.testing.assert_close(*found)


def test_autocast_convolves_in_bfloat16() -> None:
    own, native = convolutions(3, 1, 1, bias=True)
    own, native = own.float(), native.float()
    image = torch.randn(2, 3, 8, 8)
    with torch.autocast("cpu", torch.bfloat16):
        assert own(image).dtype == torch.bfloat16
        torch.testing.assert_close(own(image), native(image))
