"""DF-GAN's training step, written plainly: the baseline against which benchmarks/training.py times this project's own.

Networks and order of passes are those of DF-GAN's published code (Tao et al., 2022): default layout, an upsampled map
before every convolution, the 1×1 shortcut at full resolution, the gradient penalty through the logits of the real
pictures, one update of the discriminator and one of the generator, PyTorch's Adam, no moving average. The networks hold
this project's tensors under the same names, so that both start from one state dict.

The contributions' modules and the image encoder are this project's own; the losses of the full method (docs/method.md)
are written here.
"""

import copy
from collections import OrderedDict
from collections.abc import Iterable
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from t2i_engine.manifest import ModelSizes
from training.config import ContrastiveConfig
from training.models.conditioning import AdaptiveBlock, ConditioningAugmentation
from training.models.generator import channel_widths
from training.models.image_encoder import ImageEncoder


class Affine(nn.Module):
    """γ(c) · features + β(c), each a two-layer MLP of the condition."""

    def __init__(self, condition_width: int, channels: int) -> None:
        super().__init__()
        self.fc_gamma, self.fc_beta = (
            nn.Sequential(
                OrderedDict(
                    linear1=nn.Linear(condition_width, channels),
                    relu=nn.ReLU(inplace=True),
                    linear2=nn.Linear(channels, channels),
                )
            )
            for _ in range(2)
        )

    def forward(self, features: Tensor, condition: Tensor) -> Tensor:
        """Maps `features` (B, C, H, W) by `condition` (B, Z + S) to the same shape."""
        gamma: Tensor = self.fc_gamma(condition)[:, :, None, None]
        beta: Tensor = self.fc_beta(condition)[:, :, None, None]
        return gamma * features + beta


class DFBlock(nn.Module):
    """Two affines, each followed by a LeakyReLU."""

    def __init__(self, condition_width: int, channels: int) -> None:
        super().__init__()
        self.affine0 = Affine(condition_width, channels)
        self.affine1 = Affine(condition_width, channels)

    def forward(self, features: Tensor, condition: Tensor) -> Tensor:
        """Maps `features` (B, C, H, W) by `condition` (B, Z + S) to the same shape."""
        features = F.leaky_relu(self.affine0(features, condition), 0.2, inplace=True)
        return F.leaky_relu(self.affine1(features, condition), 0.2, inplace=True)


class UpBlock(nn.Module):
    """Upsamples, then shortcut + (DFBlock → conv → DFBlock → conv)."""

    def __init__(self, in_channels: int, out_channels: int, condition_width: int) -> None:
        super().__init__()
        self.fuse1 = DFBlock(condition_width, in_channels)
        self.c1 = nn.Conv2d(in_channels, out_channels, 3, padding=1)
        self.fuse2 = DFBlock(condition_width, out_channels)
        self.c2 = nn.Conv2d(out_channels, out_channels, 3, padding=1)
        self.c_sc = nn.Conv2d(in_channels, out_channels, 1) if in_channels != out_channels else nn.Identity()

    def forward(self, features: Tensor, condition: Tensor) -> Tensor:
        """Maps `features` (B, in, H, W) by `condition` (B, Z + S) to (B, out, 2H, 2W)."""
        features = F.interpolate(features, scale_factor=2)
        residual = self.c1(self.fuse1(features, condition))
        refined: Tensor = self.c2(self.fuse2(residual, condition))
        shortcut: Tensor = self.c_sc(features)
        return shortcut + refined


class Generator(nn.Module):
    """`training.models.generator.Generator`, tensor for tensor."""

    def __init__(self, sizes: ModelSizes) -> None:
        super().__init__()
        widths = channel_widths(sizes.resolution, sizes.base_channels, sizes.max_channel_multiple)
        width, condition_width = sizes.sentence_width, sizes.noise_width + sizes.sentence_width
        self.fc = nn.Linear(sizes.noise_width, widths[0] * 4 * 4)
        self.GBlocks = nn.ModuleList(UpBlock(wide, narrow, condition_width) for wide, narrow in pairwise(widths))
        self.to_rgb = nn.Sequential(nn.LeakyReLU(0.2, inplace=True), nn.Conv2d(widths[-1], 3, 3, padding=1), nn.Tanh())
        self.augmentation = ConditioningAugmentation(width) if sizes.conditioning_augmentation else None
        blocks = [AdaptiveBlock(channels, 4 * 2**i, width) for i, channels in enumerate(widths[:-1])]
        self.adaptive_blocks = nn.ModuleList(blocks) if sizes.adaptive_block else None

    def forward(self, noise: Tensor, sentence: Tensor) -> tuple[Tensor, Tensor]:
        """Draws images (B, 3, R, R); returns them with the KL divergence, 0 without conditioning augmentation."""
        divergence = sentence.new_zeros(())
        if self.augmentation is not None:
            sentence, mean, log_variance = self.augmentation(sentence, torch.randn_like(sentence))
            divergence = 0.5 * (mean**2 + torch.exp(log_variance) - 1 - log_variance).mean()
        features = self.fc(noise).view(len(noise), -1, 4, 4)
        for i, block in enumerate(self.GBlocks):
            attended = sentence if self.adaptive_blocks is None else self.adaptive_blocks[i](features, sentence)
            features = block(features, torch.cat([noise, attended], dim=1))
        return self.to_rgb(features), divergence


class DownBlock(nn.Module):
    """Halves the resolution: shortcut + γ · residual."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.conv_r = nn.Sequential(
            nn.Conv2d(in_channels, out_channels, 4, stride=2, padding=1, bias=False),
            nn.LeakyReLU(0.2, inplace=True),
            nn.Conv2d(out_channels, out_channels, 3, padding=1, bias=False),
            nn.LeakyReLU(0.2, inplace=True),
        )
        self.conv_s = nn.Conv2d(in_channels, out_channels, 1) if in_channels != out_channels else nn.Identity()
        self.gamma = nn.Parameter(torch.zeros(1))

    def forward(self, features: Tensor) -> Tensor:
        """Maps (B, in, H, W) to (B, out, H/2, W/2)."""
        residual: Tensor = self.conv_r(features)
        return F.avg_pool2d(self.conv_s(features), 2) + self.gamma * residual


class Discriminator(nn.Module):
    """`training.models.discriminator.Discriminator`, tensor for tensor."""

    def __init__(self, sizes: ModelSizes) -> None:
        super().__init__()
        widths = channel_widths(sizes.resolution, sizes.base_channels, sizes.max_channel_multiple)[::-1]
        self.conv_img = nn.Conv2d(3, widths[0], 3, padding=1)
        self.DBlocks = nn.ModuleList(DownBlock(narrow, wide) for narrow, wide in pairwise(widths))
        self.joint_conv = nn.Sequential(
            nn.Conv2d(widths[-1] + sizes.sentence_width, widths[-1] // 4, 3, padding=1, bias=False),
            nn.LeakyReLU(0.2, inplace=True),
            nn.Conv2d(widths[-1] // 4, 1, 4, bias=False),
        )

    def features(self, image: Tensor) -> Tensor:
        """Features of `image` (B, 3, R, R): (B, 8·nf, 4, 4)."""
        features: Tensor = self.conv_img(image)
        for block in self.DBlocks:
            features = block(features)
        return features

    def logits(self, features: Tensor, sentence: Tensor) -> Tensor:
        """Scores `features` against `sentence` (B, S): one logit each (B, 1, 1, 1)."""
        tiled = sentence[:, :, None, None].repeat(1, 1, 4, 4)
        logits: Tensor = self.joint_conv(torch.cat([features, tiled], dim=1))
        return logits


class ReferenceStep:
    """DF-GAN's step, in fp32: the networks, their optimizers and the order of passes."""

    def __init__(
        self,
        sizes: ModelSizes,
        generator: dict[str, Tensor],
        discriminator: dict[str, Tensor],
        device: torch.device,
        image_encoder: ImageEncoder | None = None,
        contrastive: ContrastiveConfig | None = None,
        kl_weight: float = 1.0,
    ) -> None:
        """Starts from this project's weights; with a frozen `image_encoder`, adds the `contrastive` losses."""
        self.noise_width, self.kl_weight, self.contrastive = sizes.noise_width, kl_weight, contrastive
        self.generator, self.discriminator = Generator(sizes).to(device), Discriminator(sizes).to(device)
        self.generator.load_state_dict(generator)
        self.discriminator.load_state_dict(discriminator)
        self.image_encoder = copy.deepcopy(image_encoder)
        if self.image_encoder:
            self.image_encoder.to(memory_format=torch.contiguous_format)
        self.generator_optimizer = _adam(self.generator.parameters(), 1e-4)
        self.discriminator_optimizer = _adam(self.discriminator.parameters(), 4e-4)

    def __call__(self, real: Tensor, sentence: Tensor) -> None:
        """Updates both networks by `real` (B, 3, R, R) in [−1, 1] and `sentence` (B, S)."""
        fake, divergence = self.generator(torch.randn(len(real), self.noise_width, device=real.device), sentence)
        loss = self.discriminator_loss(real, fake.detach(), sentence)
        self.discriminator_optimizer.zero_grad()
        loss.backward()
        self.discriminator_optimizer.step()
        loss = self.generator_loss(fake, divergence, real, sentence)
        self.generator_optimizer.zero_grad()
        loss.backward()
        self.generator_optimizer.step()

    def discriminator_loss(self, real: Tensor, fake: Tensor, sentence: Tensor) -> Tensor:
        """Hinge losses of real, mismatched and generated pairs, and the gradient penalty."""
        network = self.discriminator
        real, sentence = real.detach().requires_grad_(), sentence.detach().requires_grad_()
        features = network.features(real)
        matched = network.logits(features, sentence)
        mismatched = network.logits(torch.cat([features[1:], features[:1]]), sentence)
        generated = network.logits(network.features(fake), sentence)
        gradients = torch.autograd.grad(matched.sum(), (real, sentence), create_graph=True)
        norm = torch.cat([gradient.flatten(1) for gradient in gradients], dim=1).square().sum(1).sqrt()
        hinges = F.relu(1 - matched).mean() + (F.relu(1 + generated).mean() + F.relu(1 + mismatched).mean()) / 2
        return hinges + 2 * (norm**6).mean()

    def generator_loss(self, fake: Tensor, divergence: Tensor, real: Tensor, sentence: Tensor) -> Tensor:
        """−E[D], and the method's own terms where they are configured."""
        loss = (
            self.kl_weight * divergence - self.discriminator.logits(self.discriminator.features(fake), sentence).mean()
        )
        if self.image_encoder and self.contrastive:
            drawn = self.image_encoder(fake).picture
            with torch.no_grad():
                photographed = self.image_encoder(real).picture
            for weight, target in (
                (self.contrastive.text_weight, sentence),
                (self.contrastive.image_weight, photographed),
            ):
                loss = loss + weight * _nt_xent(drawn, target, self.contrastive.temperature)
        return loss


def _adam(parameters: Iterable[nn.Parameter], learning_rate: float) -> torch.optim.Adam:
    return torch.optim.Adam(parameters, lr=learning_rate, betas=(0.0, 0.9))


def _nt_xent(anchors: Tensor, targets: Tensor, temperature: float) -> Tensor:
    cosines = F.normalize(anchors, dim=1) @ F.normalize(targets.to(anchors), dim=1).T
    return F.cross_entropy(cosines / temperature, torch.arange(len(anchors), device=anchors.device))
