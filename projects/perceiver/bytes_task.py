"""Masked modelling of bytes with Perceiver IO (arXiv 2107.14795).

Token ids are those of `data.texts`. Which tokens are hidden follows BERT
(1810.04805): of those chosen, 80 % become the mask token, 10 % another byte and
10 % stay. The paper hides whole words, 15 % of the tokens; here every byte is
drawn by itself, or runs of bytes of a fixed length are.
"""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

from projects.perceiver import configurations, encoder
from projects.perceiver.data import texts
from vidscenic import task
from vidscenic.ops import losses, masking, metrics

PAD, MASK, NUM_SPECIAL = texts.PAD, texts.MASK, texts.NUM_SPECIAL
_CHOICE, _KIND, _OTHER = range(3)


class MaskedBytes(task.Task):
  """Cross-entropy of hidden bytes.

  Batches: ids int32[B, length], padded with PAD, which is neither read nor
  asked for.

  Figures, over hidden bytes: `bits`, bits per byte, and `accuracy`; in
  evaluation beside those of the control that knows how often each byte occurs
  in the batch and nothing else: `bits_unigram` and `accuracy_unigram`.
  """

  def __init__(
    self,
    *,
    model: Mapping[str, Any],
    length: int = 0,
    mask_prob: float = 0.15,
    span: int = 1,
    dtype: str = 'float32',
  ):
    """See the arguments.

    Args:
      model: see `configurations.build`.
      length: of the training data; 0: max_seq_len of the model.
      mask_prob: share of the bytes that the loss is about, in (0, 1].
      span: bytes that are hidden together.
      dtype: of the model's arithmetic, 'float32' or 'bfloat16'.

    Raises:
      ValueError: an unusable argument, named.
    """
    self.model, fields = configurations.build(
      model, 'masked_bytes', dtype=dtype
    )
    self.max_length = fields['max_seq_len']
    self.vocab_size = fields['vocab_size']
    self.length = length or self.max_length
    if not 1 <= self.length <= self.max_length:
      raise ValueError(
        f'task.kwargs.length={length}: want 1 to max_seq_len={self.max_length}'
      )
    if not 0 < mask_prob <= 1 or span < 1:
      raise ValueError(
        f'task.kwargs.mask_prob={mask_prob}, span={span}: want a number in '
        '(0, 1] and 1 or more'
      )
    self._mask_prob, self._span = mask_prob, span

  def batch_spec(self):
    return {'ids': jax.ShapeDtypeStruct((self.length,), jnp.int32)}

  def check_batch(self, batch):
    ids = batch['ids']
    wrong = ids[(ids < 0) | (ids >= self.vocab_size)]
    if wrong.size:
      raise ValueError(
        f'id {wrong[0]} of the data is outside [0, {self.vocab_size}): ids are '
        f'bytes plus {NUM_SPECIAL}, see data/texts.py'
      )

  def init(self, rng, batch):
    return self.model.init(rng, self._padded(batch['ids'][:1]))['params'], {}

  def loss(self, params, model_state, batch, ctx):
    ids = batch['ids']
    hidden, seen = self._hide(ids, ctx)
    logits = self._logits(params, seen, **encoder.training_options(ctx))
    weight = hidden * batch['mask'][:, None]
    loss = losses.softmax_cross_entropy(logits, ids, weight=weight)
    figures = {
      'bits': (loss[0] / jnp.log(2.0), loss[1]),
      'accuracy': metrics.topk_accuracy(logits, ids, mask=weight),
    }
    if not ctx.train:
      unigram = self._unigram(ids, batch['mask'])
      unigram = jnp.broadcast_to(unigram, logits.shape)
      bits, count = losses.softmax_cross_entropy(unigram, ids, weight=weight)
      figures['bits_unigram'] = bits / jnp.log(2.0), count
      figures['accuracy_unigram'] = metrics.topk_accuracy(
        unigram, ids, mask=weight
      )
    return task.LossOut({'cross_entropy': (*loss, 1.0)}, figures, model_state)

  def predict(self, params, model_state, batch, ctx, carry=None):
    """Logits of all tokens.

    Args:
      params: of the model.
      model_state: not used.
      batch: ids int32[B, N], N at most max_seq_len, MASK where to fill in.
      ctx: not used.
      carry: returned as it is.

    Returns:
      {'logits': float32[B, N, vocab_size], 'ids': int32[B, N], the ids with the
      most likely byte where there was MASK}, carry.
    """
    del model_state, ctx
    ids = batch['ids']
    logits = self._logits(params, ids)
    best = NUM_SPECIAL + jnp.argmax(logits[..., NUM_SPECIAL:], axis=-1)
    return {'logits': logits, 'ids': jnp.where(ids == MASK, best, ids)}, carry

  def _logits(self, params, ids, **options):
    padded = self._padded(ids)
    mask = padded != PAD
    logits = self.model.apply(
      {'params': params},
      padded,
      input_mask=mask,
      query_mask=mask,
      **options,
    )
    return logits[:, : ids.shape[1]].astype(jnp.float32)

  def _padded(self, ids):
    missing = self.max_length - ids.shape[1]
    return jnp.pad(ids, ((0, 0), (0, missing)), constant_values=PAD)

  def _hide(self, ids, ctx):
    """(bool[B, N] what the loss is about, int32[B, N] what is shown)."""
    length = ids.shape[1]
    spans = -(-length // self._span)

    def draw(key):
      choice, kind, other = (
        jax.random.fold_in(key, n) for n in (_CHOICE, _KIND, _OTHER)
      )
      chosen = jax.random.bernoulli(choice, self._mask_prob, (spans,))
      return (
        jnp.repeat(chosen, self._span)[:length],
        jax.random.uniform(kind, (length,)),
        jax.random.randint(other, (length,), NUM_SPECIAL, self.vocab_size),
      )

    keys = masking.row_keys(ctx.rng, ctx.rows)
    chosen, kind, other = jax.vmap(draw)(keys)
    hidden = chosen & (ids >= NUM_SPECIAL)
    shown = jnp.where(kind < 0.8, MASK, jnp.where(kind < 0.9, other, ids))
    return hidden, jnp.where(hidden, shown, ids)

  def _unigram(self, ids, mask):
    """float32[vocab_size]: log frequencies of the bytes of a batch."""
    known = (ids >= NUM_SPECIAL) & mask[:, None]
    counts = jnp.zeros(self.vocab_size).at[ids].add(known)
    return jnp.log(jnp.maximum(counts, 1e-6) / jnp.maximum(counts.sum(), 1))
