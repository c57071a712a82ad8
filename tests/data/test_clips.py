"""From records to examples: the right frames, decoded and augmented."""

import io
import itertools
import pickle

import numpy as np
import pytest
from PIL import Image

from tests.data import make_odd_videos
from vidscenic.data import (
  audio,
  clips,
  decode,
  records,
  resize,
  sources,
  writer,
)


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


@pytest.mark.parametrize('crop', ['center', 'three', 'random'])
def test_wide_output_of_a_square_picture_is_neither_padded_nor_stretched(crop):
  # A round spot; short_side alone would give 64 x 64.
  y, x = np.mgrid[:100, :100] + 0.5
  spot = 55 + 200 * ((x - 50) ** 2 + (y - 50) ** 2 < 20**2)
  record = {'video': np.repeat(spot.astype(np.uint8)[None, ..., None], 3, 3)}
  wide = transform(
    num_frames=1,
    size=(64, 96),
    short_side=64,
    crop=crop,
    train=crop == 'random',
  )
  video = run(wide, record)['video'].reshape(-1, 64, 96, 3)
  assert video.min() > 40
  for frame in video[: len(video) // 2 + 1]:
    rows, columns = np.nonzero(frame[..., 0] > 150)
    if rows.min() > 0 and rows.max() < 63:
      height, width = np.ptp(rows), np.ptp(columns)
      assert abs(int(height) - int(width)) <= 2 and 34 < width < 42


def test_short_side_that_covers_keeps_its_rounding():
  scaled = transform(
    crop='center', size=(256, 256), short_side=256, train=False
  )._scaled((480, 853), np.random.default_rng(0))
  assert scaled == (256, 454)  # DMVR rounds down


@pytest.mark.parametrize('train, method', [(True, 'fast_'), (False, '')])
def test_evaluation_resizes_with_pil_by_default(train, method):
  rng = np.random.default_rng(0)
  video = rng.integers(0, 255, (1, 40, 60, 3), dtype=np.uint8)
  whole = transform(num_frames=1, size=(20, 24), train=train, flip=0.0)
  want = resize.resize_frames(video, (20, 24), method=f'{method}bilinear')
  np.testing.assert_array_equal(run(whole, {'video': video})['video'], want)


def test_videos_in_memory_without_frames_are_unreadable():
  for video in (np.zeros((0, 8, 8, 3), np.uint8), [], np.array([], object)):
    with pytest.raises(decode.VideoError, match='row 4: no frames'):
      run(transform(), {'video': video, 'path': 'row 4'})


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


def test_videos_of_phones_are_upright_before_anything_is_cut(tmp_path):
  path = str(tmp_path / 'phone.mp4')
  make_odd_videos.encode(
    path, 'libx264', num_frames=8, size=(96, 120), turn=(90, False, False)
  )
  record = {'video': sources.VideoFile(path)}
  assert records.open_video(record).size == (96, 120)
  whole = run(transform(size=(), train=False), record)['video']
  assert whole.shape == (4, 96, 120, 3)
  assert codes(whole) == [2, 3, 4, 5]
  small = transform(size=(), train=False, decode_short_side=48)
  want = decode.read_frames(path, range(2, 6), size=(48, 60))
  np.testing.assert_array_equal(run(small, record)['video'], want)


def test_sound_starts_with_the_clip(video_path):
  record = {'video': sources.VideoFile(video_path)}
  loud = transform(train=False, audio_rate=8000, audio_samples=1280)
  out = run(loud, record)
  assert out['audio'].shape == (1280, 1) and out['audio_mask']
  start = decode.index_video(video_path).start
  want = audio.read_audio(
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
  writer.write_video(path, np.zeros((8, 64, 96, 3), np.uint8), 25)
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


@pytest.mark.parametrize(
  'protocol, frames', [('dmvr', 5.0), ('slowfast', 5.0), ('vjepa', 4)]
)
def test_sound_of_arrays_spans_the_sampled_frames(protocol, frames):
  # 12.5 -> 10 per second: vjepa takes every frame (13 // 10), not every 1.25th.
  record = {
    'video': np.zeros((10, 64, 96, 3), np.uint8),
    'audio': np.arange(1000, dtype=np.float32)[:, None],
    'fps': 12.5,
  }
  kwargs = {'train': False, 'fps': 10.0, 'protocol': protocol}
  out = run(transform(**kwargs), record)
  assert len(out['audio']) == frames * 100
  # A number that does not depend on rounding, if one is given.
  fixed = transform(**kwargs, audio_rate=1250, audio_samples=333)
  for length in (1000, 999):
    record['audio'] = np.arange(length, dtype=np.float32)[:, None]
    assert run(fixed, record)['audio'].shape == (333, 1)


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
