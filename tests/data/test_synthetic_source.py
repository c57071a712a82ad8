"""The random-access source: keys, determinism, options and textures."""

import concurrent.futures
import multiprocessing
import operator
import pickle

import numpy as np
import pytest
from PIL import Image

from vidscenic.data import synthetic
from vidscenic.data.synthetic import scene, textures

EVERYTHING = {
  'num_tracks': 20,
  'flow': True,
  'boxes': True,
  'depth': True,
  'segmentations': True,
  'pose': True,
  'audio': True,
}
SMALL = {'num_frames': 4, 'height': 24, 'width': 32}


def assert_same(a, b):
  assert a.keys() == b.keys()
  for name, value in a.items():
    assert value.dtype == b[name].dtype
    np.testing.assert_array_equal(value, b[name], err_msg=name)


def test_example_has_the_documented_shapes():
  example = synthetic.SyntheticVideos(**SMALL, **EVERYTHING)[3]
  t, h, w, n = 4, 24, 32, 20
  want = {
    'video': ((t, h, w, 3), np.uint8),
    'label': ((), np.int32),
    'shape_label': ((), np.int32),
    'fps': ((), np.float32),
    'query_points': ((n, 3), np.float32),
    'target_points': ((n, t, 2), np.float32),
    'occluded': ((n, t), np.bool_),
    'forward_flow': ((t, h, w, 2), np.float32),
    'flow_mask': ((t, h, w), np.bool_),
    'backward_flow': ((t, h, w, 2), np.float32),
    'backward_flow_mask': ((t, h, w), np.bool_),
    'boxes': ((t, 9, 4), np.float32),
    'boxes_mask': ((t, 9), np.bool_),
    'box_pixels': ((t, 9), np.int32),
    'depth': ((t, h, w, 1), np.float32),
    'depth_mask': ((t, h, w, 1), np.bool_),
    'segmentations': ((t, h, w, 1), np.uint8),
    'cam_from_world': ((t, 4, 4), np.float32),
    'intrinsics': ((4,), np.float32),
    'audio': ((5333, 2), np.float32),
  }
  assert {k: (v.shape, v.dtype) for k, v in example.items()} == want


def test_only_requested_modalities_come_back():
  example = synthetic.SyntheticVideos(**SMALL)[0]
  assert set(example) == {'video', 'label', 'shape_label', 'fps'}


def test_other_modalities_do_not_change_the_video():
  plain = synthetic.SyntheticVideos(**SMALL)[5]
  full = synthetic.SyntheticVideos(**SMALL, **EVERYTHING)[5]
  assert_same(plain, {name: full[name] for name in plain})


def test_examples_do_not_depend_on_the_order():
  source = synthetic.SyntheticVideos(**SMALL, **EVERYTHING)
  forward = [source[i] for i in range(4)]
  for i in reversed(range(4)):
    assert_same(source[i], forward[i])


def test_four_threads_give_the_same_bytes():
  # A seed of its own: the threads race to fill an empty texture bank.
  options = {**SMALL, **EVERYTHING, 'texture_seed': 31}
  with concurrent.futures.ThreadPoolExecutor(4) as pool:
    source = synthetic.SyntheticVideos(**options)
    threaded = list(pool.map(source.__getitem__, range(12)))
  textures.bank.cache_clear()
  source = synthetic.SyntheticVideos(**options)
  for i, example in enumerate(threaded):
    assert_same(source[i], example)


def test_another_process_gives_the_same_bytes():
  source = synthetic.SyntheticVideos(**SMALL, **EVERYTHING)
  context = multiprocessing.get_context('spawn')
  with concurrent.futures.ProcessPoolExecutor(1, context) as pool:
    other = pool.submit(operator.getitem, source, 7).result(timeout=60)
  assert_same(source[7], other)


def test_pickles_small_without_the_textures():
  source = synthetic.SyntheticVideos(**SMALL, **EVERYTHING)
  source[0]
  data = pickle.dumps(source)
  assert len(data) < 2000
  assert_same(pickle.loads(data)[1], source[1])


def test_seed_split_and_index_change_the_scene():
  def video(split='train', seed=0, index=0):
    return synthetic.SyntheticVideos(split, seed=seed, **SMALL)[index]['video']

  videos = [video(), video(index=1), video(seed=1)]
  videos += [video('validation'), video('test')]
  for i, a in enumerate(videos):
    for b in videos[:i]:
      assert np.abs(a.astype(int) - b).mean() > 5


def test_label_and_camera_are_the_same_at_every_resolution():
  sizes = {'height': 16, 'width': 16}, {'height': 32, 'width': 32}
  small, large = (
    synthetic.SyntheticVideos(num_frames=4, pose=True, **size) for size in sizes
  )
  for i in range(5):
    a, b = small[i], large[i]
    for name in ('label', 'shape_label', 'cam_from_world', 'intrinsics'):
      np.testing.assert_array_equal(a[name], b[name])


def test_pose_and_depth_reproduce_the_tracks_of_the_room():
  source = synthetic.SyntheticVideos(
    **{**EVERYTHING, **SMALL, 'num_tracks': 60}, difficulty='hard'
  )
  for index in range(3):
    example = source[index]
    # Every pixel centre of frame 0 in the world, by depth and camera.
    y, x = np.indices((24, 32)) + 0.5
    fx, fy, cx, cy = example['intrinsics']
    ray = np.stack([(x / 32 - cx) / fx, (y / 24 - cy) / fy, np.ones_like(x)])
    seen = ray * example['depth'][0, ..., 0]
    camera = example['cam_from_world'].astype(np.float64)
    world = np.linalg.inv(camera[0]) @ np.concatenate(
      [seen.reshape(3, -1), np.ones((1, 24 * 32))]
    )
    later = (camera[1] @ world)[:3]
    later = (later[:2] / later[2]).T * [fx * 32, fy * 24] + [cx * 32, cy * 24]
    flow = later - np.stack([x, y], axis=-1).reshape(-1, 2)
    room = example['segmentations'][0].ravel() == 0
    error = flow - example['forward_flow'][0].reshape(-1, 2)
    assert np.abs(error[room]).max() < 1e-3


def test_query_frames_follow_the_option():
  options = {**SMALL, 'num_tracks': 50}
  anywhere = synthetic.SyntheticVideos(**options)[0]['query_points']
  first = synthetic.SyntheticVideos(**options, queries='first')[0]
  assert set(anywhere[:, 0]) == {0, 1, 2, 3}
  assert not first['query_points'][:, 0].any()


@pytest.mark.parametrize('num_frames', [1, 2, 250])
@pytest.mark.parametrize('difficulty', synthetic.DIFFICULTIES)
def test_odd_sizes_are_finite_and_raise_no_warning(difficulty, num_frames):
  source = synthetic.SyntheticVideos(
    difficulty=difficulty,
    num_frames=num_frames,
    height=33,
    width=47,
    **EVERYTHING,
  )
  with np.errstate(all='raise'):
    for index in range(1 if num_frames == 250 else 4):
      for name, value in source[index].items():
        assert np.isfinite(value).all(), name


def test_splits_have_their_sizes():
  assert len(synthetic.SyntheticVideos()) == 1_000_000
  assert len(synthetic.SyntheticVideos('validation')) == 256
  assert len(synthetic.SyntheticVideos('test', size=3)) == 3


@pytest.mark.parametrize('index', [-1, 256])
def test_index_outside_the_split_is_an_error(index):
  with pytest.raises(IndexError, match=f'{index} outside'):
    synthetic.SyntheticVideos('test')[index]


@pytest.mark.parametrize(
  ('name', 'value'),
  [
    ('split', 'val'),
    ('queries', 'strided'),
    ('difficulty', 'extreme'),
    ('difficulty.objects', synthetic.Difficulty((1, 10), 1, 0, 0, 0)),
    ('num_frames', 0),
    ('height', 2.5),
    ('width', -3),
    ('seed', -1),
    ('size', 0),
    ('num_tracks', -1),
    ('textures', '/no/such/folder'),
  ],
)
def test_bad_argument_is_named(name, value):
  with pytest.raises(ValueError, match=name):
    synthetic.SyntheticVideos(**{name.split('.')[0]: value})


def test_photographs_replace_the_textures(tmp_path):
  rng = np.random.default_rng(0)
  for name in ('b.png', 'a.PNG'):
    pixels = rng.integers(0, 256, (40, 60, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / name)
  (tmp_path / 'notes.txt').write_text('not a photograph')
  bank = textures.bank(0, str(tmp_path))
  assert bank.count == 2
  tile = bank.texture(0)
  np.testing.assert_array_equal(tile, tile[::-1, ::-1])  # mirrored: periodic
  plain = synthetic.SyntheticVideos(**SMALL)
  photos = synthetic.SyntheticVideos(**SMALL, textures=str(tmp_path))
  assert (plain[0]['video'] != photos[0]['video']).any()
  assert plain[0]['label'] == photos[0]['label']


def test_folder_without_photographs_is_an_error(tmp_path):
  with pytest.raises(ValueError, match='holds no photograph'):
    synthetic.SyntheticVideos(textures=str(tmp_path))


@pytest.mark.parametrize('index', range(8))
def test_texture_has_contrast_and_no_seam(index):
  texture = textures.make_texture(3, index)
  assert texture.shape == (256, 256, 3) and texture.dtype == np.float32
  assert 0 <= texture.min() and texture.max() <= 1
  assert texture.std() > 0.08
  for axis in (0, 1):
    steps = np.abs(texture - np.roll(texture, 1, axis)).mean((1 - axis, 2))
    assert steps[0] <= 1.5 * steps[1:].max()


def checksum(values):
  values = np.asarray(values, np.float64).ravel()
  return float(values @ np.cos(np.arange(values.size)))


def test_scene_numbers_are_pinned():
  # Another value makes every published figure on synthetic videos incomparable.
  def numbers(part):
    if isinstance(part, (tuple, list)):
      return [n for inner in part for n in numbers(inner)]
    return [float(part)] if isinstance(part, (int, float)) else []

  drawn = scene.draw_scene(
    np.random.default_rng([0, 0, 5]),
    scene.DIFFICULTIES['medium'],
    num_textures=64,
  )
  found = numbers(drawn)
  assert len(found) == 425 and drawn.label == 9
  assert checksum(found) == pytest.approx(-72.97854364318742, abs=1e-9)


@pytest.mark.parametrize(
  'index, want', list(enumerate([0.551008, 0.167059, 3.613271, 0.944020]))
)
def test_textures_of_every_family_are_pinned(index, want):
  # float32: 2e5 values rounded at 6e-8.
  texture = textures.make_texture(0, index)
  assert checksum(texture) == pytest.approx(want, abs=1e-3)


def test_lookup_at_texel_centres_returns_the_texture():
  bank = textures.bank(0)
  texture = bank.texture(2)
  centre = ((np.arange(256) + 0.5) / 256).astype(np.float32)
  u, v = np.meshgrid(centre, centre)
  for period in (0, 1, -2):
    footprint = np.full_like(u, 1 / 256)
    colour = bank.sample(np.int32(2), u + period, v - period, footprint)
    # float32 coordinates of 2 periods: 1e-4 of a texel
    np.testing.assert_allclose(np.stack(colour, -1), texture, atol=1e-3)


def test_large_footprints_average_the_texture():
  bank = textures.bank(0)
  texture = bank.texture(2)
  u = np.full(1, (3 + 0.5) / 8, np.float32)
  v = np.full(1, (5 + 0.5) / 8, np.float32)
  colour = bank.sample(np.int32(2), u, v, np.full(1, 1.0, np.float32))
  want = texture[160:192, 96:128].mean((0, 1))  # texel (5, 3) of 8 x 8
  np.testing.assert_allclose(np.concatenate(colour), want, atol=1e-5)
