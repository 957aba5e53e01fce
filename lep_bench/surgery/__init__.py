"""Changes to checkpoints: vocabularies, embedding and head matrices, and the checks of what was
written.
"""
