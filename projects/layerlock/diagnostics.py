"""Is training alive: collapse, frozen blocks, progress of every block.

All on a fixed set of clips that the model sees whole. Alarms go to the log as
warnings, their number to the figure `alarms`. The bounds are chosen here; they
are meant to be far below a benchmark's notice.
"""

import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from absl import logging

from vidscenic.evaluation import evaluator, feature_health, probes
from vidscenic.ops import video as video_ops

_SHOWN = ('input_variance_share', 'effective_rank_share', 'mean_cosine')


class Diagnostics(evaluator.Evaluator):
  """Figures of `projects.layerlock` tasks; for `config.evals`.

  Layers are called by their part: `frozen` (the newest frozen block), `middle`
  and `end` of the encoder, `last` of the model. For each of them, as
  `end/mean_cosine` and so on:
    input_variance_share: of the variance, what is not due to the place in the
      clip alone. Alarm below 0.02.
    effective_rank_share: exp of the entropy of singular values, divided by D.
      Alarm below 0.05, or when it halves within 1000 steps.
    mean_cosine: between the means of different clips. Alarm above 0.99.
  In phases with features as targets:
    target_std: of the target over clips and places, median over channels.
      Alarm if it changes while its block is frozen: then it is not.
    latent_nmse: loss divided by the variance of the target without the mean of
      each place; for V-JEPA, whose loss is absolute, by the mean absolute
      deviation. Alarm at 0.02 or less, a trivial target; and above 0.98 twice
      in a row: only the mean is predicted.
  For every block i, counted from 1:
    param_norm/i; update_ratio/i, the change since the last evaluation divided
      by the norm. Alarm if it is not exactly 0 for a block that was frozen all
      the time.
  With `probe_label`: online_probe, accuracy of a linear probe on the means of
  `end`, fitted to every other clip. Alarm when it falls by 0.05 while the loss
  falls, in one phase.
  """

  def __init__(
    self,
    task: Any,
    mesh: Any,
    *,
    limit: int = 64,
    tokens_per_clip: int = 64,
    probe_label: str = '',
    **kwargs,
  ):
    """Takes the arguments of `Evaluator`, and more.

    Args:
      task: of this project.
      mesh: all devices.
      limit: number of clips; their features are held in memory.
      tokens_per_clip: evenly spaced, the same in all clips; give D or more
        tokens in total, which bound the rank.
      probe_label: field of the data with labels; '': no probe.
      **kwargs: of `Evaluator`.
    """
    super().__init__(task, mesh, limit=limit, **kwargs)
    self._tokens_per_clip = tokens_per_clip
    self._probe_label = probe_label
    self._before: dict[str, Any] = {}
    self._blocks_before: Any = None

  def measures(self) -> str:
    return 'collapse of features, change of parameters, with alarms'

  def run(self, state: Any, step: int) -> evaluator.Figures:
    phase = self.phase(step)
    layers = self._layers(phase)
    seen = self._collect(state, step)
    figures, alarms = {}, []
    for part, block in layers.items():
      health = feature_health.health(seen[f'{part}/tokens'],
                                     seen[f'{part}/means'])  # fmt: skip
      figures |= {f'{part}/{name}': health[name] for name in _SHOWN}
      alarms += self._health_alarms(part, block, health, step)
    figures['loss'] = seen['loss']
    if 'target' in seen:
      figures |= self._target_figures(seen, phase)
      alarms += self._target_alarms(figures, phase)
    figures |= self._parameter_figures(state)
    alarms += self._frozen_alarms(figures, phase)
    if self._probe_label:
      figures['online_probe'] = _probe(seen['end/means'], seen['labels'])
      alarms += self._probe_alarms(figures, phase)
    for alarm in alarms:
      logging.warning('step %d  %s: alarm: %s', step, self.name, alarm)
    self._before = {'figures': figures, 'phase': phase, 'step': step,
                    'layers': layers}  # fmt: skip
    return figures | {'alarms': float(len(alarms))}, {}

  def _layers(self, phase):
    """{part: number of blocks}."""
    end = self.task.encoder_depth
    layers = {'middle': max(end // 2, 1), 'end': end, 'last': self.task.depth}
    return ({'frozen': phase} if phase else {}) | layers

  def _collect(self, state, step):
    """Numbers of all clips, {name: array}, and the mean loss."""
    program = self.program(self._look, step)
    weights = state._replace(opt_state=())
    parts, sums = [], []
    for batch, number in self.batches():
      placed = self.place(batch)
      if self._probe_label:
        placed |= self.put({self._probe_label: batch[self._probe_label]})
      mask, values, losses_ = jax.device_get(program(weights, placed, number))
      parts.append({name: value[mask] for name, value in values.items()})
      sums.append(losses_)
    seen = {
      name: np.concatenate([part[name] for part in parts]) for name in parts[0]
    }
    totals = jax.tree.map(lambda *x: np.sum(x), *sums)
    means = {k: s / max(n, 1) for k, (s, n, _) in totals.items()}
    scales = {k: float(v[2]) for k, v in sums[0].items()}
    seen['loss'] = float(sum(scales[k] * mean for k, mean in means.items()))
    seen['terms'] = means
    return seen

  def _look(self, params, model_state, batch, context):
    video = video_ops.normalize(batch['video'], self.task.input_range)
    layers = self._layers(context.phase)
    numbers = sorted(set(layers.values()))
    streams = dict(
      zip(numbers, self.task.streams(params, video, numbers), strict=True)
    )
    values = {}
    for part, block in layers.items():
      values[f'{part}/tokens'] = self._some(streams[block])
      values[f'{part}/means'] = streams[block].mean(axis=1)
    truth = self.task.newest_target(params, video, context)
    if truth is not None:
      values['target'] = self._some(truth)
    if self._probe_label:
      values['labels'] = batch[self._probe_label]
    out = self.task.loss(params, model_state, batch, context)
    terms = jax.tree.map(jnp.asarray, out.terms)
    return batch['mask'], values, terms

  def _some(self, tokens):
    """Tokens at evenly spaced places."""
    count = tokens.shape[1]
    number = min(self._tokens_per_clip, count)
    places = ((np.arange(number) + 0.5) * count / number).astype(int)
    return tokens[:, places].astype(jnp.float32)

  def _target_figures(self, seen, phase):
    truth = seen['target'].astype(np.float64)
    std = truth.reshape(-1, truth.shape[-1]).std(axis=0)
    # Unbiased: a mean over few clips explains a part of any noise.
    count, power = len(truth), self.task.error_power
    spread = np.mean(np.abs(truth - truth.mean(axis=0)) ** power)
    spread *= (count / max(count - 1, 1)) ** (power / 2)
    terms = [seen['terms'][name] for name in self.task.newest_terms(phase)]
    return {
      'target_std': float(np.median(std)),
      'latent_nmse': float(np.mean(terms) / max(spread, 1e-30)),
    }

  def _parameter_figures(self, state):
    blocks = self.task.blocks(state.params)
    before = self._blocks_before
    norms, changes = jax.device_get(
      _norms(blocks, blocks if before is None else before)
    )
    # Copied: the next step of training takes the parameters' memory.
    self._blocks_before = jax.tree.map(jnp.copy, blocks)
    figures = {f'param_norm/{i}': float(n) for i, n in enumerate(norms, 1)}
    if before is not None:
      ratios = changes / np.maximum(norms, 1e-30)
      figures |= {
        f'update_ratio/{i}': float(r) for i, r in enumerate(ratios, 1)
      }
    return figures

  # Alarms.

  def _health_alarms(self, part, block, health, step):
    where = f'block {block} ({part})'
    if not math.isfinite(health['effective_rank_share']):
      return [f'features of {where} are not finite']
    alarms = []
    if health['input_variance_share'] < 0.02:
      alarms.append(
        f'features of {where} depend on the place in the clip alone: '
        f'input_variance_share {health["input_variance_share"]:.3g} < 0.02'
      )
    rank = health['effective_rank_share']
    if rank < 0.05:
      alarms.append(f'rank of {where}: effective_rank_share {rank:.3g} < 0.05')
    before = self._before
    if before and before['layers'].get(part) == block:
      was = before['figures'][f'{part}/effective_rank_share']
      if rank < was / 2 and step - before['step'] <= 1000:
        alarms.append(
          f'rank of {where} halved in {step - before["step"]} steps, '
          f'{was:.3g} -> {rank:.3g}'
        )
    if health['mean_cosine'] > 0.99:
      alarms.append(
        f'all clips look alike to {where}: mean_cosine '
        f'{health["mean_cosine"]:.4f} > 0.99'
      )
    return alarms

  def _target_alarms(self, figures, phase):
    alarms, nmse = [], figures['latent_nmse']
    if nmse <= 0.02:
      alarms.append(f'trivial target: latent_nmse {nmse:.3g} <= 0.02')
    before = self._before if self._before.get('phase') == phase else {}
    if 'latent_nmse' not in before.get('figures', {}):
      return alarms
    was = before['figures']
    if min(nmse, was['latent_nmse']) > 0.98:
      alarms.append(f'only the mean is predicted: latent_nmse {nmse:.3g}')
    std = figures['target_std']
    # V-JEPA's first target is a block that still trains.
    is_fixed = phase and self.task.target_is_fixed
    if is_fixed and abs(std / was['target_std'] - 1) > 1e-3:
      alarms.append(
        f'the target of block {phase} moves although it is frozen: target_std '
        f'{was["target_std"]:.6g} -> {std:.6g}'
      )
    return alarms

  def _frozen_alarms(self, figures, phase):
    if not self._before or not self.task.freezes:
      return []
    return [
      f'block {i} is frozen but changed: update_ratio {ratio:.3g}'
      for i in range(1, self._before['phase'] + 1)
      if (ratio := figures.get(f'update_ratio/{i}', 0.0))
    ]

  def _probe_alarms(self, figures, phase):
    if self._before.get('phase') != phase:
      return []
    was = self._before['figures']
    if (
      figures['online_probe'] < was['online_probe'] - 0.05
      and figures['loss'] < was['loss']
    ):
      return [
        f'the probe fell from {was["online_probe"]:.3f} to '
        f'{figures["online_probe"]:.3f} while the loss fell'
      ]
    return []


@jax.jit
def _norms(blocks, before):
  """Norm of every block and of its change: two float32[L]."""

  def norm(tree):
    squares = [jnp.sum(jnp.square(x), dtype=jnp.float32)
               for x in jax.tree.leaves(tree)]  # fmt: skip
    return jnp.sqrt(sum(squares))

  changes = jax.tree.map(jnp.subtract, blocks, before)
  return (
    jnp.stack([norm(block) for block in blocks]),
    jnp.stack([norm(change) for change in changes]),
  )


def _probe(features, labels):
  """Accuracy on odd clips of a linear probe fitted to even ones."""
  scores, _ = probes.linear_scores(
    features[::2],
    labels[::2],
    features[1::2],
    num_classes=int(labels.max()) + 1,
    l2=(1e-2,),
  )
  return float(np.mean(scores.argmax(axis=-1) == labels[1::2]))
