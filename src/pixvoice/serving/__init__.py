"""The HTTP service: describe and search for clients, and a page for people."""

from __future__ import annotations
