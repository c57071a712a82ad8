"""A task and a source that take milliseconds, for tests of the trainer."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from vidscenic import task


class Numbers:
  """Rows of random numbers with a linear target; row i depends on i only."""

  def __init__(self, size=64, nan_from=-1, nan_to=-1):
    self._size, self._nan = size, range(nan_from, nan_to)

  def __len__(self):
    return self._size

  def __getitem__(self, index):
    x = np.random.default_rng(index).standard_normal(8).astype(np.float32)
    y = np.float32(x[:4].sum() - x[4:].sum())
    if index in self._nan:
      y = np.float32('nan')
    return {'x': x, 'y': y, 'index': np.int32(index)}


class Jitter:
  """Adds noise, so that batches show the random stream."""

  def __init__(self, scale=0.1):
    self._scale = scale

  def sample(self, record, rng):
    return dict(record)

  def augment(self, clip, rng):
    noise = rng.standard_normal(8).astype(np.float32)
    return {**clip, 'x': clip['x'] + self._scale * noise}


class Mlp(nn.Module):
  width: int

  @nn.compact
  def __call__(self, x):
    x = nn.tanh(nn.Dense(self.width, name='layer0')(x))
    x = nn.tanh(nn.Dense(self.width, name='layer1')(x))
    return nn.Dense(1, name='head')(x)[:, 0]


class Regression(task.Task):
  """Two loss terms over different rows, so that weights matter."""

  def __init__(self, width=16, threshold=0.0, freeze_at=-1, noise=0.0):
    self.model = Mlp(width)
    self.threshold, self.freeze_at, self.noise = threshold, freeze_at, noise

  def batch_spec(self):
    return {
      'x': jax.ShapeDtypeStruct((8,), jnp.float32),
      'y': jax.ShapeDtypeStruct((), jnp.float32),
      'index': jax.ShapeDtypeStruct((), jnp.int32),
    }

  def init(self, rng, batch):
    return self.model.init(rng, batch['x'])['params'], {}

  def loss(self, params, model_state, batch, ctx):
    x = batch['x']
    if self.noise and ctx.train:
      keys = jax.vmap(lambda r: jax.random.fold_in(ctx.rng, r))(ctx.rows)
      x = x + self.noise * jax.vmap(lambda k: jax.random.normal(k, (8,)))(keys)
    if ctx.phase:
      params = {**params, 'layer0': jax.lax.stop_gradient(params['layer0'])}
    error = self.model.apply({'params': params}, x) - batch['y']
    every = batch['mask'].astype(jnp.float32)
    some = every * (batch['y'] > self.threshold)
    error = jnp.where(batch['mask'], error, 0)
    squares = (jnp.sum(every * error**2), every.sum())
    return task.LossOut(
      {
        'mse': (*squares, 1.0),
        'mae': (jnp.sum(some * jnp.abs(error)), some.sum(), 0.5),
      },
      {
        'mse': squares,
        'index': (jnp.sum(batch['index'] * ctx.rows), every.sum()),
      },
      model_state,
    )

  def phase(self, step):
    return int(0 <= self.freeze_at <= step)

  def frozen(self, phase):
    return ('layer0',) if phase else ()
