"""Stops a run that goes wrong before it wastes a week, or sends it back.

Non-finite updates are discarded inside the step. Many in a row mean that the
state itself is on a bad path: go back to the last checkpoint and leave out the
batches in between. Unreadable examples are replaced by the data pipeline; too
many mean that the data are broken.
"""

from typing import Any

from absl import logging

# Shares are judged as if at least this many examples had been read, so that
# one bad file among the first few does not stop a run.
MIN_EXAMPLES = 1000


class TrainingFailed(RuntimeError):
  """A run that should not go on."""


class Guard:
  """Counts failures; `meta` goes into checkpoints."""

  def __init__(self, config: Any):
    """Takes `config.guard`."""
    self._config = config
    self._rollbacks = 0
    self._examples = 0
    self._replaced = 0

  def meta(self) -> dict[str, int]:
    """What must survive a restart."""
    return {'examples': self._examples, 'replaced': self._replaced}

  def restore(self, meta: dict[str, int]) -> None:
    """Takes up `meta` of a checkpoint; rollbacks of this process count on."""
    self._examples = meta['examples']
    self._replaced = meta['replaced']

  def check_data(self, replaced: float, examples: float) -> None:
    """Adds up replaced examples.

    Raises:
      TrainingFailed: more than `guard.max_replaced` of all examples.
    """
    self._examples += int(examples)
    self._replaced += int(replaced)
    limit = self._config.max_replaced
    if self._replaced > limit * max(self._examples, MIN_EXAMPLES):
      raise TrainingFailed(
        f'{self._replaced} of {self._examples} training examples could not be '
        f'read, more than guard.max_replaced={limit:.2%}; the log names the '
        'files: repair or remove them and start the same command again'
      )

  def must_roll_back(self, bad_steps: float) -> bool:
    """Whether to go back to a checkpoint.

    Args:
      bad_steps: updates discarded in a row up to now.

    Raises:
      TrainingFailed: after `guard.max_rollbacks`.
    """
    if bad_steps <= self._config.max_bad_steps:
      return False
    self._rollbacks += 1
    if self._rollbacks > self._config.max_rollbacks:
      raise TrainingFailed(
        f'{int(bad_steps)} updates in a row were not finite, after '
        f'{self._rollbacks - 1} rollbacks (guard.max_rollbacks); lower '
        'optim.lr, lengthen its warm-up or set optim.clip_norm'
      )
    logging.warning(
      '%d updates in a row were not finite: rollback %d of %d',
      int(bad_steps),
      self._rollbacks,
      self._config.max_rollbacks,
    )
    return True
