"""Targets of MaskFeat and MAE-ST."""

import numpy as np

from vidscenic.ops import targets
from vidscenic.ops import video as video_ops


def run_targets(golden):
  """Oriented gradients, pixels of every second frame, which frames."""
  config = golden.meta['config']
  video = np.moveaxis(golden.arrays['inputs/video'], 1, -1)
  tubelet, patch = config['tubelet'], (config['patch'],) * 2
  bins = dict(num_bins=config['nbins'], cell=config['cell'])
  frames = video[:, ::tubelet]
  cells = targets.hog_cells(frames, **bins)
  count = video.shape[1] // tubelet
  outputs = {
    'hog_cells': cells.reshape(-1, *cells.shape[2:]),
    'hog_target': targets.hog(video, (tubelet, *patch), **bins),
    'pixel_target_strided': targets.pixels(frames, (1, *patch)),
    'pixel_target_strided_norm': targets.pixels(
      frames, (1, *patch), norm='patch'
    ),
    'mae_st_frame_index': video_ops.spread_frame_ids(video.shape[1], count),
  }
  return {f'outputs/{name}': value for name, value in outputs.items()}


ADAPTERS = {'maskfeat_targets': run_targets}
