"""Training: continued pre-training of embeddings and head, and the tuning that may follow a
propagation.
"""
