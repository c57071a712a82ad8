"""Several modalities as one array: inputs, queries and outputs.

Those of the released code of Perceiver IO (arXiv 2107.14795) under its names.
Modalities follow each other in alphabetical order. Their elements are filled up
to one width, the largest plus min_padding_size, with a learned vector that all
elements of a modality share.
"""

from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from projects.perceiver import decoders, positions, preprocessors


class MultimodalPreprocessor(nn.Module):
  """Inputs of several modalities as one array.

  Masked elements are replaced as a whole by the mask token of their modality. A
  call may leave modalities out; only the one that makes the parameters needs
  all.

  Parameters: modalities_NAME, NAME_padding [1, missing width], and with
  mask_probs NAME_mask_token [1, width].
  """

  modalities: Mapping[str, nn.Module]
  min_padding_size: int = 2
  mask_probs: Mapping[str, float] | None = None  # of each element
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, inputs, *, mask_keys=None, mask_probs=None, train=False):
    """Puts modalities together.

    Args:
      inputs: {modality: its input}.
      mask_keys: keys[B]; needed where a probability is neither 0 nor 1. What an
        example draws depends on its key alone.
      mask_probs: in place of the field.
      train: given to every preprocessor.

    Returns:
      `preprocessors.Preprocessed`; its features are {modality: [B, M, C']}.

    Raises:
      ValueError: an unknown modality, none at all, or no keys.
    """
    unknown = sorted(inputs.keys() - self.modalities.keys())
    if unknown or not inputs:
      raise ValueError(
        f'inputs {sorted(inputs)}: want some of {sorted(self.modalities)}'
      )
    if self.is_initializing() and inputs.keys() != self.modalities.keys():
      raise ValueError(
        f'parameters are made from all of {sorted(self.modalities)}, got '
        f'{sorted(inputs)}'
      )
    made = {
      name: self.modalities[name](inputs[name], train=train)
      for name in sorted(inputs)
    }
    parts = {name: part.array for name, part in made.items()}
    parts = _filled(self, parts, self.min_padding_size)
    if self.mask_probs is not None:
      probs = self.mask_probs if mask_probs is None else mask_probs
      for name, x in parts.items():
        parts[name] = self._masked(name, x, probs.get(name, 0.0), mask_keys)
    return preprocessors.Preprocessed(
      jnp.concatenate(list(parts.values()), axis=1),
      {name: part.features for name, part in made.items()},
      {name: x.shape[1] for name, x in parts.items()},
    )

  def _masked(self, name, x, prob, keys):
    token = self.param(
      f'{name}_mask_token',
      positions.table_init(),
      (1, x.shape[-1]),
      jnp.float32,
    ).astype(x.dtype)
    if prob <= 0 or self.is_initializing():
      return x
    if prob >= 1:
      return jnp.broadcast_to(token, x.shape)
    if keys is None:
      raise ValueError(
        f'mask_probs[{name!r}]={prob} is a draw: give mask_keys, or 0 or 1'
      )
    number = sorted(self.modalities).index(name)
    draw = lambda key: jax.random.bernoulli(
      jax.random.fold_in(key, number), prob, x.shape[1:2]
    )
    return jnp.where(jax.vmap(draw)(keys)[..., None], token, x)


class MultimodalDecoder(nn.Module):
  """Queries of several modalities, read together.

  The modalities' decoders only make queries.

  Parameters: modalities_NAME/positions where learned; NAME_padding; decoder.
  """

  modalities: Mapping[str, decoders.BasicDecoder]
  decoder: decoders.BasicDecoder
  min_padding_size: int = 2

  @nn.compact
  def decoder_query(self, preprocessed, points=None):
    """Queries of modalities.

    Args:
      preprocessed: what the encoder read.
      points: {modality: int[O] or int[B, O], or None for all of it}.
        Modalities that are not named are left out; None: all of all.

    Returns:
      ([B, sum of O, E], {modality: O}).

    Raises:
      ValueError: an unknown modality, or none.
    """
    wanted = dict.fromkeys(self.modalities) if points is None else points
    unknown = sorted(wanted.keys() - self.modalities.keys())
    if unknown or not wanted:
      raise ValueError(
        f'outputs {sorted(wanted)}: want some of {sorted(self.modalities)}'
      )
    names = sorted(self.modalities if self.is_initializing() else wanted)
    parts = {
      name: self.modalities[name].decoder_query(
        preprocessed._replace(features=preprocessed.features.get(name)),
        wanted.get(name),
      )
      for name in names
    }
    parts = _filled(self, parts, self.min_padding_size)
    sizes = {name: x.shape[1] for name, x in parts.items()}
    return jnp.concatenate(list(parts.values()), axis=1), sizes

  def __call__(self, query, latents, *, query_mask=None):
    """Queries with their sizes -> `decoders.Decoded`."""
    query, sizes = query
    array = self.decoder.read(query, latents, query_mask)
    return decoders.Decoded(array, sizes)


class MultimodalPostprocessor(nn.Module):
  """Cuts the outputs into modalities: {modality: its result}.

  Parameters: modalities_NAME.
  """

  modalities: Mapping[str, nn.Module]

  def __call__(self, x, sizes):
    """x: [B, sum of sizes, C], modalities in the order of sizes."""
    results, start = {}, 0
    for name, size in sizes.items():
      results[name] = self.modalities[name](x[:, start : start + size])
      start += size
    return results


def _filled(module, parts, min_padding_size):
  """{modality: [B, n, C]} with one width; makes NAME_padding of module."""
  width = max(x.shape[-1] for x in parts.values()) + min_padding_size
  if not module.is_initializing():
    # The parameters know the width, also that of what is left out.
    name, x = next(iter(parts.items()))
    stored = module.variables['params'][f'{name}_padding']
    width = x.shape[-1] + stored.shape[-1]

  def fill(name, x):
    missing = width - x.shape[-1]
    padding = module.param(
      f'{name}_padding', positions.table_init(), (1, missing), jnp.float32
    ).astype(x.dtype)
    padding = jnp.broadcast_to(padding, (*x.shape[:2], missing))
    return jnp.concatenate([x, padding], axis=-1)

  return {name: fill(name, x) for name, x in parts.items()}
