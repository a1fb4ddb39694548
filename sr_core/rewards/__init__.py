"""Quality metrics, their sets and the hybrid reward."""

from sr_core.rewards.hybrid import GroupScorer, GroupScores

__all__ = ["GroupScorer", "GroupScores"]
