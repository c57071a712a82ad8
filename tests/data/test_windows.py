"""Windows lie where they may and are drawn as the papers say."""

import numpy as np
import pytest

from vidscenic.data import windows


def draws(function, count=300, **kwargs):
  return [
    function(np.random.default_rng(seed), **kwargs) for seed in range(count)
  ]


def test_resize_smallest_rounds_like_dmvr():
  # max(m, h m // w): 480x854 -> 256x455, not 456.
  assert windows.smallest((480, 854), 256) == (256, 455)
  assert windows.smallest((854, 480), 256) == (455, 256)
  assert windows.smallest((100, 100), 30) == (30, 30)


def test_random_resized_windows_keep_their_ranges():
  found = draws(
    windows.random_resized,
    source=(120, 200),
    size=(50, 50),
    area=(0.2, 0.6),
    aspect=(0.5, 2.0),
  )
  tops = set()
  for w in found:
    top, left, height, width = w.box
    assert 0 <= top <= 120 - height and 0 <= left <= 200 - width
    assert 0.19 < height * width / 24000 < 0.61
    assert 0.49 < width / height < 2.03
    assert w.size == w.scaled == (50, 50)
    tops.add(top)
  assert len(tops) > 30
  areas = [w.box[2] * w.box[3] / 24000 for w in found]
  assert np.mean(areas) == pytest.approx(0.4, abs=0.03)


def test_random_resized_falls_back_to_the_centre():
  kwargs = dict(size=(10, 10), area=(0.9, 1.0), aspect=(3 / 4, 4 / 3))
  rng = np.random.default_rng(0)
  wide = windows.random_resized(rng, (30, 300), **kwargs)
  assert wide.box == (0, 130, 30, 40)
  tall = windows.random_resized(rng, (300, 30), **kwargs)
  assert tall.box == (130, 0, 40, 30)


def test_aspect_is_relative_to_the_output():
  found = draws(
    windows.random_resized,
    source=(200, 400),
    size=(50, 100),
    area=(0.2, 0.3),
    aspect=(1.0, 1.0),
  )
  ratios = [w.box[3] / w.box[2] for w in found]
  np.testing.assert_allclose(ratios, 2.0, rtol=0.02)


def test_random_crops_reach_every_place():
  found = draws(
    windows.random_crop, source=(20, 30), scaled=(10, 13), size=(8, 10)
  )
  assert {w.offset for w in found} == {
    (y, x) for y in range(3) for x in range(4)
  }
  small = windows.random_crop(
    np.random.default_rng(0), (20, 30), (6, 30), (8, 10)
  )
  assert small.scaled == (8, 40) and small.offset[0] == 0


def test_small_pictures_are_enlarged_in_their_shape():
  window = windows.random_crop(
    np.random.default_rng(0), (20, 30), (20, 30), (40, 40)
  )
  assert window.scaled == (40, 60)
  assert window.content == (0, 0, 40, 40)


def test_three_windows_of_landscape_and_portrait():
  offsets = [w.offset for w in windows.three((10, 25), (10, 25), (10, 10))]
  assert offsets == [(0, 0), (0, 8), (0, 15)]  # ceil(7.5)
  offsets = [w.offset for w in windows.three((25, 10), (25, 10), (10, 10))]
  assert offsets == [(0, 0), (8, 0), (15, 0)]


def test_multi_scale_windows_have_listed_sides_and_places():
  found = draws(
    windows.multi_scale,
    source=(240, 320),
    size=(224, 224),
    scales=(1.0, 0.875, 0.75, 0.66),
  )
  sides = {240, 210, 180, 158}
  assert {s for w in found for s in w.box[2:]} == sides
  order = sorted(sides)
  for w in found:
    top, left, height, width = w.box
    assert abs(order.index(height) - order.index(width)) <= 1
    assert top % max(1, (240 - height) // 4) == 0
    assert left % max(1, (320 - width) // 4) == 0
    assert top + height <= 240 and left + width <= 320


def test_jitter_is_drawn_like_dmvr():
  sizes = [
    windows.jittered(
      np.random.default_rng(s), (100, 200), scales=(0.8, 1.2), prob=0.8
    )
    for s in range(400)
  ]
  changed = [size for size in sizes if size != (100, 200)]
  assert np.mean([s != (100, 200) for s in sizes]) == pytest.approx(
    0.8, abs=0.06
  )
  heights, widths = np.array(changed).T
  assert heights.min() >= 80 and heights.max() < 120
  assert abs(np.corrcoef(heights, widths)[0, 1]) < 0.15  # independent
