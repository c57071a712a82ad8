"""Sphinx: Markdown pages and an API reference from the docstrings.

  make docs

Nothing is fetched while building, and the pages load nothing from elsewhere.
"""

project = 'vidscenic'
author = 'The vidscenic authors'
extensions = [
  'myst_parser',
  'sphinx.ext.autodoc',
  'sphinx.ext.viewcode',
]
exclude_patterns = ['_build']
html_theme = 'alabaster'
html_theme_options = {
  'description': 'Video models in JAX/Flax on one small core.',
  'page_width': '70em',
  'sidebar_width': '15em',
}
html_show_sphinx = False
html_show_copyright = False
myst_heading_anchors = 3
autodoc_default_options = {'members': True, 'member-order': 'bysource'}
# Signatures of Linen modules repeat every field, and type hints of arrays say
# less than the docstrings.
autodoc_typehints = 'none'


def _verbatim(app, what, name, obj, options, lines):
  """Shows docstrings as written: they are plain text and no markup."""
  if lines:
    lines[:] = ['::', '', *(f'   {line}' for line in lines)]


def _is_field(app, what, name, obj, skip, options):
  """Leaves out fields of tuples: the docstring of the class says it all."""
  return True if type(obj).__name__ == '_tuplegetter' else None


def setup(app):
  """Connects the functions above."""
  app.connect('autodoc-process-docstring', _verbatim)
  app.connect('autodoc-skip-member', _is_field)
