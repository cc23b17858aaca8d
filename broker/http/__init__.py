"""The HTTP surface: bytes to typed requests, typed answers to bytes. It decides nothing."""
