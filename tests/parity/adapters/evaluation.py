"""Scores of masks and keypoints, and label propagation."""

import math

import numpy as np

from vidscenic.evaluation import keypoints, masks, propagation, soft_labels


def run_metrics(golden):
  """J, F, PCK and mean IoU."""
  given, config = golden.below('inputs/'), golden.meta['config']
  target = given['gt_masks_uint8']
  means, ((j, f),) = masks.davis([(given['pred_masks_uint8'], target)])
  outputs = {
    'J': j,
    'F': f,
    'J_mean': means['j'],
    'F_mean': means['f'],
    'JF_mean': means['jf'],
    'boundary_gt_obj1_frame1': masks.boundary(target[1] == 1),
    'bound_pix': masks.radius(target.shape[1:]),
  }
  people = []
  while f'pck_gt_{len(people)}' in given:
    names = (f'pck_{part}_{len(people)}' for part in ('pred', 'visible', 'gt'))
    people.append(tuple(given[name] for name in names))
  for i, (_, found, joints) in enumerate(people):
    outputs[f'pck_box_{i}'] = keypoints.box_size(joints, found)
  scores, table = keypoints.pck(people, thresholds=config['pck_thresholds'])
  outputs['pck'] = list(scores.values())
  for threshold, row in zip(scores, table, strict=True):
    outputs[f'pck_per_joint_{threshold}'] = row
  frames = zip(given['vip_pred_uint8'], given['vip_gt_uint8'], strict=True)
  classes = config['vip_classes']
  matrix = sum(masks.confusion(*pair, num_classes=classes) for pair in frames)
  outputs['vip_hist'] = matrix
  outputs['vip_miou'], outputs['vip_iou_per_class'] = masks.mean_iou(matrix)
  return {f'outputs/{name}': value for name, value in outputs.items()}


def run_propagation(golden):
  """Labels of the first frame, carried on and read out."""
  given, config = golden.below('inputs/'), golden.meta['config']
  grid, original = config['grid'], config['original_resolution']
  size = config['processing_resolution']
  features = given['features']
  first, numbers = soft_labels.from_mask(
    given['first_mask_uint8'], size=size, grid=grid
  )
  pose = soft_labels.from_keypoints(
    given['pose0_xy'], original=original, grid=grid
  )
  outputs = {
    'first_heatmap': first,
    'label_map': numbers,
    'pose_heatmap': pose,
  }
  # The poses were carried with the first of the settings.
  for name, options in config['runs'].items():
    settings = propagation.Settings(
      context=options['n_context'],
      radius=options['radius'],
      top_k=options['topk'],
      temperature=options['temperature'],
    )
    soft = _carry(features, first, settings)
    outputs[f'{name}/preds'] = soft
    outputs[f'{name}/preds_unrestricted'] = _carry(
      features, first, settings._replace(radius=math.inf)
    )
    outputs[f'{name}/masks'] = np.stack(
      [
        soft_labels.to_mask(labels, numbers, size=size, original=original)
        for labels in soft
      ]
    )
    if 'pose_preds' not in outputs:
      outputs['pose_preds'] = _carry(features, pose, settings)
  points, found = zip(
    *(
      soft_labels.to_keypoints(labels, original=original)
      for labels in outputs['pose_preds']
    ),
    strict=True,
  )
  outputs['pose_coords_xy'] = np.stack(points)
  outputs['pose_visible'] = np.stack(found)
  return {f'outputs/{name}': value for name, value in outputs.items()}


def _carry(features, labels, settings):
  return np.stack(
    list(propagation.propagate(features, labels, settings=settings))
  )


ADAPTERS = {'rvm_metrics': run_metrics, 'rvm_label_prop': run_propagation}
