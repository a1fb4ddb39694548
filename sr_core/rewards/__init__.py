"""Quality metrics, their sets and the hybrid reward."""
