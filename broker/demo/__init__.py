"""The main job of the broker, shown on this machine with real processes (``broker demo``)."""
