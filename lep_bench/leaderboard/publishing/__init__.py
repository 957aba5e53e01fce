"""What leaves the machine: leaderboard folders, model cards, the Hub's metadata, the paper's figures beside ours."""
