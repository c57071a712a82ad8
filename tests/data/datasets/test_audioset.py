"""AudioSet: quoted label lists, several sounds per clip, names of files."""

import numpy as np
import pytest

from tests.data.datasets import miniature
from vidscenic.data import clips, writer
from vidscenic.data.datasets import audioset

# The beginning of an official table; ids may begin with '-' or 'Y'.
TABLE = """\
# Segments csv created Sun Mar  5 10:54:25 2017
# num_ytids=20371, num_segs=20371, num_unique_labels=527
# YTID, start_seconds, end_seconds, positive_labels
--4gqARaEJE, 0.000, 10.000, "/m/068hy,/m/07q6cd_,/m/0bt9lr,/m/0jbk"
Y-BfyvPmVMo, 20.000, 30.000, "/m/03l9g"
--U7joUcTCo, 0.000, 10.000, "/m/01b_21"
"""
CLIPS = ('--4gqARaEJE.mp4', 'Y-BfyvPmVMo.mkv', '--U7joUcTCo.mp4')


def make(root, clips_=CLIPS, text=TABLE, **options):
  miniature.write(root, 'eval_segments.csv', text)
  miniature.touch(root, *clips_)
  return audioset.AudioSet(str(root), 'eval', **options)


def sounds(record, source):
  return {source.class_names[i] for i in np.flatnonzero(record['label'])}


def test_labels_are_several_of_527(tmp_path):
  source = make(tmp_path)
  assert miniature.paths(source) == list(CLIPS)
  label = source[0]['label']
  assert (label.dtype, label.shape, label.sum()) == (np.float32, (527,), 4)
  want = {'Domestic animals, pets', 'Squeak', 'Dog', 'Animal'}
  assert sounds(source[0], source) == want
  assert sounds(source[1], source) == {'Hammer'}
  assert sounds(source[2], source) == {'Cough'}


@pytest.mark.parametrize(
  'change',
  [
    lambda name: f'Y{name}',
    lambda name: name.replace('.', '_0.', 1),
    lambda name: name.replace('.', '_0.000_10.000.', 1),
    lambda name: f'eval/{name.replace(".", "_20000_30000.", 1)}',
  ],
  ids=['Y', 'start', 'seconds', 'folder and milliseconds'],
)
def test_names_of_copies(tmp_path, change):
  names = [change(name) for name in CLIPS]
  assert miniature.paths(make(tmp_path, names)) == names


@pytest.mark.parametrize(
  'text',
  [
    TABLE.replace('\n', '\r\n'),
    TABLE.replace(', ', ','),
    TABLE.replace('# YTID', 'YTID'),
  ],
  ids=['crlf', 'no spaces', 'bare header'],
)
def test_tables_of_copies(tmp_path, text):
  assert len(make(tmp_path, text=text)) == 3


def test_missing_clips_are_counted_unless_strict(tmp_path):
  assert make(tmp_path, CLIPS[:1]).num_missing == 2
  with pytest.raises(FileNotFoundError, match='line 5: no file Y-BfyvPmVMo'):
    make(tmp_path, CLIPS[:1], strict=True)


@pytest.mark.parametrize(
  ('old', 'new', 'match'),
  [
    ('/m/03l9g', '/m/0', "line 5: unknown class '/m/0'"),
    ('"/m/03l9g"', '', "line 5: unknown class ''"),
    ('"/m/03l9g"', '/m/03l9g,/m/03l9g', 'line 5: expected 4 fields .* got 5'),
    ('"/m/03l9g"', '"/m/03l9g', 'line 5: not a csv row'),
  ],
)
def test_bad_lines_are_named(tmp_path, old, new, match):
  with pytest.raises(ValueError, match='eval_segments.csv, ' + match):
    make(tmp_path, text=TABLE.replace(old, new))


def test_missing_table_says_where_it_comes_from(tmp_path):
  with pytest.raises(
    FileNotFoundError, match='balanced_train_segments.csv is missing: .*google'
  ):
    audioset.AudioSet(str(tmp_path))


def test_split_is_checked(tmp_path):
  with pytest.raises(ValueError, match='split must be one of .*unbalanced'):
    audioset.AudioSet(str(tmp_path), 'train')


def test_a_clip_with_its_sound(tmp_path):
  source = make(tmp_path)
  frames = np.zeros((25, 16, 16, 3), np.uint8)
  time = np.arange(48_000) / 48_000
  sound = 0.5 * np.sin(2 * np.pi * 440 * time)
  writer.write_video(source[0]['video'].path, frames, fps=25, audio=sound)
  transform = clips.ClipTransform(
    num_frames=16,
    train=False,
    size=(16, 16),
    audio_rate=16_000,
    audio_samples=8_000,
  )
  rng = np.random.default_rng(0)
  example = transform.augment(transform.sample(source[0], rng), rng)
  assert example['audio_mask']
  power = np.mean(example['audio'] ** 2)
  np.testing.assert_allclose(power, 0.5**2 / 2, rtol=0.05)  # AAC
  assert example['label'].sum() == 4
