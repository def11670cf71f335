"""The version stands in one place, `minclip.__version__`; what has to repeat it is compared with it."""

import importlib.metadata
import re
from pathlib import Path

import minclip

ROOT = Path(__file__).parents[1]


def test_the_installed_package_has_the_version_of_the_source():
    assert importlib.metadata.version("minclip") == minclip.__version__


def test_the_citation_has_the_version_of_the_source():
    citation = (ROOT / "CITATION.cff").read_text(encoding="utf-8")
    assert re.findall(r"^version: (.+)$", citation, re.MULTILINE) == [minclip.__version__]


def test_the_changelog_begins_with_the_version_of_the_source():
    changelog = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    assert re.findall(r"^## (\S+)", changelog, re.MULTILINE)[0] == minclip.__version__
