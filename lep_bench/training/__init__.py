"""Training: continued pre-training of embeddings and head, and tuning after a propagation."""
