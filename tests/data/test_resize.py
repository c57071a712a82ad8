"""Each resize method is the one it is named after."""

import numpy as np
import pytest
from PIL import Image

from vidscenic.data import resize


def noise(height=40, width=56):
  rng = np.random.default_rng(0)
  return rng.integers(0, 256, (2, height, width, 3), dtype=np.uint8)


@pytest.mark.parametrize('size', [(24, 24), (80, 61), (41, 56)])
def test_no_antialias_is_the_rule_of_dmvr(size):
  video = noise()
  got = resize.resize_frames(video, size, method='bilinear_no_antialias')
  axes = []
  for old, new in zip(video.shape[1:3], size, strict=True):
    at = np.clip((np.arange(new) + 0.5) * old / new - 0.5, 0, old - 1)
    low = np.floor(at).astype(int)
    axes.append((low, np.minimum(low + 1, old - 1), at - low))
  (y0, y1, wy), (x0, x1, wx) = axes
  wy, wx = wy[:, None, None], wx[:, None]
  rows = video[:, y0] * (1 - wy) + video[:, y1] * wy
  want = rows[:, :, x0] * (1 - wx) + rows[:, :, x1] * wx
  # Truncation: rounding errors decide next to whole numbers.
  assert (got >= np.floor(want - 1e-6)).all()
  assert (got <= np.floor(want + 1e-6)).all()


@pytest.mark.parametrize('method', ['area', 'bilinear', 'bicubic', 'lanczos'])
def test_pil_methods_are_pils(method):
  video = noise()
  filters = {'area': 4, 'bilinear': 2, 'bicubic': 3, 'lanczos': 1}
  got = resize.resize_frames(video, (24, 30), method=method)
  want = [
    np.asarray(Image.fromarray(frame).resize((30, 24), filters[method]))
    for frame in video
  ]
  np.testing.assert_array_equal(got, np.stack(want))


@pytest.mark.parametrize('size', [(24, 30), (37, 51), (90, 100)])
def test_fast_bilinear_is_close_to_antialiased_bilinear(size):
  video = noise()
  got = resize.resize_frames(video, size, method='fast_bilinear').astype(int)
  want = resize.resize_frames(video, size, method='bilinear')
  # swscale's 14-bit coefficients and YUV round trip, on noise.
  assert np.abs(got - want).mean() < 1
  assert np.abs(got - want).max() < 32
  smooth = np.linspace(0, 255, 40 * 56 * 3).reshape(1, 40, 56, 3)
  smooth = smooth.astype(np.uint8)
  got = resize.resize_frames(smooth, size, method='fast_bilinear').astype(int)
  want = resize.resize_frames(smooth, size, method='bilinear')
  assert np.abs(got - want).max() <= 4


def test_resizing_to_the_same_size_is_free():
  video = noise()
  assert resize.resize_frames(video, (40, 56), method='lanczos') is video


@pytest.mark.parametrize(
  'video, size, method, match',
  [
    (noise(), (3, 3), 'cubic', 'method'),
    (noise().astype(np.float32), (3, 3), 'area', 'uint8'),
    (noise()[..., :1], (3, 3), 'area', 'uint8'),
    (noise(), (0, 3), 'area', 'size'),
  ],
)
def test_unusable_resizes_are_named(video, size, method, match):
  with pytest.raises(ValueError, match=match):
    resize.resize_frames(video, size, method=method)
