"""The way of a run: plan the stages, schedule them, execute them in worker processes."""
