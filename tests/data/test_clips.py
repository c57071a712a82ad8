"""Clips: the right frames by each protocol, and labels that follow them."""

import io
import itertools
import pickle

import numpy as np
import pytest
from PIL import Image

from tests.data import make_odd_videos
from vidscenic.data import clip_indices, clips, decode, sources, windows


class Fixed:
  """A generator whose draws are given; checks what is asked of it."""

  def __init__(self, *draws):
    self.draws = list(draws)
    self.asked = []

  def integers(self, high, size=None):
    self.asked.append(high)
    draw = self.draws.pop(0)
    return np.full(size, draw) if size else draw

  def uniform(self, low, high, size):
    self.asked.append((low, high))
    return np.full(size, self.draws.pop(0))


def indices(length, n, s=1, rng=None, **kwargs):
  return clip_indices.sample_indices(
    length, num_frames=n, stride=s, rng=rng, **kwargs
  ).tolist()


# --- protocols, computed by hand from their sources ---


def test_dmvr_evaluation():
  # (20 - 4 * 2) // 2 = 6.
  assert indices(20, 4, 2) == [[6, 8, 10, 12]]
  # 7 - 8 < 0: from 0, and the seventh frame is followed by the first.
  assert indices(7, 4, 2) == [[0, 2, 4, 6]]
  assert indices(3, 4, 2) == [[0, 2, 1, 0]]
  assert indices(3, 4, 2, pad='hold') == [[0, 2, 2, 2]]
  # int(linspace(0, 20 - 8, 3)) = 0, 6, 12.
  assert indices(20, 4, 2, num_views=3) == [
    [0, 2, 4, 6],
    [6, 8, 10, 12],
    [12, 14, 16, 18],
  ]
  # int(linspace(0, 5, 4)) = 0, 1, 3, 5.
  starts = [row[0] for row in indices(9, 4, 1, num_views=4)]
  assert starts == [0, 1, 3, 5]


def test_dmvr_training_bound_is_one_stride_wider():
  rng = Fixed(13)
  # max(20 - 3 * 2, 1) = 14, exclusive: 13 is the last offset.
  assert indices(20, 4, 2, rng) == [[13, 15, 17, 19]]
  assert rng.asked == [14]
  rng = Fixed(0)
  assert indices(3, 4, 2, rng) == [[0, 2, 1, 0]]
  assert rng.asked == [1]


def test_dmvr_at_another_frame_rate_takes_the_nearest_frames():
  # 30 -> 12 fps: every 2.5 frames, halves round up.
  assert indices(40, 5, fps=12, file_fps=30, rng=Fixed(0)) == [[0, 3, 5, 8, 10]]
  # 29.97 -> 30 must not show a frame twice.
  assert indices(40, 8, fps=30, file_fps=30000 / 1001, rng=Fixed(3)) == [
    list(range(3, 11))
  ]
  # 25 -> 50 fps shows each frame twice.
  assert indices(40, 4, fps=50, file_fps=25, rng=Fixed(0)) == [[0, 1, 1, 2]]
  # An unknown rate changes nothing.
  assert indices(40, 3, 2, fps=12, rng=Fixed(0)) == [[0, 2, 4]]


def test_slowfast_evaluation():
  # span 8, room 12, start 12 * i / 3; linspace(start, start + 7, 4).
  assert indices(20, 4, 2, protocol='slowfast', num_views=3) == [
    [0, 2, 4, 7],
    [4, 6, 8, 11],
    [8, 10, 12, 15],
  ]
  # Its use_offset: i * floor(12 / 2).
  assert indices(
    20, 4, 2, protocol='slowfast', num_views=3, spread_ends=True
  ) == [[0, 2, 4, 7], [6, 8, 10, 13], [12, 14, 16, 19]]
  assert indices(21, 4, 2, protocol='slowfast', spread_ends=True) == [
    [6, 8, 10, 13]
  ]
  # 5 frames: linspace(0, 7, 4) = 0, 2.33, 4.67, 7 held at 4.
  assert indices(5, 4, 2, protocol='slowfast') == [[0, 2, 4, 4]]
  assert indices(5, 4, 2, protocol='slowfast', pad='loop') == [[0, 2, 4, 2]]


def test_slowfast_training_starts_between_frames():
  rng = Fixed(5.6)
  # linspace(5.6, 12.6, 4) = 5.6, 7.93, 10.27, 12.6.
  assert indices(20, 4, 2, rng, protocol='slowfast') == [[5, 7, 10, 12]]
  assert rng.asked == [(0, 12)]
  rng = Fixed(0.0)
  # 60 fps to 30: span 16.
  got = indices(20, 4, 2, rng, protocol='slowfast', fps=30, file_fps=60)
  assert got == [[0, 5, 10, 15]]
  assert rng.asked == [(0, 4)]


def test_vjepa():
  # Parts of 20 // 2 = 10 > 8: linspace(0, 8, 4) = 0, 2.67, 5.33, 8 -> 7.
  assert indices(20, 4, 2, protocol='vjepa', num_views=2) == [
    [0, 2, 5, 7],
    [10, 12, 15, 17],
  ]
  rng = Fixed(1)
  assert indices(20, 4, 2, rng, protocol='vjepa') == [[1, 3, 6, 8]]
  assert rng.asked == [12]  # the place at 12 itself is never drawn
  # A part of 6 <= 8: linspace(0, 6, 3) -> 0, 3, 5, and 5 again.
  assert indices(12, 4, 2, protocol='vjepa', num_views=2) == [
    [0, 3, 5, 5],
    [6, 9, 11, 11],
  ]
  assert indices(8, 4, 2, protocol='vjepa') == [[0, 2, 5, 7]]
  # Fewer frames than the stride, fewer than clips.
  assert indices(1, 3, 2, protocol='vjepa') == [[0, 0, 0]]
  assert indices(2, 2, protocol='vjepa', num_views=3) == [
    [0, 0],
    [1, 1],
    [1, 1],
  ]


def test_vjepa_at_a_frame_rate_replaces_the_stride():
  # ceil(29.97) // 4 = 7: linspace(0, 21, 3) -> 0, 10, 20.
  got = indices(90, 3, 99, protocol='vjepa', fps=4, file_fps=30000 / 1001)
  assert got == [[0, 10, 20]]
  # 10 // 30 would be 0.
  got = indices(90, 3, 99, protocol='vjepa', fps=30, file_fps=10.0)
  assert got == [[0, 1, 2]]


@pytest.mark.parametrize('protocol', clip_indices.PROTOCOLS)
def test_indices_are_always_inside(protocol):
  rng = np.random.default_rng(0)
  choices = itertools.product(
    (1, 2, 5, 33), (1, 4), (1, 3), ('', 'loop', 'hold'), (1, 3), (0, 7.5, 60)
  )
  for length, n, s, pad, views, fps in choices:
    for generator in (None, rng):
      got = clip_indices.sample_indices(
        length,
        num_frames=n,
        stride=s,
        protocol=protocol,
        pad=pad,
        num_views=views,
        fps=fps,
        file_fps=25.0,
        rng=generator,
      )
      assert got.shape == (views, n) and got.dtype == np.int64
      assert got.min() >= 0 and got.max() < length


def test_training_offsets_are_uniform():
  rng = np.random.default_rng(0)
  starts = [indices(11, 4, 2, rng)[0][0] for _ in range(2000)]
  counts = np.bincount(starts, minlength=5)
  assert len(counts) == 5
  assert counts.min() > 320  # expected 400


# --- the transform ---


@pytest.fixture(scope='module')
def video_path(tmp_path_factory):
  path = str(tmp_path_factory.mktemp('clips') / 'numbers.mp4')
  kwargs = make_odd_videos.odd_files()['fragmented.mp4']
  make_odd_videos.encode(path, **kwargs)  # 90 frames, 25 per second, sound
  return path


def codes(video):
  return [make_odd_videos.read_code(frame) for frame in video]


def transform(**kwargs):
  kwargs = {'num_frames': 4, 'size': (64, 96), 'crop': 'none', **kwargs}
  return clips.ClipTransform(**kwargs)


def run(transform_, record, seed=0):
  rng = np.random.default_rng(seed)
  return transform_.augment(transform_.sample(record, rng), rng)


def test_file_gives_the_sampled_frames(video_path):
  record = {'video': sources.VideoFile(video_path), 'label': np.int32(3)}
  out = run(transform(stride=3, train=False), record)
  assert codes(out['video']) == [39, 42, 45, 48]
  assert out['label'] == 3
  assert out['video'].dtype == np.uint8


def test_bytes_images_and_arrays_give_the_same_clip(video_path):
  with open(video_path, 'rb') as f:
    data = f.read()
  frames = decode.read_frames(video_path, range(90))
  images = []
  for frame in frames:
    buffer = io.BytesIO()
    Image.fromarray(frame).save(buffer, 'PNG')
    images.append(buffer.getvalue())
  want = run(transform(), {'video': sources.VideoFile(video_path)})['video']
  for video in (data, images, np.array(images, object), frames):
    np.testing.assert_array_equal(
      run(transform(), {'video': video})['video'], want
    )


def test_only_sampled_images_are_decoded(video_path):
  frame = make_odd_videos.draw(5)
  buffer = io.BytesIO()
  Image.fromarray(frame).save(buffer, 'PNG')
  images = [b'broken'] * 9
  images[5:9] = [buffer.getvalue()] * 4
  out = run(transform(train=False, num_frames=1), {'video': images[2:]})
  np.testing.assert_array_equal(out['video'], frame[None])
  with pytest.raises(decode.VideoError, match='row 4: image 4'):
    record = {'video': images, 'path': 'row 4'}
    run(transform(train=False, num_frames=1), record)


def test_unreadable_videos_are_named(tmp_path):
  path = str(tmp_path / 'gone.mp4')
  with pytest.raises(decode.VideoError, match='gone.mp4'):
    run(transform(), {'video': sources.VideoFile(path)})
  with pytest.raises(decode.VideoError, match='record 7'):
    run(transform(), {'video': b'nothing', 'id': b'record 7'})
  for record in ({'label': 1}, {'video': 'path'}, {'video': np.zeros((2, 3))}):
    with pytest.raises(ValueError, match='video'):
      run(transform(), record)


def test_same_generator_same_example(video_path):
  record = {'video': sources.VideoFile(video_path)}
  random = transform(crop='random_resized', size=(32, 40))
  a, b, c = (run(random, record, seed)['video'] for seed in (1, 1, 2))
  np.testing.assert_array_equal(a, b)
  assert (a != c).any()
  again = pickle.loads(pickle.dumps(random))
  np.testing.assert_array_equal(run(again, record, 1)['video'], a)


def test_augment_leaves_the_sampled_clip_alone(video_path):
  random = transform(crop='random_resized', size=(32, 40))
  rng = np.random.default_rng(0)
  clip = random.sample({'video': sources.VideoFile(video_path)}, rng)
  before = clip['video'].copy()
  first = random.augment(clip, rng)['video']
  second = random.augment(clip, rng)['video']
  np.testing.assert_array_equal(clip['video'], before)
  assert (first != second).any()  # repeated augmentation


def test_views_and_three_crops_are_stacked(video_path):
  record = {'video': sources.VideoFile(video_path), 'label': np.int32(1)}
  out = run(transform(train=False, num_views=3), record)
  assert out['video'].shape == (3, 4, 64, 96, 3)
  assert [codes(view)[0] for view in out['video']] == [0, 43, 86]
  assert out['label'].shape == ()
  out = run(
    transform(train=False, num_views=2, crop='three', size=(64, 64)), record
  )
  assert out['video'].shape == (6, 4, 64, 64, 3)
  frames = decode.read_frames(video_path, [0, 86])
  for view, left in itertools.product(range(2), range(3)):
    np.testing.assert_array_equal(
      out['video'][3 * view + left, 0], frames[view, :, 16 * left :][:, :64]
    )
  single = run(transform(train=False, crop='three', size=(64, 64)), record)
  assert single['video'].shape == (3, 4, 64, 64, 3)


def test_flips_follow_their_probability(video_path):
  record = {'video': decode.read_frames(video_path, range(4))}
  for flip, train, share in ((0.5, True, 0.5), (1.0, True, 1), (1.0, False, 0)):
    random = transform(flip=flip, train=train)
    flipped = [
      (run(random, record, s)['video'] == record['video'][:, :, ::-1]).all()
      for s in range(60)
    ]
    assert np.mean(flipped) == pytest.approx(
      share, abs=0.2 if share == 0.5 else 0
    )


def test_short_side_and_center():
  video = np.arange(40 * 60, dtype=np.uint8).reshape(1, 40, 60, 1)
  record = {'video': np.repeat(video, 3, axis=3)}
  center = transform(
    train=False, num_frames=1, crop='center', size=(20, 20), short_side=40
  )
  out = run(center, record)['video']
  np.testing.assert_array_equal(out, record['video'][:, 10:30, 20:40])
  # short_side=0: just covers the output.
  cover = transform(train=False, num_frames=1, crop='center', size=(40, 40))
  out = run(cover, record)['video']
  np.testing.assert_array_equal(out, record['video'][:, :, 10:50])


@pytest.mark.parametrize('crop', ['random', 'random_resized', 'multi_scale'])
def test_random_crops_have_the_size(crop):
  rng = np.random.default_rng(0)
  for size in ((30, 50), (50, 30), (33, 33), (200, 20), (3, 5)):
    record = {'video': rng.integers(0, 255, (2, *size, 3), dtype=np.uint8)}
    random = transform(num_frames=2, crop=crop, size=(24, 32), jitter_prob=0.8)
    assert run(random, record)['video'].shape == (2, 24, 32, 3)


def test_short_side_range_is_drawn():
  record = {'video': np.zeros((1, 40, 60, 3), np.uint8)}
  random = transform(
    num_frames=1, crop='random', size=(8, 8), short_side=(8, 40)
  )
  seen = {
    random._scaled((40, 60), np.random.default_rng(s))[0] for s in range(99)
  }
  assert {8, 40} <= seen and len(seen) > 20
  assert run(random, record)['video'].shape == (1, 8, 8, 3)


def test_decoding_at_a_smaller_size_moves_labels(video_path):
  record = {
    'video': sources.VideoFile(video_path),
    'target_points': np.full((1, 90, 2), 40.0, np.float32),
    'occluded': np.zeros((1, 90), bool),
  }
  out = run(transform(size=(), decode_short_side=32, flip=0.0), record)
  assert out['video'].shape == (4, 32, 48, 3)
  np.testing.assert_allclose(out['target_points'], 20.0)


def test_sound_starts_with_the_clip(video_path):
  record = {'video': sources.VideoFile(video_path)}
  loud = transform(train=False, audio_rate=8000, audio_samples=1280)
  out = run(loud, record)
  assert out['audio'].shape == (1280, 1) and out['audio_mask']
  start = decode.index_video(video_path).start
  want = decode.read_audio(
    video_path, 43 / 25, 43 / 25 + 0.16, 8000, origin_s=start
  )
  np.testing.assert_array_equal(out['audio'], want)
  stereo = transform(
    train=False,
    audio_rate=8000,
    audio_samples=99,
    audio_mono=False,
    num_views=2,
  )
  assert run(stereo, record)['audio'].shape == (2, 99, 2)


def test_files_without_sound_are_silent_and_masked(tmp_path):
  path = str(tmp_path / 'silent.mp4')
  decode.write_video(path, np.zeros((8, 64, 96, 3), np.uint8), 25)
  loud = transform(audio_rate=8000, audio_samples=1280)
  out = run(loud, {'video': sources.VideoFile(path)})
  assert not out['audio_mask'] and not out['audio'].any()
  assert out['audio'].shape == (1280, 1)


def test_sound_of_arrays_is_cut_in_proportion():
  record = {
    'video': np.zeros((10, 64, 96, 3), np.uint8),
    'audio': np.arange(1000, dtype=np.float32)[:, None],
  }
  out = run(transform(train=False, stride=2), record)
  # frames 1, 3, 5, 7
  np.testing.assert_array_equal(out['audio'][:, 0], np.arange(100, 900))


def test_keep_selects_fields(video_path):
  record = {'video': sources.VideoFile(video_path), 'label': 1, 'path': 'a'}
  assert set(run(transform(keep=('video', 'label')), record)) == {
    'video',
    'label',
  }
  with pytest.raises(ValueError, match="keep names .'tracks'."):
    run(transform(keep=('video', 'tracks')), record)


@pytest.mark.parametrize(
  'kwargs, match',
  [
    ({'num_frames': 0}, 'num_frames must be >= 1, got 0'),
    ({'stride': 0}, 'stride'),
    ({'num_views': 0}, 'num_views'),
    ({'fps': -1}, 'fps'),
    ({'protocol': 'tsn'}, "protocol must be one of .*'tsn'"),
    ({'pad': 'zero'}, 'pad'),
    ({'crop': 'left'}, 'crop'),
    ({'crop': 'random', 'train': False}, 'train=False'),
    ({'crop': 'center', 'size': ()}, 'needs size'),
    ({'size': (3,)}, 'size'),
    ({'size': (0, 3)}, 'size'),
    ({'flip': 1.5}, 'flip'),
    ({'area': (0.5, 0.2)}, 'area'),
    ({'aspect': (0, 2)}, 'aspect'),
    ({'resize_method': 'cubic'}, 'resize_method'),
    ({'short_side': (9, 99), 'train': False}, 'short_side'),
    ({'short_side': 9, 'crop': 'center'}, 'short_side=9 is smaller'),
    ({'audio_rate': 8000}, 'audio_samples'),
  ],
)
def test_wrong_arguments_are_named(kwargs, match):
  with pytest.raises(ValueError, match=match):
    transform(**kwargs)


# --- labels in time ---


def labelled(length=12, tracks=5):
  """A record whose labels all say which frame they belong to."""
  t = np.arange(length)
  points = np.zeros((tracks, length, 2), np.float32)
  points[..., 0] = 10 + t
  points[..., 1] = 20 + np.arange(tracks)[:, None]
  occluded = np.zeros((tracks, length), bool)
  queries = np.zeros((tracks, 3), np.float32)
  queries[:, 0] = np.arange(tracks) * 2
  queries[:, 1] = points[:, 0, 1]
  queries[:, 2] = 10 + queries[:, 0]

  def maps(*shape):
    return np.broadcast_to(
      t.reshape(-1, *(1 for _ in shape)), (length, *shape)
    ).astype(np.float32)

  return {
    'video': maps(64, 96, 3).astype(np.uint8),
    'target_points': points,
    'occluded': occluded,
    'query_points': queries,
    'boxes': maps(2, 4) / 100 + np.array([0, 0, 0.5, 0.5], np.float32),
    'boxes_mask': maps(2) % 2 == 0,
    'depth': maps(64, 96, 1),
    'segmentations': maps(64, 96, 1).astype(np.uint8),
    'cam_from_world': maps(4, 4),
    'intrinsics': np.array([1, 1, 0.5, 0.5], np.float32),
    'forward_flow': maps(64, 96, 2) / 10,
    'flow_mask': np.ones((length, 64, 96), bool),
    'backward_flow': maps(64, 96, 2) / 10,
    'label': np.int32(7),
  }


def take(record, **kwargs):
  kwargs = {'train': False, 'flip': 0.0, **kwargs}
  return run(transform(**kwargs), record)


def test_every_label_follows_its_frames():
  record = labelled()
  out = take(record, stride=2)
  want = [2, 4, 6, 8]
  np.testing.assert_array_equal(out['video'][:, 0, 0, 0], want)
  np.testing.assert_array_equal(
    out['target_points'][0, :, 0], 10 + np.array(want)
  )
  np.testing.assert_array_equal(out['depth'][:, 9, 9, 0], want)
  np.testing.assert_array_equal(out['segmentations'][:, 9, 9, 0], want)
  np.testing.assert_array_equal(out['cam_from_world'][:, 0, 0], want)
  np.testing.assert_allclose(out['boxes'][:, 1, 0], np.array(want) / 100)
  assert out['boxes_mask'].all()
  assert out['intrinsics'].shape == (4,)
  assert out['label'] == 7


def test_queries_follow_their_frames_or_move_along_their_track():
  record = labelled()
  record['occluded'][0, [2, 4, 6]] = True  # of the clip only frame 8 is left
  record['occluded'][1, :] = True
  record['occluded'][1, 2] = False
  record['occluded'][4, :8] = True
  out = take(record, stride=2)
  # Clip frames are 2, 4, 6, 8; queries were in frames 0, 2, 4, 6, 8.
  np.testing.assert_array_equal(out['query_points'][1:, 0], [0, 1, 2, 3])
  np.testing.assert_array_equal(out['query_points'][1:, 2], [12, 14, 16, 18])
  np.testing.assert_array_equal(out['query_points'][0], [3, 20, 18])
  assert out['query_mask'].all()


def test_tracks_never_seen_in_the_clip_are_masked():
  record = labelled()
  record['occluded'][0, 1:] = True  # seen in frame 0 only
  out = take(record, stride=2)
  np.testing.assert_array_equal(out['query_mask'], [False] + [True] * 4)
  assert out['occluded'][0].all()
  assert np.isfinite(out['query_points']).all()


def test_redrawn_queries_lie_on_their_tracks():
  record = labelled(length=24, tracks=5)
  record['occluded'] = np.random.default_rng(0).random((5, 24)) < 0.5
  frames = set()
  for seed in range(30):
    out = run(transform(stride=3, flip=0.0), record, seed)
    t = out['query_points'][:, 0].astype(int)
    frames.update(t.tolist())
    rows = np.arange(5)[out['query_mask']]
    points = out['target_points'][rows, t[rows]]
    np.testing.assert_allclose(out['query_points'][rows][:, [2, 1]], points)
  assert frames == {0, 1, 2, 3}


def test_flow_joins_neighbours_only():
  record = labelled()
  out = take(record)  # frames 4, 5, 6, 7
  np.testing.assert_allclose(
    out['forward_flow'][:, 9, 9, 0], [0.4, 0.5, 0.6, 0.0]
  )
  np.testing.assert_array_equal(
    out['flow_mask'][:, 9, 9], [True, True, True, False]
  )
  np.testing.assert_allclose(
    out['backward_flow'][:, 9, 9, 0], [0.0, 0.5, 0.6, 0.7]
  )
  np.testing.assert_array_equal(
    out['backward_flow_mask'][:, 9, 9], [False, True, True, True]
  )
  # A short video starts again: no flow over the seam.
  out = take(labelled(length=3, tracks=1), num_frames=5)
  np.testing.assert_array_equal(
    out['flow_mask'][:, 9, 9], [True, True, False, True, False]
  )
  for kwargs in ({'stride': 2}, {'fps': 5.0}):
    dropped = take(record, **kwargs)
    assert not any('flow' in name for name in dropped)


def test_labels_of_views_are_stacked():
  out = take(labelled(), num_views=3, stride=2)
  np.testing.assert_array_equal(
    out['depth'][:, :, 0, 0, 0], [[0, 2, 4, 6], [2, 4, 6, 8], [4, 6, 8, 10]]
  )
  assert out['query_points'].shape == (3, 5, 3)
  assert out['query_mask'].shape == (3, 5)
  assert out['intrinsics'].shape == (3, 4)
  assert out['label'].shape == ()


def test_labels_of_another_length_are_refused():
  record = labelled()
  record['occluded'] = record['occluded'][:, :-1]
  with pytest.raises(ValueError, match='occluded has 11 frames, the video 12'):
    take(record)


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
