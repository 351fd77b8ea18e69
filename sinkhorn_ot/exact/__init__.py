"""Exactly balanced labels: potentials to begin with, the repair of what they leave, the proof."""
