"""Backends: where leased secrets come from, and how they are ended there."""
