"""ImageNet: folders by class, flat validation images, pictures as videos."""

import io

import numpy as np
import pytest
from PIL import Image

from tests.data.datasets import miniature
from vidscenic.data import clips, containers
from vidscenic.data.datasets import imagenet

TENCH, SNAKE = 'n01440764', 'n01751748'


def names(split, root='val'):
  return [f'{root}/ILSVRC2012_{split}_{i:08d}.JPEG' for i in (1, 2, 3)]


def test_folders_give_the_ids_of_published_models(tmp_path):
  paths = [
    f'train/{TENCH}/{TENCH}_10026.JPEG',
    f'train/{TENCH}/{TENCH}_9.JPEG',
    f'train/{SNAKE}/{SNAKE}_10.jpeg',
  ]
  miniature.touch(tmp_path, f'train/{SNAKE}/notes.txt', *paths)
  source = imagenet.ImageNet(str(tmp_path))
  assert miniature.paths(source) == paths
  # 65 although only two of the classes are there.
  assert miniature.labels(source) == [0, 0, 65]
  assert miniature.classes(source) == ['tench', 'tench', 'sea snake']


def test_validation_images_in_folders_by_class(tmp_path):
  path = f'val/{SNAKE}/ILSVRC2012_val_00000001.JPEG'
  miniature.touch(tmp_path, path)
  source = imagenet.ImageNet(str(tmp_path), 'val')
  assert (miniature.paths(source), miniature.labels(source)) == ([path], [65])


KAGGLE = f"""\
ImageId,PredictionString
ILSVRC2012_val_00000003,{TENCH} 85 1 499 272 {TENCH} 1 2 3 4
ILSVRC2012_val_00000001,{SNAKE} 111 108 404 352
"""


@pytest.mark.parametrize(
  ('name', 'annotations'),
  [
    ('LOC_val_solution.csv', ''),
    ('annotations/LOC_val_solution.csv', ''),
    ('lists/own.csv', 'lists/own.csv'),
  ],
)
def test_flat_validation_images_with_the_list_of_kaggle(
  tmp_path, name, annotations
):
  miniature.touch(tmp_path, *names('val'))
  miniature.write(tmp_path, name, KAGGLE)
  source = imagenet.ImageNet(str(tmp_path), 'val', annotations=annotations)
  assert miniature.paths(source) == [names('val')[2], names('val')[0]]
  assert miniature.labels(source) == [0, 65]


def test_flat_validation_images_with_one_wordnet_id_per_line(tmp_path):
  miniature.touch(tmp_path, *names('val'))
  miniature.write(
    tmp_path,
    'imagenet_2012_validation_synset_labels.txt',
    f'{SNAKE}\n{TENCH}\n{SNAKE}\n',
    newline='\r\n',
  )
  source = imagenet.ImageNet(str(tmp_path), 'val')
  assert miniature.paths(source) == names('val')
  assert miniature.labels(source) == [65, 0, 65]


def test_flat_validation_images_without_a_list(tmp_path):
  miniature.touch(tmp_path, *names('val'))
  with pytest.raises(
    FileNotFoundError, match='LOC_val_solution.csv is missing: .*ground_truth'
  ):
    imagenet.ImageNet(str(tmp_path), 'val')


def test_numbers_of_the_development_kit_are_refused(tmp_path):
  miniature.touch(tmp_path, *names('val'))
  miniature.write(tmp_path, 'truth.txt', '490\n361\n171\n')
  with pytest.raises(
    ValueError, match="truth.txt, line 1: unknown class '490'"
  ):
    imagenet.ImageNet(str(tmp_path), 'val', annotations='truth.txt')


def test_missing_images_are_named(tmp_path):
  miniature.touch(tmp_path, *names('val')[:2])
  miniature.write(tmp_path, 'LOC_val_solution.csv', KAGGLE)
  with pytest.raises(
    FileNotFoundError, match='line 2: no file ILSVRC2012_val_00000003 .*regist'
  ):
    imagenet.ImageNet(str(tmp_path), 'val')
  source = imagenet.ImageNet(str(tmp_path), 'val', strict=False)
  assert (len(source), source.num_missing) == (1, 1)


@pytest.mark.parametrize('stray', ['train/n99999999/a.JPEG', 'train/a.JPEG'])
def test_what_is_no_class_is_refused(tmp_path, stray):
  miniature.touch(tmp_path, f'train/{TENCH}/a.JPEG', stray)
  with pytest.raises(ValueError, match='train: unknown class'):
    imagenet.ImageNet(str(tmp_path))


def test_missing_folders_say_where_the_images_come_from(tmp_path):
  with pytest.raises(
    FileNotFoundError, match='train is missing: ImageNet-1k, after registration'
  ):
    imagenet.ImageNet(str(tmp_path))
  (tmp_path / 'train').mkdir()
  with pytest.raises(
    FileNotFoundError, match='holds nothing: .* registration at'
  ):
    imagenet.ImageNet(str(tmp_path))


def test_a_picture_is_a_video_of_one_frame(tmp_path):
  """CMYK, as some of the training images are."""
  path = f'train/{TENCH}/{TENCH}_1.JPEG'
  miniature.touch(tmp_path, path)
  source = imagenet.ImageNet(str(tmp_path))
  Image.new('CMYK', (40, 30), (255, 0, 0, 0)).save(tmp_path / path, 'JPEG')
  record = source[0]
  assert np.asarray(Image.open(io.BytesIO(record['video'][0]))).shape[2] == 4
  transform = clips.ClipTransform(num_frames=1, train=False, size=(24, 24))
  rng = np.random.default_rng(0)
  example = transform.augment(transform.sample(record, rng), rng)
  assert example['video'].shape == (1, 24, 24, 3)
  np.testing.assert_allclose(
    example['video'].reshape(-1, 3).mean(0), (0, 255, 255), atol=3
  )
  assert example['label'] == 0


def test_picture_that_is_gone_names_itself(tmp_path):
  path = f'train/{TENCH}/{TENCH}_1.JPEG'
  miniature.touch(tmp_path, path)
  source = imagenet.ImageNet(str(tmp_path))
  (tmp_path / path).unlink()
  with pytest.raises(containers.VideoError, match=f'{path}: FileNotFoundError'):
    source[0]
