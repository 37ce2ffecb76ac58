"""Configuration of the privileged world model. Every number the papers leave open is a field here."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from agent.actions import ACTIONS
from agent.model.mask_decoder import MIN_GRID_PX
from agent.model.recurrent import NormKind
from agent.model.rssm import RssmConfig
from training.bev import CHANNELS
from training.world_model.distributions import TwoHotSpace

VisionKind = Literal["strided", "pooled", "patch"]


@dataclass(frozen=True, kw_only=True, slots=True)
class ObservationConfig:
    """What the privileged stream sees."""

    size_px: int = 64
    """Side of the square masks. Our reading: the five convolutions of Raw2Drive's Table 13 halve 128 px down to 4."""
    channels: int = CHANNELS
    """Masks per pixel, the bits of a word."""
    vector: int = 0
    """Width of the ego vector; 0 for masks alone."""
    gaps: int = 0
    """How many of its numbers, the last ones, are gaps between the ego and others."""


@dataclass(frozen=True, kw_only=True, slots=True)
class VisionConfig:
    """Mask encoder and decoder."""

    kind: VisionKind = "strided"
    """strided: 4x4 convolutions of stride 2 (DreamerV3 of 2023). pooled: 5x5 convolutions with 2x2 max pooling, nearest
    upsampling in the decoder (2025). patch: linear maps of 4x4 patches and merges of 2x2 patches, fast on a CPU."""
    depth: int = 24
    """Channels of the first layer; strided doubles them per layer."""
    multipliers: tuple[int, ...] = (2, 3, 4, 4)
    """Channels of the pooled layers in units of depth."""
    space_blocks: int = 8
    """Blocks of the linear layer from h to the smallest map in the pooled decoder."""
    patch_px: int = 4
    vector_layers: int = 1
    """Hidden layers for the ego vector, in the encoder and in the decoder."""
    likelihood: Literal["squared", "bernoulli"] = "squared"
    """squared: sum of squared errors, the literal Dreamer; bernoulli: the likelihood of binary masks. Raw2Drive,
    Appendix D, writes ln p(e_t | s_t, h_t) and means the masks o_t (our reading)."""
    sigmoid_output: bool = False
    """Whether the squared error sees sigmoid(output), as in 2025, or the output itself."""
    channel_weights: tuple[float, ...] = ()
    """Weight of each mask in the reconstruction; all 1 if empty."""
    decode_share: float = 1.0
    """Share of the time steps, drawn anew for each update, that are decoded; the estimate of the loss is unbiased."""

    def __post_init__(self) -> None:
        if not 0.0 < self.decode_share <= 1.0:
            raise ValueError(f"vision.decode_share must lie in (0, 1], got {self.decode_share}")
        if self.kind == "patch" and self.patch_px < 1:
            raise ValueError(f"vision.patch_px must be at least 1, got {self.patch_px}")
        if self.sigmoid_output and self.likelihood == "bernoulli":
            raise ValueError("vision.sigmoid_output belongs to the squared likelihood; bernoulli takes logits")


@dataclass(frozen=True, kw_only=True, slots=True)
class HeadConfig:
    """Reward and continue heads."""

    units: int = 256
    layers: int = 1
    two_hot: TwoHotSpace = "symlog"
    """Space of the two-hot reward (and critic): symlog in 2023, raw in 2025."""


@dataclass(frozen=True, kw_only=True, slots=True)
class LossConfig:
    """Weights of the world model's loss. Raw2Drive, Appendix D, equation 2, gives symbols only: DreamerV3's values."""

    reconstruction: float = 1.0
    """beta_pred, on masks and vector."""
    vector: float = 1.0
    """Of the vector's squared error relative to the masks' loss, which is a sum over far more numbers."""
    gaps: float = 1.0
    """Of the gaps' squared error relative to the rest of the vector."""
    reward: float = 1.0
    """beta_pred, on the reward."""
    continuation: float = 1.0
    """beta_pred, on the continue flag."""
    dynamics: float = 0.5
    """beta_dyn; 0.5 in 2023, 1.0 in 2025."""
    representation: float = 0.1
    """beta_rep."""


@dataclass(frozen=True, kw_only=True, slots=True)
class DiscountConfig:
    """Discounting in world model and policy."""

    horizon_steps: float = 333.0
    """gamma = 1 - 1 / horizon: 33 s at ten decisions a second. Not in Raw2Drive; DreamerV3's value."""
    in_continue: bool = False
    """Whether the continue head's target is gamma (1 - terminal), as in 2025, so that it needs no further discount."""

    def __post_init__(self) -> None:
        if self.horizon_steps <= 1.0:
            raise ValueError(f"discount.horizon_steps must exceed 1, got {self.horizon_steps}")

    @property
    def gamma(self) -> float:
        """Discount per decision."""
        return 1.0 - 1.0 / self.horizon_steps


@dataclass(frozen=True, kw_only=True, slots=True)
class WorldModelConfig:
    """Everything that fixes the shape and the loss of the privileged world model."""

    observation: ObservationConfig = field(default_factory=ObservationConfig)
    rssm: RssmConfig = field(
        default_factory=lambda: RssmConfig(groups=32, classes=32, action_input=True, actions=len(ACTIONS))
    )
    vision: VisionConfig = field(default_factory=VisionConfig)
    heads: HeadConfig = field(default_factory=HeadConfig)
    loss: LossConfig = field(default_factory=LossConfig)
    discount: DiscountConfig = field(default_factory=DiscountConfig)

    def __post_init__(self) -> None:
        size, vision = self.observation.size_px, self.vision
        if not 0 <= self.observation.gaps <= self.observation.vector:
            raise ValueError(
                "observation.gaps must lie between 0 and observation.vector, got "
                f"{self.observation.gaps} of {self.observation.vector}"
            )
        if not self.rssm.action_input:
            raise ValueError("rssm.action_input must be on: a policy is trained inside this model")
        if self.observation.channels > 63:
            raise ValueError(f"observation.channels must fit a word (at most 63), got {self.observation.channels}")
        if vision.kind == "pooled":
            halvings = len(vision.multipliers)
            if not halvings or size % 2**halvings or size < MIN_GRID_PX * 2**halvings:
                raise ValueError(f"observation.size_px {size} cannot be halved {halvings} times down to 4 or more")
        else:
            patch = vision.patch_px if vision.kind == "patch" else 1
            cells = size // patch
            if size % patch or cells < MIN_GRID_PX or cells & (cells - 1):
                raise ValueError(
                    f"observation.size_px {size} must be a power of two (times vision.patch_px) of at least 4 cells"
                )
        weights = vision.channel_weights
        if weights and len(weights) != self.observation.channels:
            raise ValueError(
                f"vision.channel_weights has {len(weights)} entries, "
                f"observation.channels is {self.observation.channels}"
            )

    @property
    def norm(self) -> NormKind:
        """The norm of all layers is that of the recurrence."""
        return self.rssm.norm

    @property
    def features(self) -> int:
        """Width of [h, z]."""
        return self.rssm.deter + self.rssm.stoch
