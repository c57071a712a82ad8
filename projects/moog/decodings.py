"""Which state the decoder of published weights wants to see.

The code around the published weights does not run, and read as it stands it
decodes the state that enters a step, before norm and predictor; the training
code decodes the predicted state. The weights themselves tell: the right one
predicts frames better.
"""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from projects.moog import model as model_lib
from vidscenic.data import synthetic
from vidscenic.layers import pixel_decoder

DECODINGS = ('predicted', 'entered')


def compare(
  fields: Mapping[str, Any],
  params: Mapping[str, Any],
  video: np.ndarray | None = None,
  *,
  num_tokens: int = 1024,
  initial: np.ndarray | None = None,
  factor: int = 4,
) -> dict[str, float]:
  """PSNR of next frames for both states, from frame 2 on.

  Args:
    fields: of the model, from `importer.model_fields`.
    params: of the model.
    video: uint8[T, H, W, 3], T > 2; None: a synthetic clip of 8 frames of
      128x128 pixels.
    num_tokens: of the random first state (key 0).
    initial: float[N, D], the first state; None: drawn.
    factor: every factor-th pixel is decoded.

  Returns:
    {'predicted': dB, 'entered': dB}.
  """
  if video is None:
    source = synthetic.SyntheticVideos(
      'validation', num_frames=24, height=128, width=128
    )
    video = source[0]['video'][:8]
  fields = dict(fields)
  model = model_lib.Moog(
    **model_lib.variant(fields.pop('variant')) | fields,
    num_tokens=num_tokens,
    remat=False,
  )
  clip = jnp.asarray(video, jnp.float32)[None] / 255
  first = None if initial is None else jnp.asarray(initial)[None]

  @jax.jit
  def run(params, clip):
    variables = {'params': params}
    out = model.apply(variables, clip, initial=first, factor=factor)
    rows, columns = model.lattices(clip.shape, factor)
    truth = pixel_decoder.take_lattice(clip, rows, columns)
    results = {}
    for name in DECODINGS:
      said = model.apply(
        variables,
        getattr(out, name),
        rows,
        columns,
        size=clip.shape[2:4],
        method='decode',
      )
      square = jnp.mean(jnp.square(said - truth)[:, 2:], axis=(0, 2, 3, 4))
      results[name] = jnp.mean(-10 * jnp.log10(square))
    return results

  return {name: float(value) for name, value in run(params, clip).items()}
