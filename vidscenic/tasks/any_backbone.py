"""Any module as a backbone of `tasks.readout`: a method of it gives features.

backbone='vidscenic.tasks.any_backbone:Backbone'
backbone_kwargs={'module': 'projects.rvm.model:RVM', 'fields': {...},
                 'method': 'encode', 'drop_tokens': 1}
"""

from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax.numpy as jnp

from vidscenic import config as vc


class Backbone(nn.Module):
  """Calls module.method(video) and passes on what comes first.

  Parameters: those of the module, at the same paths.
  """

  module: str  # factory string of a Linen module
  fields: Mapping[str, Any] = nn.FrozenDict()
  method: str = '__call__'
  drop_tokens: int = 0  # class tokens at the front of every frame
  dtype: Any = jnp.float32  # compute

  @nn.compact
  def __call__(self, video):
    """float[B, T, H, W, 3] -> as the method gives it, or [B, T, N, D].

    Raises:
      ValueError: tokens to be dropped of something else than an array.
    """
    fields = {
      k: tuple(v) if isinstance(v, list) else v for k, v in self.fields.items()
    }
    inner = vc.build(
      self.module,
      field='task.kwargs.backbone_kwargs.module',
      dtype=self.dtype,
      **fields,
    )
    nn.share_scope(self, inner)
    result = getattr(inner, self.method)(video)
    if isinstance(result, tuple) and not hasattr(result, 'features'):
      result = result[0]  # (features, state): clips are whole here
    if not self.drop_tokens:
      return result
    if not hasattr(result, 'ndim'):
      raise ValueError(
        f'backbone_kwargs.drop_tokens={self.drop_tokens} but {self.module} '
        'gives no array'
      )
    return result[..., self.drop_tokens :, :]
