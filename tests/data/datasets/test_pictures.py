"""Frames and label maps, one file each."""

import io

import numpy as np
import pytest
from PIL import Image

from vidscenic.data import containers
from vidscenic.data.datasets import pictures


def png(image):
  data = io.BytesIO()
  image.save(data, 'PNG')
  return data.getvalue()


def palette_picture(values):
  image = Image.fromarray(values, 'P')
  image.putpalette([0, 0, 0, 128, 0, 0, 0, 128, 0, 128, 128, 0])
  return image


def test_frames_are_ordered_by_number(tmp_path):
  for name in ('10.jpg', '9.jpg', '100.jpg', '.hidden.jpg', 'notes.txt'):
    (tmp_path / name).write_bytes(b'')
  paths = pictures.list_frames(str(tmp_path), '.jpg', 'frames')
  assert [pictures.stem(path) for path in paths] == ['9', '10', '100']


def test_other_names_are_ordered_as_text(tmp_path):
  for name in ('frame_0002.png', 'frame_0001.png', '3.png'):
    (tmp_path / name).write_bytes(b'')
  paths = pictures.list_frames(str(tmp_path), '.png', 'frames')
  assert [pictures.stem(p) for p in paths] == ['3', 'frame_0001', 'frame_0002']


def test_an_empty_folder_is_told_with_its_origin(tmp_path):
  with pytest.raises(FileNotFoundError, match=r'\*\.jpg is missing: from here'):
    pictures.list_frames(str(tmp_path), '.jpg', 'from here')


def test_palette_indices_are_not_turned_into_colours():
  values = np.array([[0, 1, 2], [3, 3, 0]], np.uint8)
  maps = pictures.read_label_maps(
    [png(palette_picture(values)), png(Image.fromarray(values))], ['a', 'b']
  )
  assert maps.dtype == np.uint8
  np.testing.assert_array_equal(maps[..., 0], [values, values])


@pytest.mark.parametrize(
  ('data', 'reason'),
  [
    (b'no picture', 'b.png: '),
    (png(Image.new('RGB', (3, 2))), "b.png: .* got mode 'RGB'"),
    (png(Image.new('L', (4, 2))), r'b.png: has size \(2, 4\), a.png \(2, 3\)'),
  ],
)
def test_what_is_no_label_map_is_named(data, reason):
  good = png(Image.new('L', (3, 2)))
  with pytest.raises(containers.VideoError, match=reason):
    pictures.read_label_maps([good, data], ['a.png', 'b.png'])
