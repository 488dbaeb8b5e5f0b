"""The optimized generator computes what the trained one does, with two thirds of its work."""

from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import onnx
import pytest
import torch
from torch import Tensor

from benchmarks.fixtures import paper_sizes
from export.onnx_graphs import GeneratorGraph, build_generator, traced
from export.optimized_generator import optimize
from t2i_engine.formats import GENERATOR, Form
from t2i_engine.manifest import ModelSizes, graphs_of
from tests.tiny_model import SIZES, make_model
from training.models.generator import Generator
from training.models.text_to_image import TextToImage

FOLDED = [Form.TRANSPOSED, Form.PHASES]


def inputs(sizes: ModelSizes, dtype: torch.dtype, batch: int = 3) -> list[Tensor]:
    random = torch.Generator().manual_seed(0)
    widths = [sizes.noise_width, sizes.sentence_width, sizes.sentence_width]
    noise, sentence, condition_noise = (torch.randn(batch, width, generator=random, dtype=dtype) for width in widths)
    return [noise, sentence.tanh(), condition_noise]


@torch.inference_mode()
def image(generator: Generator, feeds: list[Tensor]) -> Tensor:
    drawn: Tensor = generator(*feeds).image
    return drawn


@pytest.mark.parametrize(
    "sizes",
    [
        SIZES,
        replace(SIZES, resolution=128),
        replace(SIZES, base_channels=6),
        replace(SIZES, conditioning_augmentation=False, adaptive_block=False),
        replace(SIZES, first_generation=True),
    ],
    ids=["tiny", "larger", "wider", "DF-GAN's", "DF-GAN's first"],
)
@pytest.mark.parametrize("form", FOLDED)
def test_every_form_is_exact(form: Form, sizes: ModelSizes) -> None:
    generator = make_model(sizes).generator.double()
    feeds = inputs(sizes, torch.float64)
    expected = image(generator, feeds)
    assert expected.std() > 0.1
    assert (image(optimize(generator, form), feeds) - expected).abs().max() < 1e-10


@pytest.mark.parametrize("form", FOLDED)
def test_in_fp32_only_the_last_digits_differ(form: Form) -> None:
    generator = make_model().generator
    feeds = inputs(SIZES, torch.float32)
    assert (image(optimize(generator, form), feeds) - image(generator, feeds)).abs().max() < 5e-5


@pytest.mark.parametrize("form", list(Form))
def test_optimizing_leaves_the_generator_as_it_is(form: Form) -> None:
    generator = make_model().generator
    generator.folded = True
    names = [name for name, _ in generator.named_modules()]
    optimize(generator, form)
    assert generator.folded
    assert [name for name, _ in generator.named_modules()] == names


def operators(proto: onnx.ModelProto) -> set[str]:
    return {node.op_type for node in proto.graph.node}


def test_each_form_is_in_its_graph() -> None:
    graphs = {form: operators(onnx.load_from_string(build_generator(make_model(), form).content)) for form in FOLDED}
    assert "ConvTranspose" in graphs[Form.TRANSPOSED]
    assert graphs[Form.PHASES].isdisjoint({"ConvTranspose", "DepthToSpace"})


def test_at_256_a_picture_takes_less_than_two_thirds_of_the_work() -> None:
    model = TextToImage(paper_sizes(words=100)).eval()
    graph = traced(GeneratorGraph(model.generator, Form.PHASES), graphs_of(model.sizes)[GENERATOR])
    assert sum(_operations(graph)) <= 9.6e9  # of 14.97e9 as trained


def _operations(proto: onnx.ModelProto) -> Iterator[int]:
    """Multiplications and additions of each convolution and matrix product, for one picture."""
    shapes: dict[str, list[int]] = {}
    for axis in (tensor.type.tensor_type.shape.dim[0] for tensor in proto.graph.input):
        axis.ClearField("dim_param")
        axis.dim_value = 1
    del proto.graph.value_info[:]
    inferred = onnx.shape_inference.infer_shapes(proto, data_prop=True).graph
    for value in (*inferred.value_info, *inferred.input, *inferred.output):
        shapes[value.name] = [axis.dim_value for axis in value.type.tensor_type.shape.dim]
    shapes |= {tensor.name: list(tensor.dims) for tensor in inferred.initializer}
    for node in inferred.node:
        if node.op_type in ("Conv", "ConvTranspose"):
            result = shapes[node.output[0] if node.op_type == "Conv" else node.input[0]]
            yield 2 * int(np.prod(shapes[node.input[1]])) * int(np.prod(result[2:]))
        elif node.op_type in ("Gemm", "MatMul"):
            yield 2 * int(np.prod(shapes[node.input[1]]))
