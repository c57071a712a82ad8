"""Kinetics: official tables, the folders that copies have, missing clips."""

import logging
import pickle

import numpy as np
import pytest

from tests.data.datasets import miniature
from vidscenic.data import clips, writer
from vidscenic.data.datasets import kinetics

HEADER = 'label,youtube_id,time_start,time_end,split,is_cc\n'
# Real ids: they begin with '-' or hold '_' between digits.
VAL = (
  HEADER
  + 'abseiling,0wR5jVB-WPk,417,427,val,0\n'
  + 'riding a bike,--Ntf6n_j9Q,21,31,val,1\n'
  + 'passing American football (in game),a_12_34_567,0,10,val,0\n'
)
CLIPS = (
  'abseiling/0wR5jVB-WPk_000417_000427.mp4',
  'riding a bike/--Ntf6n_j9Q_000021_000031.mp4',
  'passing American football (in game)/a_12_34_567_000000_000010.mp4',
)
NAMES = ['abseiling', 'riding a bike', 'passing American football (in game)']


def make(root, clips_=CLIPS, table='val.csv', text=VAL, **options):
  miniature.write(root, table, text)
  miniature.touch(root, *clips_)
  return kinetics.Kinetics(str(root), 'val', **options)


@pytest.mark.parametrize(
  ('version', 'count'),
  [('400', 400), (400, 400), (600, 600), ('700-2020', 700)],
)
def test_versions_have_their_classes(tmp_path, version, count):
  source = make(tmp_path, version=version)
  assert len(source.class_names) == count
  assert miniature.classes(source) == NAMES


def test_order_is_that_of_the_table_and_ids_that_of_the_names(tmp_path):
  source = make(tmp_path)
  assert miniature.paths(source) == list(CLIPS)
  assert miniature.classes(source) == NAMES
  assert miniature.labels(source) == [0, 267, 208]
  assert source.num_missing == 0
  assert source.flip_allowed
  assert source[0]['video'].path == str(tmp_path / CLIPS[0])
  assert source[-1]['label'].dtype == np.int32
  again = pickle.loads(pickle.dumps(source))
  assert miniature.labels(again) == miniature.labels(source)
  assert again[2]['video'].path == source[2]['video'].path


@pytest.mark.parametrize(
  'change',
  [
    lambda path: path.partition('/')[2],
    lambda path: f'val/{path}',
    lambda path: f'val_256/{path.replace(" ", "_")}',
    lambda path: path.replace('.mp4', '.MKV'),
    lambda path: f'{path[: path.index("_000")]}.mp4',
    lambda path: path.replace('_0000', '_').replace('_000', '_'),
  ],
  ids=['flat', 'val', 'underscores', 'extension', 'id only', 'short times'],
)
def test_layouts_of_copies(tmp_path, change):
  names = [change(path) for path in CLIPS]
  source = make(tmp_path, names)
  assert miniature.paths(source) == names
  assert miniature.classes(source) == NAMES


@pytest.mark.parametrize(
  ('table', 'annotations'),
  [
    ('validate.csv', ''),
    ('annotations/val.csv', ''),
    ('annotations/kinetics-400_val.csv', ''),
    ('kinetics_val.csv', ''),
    ('tables/val.csv', 'tables'),
    ('tables/own.csv', 'tables/own.csv'),
  ],
)
def test_places_of_the_table(tmp_path, table, annotations):
  assert len(make(tmp_path, table=table, annotations=annotations)) == 3


@pytest.mark.parametrize(
  'text',
  [
    VAL.replace('\n', '\r\n'),
    VAL.replace('\n', '\n\n'),
    VAL.replace('riding a bike', 'riding_a_bike'),
    VAL.replace('riding a bike', '"riding a bike"'),
    VAL.replace(',417,427,', ',417.0,427.0,'),
    '\ufeff' + VAL,
  ],
  ids=['crlf', 'blank lines', 'underscores', 'quotes', 'floats', 'bom'],
)
def test_odd_tables_are_read(tmp_path, text):
  assert miniature.classes(make(tmp_path, text=text)) == NAMES


def test_apostrophes_of_either_kind(tmp_path):
  text = HEADER + 'massaging person’s head,0wR5jVB-WPk,417,427,val,0\n'
  source = make(tmp_path, text=text)
  assert miniature.classes(source) == ["massaging person's head"]


def test_held_out_test_table_gives_no_labels(tmp_path):
  text = 'youtube_id,time_start,time_end,split\n0wR5jVB-WPk,417,427,test\n'
  miniature.write(tmp_path, 'test.csv', text)
  miniature.touch(tmp_path, 'test/0wR5jVB-WPk_000417_000427.mp4')
  record = kinetics.Kinetics(str(tmp_path), 'test')[0]
  assert sorted(record) == ['path', 'video']


def test_only_the_folder_of_the_split_counts(tmp_path):
  source = make(tmp_path, [f'{top}/{CLIPS[0]}' for top in ('train', 'val')])
  assert miniature.paths(source) == [f'val/{CLIPS[0]}']


def test_replacements_of_damaged_clips_win(tmp_path):
  name = CLIPS[0].partition('/')[2]
  fixed = f'replacement/replacement_for_corrupted_k400/{name}'
  source = make(tmp_path, [*(f'val/{path}' for path in CLIPS), fixed])
  assert miniature.paths(source)[0] == fixed
  assert miniature.classes(source) == NAMES


def test_two_clips_of_one_video_need_their_times(tmp_path):
  text = (
    HEADER + 'yoga,c9ZWYpxefXQ,1,11,val,0\n' + 'zumba,c9ZWYpxefXQ,20,30,val,0\n'
  )
  names = ['c9ZWYpxefXQ.mp4', 'c9ZWYpxefXQ_000020_000030.mp4']
  source = make(tmp_path, names, text=text)
  assert miniature.paths(source) == names[1:]
  assert miniature.classes(source) == ['zumba']


def test_missing_clips_are_counted_and_reported(tmp_path, caplog):
  with caplog.at_level(logging.WARNING, logger='absl'):
    source = make(tmp_path, CLIPS[:1])
  assert (len(source), source.num_missing) == (1, 2)
  assert '2 of 3 listed files are missing' in caplog.text
  want = f'val.csv, line 3: no file --Ntf6n_j9Q_000021_000031 below {tmp_path}'
  assert want in caplog.text


def test_strict_wants_every_clip(tmp_path):
  with pytest.raises(FileNotFoundError, match='val.csv, line 3: no file --Ntf'):
    make(tmp_path, CLIPS[:1], strict=True)


def test_repeated_clips_are_left_out_or_an_error(tmp_path, caplog):
  text = VAL + VAL.splitlines()[1] + '\n'
  with caplog.at_level(logging.WARNING, logger='absl'):
    source = make(tmp_path, text=text)
  assert len(source) == 3
  assert 'line 5: the file' in caplog.text
  with pytest.raises(ValueError, match='line 5: .* twice, first in .*line 2'):
    make(tmp_path, text=text, strict=True)


def test_no_clip_at_all_says_where_they_come_from(tmp_path):
  with pytest.raises(
    FileNotFoundError,
    match='none of 3 .* the first: .*val.csv, line 2.*cvdfoundation',
  ):
    make(tmp_path, [])


def test_missing_table_says_where_it_comes_from(tmp_path):
  miniature.touch(tmp_path, *CLIPS)
  with pytest.raises(
    FileNotFoundError,
    match='val.csv is missing: the val table .*cvdfoundation.*validate.csv',
  ):
    kinetics.Kinetics(str(tmp_path), 'val')


@pytest.mark.parametrize(
  ('old', 'new', 'match'),
  [
    ('abseiling', 'absailing', "line 2: unknown class .* is it 'abseiling'"),
    ('abseiling', '', "line 2: unknown class ''"),
    (',21,', ',x,', "line 3: time_start must be a number, got 'x'"),
    (',1\n', '\n', 'line 3: expected 6 fields .*, got 5'),
    ('time_end', 'end', 'line 1: expected a header with the columns'),
  ],
)
def test_bad_lines_are_named(tmp_path, old, new, match):
  with pytest.raises(ValueError, match='val.csv, ' + match):
    make(tmp_path, text=VAL.replace(old, new))


@pytest.mark.parametrize(
  ('options', 'match'),
  [
    (dict(version='500'), "version must be one of .*'600'.* got '500'"),
    (dict(split='validation'), 'split must be one of'),
    (dict(root=''), r"root='' is empty: name the folder of the clips"),
  ],
)
def test_bad_arguments_are_named(tmp_path, options, match):
  with pytest.raises(ValueError, match='source_kwargs.' + match):
    kinetics.Kinetics(**({'root': str(tmp_path)} | options))


def test_missing_folder_says_where_the_clips_come_from(tmp_path):
  with pytest.raises(FileNotFoundError, match='no is missing: .*YouTube'):
    kinetics.Kinetics(str(tmp_path / 'no'))


def test_a_clip_from_the_folder_to_the_model(tmp_path):
  """Frame i has brightness 8 i + 8; 10 views of 2 frames, 3 crops each."""
  source = make(tmp_path)
  levels = 8 * np.arange(1, 31, dtype=np.uint8)
  frames = np.broadcast_to(levels[:, None, None, None], (30, 48, 64, 3))
  writer.write_video(source[1]['video'].path, frames, fps=25)
  transform = clips.ClipTransform(
    num_frames=2,
    stride=4,
    protocol='slowfast',
    train=False,
    num_views=10,
    crop='three',
    size=(32, 32),
  )
  rng = np.random.default_rng(0)
  example = transform.augment(transform.sample(source[1], rng), rng)
  assert example['video'].shape == (30, 2, 32, 32, 3)
  assert example['label'] == source.class_names.index('riding a bike')
  # Views start at frames i (30 - 8) / 10 rounded down, and hold for 7 frames.
  mean = example['video'][::3].mean(axis=(2, 3, 4)) / 8 - 1
  first = np.floor(2.2 * np.arange(10))
  np.testing.assert_allclose(mean[:, 0], first, atol=0.3)
  np.testing.assert_allclose(
    mean[:, 1], np.floor(2.2 * np.arange(10) + 7), atol=0.3
  )
