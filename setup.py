"""Packaging. `make setup` installs this with the versions of constraints.txt.

Lower bounds are the versions that the tests run with. There are no upper
bounds because no break is known; constraints.txt pins a set that works.
Python 3.11 ends at jax 0.10.2 and flax 0.12.8, Python 3.12 goes on.
"""

import pathlib
import re

import setuptools

_ROOT = pathlib.Path(__file__).parent


def _version() -> str:
  """Reads __version__ without importing the package or its dependencies."""
  text = (_ROOT / 'vidscenic' / '__init__.py').read_text(encoding='utf-8')
  match = re.search(r"^__version__ = '([^']+)'$", text, re.MULTILINE)
  if match is None:
    raise RuntimeError('vidscenic/__init__.py has no __version__ line')
  return match.group(1)


def _readme() -> str:
  path = _ROOT / 'README.md'
  return path.read_text(encoding='utf-8') if path.exists() else ''


setuptools.setup(
  name='vidscenic',
  version=_version(),
  description='Video models in JAX/Flax on one small core.',
  long_description=_readme(),
  long_description_content_type='text/markdown',
  license='Apache-2.0',
  license_files=['LICENSE'],
  python_requires='>=3.11',
  # Namespace packages too: folders of configs have no __init__.py.
  packages=setuptools.find_namespace_packages(
    include=['vidscenic*', 'projects*', 'configs*'],
    exclude=['*.__pycache__', '*.__pycache__.*'],
  ),
  package_data={'': ['*.md', '*.json', '*.txt', '*.tsv', '*.npz']},
  install_requires=[
    'absl-py>=2.5.1',
    'array_record>=0.8.6',
    'av>=18.1.0',
    'clu>=0.0.12',
    'etils[epath]>=1.15.0',
    'flax>=0.12.8',
    'grain>=0.2.18',
    'jax>=0.10.2',
    'ml_collections>=1.1.0',
    'ml_dtypes>=0.5.4',  # bfloat16 in numpy, as jax has it
    'numpy>=2.4.6',
    'optax>=0.2.8',
    'orbax-checkpoint>=0.12.8',
    'pillow>=13.0.0',
    'protobuf>=6.33.0',  # the records of TFDS
    'tensorboard>=2.21.0',
    'tensorflow-datasets>=4.9.10',
    'tqdm>=4.70.1',
  ],
  extras_require={
    # CUDA 12 runs on more drivers than 13; jax has both (`jax[cuda13]`).
    'gpu': ['jax[cuda12]>=0.10.2'],
    'tpu': ['jax[tpu]>=0.10.2'],
    # Finding the other pods of a Kubernetes job.
    'k8s': ['jax[k8s]>=0.10.2'],
    # A workdir in a bucket of Google Cloud Storage.
    'gcs': ['etils[epath-gcs]>=1.15.0'],
    # Only for TFDS data sets that are not array_record files yet.
    'tf': ['tensorflow-cpu>=2.21.0'],
    # Reading the Waymo Open Dataset.
    'waymo': ['pyarrow>=26.0.1'],
    'demo': ['jupyterlab', 'matplotlib'],
    'dev': [
      'build>=1.6.1',
      # `make docs`: Markdown pages and the API from docstrings.
      'myst-parser>=5.2.0',
      'pytest>=9.2.0',
      'pytest-xdist>=3.8.0',
      'ruff>=0.17.6',
      'sphinx>=9.0.4',
    ],
  },
)
