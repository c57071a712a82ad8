"""TAPIR's losses, gradients, optimizer, metrics and query sampling."""

import jax
import jax.numpy as jnp
import numpy as np

from projects.tapir import features as features_lib
from projects.tapir import importer, losses
from projects.tapir.configs import kubric
from tests.parity import gradients, quick
from tests.parity.adapters import tapir
from vidscenic import config as vc
from vidscenic.data.datasets import queries as queries_lib
from vidscenic.ops import tracking
from vidscenic.ops import video as video_ops
from vidscenic.train import optim


def run_train(golden):
  """Losses and gradients with and without gradient chunks; the optimizer."""
  config = dict(golden.meta['config'])
  model = tapir.make_model(config)
  params = tapir.parameters(golden, model)
  sizes = golden.meta['call'].get('query_chunk_size') or 0
  sizes = sizes if isinstance(sizes, list) else [sizes]
  outputs = {}
  for inputs, prefix in tapir.calls(golden):
    for size in sizes:
      outputs |= _losses(golden, model, params, inputs, prefix, size)
  if 'optimizer' in golden.meta:
    outputs |= _optimizer_steps(golden, params)
  return outputs


def _losses(golden, model, params, inputs, prefix, size):
  suffix, outputs = f'_chunk{size}', {}
  order = inputs.get(f'query_permutation{suffix}')
  if order is None:
    order, suffix = np.arange(inputs['query_points'].shape[1]), ''
  batch = {
    'video': inputs['video_uint8'],
    'query_points': inputs['query_points'][:, order],
    'target_points': inputs['target_points'][:, order],
    'occluded': inputs['occluded'][:, order],
    'mask': np.ones(len(inputs['occluded']), bool),
  }
  options = golden.meta.get('loss', {})
  (loss, terms), grads = _value_and_grad(model, params, batch, size, options)
  outputs[f'{prefix}loss{suffix}'] = loss
  for name, value in terms.items():
    kind, _, number = name.partition('_')
    kind = {'uncertainty': 'prob'}.get(kind, kind)
    name = f'{kind}_loss_{number}' if number else f'{kind}_loss'
    outputs[f'{prefix}loss_terms{suffix}/{name}'] = value
  norm = sum(jnp.sum(g**2) for g in jax.tree.leaves(grads)) ** 0.5
  outputs[f'{prefix}grad_global_norm{suffix}'] = norm
  place = prefix.replace('outputs', 'grads').replace('/', f'{suffix}/')
  stored = golden.below(place)
  for key, value in _published(golden, params, grads, stored).items():
    outputs[f'{place}{key}'] = value
  return outputs


def _published(golden, params, tree, names):
  """{published key: leaf} of a tree in our layout."""
  return gradients.to_source(
    lambda arrays: importer.convert(arrays, params),
    golden.below('params/'),
    tree,
    names,
  )


def _value_and_grad(model, params, batch, size, options):
  # These two are constants of ours, as in all released configurations.
  assert options.get('position_loss_weight', 0.05) == losses.POSITION_WEIGHT
  assert options.get('huber_delta', 4.0) == losses.HUBER_DELTA
  threshold = options.get('expected_dist_thresh', losses.EXPECTED_DIST_THRESH)

  def loss(params):
    tracks = model.apply(
      {'params': params},
      video_ops.normalize(batch['video']),
      batch['query_points'],
      query_chunk_size=size,
      grad_chunks=1,
    )
    terms = losses.trajectory_losses(
      tracks,
      model.num_pips_iter,
      target_points=batch['target_points'],
      target_occluded=batch['occluded'],
      size=batch['video'].shape[2:4],
      rows=batch['mask'],
      expected_dist_thresh=threshold,
    )
    terms = {name: s * total / n for name, (total, n, s) in terms.items()}
    return sum(terms.values()), terms

  return quick.jit(jax.value_and_grad(loss, has_aux=True))(params)


def _optimizer_steps(golden, params):
  """Parameters without a stored gradient get none, and are not compared."""
  options = golden.meta['optimizer']
  schedule = options['schedule']
  optimizer = optim.make_optimizer(
    {
      'name': 'adamw',
      'lr': schedule['peak'],
      'schedule': vc.schedule_spec(
        name='cosine',
        warmup_steps=schedule['warmup_steps'],
        warmup_init=schedule['init'] / schedule['peak'],
        end=schedule['end'] / schedule['peak'],
        decay_steps=schedule['total_steps'],
      ),
      'weight_decay': options['weight_decay'],
      'decay_exclude': kubric.get_config().optim.decay_exclude,
      **options['adam'],
    },
    params,
    schedule['total_steps'],
  )
  counts = jnp.arange(schedule['total_steps'] + 1)
  outputs = {'outputs/optimizer_schedule': jax.vmap(optimizer.lr)(counts)}
  none = {k: np.zeros_like(v) for k, v in golden.below('params/').items()}
  update = quick.jit(optimizer.tx.update)
  state = optimizer.tx.init(params)
  for step in range(options['steps']):
    given = golden.below(f'inputs/optimizer_grads/{step}/')
    # As the training step does with gradients that are not finite.
    if all(np.isfinite(g).all() for g in given.values()):
      grads = importer.convert(none | given, params)
      updates, state = update(grads, state, params)
      params = jax.tree.map(jnp.add, params, updates)
    for key, value in _published(golden, params, params, given).items():
      outputs[f'outputs/optimizer_params/{step}/{key}'] = value
  return outputs


def run_metrics(golden):
  """Scores, query sampling, losses of one set of predictions, resolutions."""
  outputs = {}
  given = golden.below('inputs/metrics/')
  for name in golden.below('outputs/metrics/'):
    mode, per, score = name.split('/')
    outputs.setdefault((mode, per), {})[name] = score
  found = {}
  for (mode, per), names in outputs.items():
    scores = _scores(given, mode, per)
    found |= {f'metrics/{name}': scores[key] for name, key in names.items()}
  given = golden.below('inputs/sampling/')
  for mode in queries_lib.MODES:
    got = queries_lib.sample_queries(
      given['target_points'], given['target_occluded'], mode
    )
    for name, value in got._asdict().items():
      name = {'track': 'trackgroup'}.get(name, name)
      found[f'sampling/{mode}/{name}'] = np.asarray(value)[None]
  found |= _loss_variants(golden)
  for name, (size, initial) in golden.below('inputs/resolutions/').items():
    resolutions = features_lib.default_resolutions(
      size.tolist(), initial.tolist()
    )
    found[f'resolutions/{name}'] = np.array(resolutions)
  return tapir.named(found, 'outputs/')


def _scores(given, mode, per):
  # Of tracks, the released code stacks [b, n] arrays on axis 1 and averages
  # over it, which is the mean over thresholds, as ours.
  return tracking.tap_vid(
    query_points=given['query_points'],
    target_points=given['gt_tracks'],
    target_occluded=given['gt_occluded'],
    points=given['pred_tracks'],
    occluded=given['pred_occluded'],
    mode=mode,
    per=per.removeprefix('per_'),
  )


def _loss_variants(golden):
  given = golden.below('inputs/loss/')
  if not given:
    return {}
  weighted = {'position': losses.POSITION_WEIGHT}
  options = {
    'plain': {},
    'masked': {'mask': given['mask']},
    'rebalanced': {'rebalance': _rebalance(golden)},
    'all': {
      'mask': given['mask'],
      'rebalance': _rebalance(golden),
      'occlusion_mask': given['occlusion_loss_mask'],
    },
  }
  found = {
    'visible_from_logits': ~tracking.predicted_occluded(
      given['occlusion_logits'], given['expected_dist_logits']
    )
  }
  for name, option in options.items():
    terms = losses.point_losses(
      given['points'],
      given['occlusion_logits'],
      given['expected_dist_logits'],
      target_points=given['target_points'],
      target_occluded=given['target_occluded'],
      size=given['video_hw'],
      **option,
    )
    for term, (total, entries) in terms.items():
      found[f'loss/{name}/{term}'] = weighted.get(term, 1.0) * total / entries
  return found


def _rebalance(golden):
  # The JSON does not always say it; the stored sums do: 0.5.
  return golden.meta.get('loss', {}).get('rebalance_factor', 0.5)


ADAPTERS = {'tapir_train': run_train, 'tapir_metrics': run_metrics}
