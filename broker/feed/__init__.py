"""The feed: every rule to everybody who follows, as soon as it is in force."""

from broker.feed.follower import Follower, Sink
from broker.feed.hub import Feed, FeedBounds

__all__ = ["Feed", "FeedBounds", "Follower", "Sink"]
