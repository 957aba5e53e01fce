"""The table as pictures, and the curves of pre-training."""
