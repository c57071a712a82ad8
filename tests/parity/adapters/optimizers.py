"""Optimizers, step by step on stored gradients."""

import re

import jax
import jax.numpy as jnp
import optax

from vidscenic import config as vc
from vidscenic.train import optim

_STEP = re.compile(r'outputs/params_after_step(\d+)/')


def perceiver_optimizer(golden):
  """Clipping, LAMB or Adam, decay, and the rate of Perceiver IO."""
  options = golden.meta['config']
  params = {k: jnp.asarray(v) for k, v in golden.below('params/').items()}
  exclude = [r'/b$', 'layer_norm', 'batchnorm']
  if not options['decay_pos_embs']:
    exclude.append('pos_embs')
  total = options['total_steps']
  names = {'lamb': 'lamb', 'adam': 'adamw'}
  optimizer = optim.make_optimizer(
    {
      'name': names[options['optimizer']],
      'lr': options['effective_lr'],
      'schedule': vc.schedule_spec(
        name='cosine',
        end=options['end_value'] / options['effective_lr'],
        hold_steps=int(options['constant_fraction'] * total),
      ),
      'weight_decay': options['weight_decay'],
      'decay_exclude': tuple(exclude),
      **{name: options[name] for name in ('b1', 'b2', 'eps')},
    },
    params,
    total,
  )
  clip = optax.clip_by_global_norm(options['max_norm'])

  @jax.jit
  def update(grads, state, params):
    grads, _ = clip.update(grads, clip.init(params))
    updates, state = optimizer.tx.update(grads, state, params)
    return optax.apply_updates(params, updates), state

  stored = {int(m[1]) for m in map(_STEP.match, golden.arrays) if m}
  steps = golden.arrays['inputs/steps']
  outputs = {'outputs/lr_at_steps': jax.vmap(optimizer.lr)(jnp.asarray(steps))}
  state = optimizer.tx.init(params)
  for step in range(options['nsteps']):
    grads = golden.below(f'inputs/grad_step{step}/')
    params, state = update(grads, state, params)
    if step in stored:
      for name, value in params.items():
        outputs[f'outputs/params_after_step{step}/{name}'] = value
  return outputs


ADAPTERS = {'perceiver_optimizer': perceiver_optimizer}
