"""What a training step costs, by formula (matrix products only).

Two FLOPs per multiply-add. One block on n tokens of width D with an MLP of
width M costs F(n) = 2n (4 D^2 + 2 D M) + 4 n^2 D. A block that trains costs 2 F
more in the backward pass; a frozen one nothing, which is what freezing saves.
Attention inside the formula is dense; norms, softmax and the like are left out.
"""

import dataclasses


@dataclasses.dataclass(frozen=True)
class Cost:
  """FLOPs of one clip: forward pass, backward pass, pass for the targets."""

  forward: int
  backward: int
  target: int

  @property
  def total(self) -> int:
    """FLOPs of a training step, without rematerialisation."""
    return self.forward + self.backward + self.target


@dataclasses.dataclass(frozen=True)
class Sizes:
  """What the formula depends on."""

  width: int  # D
  depth: int  # all blocks, decoder included
  mlp_features: int  # M
  num_decoder_layers: int  # blocks that see the decode tokens
  num_visible: int  # tokens that enter the first block
  num_decode: int  # decode tokens
  patch_values: int  # numbers in a patch

  def block(self, tokens: int) -> int:
    """F(tokens)."""
    d = self.width
    matrices = 4 * d * d + 2 * d * self.mlp_features
    return 2 * tokens * matrices + 4 * tokens * tokens * d

  def cost(
    self, frozen: int, *, latent: bool = False, target_tokens: int = 0
  ) -> Cost:
    """Cost of one clip with `frozen` frozen blocks.

    Args:
      frozen: k, at most depth - num_decoder_layers.
      latent: whether features are predicted, and not pixels.
      target_tokens: tokens of the pass that makes them; 0: there is none.
    """
    d, joint = self.width, self.num_visible + self.num_decode
    encoder = self.depth - self.num_decoder_layers
    embed = 2 * self.num_visible * self.patch_values * d
    head = 2 * self.num_decode * d * (d if latent else self.patch_values)
    early, late = self.block(self.num_visible), self.block(joint)
    late *= self.num_decoder_layers
    target = 0
    if target_tokens:
      target = 2 * target_tokens * self.patch_values * d
      target += frozen * self.block(target_tokens)
    return Cost(
      forward=embed + encoder * early + late + head,
      backward=(embed if not frozen else 0)
      + 2 * (encoder - frozen) * early
      + 2 * late
      + 2 * head,
      target=target,
    )
