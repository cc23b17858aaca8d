"""Bringing entries to other systems: at least once each, in order, and in nobody's way."""
