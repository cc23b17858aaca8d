"""Outside identities: how a signed assertion of who somebody is becomes an :class:`~broker.core.identity.Agent`."""
