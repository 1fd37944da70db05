"""Tests of the page: a package, so that the browser and the service end with them (see conftest.py)."""
