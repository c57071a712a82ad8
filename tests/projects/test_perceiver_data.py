"""Readers and transforms of the Perceivers on tiny files of official layout."""

import numpy as np
import pytest
from PIL import Image

from projects.perceiver import mean_colour
from projects.perceiver.data import (
  audio_video,
  flow_folders,
  images,
  point_clouds,
  randaugment,
  shapes,
  texts,
)
from vidscenic.data import containers, sources, writer
from vidscenic.data.datasets import flow_files

TETRAHEDRON = '0 0 0\n3 0 0\n0 3 0\n0 0 3\n3 0 1 2\n3 0 1 3\n3 0 2 3\n3 1 2 3\n'


def rng(seed=0):
  return np.random.default_rng(seed)


def picture(height=40, width=60):
  return rng().integers(0, 256, (height, width, 3), np.uint8)


@pytest.mark.parametrize(
  'name', ['color', 'contrast', 'brightness', 'sharpness']
)
def test_colours_are_untouched_at_the_released_magnitude(name):
  image = Image.fromarray(picture())
  same = randaugment.OPERATIONS[name](image, 0.5, rng())
  np.testing.assert_array_equal(np.asarray(same), picture())


def test_operations_have_the_released_strengths():
  image = picture(60, 120)
  run = lambda name: np.asarray(
    randaugment.OPERATIONS[name](Image.fromarray(image), 0.5, rng(1))
  )
  np.testing.assert_array_equal(run('posterize'), image & 0b11000000)
  np.testing.assert_array_equal(
    run('solarize'), np.where(image < 128, image, 255 - image)
  )
  np.testing.assert_array_equal(
    run('solarize_add'),
    np.where(image < 128, np.minimum(image.astype(int) + 55, 255), image),
  )
  moved = run('translate_x')
  right = np.pad(image[:, :70], ((0, 0), (50, 0), (0, 0)), constant_values=128)
  left = np.pad(image[:, 50:], ((0, 0), (0, 50), (0, 0)), constant_values=128)
  assert (moved == left).all() or (moved == right).all()
  cut = (run('cutout') == 128).all(-1)
  rows, columns = cut.any(1).sum(), cut.any(0).sum()
  assert 20 <= rows <= 40 and 20 <= columns <= 40  # half side 20


def test_augmentation_keeps_shapes_and_is_drawn_from_the_generator():
  a, b, c = (
    randaugment.randaugment(picture(), rng(seed)) for seed in (3, 3, 4)
  )
  assert a.shape == (40, 60, 3) and a.dtype == np.uint8
  np.testing.assert_array_equal(a, b)
  assert (a != c).any()
  with pytest.raises(ValueError, match='magnitude=11'):
    randaugment.randaugment(picture(), rng(), magnitude=11)


def test_test_crop_is_seven_eighths_of_the_short_side():
  assert images.center_box((256, 300)) == (16, 38, 224, 224)
  assert images.center_box((375, 500)) == (24, 86, 328, 328)


def test_images_become_clips_of_one_frame():
  record = {'video': picture()[None], 'shape': np.int32(2)}
  for train in (False, True):
    transform = images.ImageTransform((32, 32), train, label='shape')
    clip = transform.augment(transform.sample(record, rng()), rng())
    assert clip['video'].shape == (1, 32, 32, 3)
    assert clip['label'] == 2
  with pytest.raises(ValueError, match="label='class'.*shape"):
    images.ImageTransform(label='class').sample(record, rng())


def test_shapes_are_told_by_their_form_and_not_by_their_colour():
  source = shapes.SyntheticShapes('validation')
  assert source[3]['video'].tobytes() == source[3]['video'].tobytes()
  assert (source[3]['video'] != source[4]['video']).any()
  area = {
    name: np.mean([shapes._coverage(name, 48, rng(i)).mean() for i in range(9)])
    for name in shapes.CLASSES
  }
  # Areas in squares of the radius, times that of the images.
  mean = np.mean([rng(i).uniform(0.26, 0.38) ** 2 for i in range(9)])
  assert area['disc'] == pytest.approx(np.pi * 0.85**2 * mean, rel=0.02)
  assert area['ring'] == pytest.approx(np.pi * 0.7 * mean, rel=0.02)
  assert area['square'] == pytest.approx(1.5**2 * mean, rel=0.02)
  assert area['triangle'] == pytest.approx(0.75 * 3**0.5 * mean, rel=0.02)
  assert area['cross'] == pytest.approx((2.24 - 0.56**2) * mean, rel=0.02)
  assert area['bar'] == pytest.approx(1.2 * mean, rel=0.02)
  records = [source[i] for i in range(400)]
  colours = np.array([r['video'].mean((0, 1, 2)) / 255 for r in records])
  labels = np.array([r['label'] for r in records])
  features = np.pad(colours, ((0, 0), (0, 1)), constant_values=1)
  weights = mean_colour.fit(features[:300], labels[:300], len(shapes.CLASSES))
  hits = np.argmax(features[300:] @ weights, axis=1) == labels[300:]
  assert hits.mean() < 0.35  # 1/6 by chance
  with pytest.raises(ValueError, match="split='test'"):
    shapes.SyntheticShapes('test')
  with pytest.raises(ValueError, match='side=4'):
    shapes.SyntheticShapes(side=4)


def write_video(path, *, sound, seconds=2):
  frames = np.repeat(picture(32, 32)[None], 25 * seconds, axis=0)
  time = np.arange(48_000 * seconds) / 48_000
  audio = 0.5 * np.sin(2 * np.pi * 440 * time) if sound else None
  writer.write_video(path, frames, 25.0, audio=audio, audio_rate=48_000)


def test_sound_of_files_is_resampled_and_aligned(tmp_path):
  transform = audio_video.AudioVideoClips(
    num_frames=16, audio_rate=8000, size=(16, 16), crop='none', train=False
  )
  for sound in (True, False):
    path = tmp_path / f'{sound}.mp4'
    write_video(path, sound=sound)
    record = {'video': sources.VideoFile(str(path)), 'label': np.int32(1)}
    clip = transform.augment(transform.sample(record, rng()), rng())
    assert clip['video'].shape == (16, 16, 16, 3)
    assert clip['audio'].shape == (16 * 8000 // 25, 1)
    assert clip['audio_mask'] == sound
    spectrum = np.abs(np.fft.rfft(clip['audio'][:, 0]))
    if sound:  # bins are 8000 / 5120 Hz apart
      assert abs(spectrum.argmax() * 8000 / 5120 - 440) < 2
    else:
      assert not spectrum.any()


def test_sound_of_arrays_is_averaged_and_cut():
  record = {
    'video': np.zeros((4, 8, 8, 3), np.uint8),
    'audio': np.stack([np.ones(400), np.zeros(400)], -1).astype(np.float32),
    'fps': 12.0,
  }
  options = dict(num_frames=4, fps=0, audio_rate=1200, size=(8, 8), train=False)
  clip = audio_video.AudioVideoClips(audio_samples=398, **options).sample(
    record, rng()
  )
  np.testing.assert_array_equal(clip['audio'], np.full((398, 1), 0.5))
  assert clip['audio_mask']
  transform = audio_video.AudioVideoClips(audio_samples=800, **options)
  with pytest.raises(ValueError, match='100.0 samples per frame, want 200.0'):
    transform.sample(record, rng())
  options['audio_rate'] = 48_000
  transform = audio_video.AudioVideoClips(audio_samples=400, **options)
  with pytest.raises(ValueError, match='has 1200 samples.*audio_rate=48000'):
    transform.sample(record, rng())


def test_frames_in_memory_without_sound_are_refused_with_the_remedy():
  transform = audio_video.AudioVideoClips(audio_samples=30_720)
  record = {'video': np.zeros((16, 8, 8, 3), np.uint8), 'label': np.int32(1)}
  with pytest.raises(ValueError, match='no audio: .*source_kwargs.audio=True'):
    transform.sample(record, rng())


def test_sound_and_pictures_of_other_lengths_are_refused():
  with pytest.raises(ValueError, match='audio_samples=999, but 16 frames'):
    audio_video.AudioVideoClips(audio_samples=999)


@pytest.mark.parametrize('header', ['OFF\n4 4 0\n', 'OFF4 4 0\n'])
def test_off_files_with_and_without_a_line_of_their_own_for_the_counts(
  tmp_path, header
):
  path = tmp_path / 'a.off'
  path.write_text(header + TETRAHEDRON)
  vertices, faces = point_clouds.read_off(path)
  np.testing.assert_array_equal(vertices[1], [3, 0, 0])
  np.testing.assert_array_equal(faces[-1], [1, 2, 3])


@pytest.mark.parametrize(
  ('text', 'message'),
  [
    ('COFF\n1 1 0\n', 'no OFF file'),
    ('OFF\n4 4 0\n1 2 3\n', '3 numbers, 28 are needed'),
    (f'OFF\n4 4 0\n{TETRAHEDRON.replace("3 1 2 3", "3 1 2 9")}', 'a vertex'),
    (f'OFF\n4 4 0\n{TETRAHEDRON.replace("3 1 2 3", "4 1 2 3")}', 'no triangle'),
    (f'OFF\n4 4 0\n{TETRAHEDRON.replace("0 0 3", "0 x 3")}', 'not a number'),
    ('OFF\n99999999999 4 0\n', 'absurd counts'),
  ],
)
def test_damaged_meshes_are_named(tmp_path, text, message):
  path = tmp_path / 'b.off'
  path.write_text(text)
  with pytest.raises(containers.VideoError, match=f'b.off.*{message}'):
    point_clouds.read_off(path)


def test_modelnet_labels_are_places_of_the_classes_names(tmp_path):
  for name in ('sofa', 'airplane'):
    for split, count in (('train', 2), ('test', 1)):
      folder = tmp_path / name / split
      folder.mkdir(parents=True)
      for i in range(count):
        path = folder / f'{name}_{i:04d}.off'
        path.write_text(f'OFF\n4 4 0\n{TETRAHEDRON}')
  source = point_clouds.ModelNet40(str(tmp_path))
  assert [source[i]['label'] for i in range(len(source))] == [0, 0, 1, 1]
  assert len(point_clouds.ModelNet40(str(tmp_path), 'test')) == 2
  transform = point_clouds.PointTransform(500)
  clip = transform.augment(transform.sample(source[0], rng()), rng())
  assert clip['points'].shape == (500, 3)
  assert np.abs(clip['points']).max() == 1
  with pytest.raises(FileNotFoundError, match='modelnet.cs.princeton.edu'):
    point_clouds.ModelNet40(str(tmp_path / 'none'))


def test_points_are_uniform_over_the_surface():
  # Two squares of triangles: one of area 1 at z = 0, one of area 4 at z = 1.
  square = np.array([[0, 0], [1, 0], [1, 1], [0, 1]])
  vertices = np.concatenate(
    [np.pad(square, ((0, 0), (0, 1))),
     np.pad(2 * square, ((0, 0), (0, 1)), constant_values=1)]
  )  # fmt: skip
  faces = np.array([[0, 1, 2], [0, 2, 3], [4, 5, 6], [4, 6, 7]])
  points = point_clouds.draw_points(vertices, faces, 20_000, rng())
  upper = points[:, 2] == 1
  assert abs(upper.mean() - 0.8) < 0.01
  np.testing.assert_allclose(points[upper, :2].mean(0), 1, atol=0.02)
  np.testing.assert_allclose(points[upper, :2].var(0), 4 / 12, atol=0.01)


def test_flow_folders_are_found_at_any_depth(tmp_path):
  flow = rng().standard_normal((4, 6, 2)).astype(np.float32)
  folder = tmp_path / 'table_1' / '7'
  folder.mkdir(parents=True)
  for name in flow_folders.FILES[:2]:
    Image.fromarray(picture(4, 6)).save(folder / name)
  known = np.ones((4, 6), bool)
  known[0, 0] = False
  flow_files.write_flo(folder / 'forward.flo', flow, known)
  (tmp_path / 'no_pair').mkdir()
  source = flow_folders.FlowFolders(str(tmp_path))
  assert len(source) == 1
  record = source[0]
  np.testing.assert_array_equal(record['flow_mask'][0], known)
  assert not record['flow_mask'][1].any()
  np.testing.assert_array_equal(record['forward_flow'][0][known], flow[known])
  with pytest.raises(FileNotFoundError, match='autoflow-google.github.io'):
    flow_folders.FlowFolders(str(tmp_path / 'no_pair'))


def test_text_goes_to_ids_and_back():
  ids = texts.to_ids('Grüße')
  np.testing.assert_array_equal(ids[:3], [71 + 6, 114 + 6, 0xC3 + 6])
  assert texts.to_bytes([texts.MASK, *ids, texts.PAD]).decode() == 'Grüße'


def test_text_files_are_cut_into_pieces(tmp_path):
  (tmp_path / 'a.txt').write_text('0123456789')
  (tmp_path / 'b.txt').write_text('xy')
  source = texts.TextFiles(str(tmp_path / '*.txt'), length=4)
  pieces = [source[i]['text'] for i in range(len(source))]
  assert pieces == [b'0123', b'4567', b'89', b'xy']
  transform = texts.TextTransform(6)
  ids = transform.sample(source[2], rng())['ids']
  np.testing.assert_array_equal(ids, [56 + 6, 57 + 6, 0, 0, 0, 0])
  with pytest.raises(FileNotFoundError, match='no such text file'):
    texts.TextFiles(str(tmp_path / '*.md'))
  with pytest.raises(ValueError, match="path='' is empty"):
    texts.TextFiles('')


def test_synthetic_text_is_a_function_of_the_index():
  source = texts.SyntheticText('validation', length=50)
  assert source[3] == texts.SyntheticText('validation', length=50)[3]
  assert source[3] != source[4] != texts.SyntheticText(length=50)[4]
  assert len(source[0]['text']) == 50


def test_linear_model_on_the_mean_colour_finds_what_colours_tell():
  labels = rng().integers(0, 3, 600)
  features = rng(1).standard_normal((600, 3)) * 0.02 + 0.5
  features[np.arange(600), labels] += 0.1
  features = np.pad(features, ((0, 0), (0, 1)), constant_values=1)
  weights = mean_colour.fit(features, labels, 3)
  assert np.mean(np.argmax(features @ weights, axis=1) == labels) > 0.95
