"""The pages build without a warning, load nothing, and name what exists."""

import importlib.util
import pathlib
import re
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[1]
PAGES = [
  ROOT / 'README.md',
  *sorted(ROOT.glob('docs/*.md')),
  *sorted(ROOT.glob('projects/**/README.md')),
]


def test_pages_build_strictly_and_load_nothing(tmp_path):
  subprocess.run(
    [sys.executable, '-m', 'sphinx', '-q', '-W', '-b', 'html']
    + [str(ROOT / 'docs'), str(tmp_path)],
    check=True,
    cwd=ROOT,
  )
  pages = list(tmp_path.rglob('*.html'))
  assert len(pages) >= len(list(ROOT.glob('docs/*.md')))
  for page in pages:
    loaded = re.findall(
      r'<(?:script|img|iframe)[^>]* src="([^"]*)"'
      r'|<link[^>]* href="([^"]*)"[^>]* rel="stylesheet"'
      r'|<link[^>]* rel="stylesheet"[^>]* href="([^"]*)"',
      page.read_text(),
    )
    outside = [x for x in map(''.join, loaded) if '//' in x]
    assert not outside, f'{page.name} loads {outside}'


@pytest.mark.parametrize('page', PAGES, ids=lambda p: str(p.relative_to(ROOT)))
def test_files_and_modules_named_in_commands_exist(page):
  text = page.read_text()
  placeholder = re.compile(r'[A-Z]{2}|(^|/)(x|mine|other|y)(/|\.|$)')
  for path in re.findall(r'--config=([\w/.]+\.py)', text):
    if not placeholder.search(path):
      assert (ROOT / path).is_file(), path
  for module in re.findall(r'python3? -m ([\w.]+)', text):
    top = module.split('.')[0]
    if top in ('vidscenic', 'benchmarks', 'tests'):
      assert importlib.util.find_spec(module), module


@pytest.mark.parametrize('page', PAGES, ids=lambda p: str(p.relative_to(ROOT)))
def test_links_between_pages_lead_somewhere(page):
  for target in re.findall(r'\]\(([^)#\s]+)', page.read_text()):
    if '//' not in target:
      assert (page.parent / target).exists(), target


def test_sources_are_ones_that_readers_can_find():
  """Papers and public repositories, no notes that lie elsewhere."""
  wrong = []
  for top in ('vidscenic', 'projects', 'configs', 'benchmarks', 'tests'):
    for path in sorted((ROOT / top).rglob('*.py')):
      for number, line in enumerate(path.read_text().splitlines(), 1):
        if re.search(r'\b\w+\.md,? (section )?\d', line):
          wrong.append(f'{path.relative_to(ROOT)}:{number}: {line.strip()}')
  assert not wrong
