"""A credential broker for AI agents: scoped, short-lived, recorded, and revocable at once."""

__version__ = "0.1.0"
