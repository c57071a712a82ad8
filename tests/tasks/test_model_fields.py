"""Fields of models from configs."""

import flax.linen as nn
import jax.numpy as jnp
import pytest

from vidscenic.tasks import model_fields


class Module(nn.Module):
  """Fields to be set."""

  width: int = 3
  patch: tuple = (1, 2, 2)
  heads: tuple = ()
  dtype: type = jnp.float32


def test_fields_of_a_size_yield_to_given_ones():
  fields = model_fields.with_size({'size': 'S', 'depth': 2})
  assert fields == {
    'width': 384, 'depth': 2, 'num_heads': 6, 'mlp_features': 1536
  }  # fmt: skip


def test_fields_make_a_module_that_can_be_hashed():
  fields = model_fields.checked(
    Module, {'patch': [1, 4, 4], 'dtype': 'bfloat16'}
  )
  assert hash(Module(**fields)) and Module(**fields).dtype == jnp.bfloat16


@pytest.mark.parametrize(
  ('call', 'message'),
  [
    (lambda: model_fields.with_size({'size': 'XL'}), "model.size='XL'"),
    (
      lambda: model_fields.checked(Module, {'widht': 3}),
      "model.widht is unknown; did you mean 'width'",
    ),
    (
      lambda: model_fields.checked(Module, {'heads': ()}, fixed=('heads',)),
      'model.heads is unknown',
    ),
    (
      lambda: model_fields.checked(Module, {'dtype': 'float17'}),
      "model.dtype='float17'",
    ),
    (
      lambda: model_fields.token_grid((4, 8), (2, 4, 4)),
      r'clip=\(4, 8\) is not made of whole patches of \(2, 4, 4\)',
    ),
    (lambda: model_fields.token_grid((4, 8, 8), (0, 4, 4)), r'model.patch=\(0'),
  ],
)
def test_what_cannot_be_used_is_named(call, message):
  with pytest.raises(ValueError, match=message):
    call()
