"""The leaderboard as one HTML page that works without a network."""
