"""Features as colours: principal components of a whole video.

The components are those of all tokens of all frames, so that a colour means
the same thing throughout. Two passes: `update` with every part, `finish`,
then `colors` for every part again. Memory does not grow with the length.
"""

import numpy as np

_SAMPLE = 4096  # tokens kept to find the range of the colours
_BLOCK = 4096  # tokens turned into float64 at a time
_PERCENTILES = 1, 99


class FeaturePca:
  """Principal components of a stream of features.

  Mean and covariance run along in float64. The range of the colours is from the
  1st to the 99th percentile of each component over a sample of 4096 tokens,
  which is drawn evenly by a fixed hash of a token's number; so the result
  depends on the order of the tokens alone, up to rounding, and not on how they
  are cut into parts. Tokens that are not finite are passed over.

  Attributes, after `finish`:
    mean: float64[C].
    components: float64[C, K], orthonormal columns, greatest variance first. The
      entry of the greatest size in a column is positive, which fixes the sign.
    explained: float64[K], the share of the variance.
  """

  def __init__(self, components: int = 3):
    """Prepares for K components; `colors` needs 3 or more."""
    if components < 1:
      raise ValueError(f'components must be at least 1, got {components}')
    self._wanted = components
    self._count = 0
    self._seen = 0
    self.mean = None
    self.components = None
    self.explained = None

  def update(self, features: np.ndarray) -> None:
    """Takes the next features, float[..., C].

    Raises:
      ValueError: fewer channels than components, or another C than before.
    """
    features = np.asarray(features)
    channels = features.shape[-1]
    if self.mean is None:
      if channels < self._wanted:
        raise ValueError(
          f'{self._wanted} components need as many channels, got {channels}'
        )
      self.mean = np.zeros(channels)
      self._scatter = np.zeros((channels, channels))
      self._sample = np.zeros((0, channels), np.float32)
      self._keys = np.zeros(0, np.uint64)
    if channels != len(self.mean):
      raise ValueError(f'got {channels} channels after {len(self.mean)}')
    tokens = features.reshape(-1, channels)
    for start in range(0, len(tokens), _BLOCK):
      self._take(tokens[start : start + _BLOCK])
    self.components = None

  def finish(self) -> None:
    """Computes the components from all features so far.

    Raises:
      ValueError: no finite features yet.
    """
    if not self._count:
      raise ValueError('no finite features: call update() before finish()')
    variance, vectors = np.linalg.eigh(self._scatter)
    variance = np.maximum(variance[::-1], 0)
    vectors = vectors[:, ::-1][:, : self._wanted]
    greatest = np.abs(vectors).argmax(0)
    signs = np.sign(vectors[greatest, np.arange(self._wanted)])
    self.components = vectors * signs
    total = variance.sum()
    self.explained = variance[: self._wanted] / (total if total > 0 else 1)
    self._low, self._high = np.percentile(
      self.project(self._sample), _PERCENTILES, axis=0
    )

  def project(self, features: np.ndarray) -> np.ndarray:
    """The components of features: float[..., C] to float32[..., K].

    What is not finite becomes NaN.

    Raises:
      ValueError: `finish` was not called after the last `update`.
    """
    if self.components is None:
      raise ValueError('call finish() after the last update()')
    features = np.asarray(features, np.float32)
    unknown = ~np.isfinite(features).all(-1)
    features = np.where(unknown[..., None], 0, features)
    offset = (self.mean @ self.components).astype(np.float32)
    values = features @ self.components.astype(np.float32) - offset
    values[unknown] = np.nan
    return values

  def colors(self, features: np.ndarray) -> np.ndarray:
    """The first three components as red, green and blue.

    Args:
      features: float[..., C].

    Returns:
      uint8[..., 3]; black where features are not finite.

    Raises:
      ValueError: fewer than 3 components, or `finish` was not called after the
        last `update`.
    """
    if self._wanted < 3:
      raise ValueError(f'colors need 3 components, got {self._wanted}')
    values = self.project(features)[..., :3]
    span = self._high[:3] - self._low[:3]
    # A component without any variance is grey.
    scaled = np.where(
      span > 0, (values - self._low[:3]) / np.where(span > 0, span, 1), 0.5
    )
    known = np.isfinite(values).all(-1, keepdims=True)
    scaled = np.where(known, np.clip(scaled, 0, 1), 0)
    return np.rint(scaled * 255).astype(np.uint8)

  def foreground(
    self, features: np.ndarray, threshold: float = 0.0
  ) -> np.ndarray:
    """Where the first component is above the threshold.

    The first component often tells things from the background; which side is
    which must be looked at. Components of the foreground alone come from a
    second `FeaturePca` that is updated with `features[foreground]`.

    Args:
      features: float[..., C].
      threshold: in standard deviations of the component.

    Returns:
      bool[...]; False where features are not finite.

    Raises:
      ValueError: `finish` was not called after the last `update`.
    """
    values = self.project(features)[..., 0]
    first = self.components[:, 0]
    deviation = np.sqrt(first @ self._scatter @ first / self._count)
    return values > threshold * deviation

  def _take(self, tokens):
    numbers = np.arange(self._seen, self._seen + len(tokens), dtype=np.uint64)
    self._seen += len(tokens)
    finite = np.isfinite(tokens).all(1)
    tokens, keys = tokens[finite].astype(np.float64), _hash(numbers[finite])
    if not len(tokens):
      return
    # Mean and scatter of two groups: Chan, Golub and LeVeque, 1983.
    total = self._count + len(tokens)
    mean = tokens.mean(0)
    delta = mean - self.mean
    # Products of a block in float32, sums in float64: twice as fast. The last
    # row adds the scatter between the two means.
    centred = np.empty((len(tokens) + 1, len(mean)), np.float32)
    np.subtract(tokens, mean, out=centred[:-1], casting='same_kind')
    centred[-1] = delta * np.sqrt(self._count * len(tokens) / total)
    self._scatter += centred.T @ centred
    self.mean = self.mean + delta * (len(tokens) / total)
    self._count = total
    # The tokens with the least hashes are an even sample of all so far.
    keys = np.concatenate([self._keys, keys])
    kept = np.argsort(keys)[:_SAMPLE]
    sample = np.concatenate([self._sample, tokens.astype(np.float32)])
    self._keys, self._sample = keys[kept], sample[kept]


def _hash(numbers):
  """Mixes the bits of uint64 (the finaliser of SplitMix64, Steele 2014)."""
  numbers = (numbers + np.uint64(1)) * np.uint64(0x9E3779B97F4A7C15)
  numbers = (numbers ^ (numbers >> 30)) * np.uint64(0xBF58476D1CE4E5B9)
  numbers = (numbers ^ (numbers >> 27)) * np.uint64(0x94D049BB133111EB)
  return numbers ^ (numbers >> 31)
