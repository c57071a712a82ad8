"""The model: a preprocessor, an encoder, a decoder and a postprocessor.

Perceiver IO (arXiv 2107.14795) and Perceiver (2103.03206). A preprocessor makes
an array of any input, a few hundred latents read it and are processed, queries
read the latents, a postprocessor gives the result its form.

Parameters: input_preprocessor, encoder, decoder, output_postprocessor.
"""

import flax.linen as nn

from projects.perceiver import multimodal, postprocessors


class Perceiver(nn.Module):
  """Preprocessor, encoder, decoder and postprocessor."""

  input_preprocessor: nn.Module
  encoder: nn.Module
  decoder: nn.Module
  output_postprocessor: nn.Module | None = None

  def __call__(
    self,
    inputs,
    *,
    points=None,
    input_mask=None,
    query_mask=None,
    train: bool = False,
    **masking,
  ):
    """Encodes and decodes.

    Args:
      inputs: what the preprocessor takes.
      points: which outputs, see `decoder_query` of the decoder; None: all.
      input_mask: bool[B, M], inputs that may be read.
      query_mask: bool[B, O], queries that may read.
      train: batch statistics of these inputs, dropout.
      **masking: mask_keys and mask_probs of `MultimodalPreprocessor`.

    Returns:
      What the postprocessor makes of the outputs, else the outputs.
    """
    latents, preprocessed = self.encode(
      inputs, input_mask=input_mask, train=train, **masking
    )
    return self.decode(
      latents, preprocessed, points=points, query_mask=query_mask
    )

  def encode(self, inputs, *, input_mask=None, train: bool = False, **masking):
    """-> (latents [B, N, D], `preprocessors.Preprocessed`)."""
    preprocessed = self.input_preprocessor(inputs, train=train, **masking)
    latents = self.encoder(
      preprocessed.array, input_mask=input_mask, train=train
    )
    return latents, preprocessed

  def decode(self, latents, preprocessed, *, points=None, query_mask=None):
    """Outputs of latents that `encode` made; any number of times."""
    query = self.decoder.decoder_query(
      preprocessed, **({} if points is None else {'points': points})
    )
    out = self.decoder(query, latents, query_mask=query_mask)
    last = self.output_postprocessor
    if last is None:
      return out.array
    if isinstance(last, postprocessors.EmbeddingDecoder):
      return last(out.array, self.input_preprocessor.embedding)
    if isinstance(last, multimodal.MultimodalPostprocessor):
      return last(out.array, out.sizes)
    return last(out.array)


class ImageClassifier(Perceiver):
  """Images [B, H, W, 3], or clips [B, T, H, W, 3], to logits.

  A clip of one frame is an image: its positions have no time.
  """

  def __call__(self, video, *, train: bool = False):
    """-> float[B, num_classes]."""
    if video.ndim == 5 and video.shape[1] == 1:
      video = video[:, 0]
    return super().__call__(video, train=train)
